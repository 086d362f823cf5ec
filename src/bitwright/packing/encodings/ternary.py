"""Zero, a number above and one below it, in each output channel or in the whole tensor: at most 1.6 bits per weight.

TWN (Li, Zhang, Liu, 2016): one magnitude; TTQ (Zhu et al., ICLR 2017): two. With a share d of non-zeros and even signs
the entropy is H(d) + d bits, at most log2(3) = 1.585. FORMAT.md 4.3 and 4.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from bitwright.packing.bits import Cursor
from bitwright.packing.coders import coder_codes, estimate_bits, read_stream, write_stream
from bitwright.packing.encodings import Candidate, Content, Weight, matrix_shape, sparse_if_sparse
from bitwright.packing.lattice import find_ternary
from bitwright.packing.magnitudes import PER_CHANNEL, Magnitudes, read_flags, read_magnitudes
from bitwright.packing.profile import Profile
from bitwright.packing.values import Trace

TWO_MAGNITUDES, FIVES = 2, 4
_POWERS = np.array([1, 3, 9, 27, 81], np.uint16)
_DIGITS = (np.arange(243)[:, None] // _POWERS % 3).astype(np.uint8)  # the five trits of each byte


class Ternary:
    """w = p, 0 or -n."""

    name = "ternary"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """The trits one by one, and five in a byte."""
        if not len(weight.nonzero):
            return
        found = find_ternary(weight.numbers.reshape(matrix_shape(weight.shape)))
        if found is None:
            return
        lists = _lists(*found)
        magnitudes = Magnitudes(lists, coder_codes(profile.coders))
        trits = (found[0].reshape(-1) % 3).astype(np.uint8)
        fives = np.pad(trits, (0, -len(trits) % 5)).reshape(-1, 5) @ _POWERS
        for symbols, width, flag in ((trits, 2, 0), (fives, 8, FIVES)):
            flags = flag | TWO_MAGNITUDES * (len(lists) == 2)
            estimate = magnitudes.bits + estimate_bits(np.bincount(symbols), width)
            yield Candidate(estimate, partial(_write, magnitudes, flags, symbols, width))

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """Magnitudes and trits. Mostly zeros: the content also comes as non-zeros."""
        rows, columns = matrix_shape(shape)
        flags = read_flags(cursor, PER_CHANNEL | TWO_MAGNITUDES | FIVES)
        count = rows if flags & PER_CHANNEL else 1
        positive = read_magnitudes(cursor, count, trace)
        negative = read_magnitudes(cursor, count, trace) if flags & TWO_MAGNITUDES else positive
        trits = (_read_fives if flags & FIVES else _read_trits)(cursor, rows * columns, trace)
        if count == 1:
            table = np.array([0, positive[0], -negative[0]], np.float32)
            return sparse_if_sparse(table[trits], np.unique(table[1:]))
        table = np.stack([np.zeros(count, np.float32), positive, -negative], axis=1)
        starts = 3 * np.arange(rows, dtype=np.int32)[:, None]
        return sparse_if_sparse(table.reshape(-1)[trits.reshape(rows, columns) + starts].reshape(-1))


ENCODING = Ternary()


def _lists(trits: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> list[np.ndarray]:
    """As few magnitudes as will do: where a channel uses none of a sort, any will."""
    above, below = positive[(trits > 0).any(axis=1)], negative[(trits < 0).any(axis=1)]
    if (above == above[:1]).all() and (below == below[:1]).all():
        positive = above[:1] if len(above) else below[:1]
        negative = below[:1] if len(below) else above[:1]
    return [positive] if np.array_equal(positive, negative) else [positive, negative]


def _write(magnitudes: Magnitudes, flags: int, symbols: np.ndarray, width: int) -> bytes:
    return magnitudes.write(flags) + write_stream(symbols, width, magnitudes.coders)


def _read_trits(cursor: Cursor, count: int, trace: Trace) -> np.ndarray:
    trits = read_stream(cursor, count, trace, width=2)
    if len(trits) and int(trits.max()) > 2:
        raise cursor.fail("a trit of 3", kind="lattice")
    return trits


def _read_fives(cursor: Cursor, count: int, trace: Trace) -> np.ndarray:
    fives = read_stream(cursor, -(-count // 5), trace, width=8)
    if len(fives) and int(fives.max()) >= 243:
        raise cursor.fail(f"five trits of {int(fives.max())}, 242 is the largest", kind="lattice")
    trits = _DIGITS[fives].reshape(-1)
    if trits[count:].any():
        raise cursor.fail("a trit beyond the last", kind="lattice")
    return trits[:count]
