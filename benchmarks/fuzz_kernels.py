"""Random shapes through every native operation at every instruction set, against plain NumPy.

    python benchmarks/fuzz_kernels.py [COUNT=10000] [--seed S] [--only FAMILY]

Integer operations must give every bit of the exact sums and of FORMAT.md's arithmetic after them, float operations be
within `TOLERANCE` of the sum of magnitudes; the instruction set and the number of threads change nothing in the one and
stay within the tolerance in the other. `run_operation` refuses what an operation writes beyond its outputs, and what it
forgets to write shows as a pattern. `make sanitize` runs this under AddressSanitizer and UBSan.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bitwright import _native

TOLERANCE = 1e-5
"""|found - exact| <= this * sum |x| |w|: the error of n additions in any order grows like sqrt(n) * 2^-24."""

LARGE = 2e7
"""About the multiplications of an image of the largest shapes."""

Array = np.ndarray
Random = np.random.Generator
Check = Callable[[list[Array]], None]


@dataclass(frozen=True)
class Trial:
    """An operation to make anew at every level, its inputs, and what its outputs must be."""

    make: Callable[[], Any]
    inputs: list[Array]
    batch: int
    check: Check
    shape: str


def chance(random: Random, probability: float = 0.5) -> bool:
    return bool(random.random() < probability)


def pick(random: Random, *choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def count(random: Random, least: int, most: int) -> int:
    """Small numbers more often."""
    return int(least + (most + 1 - least) * random.random() ** 2)


# --- codes in memory (native/codes.h)


@dataclass(frozen=True)
class Layout:
    """`_native.CodeLayout` with its fields to be read."""

    height: int
    width: int
    channels: int
    groups: int = 1
    margins: dict[str, int] = field(default_factory=dict)
    planes: int = 1

    def native(self) -> Any:
        return _native.CodeLayout(
            self.height, self.width, self.channels, self.groups, **self.margins, planes=self.planes
        )

    def pack(self, codes: Array) -> Array:
        """Codes (N, H, W, C) as bytes (N, image bytes)."""
        images = len(codes)
        margins = [(self.margins.get(a, 0), self.margins.get(b, 0)) for a, b in (("top", "bottom"), ("left", "right"))]
        u = np.pad(codes.astype(np.uint8), [(0, 0), *margins, (0, 0)])
        u = u.reshape(*u.shape[:3], self.groups, self.channels // self.groups)
        unit = 32 if self.planes else 4
        u = np.pad(u, [(0, 0)] * 4 + [(0, -u.shape[4] % unit)])
        if self.planes:
            bits = [np.packbits(u >> n & 1, axis=4, bitorder="little") for n in range(self.planes)]
            flat = np.stack(bits, axis=1).reshape(images, -1)
        else:
            flat = u.reshape(images, -1)
        return np.pad(flat, [(0, 0), (0, -flat.shape[1] % 64)])

    def used(self) -> int:
        """Bytes of an image that mean something."""
        blank = Layout(self.height, self.width, self.channels, self.groups, self.margins, self.planes)
        rows = self.height + self.margins.get("top", 0) + self.margins.get("bottom", 0)
        columns = self.width + self.margins.get("left", 0) + self.margins.get("right", 0)
        unit = 32 if blank.planes else 4
        units = -(-self.channels // self.groups // unit) * unit // (8 if self.planes else 1)
        return rows * columns * self.groups * units * max(1, self.planes)


def margins(random: Random, least: tuple[int, int, int, int] = (0, 0, 0, 0)) -> dict[str, int]:
    extra = random.integers(0, 3, 4) if chance(random, 0.3) else np.zeros(4, int)
    return {n: int(a + b) for n, a, b in zip(("top", "left", "bottom", "right"), least, extra, strict=True)}


# --- windows


@dataclass(frozen=True)
class Window:
    """`_native.Window` with its fields to be read."""

    image: tuple[int, int]
    in_c: int
    out_c: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def native(self) -> Any:
        return _native.Window(**vars(self))

    @property
    def output(self) -> tuple[int, int]:
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(self.image, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return height, width

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.out_c, self.in_c // self.groups, *self.kernel)

    def reach(self) -> tuple[int, int, int, int]:
        """Margins (top, left, bottom, right) that the window needs at least."""
        behind = [
            max(0, (o - 1) * s + (k - 1) * d + 1 - p - n)
            for n, k, s, p, d, o in zip(
                self.image, self.kernel, self.stride, self.padding, self.dilation, self.output, strict=True
            )
        ]
        return (*self.padding, *behind)

    def sums(self, x: Array, weight: Array, outside: float = 0.0) -> Array:
        """The convolution in float64, (N, H', W', O), of x (N, H, W, C); `outside` is what the padding holds."""
        pads = [(p, p) for p in self.padding]
        x = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)], constant_values=outside)
        weight = weight.astype(np.float64)
        height, width = self.output
        result = np.zeros((len(x), height, width, self.out_c))
        c, o = self.in_c // self.groups, self.out_c // self.groups
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows = slice(i * self.dilation[0], None, self.stride[0])
                columns = slice(j * self.dilation[1], None, self.stride[1])
                taps = x[:, rows, columns][:, :height, :width]
                for g in range(self.groups):
                    made = slice(g * o, (g + 1) * o)
                    result[..., made] += taps[..., g * c : (g + 1) * c] @ weight[made, :, i, j].T
        return result


def large_window(random: Random) -> Window:
    """What does not fit the caches, or is divided into many tasks."""
    kernel, stride = pick(random, (3, 3), (1, 1), (5, 5), (7, 7)), count(random, 1, 2)
    in_c, out_c = count(random, 3, 600), count(random, 8, 600)
    side = int((LARGE / (in_c * out_c * kernel[0] * kernel[1])) ** 0.5) * stride
    padding = (kernel[0] // 2, kernel[1] // 2)
    return Window((min(side, 60) + 2, min(side, 60) + count(random, 1, 4)), in_c, out_c, kernel, (stride,) * 2, padding)


def random_window(random: Random, depthwise: bool = True) -> Window:
    if chance(random, 0.15):  # a linear layer
        large = chance(random, 0.1)
        return Window((1, 1), count(random, 1, 5000 if large else 700), count(random, 1, 600 if large else 100))
    if chance(random, 0.02):
        return large_window(random)
    groups = pick(random, 1, 1, 1, 1, 2, 3)
    in_c, out_c = (groups * count(random, 1, pick(random, 8, 40, 140)) for _ in range(2))
    if depthwise and chance(random, 0.05):
        groups = in_c = out_c
    kernel = pick(random, (3, 3), (3, 3), (1, 1), (count(random, 1, 5), count(random, 1, 5)))
    stride = pick(random, (1, 1), (1, 1), (2, 2), (count(random, 1, 3), count(random, 1, 3)))
    dilation = pick(random, (1, 1), (1, 1), (1, 1), (count(random, 1, 3), count(random, 1, 3)))
    padding = pick(random, (1, 1), (0, 0), (count(random, 0, 4), count(random, 0, 4)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    height, width = (n + count(random, 0, 12) for n in least)
    return Window((height, width), in_c, out_c, kernel, stride, padding, dilation, groups)


# --- what happens to sums


def vector(random: Random, channels: int) -> Array:
    """Per channel; sometimes whole numbers, so that boundaries are met exactly, sometimes zeros."""
    if chance(random):
        return random.integers(-3, 4, channels).astype(np.float32)
    return random.standard_normal(channels).astype(np.float32)


@dataclass
class Ending:
    """A random `Finish`, and what it makes of sums in float32, every operation rounded by itself."""

    channels: int
    vectors: dict[str, Array]
    relu: bool
    residual: Array | None
    out: bool = True
    encode: Coder | None = None

    def native(self) -> Any:
        encode = self.encode.native() if self.encode else None
        given: dict[str, Any] = {**self.vectors, "relu": self.relu, "residual": self.residual is not None}
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
        return np.maximum(y, y.dtype.type(0)) if self.relu else y

    def check(self, y: Array) -> Check:
        """That the outputs are the floats y, and their codes."""
        expected: list[tuple[Array, int]] = []
        if self.out:
            expected.append((np.ascontiguousarray(y.reshape(len(y), -1)).view(np.uint8), 4 * y[0].size))
        if self.encode:
            expected.append((self.encode.layout.pack(self.encode.codes(y)), self.encode.layout.used()))
        return lambda found: compare(found, expected, floats=self.out)


def compare(found: list[Array], expected: list[tuple[Array, int]], floats: bool) -> None:
    """Bit for bit, but zeros of either sign are equal."""
    assert len(found) == len(expected), f"{len(found)} outputs, expected {len(expected)}"
    for i, (output, (wanted, used)) in enumerate(zip(found, expected, strict=True)):
        got = output.reshape(len(wanted), -1)[:, :used]
        want = wanted[:, :used]
        if floats and i == 0:
            got, want = (np.ascontiguousarray(a).view(np.float32) for a in (got, want))
        wrong = np.count_nonzero((got != want) & ((got == got) | (want == want)))  # NaN is NaN
        assert not wrong, f"output {i}: {wrong} of {got.size} are wrong"


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
    ending = Ending(channels, vectors, chance(random, 0.3), residual)
    if exact and chance(random, 0.6):
        spread = float(np.abs(sums).mean()) if sums is not None and sums.size else 1.0
        ending.encode = random_coder(random, (shape[1], shape[2]), channels, spread)
        ending.out = chance(random, 0.4)
    return ending


# --- families


def coded_activations(random: Random, window: Window, batch: int, planes: int) -> tuple[Layout, Array, int, int]:
    """A layout that suits the window, codes, and the numbers low and step."""
    layout = Layout(*window.image, window.in_c, window.groups, margins(random, window.reach()), planes)
    codes = random.integers(0, 1 << (planes or 8), (batch, *window.image, window.in_c))
    low, step = (-1, 2) if planes == 1 and chance(random, 0.7) else (int(random.integers(-20, 3)), 1)
    return layout, codes, low, step


def lattice(random: Random, window: Window, most: int) -> Array:
    """Signs, ternary, 0/1 or k-bit whole numbers."""
    low, high = pick(random, (-1, 1), (0, 1), (-most, most - 1), (-(most // 2) - 1, most // 2))
    w = random.integers(low, high + 1, window.weight_shape)
    if (low, high) == (-1, 1) and chance(random, 0.7):
        w = np.where(w >= 0, 1, -1)
    return w.astype(np.int8)


def integer_conv(random: Random, planes: int, most: int) -> Trial:
    window, batch = random_window(random), count(random, 1, 3)
    layout, codes, low, step = coded_activations(random, window, batch, planes)
    weight = lattice(random, window, most)
    padding = pick(random, 0, 0, low, low + step)
    m = low + step * codes
    sums = window.sums(m, weight, padding)
    ending = random_ending(random, (batch, *window.output, window.out_c), True, sums)
    if set(np.unique(weight)) <= {-1, 0, 1} and chance(random, 0.3):
        ending.vectors["negative"] = np.abs(vector(random, window.out_c))
        parts = [window.sums(m, weight == sign, padding) for sign in (1, -1)]
        y = ending.scaled(*parts)
    else:
        y = ending.scaled(sums)

    def make() -> Any:
        if planes:
            return _native.BitConvOp(
                window.native(), layout.native(), low, step, weight, padding, finish=ending.native()
            )
        return _native.ByteConvOp(
            window.native(), layout.native(), low, weight, padding, finish=ending.native(), step=step
        )

    return Trial(make, [layout.pack(codes), *ending.inputs()], batch, ending.check(y), f"{window} {layout} {ending}")


def bit_conv(random: Random) -> Trial:
    """Bit planes of codes times a few bits."""
    return integer_conv(random, pick(random, 1, 1, 2, 3, 4), 8)


def byte_conv(random: Random) -> Trial:
    """Bytes times bytes."""
    return integer_conv(random, 0, pick(random, 2, 8, 127))


def encode(random: Random) -> Trial:
    """Floats to codes, odd floats too."""
    batch, size, channels = count(random, 1, 3), (count(random, 1, 9), count(random, 1, 9)), count(random, 1, 150)
    x = odd_floats(random, batch, *size, channels)
    coder = random_coder(random, size, channels, 1.0)
    with np.errstate(all="ignore"):
        expected = [(coder.layout.pack(coder.codes(x)), coder.layout.used())]
    return Trial(
        lambda: _native.EncodeOp(coder.native()),
        [x],
        batch,
        lambda found: compare(found, expected, floats=False),
        str(coder),
    )


def pool_window(
    random: Random, channels: int, groups: int, ceil: bool, dilated: bool
) -> tuple[Window, tuple[int, int]]:
    """A window of pooling and the size of its result: in ceil mode the last one may hang over, but begins before it."""
    kernel = (count(random, 1, 4), count(random, 1, 4))
    stride = (count(random, 1, 3), count(random, 1, 3))
    dilation = pick(random, (1, 1), (count(random, 1, 3), count(random, 1, 3))) if dilated else (1, 1)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = [int(random.integers(0, r // 2 + 1)) for r in reach]
    image = [r + count(random, 0, 9) for r in reach]
    window = Window(
        (image[0], image[1]), channels, channels, kernel, stride, (padding[0], padding[1]), dilation, groups
    )
    if not ceil:
        return window, window.output
    sizes = [
        floor + bool((floor - 1) * s + r < n + 2 * p and floor * s < n + p)
        for n, s, p, r, floor in zip(image, stride, padding, reach, window.output, strict=True)
    ]
    return window, (sizes[0], sizes[1])


def pool_taps(window: Window, size: tuple[int, int], x: Array, outside: float) -> Array:
    """What lies under each element of the window, (taps, N, H', W', C)."""
    behind = [
        max(0, (o - 1) * s + (k - 1) * d + 1 - p - n)
        for n, k, s, p, d, o in zip(
            window.image, window.kernel, window.stride, window.padding, window.dilation, size, strict=True
        )
    ]
    pads = list(zip(window.padding, behind, strict=True))
    padded = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=outside)
    taps = []
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            rows = slice(i * window.dilation[0], None, window.stride[0])
            columns = slice(j * window.dilation[1], None, window.stride[1])
            taps.append(padded[:, rows, columns][:, : size[0], : size[1]])
    return np.stack(taps)


def pool_codes(random: Random) -> Trial:
    """The largest code under each window."""
    batch, channels = count(random, 1, 3), count(random, 1, 150)
    window, size = pool_window(random, channels, 1, chance(random), dilated=True)
    planes = pick(random, 0, 1, 2, 4)
    groups = pick(random, *[g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    into = Layout(*window.image, channels, groups, margins(random, window.reach()), planes)
    made = Layout(*size, channels, groups, margins(random), planes)
    codes = random.integers(0, 1 << (planes or 8), (batch, *window.image, channels)).astype(np.uint8)
    expected = [(made.pack(pool_taps(window, size, codes, 0).max(axis=0)), made.used())]
    return Trial(
        lambda: _native.PoolCodesOp(window.native(), into.native(), made.native()),
        [into.pack(codes)],
        batch,
        lambda found: compare(found, expected, floats=False),
        f"{window} {into} {made}",
    )


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


def float_conv(random: Random) -> Trial:
    """float32 convolution."""
    window, batch = random_window(random), count(random, 1, 3)
    x = random.standard_normal((batch, *window.image, window.in_c)).astype(np.float32)
    w = random.standard_normal(window.weight_shape).astype(np.float32)
    ending = random_ending(random, (batch, *window.output, window.out_c), False)
    check = near(ending, window.sums(x, w), window.sums(np.abs(x), np.abs(w)))
    return Trial(
        lambda: _native.FloatConvOp(window.native(), w, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{window} {ending}",
    )


def float_linear(random: Random) -> Trial:
    """float32 linear layer."""
    batch, cols, rows = count(random, 1, 40), count(random, 1, 500), count(random, 1, 100)
    x, w = (random.standard_normal((n, cols)).astype(np.float32) for n in (batch, rows))
    ending = random_ending(random, (batch, rows), False)
    check = near(ending, x.astype(np.float64) @ w.T.astype(np.float64), np.abs(x) @ np.abs(w.T))
    return Trial(
        lambda: _native.FloatLinearOp(cols, w, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{batch} {rows} {cols} {ending}",
    )


def sparse_entries(random: Random, size: int) -> tuple[Array, Array | None, Array, Array]:
    """Positions, codes, values, and the dense vector."""
    positions = np.flatnonzero(random.random(size) < random.random() ** 2).astype(np.int64)
    dense = np.zeros(size, np.float32)
    if chance(random):
        values = random.standard_normal(len(positions)).astype(np.float32)
        dense[positions] = values
        return positions, None, values, dense
    entries = pick(random, 1, 15, 32, 64, 256, 700)
    values = random.standard_normal(entries).astype(np.float32)
    codes = random.integers(0, entries, len(positions)).astype(np.uint8 if entries <= 256 else np.uint16)
    dense[positions] = values[codes]
    return positions, codes, values, dense


def sparse_linear(random: Random) -> Trial:
    """A sparse matrix, its values coded or not."""
    batch, cols, rows = count(random, 1, 70), count(random, 1, 700), count(random, 1, 120)
    positions, codes, values, dense = sparse_entries(random, rows * cols)
    w = dense.reshape(rows, cols)
    x = random.standard_normal((batch, cols)).astype(np.float32)
    ending = random_ending(random, (batch, rows), False)
    check = near(ending, x.astype(np.float64) @ w.T.astype(np.float64), np.abs(x) @ np.abs(w.T))
    return Trial(
        lambda: _native.SparseLinearOp(rows, cols, positions, codes, values, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{batch} {rows} {cols} {len(positions)} {ending}",
    )


def sparse_conv(random: Random) -> Trial:
    """A convolution with sparse weights, coded or not."""
    window, batch = random_window(random), count(random, 1, 3)
    positions, codes, values, dense = sparse_entries(random, int(np.prod(window.weight_shape)))
    w = dense.reshape(window.weight_shape)
    x = random.standard_normal((batch, *window.image, window.in_c)).astype(np.float32)
    ending = random_ending(random, (batch, *window.output, window.out_c), False)
    check = near(ending, window.sums(x, w), window.sums(np.abs(x), np.abs(w)))
    return Trial(
        lambda: _native.SparseConvOp(window.native(), positions, codes, values, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{window} {len(positions)} {ending}",
    )


def coded_linear(random: Random) -> Trial:
    """A matrix of codes for few different numbers."""
    large = chance(random, 0.1)
    batch, cols, rows = count(random, 1, 20), count(random, 1, 3000 if large else 400), count(random, 1, 150)
    entries = pick(random, 1, 2, 2, 3, 4, 5, 16, 17, 32, 33, 256)
    table = random.standard_normal(entries).astype(np.float32)
    if chance(random, 0.3):  # whole numbers times a scale
        table = ((np.arange(entries) - entries // 2) * np.float32(random.uniform(0.01, 1))).astype(np.float32)
    codes = random.integers(0, entries, (rows, cols)).astype(np.uint8)
    w: Array = table[codes].astype(np.float64)
    scales: dict[str, Array] = {}
    if chance(random):
        scales["scale"] = vector(random, rows)
        if chance(random):
            scales["negative"] = vector(random, rows)
        w = w * np.where(w < 0, scales.get("negative", scales["scale"])[:, None], scales["scale"][:, None])
    x = random.standard_normal((batch, cols)).astype(np.float32)
    ending = random_ending(random, (batch, rows), False)
    # A table of whole numbers is added up as base + step * code.
    sizes = np.abs(x).sum(axis=1, keepdims=True) * np.abs(w).max(axis=1)
    check = near(ending, x @ w.T, sizes)
    return Trial(
        lambda: _native.CodedLinearOp(codes, table, ending.native(), **scales),
        [x, *ending.inputs()],
        batch,
        check,
        f"{batch} {rows} {cols} {entries} {sorted(scales)} {ending}",
    )


def quantized(x: Array, scale: Array, reciprocal: Array, low: Array, high: Array) -> Array:
    """FORMAT.md section 8 in float32."""
    m = np.rint(x * reciprocal)
    return np.where(m > low, np.minimum(m, high), low) * scale


def exact_conv(random: Random) -> Trial:
    """Whole numbers times a scale, as floats, times whole weights."""
    window, batch = random_window(random), count(random, 1, 2)
    _, codes, low, step = coded_activations(random, window, batch, pick(random, 0, 1, 4))
    weight, padding = lattice(random, window, pick(random, 2, 8, 127)), pick(random, 0, low)
    m = low + step * codes
    scale = float(np.float32(random.uniform(0.001, 2)))
    ending = random_ending(random, (batch, *window.output, window.out_c), True)
    ending.out, ending.encode = True, None
    sums = [window.sums(m, weight, padding)]
    if set(np.unique(weight)) <= {-1, 0, 1} and chance(random, 0.3):
        ending.vectors["negative"] = np.abs(vector(random, window.out_c))
        sums = [window.sums(m, weight == sign, padding) for sign in (1, -1)]
    x = m.astype(np.float32) * np.float32(scale)

    def make() -> Any:
        return _native.ExactConvOp(window.native(), 1 / scale, weight, padding, finish=ending.native())

    return Trial(make, [x, *ending.inputs()], batch, ending.check(ending.scaled(*sums)), f"{window} {ending}")


def odd_floats(random: Random, *shape: int) -> Array:
    """Normal ones, ties and zeros, sometimes NaN, infinities and the smallest."""
    x = random.standard_normal(shape).astype(np.float32)
    if chance(random):
        x = (np.rint(x * 2) / 2).astype(np.float32)
    if chance(random):
        odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38], np.float32)
        places = random.random(shape) < 0.02
        x[places] = random.choice(odd, int(places.sum()))
    return x


def exactly(operation: Callable[[], Any], inputs: list[Array], y: Array, shape: str) -> Trial:
    """An operation with one output of floats, known in every bit."""
    expected = [(np.ascontiguousarray(y, np.float32).reshape(len(y), -1).view(np.uint8), 4 * y[0].size)]
    return Trial(operation, inputs, len(y), lambda found: compare(found, expected, floats=True), shape)


def elementwise(random: Random) -> Trial:
    """Sign, quantize, affine, normalize, ReLU, addition."""
    large = chance(random, 0.05)
    batch, pixels, channels = count(random, 1, 4), count(random, 1, 5000 if large else 90), count(random, 1, 90)
    x = odd_floats(random, batch, pixels, channels)
    a, b = vector(random, channels), vector(random, channels)
    shape = f"{batch} {pixels} {channels}"
    kind = pick(random, "sign", "quantize", "affine", "normalize", "pixels", "relu", "add")
    with np.errstate(all="ignore"):
        if kind == "sign":
            y = np.where(x >= 0, np.float32(1), np.float32(-1))
            return exactly(lambda: _native.SignOp(pixels * channels), [x], y, shape)
        if kind == "quantize":
            scale = random.uniform(0.01, 1, channels).astype(np.float32)
            low = random.integers(-255, 1, channels).astype(np.float32)
            how = scale, np.float32(1) / scale, low, low + random.integers(1, 256, channels).astype(np.float32)
            return exactly(lambda: _native.QuantizeOp(pixels, *how), [x], quantized(x, *how), shape)
        if kind == "affine":
            return exactly(lambda: _native.AffineOp(pixels, a, b), [x], x * a + b, shape)
        if kind == "normalize":
            return exactly(lambda: _native.NormalizeOp(pixels, a, b), [x], x * a + b, shape)
        if kind == "pixels":
            image = random.integers(0, 256, x.shape).astype(np.uint8)
            y = image.astype(np.float32) / np.float32(255) * a + b
            return exactly(lambda: _native.NormalizeOp(pixels, a, b, uint8=True), [image], y, shape)
        if kind == "relu":
            y = np.where(x < 0, np.float32(0), x)
            return exactly(lambda: _native.ReluOp(pixels * channels), [x], y, shape)
        other = odd_floats(random, *x.shape)
        return exactly(lambda: _native.AddOp(pixels * channels), [x, other], x + other, shape)


def movers(random: Random) -> Trial:
    """Transpose, pad, slice: every bit arrives."""
    batch, kind = count(random, 1, 4), pick(random, "transpose", "bytes", "pad", "slice")
    axes = 2 if kind in ("transpose", "bytes") else count(random, 1, 3)
    sizes = [count(random, 1, pick(random, 9, 9, 70)) for _ in range(axes)]
    x = odd_floats(random, batch, *sizes)
    if kind == "transpose":
        return exactly(lambda: _native.TransposeOp(sizes[0], sizes[1]), [x], x.transpose(0, 2, 1), f"{sizes}")
    if kind == "bytes":
        pixels = random.integers(0, 256, x.shape).astype(np.uint8)
        expected = [(np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(batch, -1), pixels[0].size)]
        return Trial(
            lambda: _native.TransposeOp(sizes[0], sizes[1], 1),
            [pixels],
            batch,
            lambda found: compare(found, expected, floats=False),
            f"{sizes}",
        )
    if kind == "pad":
        before, after = ([count(random, 0, 4) for _ in sizes] for _ in range(2))
        pads, value = [(0, 0), *zip(before, after, strict=True)], pick(random, 0.0, -1.5, -np.inf)
        y = np.pad(x, pads, constant_values=value)
        return exactly(lambda: _native.PadOp(sizes, before, after, value), [x], y, f"{sizes} {pads}")
    axis = int(random.integers(len(sizes)))
    start = int(random.integers(sizes[axis]))
    stop, step = int(random.integers(start + 1, sizes[axis] + 1)), count(random, 1, 4)
    y = x[(slice(None),) * (1 + axis) + (slice(start, stop, step),)]
    return exactly(
        lambda: _native.SliceOp(sizes, axis, start, stop, step), [x], y, f"{sizes} {axis} {start} {stop} {step}"
    )


def close(operation: Callable[[], Any], x: Array, y: Array, shape: str) -> Trial:
    """What is computed in float64 and rounded once."""

    def check(found: list[Array]) -> None:
        np.testing.assert_allclose(found[0].view(np.float32).reshape(y.shape), y, rtol=1e-6, atol=1e-7)

    return Trial(operation, [x], len(x), check, shape)


def reductions(random: Random) -> Trial:
    """Mean and softmax."""
    batch, sizes = count(random, 1, 4), [count(random, 1, 30) for _ in range(count(random, 1, 3))]
    x = (random.standard_normal((batch, *sizes)) * pick(random, 1, 1, 100)).astype(np.float32)
    exact = x.astype(np.float64)
    axis = int(random.integers(len(sizes)))
    if chance(random):
        powers = np.exp(exact - exact.max(axis=1 + axis, keepdims=True))
        y = powers / powers.sum(axis=1 + axis, keepdims=True)
        return close(lambda: _native.SoftmaxOp(sizes, axis), x, y, f"{sizes} {axis}")
    axes = [a for a in range(len(sizes)) if chance(random)]
    y = exact.mean(axis=tuple(1 + a for a in axes)) if axes else exact
    return close(lambda: _native.MeanOp(sizes, axes), x, y, f"{sizes} {axes}")


def max_pool(random: Random) -> Trial:
    """Maxima of floats, NaN among them."""
    batch, channels, ceil = count(random, 1, 3), count(random, 1, 70), chance(random)
    window, size = pool_window(random, channels, channels, ceil, dilated=True)
    x = odd_floats(random, batch, *window.image, channels)
    y = pool_taps(window, size, x, -np.inf).max(axis=0)
    common = (window.image, channels, window.kernel, window.stride, window.padding, window.dilation)
    return exactly(lambda: _native.MaxPoolOp(*common, ceil=ceil), [x], y, f"{window} {ceil}")


def average_pool(random: Random) -> Trial:
    """Means of floats under windows, or of as many parts as are asked for."""
    batch, channels = count(random, 1, 3), count(random, 1, 70)
    plain = Ending(channels, {}, False, None)
    if chance(random, 0.3):
        image, size = ((count(random, 1, 14), count(random, 1, 14)) for _ in range(2))
        x = random.standard_normal((batch, *image, channels)).astype(np.float32)
        spans = [[(o * n // k, -(-(o + 1) * n // k)) for o in range(k)] for n, k in zip(image, size, strict=True)]
        means = [
            np.array([[z[:, a:b, c:d].mean(axis=(1, 2)) for c, d in spans[1]] for a, b in spans[0]]).transpose(
                2, 0, 1, 3
            )
            for z in (x.astype(np.float64), np.abs(x).astype(np.float64))
        ]
        check = near(plain, *means)
        return Trial(lambda: _native.AdaptiveAvgPoolOp(image, channels, size), [x], batch, check, f"{image} {size}")
    ceil, padded = chance(random), chance(random)
    window, size = pool_window(random, channels, channels, ceil, dilated=False)
    x = random.standard_normal((batch, *window.image, channels)).astype(np.float32)
    # Which elements count: those of the image, or of the padding too, but never those beyond it.
    pads = [(0, 0), *((p, p) if padded else (0, 0) for p in window.padding), (0, 0)]
    inside = np.pad(np.ones((1, *window.image, 1)), pads, constant_values=1)
    counted = replace(window, image=inside.shape[1:3], padding=(0, 0) if padded else window.padding)
    counts = pool_taps(counted, size, inside, 0).sum(axis=0)
    counts = np.maximum(counts, 1)  # where none does, the mean is 0
    sums, sizes = (pool_taps(window, size, z.astype(np.float64), 0).sum(axis=0) / counts for z in (x, np.abs(x)))
    common = (window.image, channels, window.kernel, window.stride, window.padding, ceil, padded)
    return Trial(lambda: _native.AvgPoolOp(*common), [x], batch, near(plain, sums, sizes), f"{window} {ceil} {padded}")


FAMILIES: dict[str, tuple[Callable[[Random], Trial], float]] = {
    "bit_conv": (bit_conv, 4),
    "byte_conv": (byte_conv, 3),
    "encode": (encode, 2),
    "pool_codes": (pool_codes, 1),
    "float_conv": (float_conv, 2),
    "float_linear": (float_linear, 1),
    "sparse_linear": (sparse_linear, 1),
    "sparse_conv": (sparse_conv, 1),
    "coded_linear": (coded_linear, 1),
    "exact_conv": (exact_conv, 1),
    "elementwise": (elementwise, 1),
    "movers": (movers, 1),
    "reductions": (reductions, 0.5),
    "max_pool": (max_pool, 1),
    "average_pool": (average_pool, 1),
}
"""And how often each is tried."""


def run(trial: Trial, isa: str, threads: int) -> list[Array]:
    """The outputs at one level."""
    _native.set_isa(isa)
    try:
        return list(_native.run_operation(trial.make(), trial.inputs, trial.batch, threads))
    finally:
        _native.set_isa(None)


def run_in_plan(trial: Trial, isa: str, threads: int, pass_bytes: int) -> list[Array]:
    """The outputs at one level from a plan that may write over the inputs, as later steps copy the results."""
    _native.set_isa(isa)
    try:
        operation = trial.make()
        sizes, values = operation.output_bytes, len(operation.input_bytes)
        copies = [(_native.PadOp([size // 4], [0], [0], 0.0), [values + i]) for i, size in enumerate(sizes)]
        results = [values + len(sizes) + i for i in range(len(sizes))]
        plan = _native.Plan(operation.input_bytes, [(operation, list(range(values))), *copies], results, pass_bytes)
    finally:
        _native.set_isa(None)
    outputs = [np.full(trial.batch * size, 0xA5, np.uint8) for size in sizes]
    inputs = [x.copy() for x in trial.inputs]
    for _ in range(2):  # the second time the arena is no longer zero
        plan.run(inputs, outputs, trial.batch, threads)
    assert all(x.tobytes() == y.tobytes() for x, y in zip(inputs, trial.inputs, strict=True)), "an input was changed"
    return outputs


def fuzz(trials: int, seed: int, only: str = "") -> Counter[str]:
    """How many trials each family had; AssertionError, with how to repeat it, where one fails."""
    names = [name for name in FAMILIES if only in name]
    weights = np.array([FAMILIES[name][1] for name in names])
    done: Counter[str] = Counter()
    for number in range(seed, seed + trials):
        random = np.random.default_rng(number)
        name = names[int(random.choice(len(names), p=weights / weights.sum()))]
        trial = FAMILIES[name][0](random)
        for isa in _native.isa_names():
            threads = int(random.integers(1, 4))
            try:
                trial.check(run(trial, isa, threads))
                if chance(random, 0.2) and not any(x[0].nbytes % 4 for x in trial.inputs):
                    trial.check(run_in_plan(trial, isa, threads, pick(random, 1, 10_000, 1 << 20)))
            except (AssertionError, ValueError, RuntimeError) as error:
                repeat = f"fuzz_kernels.py 1 --seed {number}" + (f" --only {only}" if only else "")
                raise AssertionError(f"{name} {isa} {threads} threads: {error}\n{trial.shape}\n{repeat}") from error
        done[name] += 1
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="families whose name has this in it")
    options = parser.parse_args()
    start = time.perf_counter()
    done = fuzz(options.count, options.seed, options.only)
    tried = ", ".join(f"{name} {times}" for name, times in sorted(done.items()))
    print(f"{options.count} trials at {', '.join(_native.isa_names())} in {time.perf_counter() - start:.0f} s: {tried}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
