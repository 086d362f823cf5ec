"""Layers between quantised ones that give the bits of the engine: batch norm and means without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright.edits import edit
from bitwright.errors import BitwrightError


def norm_at_inference(
    gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """gamma / sqrt(variance + eps) and beta - mean times that, in float64 and then rounded to float32: the scale and
    shift of batch norm in the engine."""
    scale = (1.0 if gamma is None else gamma.double()) / (variance.double() + eps).sqrt()
    shift = (0.0 if beta is None else beta.double()) - mean.double() * scale
    return scale.float(), shift.float()


class ExactNorm(_BatchNorm):
    """Batch norm with the bits of the engine: without gradients it is x scale + shift, two roundings.

    torch computes scale and shift in float32 and may round once. With gradients, exported or compiled, and while it
    measures a batch, it is torch's.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise BitwrightError(f"batch norm got shape {tuple(input.shape)}; expected (N, C, ...)", kind="value")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...), the same shape."""
        graded = torch.is_grad_enabled() and (input.requires_grad or (self.affine and self.weight.requires_grad))
        mean, variance = self.running_mean, self.running_var
        if self.training or mean is None or variance is None or graded or torch.compiler.is_compiling():
            return super().forward(input)
        shape = (1, -1, *(1,) * (input.ndim - 2))
        scale, shift = norm_at_inference(self.weight, self.bias, mean, variance, self.eps)
        return input * scale.view(shape) + shift.view(shape)


class ExactMean(nn.Module):
    """Means with the bits of the engine (FORMAT.md 8.4): without gradients `function` adds in float64, rounded once.

    `function` gives means of windows of a tensor, as `nn.AdaptiveAvgPool2d(1)` does. With gradients, exported or
    compiled it works in the type of its input.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...), what `function` makes of it."""
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and x.requires_grad):
            return self.function(x)
        return self.function(x.double()).to(x.dtype)


@edit("exact-norm")
def exact_norm(old: nn.Module) -> ExactNorm:
    """The `ExactNorm` that a batch norm becomes, with the same parameters and buffers."""
    if not isinstance(old, _BatchNorm):
        raise BitwrightError(f"a {type(old).__name__} can't become an exact batch norm; it is none", kind="edit")
    new = ExactNorm(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats, device="meta")
    for name, parameter in old.named_parameters():
        setattr(new, name, parameter)
    for name, buffer in old.named_buffers():
        setattr(new, name, buffer)
    return new
