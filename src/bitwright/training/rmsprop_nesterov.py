"""RMSProp with Nesterov momentum: the gradient is taken where the momentum is about to lead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bitwright.training.per_parameter import PerParameter


class RMSpropNesterov(PerParameter):
    """RMSProp with Nesterov momentum (Goodfellow, Bengio, Courville 2016, "Deep Learning", algorithm 8.6).

        g = gradient at w + a v
        r = rho r + (1 - rho) g^2
        v = a v - lr g / (sqrt(r) + eps)
        w = w + v

    The parameter holds w + a v, where the next gradient is taken, as in torch's SGD with nesterov=True; both end at the
    same place as v vanishes. The book has no eps, but divides by a root that may be 0: default that of torch's RMSprop.

    Raises ValueError for alpha or momentum outside of [0, 1), for eps <= 0 and for a negative lr or weight_decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        alpha: float = 0.99,
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not (0 <= alpha < 1 and 0 <= momentum < 1 and eps > 0 and lr >= 0 and weight_decay >= 0):
            raise ValueError(
                f"Invalid alpha {alpha}, momentum {momentum}, eps {eps}, lr {lr} or weight_decay {weight_decay}; alpha "
                "and momentum must be at least 0 and below 1, eps above 0, the others not below 0"
            )
        numbers = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, numbers)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """As in the class."""
        state, alpha, momentum = self.state[parameter], group["alpha"], group["momentum"]
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        if not state:
            state.update(r=torch.zeros_like(parameter), v=torch.zeros_like(parameter))
        r, v = state["r"], state["v"]
        r.mul_(alpha).addcmul_(gradient, gradient, value=1 - alpha)
        parameter.add_(v, alpha=-momentum)  # back to w
        v.mul_(momentum).addcdiv_(gradient, r.sqrt().add_(group["eps"]), value=-group["lr"])
        parameter.add_(v, alpha=1 + momentum)
