"""RMSProp with Nesterov momentum against the algorithm of the book, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.training.optimizers import create_optimizer
from bitwright.training.rmsprop_nesterov import RMSpropNesterov
from bitwright.training.settings import Optimizer
from training_cases import linear_net


def by_the_book(w, gradient_at, lr, rho, momentum, steps):
    """Algorithm 8.6: an interim update, the gradient there, the mean of squares, the velocity, the update."""
    v, r = np.zeros_like(w), np.zeros_like(w)
    for _ in range(steps):
        g = gradient_at(w + momentum * v)
        r = rho * r + (1 - rho) * g * g
        v = momentum * v - lr / (np.sqrt(r) + 1e-8) * g
        w = w + v
    return w + momentum * v


@given(
    seed=st.integers(0, 99),
    lr=st.floats(1e-4, 0.1),
    rho=st.sampled_from([0.0, 0.9, 0.99]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.1]),
)
def test_every_step_is_the_algorithm(seed, lr, rho, momentum, decay):
    rng = np.random.default_rng(seed)
    matrix, w = rng.standard_normal((5, 5)), rng.standard_normal(5)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = RMSpropNesterov([parameter], lr=lr, alpha=rho, momentum=momentum, weight_decay=decay)
    for _ in range(6):
        optimizer.zero_grad()
        (torch.from_numpy(matrix) @ parameter).square().sum().backward()
        optimizer.step()
    expected = by_the_book(w, lambda x: 2 * matrix.T @ (matrix @ x) + decay * x, lr, rho, momentum, 6)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-7, atol=1e-9)


def test_recipes_name_it_and_its_mistakes_are_errors():
    made = create_optimizer(Optimizer("RMSpropNesterov", 0.01, {"alpha": 0.9}), linear_net())
    assert isinstance(made, RMSpropNesterov)
    with pytest.raises(BitwrightError, match=r"refuses .*Invalid alpha 1\.5"):
        create_optimizer(Optimizer("RMSpropNesterov", 0.01, {"alpha": 1.5}), linear_net())
