"""What a step is given to work with: data, training, evaluation, and a folder that makes it resumable.

A step is written as if it ran once, from start to end. To resume, the same step is simply run again from its input:
the calls to `train` are numbered, a finished one is loaded from its checkpoint at once, an unfinished one goes on at
the last finished epoch, and `remember` gives back what was computed before. Everything between those calls is
deterministic. So no step contains a line about resuming, and a killed run ends with the same bytes.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError
from bitwright.files import write_atomic
from bitwright.training.settings import Distill, TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bitwright.data.dataset import Dataset
    from bitwright.steps.step import Step
    from bitwright.training.evaluate import Evaluation
    from bitwright.training.history import History
    from bitwright.training.progress import Progress
    from bitwright.training.rounds import Round

FindTeacher = Callable[[str], "nn.Module"]
"""Gives the model that `Distill.teacher` names: the label of an earlier step or a run's folder."""


class Context:
    """What one step of one run is given.

    `data` is the task, `seed` the run's, `folder` where the step may leave files (None: nothing is kept and nothing
    resumes), `label` the step's place and name ("2-prune"), `progress` draws the bars (None: a bar where stderr is a
    terminal). `records` holds what the step recorded for the report.
    """

    def __init__(
        self,
        data: Dataset,
        *,
        seed: int = 0,
        folder: str | Path | None = None,
        label: str = "step",
        progress: Progress | None = None,
        find_teacher: FindTeacher | None = None,
    ) -> None:
        self.data, self.seed, self.label, self.progress = data, seed, label, progress
        self.folder = Path(folder) if folder is not None else None
        self.records: dict[str, Any] = {}
        self._find_teacher = find_teacher
        self._remembered: dict[str, Any] = {}
        self._trainings = 0
        self._start: nn.Module | None = None

    def begin(self, model: nn.Module) -> None:
        """Called before the step with the model it is given: keeps a copy, the teacher called "start"."""
        self._start = copy.deepcopy(model)

    def train(
        self, model: nn.Module, settings: TrainSettings, data: Dataset | None = None, rounds: Sequence[Round] = ()
    ) -> History:
        """Train `model` in place; the n-th call lives in folder/train-n and resumes there. `data`: default the run's.

        With `rounds` each batch goes through the model in several ways (see `Round`).

        The step's label and n also decide the random numbers, so no two trainings of a run see the same order.
        """
        from bitwright.training.loop import fit
        from bitwright.training.rounds import ONE

        self._trainings += 1
        name = f"train-{self._trainings}"
        return fit(
            model,
            data or self.data,
            settings,
            seed=self.seed,
            folder=self.folder / name if self.folder else None,
            teacher=self._teacher(settings.distill),
            progress=self.progress,
            label=f"{self.label}/{name}",
            rounds=tuple(rounds) or ONE,
        )

    def evaluate(self, model: nn.Module, split: str = "validation") -> Evaluation:
        """Accuracy and loss on a split; steps choose by "validation" and never look at "test"."""
        from bitwright.training.evaluate import evaluate

        return evaluate(model, self.data.split(split), self.data.preprocess)

    def calibration(self, n: int) -> torch.Tensor:
        """The first n (or all) training images of one fixed shuffle, preprocessed: float32 (n, C, H, W).

        The shuffle depends on nothing but the number of training images.
        """
        from bitwright.training.evaluate import as_tensor

        if n < 1:
            raise BitwrightError(f"{n} training images wanted in {self.label!r}; ask for at least one", kind="setting")
        batch: torch.Tensor = self.data.preprocess.torch(as_tensor(self.data.sample(n).images))
        return batch

    def held_out(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first n (or all) validation images, preprocessed, and their labels: what steps choose by."""
        import torch

        from bitwright.training.evaluate import as_tensor

        split = self.data.validation
        if not len(split.labels):
            raise BitwrightError(
                f"{self.label!r} chooses by validation images, and there are none; set data.validation"
            )
        batch: torch.Tensor = self.data.preprocess.torch(as_tensor(split.images[:n]))
        return batch, torch.from_numpy(split.labels[:n].astype("int64"))

    def remember(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gave when it was first called in this run, kept as JSON in folder/NAME.json.

        For what is too slow to compute again on resuming. The value comes back as JSON gives it (lists for tuples), the
        first time too.
        """
        if name in self._remembered:
            return json.loads(self._remembered[name])
        path = self.folder / f"{self._checked(name)}.json" if self.folder else None
        if path and path.exists():
            text = path.read_text("utf-8")
        else:
            text = self._as_json(name, compute())
            if path:
                write_atomic(path, text)
        self._remembered[name] = text
        return json.loads(text)

    def record(self, name: str, value: Any) -> None:
        """Keep a fact for the report, as JSON: in `records` and in folder/record.json."""
        self.records[name] = json.loads(self._as_json(name, value))
        if self.folder:
            write_atomic(self.folder / "record.json", json.dumps(self.records, indent=1))

    def _teacher(self, distill: Distill | None) -> nn.Module | None:
        if distill is None:
            return None
        if distill.teacher != "start":
            if self._find_teacher is None:
                raise BitwrightError(
                    f'{self.label!r} wants teacher {distill.teacher!r}, but there are no earlier steps; take "start"',
                    kind="teacher",
                )
            return self._find_teacher(distill.teacher)
        if self._start is None:
            raise BitwrightError(
                f'{self.label!r} wants teacher "start", but nobody called context.begin(model) before the step',
                kind="teacher",
            )
        return self._start

    def _checked(self, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "record":
            raise BitwrightError(
                f"{self.label!r} cannot remember under {name!r}; take letters, digits, '.', '_', '-', not \"record\"",
                kind="name",
            )
        return name

    def _as_json(self, name: str, value: Any) -> str:
        try:
            return json.dumps(value)
        except (TypeError, ValueError) as error:
            raise BitwrightError(
                f"{name!r} of {self.label!r} is not JSON: {error}; give numbers, texts, lists and dicts only",
                kind="json",
            ) from None


def compress(
    model: nn.Module, steps: Sequence[Step], data: Dataset, seed: int = 0, folder: str | Path | None = None
) -> nn.Module:
    """Apply the steps one after another and give back the resulting plain model; `model` itself may be changed.

    >>> bw.compress(model, [bw.steps.Prune(), bw.steps.Share(bits=5)], data)

    The steps are labelled by place and name, "1-prune", "2-share"; with a `folder` each has its own in there, and a
    killed call goes on at its last finished epoch when it is called again with the same starting model.

    Raises BitwrightError as the steps do, and for a network of several precisions where a step would take them apart.
    """
    from bitwright.precisions import refuse_precisions
    from bitwright.steps.step import teachers

    kept: dict[str, nn.Module] = {}

    def find(name: str) -> nn.Module:
        if name not in kept:
            raise BitwrightError(
                f'teacher {name!r} is no earlier step; known: "start" {" ".join(map(repr, labels))}', kind="teacher"
            )
        return kept[name]

    labels = [f"{i}-{step.name}" for i, step in enumerate(steps, 1)]
    wanted = {name for step in steps for name in teachers(step)}
    for label, step in zip(labels, steps, strict=True):
        place = Path(folder) / label if folder is not None else None
        context = Context(data, seed=seed, folder=place, label=label, find_teacher=find)
        if not step.keeps_precisions:
            refuse_precisions(model, label)
        context.begin(model)
        model = step.apply(model, context)
        if label in wanted:
            kept[label] = copy.deepcopy(model)
    return model
