"""What every step is, and how steps choose layers."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bitwright.errors import BitwrightError, unknown
from bitwright.patterns import matching

if TYPE_CHECKING:
    from torch import nn

    from bitwright.context import Context
    from bitwright.data.dataset import Dataset
    from bitwright.training.settings import TrainSettings


@dataclass(frozen=True)
class Step:
    """One entry of a recipe. Subclasses add fields (all with defaults) and set the class facts below."""

    name: ClassVar[str]
    keeps_zeros: ClassVar[bool] = True
    """Whether weights that are zero before stay zero."""
    gives_precisions: ClassVar[bool] = False
    """Whether it makes a network of several precisions."""
    keeps_precisions: ClassVar[bool] = False
    """Whether such a network still has them afterwards; others may not follow."""
    changes_layers: ClassVar[bool] = False
    """Whether layers may have other names or sizes afterwards: fc1.core and fc1.last in the place of fc1."""
    paper: ClassVar[str] = ""
    model: ClassVar[str] = ""
    """The only model that it is for; "": any."""
    after: ClassVar[str] = ""
    """A step, or one like it, that must have come before; "": none."""

    def __post_init__(self) -> None:
        """Refuse words that a field doesn't know; subclasses check the rest. Recipes are checked before, calls not."""
        for field, hint in typing.get_type_hints(type(self)).items():
            if typing.get_origin(hint) is typing.Literal and getattr(self, field) not in typing.get_args(hint):
                raise unknown(f"{self.name}: {field}", getattr(self, field), typing.get_args(hint))
            _check_part(f"{self.name}: {field}", getattr(self, field), hint)
            if hint == tuple[str, ...] and isinstance(getattr(self, field), str):
                raise BitwrightError(
                    f"{self.name}: {field} is {getattr(self, field)!r}; expected a tuple of patterns, "
                    f"({getattr(self, field)!r},)",
                    kind="setting",
                )

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse before a run begins what `apply` would refuse of this data, and of the model as it is built."""

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Run the step and return a plain model: no parametrizations, no hooks. May change `model` in place."""
        raise NotImplementedError


def _check_part(what: str, value: object, hint: Any) -> None:
    """Raise BitwrightError where a field that takes settings of their own, or nothing, has something else."""
    hints = typing.get_args(hint) or (hint,)
    kinds = [kind for kind in hints if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    if kinds and not (value is None and type(None) in hints) and not isinstance(value, tuple(kinds)):
        expected = " or ".join(f"{kind.__name__}(...)" for kind in kinds)
        raise BitwrightError(f"{what} is {value!r}; expected {expected}", kind="setting")


def select_layers(
    model: nn.Module, layers: tuple[str, ...] = ("*",), ignore: tuple[str, ...] = ()
) -> dict[str, nn.Module]:
    """The convolution and linear layers whose name or type matches one of `layers` and none of `ignore`.

    Patterns are those of `matching`; one that matches nothing is an error that lists the layers, and so are patterns
    that leave none.
    """
    from torch import nn

    candidates = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }

    def matches(pattern: str) -> set[str]:
        hit = matching(pattern, candidates)
        if not hit and candidates:
            raise BitwrightError(
                f"layer pattern {pattern!r} matches nothing; the layers are: {', '.join(candidates)}", kind="no-match"
            )
        return hit

    if not candidates:
        raise BitwrightError(f"{type(model).__name__} has no convolution or linear layer to work on", kind="no-layers")
    if not layers:
        raise BitwrightError(f'layers is empty; name some of {", ".join(candidates)}, or take "*"', kind="no-match")
    wanted = set().union(*(matches(p) for p in layers))
    unwanted = set().union(*(matches(p) for p in ignore))
    if not wanted - unwanted:
        raise BitwrightError(
            f"no layer is left: ignore={list(ignore)} takes all of {', '.join(n for n in candidates if n in wanted)}; "
            "ignore fewer, or take a network with more layers",
            kind="no-match",
        )
    return {n: m for n, m in candidates.items() if n in wanted - unwanted}


def trainings(step: Step) -> list[TrainSettings]:
    """The settings of every training in a step: the step itself, or those among its fields."""
    from bitwright.training.settings import TrainSettings

    return [part for part in (step, *vars(step).values()) if isinstance(part, TrainSettings)]


def teachers(step: Step) -> list[str]:
    """What the teachers of its trainings are called."""
    return [settings.distill.teacher for settings in trainings(step) if settings.distill is not None]
