"""One node of a graph under examination: its inputs, attributes and weights, checked as they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from bitwright.errors import BitwrightError

if TYPE_CHECKING:
    from bitwright.runtime.graph import Node

Shape = tuple[int, ...]

MAX_INTEGER = 2**31 - 1
"""Sizes and attributes fit the 32-bit integers of native code."""
LARGEST_FLOAT = 3.4028234663852886e38
"""Of float32."""
MAX_CODE = 2**16
"""The range of `quantize` is within plus or minus this."""


def refuse(message: str) -> NoReturn:
    raise BitwrightError(message, kind="graph")


def is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high  # a bool is not a size


def is_shape(shape: object, low: int, high: int) -> bool:
    return (
        isinstance(shape, list | tuple) and low <= len(shape) <= high and all(is_int(n, 1, MAX_INTEGER) for n in shape)
    )


@dataclass(frozen=True)
class Operation:
    """A row of the table in FORMAT.md, section 7, and the function that checks a node and gives its shape.

    It has exactly `inputs` inputs, or from these on up to `most_inputs`.
    """

    shape: Callable[[Check], Shape]
    attributes: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    inputs: int = 1
    most_inputs: int = 0
    optional_attributes: tuple[str, ...] = ()


class Check:
    """One node under examination: reading an attribute, weight or input here also checks it."""

    def __init__(
        self, index: int, node: Node, shapes: list[Shape], weights: Mapping[str, Shape], inputs: int, limit: int
    ) -> None:
        self.index, self.node, self.shapes, self.weights = index, node, shapes, weights
        self.graph_inputs, self.limit = inputs, limit
        self.workspace = 0
        """Elements per image that the node needs besides its result (a padded input)."""

    def fail(self, found: str) -> NoReturn:
        name = f" {self.node.name!r}" if self.node.name else ""
        refuse(f"graph node {self.index} ({self.node.op}{name}): {found}")

    def run(self, operations: Mapping[str, Operation]) -> Shape:
        """The shape of the node's result."""
        node = self.node
        if not isinstance(node.name, str) or not isinstance(node.op, str) or node.op not in operations:
            self.fail(f"no such operation; the operations are {', '.join(sorted(operations))}")
        operation = operations[node.op]
        self._inputs(operation)
        attributes = set(operation.attributes)
        self._keys("attribute", node.attributes, attributes, {*attributes, *operation.optional_attributes})
        self._keys("weight", node.weights, set(operation.weights), {*operation.weights, *operation.optional})
        shape = operation.shape(self)
        if any(n > MAX_INTEGER for n in shape) or math.prod(shape) > self.limit:
            self.fail(f"the result {shape} has more than the cap of {self.limit:,} elements per image")
        return shape

    def _inputs(self, operation: Operation) -> None:
        found = self.node.inputs
        least, most = operation.inputs, operation.most_inputs
        if not least <= len(found) <= max(least, most):
            self.fail(f"has {len(found)} inputs; expected {least}{f' to {most}' if most else ''}")
        for value in found:
            if not is_int(value, 0, len(self.shapes) - 1):
                self.fail(f"reads value {value!r}; only values 0 to {len(self.shapes) - 1} come before it")

    def _keys(self, what: str, found: Mapping[str, Any], required: set[str], allowed: set[str]) -> None:
        names = set(found)
        if missing := sorted(required - names):
            self.fail(f"{what} {missing[0]!r} is missing")
        if extra := sorted(map(str, names - allowed)):
            self.fail(f"unknown {what} {extra[0]!r}; expected {', '.join(sorted(allowed)) or 'none'}")

    def input(self, which: int = 0, rank: int | None = None) -> Shape:
        """The shape of an input, with `rank` axes if that is given, at least one axis otherwise."""
        shape = self.shapes[self.node.inputs[which]]
        if (rank is None and not shape) or (rank is not None and len(shape) != rank):
            self.fail(f"input has shape {shape}; expected {rank or 'one or more'} axes after the batch")
        return shape

    def weight(self, role: str, expected: tuple[int | None, ...]) -> Shape:
        """The shape of a weight, which must equal `expected` where that has a number."""
        name = self.node.weights[role]
        if not isinstance(name, str) or name not in self.weights:
            self.fail(f"{role} is the tensor {name!r}, which is not stored")
        shape = self.weights[name]
        if len(shape) != len(expected) or any(e is not None and e != n for e, n in zip(expected, shape, strict=True)):
            wanted = ", ".join("?" if e is None else str(e) for e in expected)
            self.fail(f"{role} {name!r} has shape {shape}; expected ({wanted})")
        return shape

    def bias(self, size: int) -> None:
        if "bias" in self.node.weights:
            self.weight("bias", (size,))

    def integer(self, name: str, low: int, high: int = MAX_INTEGER) -> int:
        value = self.node.attributes[name]
        if not is_int(value, low, high):
            self.fail(f"{name} is {value!r}; expected an integer from {low} to {high}")
        return int(value)

    def integers(self, name: str, count: int, low: int, high: int = MAX_INTEGER) -> list[int]:
        value = self.node.attributes[name]
        if (
            not isinstance(value, list | tuple)
            or len(value) != count
            or not all(is_int(entry, low, high) for entry in value)
        ):
            self.fail(f"{name} is {value!r}; expected {count} integers from {low} to {high}")
        return list(value)

    def number(self, name: str) -> float:
        value = self.node.attributes[name]
        if type(value) not in (int, float) or not abs(value) <= LARGEST_FLOAT:
            self.fail(f"{name} is {value!r}; expected a finite float32 number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.node.attributes[name]
        if not isinstance(value, bool):
            self.fail(f"{name} is {value!r}; expected true or false")
        return value

    def work(self, shape: Shape) -> None:
        """Count a temporary of this shape."""
        self.workspace = math.prod(shape)
        if self.workspace > self.limit:
            self.fail(f"needs a padded input {shape} of more than the cap of {self.limit:,} elements per image")
