"""First weights of the registered models."""

from __future__ import annotations

import math

from torch import nn


def xavier_(model: nn.Module) -> None:
    """Caffe's "xavier" filler, as in its LeNet: w ~ U(-a, a), a = sqrt(3 / fan_in), so Var(w) = 1 / fan_in; biases 0.

    Glorot and Bengio 2010 average fan_in and fan_out; Caffe takes fan_in alone.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = math.sqrt(3 / module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def he_normal_(model: nn.Module) -> None:
    """w ~ N(0, 2 / fan_in): keeps the variance through ReLUs (He et al. 2015, section 2.2); biases 0."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def glorot_uniform_(model: nn.Module) -> None:
    """w ~ U(-a, a), a = sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 16); biases 0.

    fan_in and fan_out of a k x k convolution are k * k * channels.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def he_or_glorot_(model: nn.Module, activation: str) -> None:
    """He normal for ReLU, else Glorot uniform; either within [-1, 1], where latent binary weights have to be."""
    (he_normal_ if activation == "relu" else glorot_uniform_)(model)
