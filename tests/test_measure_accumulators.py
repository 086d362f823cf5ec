"""Widths of accumulators: the constraints, and sums that overflow as a machine's do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import BitwrightError
from bitwright.measure.accumulators import Needs, accumulate, eligible, wrap
from bitwright.runtime.domains import width


def test_the_lectures_example():
    pairs = list(eligible("worst-case", 16, products=5 * 5 * 16))
    assert {w + d for w, d in pairs} == {8}
    assert pairs[0] == (2, 6)
    assert pairs[-1] == (6, 2)


@pytest.mark.parametrize(
    ("known", "total"),
    [
        ({"kernel_sum": 3.9, "il_w": 0}, 15),  # 16 - 1 + 0
        ({"kernel_sum": 0.7, "il_w": 0}, 17),
        ({"kernel_sum": 8.0, "il_w": 1}, 14),
    ],
)
def test_pairs_by_the_sum_of_a_kernel(known, total):
    assert {w + d for w, d in eligible("act-w", 16, **known)} == {total}


def test_pairs_by_the_sums_that_were_seen():
    assert {w + d for w, d in eligible("act-y", 16, il_y=7, il_w=0, il_d=3)} == {13}
    assert {w + d for w, d in eligible("act-y", 16, il_y=2, il_w=0, il_d=3)} == {17}, "never more than a product"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(2, 8), st.integers(2, 8), st.integers(0, 999))
def test_the_constraints_are_ordered_and_safe(products, weight_bits, value_bits, seed):
    random = torch.Generator().manual_seed(seed)
    top, largest = (1 << (weight_bits - 1)) - 1, (1 << value_bits) - 1
    codes = torch.randint(-top, top + 1, (5, products), generator=random)
    values = torch.randint(0, largest + 1, (9, products), generator=random)
    exact = values @ codes.T
    needs = Needs.of(codes, top, largest, int(exact.abs().max()))
    assert needs.worst_case >= needs.act_w >= needs.act_y
    safe = max(needs.act_w, 2)
    assert torch.equal(accumulate(values, codes, safe, "clip"), exact)
    assert torch.equal(accumulate(values, codes, max(needs.act_y, 2), "wrap"), exact), "partial sums may wrap"


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 32), st.lists(st.tuples(st.integers(-127, 127), st.integers(-255, 255)), min_size=1, max_size=30))
def test_every_addition_overflows_as_a_machines(bits, products):
    codes, values = (torch.tensor([[pair[i] for pair in products]]) for i in range(2))
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    wrapped = clipped = 0
    for code, value in products:
        wrapped = (wrapped + code * value - low) % (1 << bits) + low
        clipped = min(max(clipped + code * value, low), high)
    assert accumulate(values, codes, bits, "wrap").item() == wrapped
    assert accumulate(values, codes, bits, "clip").item() == clipped
    total = sum(code * value for code, value in products)
    assert accumulate(values, codes, bits, "clip-last").item() == min(max(total, low), high)


def test_clipping_depends_on_the_order_and_the_optimistic_form_does_not():
    values, codes = torch.tensor([[7, 7, 1]]), torch.tensor([[1, 1, -7]])
    assert accumulate(values, codes, 4, "clip").item() == 0  # 7, 7 (of 14), 0
    assert accumulate(values, codes, 4, "clip-last").item() == 7
    assert accumulate(values, codes, 4, "wrap").item() == 7


def test_products_of_16_bits_do_not_overflow_on_the_way():
    values, codes = torch.full((1, 2), 65535), torch.full((1, 2), 32767)
    assert accumulate(values, codes, 31, "clip").item() == (1 << 30) - 1
    assert accumulate(values, -codes, 32, "clip").item() == -(1 << 31)


@pytest.mark.parametrize(("largest", "bits"), [(0, 1), (1, 2), (127, 8), (128, 9), (32767, 16)])
def test_widths_hold_both_ends(largest, bits):
    assert width(largest) == bits
    ends = torch.tensor([-largest, largest])
    assert torch.equal(wrap(ends, max(bits, 2)), ends)


@pytest.mark.parametrize("bits", [1, 33])
def test_a_width_that_is_none_is_refused(bits):
    with pytest.raises(BitwrightError, match="expected 2 to 32"):
        accumulate(torch.ones(1, 1), torch.ones(1, 1), bits, "wrap")
