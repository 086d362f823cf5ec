"""The lattice of a weight: whole numbers times a magnitude, found from the numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.packing.lattice import find_lattice

RNG = np.random.default_rng(0)


def rebuilt(lattice):
    """The weight that a lattice says it is, every product rounded to float32."""
    rows = lattice.integers.reshape(len(lattice.integers), -1).astype(np.float32)
    positive, negative = lattice.positive[:, None], lattice.negative[:, None]
    return (np.where(rows > 0, rows * positive, rows * negative) + np.float32(0)).reshape(lattice.integers.shape)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 127),
    st.floats(2.0**-60, 2.0**60, width=32),
    st.integers(0, 2**32 - 1),
)
def test_whole_multiples_are_found_with_the_largest_step(rows, columns, largest, step, seed):
    rng = np.random.default_rng(seed)
    integers = rng.integers(-largest - 1, largest + 1, (rows, columns))
    steps = (np.float32(step) * rng.uniform(0.5, 2, (rows, 1))).astype(np.float32)
    weight = steps * integers.astype(np.float32)
    lattice = find_lattice(weight)
    assert lattice is not None
    assert np.array_equal(rebuilt(lattice), weight)
    assert lattice.integers.dtype == np.int8
    assert lattice.positive.dtype == lattice.negative.dtype == np.float32
    used = (integers != 0).any(axis=1)
    assert (lattice.positive[~used] == 1).all()
    if not lattice.two_magnitudes:
        assert (lattice.positive[used] >= 0.999999 * steps[used, 0]).all()
    assert np.array_equal(find_lattice(weight.copy(order="F")).integers, lattice.integers)


def test_the_step_is_the_largest_of_several_that_give_the_same_weights():
    """3 * s rounds to the same float32 for two neighbouring s: the larger one is the step."""
    for seed in range(200):
        step = np.float32(np.random.default_rng(seed).uniform(1, 2))
        weight = np.array([[3, -6, 12, 7, 5]], np.float32) * step
        found = find_lattice(weight).positive[0]
        higher = np.nextafter(found, np.float32(9))
        assert np.array_equal(np.array([3, -6, 12, 7, 5], np.float32) * found, weight[0])
        assert not np.array_equal(np.array([3, -6, 12, 7, 5], np.float32) * higher, weight[0])


def test_signs_and_ternary_weights():
    signs = np.where(RNG.random((6, 4, 3, 3)) < 0.5, -1, 1).astype(np.float32)
    alpha = RNG.random(6).astype(np.float32) + np.float32(0.1)
    lattice = find_lattice(signs * alpha[:, None, None, None])
    assert np.array_equal(lattice.integers, signs)
    assert np.array_equal(lattice.positive, alpha)
    assert not lattice.two_magnitudes
    assert lattice.largest_sum == 36

    ternary = RNG.integers(-1, 2, (6, 50))
    ternary[2], ternary[3], ternary[4] = 0, np.abs(ternary[3]), -np.abs(ternary[4])
    weight = np.where(ternary > 0, np.float32(0.7), np.where(ternary < 0, np.float32(-0.3), 0)).astype(np.float32)
    lattice = find_lattice(weight)
    assert np.array_equal(lattice.integers, ternary)
    assert lattice.two_magnitudes
    assert lattice.positive.tolist() == pytest.approx([0.7, 0.7, 1, 0.7, 0.3, 0.7])
    assert lattice.negative.tolist() == pytest.approx([0.3, 0.3, 1, 0.7, 0.3, 0.3])
    assert np.array_equal(rebuilt(lattice), weight)


@pytest.mark.parametrize(
    ("weight", "largest"),
    [
        (RNG.standard_normal((8, 50)), 127),
        (np.array([[1, -2, 128]]), 127),
        (np.array([[1, 2, -129]]), 127),
        (np.array([[1, 7, 8]]), 7),
        (np.array([[1, 2, 3], [1, 2, 3.00001]]), 127),
        (np.array([[2.0**-101, 2.0**-100, 3 * 2.0**-101]]), 127),
        (np.ones(5), 127),
        (np.ones(()), 127),
        (np.zeros((0, 3)), 127),
        (np.zeros((3, 0)), 127),
    ],
)
def test_what_has_no_lattice(weight, largest):
    assert find_lattice(weight.astype(np.float32), largest) is None


def test_wider_integers_are_an_option():
    step = np.float32(0.001)
    integers = RNG.integers(-32767, 32768, (4, 60))
    weight = integers.astype(np.float32) * step
    assert find_lattice(weight) is None
    lattice = find_lattice(weight, 32767)
    assert lattice.integers.dtype == np.int16
    assert np.array_equal(rebuilt(lattice), weight)


def test_the_range_is_that_of_signed_bytes():
    lattice = find_lattice(np.array([[-128, 127, 3]], np.float32))
    assert lattice.integers.tolist() == [[-128, 127, 3]]
    assert lattice.integers.dtype == np.int8
    assert lattice.largest_sum == 258


def test_negative_zero_counts_as_zero():
    assert find_lattice(np.array([[-0.0, 2.0, 1.0, -1.0]], np.float32)).integers.tolist() == [[0, 2, 1, -1]]
