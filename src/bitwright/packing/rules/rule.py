"""How a rule is registered, and what rules ask of exported nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from bitwright.packing.lower import Constant, Lowering

Arguments = dict[str, Any]
Rule = Callable[["Lowering", Any, Arguments], "int | Constant"]

RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def two(value: Any) -> list[int]:
    """A stride or padding as [height, width]: ATen also takes one number."""
    numbers = [value] if isinstance(value, int) else list(value)
    return [int(n) for n in (numbers * 2 if len(numbers) == 1 else numbers)]


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a node's first result without the batch."""
    result = node.meta["val"]
    return tuple(int(n) for n in (result if isinstance(result, torch.Tensor) else result[0]).shape[1:])


def exported_shape(node: Any) -> tuple[int, ...]:
    """The shape that torch gave an exported node, without the batch axis."""
    return tuple(int(n) for n in node.meta["val"].shape[1:])


def axis_of(node: Any, argument: Any, axis: int) -> int:
    """An axis of the exported tensor, counted from 0 at the batch."""
    return axis % int(argument.meta["val"].ndim) if axis < 0 else axis
