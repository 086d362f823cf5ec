"""Family of the passes that training makes over activations, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bitwright import _native
from fuzz.trial import Array, Call, Random, chance, count, pick


def training(random: Random) -> Call:
    """Signs, shifts, RPReLU and their gradients."""
    shape = _, channels = count(random, 1, 3000), count(random, 1, 90)
    half = chance(random)
    x, g = (_rounded(random.standard_normal(shape).astype(np.float32), half) for _ in range(2))
    before, slope, after = (random.standard_normal(channels).astype(np.float32) for _ in range(3))
    d = x - before
    curve = chance(random)
    stored = [_stored(t, half) for t in (x, g)]
    kind = pick(random, "sign", "sign back", "shift", "sum", "rprelu", "rprelu back")
    if kind == "sign":
        return _call(kind, lambda y, s, t: _native.training_sign(stored[0], y, t), np.where(x >= 0, 1, -1), half)
    if kind == "sign back":
        y = (2 - 2 * np.abs(x)).clip(0) * g if curve else np.where(np.abs(x) < 1, g, 0)
        return _call(f"{kind} {curve}", lambda y, s, t: _native.training_sign_back(*stored, y, curve, t), y, half)
    if kind == "shift":
        return _call(kind, lambda y, s, t: _native.training_shift(stored[0], before, y, t), d, half)
    if kind == "sum":
        return _call(kind, lambda y, s, t: _native.training_sum(stored[0], s, t), np.zeros(shape), half, [x])
    if kind == "rprelu":
        y = np.where(d > 0, d, slope * d) + after
        return _call(kind, lambda y, s, t: _native.training_rprelu(stored[0], before, slope, after, y, t), y, half)
    y = np.where(d > 0, g, slope * g)
    sums = [y, d.clip(max=0) * g, g]
    return _call(kind, lambda y, s, t: _native.training_rprelu_back(*stored, before, slope, y, s, t), y, half, sums)


def _call(
    kind: str, call: Callable[[Array, Array, int], None], y: Array, half: bool, summed: list[Array] | None = None
) -> Call:
    """A pass that gives y, and the sums per channel of `summed`."""
    wanted = y.astype(np.float32)

    def run(threads: int) -> list[Array]:
        result = _stored(np.zeros_like(wanted), half)
        sums = np.full((len(summed or [wanted]), wanted.shape[1]), np.nan, np.float32)
        call(result, sums if kind != "sum" else sums[0], threads)
        return [result, sums]

    def check(found: list[Array]) -> None:
        np.testing.assert_array_equal(found[0], _stored(wanted, half))
        for sums, terms in zip(found[1], summed or [], strict=False):
            scale = 1e-6 * np.abs(terms).sum(0, dtype=np.float64) + 1e-6
            assert (np.abs(sums - terms.sum(0, dtype=np.float64)) <= scale).all(), "sums"

    return Call(run, check, f"{kind} {wanted.shape} {'bfloat16' if half else 'float32'}")


def _stored(x: Array, half: bool) -> Array:
    """As the passes take it: bfloat16 as 16-bit integers, the nearest, ties to even."""
    if not half:
        return np.ascontiguousarray(x)
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(np.int16)


def _rounded(x: Array, half: bool) -> Array:
    return (_stored(x, half).view(np.uint16).astype(np.uint32) << 16).view(np.float32) if half else x
