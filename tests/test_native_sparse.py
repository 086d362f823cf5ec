"""Operations on sparse and coded weights, at every instruction set, against float64 sums over the dense weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright import _native

# |found - exact| <= SUM_TOLERANCE * sum |x| |w|: the error of n additions in any order grows like sqrt(n) * 2^-24.
SUM_TOLERANCE = 1e-5


@pytest.fixture(params=_native.isa_names())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(None)


@dataclass
class Sparse:
    """A random sparse weight, as an operation wants it and dense."""

    positions: np.ndarray
    codes: np.ndarray | None
    values: np.ndarray
    dense: np.ndarray


def sparse_weight(shape: tuple[int, ...], density: float, table: int | None, seed: int = 0) -> Sparse:
    """`table`: entries of the codebook, None: every non-zero has a value of its own."""
    rng = np.random.default_rng(seed)
    dense = np.zeros(int(np.prod(shape)), np.float32)
    positions = np.flatnonzero(rng.random(dense.size) < density).astype(np.int64)
    codes = None
    if table is None:
        values = rng.standard_normal(len(positions)).astype(np.float32)
        dense[positions] = values
    else:
        values = rng.standard_normal(table).astype(np.float32)
        codes = rng.integers(0, table, len(positions)).astype(np.uint8 if table <= 256 else np.uint16)
        dense[positions] = values[codes]
    return Sparse(positions, codes, values, dense.reshape(shape))


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(operation: Any, *inputs: np.ndarray, threads: int = 1) -> np.ndarray:
    """The floats of the operation's only output, [batch, ...]."""
    (result,) = _native.run_operation(operation, list(inputs), len(inputs[0]), threads)
    return result.view(np.float32).reshape(len(inputs[0]), operation.output_bytes[0] // 4)


def assert_close(found: np.ndarray, expected: np.ndarray, size: np.ndarray) -> None:
    assert found.shape == expected.shape
    worst = np.abs(found - expected) - SUM_TOLERANCE * np.abs(size)
    assert found.size == 0 or worst.max() <= 1e-30, f"{worst.max():.3g} beyond the tolerance"


def finished(y: np.ndarray, residual: np.ndarray | None, relu: bool, **vectors: np.ndarray) -> np.ndarray:
    y = y + vectors.get("bias", 0.0)
    y = y * vectors.get("scale", 1.0) + vectors.get("shift", 0.0)
    y = y if residual is None else y + residual
    return np.maximum(y, 0) if relu else y


def sparse_linear(weight: Sparse, **finish: Any) -> Any:
    rows, cols = weight.dense.shape
    return _native.SparseLinearOp(
        rows, cols, weight.positions, weight.codes, weight.values, _native.Finish(rows, **finish)
    )


TABLES = st.sampled_from([None, 1, 2, 3, 8, 16, 17, 32, 33, 64, 65, 256, 300])


@given(
    rows=st.integers(1, 200),
    cols=st.integers(1, 700),
    density=st.sampled_from([0.0, 0.01, 0.04, 0.1, 0.3, 1.0]),
    table=TABLES,
    batch=st.sampled_from([0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 65]),
    seed=st.integers(0, 2**16),
    isa_name=st.sampled_from(_native.isa_names()),
    threads=st.sampled_from([1, 2, 5]),
)
def test_sparse_linear_is_the_dense_product(
    rows: int,
    cols: int,
    density: float,
    table: int | None,
    batch: int,
    seed: int,
    isa_name: str,
    threads: int,
) -> None:
    weight, x = sparse_weight((rows, cols), density, table, seed), numbers(batch, cols)
    _native.set_isa(isa_name)
    try:
        operation = sparse_linear(weight)
    finally:
        _native.set_isa(None)
    found = run(operation, x, threads=threads).reshape(batch, rows)
    dense = weight.dense.astype(np.float64)
    assert_close(found, x @ dense.T, np.abs(x) @ np.abs(dense).T)
    if batch:
        np.testing.assert_array_equal(found, run(operation, x))


@pytest.mark.parametrize("batch", [1, 5, 40])
def test_sparse_linear_finishes_like_separate_operations(isa: str, batch: int) -> None:
    weight, x = sparse_weight((70, 90), 0.2, 8), numbers(batch, 90)
    vectors = {name: numbers(70, seed=i) for i, name in enumerate(("bias", "scale", "shift"))}
    residual = numbers(batch, 70)
    plain = run(sparse_linear(weight), x)
    for relu in (False, True):
        found = run(sparse_linear(weight, relu=relu, residual=True, **vectors), x, residual)
        np.testing.assert_array_equal(found, finished(plain, residual, relu, **vectors))
        found = run(sparse_linear(weight, relu=relu, **vectors), x)
        np.testing.assert_array_equal(found, finished(plain, None, relu, **vectors))


@pytest.mark.parametrize("table", [None, 8])
@pytest.mark.parametrize("batch", [1, 16, 40, 70])
def test_parts_of_unequal_rows_are_the_whole(isa: str, batch: int, table: int | None) -> None:
    """The first rows have most of the entries; however many threads share them, no bit changes."""
    rng = np.random.default_rng(0)
    counts = np.sort(np.exp(rng.standard_normal(320)) * 100).astype(int)[::-1]
    positions = np.flatnonzero(rng.random((320, 3000)).argsort(axis=1) < counts[:, None])
    codes = None if table is None else rng.integers(0, table, len(positions)).astype(np.uint8)
    values = numbers(len(positions) if table is None else table)
    operation = _native.SparseLinearOp(320, 3000, positions, codes, values, _native.Finish(320))
    x = numbers(batch, 3000)
    whole = run(operation, x)
    for threads in (2, 3, 7, 40):
        np.testing.assert_array_equal(run(operation, x, threads=threads), whole)
        for equal_rows in (False, True):
            assert len(operation.part_seconds(x, threads, equal_rows=equal_rows)) <= threads
    with pytest.raises(ValueError, match=r"x has shape \(1, 2\), expected at least one row of 3000"):
        operation.part_seconds(numbers(1, 2), 2)


@pytest.mark.parametrize("batch", [1, 5])
def test_sparse_linear_of_more_columns_than_16_bits_can_name(isa: str, batch: int) -> None:
    weight = sparse_weight((7, 70_001), 0.01, 20)
    x = numbers(batch, 70_001)
    found = run(sparse_linear(weight), x)
    assert_close(found, x.astype(np.float64) @ weight.dense.T, np.abs(x) @ np.abs(weight.dense).T)


@pytest.mark.parametrize("batch", [1, 2, 6, 20])
@pytest.mark.parametrize("table", [None, 5, 64, 100])
def test_sparse_linear_keeps_infinities_in_their_rows(isa: str, table: int | None, batch: int) -> None:
    """Only rows that use a column see what is in it, however entries are padded."""
    weight = sparse_weight((50, 300), 0.05, table)
    plain = numbers(batch, 300)
    for value in (np.inf, np.nan):
        for column in (0, 63, 64, 150, 299):
            x = plain.copy()
            x[:, column] = value
            found = run(sparse_linear(weight), x)
            used = weight.dense[:, column] != 0
            np.testing.assert_array_equal(np.isfinite(found), np.broadcast_to(~used, found.shape))


# --- convolution ------------------------------------------------------------------------------------------------------


@dataclass
class Window:
    """A convolution: what `_native.Window` takes."""

    image: tuple[int, int]
    in_c: int
    out_c: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def native(self) -> Any:
        return _native.Window(
            self.image, self.in_c, self.out_c, self.kernel, self.stride, self.padding, self.dilation, self.groups
        )

    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_c, self.in_c // self.groups, *self.kernel)

    def torch(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """In float64; x and the result are [N, H, W, C]."""
        image, w = torch.from_numpy(x).permute(0, 3, 1, 2).double(), torch.from_numpy(weight).double()
        y = torch.nn.functional.conv2d(image, w, None, self.stride, self.padding, self.dilation, self.groups)
        return y.permute(0, 2, 3, 1).numpy()


def sparse_conv(window: Window, weight: Sparse, **finish: Any) -> Any:
    finished = _native.Finish(window.out_c, **finish)
    return _native.SparseConvOp(window.native(), weight.positions, weight.codes, weight.values, finished)


def check_conv(window: Window, weight: Sparse, batch: int, threads: int = 1) -> None:
    x = numbers(batch, *window.image, window.in_c)
    operation = sparse_conv(window, weight)
    shape = (batch, *window.native().output)
    found = run(operation, x, threads=threads).reshape(shape)
    assert_close(found, window.torch(x, weight.dense), window.torch(np.abs(x), np.abs(weight.dense)))
    np.testing.assert_array_equal(found, run(operation, x).reshape(shape))


@st.composite
def windows(draw: st.DrawFn) -> Window:
    def pair(least: int, most: int) -> tuple[int, int]:
        return draw(st.integers(least, most)), draw(st.integers(least, most))

    kernel, dilation, padding = pair(1, 5), pair(1, 3), pair(0, 3)
    spans = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    image = tuple(draw(st.integers(max(span, 1), max(span, 1) + 20)) for span in spans)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    in_c, out_c = groups * draw(st.integers(1, 20)), groups * draw(st.integers(1, 20))
    return Window((image[0], image[1]), in_c, out_c, kernel, pair(1, 3), padding, dilation, groups)


@given(
    window=windows(),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    table=st.sampled_from([None, 3, 300]),
    batch=st.integers(0, 2),
    seed=st.integers(0, 2**16),
    isa_name=st.sampled_from(_native.isa_names()),
    threads=st.sampled_from([1, 2, 5]),
)
def test_sparse_conv_is_the_dense_convolution(
    window: Window, density: float, table: int | None, batch: int, seed: int, isa_name: str, threads: int
) -> None:
    weight = sparse_weight(window.weight_shape(), density, table, seed)
    _native.set_isa(isa_name)
    try:
        check_conv(window, weight, batch, threads)
    finally:
        _native.set_isa(None)


@pytest.mark.parametrize(
    "window",
    [
        Window((14, 14), 100, 40),  # several blocks of channels
        Window((15, 15), 20, 20),  # the row is one line without its padding
        Window((16, 16), 20, 20),
        Window((16, 17), 20, 20),
        Window((30, 33), 33, 17),
        Window((33, 33), 40, 40, stride=(2, 2)),
        Window((20, 20), 200, 8, kernel=(1, 1), padding=(0, 0)),
        Window((31, 31), 3, 24, kernel=(7, 7), stride=(2, 2), padding=(3, 3)),
        Window((9, 40), 6, 6, kernel=(1, 7), padding=(0, 3), dilation=(1, 4)),
        Window((3, 3), 70, 70),
    ],
    ids=str,
)
def test_sparse_conv_of_common_windows(isa: str, window: Window) -> None:
    check_conv(window, sparse_weight(window.weight_shape(), 0.2, None), 2, threads=2)


def test_sparse_conv_finishes_like_separate_operations(isa: str) -> None:
    window = Window((9, 20), 10, 21)
    weight, x = sparse_weight(window.weight_shape(), 0.2, 8), numbers(2, 9, 20, 10)
    vectors = {name: numbers(21, seed=i) for i, name in enumerate(("bias", "scale", "shift"))}
    residual = numbers(2, 9, 20, 21)
    plain = run(sparse_conv(window, weight), x).reshape(residual.shape)
    for relu in (False, True):
        found = run(sparse_conv(window, weight, relu=relu, residual=True, **vectors), x, residual)
        np.testing.assert_array_equal(found.reshape(residual.shape), finished(plain, residual, relu, **vectors))
        found = run(sparse_conv(window, weight, relu=relu, **vectors), x)
        np.testing.assert_array_equal(found.reshape(residual.shape), finished(plain, None, relu, **vectors))


def test_sparse_conv_keeps_infinities_in_their_places(isa: str) -> None:
    window = Window((10, 30), 5, 8)
    weight, x = sparse_weight(window.weight_shape(), 0.1, None), numbers(1, 10, 30, 5)
    x[0, 4, 15, 2], x[0, 0, 29, 0] = np.inf, np.nan
    found = run(sparse_conv(window, weight), x).reshape(1, 10, 30, 8)
    reached = window.torch((~np.isfinite(x)).astype(np.float32), (weight.dense != 0).astype(np.float32)) > 0
    np.testing.assert_array_equal(np.isfinite(found), ~reached)


# --- coded linear -----------------------------------------------------------------------------------------------------

STRAIGHT = "straight"  # a table that is a line


@given(
    rows=st.integers(1, 300),
    cols=st.integers(1, 300),
    values=st.sampled_from([1, 2, 3, 4, 5, 6, 16, 17, 32, 33, 100, 256]),
    table=st.sampled_from(["random", STRAIGHT]),
    scaled=st.sampled_from([(), ("scale",), ("scale", "negative")]),
    batch=st.one_of(st.integers(0, 20), st.sampled_from([48, 61, 300])),
    seed=st.integers(0, 2**16),
    isa_name=st.sampled_from(_native.isa_names()),
    threads=st.sampled_from([1, 2, 5]),
)
def test_coded_linear_is_the_decoded_product(
    rows: int,
    cols: int,
    values: int,
    table: str,
    scaled: tuple[str, ...],
    batch: int,
    seed: int,
    isa_name: str,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, values, (rows, cols)).astype(np.uint8)
    entries = np.arange(values) - values // 2 if table == STRAIGHT else rng.standard_normal(values)
    entries = entries.astype(np.float32)
    factors = {name: numbers(rows, seed=seed + i) for i, name in enumerate(scaled)}
    x, weight = numbers(batch, cols), entries[codes].astype(np.float64)
    negative = weight < 0
    if factors:
        factor = np.broadcast_to(factors["scale"][:, None], weight.shape)
        weight = weight * np.where(negative, factors.get("negative", factors["scale"])[:, None], factor)
    _native.set_isa(isa_name)
    try:
        operation = _native.CodedLinearOp(codes, entries, _native.Finish(rows), **factors)
    finally:
        _native.set_isa(None)
    found = run(operation, x, threads=threads)
    reach = np.abs(weight)
    if table == STRAIGHT:  # made of the code and the line's start, whose difference may be small
        reach = (codes + values // 2) * (np.abs(np.stack([*factors.values()])).max(0)[:, None] if factors else 1.0)
    assert_close(found, x @ weight.T, np.abs(x) @ reach.T)
    np.testing.assert_array_equal(found, run(operation, x))


@pytest.mark.parametrize(("values", "bits"), [(2, 1), (3, 2), (4, 2), (16, 4), (32, 6), (200, 8)])
def test_coded_linear_weights_stay_small(values: int, bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, values, (256, 2000)).astype(np.uint8)
    operation = _native.CodedLinearOp(codes, numbers(values), _native.Finish(256))
    if operation.kernel == "coded avx512":
        assert operation.weight_bytes < 1.1 * bits * codes.size / 8 + 4096


@pytest.mark.parametrize("values", [2, 3, 16, 40])
def test_coded_linear_keeps_infinities_of_a_sample_in_it(isa: str, values: int) -> None:
    """However samples share the work."""
    codes = np.random.default_rng(0).integers(0, values, (40, 500)).astype(np.uint8)
    operation = _native.CodedLinearOp(codes, np.arange(1, values + 1, dtype=np.float32), _native.Finish(40))
    for batch in (5, 50):
        x = numbers(batch, 500)
        x[3, 499], x[1, 250] = np.inf, np.nan
        expected = np.broadcast_to(np.isfinite(x).all(axis=1)[:, None], (batch, 40))
        np.testing.assert_array_equal(np.isfinite(run(operation, x)), expected)


@pytest.mark.parametrize("batch", [1, 5, 50])
@pytest.mark.parametrize("values", [2, 3, 40])
def test_coded_linear_finishes_like_separate_operations(isa: str, values: int, batch: int) -> None:
    codes = np.random.default_rng(0).integers(0, values, (37, 90)).astype(np.uint8)
    vectors = {name: numbers(37, seed=i) for i, name in enumerate(("bias", "scale", "shift"))}
    x, residual = numbers(batch, 90), numbers(batch, 37)

    def operation(**finish: Any) -> Any:
        return _native.CodedLinearOp(codes, numbers(values), _native.Finish(37, **finish))

    plain = run(operation(), x)
    for relu in (False, True):
        found = run(operation(relu=relu, residual=True, **vectors), x, residual)
        np.testing.assert_array_equal(found, finished(plain, residual, relu, **vectors))
        np.testing.assert_array_equal(run(operation(relu=relu, **vectors), x), finished(plain, None, relu, **vectors))


# --- runs of columns that share values: product quantisation ----------------------------------------------------------


def run_weight(rows: int, cols: int, width: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, books, and the matrix that they mean."""
    rng = np.random.default_rng(seed)
    runs = -(-cols // width)
    codes = rng.integers(0, count, (rows, runs)).astype(np.uint8)
    books = rng.standard_normal((runs, count, width)).astype(np.float32)
    return codes, books, books[np.arange(runs), codes].reshape(rows, -1)[:, :cols]


@given(
    rows=st.integers(1, 150),
    cols=st.integers(1, 300),
    width=st.sampled_from([1, 2, 4]),
    count=st.integers(1, 16),
    batch=st.sampled_from([1, 3, 4, 11, 12, 40]),
    seed=st.integers(0, 99),
    isa_name=st.sampled_from(_native.isa_names()),
    threads=st.sampled_from([1, 3]),
)
def test_product_linear_is_the_decoded_product(
    rows: int, cols: int, width: int, count: int, batch: int, seed: int, isa_name: str, threads: int
) -> None:
    codes, books, weight = run_weight(rows, cols, width, count, seed)
    _native.set_isa(isa_name)
    try:
        operation = _native.CodedLinearOp.of_runs(codes, books, cols, _native.Finish(rows))
    finally:
        _native.set_isa(None)
    x = numbers(batch, cols, seed=seed)
    found = run(operation, x, threads=threads)
    assert_close(found, x.astype(np.float64) @ weight.T.astype(np.float64), np.abs(x) @ np.abs(weight).T)
    np.testing.assert_array_equal(found, run(operation, x))


def test_product_linear_finishes_like_separate_operations(isa: str) -> None:
    codes, books, _ = run_weight(37, 90, 2, 16, 0)
    vectors = {name: numbers(37, seed=i) for i, name in enumerate(("bias", "scale", "shift"))}
    for batch in (1, 5, 50):
        x, residual = numbers(batch, 90), numbers(batch, 37)
        plain = run(_native.CodedLinearOp.of_runs(codes, books, 90, _native.Finish(37)), x)
        finish = _native.Finish(37, relu=True, residual=True, **vectors)
        found = run(_native.CodedLinearOp.of_runs(codes, books, 90, finish), x, residual)
        np.testing.assert_array_equal(found, finished(plain, residual, True, **vectors))


# --- refusals ---------------------------------------------------------------------------------------------------------

POSITIONS = np.array([0, 3, 9])


def bad_linear(
    positions: Any = POSITIONS, codes: Any = None, values: Any = None, rows: int = 2, cols: int = 5, **finish: Any
) -> None:
    values = numbers(len(positions)) if values is None else values
    finished = _native.Finish(finish.pop("channels", rows), **finish)
    _native.SparseLinearOp(rows, cols, np.asarray(positions, np.int64), codes, values, finished)


def codes_finish() -> dict[str, Any]:
    return {"encode": _native.Encode("sign", _native.CodeLayout(1, 1, 2))}


def bad_conv(position: int, channels: int = 2) -> None:
    weight = np.array([position]), None, numbers(1)
    _native.SparseConvOp(Window((4, 4), 2, 2).native(), *weight, _native.Finish(channels))


def bad_coded(codes: Any = None, table: Any = None, **factors: Any) -> None:
    codes = np.zeros((2, 3), np.uint8) if codes is None else codes
    _native.CodedLinearOp(codes, numbers(2) if table is None else table, _native.Finish(2), **factors)


def bad_runs(codes: Any = None, books: Any = None, cols: int = 6) -> None:
    codes = np.zeros((2, 3), np.uint8) if codes is None else codes
    _native.CodedLinearOp.of_runs(codes, numbers(3, 4, 2) if books is None else books, cols, _native.Finish(2))


BAD = {
    "books are not one for each column of codes": lambda: bad_runs(books=numbers(2, 4, 2)),
    "books of 17 values, expected 1 to 16": lambda: bad_runs(books=numbers(3, 17, 2)),
    "runs of 3, expected 1, 2 or 4": lambda: bad_runs(books=numbers(3, 4, 3)),
    "cols is 7, expected 5 to 6": lambda: bad_runs(cols=7),
    "cols is 4, expected 5 to 6": lambda: bad_runs(cols=4),
    r"books\[3\] is not finite": lambda: bad_runs(
        books=np.where(np.arange(24) == 3, np.inf, 1).reshape(3, 4, 2).astype("f4")
    ),
    r"codes\[1\] is 4, expected less than the 4 values": lambda: bad_runs(np.array([[0, 4, 0]] * 2, np.uint8)),
    r"codes has dtype int64": lambda: bad_coded(np.zeros((2, 3), np.int64)),
    r"codes\[4\] is 2, expected less than the 2 values": lambda: bad_coded(np.array([[0, 1, 1], [0, 2, 0]], np.uint8)),
    "table has 257 values, expected 1 to 256": lambda: bad_coded(table=numbers(257)),
    r"table\[1\] is not finite": lambda: bad_coded(table=np.array([0, np.inf], np.float32)),
    "negative without scale": lambda: bad_coded(negative=numbers(2)),
    r"scale has shape \(3\), expected \(2\)": lambda: bad_coded(scale=numbers(3)),
    r"positions\[0\] is 36, expected ascending values below 36": lambda: bad_conv(36),
    "finish is for 4 channels, expected 2": lambda: bad_conv(35, channels=4),
    r"positions\[2\] is 3, expected ascending": lambda: bad_linear([0, 3, 3]),
    r"positions\[0\] is -1, expected ascending": lambda: bad_linear([-1, 3, 4]),
    r"positions\[2\] is 10, expected ascending values below 10": lambda: bad_linear([0, 3, 10]),
    r"\(rows, cols\) is \(2, 0\)": lambda: bad_linear(cols=0),
    "values has 2 entries, expected as many as positions: 3": lambda: bad_linear(values=numbers(2)),
    "codes has 2 entries": lambda: bad_linear(codes=np.zeros(2, np.uint8)),
    r"codes has shape \(3, 1\), expected 1": lambda: bad_linear(codes=np.zeros((3, 1), np.uint8)),
    "codes has dtype int8, expected uint8": lambda: bad_linear(codes=np.zeros(3, np.int8)),
    r"codes\[1\] is 3, expected less than the 3": lambda: bad_linear(codes=np.array([0, 3, 1], np.uint8)),
    r"codes\[0\] is 9, expected less than the 3": lambda: bad_linear(codes=np.array([9, 3, 1], np.uint16)),
    "finish is for 3 channels, expected 2": lambda: bad_linear(channels=3),
    "finish has an encode": lambda: bad_linear(**codes_finish()),
    "finish has multipliers": lambda: bad_linear(multiplier=numbers(2)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()
