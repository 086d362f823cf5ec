"""A weight made of few values, while those values are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Lookup(torch.autograd.Function):
    """w_i = c_{k(i)}, and 0 where the code is 0. Backward: dL/dc_k = sum of dL/dw_i over the cluster, in float64.

    An own function, as the backward of indexing adds in no fixed order on many threads or on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, codes: Tensor, mean: bool) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.size, ctx.mean = len(codebook), mean
        table = torch.cat([codebook.new_zeros(1), codebook])
        return table.index_select(0, codes.flatten()).view(codes.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        gradient, flat = gradients[0], codes.flatten()
        add = sums_by_counting if flat.device.type == "cpu" else sums_by_sorting
        sums = add(gradient.flatten().double(), flat, ctx.size + 1)[1:]
        if ctx.mean:
            sums = sums / torch.bincount(flat, minlength=ctx.size + 1)[1:].clamp(min=1)
        return sums.to(gradient.dtype), None, None


def sums_by_counting(values: Tensor, codes: Tensor, size: int) -> Tensor:
    """The sum of the values of each code, (size,), one after another: on a CPU always in the same order."""
    return torch.bincount(codes, weights=values, minlength=size)


def sums_by_sorting(values: Tensor, codes: Tensor, size: int) -> Tensor:
    """The same by sorted segments, for devices where `bincount` adds as its threads come along (untried on a GPU)."""
    order = torch.argsort(codes, stable=True)
    return torch.segment_reduce(values[order], "sum", lengths=torch.bincount(codes, minlength=size), initial=0.0)


class Codebook(nn.Module):
    """Parametrization of a tensor by its codebook: the free tensor is c (float32, K values), the codes stay fixed.

    `codes` (int32, shape of the tensor): 0 for a zero, k + 1 for c_k. With `mean` the gradient of a value is the mean
    over its cluster instead of the sum.
    """

    codes: Tensor

    def __init__(self, codebook: Tensor, codes: Tensor, *, mean: bool = False) -> None:
        super().__init__()
        self.mean = mean
        self._start: Tensor | None = codebook
        self.register_buffer("codes", codes.to(torch.int32))

    def forward(self, codebook: Tensor) -> Tensor:
        return _Lookup.apply(codebook, self.codes, self.mean)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The codebook to start from; asked once, when the parametrization is attached."""
        start, self._start = self._start, None
        assert start is not None
        return start.to(weight)
