"""Whole numbers times a step, of the tensor or of each output channel: k bits per weight, less after entropy coding.

Fixed point and integer quantisation (Vanhoucke et al. 2011; Jacob et al., CVPR 2018), DoReFa's half-integer grids (odd
multiples of half a step), zero points (in `first`), power-of-two steps. FORMAT.md 4.3 and 4.6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import coder_codes, estimate_bits, read_stream, width_of, write_stream
from bitwright.packing.encodings import Candidate, Content, Weight, matrix_shape, sparse_if_sparse
from bitwright.packing.lattice import find_multiples
from bitwright.packing.magnitudes import PER_CHANNEL, Magnitudes, read_flags, read_magnitudes
from bitwright.packing.profile import Profile
from bitwright.packing.values import Trace

LARGEST = (1 << 15) - 1
_EXACT = 1 << 24  # whole numbers up to it are exact in float32


class Fixed:
    """w = float32(step * (first + stride * code))."""

    name = "fixed"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """One step for all, or else one for each channel."""
        rows, columns = matrix_shape(weight.shape)
        if not len(weight.nonzero):
            return
        for shape in dict.fromkeys([(1, rows * columns), (rows, columns)]):
            found = find_multiples(weight.numbers.reshape(shape), LARGEST)
            if found is None:
                continue
            first, stride, codes = _affine(found[0].reshape(-1))
            magnitudes = Magnitudes([found[1]], coder_codes(profile.coders))
            estimate = magnitudes.bits + 16 + estimate_bits(np.bincount(codes), width_of(codes))
            yield Candidate(estimate, partial(_write, magnitudes, first, stride, codes))
            return

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """First multiple, stride, steps, codes. Mostly zeros: the content also comes as non-zeros."""
        rows, columns = matrix_shape(shape)
        flags = read_flags(cursor, PER_CHANNEL)
        zigzag, stride = cursor.varint(), cursor.varint()
        first = zigzag >> 1 if zigzag % 2 == 0 else -(zigzag >> 1) - 1
        steps = read_magnitudes(cursor, rows if flags & PER_CHANNEL else 1, trace)
        codes = read_stream(cursor, math.prod(shape), trace)
        last = first + stride * int(codes.max(initial=0))
        if not stride or max(abs(first), abs(last), stride) > _EXACT:
            raise cursor.fail(f"multiples from {first} to {last} with stride {stride}", kind="lattice")
        multiples = (first + stride * codes.astype(np.int32)).astype(np.float32)
        with np.errstate(over="ignore"):
            numbers = (multiples.reshape(rows, columns) * steps[:, None]).reshape(-1)
        if not np.isfinite(numbers).all():
            raise cursor.fail("a value that is not finite", kind="value")
        return sparse_if_sparse(numbers)


ENCODING = Fixed()


def _affine(multiples: np.ndarray) -> tuple[int, int, np.ndarray]:
    """The smallest multiple, the largest number that divides all distances from it, and the codes (uint16)."""
    first = int(multiples.min())
    distances = multiples.astype(np.int32) - first
    stride = int(np.gcd.reduce(np.flatnonzero(np.bincount(distances)))) or 1
    return first, stride, (distances // stride).astype(np.uint16)


def _write(magnitudes: Magnitudes, first: int, stride: int, codes: np.ndarray) -> bytes:
    zigzag = 2 * first if first >= 0 else -2 * first - 1
    head = magnitudes.write(0, varint(zigzag) + varint(stride))
    return head + write_stream(codes, width_of(codes), magnitudes.coders)
