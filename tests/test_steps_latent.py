"""The gradients of weights that are computed from latent ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitwright.steps.latent import Latent, quantised_weights, signs, surrogate


def test_surrogate_gives_one_value_and_another_gradient() -> None:
    x = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    slope = torch.tensor([0.0, 1.0, 5.0])
    y = surrogate(scale * torch.ones(3), x, slope)
    assert torch.equal(y, torch.full((3,), 2.0))
    y.backward(torch.tensor([1.0, 10.0, 100.0]))
    assert torch.equal(x.grad, torch.tensor([0.0, 10.0, 500.0]))  # type: ignore[arg-type]
    assert scale.grad == 111


def test_signs_have_no_zero() -> None:
    assert signs(torch.tensor([-0.0, 0.0, 1e-45, -1e-45, 5.0, -5.0])).tolist() == [1, 1, 1, -1, 1, -1]


class _Halving(Latent):
    def prepare(self, latent: Tensor) -> None:
        latent.clamp_(-1, 1)

    def quantise(self, latent: Tensor) -> Tensor:
        return latent / 2 if self.training else latent / 4


def test_weights_are_quantised_while_inside_and_plain_afterwards() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -0.5]]))
    with quantised_weights({"fc": layer}, lambda name, weight: _Halving()):
        assert layer.train()(torch.tensor([[1.0, 0.0]])).item() == 0.5  # clamped, in training
        assert layer.eval()(torch.tensor([[1.0, 0.0]])).item() == 0.25
        layer.train()
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.weight, torch.tensor([[0.25, -0.125]]))
