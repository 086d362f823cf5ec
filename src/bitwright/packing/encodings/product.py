"""A few values for each short run of columns, and which of them each row has: log2 K bits per run.

Product quantisation (Gong, Liu, Yang, Bourdev, 2014): K values of d columns each take 32 K per column besides.
FORMAT.md 4.7.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial

import numpy as np

from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import coder_codes, estimate_bits, read_stream, width_of, write_stream
from bitwright.packing.encodings import Candidate, Content, Weight, matrix_shape
from bitwright.packing.profile import Profile
from bitwright.packing.runs import MOST, WIDTHS, Runs, find_runs
from bitwright.packing.values import FLOAT16, FLOAT32, Trace, Values, read_values

_LEAST_ROWS = 4
"""Times as many rows as a run has values: with fewer nothing is saved."""
_FEW = 32
"""A tensor of so few different numbers is better told one by one: `codebook` and others."""


class Product:
    """w[o][d r + j] = books[r][codes[o][r]][j]."""

    name = "product"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """One for each width of runs with few enough values."""
        rows, columns = matrix_shape(weight.shape)
        matrix = weight.numbers.reshape(rows, columns)
        most = min(MOST, rows // _LEAST_ROWS)
        if (table := weight.values.table) is not None and len(table) <= _FEW:
            return
        for width in WIDTHS:
            if most >= 2 and width <= columns and (runs := find_runs(matrix, width, most)) is not None:
                coders = coder_codes(profile.coders)
                values = Values.of(_listed(runs, columns))
                kind = FLOAT16 if values.fits(FLOAT16) else FLOAT32
                bits = estimate_bits(np.bincount(runs.codes.reshape(-1)), width_of(runs.codes)) + values.estimate(kind)
                yield Candidate(bits + 8 * len(runs.sizes), partial(_write, runs, values, kind, coders))

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """Width, sizes, values, codes."""
        rows, columns = matrix_shape(shape)
        kind = cursor.u8()
        if kind not in (FLOAT32, FLOAT16):
            raise cursor.fail(f"values of kind {kind}", kind="codebook")
        width = cursor.varint()
        if not 1 <= width <= max(WIDTHS) or width > columns:
            raise cursor.fail(f"runs of {width} columns, expected 1 to {min(max(WIDTHS), columns)}", kind="codebook")
        count = -(-columns // width)
        sizes = read_stream(cursor, count, trace, width=8).astype(np.int64) + 1
        last = columns - (count - 1) * width
        listed = read_values(cursor, kind, int(sizes[:-1].sum()) * width + int(sizes[-1]) * last, trace=trace).numbers
        codes = read_stream(cursor, rows * count, trace, width=8).reshape(rows, count)
        if len(codes) and (codes >= sizes).any():
            raise cursor.fail("a code without a value", kind="codebook")
        return Content(_looked_up(cursor, listed, sizes, codes, width, columns))


ENCODING = Product()


def _listed(runs: Runs, columns: int) -> np.ndarray:
    """The numbers of all values, run by run, without what lies beyond the last column."""
    last = columns - (len(runs.sizes) - 1) * runs.width
    whole = [book[:size].reshape(-1) for book, size in zip(runs.books[:-1], runs.sizes[:-1], strict=True)]
    return np.concatenate([*whole, runs.books[-1, : runs.sizes[-1], :last].reshape(-1)])


def _write(runs: Runs, values: Values, kind: int, coders: Collection[int]) -> bytes:
    sizes = (runs.sizes - 1).astype(np.uint8)
    head = bytes([kind]) + varint(runs.width) + write_stream(sizes, width_of(sizes), coders)
    codes = runs.codes.reshape(-1)
    return head + values.write(kind, coders) + write_stream(codes, width_of(codes), coders)


def _looked_up(
    cursor: Cursor, listed: np.ndarray, sizes: np.ndarray, codes: np.ndarray, width: int, columns: int
) -> np.ndarray:
    """The matrix, flat; refuses values that are not in ascending order."""
    matrix = np.empty((len(codes), columns), np.float32)
    start = 0
    for run, size in enumerate(sizes):
        here = min(width, columns - run * width)
        book = listed[start : start + size * here].reshape(size, here)
        start += size * here
        before, after = book[:-1], book[1:]
        first = (before != after).argmax(1)[:, None] if here > 1 else np.zeros((len(before), 1), np.int64)
        if not (np.take_along_axis(before, first, 1) < np.take_along_axis(after, first, 1)).all():
            raise cursor.fail(f"the values of run {run} are not in ascending order", kind="codebook")
        matrix[:, run * width : run * width + here] = book[codes[:, run]]
    return matrix.reshape(-1)
