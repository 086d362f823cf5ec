"""Scalar k-means on the non-zero weights of one layer: exact Lloyd steps on sorted values. NumPy only.

In one dimension the cells of nearest centroids are intervals, so with the values sorted once and their prefix sums S
at hand a whole Lloyd step costs k binary searches instead of n k distances:

    b_j = (c_j + c_{j+1}) / 2,   cut_j = #{w < b_j},   c_j = (S[cut_j] - S[cut_{j-1}]) / (cut_j - cut_{j-1})

With `entropy` lambda > 0 each value pays for its code length as well (entropy-constrained scalar quantisation, Choi et
al. 2017, section 4): minimise sum (w - c_j)^2 + lambda sigma^2 l_j with l_j = -log2 p_j, the length an ideal coder
gives to centroid j. Cells are still intervals, those of the lower envelope of the lines c_j^2 - 2 c_j w + lambda
sigma^2 l_j; centroids that reach nowhere down to the envelope disappear, so k is only the largest number of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bitwright.errors import BitwrightError

Initial = Literal["linear", "density", "random"]
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Clusters:
    """Shared weights: `codes` (their shape) is 0 for a zero and j + 1 for value j of `codebook` (float32, rising)."""

    codebook: np.ndarray
    codes: np.ndarray

    def weights(self) -> np.ndarray:
        """The shared weights, float32, shape of `codes`."""
        return np.concatenate([np.zeros(1, np.float32), self.codebook])[self.codes]


def cluster(
    weights: np.ndarray,
    clusters: int,
    *,
    initial: Initial = "linear",
    entropy: float = 0.0,
    iterations: int = 10_000,
    seed: int = 0,
) -> Clusters:
    """Share the non-zero `weights` (float32, any shape, finite) among at most `clusters` values; zeros stay apart.

    initial   linear: evenly spaced from the smallest to the largest weight, so that the few large weights, which matter
              most, get centroids of their own (Han et al. 2016, section 3.2: the best of the three); density: the
              quantiles (i + 0.5) / k; random: k of the weights, drawn with `seed` (Forgy).
    entropy   lambda, in units of the variance sigma^2 of the non-zero weights per bit; 0 is plain k-means.
    iterations at most; Lloyd stops by itself when no value changes its cell. A step costs a fraction of a millisecond.

    An empty cell keeps its centroid while Lloyd runs; centroids that nobody uses are left out of the result. Weights
    with at most `clusters` different values are taken as they are.

    Memory: 20 bytes per weight besides the input (sorted copy, float64 prefix sums, codes, a mask).
    """
    if clusters < 1:
        raise BitwrightError(f"{clusters} clusters: at least 1 is needed")
    if clusters > 65535:
        raise BitwrightError(f"{clusters} clusters: at most 65535 fit the 16-bit codes; leave such a layer unshared")
    ordered = weights[weights != 0]
    ordered.sort()
    if not len(ordered):
        return Clusters(np.zeros(0, np.float32), np.zeros(weights.shape, np.uint8))
    distinct = _distinct(ordered, clusters)
    if distinct is not None:
        return Clusters(distinct, _codes(weights, distinct[1:]))
    penalty = entropy * float(np.var(ordered, dtype=np.float64)) if entropy else 0.0
    start = _initial(ordered, clusters, initial, seed)
    sums = np.zeros(len(ordered) + 1)
    np.cumsum(ordered, dtype=np.float64, out=sums[1:])
    if entropy:
        bounds, cuts = _constrained(ordered, sums, start, penalty, iterations)
    else:
        bounds, cuts = _lloyd(ordered, sums, start, iterations)
    del sums
    ends = np.concatenate([[0], cuts, [len(ordered)]])
    used = np.diff(ends) > 0
    codebook = (np.add.reduceat(ordered, ends[:-1][used], dtype=np.float64) / np.diff(ends)[used]).astype(np.float32)
    del ordered
    # Two used cells are separated by the bound just below the upper one.
    return Clusters(codebook, _codes(weights, bounds[np.flatnonzero(used)[1:] - 1]))


def _distinct(ordered: np.ndarray, clusters: int) -> np.ndarray | None:
    """The different values where they are no more than `clusters`."""
    changes = ordered[1:] != ordered[:-1]
    if np.count_nonzero(changes) >= clusters:
        return None
    return ordered[np.concatenate([[0], np.flatnonzero(changes) + 1])]


def _initial(ordered: np.ndarray, clusters: int, initial: Initial, seed: int) -> np.ndarray:
    if initial == "linear":
        return np.linspace(float(ordered[0]), float(ordered[-1]), clusters)
    if initial == "density":
        return np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters).astype(np.float64)
    if initial == "random":
        picks = np.random.default_rng(seed).choice(len(ordered), clusters, replace=False, shuffle=False)
        return ordered[np.sort(picks)].astype(np.float64)
    raise BitwrightError(f"initial={initial!r}: expected 'linear', 'density' or 'random'")


def _cut(ordered: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds as float32 (so that both searches compare like with like) and how many values lie below each."""
    rounded = bounds.astype(np.float32)
    return rounded, np.searchsorted(ordered, rounded, side="left")


def _lloyd(
    ordered: np.ndarray, sums: np.ndarray, centroids: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    bounds, cuts = _cut(ordered, (centroids[:-1] + centroids[1:]) / 2)
    for _ in range(iterations):
        ends = np.concatenate([[0], cuts, [len(ordered)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        centroids = np.where(counts > 0, means, centroids)
        before = cuts
        bounds, cuts = _cut(ordered, (centroids[:-1] + centroids[1:]) / 2)
        if np.array_equal(before, cuts):
            break
    return bounds, cuts


def _constrained(
    ordered: np.ndarray, sums: np.ndarray, centroids: np.ndarray, penalty: float, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd with code lengths; `penalty` = lambda sigma^2 per bit. Alternates cells, centroids, lengths."""
    centroids = np.unique(centroids)
    lengths = np.full(len(centroids), np.log2(len(centroids)))
    bounds, cuts = _cut(ordered, _envelope(centroids, penalty * lengths))
    for _ in range(iterations):
        ends = np.concatenate([[0], cuts, [len(ordered)]])
        counts = np.diff(ends)
        used = counts > 0
        centroids = np.diff(sums[ends])[used] / counts[used]
        lengths = -np.log2(counts[used] / len(ordered))
        before = cuts
        bounds, cuts = _cut(ordered, _envelope(centroids, penalty * lengths))
        if np.array_equal(before, cuts):
            break
    return bounds, cuts


def _envelope(centroids: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """The bounds between the cells of those centroids (rising) that are the cheapest somewhere.

    Costs less w^2 are the lines c^2 - 2 c w + penalty, of falling slope, so the lower envelope visits them in order. A
    stack holds it; a line is popped when the next one undercuts it before its own cell begins.
    """
    stack = [0]
    bounds: list[float] = []
    for j in range(1, len(centroids)):
        c, p = float(centroids[j]), float(penalties[j])
        if c <= centroids[stack[-1]]:  # two means that rounding made equal
            continue
        while True:
            i = stack[-1]
            crossing = (c + centroids[i]) / 2 + (p - penalties[i]) / (2 * (c - centroids[i]))
            if not bounds or crossing > bounds[-1]:
                break
            stack.pop()
            bounds.pop()
        bounds.append(crossing)
        stack.append(j)
    return np.asarray(bounds)


def _codes(weights: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """1 + the number of bounds at or below each weight, 0 for zeros; in blocks, so that no wide temporary is made."""
    codes = np.empty(weights.size, np.uint8 if len(bounds) < 255 else np.uint16)
    flat = weights.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        found = np.searchsorted(bounds, block, side="right") + 1
        found[block == 0] = 0
        codes[start : start + _BLOCK] = found
    return codes.reshape(weights.shape)
