"""Estimates of what weights will cost in a file, before there is one. NumPy only; the truth is the file's size.

For n weights of which m are not zero, with K different values of probabilities p_k among these:

    positions  n H(m / n) bits, H(d) = -d log2 d - (1-d) log2 (1-d): the bound for independent positions
    values     m H(p) bits where values repeat (a codebook), else 32 m
    codebook   32 K bits, 16 K where float16 holds every value
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """One tensor: how many weights, non-zeros, different non-zero values; bits for positions, values, codebook."""

    weights: int
    nonzero: int
    values: int
    position_bits: float
    value_bits: float
    codebook_bits: float

    @property
    def bytes(self) -> float:
        """All three together."""
        return (self.position_bits + self.value_bits + self.codebook_bits) / 8

    @property
    def density(self) -> float:
        """The share of weights that are not zero; 0 for none."""
        return self.nonzero / self.weights if self.weights else 0.0


def entropy_bits(counts: np.ndarray) -> float:
    """The bits that an ideal coder needs for symbols with these counts: -sum n_k log2(n_k / n)."""
    seen = np.asarray(counts, np.float64)
    seen = seen[seen > 0]
    return float(-(seen * np.log2(seen / seen.sum())).sum()) + 0.0 if seen.size else 0.0


def estimate(weights: np.ndarray) -> Estimate:
    """The estimate for one float32 tensor: the cheaper of a codebook and plain values for its non-zero weights."""
    values, counts = np.unique(weights[weights != 0], return_counts=True)
    nonzero = int(counts.sum())
    with np.errstate(over="ignore"):
        width = 16 if np.array_equal(values.astype(np.float16).astype(np.float32), values) else 32
    coded, codebook = entropy_bits(counts), float(width * len(values))
    if coded + codebook >= width * nonzero:
        coded, codebook = float(width * nonzero), 0.0
    positions = entropy_bits(np.array([nonzero, weights.size - nonzero]))
    return Estimate(int(weights.size), nonzero, len(values), positions, coded, codebook)
