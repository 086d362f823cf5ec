"""Learned shifts and slopes per channel, with gradients in few passes over memory.

    shift(x, b) = x - b                     rprelu(x, b, a, c) = max(d, 0) + a min(d, 0) + c,   d = x - b

Autograd's own way takes several times as long where pixels lie channel by channel and channels are few: each operation
then runs over a handful of numbers at a time. Here a row is many pixels, and the numbers per channel are repeated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ROW = 1024
"""Numbers in a row, about."""


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
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return last and torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling()


class _Rows:
    """Rows of several pixels of a tensor of this shape (N, C, H, W); all in x's floating type."""

    def __init__(self, shape: torch.Size) -> None:
        self.count, self.channels, self.height, self.width = shape
        self.pixels = math.gcd(self.count * self.height * self.width, max(1, _ROW // self.channels))

    def of(self, x: Tensor) -> Tensor:
        """The rows; a view where channels are innermost."""
        return x.permute(0, 2, 3, 1).reshape(-1, self.pixels * self.channels)

    def image(self, rows: Tensor) -> Tensor:
        """What `of` was made from."""
        return rows.view(self.count, self.height, self.width, self.channels).permute(0, 3, 1, 2)

    def repeat(self, numbers: Tensor, like: Tensor) -> Tensor:
        """One number per channel as a row."""
        return numbers.to(like.dtype).repeat(self.pixels)

    def sum(self, rows: Tensor) -> Tensor:
        """The sum of each channel, float32."""
        return rows.sum(0).float().view(self.pixels, self.channels).sum(0)


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
        rows = _Rows(x.shape)
        return rows.image(rows.of(x) - rows.repeat(b, x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows = _Rows(gradients[0].shape)
        return gradients[0], -rows.sum(rows.of(gradients[0]))


class _RPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor, a: Tensor, c: Tensor) -> Tensor:
        rows = _Rows(x.shape)
        d = rows.of(x) - rows.repeat(b, x)
        ctx.save_for_backward(d, a)
        return rows.image(d.clamp(max=0).mul_(rows.repeat(a - 1, x)).add_(d).add_(rows.repeat(c, x)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (d, a), rows = ctx.saved_tensors, _Rows(gradients[0].shape)
        g = rows.of(gradients[0])
        by_slope = rows.sum(d.clamp(max=0).mul_(g))
        # 1 or a, without a branch: (1 + a) / 2 plus or minus (1 - a) / 2
        side = torch.copysign(torch.ones((), dtype=d.dtype, device=d.device), d)
        by_x = side.mul_(rows.repeat((1 - a) / 2, d)).add_(rows.repeat((1 + a) / 2, d)).mul_(g)
        return rows.image(by_x), -rows.sum(by_x), by_slope, rows.sum(g)
