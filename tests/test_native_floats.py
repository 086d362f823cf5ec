"""Float operations: against PyTorch, levels against the reference, and everything that must not change a bit."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitwright import _native

Array = np.ndarray

# |variant - reference| <= SUM_TOLERANCE * sum |x| |w|. Variants add n products in another order and round once per
# fused multiply-add: the error grows like sqrt(n) * 2^-24 for values like these, 6e-6 for the largest n here (10,000).
SUM_TOLERANCE = 1e-5

SIZES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 37, 64, 67)


@pytest.fixture(params=_native.isa_names())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(None)


def numbers(*shape: int, seed: int = 0) -> Array:
    """Non-periodic values of both signs; no two neighbours cancel by chance."""
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def assert_close(found: Array, expected: Array, size: Array) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    worst = np.abs(found - expected) - SUM_TOLERANCE * np.abs(size)
    assert found.size == 0 or worst.max() <= 1e-30, f"{worst.max():.3g} beyond the tolerance"


def nhwc(x: Array) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def nchw_back(x: torch.Tensor) -> Array:
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


def run(operation: Any, *inputs: Array, threads: int = 1) -> Array:
    """The operation on a batch, float32 and flat behind the batch."""
    batch = len(inputs[0])
    (found,) = _native.run_operation(operation, [np.ascontiguousarray(x) for x in inputs], batch, threads)
    return found.view(np.float32).reshape(batch, operation.output_bytes[0] // 4)


def flat(x: Array) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def conv2d(
    x: Array, w: Array, *, residual: Array | None = None, relu: bool = False, threads: int = 1,
    bias: Array | None = None, scale: Array | None = None, shift: Array | None = None, **window: Any,
) -> Array:  # fmt: skip
    """One convolution of NHWC images."""
    finish = _native.Finish(len(w), bias=bias, scale=scale, shift=shift, relu=relu, residual=residual is not None)
    shape = _native.Window(x.shape[1:3], x.shape[3], len(w), w.shape[2:], **window)
    inputs = (x,) if residual is None else (x, residual)
    return run(_native.FloatConvOp(shape, w, finish), *inputs, threads=threads).reshape(len(x), *shape.output)


def linear(x: Array, w: Array, *, residual: Array | None = None, threads: int = 1, **finish: Any) -> Array:
    finish["residual"] = residual is not None
    operation = _native.FloatLinearOp(x.shape[1], w, _native.Finish(len(w), **finish))
    return run(operation, *((x,) if residual is None else (x, residual)), threads=threads)


def affine(x: Array, scale: Array, shift: Array) -> Array:
    return run(_native.AffineOp(x[0].size // len(scale), scale, shift), x).reshape(x.shape)


def relu(x: Array) -> Array:
    return run(_native.ReluOp(x[0].size), x).reshape(x.shape)


def add(a: Array, b: Array) -> Array:
    return run(_native.AddOp(a[0].size), a, b).reshape(a.shape)


def check_conv(x: Array, w: Array, bias: Array | None = None, **window: Any) -> None:
    def torch_conv(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None) -> Array:
        return nchw_back(F.conv2d(a.double(), b.double(), None if c is None else c.double(), **window))

    tx, tw, tb = nhwc(x), torch.from_numpy(w), None if bias is None else torch.from_numpy(bias)
    size = torch_conv(tx.abs(), tw.abs(), None if tb is None else tb.abs())
    assert_close(conv2d(x, w, bias=bias, **window), torch_conv(tx, tw, tb), size)


# --- convolution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", SIZES)
def test_conv2d_output_channels(isa: str, channels: int) -> None:
    check_conv(numbers(2, 5, 6, 3), numbers(channels, 3, 3, 3), numbers(channels), padding=(1, 1))


@pytest.mark.parametrize("channels", SIZES)
def test_conv2d_input_channels(isa: str, channels: int) -> None:
    check_conv(numbers(1, 4, 5, channels), numbers(5, channels, 3, 2), padding=(1, 0))


@pytest.mark.parametrize("height", [2, 3, 4, 5])
def test_conv2d_leaves_out_kernel_rows_outside_the_image(isa: str, height: int) -> None:
    """Kernels taller than the image, and rows that meet it with different parts of the kernel."""
    for kernel, padding, stride, dilation in [(3, 1, 1, 1), (7, 3, 1, 1), (5, 4, 2, 1), (3, 4, 1, 4), (3, 2, 3, 2)]:
        x, w = numbers(1, height, 4, 3), numbers(5, 3, kernel, 1)
        options = {"padding": (padding, 0), "stride": (stride, 1), "dilation": (dilation, 1)}
        if height + 2 * padding > dilation * (kernel - 1):
            check_conv(x, w, **options)


@pytest.mark.parametrize("width", range(1, 35))
def test_conv2d_widths(isa: str, width: int) -> None:
    """Every tile width, in one and two rows, with one and two registers of channels."""
    for channels in (12, 40):
        check_conv(numbers(1, 3, width, 2), numbers(channels, 2, 3, 3), padding=(1, 1))


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (5, 1), (3, 3), (5, 5), (7, 7), (2, 4), (11, 11)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 4)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (5, 5)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_conv2d_windows(isa: str, kernel, stride, padding, dilation) -> None:
    height, width = (2 * d * (k - 1) + 4 for k, d in zip(kernel, dilation, strict=True))
    x, w = numbers(1, height, width, 3), numbers(6, 3, *kernel)
    check_conv(x, w, stride=stride, padding=padding, dilation=dilation)


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(2, 1, 1), (3, 5, 7), (2, 16, 48), (4, 2, 33), (5, 1, 2)])
def test_conv2d_groups(isa: str, groups: int, inputs: int, outputs: int) -> None:
    x, w = numbers(2, 6, 7, groups * inputs), numbers(groups * outputs, inputs, 3, 3)
    check_conv(x, w, numbers(groups * outputs), groups=groups, padding=(1, 1), stride=(2, 1))


@pytest.mark.parametrize("channels", SIZES)
def test_conv2d_depthwise(isa: str, channels: int) -> None:
    x, w = numbers(2, 9, 17, channels), numbers(channels, 1, 3, 3)
    check_conv(x, w, numbers(channels), groups=channels, padding=(1, 1))
    check_conv(x, w, groups=channels, padding=(2, 2), stride=(2, 2), dilation=(2, 2))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_conv2d_batch(isa: str, batch: int) -> None:
    check_conv(numbers(batch, 8, 8, 4), numbers(9, 4, 3, 3), padding=(1, 1))
    check_conv(numbers(batch, 8, 8, 4), numbers(4, 1, 3, 3), groups=4)


def test_conv2d_padding_larger_than_the_image(isa: str) -> None:
    check_conv(numbers(1, 1, 1, 3), numbers(2, 3, 5, 5), padding=(4, 4))
    check_conv(numbers(1, 2, 1, 3), numbers(2, 3, 1, 1), padding=(3, 3))


def test_conv2d_large_image_is_cut_into_tasks(isa: str) -> None:
    check_conv(numbers(1, 61, 61, 64), numbers(33, 64, 3, 3), padding=(1, 1))


PARTS = [  # channels in and out, image, kernel, options: shapes that tiles of bfloat16 parts serve
    (64, 64, (12, 14), (3, 3), {"padding": (1, 1)}),
    (48, 40, (9, 37), (3, 3), {"padding": (1, 1)}),
    (32, 100, (11, 23), (3, 3), {"padding": (1, 1), "stride": (2, 2)}),
    (30, 33, (7, 17), (5, 3), {"padding": (4, 0), "dilation": (2, 1)}),
    (160, 70, (3, 33), (1, 1), {}),  # flat
    (64, 97, (13, 14), (1, 1), {"stride": (2, 2)}),
    (170, 50, (3, 33), (1, 1), {}),
    (3, 40, (25, 40), (7, 7), {"padding": (3, 3), "stride": (2, 2)}),  # rows of an output row are merged
    (2, 33, (23, 35), (9, 9), {"padding": (9, 2), "dilation": (2, 1)}),
]


@pytest.mark.parametrize(("inputs", "outputs", "size", "kernel", "options"), PARTS)
def test_conv2d_in_parts(isa: str, inputs: int, outputs: int, size, kernel, options) -> None:
    x, w = numbers(2, *size, inputs), numbers(outputs, inputs, *kernel)
    window = _native.Window(size, inputs, outputs, kernel, **options)
    assert _native.FloatConvOp(window, w, _native.Finish(outputs)).kernel.endswith("amx") == (isa == "amx")
    check_conv(x, w, numbers(outputs), **options)
    whole = conv2d(x, w, **options)
    residual, bias = numbers(*whole.shape), numbers(outputs)
    fused = conv2d(x, w, bias=bias, residual=residual, relu=True, **options)
    np.testing.assert_array_equal(fused, np.maximum(whole + bias + residual, np.float32(0)))
    for threads in (2, 8):
        np.testing.assert_array_equal(conv2d(x, w, threads=threads, **options), whole)


@pytest.mark.parametrize("kernel", [1, 3])
def test_conv2d_of_numbers_without_parts(isa: str, kernel: int) -> None:
    """Outputs that no huge, infinite or NaN value reaches keep their bits or values; others are as of float32."""
    x, w = numbers(2, 40, 20, 64), numbers(64, 64, kernel, kernel)
    pad = kernel // 2
    plain = conv2d(x, w, padding=(pad, pad))
    for value in (1e30, -np.inf, np.nan):
        odd = x.copy()
        odd[0, 17, 5, 3] = value
        found = conv2d(odd, w, padding=(pad, pad))
        with torch.no_grad():
            expected = nchw_back(F.conv2d(nhwc(odd).double(), torch.from_numpy(w).double(), padding=pad))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(found[1], plain[1])
        for threads in (2, 8):
            np.testing.assert_array_equal(conv2d(odd, w, padding=(pad, pad), threads=threads), found)
    w[5, 6, pad, pad] = np.inf
    found = conv2d(x, w, padding=(pad, pad))
    assert np.isinf(found[..., 5]).all()
    assert np.isfinite(np.delete(found, 5, axis=3)).all()


# --- linear -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 1, 2, 13, 14, 15, 57, 130])
@pytest.mark.parametrize("inputs", [0, 1, 3, 4, 31, 32, 127])
@pytest.mark.parametrize("outputs", [1, 10, 16, 17, 47, 48, 49, 64, 97])
def test_linear(isa: str, batch: int, inputs: int, outputs: int) -> None:
    x, w, b = numbers(batch, inputs), numbers(outputs, inputs), numbers(outputs)
    found = linear(x, w, bias=b)
    size = np.abs(x) @ np.abs(w).T + np.abs(b)
    assert_close(found, x.astype(np.float64) @ w.T + b, size)
    if batch and inputs:
        assert_close(found, F.linear(*map(torch.from_numpy, (x, w, b))).numpy(), size)


def test_linear_long_rows(isa: str) -> None:
    x, w = numbers(3, 10_000), numbers(35, 10_000)
    for batch in (1, 3):
        found = linear(x[:batch], w)
        assert_close(found, x[:batch].astype(np.float64) @ w.T, np.abs(x[:batch]) @ np.abs(w).T)


# --- the end of every sum ---------------------------------------------------------------------------------------------


def operations() -> dict[str, tuple[Callable[..., Array], int]]:
    image, deep, rows = numbers(2, 7, 9, 5), numbers(2, 7, 9, 19), numbers(20, 30)
    conv, depth, line = numbers(37, 5, 3, 3), numbers(19, 1, 3, 3), numbers(45, 30)
    return {
        "conv2d": (lambda **o: conv2d(image, conv, padding=(1, 1), **o), 37),
        "depthwise": (lambda **o: conv2d(deep, depth, groups=19, **o), 19),
        "linear": (lambda **o: linear(rows, line, **o), 45),
        "linear of one": (lambda **o: linear(rows[:1], line, **o), 45),
    }


@pytest.mark.parametrize("name", operations())
def test_fused_epilogue_equals_separate_operations_bit_for_bit(isa: str, name: str) -> None:
    call, channels = operations()[name]
    bias, scale, shift = numbers(channels, seed=1), numbers(channels, seed=2), numbers(channels, seed=3)
    separate = affine(call(bias=bias), scale, shift)
    np.testing.assert_array_equal(call(bias=bias, scale=scale, shift=shift), separate)
    np.testing.assert_array_equal(call(bias=bias, scale=scale, shift=shift, relu=True), relu(separate))
    np.testing.assert_array_equal(call(bias=bias), affine(call(), np.ones_like(bias), bias))
    residual = numbers(*separate.shape)
    separate = relu(add(separate, residual))
    np.testing.assert_array_equal(call(bias=bias, scale=scale, shift=shift, residual=residual, relu=True), separate)


@pytest.mark.parametrize("name", operations())
def test_levels_equal_the_reference(isa: str, name: str) -> None:
    call, channels = operations()[name]
    found = call(bias=numbers(channels))
    _native.set_isa("ref")
    expected = call(bias=numbers(channels))
    # No operand of these calls is above 5, no sum has more than 45 products.
    assert_close(found, expected, np.full_like(expected, 45 * 5 * 5))


@pytest.mark.parametrize("name", operations())
def test_relu_keeps_nan(isa: str, name: str) -> None:
    call, channels = operations()[name]
    assert np.isnan(call(bias=np.full(channels, np.nan, np.float32), relu=True)).all()


def test_operations_keep_the_level_of_their_making(isa: str) -> None:
    conv = _native.FloatConvOp(_native.Window((3, 3), 2, 3), numbers(3, 2, 1, 1), _native.Finish(3))
    made = [conv, _native.FloatLinearOp(2, numbers(3, 2), _native.Finish(3)), _native.ReluOp(5)]
    _native.set_isa(None)
    for operation in made:
        assert operation.kernel.split()[-1] == (isa if isa in ("ref", "avx2") else "avx512")
    assert conv.weight_bytes >= 24


# --- pools and element-wise -------------------------------------------------------------------------------------------

POOLS = [
    ((2, 2), (2, 2), (0, 0), False),
    ((3, 3), (2, 2), (1, 1), False),
    ((3, 3), (2, 2), (1, 1), True),
    ((2, 3), (1, 2), (1, 0), True),
    ((3, 3), (2, 2), (0, 0), True),
    ((4, 4), (3, 5), (2, 2), True),
    ((1, 1), (1, 1), (0, 0), False),
]


def pooled(operation: Any, x: Array) -> Array:
    return run(operation, x, threads=2)


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil"), POOLS)
@pytest.mark.parametrize("size", [(7, 9), (8, 8), (6, 11)])
def test_pools_equal_torch(isa: str, kernel, stride, padding, ceil, size) -> None:
    for batch, channels in [(0, 3), (1, 1), (2, 17), (1, 67), (1, 128)]:
        x = numbers(batch, *size, channels)
        window = (size, channels, kernel, stride, padding)
        found = pooled(_native.MaxPoolOp(*window, ceil=ceil), x)
        if batch:
            expected = nchw_back(F.max_pool2d(nhwc(x), kernel, stride, padding, ceil_mode=ceil))
            np.testing.assert_array_equal(flat(found), flat(expected))
        for include in (True, False):
            found = pooled(_native.AvgPoolOp(*window, ceil=ceil, count_include_pad=include), x)
            assert found.shape[0] == batch
            if batch:
                expected = nchw_back(F.avg_pool2d(nhwc(x), kernel, stride, padding, ceil, include))
                np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 5, 16, 17, 40])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (3, 2, 1), (2, 1, 0), (1, 1, 0)])
def test_pools_of_one_channel(isa: str, width: int, kernel: int, stride: int, padding: int) -> None:
    """Whose windows side by side are lanes."""
    if width + 2 * padding < kernel:
        return
    x, window = numbers(2, 6, width, 1), ((kernel,) * 2, (stride,) * 2, (padding,) * 2)
    found = run(_native.MaxPoolOp((6, width), 1, *window), x)
    np.testing.assert_array_equal(found, flat(nchw_back(F.max_pool2d(nhwc(x), *window))))
    for include in (False, True):
        found = run(_native.AvgPoolOp((6, width), 1, *window, False, include), x)
        expected = nchw_back(F.avg_pool2d(nhwc(x), *window, False, include))
        np.testing.assert_allclose(found, flat(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dilation", [(2, 2), (3, 1)])
@pytest.mark.parametrize("ceil", [False, True])
def test_max_pool_dilation(isa: str, dilation: tuple[int, int], ceil: bool) -> None:
    x, window = numbers(2, 11, 12, 5), ((3, 2), (2, 2), (1, 1), dilation, ceil)
    expected = nchw_back(F.max_pool2d(nhwc(x), *window))
    np.testing.assert_array_equal(run(_native.MaxPoolOp((11, 12), 5, *window), x), flat(expected))


def test_max_pool_keeps_nan_and_all_negative(isa: str) -> None:
    x = np.full((1, 2, 4, 70), -5, np.float32)
    x[0, 0, 0, 0] = x[0, 1, 3, 0] = x[0, 1, 2, 69] = np.nan
    expected = nchw_back(F.max_pool2d(nhwc(x), (2, 2), (1, 1), (1, 1)))
    np.testing.assert_array_equal(run(_native.MaxPoolOp((2, 4), 70, (2, 2), (1, 1), (1, 1)), x), flat(expected))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (10, 4)])
def test_adaptive_avg_pool_equals_torch(isa: str, size: tuple[int, int]) -> None:
    x = numbers(2, 7, 9, 5)
    expected = nchw_back(F.adaptive_avg_pool2d(nhwc(x), size))
    found = run(_native.AdaptiveAvgPoolOp((7, 9), 5, size), x)
    np.testing.assert_allclose(found, flat(expected), rtol=1e-5, atol=1e-6)


def test_means_have_the_same_bits_at_every_level(isa: str) -> None:
    x = numbers(2, 9, 8, 83)
    operations = [
        lambda: _native.AvgPoolOp((9, 8), 83, (3, 2), (2, 2), (1, 1), True, False),
        lambda: _native.AdaptiveAvgPoolOp((9, 8), 83, (4, 3)),
    ]
    found = [run(make(), x) for make in operations]
    _native.set_isa("ref")
    for make, y in zip(operations, found, strict=True):
        np.testing.assert_array_equal(y, run(make(), x))


@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 1, 1), (3, 50, 17), (2, 1000, 40)])
def test_elementwise(isa: str, shape: tuple[int, int, int]) -> None:
    a, b = numbers(*shape), numbers(*shape, seed=9)
    pixels, channels = shape[1:]
    scale, shift = numbers(channels, seed=1), numbers(channels, seed=2)
    codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for threads in (1, 2):
        assert np.array_equal(run(_native.AddOp(pixels * channels), a, b, threads=threads), flat(a + b))
        assert np.array_equal(run(_native.ReluOp(pixels * channels), a, threads=threads), flat(np.maximum(a, 0)))
        assert np.array_equal(run(_native.AbsOp(pixels * channels), a, threads=threads), flat(np.abs(a)))
        clamped = run(_native.ClampOp(pixels * channels, -0.5, 0.25), a, threads=threads)
        assert np.array_equal(clamped, flat(a.clip(-0.5, 0.25)))
        assert np.array_equal(run(_native.MulOp(pixels * channels), a, b, threads=threads), flat(a * b))
        rows = np.ascontiguousarray(b[..., :1])
        found = run(_native.AddOp(pixels * channels, channels), a, rows, threads=threads)
        assert np.array_equal(found, flat(a + rows))
        found = run(_native.MulOp(pixels * channels, channels), a, rows, threads=threads)
        assert np.array_equal(found, flat(a * rows))
        found = run(_native.PreluOp(pixels, _native.Prelu(scale)), a, threads=threads)
        assert np.array_equal(found, flat(np.where(a >= 0, a, a * scale)))
        z = a * scale + shift
        vectors = {"scale": scale, "shift": shift, "after_scale": shift, "after_shift": scale}
        found = run(_native.PreluOp(pixels, _native.Prelu(scale[::-1].copy(), **vectors)), a, threads=threads)
        assert np.array_equal(found, flat(np.where(z >= 0, z, z * scale[::-1]) * shift + scale))
        expected = flat(a * scale + shift)
        assert np.array_equal(run(_native.AffineOp(pixels, scale, shift), a, threads=threads), expected)
        assert np.array_equal(run(_native.NormalizeOp(pixels, scale, shift), a, threads=threads), expected)
        found = run(_native.NormalizeOp(pixels, scale, shift, uint8=True), codes, threads=threads)
        assert np.array_equal(found, flat(codes.astype(np.float32) / np.float32(255) * scale + shift))


def test_normalize_knows_every_byte(isa: str) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 256)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    found = run(_native.NormalizeOp(256, one, zero, uint8=True), codes)
    assert np.array_equal(found, codes.astype(np.float32) / np.float32(255))


# --- movers -----------------------------------------------------------------------------------------------------------

FEW = [size for few in (2, 3, 4) for size in ((few, 149), (149, few), (few, few))]
SHAPES = [(1,), (7,), (3, 5), (4, 1, 6), (2, 3, 4), (5, 33, 17)]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33), (64, 100), (1, 9), (9, 1), *FEW])
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


# --- threads ----------------------------------------------------------------------------------------------------------


def heavy_calls() -> list[Callable[[int], Array]]:
    """Calls with enough work that threads are used."""
    image, conv, depth = numbers(3, 33, 33, 16), numbers(70, 16, 3, 3), numbers(16, 1, 5, 5)
    small, deep = numbers(1, 8, 8, 64), numbers(100, 64, 3, 3)
    rows, line, many = numbers(130, 500), numbers(333, 500), numbers(3, 40 * 40 * 400)
    return [
        lambda t: conv2d(image, conv, padding=(1, 1), threads=t),
        lambda t: conv2d(small, deep, padding=(1, 1), threads=t),
        lambda t: conv2d(image, depth, groups=16, threads=t),
        lambda t: linear(rows, line, threads=t),
        lambda t: linear(rows[:1], line, threads=t),
        lambda t: run(_native.MaxPoolOp((33, 33), 16, (3, 3), (1, 1)), image, threads=t),
        lambda t: run(_native.ReluOp(40 * 40 * 400), many, threads=t),
    ]


def test_threads_change_no_bit(isa: str) -> None:
    for call in heavy_calls():
        alone = call(1)
        for threads in (2, 3, 8):
            np.testing.assert_array_equal(call(threads), alone)


def test_several_python_threads_at_once() -> None:
    calls = heavy_calls()
    expected = [call(1) for call in calls]
    barrier = threading.Barrier(4)

    def worker(first: int) -> None:
        barrier.wait()
        for i in range(40):
            k = (first + i) % len(calls)
            np.testing.assert_array_equal(calls[k](2), expected[k])

    with ThreadPoolExecutor(4) as executor:
        for done in [executor.submit(worker, i) for i in range(4)]:
            done.result(timeout=60)


def test_idle_threads_sleep() -> None:
    """They look out for the next call for microseconds only."""
    heavy_calls()[0](2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25


FORK = """
import os, sys, threading, warnings
import numpy as np
from bitwright import _native
warnings.simplefilter("ignore")
x = np.random.default_rng(0).standard_normal((8, 17, 17, 32)).astype(np.float32)
w = np.ones((32, 32, 3, 3), np.float32)
conv = _native.FloatConvOp(_native.Window((17, 17), 32, 32, (3, 3)), w, _native.Finish(32))
run = lambda: _native.run_operation(conv, [x], 8, 2)[0].tobytes()
expected = run()
stop = False
def busy():
    while not stop:
        run()
noise = threading.Thread(target=busy)
noise.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(run() == expected for _ in range(3)) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
stop = True
noise.join()
assert run() == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_children_work_after_a_fork() -> None:
    """Forked while another thread is inside the pool."""
    done = subprocess.run([sys.executable, "-c", FORK], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- refusals ---------------------------------------------------------------------------------------------------------

WINDOW = _native.Window((4, 4), 2, 3, (3, 3))
LAYOUT = _native.CodeLayout(2, 2, 3)
RELU = _native.ReluOp(4)
REFUSALS = {
    r"stride is \(0, 1\), expected at least 1": lambda: _native.Window((4, 4), 1, 1, stride=(0, 1)),
    r"padding is \(-1, 0\), expected at least 0": lambda: _native.Window((4, 4), 1, 1, padding=(-1, 0)),
    r"dilation is \(1, 0\), expected at least 1": lambda: _native.Window((4, 4), 1, 1, dilation=(1, 0)),
    "larger than the padded image": lambda: _native.Window((4, 4), 1, 1, (3, 3), dilation=(2, 2)),
    "padded image would have more than": lambda: _native.Window((4, 4), 1, 1, padding=(2**30, 2**30)),
    "groups is 2, expected a divisor": lambda: _native.Window((4, 4), 2, 3, groups=2),
    "expected both or neither": lambda: _native.Finish(3, scale=numbers(3)),
    r"bias has shape \(2\), expected \(3\)": lambda: _native.Finish(3, bias=numbers(2)),
    "there are 2 inputs, expected 1": lambda: _native.run_operation(RELU, [numbers(4)] * 2),
    "input 0 has 12 bytes, expected 16": lambda: _native.run_operation(RELU, [numbers(3)]),
    "is not contiguous": lambda: _native.run_operation(RELU, [numbers(8)[::2]]),
    "threads is 0, expected 1 to 1024": lambda: _native.run_operation(RELU, [numbers(4)], 1, 0),
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
    "does not lie in the shape": lambda: _native.PadOp([4], [0], [0], 0.0, [1], [2], [3]),
    "start, step and count have other numbers": lambda: _native.PadOp([4], [0], [0], 0.0, [1], [2]),
    "found low > high": lambda: _native.ClampOp(4, 1.0, 0.5),
    "expected a divisor of the count": lambda: _native.MulOp(4, 3),
    "slope has shape": lambda: _native.Prelu(numbers(2, 2)),
    "after_shift": lambda: _native.Prelu(numbers(2), after_shift=numbers(3)),
    "finish has a prelu or limits": lambda: _native.FloatLinearOp(2, numbers(3, 2), _native.Finish(3, limits=(0, 1))),
    "prelu has other channels": lambda: _native.Finish(3, prelu=_native.Prelu(numbers(2))),
    "limits: found low > high": lambda: _native.Finish(3, limits=(1, 0)),
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
