"""Layouts of codes in memory (native/codes.h) and windows over images, in plain NumPy, and random ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitwright import _native
from fuzz.trial import Array, Random, chance, count, pick

LARGE = 2e7
"""About the multiplications of an image of the largest shapes."""


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
        rows = self.height + self.margins.get("top", 0) + self.margins.get("bottom", 0)
        columns = self.width + self.margins.get("left", 0) + self.margins.get("right", 0)
        unit = 32 if self.planes else 4
        units = -(-self.channels // self.groups // unit) * unit // (8 if self.planes else 1)
        return rows * columns * self.groups * units * max(1, self.planes)


def margins(random: Random, least: tuple[int, int, int, int] = (0, 0, 0, 0)) -> dict[str, int]:
    extra = random.integers(0, 3, 4) if chance(random, 0.3) else np.zeros(4, int)
    return {n: int(a + b) for n, a, b in zip(("top", "left", "bottom", "right"), least, extra, strict=True)}


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
