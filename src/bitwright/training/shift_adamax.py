"""Shift-based AdaMax: an optimiser whose every division and step size is a shift of bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_ROUND_UP = 0x4AFB0C
"""Added to a float32's bits, it carries into the exponent exactly where the mantissa is above sqrt(2)."""
_MANTISSA = 0x7FFFFF


def ap2(x: Tensor) -> Tensor:
    """The nearest power of two on a logarithmic scale, sign(x) 2^round(log2 |x|), float32; 0 for 0.

    By the bits of the number, so exact. Below 2^-126 it is 0 or 2^-126. Source: Courbariaux et al. 2016, section 1.3.
    """
    x = x.float()
    power = x.view(torch.int32).add(_ROUND_UP).bitwise_and_(~_MANTISSA).view(torch.float32)
    return torch.where(x.isfinite(), power, x)


class ShiftAdaMax(torch.optim.Optimizer):
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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; `closure` recomputes the loss first, as in every optimiser of torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], *group["betas"])
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, beta1: float, beta2: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, m=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
        state["step"] += 1
        state["m"].lerp_(gradient, 1 - beta1)
        state["v"].copy_(ap2(torch.maximum(state["v"] * beta2, gradient.abs())))
        rate = lr / (1 - beta1 ** state["step"])
        rate = 2.0 ** round(math.log2(rate)) if rate > 0 else 0.0
        parameter.addcdiv_(state["m"], state["v"] + 2.0**-27, value=-rate)
