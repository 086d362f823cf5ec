"""Families of operations without weights: element by element, moving, pooling and reducing floats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitwright import _native
from fuzz.endings import Ending, near, random_prelu, sloped, vector
from fuzz.shapes import pool_taps, pool_window
from fuzz.trial import Array, Random, Trial, chance, close, compare, count, exactly, odd_floats, pick


def quantized(x: Array, scale: Array, reciprocal: Array, low: Array, high: Array) -> Array:
    """FORMAT.md section 8 in float32."""
    m = np.rint(x * reciprocal)
    return np.where(m > low, np.minimum(m, high), low) * scale


def elementwise(random: Random) -> Trial:
    """Sign, quantize, affine, normalize, ReLU, PReLU, limits, magnitudes, addition, products."""
    large = chance(random, 0.05)
    batch, pixels, channels = count(random, 1, 4), count(random, 1, 5000 if large else 90), count(random, 1, 90)
    x = odd_floats(random, batch, pixels, channels)
    a, b = vector(random, channels), vector(random, channels)
    shape = f"{batch} {pixels} {channels}"
    simple = pick(random, "sign", "relu", "abs", "clamp"), pick(random, "add", "mul", "add pixels", "mul pixels")
    kind = pick(random, *simple, "quantize", "affine", "normalize", "pixels", "prelu")
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
        if kind == "abs":
            return exactly(lambda: _native.AbsOp(pixels * channels), [x], np.abs(x), shape)
        if kind == "clamp":
            y = np.minimum(np.maximum(x, np.float32(-0.5)), np.float32(1))
            return exactly(lambda: _native.ClampOp(pixels * channels, -0.5, 1.0), [x], y, shape)
        if kind == "prelu":
            prelu = random_prelu(random, channels)
            return exactly(lambda: _native.PreluOp(pixels, _native.Prelu(**prelu)), [x], sloped(x, **prelu), shape)
        other = odd_floats(random, *x.shape)
        if kind == "mul":
            return exactly(lambda: _native.MulOp(pixels * channels), [x, other], x * other, shape)
        if kind in ("add pixels", "mul pixels"):
            other = np.ascontiguousarray(other[..., :1])
            if kind == "add pixels":
                return exactly(lambda: _native.AddOp(pixels * channels, channels), [x, other], x + other, shape)
            return exactly(lambda: _native.MulOp(pixels * channels, channels), [x, other], x * other, shape)
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
    plain = Ending(channels, {}, False, None, {})
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
