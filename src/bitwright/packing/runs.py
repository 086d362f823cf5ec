"""Matrices whose rows share a few values of each short run of columns: product quantisation, found from the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST = 256
"""Values of a run."""
WIDTHS = (2, 4, 8, 3, 6, 5, 7)
"""Of runs, in the order in which they are tried."""


@dataclass(frozen=True)
class Runs:
    """w[o][width r + j] = books[r][codes[o][r]][j].

    codes    uint8 (rows, runs)
    books    float32 (runs, count, width); of each run `sizes` (runs,) are used, in ascending order of their numbers
             (the first decides, then the second, ...), the others are zero; beyond the last column so are all
    """

    width: int
    codes: np.ndarray
    books: np.ndarray
    sizes: np.ndarray


def find_runs(matrix: np.ndarray, width: int, most: int = MOST) -> Runs | None:
    """The runs of a float32 matrix (rows, columns) without -0.0, or None where a run has more than `most` values."""
    rows, columns = matrix.shape
    if not rows or not columns:
        return None
    padded = np.pad(matrix, ((0, 0), (0, -columns % width)))
    parts = padded.reshape(rows, -1, width).transpose(1, 0, 2)
    codes, books = np.empty((rows, len(parts)), np.uint8), []
    for run, part in enumerate(parts):
        book, code = _distinct(np.ascontiguousarray(part))
        if len(book) > most:
            return None
        codes[:, run] = code
        books.append(book)
    sizes = np.array([len(book) for book in books])
    whole = np.zeros((len(books), int(sizes.max()), width), np.float32)
    for run, book in enumerate(books):
        whole[run, : len(book)] = book
    return Runs(width, codes, whole, sizes)


def _distinct(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows in ascending order, and which each is."""
    order = np.lexsort(part.T[::-1])
    ordered = part[order]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(1))
    codes = np.empty(len(part), np.int64)
    codes[order] = np.cumsum(new) - 1
    return ordered[new], codes
