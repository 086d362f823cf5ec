"""Ordinary training as a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bitwright.steps.step import Step
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from bitwright.context import Context


@dataclass(frozen=True)
class Train(TrainSettings, Step):
    """Train all weights with these settings; nothing is held fixed, so zeros of an earlier step may come back."""

    name: ClassVar[str] = "train"
    keeps_zeros: ClassVar[bool] = False

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Train the model in place and leave the selected weights in it."""
        context.train(model, self)
        return model
