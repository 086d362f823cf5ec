"""First weights: a draw for every convolution and linear layer, biases 0; batch norm begins as the identity.

With fan_in the inputs of a unit (k k C for a k x k convolution of C channels), fan_out its readers (k k O), a gain g:

    normal           w ~ N(0, g^2)                             g = 0.01
    xavier-normal    w ~ N(0, g^2 2 / (fan_in + fan_out))      g = 1    Glorot, Bengio 2010, equation 12
    xavier-uniform   w ~ U(-a, a), a = g sqrt(6 / (fan_in + fan_out))   ... equation 16; for sigmoid layers g = 4
    he-normal        w ~ N(0, g^2 / fan_in)                    g = sqrt(2), for ReLU: He et al. 2015, section 2.2
    he-uniform       w ~ U(-a, a), a = g sqrt(3 / fan_in)      g = sqrt(2)
    orthogonal       orthonormal rows or columns of w (O, k k C), times g = 1: Saxe et al. 2013
    lsuv             orthogonal, then layer by layer w <- w g / std(its outputs for a batch): Mishkin, Matas 2015

Variances that stay the same from layer to layer are what all but the first are for: fan_in alone keeps that of the
activations, fan_out that of the gradients, their mean is a compromise; a ReLU halves it, hence sqrt(2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.validate import checked

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
DEFAULT_GAIN = {"normal": 0.01, "he-normal": math.sqrt(2.0), "he-uniform": math.sqrt(2.0)}
"""1 for the others."""
TOLERANCE, ROUNDS = 0.1, 10
"""LSUV stops at a layer when its variance is so near to g^2, relatively, or after so many corrections (section 3.1)."""


@dataclass(frozen=True)
class Initialize:
    """How a model begins: `name` and `gain` as the table above has them."""

    name: Literal["normal", "xavier-normal", "xavier-uniform", "he-normal", "he-uniform", "orthogonal", "lsuv"]
    gain: float | None = None

    def __post_init__(self) -> None:
        if self.gain is not None and not 0 < self.gain < math.inf:
            raise BitwrightError(f"gain is {self.gain}; expected a number above 0")

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Initialize) -> Initialize:
        """From a recipe's model.initialize: a name, or a mapping of the fields."""
        if isinstance(value, Initialize):
            return value
        return checked(cls, {"name": value} if isinstance(value, str) else value, "model.initialize")


def initialize_(model: nn.Module, how: Initialize, images: Callable[[], Tensor] | None = None) -> None:
    """Give a newly built model first weights, drawn from torch's global random state.

    `images` gives what "lsuv" measures on: a batch as the model takes it (N, C, H, W), standardised; a few hundred do.

    Raises BitwrightError for a model without such layers and, with "lsuv", without images, or where a layer's outputs
    are all equal or not finite.
    """
    if not any(isinstance(module, LAYERS) for module in model.modules()):
        raise BitwrightError(f"{type(model).__name__} has no convolution or linear layer to initialise")
    fill_(model, "orthogonal" if how.name == "lsuv" else how.name, 1.0 if how.name == "lsuv" else how.gain)
    if how.name == "lsuv":
        if images is None:
            raise BitwrightError(
                'model.initialize "lsuv" measures on images; give create_model `images`, or use a recipe'
            )
        _scale_layers_(model, images(), how.gain or 1.0)


def fill_(model: nn.Module, name: str, gain: float | None = None) -> None:
    """Draw every layer's weight by one of the names above but "lsuv"; biases 0."""
    gain = DEFAULT_GAIN.get(name, 1.0) if gain is None else gain
    for module in model.modules():
        if isinstance(module, LAYERS):
            _draw_(module.weight, name, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _draw_(weight: Tensor, name: str, gain: float) -> None:
    fan_in, fan_out = weight[0].numel(), len(weight) * weight[0, 0].numel()
    if name == "orthogonal":
        nn.init.orthogonal_(weight, gain)
    elif name == "he-uniform":
        bound = gain * math.sqrt(3 / fan_in)
        nn.init.uniform_(weight, -bound, bound)
    elif name == "xavier-uniform":
        bound = math.sqrt(3.0) * (gain * math.sqrt(2 / (fan_in + fan_out)))
        nn.init.uniform_(weight, -bound, bound)
    else:
        share = {"normal": 1.0, "xavier-normal": math.sqrt(2 / (fan_in + fan_out)), "he-normal": 1 / math.sqrt(fan_in)}
        nn.init.normal_(weight, 0, gain * share[name])


@torch.no_grad()
def _scale_layers_(model: nn.Module, images: Tensor, target: float) -> None:
    """LSUV's second half (algorithm 1) in one pass: each layer is settled when its input arrives.

    Later layers can't change that input any more. The outputs are those before the activation, over all images,
    positions and channels. Dropout is off.
    """
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules() if isinstance(module, LAYERS)}
    settled = set[nn.Module]()

    def settle(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if layer in settled:
            return output
        settled.add(layer)
        for _ in range(ROUNDS):
            variance = output.double().var(correction=0).item()
            if not 0 < variance < math.inf:
                raise BitwrightError(
                    f"lsuv: the outputs of layer {names[layer]!r} have variance {variance}; expected different, finite "
                    "numbers: give it other images, or initialise by another name",
                    kind="not-finite",
                )
            if abs(variance / target**2 - 1) < TOLERANCE:
                break
            assert isinstance(layer.weight, Tensor)
            layer.weight.mul_(target / math.sqrt(variance))
            output = layer.forward(*inputs)
        return output

    hooks = [module.register_forward_hook(settle) for module in names]
    training = model.training
    try:
        model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


# -- what the models of this package begin with ------------------------------------------------------------------------


def xavier_(model: nn.Module) -> None:
    """Caffe's "xavier" filler, as in its LeNet: w ~ U(-a, a), a = sqrt(3 / fan_in), so Var(w) = 1 / fan_in; biases 0.

    Glorot and Bengio 2010 average fan_in and fan_out; Caffe takes fan_in alone.
    """
    fill_(model, "he-uniform", gain=1.0)


def he_normal_(model: nn.Module) -> None:
    """w ~ N(0, 2 / fan_in): keeps the variance through ReLUs (He et al. 2015, section 2.2); biases 0."""
    fill_(model, "he-normal")


def he_or_glorot_(model: nn.Module, activation: str) -> None:
    """He normal for ReLU, else Glorot uniform; either within [-1, 1], where latent binary weights have to be."""
    fill_(model, "he-normal" if activation == "relu" else "xavier-uniform")
