"""Shift-based AdaMax against its formula, number by number in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.training.optimizers import create_optimizer
from bitwright.training.settings import Optimizer
from bitwright.training.shift_adamax import ShiftAdaMax, ap2_
from training_cases import linear_net


def power(x):
    """sign(x) 2^round(log2 |x|); log2 in float64 is far from any tie, as sqrt(2) is no float."""
    return math.copysign(2.0 ** round(math.log2(abs(x))), x) if x else 0.0


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False, max_value=2.0**127))
def test_powers_of_two(x):
    assert ap2_(torch.tensor(x)).item() == power(float(np.float32(x))) or abs(x) > 2.0**127


def test_powers_of_two_around_every_change():
    below = np.float32(math.sqrt(2)) * np.float32(2.0) ** np.arange(-126, 127, dtype=np.float32)
    below = np.where(
        below.astype(np.float64) ** 2 > 2.0 ** (2 * np.arange(-126, 127) + 1), np.nextafter(below, 0), below
    )
    below = below.astype(np.float32)
    above = np.nextafter(below, np.float32(np.inf))
    exponents = np.arange(-126, 127, dtype=np.float64)
    np.testing.assert_array_equal(ap2_(torch.from_numpy(below)).numpy(), 2.0**exponents)
    np.testing.assert_array_equal(ap2_(torch.from_numpy(-above)).numpy(), -(2.0 ** (exponents + 1)))


def test_infinities_and_zeros_stay():
    assert ap2_(torch.tensor([math.inf, -math.inf, 0.0, -0.0])).tolist() == [math.inf, -math.inf, 0.0, 0.0]


def test_a_gradient_that_is_no_number_shows():
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([math.nan, 1.0, math.inf])
    ShiftAdaMax([parameter]).step()
    assert parameter.isfinite().tolist() == [False, True, False]


@given(
    seed=st.integers(0, 999), lr=st.floats(1e-4, 0.5), betas=st.sampled_from([(0.9, 0.999), (1 - 2**-3, 1 - 2**-10)])
)
def test_every_step_is_the_formula(seed, lr, betas):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(6).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = ShiftAdaMax([parameter], lr=lr, betas=betas)
    expected, m, v = w.astype(np.float64), np.zeros(6), np.zeros(6)
    for t in range(1, 8):
        g = (rng.standard_normal(6) * 10.0 ** rng.integers(-3, 2, 6) * (rng.random(6) < 0.7)).astype(np.float32)
        parameter.grad = torch.from_numpy(g)
        optimizer.step()
        m = betas[0] * m + (1 - betas[0]) * g
        largest = np.maximum(betas[1] * v, np.abs(g))
        v = np.array([power(x) for x in largest])
        expected = expected - power(lr / (1 - betas[0] ** t)) * m / (v + 2.0**-27)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(w).max() + 1e-5)


def test_a_layers_scale_of_two_is_exact():
    """AP2(lr 2^k) = AP2(lr) 2^k, which is why `lr_factor` may stand for the method's own scale."""
    steps = []
    for lr in (0.01, 0.04):
        parameter = torch.nn.Parameter(torch.zeros(3))
        parameter.grad = torch.tensor([0.3, -2.0, 0.0])
        ShiftAdaMax([parameter], lr=lr).step()
        steps.append(parameter.detach())
    assert torch.equal(steps[0] * 4, steps[1])


def test_wrong_betas_are_refused():
    with pytest.raises(BitwrightError, match=r"ShiftAdaMax refuses .*Invalid betas: .*below 1"):
        create_optimizer(Optimizer("ShiftAdaMax", options={"betas": [0.9, 1.0]}), linear_net())
