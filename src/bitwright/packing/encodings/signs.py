"""Two values of one magnitude, in each output channel or in the whole tensor: 1 bit per weight.

BinaryConnect (Courbariaux et al., NIPS 2015), XNOR-Net (Rastegari et al., ECCV 2016). FORMAT.md 4.3 and 4.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bitwright.packing import context
from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import StreamInfo, coder_codes, entropy_bits, estimate_bits, read_stream, write_stream
from bitwright.packing.context import Shape
from bitwright.packing.encodings import Candidate, Content, Weight, matrix_shape
from bitwright.packing.grid import read_levels, strides, write_levels
from bitwright.packing.magnitudes import PER_CHANNEL, Magnitudes, fewest, read_flags, read_magnitudes
from bitwright.packing.profile import Profile
from bitwright.packing.values import Trace

CONTEXT = 2
_SAMPLE = 1 << 16  # bits of which the context coder must gain something before it gets them all
_WORTH = 0.97


class Signs:
    """w = a or -a."""

    name = "signs"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """A stream of bits, and the context coder where it finds something to go by."""
        rows, columns = matrix_shape(weight.shape)
        if not len(weight.numbers) or not weight.numbers[:_SAMPLE].all():
            return
        matrix = weight.numbers.reshape(rows, columns)
        first = np.abs(matrix[:, 0])
        if not first.all() or not (np.abs(matrix) == first[:, None]).all():
            return
        magnitudes = Magnitudes(fewest(first), coder_codes(profile.coders))
        bits = (weight.numbers > 0).astype(np.uint16)
        yield Candidate(
            magnitudes.bits + estimate_bits(np.bincount(bits), 1),
            lambda: magnitudes.write(0) + write_stream(bits, 1, magnitudes.coders),
        )
        if "context" in profile.positions and len(bits) <= context.LARGEST_GRID:
            share, stride = _gain(bits.reshape(rows, columns), weight.shape)
            if share < _WORTH:
                shape = Shape(rows, columns, stride, -1, int(bits.sum()))
                estimate = magnitudes.bits + share * len(bits)
                yield Candidate(estimate, lambda: magnitudes.write(CONTEXT) + _write_grid(bits, shape), slow=True)

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """Magnitudes and bits."""
        rows, columns = matrix_shape(shape)
        flags = read_flags(cursor, PER_CHANNEL | CONTEXT)
        magnitudes = read_magnitudes(cursor, rows if flags & PER_CHANNEL else 1, trace)[:, None]
        if flags & CONTEXT:
            bits = _read_grid(cursor, rows, columns, trace)
        else:
            bits = read_stream(cursor, math.prod(shape), trace, width=1)
        return Content(np.where(bits.reshape(rows, columns), magnitudes, -magnitudes).reshape(-1))


ENCODING = Signs()


def _gain(bits: np.ndarray, shape: tuple[int, ...]) -> tuple[float, int]:
    """Bits per sign that the context coder takes for the first of them with the best stride, and that stride."""
    sample = bits[: max(1, _SAMPLE // bits.shape[1])]
    lines, length = sample.shape
    ones = int(sample.sum())
    tries = [(len(_write_grid(sample, Shape(lines, length, stride, -1, ones))), stride) for stride in strides(shape)]
    size, stride = min(tries)
    return 8 * size / sample.size, stride


def _write_grid(bits: np.ndarray, shape: Shape) -> bytes:
    return varint(shape.stride) + varint(shape.nonzeros) + write_levels(bits.reshape(-1).astype(np.int16), shape)


def _read_grid(cursor: Cursor, rows: int, columns: int, trace: Trace) -> np.ndarray:
    stride, ones = cursor.varint(), cursor.varint()
    if stride > columns or ones > rows * columns or rows * columns > context.LARGEST_GRID:
        raise cursor.fail(f"a stride of {stride} and {ones} ones in {rows} lines of {columns} bits", kind="lattice")
    start = cursor.position
    grid = read_levels(cursor, Shape(rows, columns, stride, -1, ones))
    if int(grid.sum()) != ones:
        raise cursor.fail(f"{int(grid.sum())} ones among the signs, {ones} expected", kind="lattice")
    if trace is not None:
        entropy = entropy_bits(np.array([grid.size - ones, ones]))
        trace.append(StreamInfo("context", 1, grid.size, cursor.position - start, entropy))
    return grid
