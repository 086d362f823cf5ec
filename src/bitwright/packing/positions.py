"""Where the non-zeros of a sparse matrix are: live rows and columns, visiting order, relative gaps (FORMAT.md 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDEST_INDEX = 16


@dataclass(frozen=True)
class View:
    """A matrix without its left-out rows and columns, visited row by row or column by column.

    `rows` and `columns` are masks of what is kept (None: all) of a matrix of `shape`; `transposed`: column by column.
    """

    shape: tuple[int, int]
    transposed: bool
    rows: np.ndarray | None
    columns: np.ndarray | None

    @property
    def lines(self) -> tuple[int, int]:
        """Number of lines that are visited one after the other, and their length."""
        r = self.shape[0] if self.rows is None else int(self.rows.sum())
        c = self.shape[1] if self.columns is None else int(self.columns.sum())
        return (c, r) if self.transposed else (r, c)

    @property
    def _is_plain(self) -> bool:
        return not self.transposed and self.rows is None and self.columns is None

    @property
    def masks(self) -> list[np.ndarray]:
        """The masks that are stored."""
        return [mask for mask in (self.rows, self.columns) if mask is not None]

    def visit(self, flat: np.ndarray) -> np.ndarray:
        """Places in visiting order of the elements at `flat` (row-major, whole matrix); unsorted if transposed."""
        if self._is_plain:
            return flat
        r, c = np.divmod(flat, max(1, self.shape[1]))
        if self.rows is not None:
            r = (np.cumsum(self.rows) - 1)[r]
        if self.columns is not None:
            c = (np.cumsum(self.columns) - 1)[c]
        length = self.lines[1]
        return c * length + r if self.transposed else r * length + c

    def flat(self, places: np.ndarray) -> np.ndarray:
        """The inverse of `visit`."""
        if self._is_plain:
            return places
        first, second = np.divmod(places, max(1, self.lines[1]))
        r, c = (second, first) if self.transposed else (first, second)
        if self.rows is not None:
            r = np.flatnonzero(self.rows)[r]
        if self.columns is not None:
            c = np.flatnonzero(self.columns)[c]
        return r * self.shape[1] + c


def to_gaps(places: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Relative index of `width` bits: gaps (uint16) of all entries, and which entries are fillers.

    A non-zero after z zeros becomes floor(z / 2^b) fillers with gap 2^b - 1, then an entry with gap z mod 2^b:

    >>> to_gaps(np.array([1, 4, 15]), 3)[0].tolist()
    [1, 2, 7, 2]
    """
    zeros = np.diff(places, prepend=-1) - 1
    fillers = zeros >> width
    last = np.cumsum(fillers + 1) - 1  # where each non-zero's own entry comes to lie
    size = int(last[-1]) + 1 if len(last) else 0
    gaps, is_filler = np.full(size, (1 << width) - 1, np.uint16), np.ones(size, bool)
    gaps[last] = zeros & ((1 << width) - 1)
    is_filler[last] = False
    return gaps, is_filler


def from_gaps(gaps: np.ndarray) -> np.ndarray:
    """Places of all entries, fillers included: p_i = p_(i-1) + 1 + gap_i (Han's decoder: `cumsum(z + 1) - 1`)."""
    return np.cumsum(gaps.astype(np.int64) + 1) - 1


def gap_counts(zeros: np.ndarray, times: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Counts of the gap symbols, and number of fillers, if `zeros[i]` zeros come before a non-zero `times[i]` times."""
    fillers = int(((zeros >> width) * times).sum())
    counts = np.bincount(zeros & ((1 << width) - 1), weights=times, minlength=1 << width).astype(np.int64)
    counts[-1] += fillers
    return counts, fillers
