"""Learned shifts and slopes per channel, with gradients in one pass over memory where that is possible.

shift(x, b) = x - b                     rprelu(x, b, a, c) = max(d, 0) + a min(d, 0) + c,   d = x - b
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.training import passes


def shift(x: Tensor, b: Tensor) -> Tensor:
    """x - b for x (N, C, H, W) and b (C,)."""
    if _in_training(x):
        result: Tensor = _Shift.apply(x, b)
        return result
    return x - b.reshape(-1, 1, 1)


def rprelu(x: Tensor, b: Tensor, a: Tensor, c: Tensor) -> Tensor:
    """x - b + c where x > b, else a (x - b) + c, for x (N, C, H, W) and the others (C,)."""
    if _in_training(x):
        result: Tensor = _RPReLU.apply(x, b, a, c)
        return result
    return F.prelu(x - b.reshape(-1, 1, 1), a) + c.reshape(-1, 1, 1)


def _in_training(x: Tensor) -> bool:
    """Whether gradients are wanted and x is laid out for it."""
    return torch.is_grad_enabled() and x.requires_grad and passes.suits(x)


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
        return passes.shift(x, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        sums = passes.channel_sums(gradient) if passes.suits(gradient) else gradient.float().sum((0, 2, 3))
        return gradient, -sums


class _RPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor, a: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(x, b, a)
        return passes.rprelu(x, b, a, c)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        by_x, sums = passes.rprelu_gradient(ctx.saved_tensors[0], gradients[0], *ctx.saved_tensors[1:])
        return by_x, -sums[0], sums[1], sums[2]
