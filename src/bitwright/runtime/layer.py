"""A layer as kernels see it: its shape, its domain, and what the numbers of its weight show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bitwright.packing.lattice import Lattice, find_lattice
from bitwright.packing.runs import Runs, find_runs
from bitwright.runtime.domains import Domain
from bitwright.runtime.graph import Node

if TYPE_CHECKING:
    from bitwright.packing.encodings import Sparse

Array = np.ndarray
Pair = tuple[int, int]

LANES, MOST_SLOTS = 16, 8
"""Of native/kernels/pattern.h: output channels of a block and inputs of a window; weights of a channel in a window."""
_SAMPLE = 4096  # numbers that turn away most weights of many different ones
_MOST_CODES = 32


class Tensor(Protocol):
    """A weight as a file stores it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def dense(self) -> Array: ...
    def sparse(self) -> Sparse | None: ...


@dataclass(frozen=True)
class Codes:
    """A matrix as `codes` (uint8) into a `table` of at most 32 numbers, times a scale per row if there are `scales`:
    "scale", and "negative" if table entries below zero have one of their own."""

    codes: Array
    table: Array
    scales: dict[str, Array] = field(default_factory=dict)


def find_codes(weight: Array) -> Codes | None:
    """The codes of a matrix of few different numbers, or of whole ones up to 15 times a scale per row."""
    if (lattice := find_lattice(weight, 15)) is not None:
        table, codes = np.unique(lattice.integers, return_inverse=True)
        scales = {"scale": lattice.positive} | ({"negative": lattice.negative} if lattice.two_magnitudes else {})
        return Codes(codes.reshape(weight.shape).astype(np.uint8), table.astype(np.float32), scales)
    table = np.unique(weight.reshape(-1)[:_SAMPLE])
    while len(table) <= _MOST_CODES:
        codes = np.minimum(np.searchsorted(table, weight), len(table) - 1).astype(np.uint8)
        others = weight[table[codes] != weight]
        if not others.size:
            return Codes(codes, table)
        table = np.union1d(table, others[:_SAMPLE])
    return None


@dataclass(frozen=True)
class Layer:
    """A conv2d or linear node as kernels see it. A linear layer is a convolution of an image of one pixel.

    `domain` and `lattice` are set for integer layers only; then `outside` is the m around the image, of which the
    window takes `padding` on each side.
    """

    node: Node
    tensor: Tensor
    image: Pair
    padding: Pair
    domain: Domain | None = None
    lattice: Lattice | None = None
    outside: int = 0
    pixels: int = 1
    """Of the output."""

    @property
    def groups(self) -> int:
        return int(self.node.attributes.get("groups", 1))

    @property
    def channels(self) -> Pair:
        """Of the input, of the output."""
        return self.tensor.shape[1] * self.groups, self.tensor.shape[0]

    @property
    def kernel(self) -> Pair:
        shape = self.tensor.shape
        return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)

    @cached_property
    def window(self) -> Any:
        """The geometry for native operations."""
        from bitwright import _native

        given = self.node.attributes
        pairs: Any = {name: tuple(given[name]) for name in ("stride", "dilation") if name in given}
        return _native.Window(
            self.image, *self.channels, kernel=self.kernel, padding=self.padding, groups=self.groups, **pairs
        )

    def products(self, unit: int = 1) -> float:
        """Multiplications per image, where the input channels of a group are rounded up to a multiple of `unit`."""
        outputs, inputs, *kernel = self.tensor.shape
        return self.pixels * outputs * -(-inputs // unit) * unit * math.prod(kernel)

    @cached_property
    def codes(self) -> Codes | None:
        """The weight as codes, if it has few different numbers."""
        return find_codes(self.tensor.dense())

    @cached_property
    def runs(self) -> Runs | None:
        """The weight of a linear layer as runs of two or four columns with at most 16 values each."""
        weight = self.tensor.dense()
        found = (find_runs(weight, width, 16) for width in (2, 4))
        return next((runs for runs in found if runs is not None), None)

    @cached_property
    def slots(self) -> int:
        """The most weights that an output channel has among 16 neighbouring input channels at one tap, made even;
        more than `MOST_SLOTS` where a look at the first channels already shows that it is too many."""
        weight = self.tensor.dense()
        for channels in (weight[:LANES], weight):
            if (most := _most_in_windows(channels)) > MOST_SLOTS:
                break
        return max(2, most + most % 2)

    @cached_property
    def shared_taps(self) -> int:
        """Inputs of the window that any of 16 output channels has a weight for, over all such blocks."""
        used = (self.tensor.dense() != 0).reshape(self.groups, self.channels[1] // self.groups, -1)
        padded = np.pad(used, ((0, 0), (0, -used.shape[1] % LANES), (0, 0)))
        return int(padded.reshape(-1, LANES, used.shape[2]).any(1).sum())

    @cached_property
    def integers(self) -> Array:
        """The whole numbers of the lattice, (O, C / groups, height, width)."""
        assert self.lattice is not None
        outputs, inputs, *_ = self.tensor.shape
        return np.ascontiguousarray(self.lattice.integers.reshape(outputs, inputs, *self.kernel))

    @cached_property
    def weight_planes(self) -> int:
        """Planes of bits that the whole numbers of the lattice take: n for odd symmetric grids (signs: 1), else as
        many as two's complement."""
        k = self.integers
        most = int(np.abs(k.astype(np.int16)).max(initial=1))
        return most.bit_length() + (0 if (k & 1).all() else 1)


def _most_in_windows(weight: Array) -> int:
    """The most non-zeros of a row (O, I, ...) among 16 neighbours of I, the windows beginning at multiples of 16."""
    used = (weight != 0).reshape(*weight.shape[:2], -1)
    starts = np.arange(0, used.shape[1], LANES)
    return int(np.add.reduceat(used, starts, axis=1, dtype=np.uint8).max(initial=0)) if used.size else 0
