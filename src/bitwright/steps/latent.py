"""Weights that are quantised anew in every forward pass, computed from latent ones that an optimiser moves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bitwright.steps.layers import weight_of
from bitwright.steps.masks import attach, attached, detach


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, slope: Tensor | None) -> Tensor:
        ctx.save_for_backward(slope)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0], gradients[0] if slope is None else gradients[0] * slope, None


def surrogate(y: Tensor, x: Tensor, slope: Tensor | None = None) -> Tensor:
    """y itself, bit for bit; as if y were x in the backward pass: dL/dx += slope * dL/dy (slope 1 where it is None).

    The gradient of y goes to y as well, whatever computed it (a trained scale, say).
    """
    result: Tensor = _Surrogate.apply(y, x, slope)
    return result


class Latent(nn.Module):
    """Parametrization of a weight by a latent tensor of its shape: `quantise(latent)`.

    In training `prepare` may change the latent tensor in place before each forward pass (clamp it, centre it).
    """

    latent: ClassVar[bool] = True
    """Weight decay acts on the latent tensor, as it is the one that is trained."""

    def forward(self, latent: Tensor) -> Tensor:
        """The weight that the layer computes with."""
        if self.training:
            with torch.no_grad():
                self.prepare(latent)
        return self.quantise(latent)

    def prepare(self, latent: Tensor) -> None:
        """Nothing, unless a method says otherwise."""

    def quantise(self, latent: Tensor) -> Tensor:
        """The weight, with the method's gradient."""
        raise NotImplementedError


@contextlib.contextmanager
def quantised_weights(layers: Mapping[str, nn.Module], make: Callable[[str, Tensor], Latent]) -> Iterator[None]:
    """While inside, the weight of each layer is computed by make(path, weight); afterwards it has its last value.

    That value is the one in eval mode, where stochastic methods differ.
    """
    for name, layer in layers.items():
        attach(layer, "weight", make(name, weight_of(layer).detach()))
    try:
        yield
    finally:
        for layer in layers.values():
            attached(layer, "weight")[0].eval()
            detach(layer, "weight")


def signs(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1. Two passes of vector code, as -0.0 + 0.0 is 0.0; `torch.where` takes far longer."""
    return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x + 0.0)


def filter_mean(weight: Tensor) -> Tensor:
    """The mean magnitude of each output channel's weights, (O, 1, ...)."""
    return weight.abs().mean(tuple(range(1, weight.ndim)), keepdim=True)
