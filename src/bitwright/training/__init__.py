"""Training: `bitwright.train` for users, `bitwright.training.loop.fit` for steps. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.errors import unknown
from bitwright.training.settings import Augment, Distill, Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data.dataset import Dataset
    from bitwright.training.progress import Progress

__all__ = ["Augment", "Distill", "Optimizer", "Schedule", "TrainSettings", "train"]


def train(
    model: nn.Module,
    data: Dataset,
    epochs: int = 20,
    seed: int = 0,
    *,
    folder: str | Path | None = None,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
    rates: dict[str, float] | None = None,
    **settings: Any,
) -> nn.Module:
    """Train `model` in place and give it back, with its best weights on the validation split.

    >>> bw.train(model, data, epochs=5, optimizer="AdamW", lr=1e-3, schedule="cosine")

    `settings` are the fields of `TrainSettings`. For short, `optimizer` and `schedule` may be names, then with their
    other fields at the default (and no optimiser options unless it is SGD), and `lr` is the optimiser's; a `teacher`
    model sets `distill` to its defaults where it isn't given. `rates` are factors on the learning rate by pattern, as
    those of the step `train`: {"last": 1, "*": 0.1}, and 0 to freeze. With a `folder` the training is resumable and
    leaves its metrics there. Raises BitwrightError for unknown or wrong settings, for a network of several
    precisions, and where the training diverges.
    """
    from bitwright.precisions import refuse_precisions
    from bitwright.steps.train import Train, at_rates
    from bitwright.training.loop import fit

    refuse_precisions(model, "train")
    if teacher is not None:
        settings.setdefault("distill", Distill())
    checked = _settings(epochs, settings)
    with at_rates(model, Train(rates=rates or {}).rates):
        fit(model, data, checked, seed=seed, folder=folder, teacher=teacher, progress=progress)
    return model


def _settings(epochs: int, given: dict[str, Any]) -> TrainSettings:
    known = [f.name for f in fields(TrainSettings)]
    for name in given:
        if name not in (*known, "lr"):
            raise unknown("training setting", name, [*known, "lr"])
    values = dict(given)
    lr = values.pop("lr", None)
    optimizer = values.get("optimizer", Optimizer())
    if isinstance(optimizer, str):
        optimizer = Optimizer() if optimizer == "SGD" else Optimizer(optimizer, options={})
    if lr is not None and isinstance(optimizer, Optimizer):
        optimizer = Optimizer(optimizer.name, lr, optimizer.options)
    schedule = values.get("schedule", Schedule())
    if isinstance(schedule, str):
        schedule = Schedule(schedule)  # type: ignore[arg-type]
    return TrainSettings(**{**values, "epochs": epochs, "optimizer": optimizer, "schedule": schedule})
