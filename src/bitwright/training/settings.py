"""The hyper-parameters of one training. Plain data: no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Optimizer:
    """Any optimiser of `torch.optim` by name, e.g. "SGD" or "AdamW"; `options` are its keyword arguments.

    `weight_decay` of `TrainSettings` is the coupled L2 of the papers (added to the gradient of weights, not of biases
    and norms); an optimiser's own decoupled decay goes into `options`.
    """

    name: str = "SGD"
    lr: float = 0.01
    options: dict[str, Any] = field(default_factory=lambda: {"momentum": 0.9})


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the epochs, lr(t) = lr * factor(t), t in epochs and fractional.

    constant 1 | step gamma^(number of milestones passed; milestones in epochs) | inverse 1/(1+gamma t)
    | exponential exp(-gamma t) | plateau (times gamma after `patience` epochs without better validation loss)
    | cosine (1+cos(pi t/T))/2 down to `final` | one-cycle (up for the first 30 %, then cosine down).
    `warmup` epochs rise linearly from 0 before anything else.
    """

    name: Literal["constant", "step", "inverse", "exponential", "plateau", "cosine", "one-cycle"] = "constant"
    warmup: float = 0.0
    gamma: float = 0.1
    milestones: tuple[float, ...] = ()
    patience: int = 5
    final: float = 0.0


@dataclass(frozen=True)
class Distill:
    """Learn from a teacher: loss = (1-weight) * loss + weight * soft loss.

    `teacher` is "start" (the model as this step found it), the label of an earlier step (e.g. "1-train"), or a folder
    of a finished run. kind "soft": T^2 KL(softmax(z_t/T) || softmax(z_s/T)) (Hinton et al. 2015); "logits": mean of
    0.5 (z_s - z_t)^2 (Ba & Caruana 2014).
    """

    teacher: str = "start"
    kind: Literal["soft", "logits"] = "soft"
    temperature: float = 4.0
    weight: float = 0.5


@dataclass(frozen=True)
class TrainSettings:
    """Everything one call of the training loop needs. Defaults: Caffe's LeNet (lr .01, momentum .9, L2 5e-4, batch 64)."""

    epochs: int = 20
    batch_size: int = 64
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    weight_decay: float = 5e-4
    l1: float = 0.0
    loss: Literal["cross-entropy", "squared-error", "squared-hinge"] = "cross-entropy"
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    distill: Distill | None = None
    select: Literal["best", "last"] = "best"
    patience: int | None = None
    precision: Literal["float32", "bf16"] = "float32"
