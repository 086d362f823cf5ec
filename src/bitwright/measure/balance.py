"""Work of a sparse layer on processing elements that share its rows: EIE (Han et al. 2016), ESE (Han et al. 2017).

Row r of a matrix (R, C) belongs to element r mod P. Every element has its rows as columns of entries: values, and for
each the zeros that it skips since the entry before it in the column, in few bits. Where more zeros than these can say
lie between, a filler stands: a zero that takes a place, and a cycle, like any entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.errors import BitwrightError

INDEX_BITS = 4
"""EIE's and ESE's."""


@dataclass(frozen=True)
class Columns:
    """The rows of one element, column by column (CSC with relative indices).

    values      (n,) the entries, 0 for a filler
    skipped     (n,) zeros of the element's own rows that each skips, from 0 to 2^bits - 1
    pointers    (C + 1,) where each column begins
    """

    values: NDArray[np.float32]
    skipped: NDArray[np.int64]
    pointers: NDArray[np.int64]

    @property
    def fillers(self) -> int:
        """Entries that are zero."""
        return int((self.values == 0).sum())

    def dense(self, rows: int) -> NDArray[np.float32]:
        """The element's rows again, (rows, C)."""
        found = np.zeros((rows, len(self.pointers) - 1), np.float32)
        for column, (begin, end) in enumerate(zip(self.pointers[:-1], self.pointers[1:], strict=True)):
            places = np.cumsum(self.skipped[begin:end] + 1) - 1
            found[places, column] = self.values[begin:end]
        return found


def columns_of(matrix: NDArray[np.float32], element: int, elements: int, bits: int = INDEX_BITS) -> Columns:
    """The entries of one of so many elements for a matrix (R, C), with indices of `bits` bits."""
    own, longest = matrix[element::elements], 1 << bits
    values: list[float] = []
    skipped: list[int] = []
    pointers = [0]
    for column in own.T:
        before = -1
        for place in np.flatnonzero(column):
            zeros = int(place) - before - 1
            fillers, zeros = divmod(zeros, longest)
            values += [0.0] * fillers + [float(column[place])]
            skipped += [longest - 1] * fillers + [zeros]
            before = int(place)
        pointers.append(len(values))
    return Columns(np.array(values, np.float32), np.array(skipped, np.int64), np.array(pointers, np.int64))


def loads(matrix: NDArray[np.float32], elements: int, bits: int | None = INDEX_BITS) -> NDArray[np.int64]:
    """Entries that each element has in each column, (P, C); with `bits` None fillers don't count.

    Raises BitwrightError for what is no matrix, and for more elements than rows.
    """
    if matrix.ndim != 2:
        raise BitwrightError(f"a matrix of shape {matrix.shape}; expected rows and columns", kind="value")
    check_elements(matrix.shape[0], elements)
    if bits is None:
        return np.stack([np.count_nonzero(matrix[p::elements], 0) for p in range(elements)])
    return np.stack([np.diff(columns_of(matrix, p, elements, bits).pointers) for p in range(elements)])


def check_elements(rows: int, elements: int, where: str = "a matrix") -> None:
    """Raise BitwrightError unless there is a row for each element."""
    if isinstance(elements, bool) or not isinstance(elements, int) or not 1 <= elements <= rows:
        raise BitwrightError(
            f"{elements!r} processing elements for {where} of {rows} rows; expected a whole number from 1 to {rows}",
            kind="setting",
        )


def cycles(load: NDArray[np.int64], depth: int | None = None) -> int:
    """Until the last element is done, one entry a cycle each; load (P, C) of the columns whose input is not zero.

    The columns' inputs are broadcast one after the other, when every element's queue has room: it holds `depth` of
    them, the one in work among them. 1: all wait for the slowest of each column, sum_c max_p; None: nobody ever waits,
    max_p sum_c.
    """
    if depth is None:
        return int(load.sum(1).max())
    if type(depth) is not int or depth < 1:
        raise BitwrightError(f"a queue of depth {depth!r}; expected a whole number from 1, or None", kind="setting")
    done = np.zeros((load.shape[1] + 1, len(load)), np.int64)  # of each column, by each element
    for column in range(load.shape[1]):
        sent = int(done[max(column + 1 - depth, 0)].max())
        done[column + 1] = np.maximum(done[column], sent) + load[:, column]
    return int(done[-1].max())


def utilisation(load: NDArray[np.int64], depth: int | None = None) -> float:
    """The share of all elements' cycles in which they work: total / (P cycles); fillers are work. 1 without any."""
    whole = len(load) * cycles(load, depth)
    return float(load.sum() / whole) if whole else 1.0


def balance_of(matrix: NDArray[np.float32], elements: int) -> dict[str, Any]:
    """What a report says of a matrix (R, C): entries of each element, fillers among them, and how busy they are.

    utilisation   with queues that are deep enough, "ideal", and where all wait for each column, "broadcast"
    """
    load = loads(matrix, elements)
    fillers = int(load.sum()) - int(np.count_nonzero(matrix))
    return {
        "entries": load.sum(1).tolist(),
        "fillers": fillers,
        "utilisation": {"ideal": utilisation(load), "broadcast": utilisation(load, 1)},
    }


def index_bits(density: float, value_bits: int) -> int:
    """The width of indices with the fewest bits in all at a density: n (1 + fillers) (value + index), from 1 to 16.

    Fillers for each entry are (1 - d)^(2^b) / (1 - (1 - d)^(2^b)), for zeros that lie anywhere.
    """
    if not 0 < density <= 1:
        raise BitwrightError(f"a density of {density!r}; expected a share above 0, at most 1", kind="setting")

    def size(bits: int) -> float:
        none = math.pow(1 - density, 1 << bits)
        return (1 + none / (1 - none)) * (value_bits + bits) if none < 1 else math.inf

    return min(range(1, 17), key=size)
