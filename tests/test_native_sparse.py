"""Operations on sparse and coded weights, at every instruction set, against float64 sums over the dense weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
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


POSITIONS = np.array([0, 3, 9])


def bad_linear(
    positions: Any = POSITIONS, codes: Any = None, values: Any = None, rows: int = 2, cols: int = 5, **finish: Any
) -> None:
    values = numbers(len(positions)) if values is None else values
    finished = _native.Finish(finish.pop("channels", rows), **finish)
    _native.SparseLinearOp(rows, cols, np.asarray(positions, np.int64), codes, values, finished)


def codes_finish() -> dict[str, Any]:
    return {"encode": _native.Encode("sign", _native.CodeLayout(1, 1, 2))}


BAD = {
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
