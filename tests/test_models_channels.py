"""Shifts and slopes per channel: the same numbers and gradients in training as by autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bitwright.models.channels import rprelu, shift

SIZES = st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 16, 2000]), st.integers(1, 7), st.integers(1, 7))


def plain(x: Tensor, b: Tensor, a: Tensor, c: Tensor) -> Tensor:
    return F.prelu(x - b.reshape(-1, 1, 1), a) + c.reshape(-1, 1, 1)


@given(SIZES, st.booleans(), st.integers(0, 1000))
def test_gradients_are_autograds(size: tuple[int, int, int, int], last: bool, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(size).to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
    numbers = [torch.randn(size[1], requires_grad=True) for _ in range(3)]
    outer = torch.randn(size)
    for found, expected, inputs in (
        (rprelu(x, *numbers), plain(x, *numbers), [x, *numbers]),
        (shift(x, numbers[0]), x - numbers[0].reshape(-1, 1, 1), [x, numbers[0]]),
    ):
        assert torch.allclose(found, expected, atol=1e-5)
        pairs = zip(
            torch.autograd.grad(found, inputs, outer), torch.autograd.grad(expected, inputs, outer), strict=True
        )
        for one, other in pairs:
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [shift, rprelu])
def test_bfloat16_stays_bfloat16_in_training(function: object) -> None:
    x = torch.randn(4, 16, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    numbers = [torch.rand(16, requires_grad=True) for _ in range(3)][: 1 if function is shift else 3]
    y = function(x, *numbers)  # type: ignore[operator]
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in numbers)  # type: ignore[union-attr]
