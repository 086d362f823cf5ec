"""Dropout for a network that pruning has made smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def dropouts_before(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, _DropoutNd]:
    """The dropout in front of each of `layers`: the last one defined after the previous convolution or linear layer.

    "In front" goes by the order in which the modules were defined, which is the order of execution in `nn.Sequential`
    and in networks written the usual way. Functional dropout isn't seen.
    """
    found: dict[str, _DropoutNd] = {}
    waiting: _DropoutNd | None = None
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            waiting = module
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if waiting is not None and name in layers:
                found[name] = waiting
            waiting = None
    return found


class ScaledDropout:
    """D_r = D_o sqrt(C_r / C_o): the drop probability for C_r of C_o connections left (Han et al. 2015, section 3.2).

    C_o counts all weights of the layer behind the dropout. Example: 9 % kept, D_o = 0.5 -> 0.15.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self._pairs = [(name, module, module.p) for name, module in dropouts_before(model, layers).items()]

    def scale(self, kept: Mapping[str, float]) -> None:
        """Set the probabilities for these shares of connections, layer path -> C_r / C_o."""
        for name, module, original in self._pairs:
            module.p = original * math.sqrt(kept[name])

    def restore(self) -> None:
        """Back to D_o, which the model's constructor gave and the next step expects."""
        for _, module, original in self._pairs:
            module.p = original


def follow(dropout: ScaledDropout, how: Literal["scaled", "keep", "off"], kept: Mapping[str, float]) -> None:
    """What a step's `dropout` field asks for: scaled to the kept shares, as it is, or none."""
    if how != "keep":
        dropout.scale(kept if how == "scaled" else dict.fromkeys(kept, 0.0))


@contextmanager
def scaled_dropout(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[ScaledDropout]:
    """A `ScaledDropout` that is undone at the end."""
    dropout = ScaledDropout(model, layers)
    try:
        yield dropout
    finally:
        dropout.restore()


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """While inside, nothing is dropped anywhere in the model."""
    before = [(module, module.p) for module in model.modules() if isinstance(module, _DropoutNd)]
    for module, _ in before:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in before:
            module.p = p
