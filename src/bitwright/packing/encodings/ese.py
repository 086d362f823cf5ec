"""Words of 16 bits for processing elements that share a matrix's rows: 12-bit fixed point, 4-bit relative index.

Row r belongs to element r mod P; each has its rows column by column, and a word for each entry: the value, and how many
zeros of the element's own rows it skips. Where more than 15 lie between, fillers stand: 16 (1 + fillers) bits for each
weight that is not zero, and the number of entries of every column of every element. FORMAT.md 4.8; ESE (Han et al.,
FPGA 2017). Offered only where a profile says for how many elements.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import partial

import numpy as np

from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import coder_codes, read_stream, width_of, write_stream
from bitwright.packing.encodings import Candidate, Content, Weight, matrix_shape, sparse_if_sparse
from bitwright.packing.positions import to_gaps
from bitwright.packing.profile import Profile
from bitwright.packing.values import Trace

VALUE_BITS, INDEX_BITS = 12, 4
LONGEST = (1 << INDEX_BITS) - 1
"""Zeros that a word can skip; what a filler skips."""
_EXPONENTS = (-149, 127)
"""Of steps, powers of two."""
_MOST_ROWS = 0xFFFF
"""Of an element: its entries in a column are counted in 16 bits."""


class Ese:
    """w = 2^e code, -2048 <= code <= 2047."""

    name = "ese"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """One for the profile's number of elements, if the rows are as many and one step fits all values."""
        rows, _ = matrix_shape(weight.shape)
        if profile.elements is None or len(weight.shape) < 2 or profile.elements > rows:
            return
        found = fixed_point(weight.numbers[weight.nonzero])
        if found is not None and -(-rows // profile.elements) <= _MOST_ROWS:
            bits = 16.0 * len(weight.nonzero)
            yield Candidate(bits, partial(_write, weight, profile.elements, *found, coder_codes(profile.coders)))

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """Number of elements, step, entries of the columns, words."""
        rows, columns = matrix_shape(shape)
        elements, zigzag = cursor.varint(), cursor.varint()
        exponent = zigzag >> 1 if zigzag % 2 == 0 else -(zigzag >> 1) - 1
        if not 1 <= elements <= max(rows, 1):
            raise cursor.fail(f"{elements} processing elements for {rows} rows", kind="sparse")
        if not _EXPONENTS[0] <= exponent <= _EXPONENTS[1]:
            raise cursor.fail(f"a step of 2^{exponent}", kind="sparse")
        own = (rows - np.arange(elements) + elements - 1) // elements
        counts = read_stream(cursor, elements * columns, trace).astype(np.int64).reshape(elements, columns)
        if (counts > own[:, None]).any():
            raise cursor.fail("a column with more entries than rows", kind="sparse")
        words = read_stream(cursor, int(counts.sum()), trace).astype(np.int64)
        places, codes = _entries(cursor, words, counts, own)
        with np.errstate(over="ignore"):
            values = np.ldexp(codes.astype(np.float64), exponent).astype(np.float32)
        if not np.isfinite(values).all():
            raise cursor.fail("a value that is not finite", kind="value")
        numbers = np.zeros(math.prod(shape), np.float32)
        numbers[places] = values
        return sparse_if_sparse(numbers)


ENCODING = Ese()


def fixed_point(values: np.ndarray) -> tuple[int, np.ndarray] | None:
    """The largest e and the codes (int64) with values = 2^e codes, or None where these need more than 12 bits.

    `values`: finite float32, none of them zero.
    """
    if not len(values):
        return 0, np.zeros(0, np.int64)
    mantissas, exponents = np.frexp(values.astype(np.float64))
    whole = np.ldexp(mantissas, 24).astype(np.int64)  # exact: a float32 has 24 bits
    lowest = np.log2(whole & -whole).astype(np.int64)
    exponent = int((exponents - 24 + lowest).min())
    codes = np.ldexp(values.astype(np.float64), -exponent)
    half = 1 << (VALUE_BITS - 1)
    return (exponent, codes.astype(np.int64)) if -half <= codes.min() and codes.max() < half else None


def _write(weight: Weight, elements: int, exponent: int, codes: np.ndarray, coders: Collection[int]) -> bytes:
    _, columns = matrix_shape(weight.shape)
    rows, column = np.divmod(weight.nonzero, max(columns, 1))
    line = rows % elements * columns + column
    order = np.lexsort((rows, line))
    line, local, codes = line[order], rows[order] // elements, codes[order]
    first = np.diff(line, prepend=-1) != 0
    zeros = np.where(first, local, np.diff(local, prepend=0) - 1)
    gaps, is_filler = to_gaps(np.cumsum(zeros + 1) - 1, INDEX_BITS)
    words = np.zeros(len(gaps), np.int64)
    words[~is_filler] = codes & ((1 << VALUE_BITS) - 1)
    words |= gaps.astype(np.int64) << VALUE_BITS
    counts = np.bincount(line, weights=1 + (zeros >> INDEX_BITS), minlength=elements * columns).astype(np.uint16)
    zigzag = 2 * exponent if exponent >= 0 else -2 * exponent - 1
    head = varint(elements) + varint(zigzag)
    return head + write_stream(counts, width_of(counts), coders) + write_stream(words.astype(np.uint16), 16, coders)


def _entries(cursor: Cursor, words: np.ndarray, counts: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat places and codes of what is no filler. `counts` (P, C), `own` (P,): rows of each element."""
    elements, columns = counts.shape
    line = np.repeat(np.arange(counts.size), counts.reshape(-1))
    codes = ((words & ((1 << VALUE_BITS) - 1)) ^ (1 << (VALUE_BITS - 1))) - (1 << (VALUE_BITS - 1))
    skipped = words >> VALUE_BITS
    ends = np.cumsum(counts.reshape(-1))
    passed = np.append(0, np.cumsum(skipped + 1))
    local = passed[1:] - passed[(ends - counts.reshape(-1))[line]] - 1
    element = line // max(columns, 1)
    if (local >= own[element]).any():
        raise cursor.fail("an entry beyond the rows of its element", kind="sparse")
    kept = codes != 0
    if (skipped[~kept] != LONGEST).any():
        raise cursor.fail("a filler without the widest gap", kind="sparse")
    if not kept[ends[counts.reshape(-1) > 0] - 1].all():
        raise cursor.fail("a filler at the end of a column", kind="sparse")
    places = (local * elements + element) * columns + line % max(columns, 1)
    return places[kept], codes[kept]
