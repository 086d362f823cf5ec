"""Shift-based batch norm: a batch norm whose every product with a statistic is a shift of bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright.errors import BitwrightError
from bitwright.exact import norm_at_inference
from bitwright.training.shift_adamax import ap2_


def ap2(x: Tensor) -> Tensor:
    """sign(x) 2^round(log2 |x|), 0 for 0; float32, x is left alone."""
    return ap2_(x.clone())


class _ShiftNorm(torch.autograd.Function):
    """See `ShiftBatchNorm`. Also gives mean and variance, which have no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        ctx.axes = [0, *range(2, x.ndim)]
        mean = x.mean(ctx.axes, keepdim=True)
        centred = x - mean
        variance = (centred * ap2(centred)).mean(ctx.axes, keepdim=True)
        scale, factor = ap2((variance + eps).rsqrt()), ap2(gamma).view_as(mean)
        ctx.save_for_backward(centred, scale, factor)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(beta.view_as(mean), centred, scale * factor), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, scale, factor = ctx.saved_tensors
        count = centred.numel() // scale.numel()
        by_beta = gradients[0].sum(ctx.axes, keepdim=True)
        by_gamma = (gradients[0] * centred).sum(ctx.axes, keepdim=True) * scale
        by_x = (gradients[0] - by_beta / count).addcmul_(centred, scale * by_gamma, value=-1 / count)
        return by_x * (scale * factor), by_gamma.flatten(), by_beta.flatten(), None


class ShiftBatchNorm(nn.Module):
    """Shift-based batch norm (Courbariaux, Hubara et al. 2016, algorithm 3), in the place of an nn.BatchNorm.

        c = x - mean(x),   var = mean(c AP2(c)),   s = AP2(1 / sqrt(var + eps)),   y = AP2(gamma) s c + beta
        dL/dx = AP2(gamma) s (g - mean(g) - c s^2 mean(c g)),   dL/dgamma = s sum c g,   dL/dbeta = sum g

    with g = dL/dy, the gradient of batch norm with AP2 taken for the identity (released code); AP2(x) = sign(x)
    2^round(log2 |x|) and AP2(0) = 0. x is (N, C, ...), of any floating type; y is float32.

    It uses parameters and buffers of the norm it replaces, under the same names. At inference mean and var are the
    running ones, and it computes what the engine does with the norm that `settle` leaves, bit for bit.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.momentum = plain.weight, plain.bias, plain.eps, plain.momentum
        for name, buffer in plain.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, float32."""
        if not self.training:
            shape = (1, -1, *(1,) * (x.ndim - 2))
            one = torch.full_like(self.running_var, 1.0 - self.eps)
            scale, shift = norm_at_inference(self.scale(), self.bias.detach(), self.running_mean, one, self.eps)
            return x.float() * scale.view(shape) + shift.view(shape)
        with torch.autocast(x.device.type, enabled=False):
            y, mean, variance = _ShiftNorm.apply(x.float(), self.weight, self.bias, self.eps)
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.flatten(), share)
        self.running_var.lerp_(variance.flatten(), share)
        result: Tensor = y
        return result

    def scale(self) -> Tensor:
        """AP2(gamma) s at inference, a power of two (or 0) per channel."""
        return ap2(self.weight.detach()) * ap2((self.running_var + self.eps).rsqrt())

    @torch.no_grad()
    def settle(self, plain: _BatchNorm) -> None:
        """Let the plain norm have the same scale: gamma is the power of two, and var + eps = 1."""
        plain.weight.copy_(self.scale())
        assert plain.running_var is not None
        plain.running_var.fill_(1.0 - plain.eps)


@contextmanager
def shift_norms(model: nn.Module) -> Iterator[None]:
    """While inside, the model's batch norms are shift-based; afterwards plain ones compute the same at inference.

    Raises BitwrightError, naming it, for a batch norm without gamma and beta or without running statistics.
    """
    plain = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    for name, norm in plain.items():
        if not norm.affine or not norm.track_running_stats:
            raise BitwrightError(
                f"batch norm {name!r} has no gamma and beta, or no running statistics; a shift-based one needs both: "
                "set affine and track_running_stats to True",
                kind="norm",
            )
    shifting = {name: ShiftBatchNorm(norm).train(norm.training) for name, norm in plain.items()}
    for name, shift in shifting.items():
        model.set_submodule(name, shift)
    try:
        yield
    finally:
        for name, norm in plain.items():
            model.set_submodule(name, norm.train(shifting[name].training))
            shifting[name].settle(norm)
