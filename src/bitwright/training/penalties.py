"""L2 and L1 on the weights the network computes with, whatever parametrizes them.

    objective = loss + l2/2 sum w^2 + l1 sum |w|,        d objective / d w = d loss / d w + l2 w + l1 sign(w)

The gradient is added where the effective weight is: for a plain parameter to its `.grad`, for a parametrized one (a
mask, a codebook) by a hook on the computed weight, so that it takes the same way back to the free parameters as the
loss's gradient does. A pruned weight gets none, a centroid the sum over its cluster.

Where the free parameters themselves are what has to stay small (the real weights behind binary ones), the
parametrization's class says `latent = True`: they are penalised as if they were plain. And a single parameter may carry
`decays`: False leaves it out, True takes in one that would not decay otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize


def weight_layers(model: nn.Module) -> list[nn.Module]:
    """The convolution and linear layers. Their `weight` is what decays; biases and norms never do."""
    return [m for m in model.modules() if isinstance(m, nn.Linear | _ConvNd)]


def free_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters behind a layer's weight: the weight itself, or what its parametrization computes it from."""
    if parametrize.is_parametrized(layer, "weight"):
        return list(layer.get_submodule("parametrizations.weight").parameters())
    return [layer.weight] if isinstance(layer.weight, nn.Parameter) else []


def decaying(model: nn.Module) -> list[nn.Parameter]:
    """The parameters behind the weights that decay: what an optimiser's own decay holds for."""
    weights = {id(p) for layer in weight_layers(model) for p in free_parameters(layer)}
    return [p for p in model.parameters() if getattr(p, "decays", id(p) in weights)]


def _is_bound(layer: nn.Module) -> bool:
    """Whether it is the computed weight that is penalised."""
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    latent = any(getattr(p, "latent", False) for p in layer.get_submodule("parametrizations.weight").children())
    return not latent and any(getattr(p, "decays", True) for p in free_parameters(layer))


class Penalties:
    """Adds the gradient of both penalties; does nothing where both are zero."""

    def __init__(self, model: nn.Module, l2: float, l1: float) -> None:
        self.l2, self.l1 = l2, l1
        self._bound = [m for m in weight_layers(model) if _is_bound(m)] if l2 or l1 else []
        behind = {id(p) for m in self._bound for p in free_parameters(m)}
        self._plain = [p for p in decaying(model) if id(p) not in behind] if l2 or l1 else []

    def watch(self) -> None:
        """Call inside `parametrize.cached()`, before the forward pass."""
        for layer in self._bound:
            weight = layer.weight
            if isinstance(weight, Tensor) and weight.requires_grad:
                self._hook(weight)

    def _hook(self, weight: Tensor) -> None:
        value = weight.detach()  # not the tensor itself: hook and tensor would keep each other alive

        def add(gradient: Tensor) -> Tensor:
            return gradient.add(value, alpha=self.l2).add_(value.sign(), alpha=self.l1)

        weight.register_hook(add)

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Call after the backward pass."""
        pairs = [(p.detach(), p.grad) for p in self._plain if p.grad is not None]
        if not pairs:
            return
        weights, gradients = [w for w, _ in pairs], [g for _, g in pairs]
        if self.l2:
            torch._foreach_add_(gradients, weights, alpha=self.l2)
        if self.l1:
            torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=self.l1)
