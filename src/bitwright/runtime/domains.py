"""Which values of a graph are whole numbers times a scale, and which layers are computed in integers (FORMAT.md 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.packing.lattice import Lattice
from bitwright.runtime.graph import Graph, Node

Array = np.ndarray

SMALLEST_SCALE, LARGEST_SCALE = 2.0**-100, 2.0**100
LARGEST_ZERO_POINT = 1 << 16
LAYERS = ("conv2d", "linear")
_LARGEST = 1 << 24  # whole numbers up to it are exact in float32


class Decodable(Protocol):
    """A tensor as a file stores it."""

    def dense(self) -> Array: ...


@dataclass(frozen=True)
class Domain:
    """A coded value: each of its numbers is float32(scale * m), m one of low, low + step, ..., high."""

    scale: np.float32
    low: int
    high: int
    step: int = 1

    @property
    def levels(self) -> int:
        """How many numbers there are."""
        return (self.high - self.low) // self.step + 1

    @property
    def span(self) -> int:
        """The largest m, counted from zero or, as kernels may, from `low`."""
        return max(abs(self.low), abs(self.high), self.high - self.low)


SIGNS = Domain(np.float32(1), -1, 1, 2)


def domains(graph: Graph, tensors: Mapping[str, Array] | Mapping[str, Decodable]) -> list[Domain | None]:
    """The domain of every value, None where it is not coded: the inputs, then one per node.

    Also checks the numbers of every `quantize`. Raises `BitwrightError` (kind "value") that names the node for a scale
    that is not from 2^-100 to 2^100 or a zero point that is no whole number from -65,536 to 65,536.
    """
    found: list[Domain | None] = [None] * len(graph.inputs)
    for node in graph.nodes:
        if node.op == "sign":
            found.append(SIGNS)
        elif node.op == "quantize":
            found.append(_quantized(node, tensors))
        else:
            x = found[node.inputs[0]]
            if x is None:
                integer_layer(node, None, None)  # which refuses what it may promise
            found.append(None if x is None else _after(node, x))
    return found


def width(largest: int) -> int:
    """The fewest bits in two's complement that hold every whole number from -largest to largest."""
    return largest.bit_length() + 1


def integer_layer(node: Node, domain: Domain | None, lattice: Lattice | None) -> bool:
    """Whether a node is an integer layer: conv2d or linear of a coded value with a weight that has a lattice, and exact
    sums for every input.

    Raises BitwrightError (kind "value") where the node promises an accumulator that its sums may leave.
    """
    if node.op not in LAYERS:
        return False
    found = domain is not None and lattice is not None and exact_sums(domain, lattice)
    if promised := node.attributes.get("accumulator", 0):
        needed = width(domain.span * lattice.largest_sum) if found and domain and lattice else 0
        if not 0 < needed <= promised:
            sums = f"its sums need {needed} bits" if needed else "its sums are no whole numbers"
            raise BitwrightError(
                f"{node.op} {node.name!r} promises an accumulator of {promised} bits, but {sums}; its weights or its "
                "quantiser are not those that the promise was made for, or the file is damaged",
                kind="value",
            )
    return found


def exact_sums(domain: Domain, lattice: Lattice) -> bool:
    """Whether all sums of products, also those of codes counted from `low`, are below 2^31."""
    return domain.span * lattice.largest_sum < 1 << 31


def _quantized(node: Node, tensors: Mapping[str, Array] | Mapping[str, Decodable]) -> Domain | None:
    scale, zero = (_read(tensors[node.weights[role]]) for role in ("scale", "zero_point"))
    where = f"quantize {node.name!r}" if node.name else "a quantize node"
    if not ((scale >= SMALLEST_SCALE) & (scale <= LARGEST_SCALE)).all():
        raise BitwrightError(
            f"{where} has a scale of {_first(scale, scale > 0)}; expected 2^-100 to 2^100", kind="value"
        )
    if not ((zero == np.rint(zero)) & (np.abs(zero) <= LARGEST_ZERO_POINT)).all():
        wrong = _first(zero, zero == np.rint(zero))
        raise BitwrightError(f"{where} has a zero point of {wrong}; expected whole numbers up to 65,536", kind="value")
    if (scale != scale[0]).any() or (zero != zero[0]).any():
        return None
    first = int(zero[0])
    return Domain(np.float32(scale[0]), node.attributes["qmin"] - first, node.attributes["qmax"] - first)


def _read(tensor: Array | Decodable) -> Array:
    return tensor if isinstance(tensor, np.ndarray) else tensor.dense()


def _first(numbers: Array, good: Array) -> float:
    """A number that is not good, for a message; the largest if only size can be wrong."""
    return float(numbers[~good][0] if not good.all() else numbers[np.abs(numbers).argmax()])


def _after(node: Node, x: Domain) -> Domain | None:
    """The domain of what a node makes of a coded value."""
    if node.op in ("flatten", "slice"):
        return x
    if node.op == "max_pool2d":  # a dilated window may lie beside the image: nothing there is a number of the domain
        return x if list(node.attributes["dilation"]) == [1, 1] else None
    if node.op == "relu":
        if x.low >= 0 or x.high <= 0:
            return x if x.low >= 0 else None
        return replace(x, low=0, step=_step_with(x, 0))
    if node.op == "pad":
        value = np.float32(node.attributes["value"])
        m = np.rint(np.float64(value) / np.float64(x.scale))
        if abs(m) > _LARGEST or np.float32(m) * x.scale != value:
            return None
        return replace(x, low=min(x.low, int(m)), high=max(x.high, int(m)), step=_step_with(x, int(m)))
    return None


def _step_with(x: Domain, member: int) -> int:
    """The step that reaches the domain's numbers and `member` too."""
    return x.step if (member - x.low) % x.step == 0 else 1
