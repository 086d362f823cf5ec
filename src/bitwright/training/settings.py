"""The hyper-parameters of one training. Plain data: no torch here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from bitwright.errors import BitwrightError, unknown

ScheduleName = Literal["constant", "step", "inverse", "exponential", "plateau", "cosine", "one-cycle"]
LossName = Literal["cross-entropy", "squared-error", "squared-hinge"]
SoftLossName = Literal["soft", "dkd", "logits", "centred", "log-probabilities"]
Selection = Literal["best", "last"]
Border = Literal["black", "reflect"]
Precision = Literal["float32", "bf16"]


def _part(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        expected = "true or false" if kind is bool else f"{kind.__name__}(...)"
        raise BitwrightError(f"{name} is {value!r}; expected {expected}", kind="setting")


def _choice(name: str, value: object, literal: Any) -> None:
    if value not in get_args(literal):
        raise unknown(name, value, get_args(literal))


def _integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BitwrightError(f"{name} is {value!r}; expected a whole number of at least {least}", kind="setting")


def _number(
    name: str, value: object, *, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (least <= value <= most and value > above):  # type: ignore[operator]
        bounds = [f"above {above:g}"] * (above > -math.inf) + [f"at least {least:g}"] * (least > -math.inf)
        bounds += [f"at most {most:g}"] * (most < math.inf)
        raise BitwrightError(f"{name} is {value!r}; expected a number {' and '.join(bounds)}", kind="setting")


@dataclass(frozen=True)
class Optimizer:
    """Any optimiser of `torch.optim` by name, e.g. "SGD", or one of ours ("RMSpropNesterov", "ShiftAdaMax"); `options`
    are its keyword arguments.

    `weight_decay` of `TrainSettings` is the coupled L2 of the papers (added to the gradient of weights, not of biases
    and norms); an optimiser's own decay (decoupled in AdamW) goes into `options` and also touches weights only.
    """

    name: str = "SGD"
    lr: float = 0.01
    options: dict[str, Any] = field(default_factory=lambda: {"momentum": 0.9})

    def __post_init__(self) -> None:
        _number("optimizer.lr", self.lr, above=0)
        try:
            json.dumps(self.options)
            plain = isinstance(self.options, dict)
        except (TypeError, ValueError):
            plain = False
        if not plain:
            raise BitwrightError(
                f"optimizer.options is {self.options!r}; give a table of {self.name}'s keyword arguments with plain "
                f'numbers, e.g. {{"momentum": 0.9}}',
                kind="setting",
            )


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the epochs, lr(t) = lr * factor(t), evaluated at every optimiser step.

    `warmup` epochs rise linearly to 1 before anything else. After them u = t - warmup runs to U = epochs - warmup:

    * constant: 1
    * step: gamma^(number of `milestones` passed); milestones are epochs of the whole training, t
    * inverse: 1 / (1 + gamma u)
    * exponential: exp(-gamma u)
    * plateau: gamma^k, k grows by one after each `patience` epochs without better validation loss
    * cosine: final + (1 - final) (1 + cos(pi u/U)) / 2
    * one-cycle (Smith & Topin 2018, section 3): cosine from 1/25 up to 1 over 30 % of U, cosine down to `final`
    """

    name: ScheduleName = "constant"
    warmup: float = 0.0
    gamma: float = 0.1
    milestones: tuple[float, ...] = ()
    patience: int = 5
    final: float = 0.0

    def __post_init__(self) -> None:
        _choice("schedule", self.name, ScheduleName)
        _number("schedule.warmup", self.warmup, least=0)
        _number("schedule.gamma", self.gamma, least=0)
        _number("schedule.final", self.final, least=0)
        _integer("schedule.patience", self.patience, least=1)
        if not isinstance(self.milestones, list | tuple):
            raise BitwrightError(
                f"schedule.milestones is {self.milestones!r}; give a list of epochs, e.g. [80, 120]", kind="setting"
            )
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for milestone in self.milestones:
            _number("schedule.milestones", milestone, above=0)
        if self.name == "step" and not self.milestones:
            raise BitwrightError(
                "schedule 'step' has no milestones; give the epochs at which the learning rate falls, "
                "e.g. milestones: [80, 120]",
                kind="setting",
            )


@dataclass(frozen=True)
class Distill:
    """Learn from a teacher: loss = (1-weight) * loss + weight * soft loss, means over the batch of

    * kind "soft" (Hinton et al. 2015, section 2): T^2 KL(softmax(z_t/T) || softmax(z_s/T)), summed over the classes
    * kind "dkd", decoupled (Zhao et al. 2022, equation 7): the same in two parts, T^2 (KL(b_t || b_s) + `others`
      KL(q_t || q_s)), b the probabilities of the label's class and of all others together, q those among the others
    * kind "logits" (Ba & Caruana 2014, equation 1): 1/2 ||z_s - z_t||^2, summed over the classes
    * kind "centred": the same of z less its mean over the classes, which the softmax doesn't see
    * kind "log-probabilities": the same of log softmax(z), as lecture 003 writes it

    `standardise` divides each class's difference in the last three by the standard deviation that the teacher's numbers
    of the class have over the training images: Ba & Caruana's regression on standardised targets, with the mean and
    the scale put back into the student's last layer.

    `at` is the name of a module, in both models, whose outputs are compared in place of the logits, with kind "logits"
    alone: the response behind the last hidden ReLU, for `GER` (its paper reconstructs network outputs x^L), or a hint.

    `cache` is a file for the teacher's logits of the training images, made where it isn't there and read where it is;
    trainings without augmentation only, where a student sees nothing else. None: they are computed for each training.

    `teacher` is "start" (the model as this step found it), the label of an earlier step (e.g. "1-train"), a folder of a
    finished run, or in a run the name of a recipe, which is then run first.
    """

    teacher: str = "start"
    kind: SoftLossName = "soft"
    temperature: float = 4.0
    weight: float = 0.5
    others: float = 8.0
    standardise: bool = False
    at: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        _choice("distill.kind", self.kind, SoftLossName)
        _number("distill.others", self.others, least=0)
        _part("distill.standardise", self.standardise, bool)
        if self.standardise and self.kind in ("soft", "dkd"):
            raise BitwrightError(
                "distill.standardise is for regressions (logits, centred, log-probabilities), and distill.kind is "
                f"{self.kind}; leave it out",
                kind="setting",
            )
        if self.at is not None and (not isinstance(self.at, str) or not self.at):
            raise BitwrightError(f"distill.at is {self.at!r}; expected the name of a module", kind="setting")
        if self.at is not None and self.kind != "logits":
            raise BitwrightError(
                f'distill.at compares numbers as they are, and distill.kind is {self.kind}; take "logits"',
                kind="setting",
            )
        if self.cache is not None and (not isinstance(self.cache, str) or not self.cache):
            raise BitwrightError(f"distill.cache is {self.cache!r}; expected the path of a file", kind="setting")
        _number("distill.temperature", self.temperature, above=0)
        _number("distill.weight", self.weight, least=0, most=1)
        if not isinstance(self.teacher, str) or not self.teacher:
            raise BitwrightError(
                f"distill.teacher is {self.teacher!r}; give \"start\", a step's label or a run's folder", kind="setting"
            )


_MOST_AUGMENTED = {
    "scale": 0.95,
    "translate": 0.5,
    "rotate": 180.0,
    "shear": 60.0,
    "stretch": 3.0,
    "lens": 0.15,
    "brightness": 1.0,
    "contrast": 1.0,
    "saturation": 1.0,
    "hue": 0.5,
    "lighting": 1.0,
}
"""Beyond these little of an image is left; above 1/6 a lens would fold its corners over."""


@dataclass(frozen=True)
class Augment:
    """Every epoch shows another random view of each training image; validation and test images stay as they are.

    * flip: mirrored left to right with probability 1/2
    * crop: a window of the image's own size, anywhere in the image padded with so many pixels on each side
    * border: what these pixels are, "black" or "reflect", the image mirrored at its edge

    * scale: a window with a side of 1 - scale to 1 of the image's, anywhere in it, brought to the image's size
    * translate: shifted down and to the right by up to this share of the sides, either way
    * rotate, shear: by up to so many degrees, either way
    * stretch: up to 1 + stretch times as wide for its height, or as high for its width
    * lens: places p from the centre, in half sides, bent to p (1 + k |p|^2), k up to this, either way
    * brightness, contrast, saturation: times 1 - s to 1 + s
    * hue: turned by up to this share of the circle of colours, either way
    * lighting: the standard deviation of a shift along the principal colours of the training images (of grey ones:
      their one)

    Numbers are uniform in their range, those of `lighting` normal. {flip: true, crop: 4} is the usual augmentation of
    CIFAR (He et al. 2016, section 4.2); {lighting: 0.1} is AlexNet's (Krizhevsky et al. 2012, section 4.1). What comes
    from outside of an image is black before the normalisation, as in torchvision's `RandomCrop`; the first paper pads
    what has its mean subtracted, so with the mean. Black borders are edges that no test image has: with reflected ones
    ResNet-20 makes half a point fewer errors after thirty epochs (LOG.md). `training/warp.py` and `training/colours.py`
    have the formulas.
    """

    flip: bool = False
    crop: int = 0
    border: Border = "black"
    scale: float = 0.0
    translate: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    stretch: float = 0.0
    lens: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    lighting: float = 0.0

    def __post_init__(self) -> None:
        _part("augment.flip", self.flip, bool)
        _integer("augment.crop", self.crop, least=0)
        _choice("augment.border", self.border, Border)
        if self.border != "black" and not self.crop:
            raise BitwrightError(
                f"augment.border is {self.border!r}, but there is no border: crop is 0; leave border out",
                kind="setting",
            )
        for name, most in _MOST_AUGMENTED.items():
            _number(f"augment.{name}", getattr(self, name), least=0, most=most)


@dataclass(frozen=True)
class TrainSettings:
    """Everything one call of the training loop needs. Defaults: Caffe's LeNet (lr .01, momentum .9, L2 5e-4, batch 64).

    The objective is the mean of the loss over the batch + weight_decay/2 sum w^2 + l1 sum |w| over the weights of
    convolution and linear layers; `clip_norm` limits the norm of that whole objective's gradient. `select` leaves the
    weights with the least validation error (the earliest of equals) or the last ones in the model; `patience` stops
    after so many epochs without a lower validation error.

    `select_among` is the last share of the epochs among which "best" chooses. While the learning rate is high the
    validation error scatters, and the least of many is luck: under a schedule that ends low, 0.2 chooses among weights
    that have settled.

    `norm_images`: at the end batch norms are measured anew on views of so many training images (0: they stay as they
    are). Where weights are quantised in training, a small step makes many of them jump, and running averages lag.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    weight_decay: float = 5e-4
    l1: float = 0.0
    loss: LossName = "cross-entropy"
    label_smoothing: float = 0.0
    augment: Augment | None = None
    clip_norm: float | None = None
    distill: Distill | None = None
    select: Selection = "best"
    select_among: float = 1.0
    patience: int | None = None
    precision: Precision = "float32"
    norm_images: int = 0

    def __post_init__(self) -> None:
        _integer("epochs", self.epochs, least=0)
        _integer("batch_size", self.batch_size, least=1)
        _integer("norm_images", self.norm_images, least=0)
        _number("weight_decay", self.weight_decay, least=0)
        _number("l1", self.l1, least=0)
        _number("label_smoothing", self.label_smoothing, least=0, most=1)
        _choice("loss", self.loss, LossName)
        _choice("select", self.select, Selection)
        _number("select_among", self.select_among, above=0, most=1)
        _choice("precision", self.precision, Precision)
        if self.clip_norm is not None:
            _number("clip_norm", self.clip_norm, above=0)
        if self.patience is not None:
            _integer("patience", self.patience, least=1)
        _part("optimizer", self.optimizer, Optimizer)
        _part("schedule", self.schedule, Schedule)
        if self.distill is not None:
            _part("distill", self.distill, Distill)
        if self.augment is not None:
            _part("augment", self.augment, Augment)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.label_smoothing and self.loss != "cross-entropy":
            raise BitwrightError(
                f"label_smoothing is {self.label_smoothing} with loss {self.loss!r}; only cross-entropy has smoothed "
                f"labels: set label_smoothing to 0 or loss to cross-entropy",
                kind="setting",
            )
        if self.select_among < 1 and self.patience is not None:
            raise BitwrightError(
                f"select_among is {self.select_among} with patience {self.patience}; the training may stop before the "
                f"epochs to select among: leave one of the two out",
                kind="setting",
            )
        if self.schedule.warmup >= self.epochs > 0:
            raise BitwrightError(
                f"schedule.warmup is {self.schedule.warmup} epochs of {self.epochs}; it must end before the training",
                kind="setting",
            )
