"""The learning rate's factor at any moment of the training. Pure functions: resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bitwright.training.settings import Schedule

_START_OF_ONE_CYCLE = 1 / 25
_RISE_OF_ONE_CYCLE = 0.3

Curve = Callable[[Schedule, float, float], float]


def factor(
    schedule: Schedule, t: float, epochs: int, validation_losses: Sequence[float] = (), step: float = 0.0
) -> float:
    """What the learning rate is multiplied with at time `t`, in epochs and fractional; 0 <= t < epochs.

    `validation_losses` are those of the finished epochs; only "plateau" looks at them. `step` is the length of one
    optimiser step in epochs: a warm-up takes the value at the step's end, so that its first step is not lost.
    """
    if t < schedule.warmup:
        return min(1.0, (t + step) / schedule.warmup)
    if schedule.name == "step":
        return schedule.gamma ** sum(t >= milestone for milestone in schedule.milestones)
    if schedule.name == "plateau":
        return schedule.gamma ** reductions(validation_losses, schedule.patience)
    return _CURVES[schedule.name](schedule, t - schedule.warmup, epochs - schedule.warmup)


def reductions(losses: Sequence[float], patience: int) -> int:
    """How often the loss has gone `patience` epochs without getting better; each reduction starts the count anew."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience:
            waited, count = 0, count + 1
    return count


def _slide(begin: float, end: float, part: float) -> float:
    """From `begin` to `end` along half a cosine wave, `part` in 0..1."""
    return end + (begin - end) * (1 + math.cos(math.pi * part)) / 2


def _one_cycle(schedule: Schedule, u: float, length: float) -> float:
    rise = _RISE_OF_ONE_CYCLE * length
    if u < rise:
        return _slide(_START_OF_ONE_CYCLE, 1.0, u / rise)
    return _slide(1.0, schedule.final, (u - rise) / (length - rise))


_CURVES: dict[str, Curve] = {
    "constant": lambda schedule, u, length: 1.0,
    "inverse": lambda schedule, u, length: 1 / (1 + schedule.gamma * u),
    "exponential": lambda schedule, u, length: math.exp(-schedule.gamma * u),
    "cosine": lambda schedule, u, length: _slide(1.0, schedule.final, u / length),
    "one-cycle": _one_cycle,
}
