"""Float operations that join channels (norms, maxout, concatenation), curves, and adaptive maxima: against PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import _native

Array = np.ndarray
NUMBERS = np.array([0.0, -0.0, 1e-30, -1e-7, 1e-3, -0.4, 0.35, 1, -5, 12, -30, 87, -90, 200, -1e30, np.inf, -np.inf])

CURVES = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": lambda x: F.elu(x, 0.5),
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "gelu": lambda x: 0.5 * x * torch.special.erfc(x * -(0.5**0.5)),  # F.gelu loses the far digits
}


@pytest.fixture(params=_native.isa_names())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(None)


def run(operation: Any, *inputs: Array, threads: int = 2) -> Array:
    """The operation on a batch, float32 and flat behind the batch."""
    batch = len(inputs[0])
    (found,) = _native.run_operation(operation, [np.ascontiguousarray(x) for x in inputs], batch, threads)
    return found.view(np.float32).reshape(batch, operation.output_bytes[0] // 4)


def normal(random: np.random.Generator, *shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("curve", CURVES)
def test_curves_have_the_digits_of_float32_everywhere(isa: str, curve: str) -> None:
    """Also where they are small, far out, infinite or no number."""
    spread = np.concatenate([NUMBERS, [np.nan], np.linspace(-20, 20, 4001), np.geomspace(1e-20, 1e-3, 99)])
    x = np.concatenate([spread, -spread]).astype(np.float32)[None]
    expected = CURVES[curve](torch.from_numpy(x).double()).float().numpy()
    # far out, rounding the argument of a gelu's exponential changes it by so much; below 1e-33 all is nothing
    rtol = 2e-6 * np.maximum(1, np.minimum(np.abs(x), 20) ** 2) if curve == "gelu" else 2e-6
    found = run(_native.CurveOp(curve, x.size, 0.5), x)
    assert np.array_equal(np.isfinite(found), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_less(np.abs(found[finite] - expected[finite]), (rtol * np.abs(expected) + 1e-33)[finite])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 9), st.sampled_from([0.75, 0.5, 1.25]))
def test_response_norm_equals_torch(batch: int, pixels: int, channels: int, size: int, beta: float) -> None:
    x = normal(np.random.default_rng(pixels), batch, pixels, channels)
    expected = F.local_response_norm(torch.from_numpy(x).transpose(1, 2).double(), size, 0.7 * size, beta, 2.0)
    for level in _native.isa_names():
        _native.set_isa(level)
        found = run(_native.ResponseNormOp(pixels, channels, size, 0.7, beta, 2.0), x)
        np.testing.assert_allclose(found, expected.transpose(1, 2).reshape(found.shape), rtol=1e-5, atol=1e-6)
    _native.set_isa(None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 24), st.integers(1, 5), st.sampled_from([0.0, 1e3]))
def test_group_norm_equals_torch(batch: int, pixels: int, width: int, groups: int, offset: float) -> None:
    x = normal(np.random.default_rng(pixels), batch, pixels, groups * width) + np.float32(offset)
    # one number after the other: torch refuses groups of a single one
    exact = x.astype(np.float64).reshape(batch, pixels, groups, width)
    centred = exact - exact.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)
    for level in _native.isa_names():
        _native.set_isa(level)
        found = run(_native.GroupNormOp(pixels, groups * width, groups, 1e-5), x)
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-6)
    _native.set_isa(None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(1, 9), st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_concat_moves_every_number(batch: int, outer: int, sizes: list[int]) -> None:
    random = np.random.default_rng(sum(sizes))
    inputs = [normal(random, batch, outer, size) for size in sizes]
    found = run(_native.ConcatOp(outer, sizes), *inputs)
    assert np.array_equal(found, np.concatenate(inputs, 2).reshape(found.shape))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(1, 90), st.integers(1, 9))
def test_maxout_takes_the_largest_or_a_nan(batch: int, count: int, pieces: int) -> None:
    random = np.random.default_rng(count)
    x = np.where(random.random((batch, count, pieces)) < 0.1, np.float32(np.nan), normal(random, batch, count, pieces))
    assert np.array_equal(run(_native.MaxoutOp(count, pieces), x), x.max(axis=2), equal_nan=True)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (10, 4)])
@pytest.mark.parametrize("channels", [1, 5, 70])
def test_adaptive_max_pool_equals_torch(isa: str, size: tuple[int, int], channels: int) -> None:
    x = normal(np.random.default_rng(0), 2, 7, 9, channels)
    expected = F.adaptive_max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    found = run(_native.AdaptiveMaxPoolOp((7, 9), channels, size), x)
    assert np.array_equal(found, expected.reshape(2, -1))


def test_threads_change_no_bit(isa: str) -> None:
    x = normal(np.random.default_rng(0), 3, 2000, 96)
    for operation in (
        _native.ResponseNormOp(2000, 96, 5, 1e-4, 0.75, 2.0),
        _native.GroupNormOp(2000, 96, 8, 1e-5),
        _native.CurveOp("tanh", 2000 * 96),
        _native.MaxoutOp(2000 * 32, 3),
    ):
        assert np.array_equal(run(operation, x, threads=1), run(operation, x, threads=5))


REFUSALS = {
    "curve is 'sine', expected sigmoid, tanh, elu, gelu, sqrt or rsqrt": lambda: _native.CurveOp("sine", 4),
    "count is": lambda: _native.CurveOp("tanh", 0),
    "groups is 3, expected a divisor of the channels": lambda: _native.GroupNormOp(1, 4, 3, 0.0),
    "size is": lambda: _native.ResponseNormOp(1, 4, 0, 1.0, 1.0, 1.0),
    "sizes is empty": lambda: _native.ConcatOp(1, []),
    "sizes is": lambda: _native.ConcatOp(1, [3, 0]),
    "outer is": lambda: _native.ConcatOp(0, [3]),
    r"\(count, pieces\) is": lambda: _native.MaxoutOp(3, 0),
    r"\(pixels, channels\) is": lambda: _native.GroupNormOp(0, 4, 2, 0.0),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_refusals(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSALS[message]()
