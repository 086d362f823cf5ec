"""What the training minimises: (logits, labels) -> mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.training.settings import Distill, TrainSettings

Loss = Callable[[Tensor, Tensor], Tensor]
SoftLoss = Callable[[Tensor, Tensor], Tensor]

Outputs = Tensor | tuple[Tensor, ...]
"""What a model in training gives: logits (N, K), perhaps with those of auxiliary heads behind them."""

AUXILIARY_WEIGHT = 0.3
"""Of the loss of an auxiliary head (Szegedy et al. 2014, "Going deeper with convolutions", section 5)."""


def main_logits(outputs: Outputs) -> Tensor:
    """Those that the model will give when it is trained."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def with_heads(loss: Loss, outputs: Outputs, labels: Tensor) -> Tensor:
    """The loss of the logits, and `AUXILIARY_WEIGHT` times that of each auxiliary head."""
    total = loss(main_logits(outputs), labels)
    for head in outputs[1:] if isinstance(outputs, tuple) else ():
        total = total + AUXILIARY_WEIGHT * loss(head, labels)
    return total


def make_loss(settings: TrainSettings) -> Loss:
    """The loss on the labels that the settings name. Logits are (N, K) float, labels (N,) int64."""
    if settings.loss == "squared-error":
        return squared_error
    if settings.loss == "squared-hinge":
        return squared_hinge
    return partial(F.cross_entropy, label_smoothing=settings.label_smoothing)


def make_soft_loss(distill: Distill) -> SoftLoss:
    """The loss on the teacher's logits, (student (N, K), teacher (N, K)) -> mean over the batch."""
    if distill.kind == "logits":
        return squared_difference
    return partial(soft_targets, temperature=distill.temperature)


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """1/(2N) sum_n ||z_n - onehot(y_n)||^2: targets are 0 and 1."""
    return squared_difference(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """1/(NK) sum max(0, 1 - t z)^2 with t = +1 for the class and -1 for the others.

    The L2-SVM loss of BinaryConnect (Courbariaux et al. 2015, section 3.1), mean over samples *and* classes as there.
    """
    signs = F.one_hot(labels, logits.shape[1]).to(logits.dtype) * 2 - 1
    return (1 - signs * logits).clamp(min=0).square().mean()


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """1/(2N) sum_n ||z_s - z_t||^2 (Ba & Caruana 2014, equation 1)."""
    return (student - teacher).square().sum() / (2 * len(student))


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2/N sum_n KL(softmax(z_t/T) || softmax(z_s/T)) (Hinton et al. 2015, section 2).

    T^2 keeps the gradient's size independent of T.
    """
    soft = torch.log_softmax(teacher / temperature, dim=1)
    guess = torch.log_softmax(student / temperature, dim=1)
    return F.kl_div(guess, soft, reduction="batchmean", log_target=True) * temperature**2
