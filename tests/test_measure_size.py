"""Size estimates against counts made by hand."""

import math

import numpy as np
import pytest

from bitwright.measure.size import entropy_bits, estimate


def test_entropy():
    assert entropy_bits(np.array([4, 4])) == 8
    assert entropy_bits(np.array([7, 0])) == 0
    assert entropy_bits(np.array([])) == 0
    assert entropy_bits(np.array([1, 3])) == pytest.approx(2 + 3 * math.log2(4 / 3))


def test_codebook_with_zeros():
    w = np.zeros(1000, np.float32)
    w[::10] = np.where(np.arange(100) % 2, 0.1, -0.2)
    found = estimate(w)
    assert (found.weights, found.nonzero, found.values, found.density) == (1000, 100, 2, 0.1)
    assert found.value_bits == 100
    assert found.codebook_bits == 64
    assert found.position_bits == pytest.approx(1000 * (-0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)))
    assert found.bytes == pytest.approx((found.position_bits + 164) / 8)


def test_half_values_cost_half():
    w = np.tile(np.float32([0.5, -0.25, 0.75, 1.0]), 16)
    assert estimate(w).codebook_bits == 64


def test_plain_values_where_nothing_repeats():
    w = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    found = estimate(w)
    assert (found.value_bits, found.codebook_bits, found.position_bits) == (32 * 500, 0, 0)
    assert found.bytes == 2000


@pytest.mark.parametrize("w", [np.zeros(0, np.float32), np.zeros(9, np.float32)])
def test_nothing_costs_nothing(w: np.ndarray):
    assert estimate(w).bytes == 0
    assert estimate(w).density == 0
