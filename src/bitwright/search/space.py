"""What may vary in a recipe, and how a trial chooses from it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError
from bitwright.recipe import read_yaml
from bitwright.validate import checked

if TYPE_CHECKING:
    import optuna

    from bitwright.recipe import Recipe

_NARROWER = 0.25
"""A finer stage spans this share of the range before it."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones where both are; `log` draws their logarithm evenly.

    `points` of them, evenly spaced, are what a grid search tries.
    """

    low: int | float
    high: int | float
    log: bool = False
    points: int = 5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BitwrightError(f"low {self.low} and high {self.high} are no range; expected low < high")
        if self.log and self.low <= 0:
            raise BitwrightError(f"low is {self.low}, which has no logarithm; expected a number above 0, or log: false")
        if self.points < 2:
            raise BitwrightError(f"points is {self.points}; expected at least 2")

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: optuna.Trial, path: str) -> int | float:
        """The number that this trial is to try."""
        if self.whole:
            return trial.suggest_int(path, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(path, self.low, self.high, log=self.log)

    def grid(self) -> list[int | float]:
        """`points` numbers from low to high, fewer where there aren't as many whole ones."""
        shares = [i / (self.points - 1) for i in range(self.points)]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        numbers = [low + (high - low) * share for share in shares]
        found = [math.exp(x) if self.log else x for x in numbers]
        found[0], found[-1] = self.low, self.high
        return sorted({round(x) for x in found}) if self.whole else found

    def around(self, best: int | float) -> Range:
        """A quarter as wide (of the logarithms where `log`), around `best`, within this range."""
        if self.log:
            factor = (self.high / self.low) ** (_NARROWER / 2)
            low, high = best / factor, best * factor
        else:
            reach = (self.high - self.low) * _NARROWER / 2
            low, high = best - reach, best + reach
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        return dataclasses.replace(self, low=max(self.low, low), high=min(self.high, high))


@dataclass(frozen=True)
class Choices:
    """One of several values: numbers, texts, lists, mappings."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise BitwrightError(f"{list(self.values)} leaves no choice; give at least two values")

    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """The value that this trial is to try."""
        return json.loads(trial.suggest_categorical(path, self.grid()))

    def grid(self) -> list[str]:
        """All values, as JSON: lists and mappings have names of their own in a study."""
        return [json.dumps(value) for value in self.values]

    def around(self, best: Any) -> Choices:
        """The same: neighbours among choices are not known."""
        return self


class Space:
    """Paths of a recipe ("train.optimizer.lr", as for --set) and what may be tried there.

    Made from {"path": [value, ...]} for choices and {"path": {low: ..., high: ..., log: true}} for ranges. Raises
    BitwrightError for anything else, and for no path at all.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        if not raw:
            raise BitwrightError(
                'nothing may vary; give at least one --vary, as --vary "train.optimizer.lr={low: 1e-4, high: 0.1, '
                'log: true}"',
                kind="setting",
            )
        self.parts = {str(path): _part(str(path), value) for path, value in raw.items()}

    @classmethod
    def of(cls, settings: Iterable[str], raw: Mapping[str, Any] | None = None) -> Space:
        """From "path=values" texts, values as YAML, and from a mapping as in a file."""
        found = dict(raw or {})
        for setting in settings:
            path, equals, value = setting.partition("=")
            if not equals or not path.strip():
                raise BitwrightError(f"--vary {setting}: expected path=[a, b] or path={{low: a, high: b}}")
            found[path.strip()] = read_yaml(value, f"--vary {setting}")
        return cls(found)

    def check(self, recipe: Recipe) -> None:
        """Raise BitwrightError, naming the path, where the recipe can't take one of the values."""
        from bitwright.recipe import load_recipe
        from bitwright.steps.step import trainings
        from bitwright.training.optimizers import find_optimizer

        for path, part in self.parts.items():
            for value in part.values if isinstance(part, Choices) else (part.low, part.high):
                try:
                    for step in load_recipe(recipe, settings({path: value})).steps:
                        for training in trainings(step):
                            find_optimizer(training.optimizer)
                except BitwrightError as error:
                    said = str(error).removeprefix(f"{recipe.name}: ")
                    raise BitwrightError(f"--vary {path}: with {value!r}: {said}", kind=error.kind) from None

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """path -> value of one trial."""
        return {path: part.suggest(trial, path) for path, part in self.parts.items()}

    def grid(self) -> dict[str, list[Any]]:
        """path -> all values that a grid search tries."""
        return {path: part.grid() for path, part in self.parts.items()}

    def around(self, best: Mapping[str, Any]) -> Space:
        """The next, finer space, around the values of the best trial."""
        finer = Space.__new__(Space)
        finer.parts = {path: part.around(best[path]) for path, part in self.parts.items()}
        return finer

    def to_dict(self) -> dict[str, Any]:
        """What `Space` would be made from."""
        return {
            path: list(part.values) if isinstance(part, Choices) else dataclasses.asdict(part)
            for path, part in self.parts.items()
        }


def settings(values: Mapping[str, Any]) -> list[str]:
    """As `load_recipe` takes overrides."""
    return [f"{path}={json.dumps(value)}" for path, value in values.items()]


def _part(path: str, value: Any) -> Range | Choices:
    try:
        if isinstance(value, list):
            return Choices(tuple(value))
        if isinstance(value, Mapping):
            return checked(Range, value, "")
    except BitwrightError as error:
        raise BitwrightError(f"--vary {path}: {error}", kind=error.kind) from None
    raise BitwrightError(
        f"--vary {path}: found {value!r}; expected a list of choices, or {{low: ..., high: ..., log: true}}",
        kind="setting",
    )
