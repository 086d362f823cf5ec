"""Running a recipe: one folder, every write atomic, resumed by itself after a kill, the same bytes at the end.

    runs/NAME[-seedN]/
      recipe.yaml             every value resolved; a folder belongs to one recipe
      1-train/, 2-prune/, ..  one per step: model.safetensors, then step.json, which says that the step is finished,
                              and what its context keeps to resume it (checkpoints, curves, records)
      teachers/NAME/          the run of a recipe that a step names as its teacher
      packed.safetensors      the file to ship
      result.json             what must be equal when the run is repeated: errors, bytes, digests
      measurements.json       what need not be: seconds, milliseconds, machine, versions, command
      report.html             the page made of all this

A step always starts from the checkpoint of the step before it, in a newly built model, also when nothing was
interrupted. So an undisturbed run and a resumed one do the same arithmetic. During the steps only the validation part
is looked at; `bitwright.final` reads the test part once, after the last step.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError
from bitwright.files import write_atomic
from bitwright.folders import claim, default_folder, identity, locked, stored_recipe
from bitwright.rebuild import build_model, load_checkpoint, save_checkpoint
from bitwright.recipe import Recipe, is_recipe, load_recipe
from bitwright.steps.step import teachers, trainings

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data import Dataset
    from bitwright.steps import Step
    from bitwright.training.settings import Distill


_MOST_TEACHERS = 4
"""Teachers of teachers."""


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, the reproducible figures (`result`) and those of this machine (`measurements`)."""

    folder: Path
    result: dict[str, Any]
    measurements: dict[str, Any]

    @property
    def packed(self) -> Path:
        """The packed model."""
        return self.folder / "packed.safetensors"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"


def run_recipe(
    recipe: str | Path | Recipe | Mapping[str, Any],
    folder: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    root: str | Path | None = None,
    restart: bool = False,
    progress: Any = None,
    command: str = "",
    announce: Callable[[str], None] | None = None,
    speed: bool = True,
) -> RunResult:
    """Run a recipe, or finish a run that was interrupted, and return its figures.

    `folder` defaults to runs/NAME, with -seedN for seeds other than 0. `root` is where the data is (default: the
    variable BITWRIGHT_DATA). A folder that holds a run of another recipe, or other files, is refused; `restart` clears
    a run and begins again. `progress` is handed to every step's `Context`, `announce` is told in words what
    begins; `command` goes into the report. Without `speed` its milliseconds are not measured.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise BitwrightError(
            f"a run is one process, and {processes} were launched; start it without a launcher, or train with bw.train "
            "under it",
            kind="processes",
        )
    checked = load_recipe(recipe, overrides)
    place = Path(folder) if folder is not None else default_folder(checked)
    with locked(place):
        claim(place, checked, restart)
        with on_threads(checked.threads):
            return Run(checked, place, root=root, progress=progress, announce=announce).finish(command, speed)


def extend_run(folder: str | Path, step: Step, *, instead: bool = False, root: str | Path | None = None) -> Recipe:
    """Append `step` to the recipe of a run, so that running it again continues from its last checkpoint.

    Where this very step was appended before and the run has not come to its end since, nothing is appended: the call
    was interrupted and is given again. Another step is refused while the last one is unfinished; `instead` puts it in
    the last one's place, whose work is lost. `root` is where the data is.
    """
    stored_recipe(folder)  # refuses before anything is created
    with locked(Path(folder)):
        old = stored_recipe(folder)
        if old.steps[-1:] == (step,) and not _is_concluded(Path(folder), old):
            return old
        if old.last and not instead and not (Path(folder) / old.last / "step.json").is_file():
            raise BitwrightError(
                f"step {old.last} of {folder} is not finished: finish it with the command that began it, or put this "
                "step in its place with --instead",
                kind="unfinished",
            )
        kept = old.steps[:-1] if instead else old.steps
        new = Recipe(**{**vars(old), "steps": (*kept, step)})
        Run(new, Path(folder), root=root).look_ahead()
        if instead and old.last:
            shutil.rmtree(Path(folder) / old.last, ignore_errors=True)
        write_atomic(Path(folder) / "recipe.yaml", new.to_yaml())
    return new


def _is_concluded(folder: Path, recipe: Recipe) -> bool:
    written = folder / "result.json"
    return written.is_file() and json.loads(written.read_text("utf-8"))["recipe"] == identity(recipe)


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """While inside, torch computes on so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- the steps ---------------------------------------------------------------------------------------------------------


class Run:
    """One recipe in one folder. Everything it knows is in the folder: a new object goes on where the last one ended."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        root: str | Path | None = None,
        progress: Any = None,
        announce: Callable[[str], None] | None = None,
        data: Dataset | None = None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.root = root
        self.progress = progress
        self.announce = announce or (lambda line: None)
        if data is not None:
            self.data = data

    @cached_property
    def data(self) -> Dataset:
        """The recipe's data set, read when first needed."""
        from bitwright.data import load_dataset

        options = {k: v for k, v in self.recipe.data.items() if k not in ("name", "root")}
        return load_dataset(self.recipe.data["name"], self.root or self.recipe.data.get("root"), **options)

    @property
    def done(self) -> list[str]:
        """The labels of the finished steps, in order."""
        return [label for label in self.recipe.labels if (self.folder / label / "step.json").is_file()]

    def model(self, label: str | None) -> nn.Module:
        """A newly built model with the weights that the step `label` left, or its initial ones for None."""
        model = build_model(self.recipe, self.data, first_weights=label is None)
        if label is not None:
            model = load_checkpoint(model, self.folder / label / "model.safetensors")
        return model

    def finish(self, command: str = "", speed: bool = True) -> RunResult:
        """Do what is not done yet, and return the figures; without `speed`, milliseconds are not measured."""
        from bitwright.final import conclude

        self.run_steps()
        result, measurements = conclude(self, command, speed)
        return RunResult(self.folder, result, measurements)

    def run_steps(self) -> None:
        """Apply the steps that are not finished yet; before, refuse what would stop the last of them."""
        previous: str | None = None
        if not all((self.folder / label / "step.json").is_file() for label in self.recipe.labels):
            self.look_ahead()
        for label, step in zip(self.recipe.labels, self.recipe.steps, strict=True):
            if not (self.folder / label / "step.json").is_file():
                self.announce(f"{label} {'goes on' if (self.folder / label).exists() else ''}".rstrip())
                self._apply(label, step, previous)
                if step.changes_layers and label != self.recipe.last:
                    self.look_ahead()
            previous = label

    def validation_error(self) -> float:
        """The error in percent on the validation part that the last step ended with."""
        if self.recipe.last is None:
            from bitwright.training.evaluate import evaluate

            return evaluate(self.model(None), self.data.validation, self.data.preprocess).error
        facts = json.loads((self.folder / self.recipe.last / "step.json").read_text("utf-8"))
        return float(facts["validation"]["error"])

    def look_ahead(self) -> None:
        """Refuse now what the engine can't run, and what would stop one of the steps that are left in hours.

        That is layers that aren't there, unknown optimisers, teachers and their own recipes, views that images are too
        small for, and steps at a wrong place. Behind a step that changes layers it is done again, as far as it hangs on
        them.
        """
        import torch

        from bitwright.packing.lower import lower

        done = self.done
        model = self.model(done[-1] if done else None)
        if not done:
            lower(model, (torch.zeros(1, *self.data.shape),), self.data.preprocess)
        left = {i: step for i, step in enumerate(self.recipe.steps) if self.recipe.labels[i] not in done}
        known = True
        for i, step in left.items():
            try:
                self._look_at(step, i, model, known)
            except BitwrightError as error:
                said = str(error).removeprefix(f"{step.name}: ")
                raise BitwrightError(f"steps[{i}].{step.name}: {said}", kind=error.kind) from None
            known &= not step.changes_layers
        self._check_names({name for step in left.values() for name in teachers(step)})

    def _look_at(self, step: Step, i: int, model: nn.Module, known: bool) -> None:
        """`known`: whether `model` has the layers that the step will find."""
        from bitwright.steps.step import select_layers
        from bitwright.training.checks import check_settings
        from bitwright.training.optimizers import create_optimizer

        self._check_place(step, i)
        if known and hasattr(step, "layers"):
            select_layers(model, step.layers, getattr(step, "ignore", ()))
        if known:
            step.look_ahead(model, self.data)
        for settings in trainings(step):
            create_optimizer(settings.optimizer, model)
            check_settings(settings, self.data, self.recipe.labels[i])
            if settings.distill is not None:
                self._check_teacher(settings.distill, ("start", *self.recipe.labels[:i]), model, known)

    def _check_place(self, step: Step, i: int) -> None:
        if not step.keeps_precisions and any(other.gives_precisions for other in self.recipe.steps[:i]):
            raise BitwrightError(
                "it comes after progressive and would take the common codes of all precisions apart; put it before",
                kind="order",
            )

    def _check_teacher(self, distill: Distill, steps: tuple[str, ...], model: nn.Module, known: bool) -> None:
        from bitwright.recipe import list_recipes
        from bitwright.training.checks import check_classes_alike
        from bitwright.training.inside import check_inside

        name, other = distill.teacher, None
        if name in steps:
            teacher = self.model(name) if name in self.done else model
        elif (Path(name) / "recipe.yaml").is_file():
            other = self._finished(name)
            teacher = other.model(other.recipe.last)
        elif is_recipe(name):
            other = self._taught_by(name)
            other.look_ahead()
            teacher = other.model(None)
        else:
            raise BitwrightError(
                f"teacher {name!r} is no earlier step ({', '.join(steps)}), no folder of a run and no recipe "
                f"({', '.join(list_recipes())})",
                kind="no-teacher",
            )
        check_classes_alike(model, teacher, self.data)
        if other is not None and other.data.classes != self.data.classes:
            raise BitwrightError(
                f"teacher {name!r} knows the classes of {other.data.name} ({', '.join(other.data.classes[:3])}, ...), "
                f"not those of {self.data.name} ({', '.join(self.data.classes[:3])}, ...); take one with the same",
                kind="teacher",
            )
        if known and distill.at is not None:
            check_inside(model, teacher, distill.at, self.data)

    def _check_names(self, names: set[str]) -> None:
        """Recipes of teachers have their folders by their names, so two of one name would be in each other's way."""
        known: dict[str, Recipe] = {}
        for name in sorted(names - {"start", *self.recipe.labels}):
            if (Path(name) / "recipe.yaml").is_file() or not is_recipe(name):
                continue
            recipe = self._taught_by(name).recipe
            if identity(known.setdefault(recipe.name, recipe)) != identity(recipe):
                raise BitwrightError(
                    f"teacher {name!r} has the name of another one, {recipe.name!r}; change one of their names",
                    kind="no-teacher",
                )

    def _apply(self, label: str, step: Step, previous: str | None) -> None:
        from bitwright.context import Context

        place = self.folder / label
        resumed = place.exists()
        context = Context(
            self.data,
            seed=self.recipe.seed,
            folder=place,
            label=label,
            progress=self.progress,
            find_teacher=self.teacher,
        )
        begun = time.perf_counter()
        model = self.model(previous)
        context.begin(model)
        model = step.apply(model, context)
        save_checkpoint(model, place / "model.safetensors", label)
        seconds = time.perf_counter() - begun
        validation = context.evaluate(self.model(label))
        facts = {
            "step": step.name,
            "validation": {"accuracy": validation.accuracy, "error": validation.error, "loss": validation.loss},
            "records": context.records,
        }
        write_atomic(place / "seconds.json", json.dumps({"seconds": round(seconds, 3), "resumed": resumed}))
        write_atomic(place / "step.json", json.dumps(facts, indent=1))

    def teacher(self, name: str) -> nn.Module:
        """What `name` left: a finished step of this run, a finished run in a folder, or a recipe, which is run first.

        A recipe runs with this run's seed and threads in teachers/NAME, so that one command is enough and resumes.
        """
        if name in self.recipe.labels:
            return self.model(name)
        if (Path(name) / "recipe.yaml").is_file():
            other = self._finished(name)
        else:
            other = self._taught_by(name)
            other.folder.mkdir(parents=True, exist_ok=True)
            claim(other.folder, other.recipe, restart=False)
            other.run_steps()
        return other.model(other.recipe.last)

    def _finished(self, folder: str) -> Run:
        other = Run(stored_recipe(folder), Path(folder), root=self.root)
        if other.recipe.last and not (other.folder / other.recipe.last / "step.json").is_file():
            raise BitwrightError(f"teacher {folder!r} is an unfinished run; finish it first", kind="no-teacher")
        return other

    def _taught_by(self, name: str) -> Run:
        """The run of a teacher's recipe, not begun or finished."""
        recipe = load_recipe(name, [f"seed={self.recipe.seed}", f"threads={self.recipe.threads}"])
        if len([part for part in self.folder.parts if part == "teachers"]) >= _MOST_TEACHERS:
            raise BitwrightError(
                f"teacher {name!r} is one of {_MOST_TEACHERS} that are taught by each other; break the circle",
                kind="no-teacher",
            )
        return Run(
            recipe,
            self.folder / "teachers" / recipe.name,
            root=self.root,
            progress=self.progress,
            announce=lambda line: self.announce(f"teacher {recipe.name}: {line}"),
            data=self.data if recipe.data == self.recipe.data else None,
        )
