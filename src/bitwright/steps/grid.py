"""Numbers rounded to a uniform grid, with a gradient for the grid's step (Esser et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _OnGrid(torch.autograd.Function):
    """See `on_grid`. Few passes over memory: these tensors are a network's activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int, factor: float) -> Tensor:
        y = (x * (1 / step)).round_().clamp_(low, high).mul_(step)
        ctx.save_for_backward(x, y, step.clone())  # of a layer that is used twice, the step may be set in between
        ctx.numbers = low, high, factor
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, y, step), (low, high, factor) = gradients, ctx.saved_tensors, ctx.numbers
        inside = torch.ops.aten.hardtanh_backward(gradient, x * (1 / step), low, high)
        if not ctx.needs_input_grad[1]:
            return inside, None, None, None, None
        by_step = (gradient * y).sub_(inside * x).sum_to_size(step.shape).to(step.dtype)
        return inside, by_step / step * factor, None, None, None


def on_grid(x: Tensor, step: Tensor, low: int, high: int, factor: float = 1.0) -> Tensor:
    """step * clamp(round(x / step), low, high), rounded half to even as FORMAT.md 8.1 says; with r = round(x / step)

        dy/dx     1 where low < x / step < high, else 0
        dy/dstep  factor * (r - x / step there, low below, high above)    (Esser et al. 2020, equations 3 and 5)

    step is one number without dimensions, or a tensor that broadcasts over x. Of float32 it gives the operator's
    numbers bit for bit, but for -0.0; bfloat16 would be rounded twice, so convert it before.
    """
    result: Tensor = _OnGrid.apply(x, step, low, high, factor)
    return result
