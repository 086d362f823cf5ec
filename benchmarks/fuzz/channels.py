"""Families of operations that join channels (norms, maxout, concatenation), and of curves, which have no exact bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bitwright import _native
from fuzz.trial import Array, Random, Trial, count, exactly, odd_floats, pick

_CURVES = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, 0.5 * np.expm1(x)),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "gelu": lambda x: x / 2 * np.vectorize(math.erfc, otypes=[float])(x * -math.sqrt(0.5)),
}


def joined(random: Random) -> Trial:
    """Response and group norm, maxout, concatenation, curves."""
    batch, pixels, groups, width = (count(random, 1, most) for most in (3, 60, 6, 40))
    shape = (batch, pixels, groups * width)
    kind = pick(random, "response", "groups", "maxout", "concat", *_CURVES)
    if kind == "maxout":
        x = odd_floats(random, batch, pixels, groups, width)
        return exactly(lambda: _native.MaxoutOp(pixels * groups, width), [x], x.max(axis=3), f"{x.shape}")
    if kind == "concat":
        parts = [odd_floats(random, batch, pixels, count(random, 1, 40)) for _ in range(count(random, 1, 9))]
        sizes = [part.shape[2] for part in parts]
        return exactly(lambda: _native.ConcatOp(pixels, sizes), parts, np.concatenate(parts, axis=2), f"{sizes}")
    x = random.standard_normal(shape).astype(np.float32)
    wide = x.astype(np.float64)
    if kind == "groups":
        split = wide.reshape(batch, pixels, groups, width)
        centred = split - split.mean(axis=(1, 3), keepdims=True)
        y = centred / np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + 1e-5)
        return _near(lambda: _native.GroupNormOp(pixels, groups * width, groups, 1e-5), x, y, f"{shape} {groups}")
    if kind == "response":
        size, beta = count(random, 1, 12), pick(random, 0.75, 0.5)
        padded = np.pad(wide**2, [(0, 0), (0, 0), (size // 2, size)])
        sums = sum(padded[..., i : i + shape[2]] for i in range(size))
        how = (size, 0.5, beta, 2.0)
        y = wide / (2 + 0.5 * sums) ** beta
        return _near(lambda: _native.ResponseNormOp(pixels, shape[2], *how), x, y, f"{shape} {how}")
    with np.errstate(all="ignore"):
        y = _CURVES[kind](10 * wide)
    return _near(lambda: _native.CurveOp(kind, math.prod(shape[1:]), 0.5), 10 * x, y, f"{kind} {shape}")


def _near(make: Callable[[], Any], x: Array, y: Array, shape: str) -> Trial:
    def check(found: list[Array]) -> None:
        np.testing.assert_allclose(found[0].view(np.float32).reshape(-1), y.reshape(-1), rtol=1e-5, atol=1e-6)

    return Trial(make, [x], len(x), check, shape)
