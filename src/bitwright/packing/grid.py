"""Sparse positions and codes together, as a grid of signed levels for the context coder (FORMAT.md 4.2 and 5.5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple

import numpy as np

from bitwright.packing import coders, context
from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import StreamInfo, entropy_bits
from bitwright.packing.context import Shape
from bitwright.packing.positions import View
from bitwright.packing.values import CODES, Trace, Values, read_list, read_values, write_list

LARGEST_LIST = 1 << context.MOST_MAGNITUDE_BITS
_WORK = 1 << 24  # elements that the search for a stride may code in all; about a second
_LONGEST_STRIDE = 64


def strides(shape: tuple[int, ...]) -> list[int]:
    """Widths of images that the columns may stand for: kernels of convolutions, or s x s pixels of a linear layer."""
    columns = math.prod(shape[1:]) if len(shape) >= 2 else 0
    if len(shape) > 2:
        found = {shape[-1], shape[-1] * shape[-2]}
    else:
        found = {s for s in range(2, _LONGEST_STRIDE + 1) if columns and columns % (s * s) == 0}
    tries = max(0, _WORK // max(1, math.prod(shape)) - 2)
    return [0, *sorted((s for s in found if 1 < s < columns), reverse=True)[:tries]]


def write_grid(view: View, places: np.ndarray, values: Values, kind: int, stride: int) -> bytes:
    """Stride, list of values if they are codes, and the coded grid."""
    grid, bits = np.zeros(math.prod(view.lines), np.int16), -1
    head = varint(stride)
    if kind == CODES:
        table, codes = values.listed
        levels = _levels(table)
        grid[places], bits = levels[codes], _magnitude_bits(levels)
        head += write_list(table)
    else:
        grid[places] = 1
    return head + write_levels(grid, Shape(*view.lines, stride, bits, len(places)))


def write_levels(grid: np.ndarray, shape: Shape) -> bytes:
    """The coded grid of int16 levels, its size in front."""
    native = coders.native()
    payload = native.context_encode(grid, *astuple(shape)) if native else context.encode(grid, shape)
    return varint(len(payload)) + payload


def read_levels(cursor: Cursor, shape: Shape) -> np.ndarray:
    """The levels of a coded grid."""
    payload, native = cursor.take(cursor.varint()), coders.native()
    try:
        return native.context_decode(payload, *astuple(shape)) if native else context.decode(payload, shape)
    except ValueError as error:
        raise cursor.fail(str(error)) from None


def read_grid(cursor: Cursor, view: View, nonzeros: int, kind: int, trace: Trace) -> tuple[np.ndarray, Values]:
    """Places in visiting order, and their values."""
    stride, elements = cursor.varint(), math.prod(view.lines)
    if stride > view.lines[1] or elements > context.LARGEST_GRID:
        raise cursor.fail(f"a stride of {stride} in {view.lines[0]} lines of {view.lines[1]} elements", kind="sparse")
    table = read_list(cursor, LARGEST_LIST) if kind == CODES else np.empty(0, np.float32)
    levels = _levels(table)
    shape = Shape(*view.lines, stride, _magnitude_bits(levels) if kind == CODES else -1, nonzeros)
    start = cursor.position
    grid = read_levels(cursor, shape)
    places = np.flatnonzero(grid)
    if len(places) != nonzeros:
        raise cursor.fail(f"{len(places)} non-zeros in the grid, {nonzeros} expected", kind="sparse")
    values = _values_of(cursor, grid[places], levels, table)
    if trace is not None:
        entropy = entropy_bits(np.array([elements - nonzeros, nonzeros]))
        entropy += 0.0 if values is None else entropy_bits(np.bincount(values.listed[1], minlength=1))
        trace.append(StreamInfo("context", shape.magnitude_bits + 2, elements, cursor.position - start, entropy))
    return places, values or read_values(cursor, kind, nonzeros, trace=trace)


def _levels(table: np.ndarray) -> np.ndarray:
    """The level of each value: -1, -2, ... downwards from zero, 1, 2, ... upwards."""
    negatives = int(np.searchsorted(table, 0))
    levels = np.arange(len(table)) - negatives
    return np.where(levels >= 0, levels + 1, levels).astype(np.int16)


def _magnitude_bits(levels: np.ndarray) -> int:
    return int(max(1, np.abs(levels).max(initial=1)) - 1).bit_length()


def _values_of(cursor: Cursor, found: np.ndarray, levels: np.ndarray, table: np.ndarray) -> Values | None:
    """The values with these levels; None if there is no list."""
    if not len(table):
        return None
    codes = np.minimum(np.searchsorted(levels, found), len(levels) - 1)
    if (levels[codes] != found).any():
        raise cursor.fail("a level that has no value", kind="codebook")
    return Values(table[codes], table, codes.astype(np.uint16))


def smallest(tries: list[Callable[[], bytes]]) -> bytes:
    """The shortest result; the first of equals."""
    return min((make() for make in tries), key=len)
