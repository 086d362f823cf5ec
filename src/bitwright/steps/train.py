"""Ordinary training as a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bitwright.errors import BitwrightError
from bitwright.patterns import with_parameters
from bitwright.steps.step import Step
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from bitwright.context import Context
    from bitwright.data.dataset import Dataset


@dataclass(frozen=True)
class Train(TrainSettings, Step):
    """Train all weights with these settings; nothing is held fixed, so zeros of an earlier step may come back.

    rates   factors on the learning rate, from patterns (see `matching`) over the modules that have parameters to
            factors: {"last": 1, "*": 0.1} trains a new head ten times as fast as the layers below it. A module that
            none matches has 1; one with 0 is frozen, and a frozen batch norm keeps its running statistics as well.
    """

    name: ClassVar[str] = "train"
    keeps_zeros: ClassVar[bool] = False

    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern, rate in self.rates.items():
            if isinstance(rate, bool) or not 0 <= rate < float("inf"):
                raise BitwrightError(
                    f"train: rates[{pattern!r}] is {rate!r}; expected a factor of at least 0, and 0 to freeze",
                    kind="setting",
                )

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse rates of layers that aren't there."""
        with at_rates(model, self.rates):
            pass

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Train the model in place and leave the selected weights in it."""
        with at_rates(model, self.rates):
            context.train(model, self)
        return model


@contextlib.contextmanager
def at_rates(model: nn.Module, rates: dict[str, float]) -> Iterator[None]:
    """While inside, parameters carry the `lr_factor` of their module, or need no gradient where that is 0."""
    from bitwright.steps.layers import per_layer

    modules = with_parameters(model)
    factors = per_layer({"*": 1.0, **rates}, modules, "train: rates")
    changed = [(p, factors[n]) for n, m in modules.items() for p in m.parameters(recurse=False) if p.requires_grad]
    for parameter, factor in changed if rates else []:
        parameter.requires_grad_(factor > 0)
        vars(parameter)["lr_factor"] = factor
    try:
        yield
    finally:
        for parameter, _ in changed if rates else []:
            parameter.requires_grad_(True)
            vars(parameter).pop("lr_factor", None)
