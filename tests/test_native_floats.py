"""Float operations: bits of the kernels' own tests, and movers against NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from bitwright import _native

Array = np.ndarray


@pytest.fixture(params=_native.isa_names())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(None)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def run(operation: Any, *inputs: Array, threads: int = 1) -> Array:
    """The operation on a batch, float32 and flat behind the batch."""
    batch = len(inputs[0])
    (found,) = _native.run_operation(operation, [np.ascontiguousarray(x) for x in inputs], batch, threads)
    return found.view(np.float32).reshape(batch, operation.output_bytes[0] // 4)


def flat(x: Array) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:]))


# --- matrix operations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_convolution_with_an_epilogue(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, kernel = int(rng.choice([1, 2, 3])), tuple(rng.integers(1, 4, 2).tolist())
    in_c, out_c = (groups * int(rng.integers(1, 20)) for _ in range(2))
    image = tuple((rng.integers(0, 9, 2) + 5).tolist())
    pairs = {
        "stride": tuple(rng.integers(1, 3, 2).tolist()),
        "padding": tuple(rng.integers(0, 3, 2).tolist()),
        "dilation": tuple(rng.integers(1, 3, 2).tolist()),
    }
    window = _native.Window(image, in_c, out_c, kernel, groups=groups, **pairs)
    x, w = numbers(3, *image, in_c), numbers(out_c, in_c // groups, *kernel)
    vectors = {name: numbers(out_c, seed=i) for i, name in enumerate(("bias", "scale", "shift"))}
    residual = numbers(3, *window.output)
    finish = _native.Finish(out_c, residual=True, relu=True, **vectors)
    operation = _native.FloatConvOp(window, w, finish)
    expected = _native.conv2d(x, _native.conv2d_pack(w, groups), residual=residual, relu=True, **vectors, **pairs)
    for threads in (1, 2):
        np.testing.assert_array_equal(run(operation, x, residual, threads=threads), flat(expected))
    assert operation.weight_bytes >= w.nbytes
    assert operation.kernel.split()[-1] == (isa if isa in ("ref", "avx2") else "avx512")


@pytest.mark.parametrize("batch", [0, 1, 5, 60])
def test_linear_with_an_epilogue(isa: str, batch: int) -> None:
    x, w, bias, residual = numbers(batch, 21), numbers(37, 21), numbers(37), numbers(batch, 37)
    operation = _native.FloatLinearOp(21, w, _native.Finish(37, bias=bias, relu=True))
    expected = _native.linear(x, _native.linear_pack(w), bias, relu=True)
    np.testing.assert_array_equal(run(operation, x), expected)
    added = _native.FloatLinearOp(21, w, _native.Finish(37, residual=True))
    expected = _native.add(_native.linear(x, _native.linear_pack(w)), residual)
    np.testing.assert_array_equal(run(added, x, residual), expected)


# --- pools and element-wise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceil", [False, True])
def test_pools(ceil: bool) -> None:
    x = numbers(3, 7, 9, 5)
    window = ((7, 9), 5, (3, 2), (2, 2), (1, 1))
    found = run(_native.MaxPoolOp(*window, (2, 1), ceil), x)
    np.testing.assert_array_equal(found, flat(_native.max_pool2d(x, *window[2:], (2, 1), ceil)))
    for include in (False, True):
        found = run(_native.AvgPoolOp(*window, ceil, include), x, threads=2)
        np.testing.assert_array_equal(found, flat(_native.avg_pool2d(x, *window[2:], ceil, include)))
    found = run(_native.AdaptiveAvgPoolOp((7, 9), 5, (2, 4)), x)
    np.testing.assert_array_equal(found, flat(_native.adaptive_avg_pool2d(x, (2, 4))))


@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 1, 1), (3, 50, 17), (2, 1000, 40)])
def test_elementwise(shape: tuple[int, int, int]) -> None:
    a, b = numbers(*shape), numbers(*shape, seed=9)
    pixels, channels = shape[1:]
    scale, shift = numbers(channels, seed=1), numbers(channels, seed=2)
    codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for threads in (1, 2):
        assert np.array_equal(run(_native.AddOp(pixels * channels), a, b, threads=threads), flat(a + b))
        assert np.array_equal(run(_native.ReluOp(pixels * channels), a, threads=threads), flat(np.maximum(a, 0)))
        expected = flat(a * scale + shift)
        assert np.array_equal(run(_native.AffineOp(pixels, scale, shift), a, threads=threads), expected)
        assert np.array_equal(run(_native.NormalizeOp(pixels, scale, shift), a, threads=threads), expected)
        found = run(_native.NormalizeOp(pixels, scale, shift, uint8=True), codes, threads=threads)
        assert np.array_equal(found, flat(codes.astype(np.float32) / np.float32(255) * scale + shift))


def test_normalize_knows_every_byte() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 256)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    found = run(_native.NormalizeOp(256, one, zero, uint8=True), codes)
    assert np.array_equal(found, codes.astype(np.float32) / np.float32(255))


# --- movers -----------------------------------------------------------------------------------------------------------

SHAPES = [(1,), (7,), (3, 5), (4, 1, 6), (2, 3, 4), (5, 33, 17)]


@pytest.mark.parametrize("size", [(1, 1), (3, 49), (16, 16), (17, 33), (64, 100), (1, 9), (9, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_transpose(size: tuple[int, int], dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 255, (3, *size)).astype(dtype)
    operation = _native.TransposeOp(*size, np.dtype(dtype).itemsize)
    (found,) = _native.run_operation(operation, [x], 3, 2)
    assert np.array_equal(found.view(dtype).reshape(3, *size[::-1]), x.transpose(0, 2, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [0.0, -1.5])
def test_pad(shape: tuple[int, ...], value: float) -> None:
    x, rng = numbers(2, *shape), np.random.default_rng(1)
    for _ in range(5):
        before, after = rng.integers(0, 3, (2, len(shape))).tolist()
        found = run(_native.PadOp(list(shape), before, after, value), x, threads=2)
        padding = [(0, 0), *zip(before, after, strict=True)]
        assert np.array_equal(found, flat(np.pad(x, padding, constant_values=np.float32(value))))


@pytest.mark.parametrize("shape", SHAPES)
def test_slice(shape: tuple[int, ...]) -> None:
    x, rng = numbers(2, *shape), np.random.default_rng(1)
    for axis, size in enumerate(shape):
        for _ in range(5):
            start = int(rng.integers(0, size))
            stop, step = int(rng.integers(start + 1, size + 1)), int(rng.integers(1, 4))
            found = run(_native.SliceOp(list(shape), axis, start, stop, step), x)
            assert np.array_equal(found, flat(x[(slice(None),) * (axis + 1) + (slice(start, stop, step),)]))


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_softmax(shape: tuple[int, ...]) -> None:
    x = 10 * numbers(2, *shape)
    for count in range(len(shape) + 1):
        for axes in combinations(range(len(shape)), count):
            expected = x.mean(axis=tuple(a + 1 for a in axes), dtype=np.float64)
            found = run(_native.MeanOp(list(shape), list(axes)), x, threads=2)
            np.testing.assert_allclose(found, flat(expected), rtol=1e-6, atol=1e-6)
    for axis in range(len(shape)):
        powers = np.exp(x.astype(np.float64) - x.max(axis=axis + 1, keepdims=True))
        expected = powers / powers.sum(axis=axis + 1, keepdims=True)
        found = run(_native.SoftmaxOp(list(shape), axis), x, threads=2)
        np.testing.assert_allclose(found, flat(expected), rtol=1e-6, atol=0)


def test_softmax_of_what_is_not_finite() -> None:
    x = np.array([[1, np.nan], [np.inf, 1], [-np.inf, 1], [-np.inf, -np.inf]], np.float32)
    found = run(_native.SoftmaxOp([2], 0), x)
    assert np.array_equal(found, np.array([[np.nan] * 2, [np.nan] * 2, [0, 1], [np.nan] * 2]), equal_nan=True)


# --- refusals ---------------------------------------------------------------------------------------------------------

WINDOW = _native.Window((4, 4), 2, 3, (3, 3))
LAYOUT = _native.CodeLayout(2, 2, 3)
REFUSALS = {
    r"weight has shape \(3, 2, 3, 1\), expected \(3, 2, 3, 3\)": lambda: _native.FloatConvOp(
        WINDOW, numbers(3, 2, 3, 1), _native.Finish(3)
    ),
    "weight has dtype float64": lambda: _native.FloatConvOp(WINDOW, np.ones((3, 2, 3, 3)), _native.Finish(3)),
    "finish is for 4 channels, expected 3": lambda: _native.FloatConvOp(WINDOW, numbers(3, 2, 3, 3), _native.Finish(4)),
    "finish has an encode": lambda: _native.FloatConvOp(
        WINDOW, numbers(3, 2, 3, 3), _native.Finish(3, encode=_native.Encode("sign", LAYOUT))
    ),
    "finish has a multiplier": lambda: _native.FloatLinearOp(
        2, numbers(3, 2), _native.Finish(3, multiplier=numbers(3))
    ),
    r"weight has shape \(3, 2\), expected \(3, 4\)": lambda: _native.FloatLinearOp(4, numbers(3, 2), _native.Finish(3)),
    "padding is 2 x 0, expected at most half": lambda: _native.MaxPoolOp((4, 4), 1, (2, 2), (1, 1), (2, 0)),
    "image is 4 x 4, expected at least the window of 5 x 1": lambda: _native.AvgPoolOp((4, 4), 1, (5, 1), (1, 1)),
    r"size is \(0, 1\)": lambda: _native.AdaptiveAvgPoolOp((4, 4), 1, (0, 1)),
    r"shift has shape \(2\), expected \(3\)": lambda: _native.AffineOp(5, numbers(3), numbers(2)),
    "count is": lambda: _native.ReluOp(0),
    "element_bytes is 2, expected 1 or 4": lambda: _native.TransposeOp(2, 2, 2),
    "before and after have 1 and 2 entries": lambda: _native.PadOp([2, 2], [1], [1, 1], 0.0),
    "expected 0 <= start < stop <= 3": lambda: _native.SliceOp([3], 0, 1, 4),
    "axis is 2, expected 0 to 1": lambda: _native.SoftmaxOp([2, 2], 2),
    "shape has no axes": lambda: _native.MeanOp([], [0]),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_refusals(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSALS[message]()
