"""Shift-based AdaMax: an optimiser whose every division and step size is a shift of bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bitwright.training.per_parameter import PerParameter

_ROUND_UP = 0x4AFB0C
"""Added to a float32's bits, it carries into the exponent exactly where the mantissa is above sqrt(2)."""
_MANTISSA = 0x7FFFFF


def ap2_(x: Tensor) -> Tensor:
    """In place, the power of two that is nearest on a logarithmic scale: sign(x) 2^round(log2 |x|), and 0 for 0.

    x is float32 and holds no NaN. By the bits of the numbers, so exact (below 2^-126: 0 or 2^-126).
    Source: Courbariaux, Hubara et al. 2016, section 1.3.
    """
    x.view(torch.int32).add_(_ROUND_UP).bitwise_and_(~_MANTISSA)
    return x


class ShiftAdaMax(PerParameter):
    """Shift-based AdaMax (Courbariaux, Hubara et al. 2016, algorithm 4, with the numbers of the authors' code).

        m = b1 m + (1 - b1) g
        v = AP2(max(b2 v, |g|))
        w = w - AP2(lr / (1 - b1^t)) m / (v + 2^-27)

    A layer's own scale of the learning rate (there a power of two from Glorot's initialisation) is its parameters'
    `lr_factor`: AP2(lr 2^k) = AP2(lr) 2^k. Keeping binary weights within [-1, 1] is their parametrization's business.
    """

    def __init__(self, params: Iterable[Any], lr: float = 2**-6, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Invalid betas: {betas}; each must be at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": tuple(betas)})

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """As in the class."""
        state, lr, (beta1, beta2) = self.state[parameter], group["lr"], group["betas"]
        if not state:
            state.update(step=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter, dtype=torch.float32))
        m, v, buffer = state["m"], state["v"], gradient.abs()
        state["step"] += 1
        rate = lr / (1 - beta1 ** state["step"])
        rate = 2.0 ** round(math.log2(rate)) if rate > 0 else 0.0
        m.lerp_(gradient, 1 - beta1)
        ap2_(torch.maximum(v.mul_(beta2), buffer, out=v))
        parameter.addcdiv_(m, torch.add(v, 2.0**-27, out=buffer), value=-rate)
