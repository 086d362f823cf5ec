"""What becomes of sums: random endings and codes, and what they make of exact sums and of floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright import _native
from fuzz.shapes import Layout, margins
from fuzz.trial import Array, Check, Random, chance, compare, pick

TOLERANCE = 1e-5
"""|found - exact| <= this * sum |x| |w|: the error of n additions in any order grows like sqrt(n) * 2^-24."""


def vector(random: Random, channels: int) -> Array:
    """Per channel; sometimes whole numbers, so that boundaries are met exactly, sometimes zeros."""
    if chance(random):
        return random.integers(-3, 4, channels).astype(np.float32)
    return random.standard_normal(channels).astype(np.float32)


def sloped(y: Array, scale: Array, shift: Array, slope: Array, after_scale: Array, after_shift: Array) -> Array:
    """What `_native.Prelu` says."""
    z = y * scale + shift
    return np.where(z >= 0, z, z * slope) * after_scale + after_shift


def random_prelu(random: Random, channels: int) -> dict[str, Array]:
    """The vectors of a `_native.Prelu`."""
    return {name: vector(random, channels) for name in ("scale", "shift", "slope", "after_scale", "after_shift")}


@dataclass
class Ending:
    """A random `Finish`, and what it makes of sums in float32, every operation rounded by itself."""

    channels: int
    vectors: dict[str, Array]
    relu: bool
    residual: Array | None
    prelu: dict[str, Array]
    limits: tuple[float, float] | None = None
    out: bool = True
    encode: Coder | None = None

    def native(self) -> Any:
        encode = self.encode.native() if self.encode else None
        given: dict[str, Any] = {**self.vectors, "relu": self.relu, "residual": self.residual is not None}
        given |= {"prelu": _native.Prelu(**self.prelu) if self.prelu else None, "limits": self.limits}
        return _native.Finish(self.channels, **given, out=self.out, encode=encode)

    def inputs(self) -> list[Array]:
        return [] if self.residual is None else [self.residual]

    def scaled(self, sums: Array, negative_sums: Array | None = None) -> Array:
        y = sums.astype(np.float32)
        if "multiplier" in self.vectors:
            y = y * self.vectors["multiplier"]
        if negative_sums is not None:
            y = y - negative_sums.astype(np.float32) * self.vectors["negative"]
        return self.rest(y)

    def rest(self, y: Array) -> Array:
        """In the type of y."""
        for name in ("bias", "scale", "shift"):
            if name in self.vectors:
                y = y * self.vectors[name] if name == "scale" else y + self.vectors[name]
        if self.residual is not None:
            y = y + self.residual.reshape(y.shape)
        y = np.maximum(y, y.dtype.type(0)) if self.relu else y
        y = sloped(y, **self.prelu) if self.prelu else y
        return y if self.limits is None else np.clip(y, *map(y.dtype.type, self.limits))

    def check(self, y: Array) -> Check:
        """That the outputs are the floats y, and their codes."""
        expected: list[tuple[Array, int]] = []
        if self.out:
            expected.append((np.ascontiguousarray(y.reshape(len(y), -1)).view(np.uint8), 4 * y[0].size))
        if self.encode:
            expected.append((self.encode.layout.pack(self.encode.codes(y)), self.encode.layout.used()))
        return lambda found: compare(found, expected, floats=self.out)


@dataclass(frozen=True)
class Coder:
    """A random `Encode`."""

    kind: str
    layout: Layout
    scale: Array | None
    shift: Array | None
    reciprocal: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def native(self) -> Any:
        return _native.Encode(
            self.kind,
            self.layout.native(),
            scale=self.scale,
            shift=self.shift,
            reciprocal=self.reciprocal,
            low=self.low,
            high=self.high,
        )

    def codes(self, y: Array) -> Array:
        z = y if self.scale is None else y * self.scale + self.shift
        if self.kind == "sign":
            return (z >= 0).astype(np.uint8)
        m = np.rint(z * np.float32(self.reciprocal))
        return np.where(m > self.low, np.minimum(m, np.float32(self.high)) - np.float32(self.low), 0).astype(np.uint8)


def random_coder(random: Random, size: tuple[int, int], channels: int, spread: float) -> Coder:
    """For numbers whose size is about `spread`."""
    kind = pick(random, "sign", "sign", "quantize")
    planes = 1 if kind == "sign" else pick(random, 1, 2, 3, 4)
    if chance(random, 0.3):
        planes = 0
    divisors = [g for g in (1, 1, 2, 3, 4, channels) if channels % g == 0]
    layout = Layout(*size, channels, pick(random, *divisors), margins(random), planes)
    affine = chance(random, 0.4)
    scale, shift = (vector(random, channels) if affine else None for _ in range(2))
    if kind == "sign":
        return Coder(kind, layout, scale, shift)
    levels = (1 << (planes or 8)) - 1
    low = float(random.integers(-levels, 1))
    reciprocal = float(np.float32(1) / np.float32(random.uniform(0.1, 1) * max(spread, 1e-3) / levels * 4))
    return Coder(kind, layout, scale, shift, reciprocal, low, low + float(random.integers(1, levels + 1)))


def random_ending(random: Random, shape: tuple[int, ...], exact: bool, sums: Array | None = None) -> Ending:
    """For outputs (N, ..., C); `exact`: of exact sums, with a multiplier and perhaps codes."""
    channels = shape[-1]
    names = [name for name in ("bias",) if chance(random, 0.3)]
    if chance(random, 0.3):
        names += ["scale", "shift"]
    vectors = {name: vector(random, channels) for name in names}
    if exact:
        vectors["multiplier"] = np.abs(vector(random, channels))
    residual = random.standard_normal(shape).astype(np.float32) if chance(random, 0.3) else None
    prelu = random_prelu(random, channels) if exact and chance(random, 0.2) else {}
    limits = (-0.5, pick(random, 1.0, np.inf)) if exact and chance(random, 0.2) else None
    ending = Ending(channels, vectors, chance(random, 0.3), residual, prelu, limits)
    if exact and chance(random, 0.6):
        spread = float(np.abs(sums).mean()) if sums is not None and sums.size else 1.0
        ending.encode = random_coder(random, (shape[1], shape[2]), channels, spread)
        ending.out = chance(random, 0.4)
    return ending


def near(ending: Ending, sums: Array, sizes: Array) -> Check:
    """Floats within the tolerance of the float64 result."""
    expected = ending.rest(sums)
    slack = np.abs(sizes)
    for name in ("bias", "scale", "shift"):
        if name in ending.vectors:
            size = np.abs(ending.vectors[name])
            slack = slack * size if name == "scale" else slack + size
    if ending.residual is not None:
        slack = slack + np.abs(ending.residual.reshape(slack.shape))

    def check(found: list[Array]) -> None:
        (output,) = found
        y = output.view(np.float32).reshape(expected.shape)
        worst = np.abs(y - expected) - TOLERANCE * slack
        assert not y.size or worst.max() <= 1e-30, f"{worst.max():.3g} beyond the tolerance"

    return check
