"""Weights of fewer bits that are the top bits of stored ones.

On the nested grid of B bits, whose step s follows from the weights themselves,

    w = s (2 c + 1 - 2^B),   c = 0 .. 2^B - 1,   s = max |w| / (2^B - 1)

c >> (B - k) is the code of k bits, and the middle of its interval is w_k = 2^(B-k) s (2 (c >> (B - k)) + 1 - 2^k).
FORMAT.md 2.1 fixes this arithmetic; `bitwright.precisions` has the same for tensors.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
MOST_BITS = 8


def codes(weight: Array, bits: int) -> Array | None:
    """The code of each weight (int16) if all of them, float32, are on the nested grid of so many bits; else None.

    A weight of zeros alone has step 0 and is on every grid.
    """
    step = step_of(weight, bits)
    if step == 0:
        return np.zeros(weight.shape, np.int16)
    odd = np.rint((weight / step + np.float32((1 << bits) - 1)) / 2)
    back = (2 * odd + np.float32(1 - (1 << bits))) * step
    inside = bool((odd >= 0).all() and (odd < 1 << bits).all())
    return odd.astype(np.int16) if inside and np.array_equal(back, weight) else None


def step_of(weight: Array, bits: int) -> np.float32:
    """s."""
    return np.float32(np.abs(weight).max(initial=0) / np.float32((1 << bits) - 1))


def truncated(weight: Array, top: int, bits: int) -> Array | None:
    """The weight of `bits` bits, float32, of one on the nested grid of `top` bits; None for one that is not."""
    found = codes(weight, top)
    if found is None:
        return None
    step = step_of(weight, top) * np.float32(1 << (top - bits))
    whole: Array = (2 * (found >> (top - bits)) + (1 - (1 << bits))).astype(np.float32) * step
    return whole
