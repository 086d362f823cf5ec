"""One setting of a recipe, trained and judged on validation images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.folders import identity, locked
from bitwright.run import Run
from bitwright.training.progress import Progress

if TYPE_CHECKING:
    from bitwright.data.dataset import Dataset
    from bitwright.recipe import Recipe
    from bitwright.training.history import Epoch

Report = Callable[[int, float], None]
"""Told (epochs so far, validation error in percent) after each epoch; may raise to stop the trial."""


class _Watched(Progress):
    """Hands every epoch's validation error on."""

    def __init__(self, report: Report) -> None:
        self.report, self.epochs = report, 0

    def epoch(self, epoch: Epoch) -> None:
        self.epochs += 1
        self.report(self.epochs, epoch.validation_error)


def run_trial(recipe: Recipe, folds: list[Dataset], place: Path, report: Report) -> float:
    """The mean validation error in percent over `folds`, a training each; the first one's epochs are reported.

    An interrupted trial goes on at its last epoch when it is run again. What it trained is deleted at its end.
    """
    folder = place / hashlib.sha256(json.dumps(identity(recipe)).encode()).hexdigest()[:12]
    errors = []
    for number, data in enumerate(folds):
        watched = _Watched(report) if number == 0 else Progress()
        with locked(folder / str(number)):
            run = Run(recipe, folder / str(number), progress=watched, data=data)
            run.run_steps()
            errors.append(run.validation_error())
    shutil.rmtree(folder)
    return sum(errors) / len(errors)


def parts_of(data: Dataset, fraction: float, folds: int) -> list[Dataset]:
    """The data of each training of a trial: this share of the training images, or `folds` parts in turn as validation.

    Both take the same share of every class by a fixed shuffle. With folds the images of the validation part take part
    as well; the test part stays what it is and is not looked at.
    """
    import numpy as np

    from bitwright.data.dataset import Split
    from bitwright.data.holdout import choose, fold_of

    train = (data.train.images, data.train.labels)
    if folds:
        more = data.validation
        train = np.concatenate((train[0], more.images)), np.concatenate((train[1], more.labels))
    if fraction < 1:
        train = choose(data.name, train, fraction)
    if not folds:
        return [dataclasses.replace(data, train=Split(*train))]
    fold = fold_of(train[1], folds)
    return [
        dataclasses.replace(
            data,
            train=Split(train[0][fold != i], train[1][fold != i]),
            validation=Split(train[0][fold == i], train[1][fold == i]),
        )
        for i in range(folds)
    ]
