"""Entries of processing elements, and the cycles they take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import BitwrightError
from bitwright.measure.balance import columns_of, cycles, index_bits, loads, utilisation


def test_the_papers_column() -> None:
    """EIE's example: 18 zeros between two entries take a filler with 4 bits."""
    column = np.array([0, 0, 1, 2, *[0] * 18, 3], np.float32)[:, None]
    found = columns_of(column, 0, 1)
    assert found.values.tolist() == [1, 2, 0, 3]
    assert found.skipped.tolist() == [2, 0, 15, 2]
    assert found.pointers.tolist() == [0, 4]
    assert found.fillers == 1


@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 6),
    elements=st.integers(1, 5),
    bits=st.integers(1, 5),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_entries_are_the_matrix(rows: int, columns: int, elements: int, bits: int, density: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = np.where(random.random((rows, columns)) < density, random.normal(size=(rows, columns)), 0)
    matrix = matrix.astype(np.float32)
    elements = min(elements, rows)
    for element in range(elements):
        found = columns_of(matrix, element, elements, bits)
        own = matrix[element::elements]
        assert np.array_equal(found.dense(len(own)), own)
        assert found.skipped.max(initial=0) < 1 << bits
        assert np.count_nonzero(found.values) == np.count_nonzero(own)
    load = loads(matrix, elements, bits)
    assert (load >= loads(matrix, elements, None)).all()
    assert cycles(load, 1) == load.max(0).sum()
    times = [cycles(load, depth) for depth in (1, 2, 3, columns)] + [cycles(load)]
    assert times == sorted(times, reverse=True), "a deeper queue never takes longer"
    assert times[-2] == times[-1], "one that holds all columns is none"
    assert 0 < utilisation(load) <= 1


def test_the_lectures_elements_take_five_cycles_and_three_when_balanced() -> None:
    unbalanced, balanced = np.array([[5], [2], [4], [1]]), np.array([[3], [3], [3], [3]])
    assert cycles(unbalanced) == 5
    assert cycles(balanced) == 3
    assert utilisation(unbalanced) == 12 / 20
    assert utilisation(balanced) == 1


def test_a_queue_lets_elements_run_ahead() -> None:
    load = np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3]])
    assert [cycles(load, depth) for depth in (1, 2, 3, None)] == [9, 6, 3, 3]


@pytest.mark.parametrize(
    ("density", "bits", "expected"), [(0.04, 4, 1.09), (0.04, 5, 0.37), (0.08, 4, 0.36), (0.09, 5, 0.05)]
)
def test_fillers_of_random_zeros(density: float, bits: int, expected: float) -> None:
    random = np.random.default_rng(0)
    matrix = (random.random((400_000, 1)) < density).astype(np.float32)
    found = columns_of(matrix, 0, 1, bits)
    assert found.fillers / np.count_nonzero(matrix) == pytest.approx(expected, abs=0.015)


def test_the_index_that_costs_least() -> None:
    assert index_bits(0.04, 5) in (5, 6)
    assert index_bits(0.25, 8) in (2, 3, 4)
    assert index_bits(1.0, 8) == 1
    with pytest.raises(BitwrightError, match="a density of 0"):
        index_bits(0, 8)


@pytest.mark.parametrize("elements", [0, 5, True, 2.0])
def test_more_elements_than_rows_are_refused(elements: int) -> None:
    with pytest.raises(BitwrightError, match=r"processing elements for a matrix of 4 rows; expected .* from 1 to 4"):
        loads(np.ones((4, 3), np.float32), elements)


def test_a_queue_without_room_is_refused() -> None:
    for depth in (0, 1.5, True):
        with pytest.raises(BitwrightError, match=f"a queue of depth {depth}"):
            cycles(np.ones((2, 2), np.int64), depth)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 1, 1)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BitwrightError, match="expected rows and columns"):
        loads(np.ones(shape, np.float32), 2)
