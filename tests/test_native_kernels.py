"""Kernels against PyTorch, variants against the reference variant, and everything that must not change a bit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitwright import _native

# |variant - reference| <= SUM_TOLERANCE * sum |x| |w|. Variants add n products in another order and round once per
# fused multiply-add: the error grows like sqrt(n) * 2^-24 for values like these, 6e-6 for the largest n here (10,000).
SUM_TOLERANCE = 1e-5

ISAS = _native.isa_names()
SIZES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 37, 64, 67)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        _native.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _native.set_isa(None)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Non-periodic values of both signs; no two neighbours cancel by chance."""
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def assert_close(found: np.ndarray, expected: np.ndarray, size: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    worst = np.abs(found - expected) - SUM_TOLERANCE * np.abs(size)
    assert found.size == 0 or worst.max() <= 1e-30, f"{worst.max():.3g} beyond the tolerance"


def nhwc(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def nchw_back(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


def check_conv(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, **options) -> np.ndarray:
    groups = options.pop("groups", 1)
    found = _native.conv2d(x, _native.conv2d_pack(w, groups), bias, **options)
    torch_bias = None if bias is None else torch.from_numpy(bias)
    options = {k: v for k, v in options.items() if k != "threads"}

    def torch_conv(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None) -> np.ndarray:
        return nchw_back(F.conv2d(a.double(), b.double(), None if c is None else c.double(), groups=groups, **options))

    expected = torch_conv(nhwc(x), torch.from_numpy(w), torch_bias)
    size = torch_conv(nhwc(x).abs(), torch.from_numpy(w).abs(), None if torch_bias is None else torch_bias.abs())
    assert_close(found, expected, size)
    return found


# --- convolution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", SIZES)
def test_conv2d_output_channels(isa: str, channels: int) -> None:
    check_conv(numbers(2, 5, 6, 3), numbers(channels, 3, 3, 3), numbers(channels), padding=(1, 1))


@pytest.mark.parametrize("channels", SIZES)
def test_conv2d_input_channels(isa: str, channels: int) -> None:
    check_conv(numbers(1, 4, 5, channels), numbers(5, channels, 3, 2), padding=(1, 0))


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


# --- linear -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 1, 2, 13, 14, 15, 57, 130])
@pytest.mark.parametrize("inputs", [0, 1, 3, 4, 31, 32, 127])
@pytest.mark.parametrize("outputs", [0, 1, 10, 16, 17, 47, 48, 49, 64, 97])
def test_linear(isa: str, batch: int, inputs: int, outputs: int) -> None:
    x, w, b = numbers(batch, inputs), numbers(outputs, inputs), numbers(outputs)
    found = _native.linear(x, _native.linear_pack(w), b)
    size = np.abs(x) @ np.abs(w).T + np.abs(b)
    assert_close(found, x.astype(np.float64) @ w.T + b, size)
    if batch and inputs:
        assert_close(found, F.linear(*map(torch.from_numpy, (x, w, b))).numpy(), size)


def test_linear_long_rows(isa: str) -> None:
    x, w = numbers(3, 10_000), numbers(35, 10_000)
    for batch in (1, 3):
        found = _native.linear(x[:batch], _native.linear_pack(w), None)
        assert_close(found, x[:batch].astype(np.float64) @ w.T, np.abs(x[:batch]) @ np.abs(w).T)


# --- sparse linear ----------------------------------------------------------------------------------------------------


def sparse_case(rows: int, cols: int, density: float, values: int | None, code_type: type = np.uint8):
    """(packed weights, the same matrix dense)."""
    rng = np.random.default_rng(rows * 1000 + cols)
    positions = np.flatnonzero(rng.random(rows * cols) < density).astype(np.int64)
    dense = np.zeros(rows * cols, np.float32)
    if values is None:
        table = rng.standard_normal(len(positions)).astype(np.float32)
        dense[positions] = table
        return _native.sparse_linear_pack(rows, cols, positions, None, table), dense.reshape(rows, cols)
    table = rng.standard_normal(values).astype(np.float32)
    codes = rng.integers(0, values, len(positions)).astype(code_type)
    dense[positions] = table[codes]
    return _native.sparse_linear_pack(rows, cols, positions, codes, table), dense.reshape(rows, cols)


STORES = [
    (None, np.uint8),
    (1, np.uint8),
    (9, np.uint8),
    (16, np.uint16),
    (31, np.uint8),
    (32, np.uint16),
    (33, np.uint8),
]
STORES += [(256, np.uint8), (1000, np.uint16)]


@pytest.mark.parametrize("store", STORES, ids=str)
@pytest.mark.parametrize("batch", [0, 1, 2, 3, 16, 17, 33, 47, 48, 49, 64, 65, 131])
def test_sparse_linear(isa: str, batch: int, store) -> None:
    for rows, cols, density in [(37, 101, 0.3), (16, 8, 1.0), (5, 300, 0.08), (1, 1, 1.0), (19, 1, 0.5)]:
        weights, dense = sparse_case(rows, cols, density, *store)
        x, b = numbers(batch, cols), numbers(rows)
        found = _native.sparse_linear(x, weights, b)
        assert_close(found, x.astype(np.float64) @ dense.T + b, np.abs(x) @ np.abs(dense).T + np.abs(b))


@pytest.mark.parametrize("batch", [1, 5])
def test_sparse_linear_wide_columns(isa: str, batch: int) -> None:
    """More columns than 16 bits can name."""
    weights, dense = sparse_case(7, 70_001, 0.01, 20)
    x = numbers(batch, 70_001)
    assert_close(_native.sparse_linear(x, weights, None), x.astype(np.float64) @ dense.T, np.abs(x) @ np.abs(dense).T)


@pytest.mark.parametrize("batch", [1, 4])
def test_sparse_linear_empty(isa: str, batch: int) -> None:
    """No entries, no rows, no columns."""
    for rows, cols in [(3, 5), (0, 5), (3, 0)]:
        weights, _ = sparse_case(rows, cols, 0.0, 4)
        assert np.array_equal(
            _native.sparse_linear(numbers(batch, cols), weights, np.ones(rows, np.float32)), np.ones((batch, rows))
        )


def test_sparse_linear_ignores_infinite_values_of_other_rows(isa: str) -> None:
    """Lanes past the end of a row belong to the next one and must not leak, not even as inf * 0."""
    positions = np.arange(2 * 5, dtype=np.int64)
    values = np.array([1, 2, 3, 4, 5, np.inf, np.nan, np.inf, 0, 0], np.float32)
    x = np.array([[1, 1, 1, 1, 1]], np.float32)
    found = _native.sparse_linear(x, _native.sparse_linear_pack(2, 5, positions, None, values), None)
    assert found[0, 0] == 15
    assert np.isnan(found[0, 1])


def test_sparse_linear_weights_stay_small() -> None:
    """The matrix is never expanded: 3 bytes per entry, and where each row begins in each block of 128 columns."""
    weights, dense = sparse_case(300, 784, 0.02, 32)
    assert weights.nbytes < 3 * np.count_nonzero(dense) + 4 * 300 * (7 + 1) + 500


# --- the end of every sum ---------------------------------------------------------------------------------------------


def operations() -> dict[str, tuple[Callable, int]]:
    conv, depth = _native.conv2d_pack(numbers(37, 5, 3, 3)), _native.conv2d_pack(numbers(19, 1, 3, 3), 19)
    line, (sparse, _) = _native.linear_pack(numbers(45, 30)), sparse_case(21, 30, 0.3, 16)
    image, deep, rows = numbers(2, 7, 9, 5), numbers(2, 7, 9, 19), numbers(20, 30)
    return {
        "conv2d": (lambda bias=None, **o: _native.conv2d(image, conv, bias, padding=(1, 1), **o), 37),
        "depthwise": (lambda bias=None, **o: _native.conv2d(deep, depth, bias, **o), 19),
        "linear": (lambda bias=None, **o: _native.linear(rows, line, bias, **o), 45),
        "linear of one": (lambda bias=None, **o: _native.linear(rows[:1], line, bias, **o), 45),
        "sparse_linear": (lambda bias=None, **o: _native.sparse_linear(rows, sparse, bias, **o), 21),
        "sparse_linear of one": (lambda bias=None, **o: _native.sparse_linear(rows[:1], sparse, bias, **o), 21),
    }


@pytest.mark.parametrize("name", operations())
def test_fused_epilogue_equals_separate_calls_bit_for_bit(isa: str, name: str) -> None:
    call, channels = operations()[name]
    bias, scale, shift = numbers(channels, seed=1), numbers(channels, seed=2), numbers(channels, seed=3)
    separate = _native.affine(call(bias), scale, shift)
    np.testing.assert_array_equal(call(bias, scale=scale, shift=shift), separate)
    np.testing.assert_array_equal(call(bias, scale=scale, shift=shift, relu=True), _native.relu(separate))
    np.testing.assert_array_equal(call(bias), _native.affine(call(), np.ones_like(bias), bias))
    if name in ("conv2d", "depthwise"):
        residual = numbers(*separate.shape)
        separate = _native.relu(_native.add(separate, residual))
        np.testing.assert_array_equal(call(bias, scale=scale, shift=shift, residual=residual, relu=True), separate)


@pytest.mark.parametrize("name", operations())
def test_variants_equal_the_reference(isa: str, name: str) -> None:
    call, channels = operations()[name]
    found = call(numbers(channels))
    _native.set_isa("ref")
    expected = call(numbers(channels))
    # No operand of these calls is above 5, no sum has more than 45 products.
    assert_close(found, expected, np.full_like(expected, 45 * 5 * 5))


@pytest.mark.parametrize("name", operations())
def test_relu_keeps_nan(isa: str, name: str) -> None:
    call, channels = operations()[name]
    assert np.isnan(call(np.full(channels, np.nan, np.float32), relu=True)).all()


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


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil"), POOLS)
@pytest.mark.parametrize("size", [(7, 9), (8, 8), (6, 11)])
def test_pools_equal_torch(kernel, stride, padding, ceil, size) -> None:
    for batch, channels in [(0, 3), (1, 1), (2, 17)]:
        x = numbers(batch, *size, channels)
        found = _native.max_pool2d(x, kernel, stride, padding, ceil=ceil)
        if batch:
            np.testing.assert_array_equal(
                found, nchw_back(F.max_pool2d(nhwc(x), kernel, stride, padding, ceil_mode=ceil))
            )
        for include in (True, False):
            found = _native.avg_pool2d(x, kernel, stride, padding, ceil=ceil, count_include_pad=include)
            assert found.shape[0] == batch
            if batch:
                expected = nchw_back(F.avg_pool2d(nhwc(x), kernel, stride, padding, ceil, include))
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dilation", [(2, 2), (3, 1)])
@pytest.mark.parametrize("ceil", [False, True])
def test_max_pool_dilation(dilation, ceil: bool) -> None:
    x = numbers(2, 11, 12, 5)
    found = _native.max_pool2d(x, (3, 2), (2, 2), (1, 1), dilation, ceil)
    np.testing.assert_array_equal(found, nchw_back(F.max_pool2d(nhwc(x), (3, 2), (2, 2), (1, 1), dilation, ceil)))


def test_max_pool_keeps_nan_and_all_negative() -> None:
    x = np.full((1, 2, 4, 1), -5, np.float32)
    x[0, 0, 0, 0] = x[0, 1, 3, 0] = np.nan
    found = _native.max_pool2d(x, (2, 2), (1, 1), (1, 1))
    np.testing.assert_array_equal(found, nchw_back(F.max_pool2d(nhwc(x), (2, 2), (1, 1), (1, 1))))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (10, 4)])
def test_adaptive_avg_pool_equals_torch(size: tuple[int, int]) -> None:
    x = numbers(2, 7, 9, 5)
    found = _native.adaptive_avg_pool2d(x, size)
    np.testing.assert_allclose(found, nchw_back(F.adaptive_avg_pool2d(nhwc(x), size)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 31), (2, 3, 4, 17), (7,), (300, 257)])
def test_elementwise(shape: tuple[int, ...]) -> None:
    a, b = numbers(*shape), numbers(*shape, seed=9)
    scale, shift = numbers(shape[-1], seed=1), numbers(shape[-1], seed=2)
    for threads in (1, 2):
        np.testing.assert_array_equal(_native.add(a, b, threads), a + b)
        np.testing.assert_array_equal(_native.relu(a, threads), np.maximum(a, 0))
        np.testing.assert_array_equal(_native.affine(a, scale, shift, threads), a * scale + shift)


# --- threads ----------------------------------------------------------------------------------------------------------


def heavy_calls() -> list[Callable[[int], np.ndarray]]:
    """Calls with enough work that threads are used."""
    image, conv = numbers(3, 33, 33, 16), _native.conv2d_pack(numbers(70, 16, 3, 3))
    small, deep = numbers(1, 8, 8, 64), _native.conv2d_pack(numbers(100, 64, 3, 3))
    depth = _native.conv2d_pack(numbers(16, 1, 5, 5), 16)
    rows, line, (sparse, _) = numbers(130, 500), _native.linear_pack(numbers(333, 500)), sparse_case(333, 500, 0.2, 30)
    one = np.ascontiguousarray(rows[:1])
    many, wide = numbers(40, 40, 400), numbers(1, 3000)
    wide_sparse, _ = sparse_case(900, 3000, 0.2, 30)
    return [
        lambda t: _native.conv2d(image, conv, None, padding=(1, 1), threads=t),
        lambda t: _native.conv2d(small, deep, None, padding=(1, 1), threads=t),
        lambda t: _native.conv2d(image, depth, None, threads=t),
        lambda t: _native.linear(rows, line, None, t),
        lambda t: _native.linear(one, line, None, t),
        lambda t: _native.sparse_linear(rows, sparse, None, t),
        lambda t: _native.sparse_linear(wide, wide_sparse, None, t),
        lambda t: _native.max_pool2d(image, (3, 3), (1, 1), threads=t),
        lambda t: _native.relu(many, t),
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


FORK = """
import os, sys, threading, warnings
import numpy as np
from bitwright import _native
warnings.simplefilter("ignore")
x = np.random.default_rng(0).standard_normal((8, 17, 17, 32)).astype(np.float32)
w = _native.conv2d_pack(np.ones((32, 32, 3, 3), np.float32))
run = lambda: _native.conv2d(x, w, None, threads=2).tobytes()
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


# --- choice of variant ------------------------------------------------------------------------------------------------


def native_isa(wish: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from bitwright import _native; print(_native.isa())"]
    return subprocess.run(
        command, env={**os.environ, "BITWRIGHT_CPU": wish}, capture_output=True, text=True, check=False
    )


def test_environment_narrows_the_variant() -> None:
    _native.set_isa(None)
    best = native_isa("").stdout.strip()
    for name in ISAS:
        assert native_isa(name).stdout.strip() == min(name, best, key=ISAS.index)


def test_environment_with_an_unknown_variant() -> None:
    done = native_isa("sse9")
    assert done.returncode != 0
    assert "BITWRIGHT_CPU is 'sse9', expected one of 'ref', 'avx2'" in done.stderr


def test_set_isa_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="name is 'neon', expected one of 'ref'"):
        _native.set_isa("neon")


def test_isa_is_what_was_set(isa: str) -> None:
    assert _native.isa() == isa


def test_cpu_features_explain_the_variant() -> None:
    features = _native.cpu_features()
    assert set(features) >= {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"}
    if not (features["avx2"] and features["fma"]):
        with pytest.raises(ValueError, match="this machine has no avx2"):
            _native.set_isa("avx2")


# --- refusals ---------------------------------------------------------------------------------------------------------

X4, W4 = numbers(1, 4, 4, 2), numbers(3, 2, 3, 3)
CONV = _native.conv2d_pack(W4)
LINE = _native.linear_pack(numbers(3, 5))
POSITIONS = np.array([0, 3, 7], np.int64)


def bad_sparse(positions=POSITIONS, codes=None, values=None, rows=2, cols=5) -> None:
    values = numbers(3) if values is None else values
    _native.sparse_linear_pack(rows, cols, np.asarray(positions, np.int64), codes, values)


REFUSALS = {
    "x has dtype float64, expected float32": lambda: _native.relu(np.ones(3)),
    "x has dtype int32, expected float32": lambda: _native.relu(np.ones(3, np.int32)),
    r"x has shape \(1, 4, 4\), expected 4 dimensions": lambda: _native.conv2d(X4[..., 0].copy(), CONV),
    "x is not contiguous": lambda: _native.relu(X4.transpose(0, 3, 1, 2)),
    "not aligned": lambda: _native.relu(np.frombuffer(bytes(9), np.uint8)[1:].view(np.float32)),
    "expected 2 channels in the last axis": lambda: _native.conv2d(numbers(1, 4, 4, 3), CONV),
    r"bias has shape \(2\), expected \(3\)": lambda: _native.conv2d(X4, CONV, numbers(2)),
    r"stride is \(0, 1\), expected at least 1": lambda: _native.conv2d(X4, CONV, stride=(0, 1)),
    r"padding is \(-1, 0\), expected at least 0": lambda: _native.conv2d(X4, CONV, padding=(-1, 0)),
    r"dilation is \(1, 0\), expected at least 1": lambda: _native.conv2d(X4, CONV, dilation=(1, 0)),
    "image of 4 x 4, expected at least the window of 5 x 5": lambda: _native.conv2d(X4, CONV, dilation=(2, 2)),
    "padded image would have more than": lambda: _native.conv2d(X4, CONV, padding=(2**30, 2**30)),
    "threads is 0, expected 1 to 1024": lambda: _native.conv2d(X4, CONV, threads=0),
    "groups is 2, expected a divisor of the 3": lambda: _native.conv2d_pack(W4, 2),
    r"weight has shape \(3, 0, 1, 1\), expected no empty": lambda: _native.conv2d_pack(
        np.ones((3, 0, 1, 1), np.float32)
    ),
    "expected both or neither": lambda: _native.conv2d(X4, CONV, scale=numbers(3)),
    "residual has shape": lambda: _native.conv2d(X4, CONV, residual=X4),
    r"x has shape \(2, 4\), expected 5 columns": lambda: _native.linear(numbers(2, 4), LINE),
    r"positions\[2\] is 3, expected ascending": lambda: bad_sparse([0, 3, 3]),
    r"positions\[0\] is -1, expected ascending": lambda: bad_sparse([-1, 3, 4]),
    r"positions\[2\] is 10, expected ascending values below 10": lambda: bad_sparse([0, 3, 10]),
    r"\(rows, cols\) is \(-1, 5\)": lambda: bad_sparse(rows=-1),
    "values has 2 entries, expected as many as positions: 3": lambda: bad_sparse(values=numbers(2)),
    "codes has 2 entries": lambda: bad_sparse(codes=np.zeros(2, np.uint8)),
    r"codes has shape \(3, 1\), expected 1": lambda: bad_sparse(codes=np.zeros((3, 1), np.uint8)),
    "codes has dtype int8, expected uint8": lambda: bad_sparse(codes=np.zeros(3, np.int8)),
    r"codes\[1\] is 3, expected less than the 3": lambda: bad_sparse(codes=np.array([0, 3, 1], np.uint8)),
    r"codes\[0\] is 9, expected less than the 3": lambda: bad_sparse(codes=np.array([9, 3, 1], np.uint16)),
    "the matrix would have more than": lambda: bad_sparse(rows=2**30, cols=2**30),
    "padding is 2 x 0, expected at most half": lambda: _native.max_pool2d(X4, (2, 2), (1, 1), (2, 0)),
    "image of 4 x 4, expected at least the window of 5 x 1": lambda: _native.avg_pool2d(X4, (5, 1), (1, 1)),
    r"size is \(0, 1\)": lambda: _native.adaptive_avg_pool2d(X4, (0, 1)),
    "expected a non-empty image": lambda: _native.adaptive_avg_pool2d(np.ones((1, 0, 2, 3), np.float32), (1, 1)),
    r"x has shape \(\), expected channels": lambda: _native.affine(np.float32(1).reshape(()), numbers(1), numbers(1)),
    r"scale has shape \(3\), expected \(2\)": lambda: _native.affine(X4, numbers(3), numbers(2)),
    r"b has shape \(1\), expected that of a": lambda: _native.add(X4, numbers(1)),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_refusals(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSALS[message]()


def test_what_is_no_array_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.relu("pixels")
