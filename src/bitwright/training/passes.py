"""What training computes for every activation in one pass over memory, natively; autograd's own operations take many.

Tensors are float32 or bfloat16 on the CPU, with channels innermost. Where `suits` says no, callers use torch's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def suits(x: Tensor) -> bool:
    """Whether these passes can take x: (N, C), or (N, C, H, W) channels last."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or torch.compiler.is_compiling():
        return False
    return x.is_contiguous() if x.ndim == 2 else x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1."""
    result = torch.empty_like(x)
    _native().training_sign(_rows(x), _rows(result), torch.get_num_threads())
    return result


def sign_gradient(x: Tensor, gradient: Tensor, curve: bool) -> Tensor:
    """gradient max(0, 2 - 2 |x|) with `curve`, else gradient 1{|x| < 1}."""
    result = torch.empty_like(x)
    gradient = _as(gradient, x)
    _native().training_sign_back(_rows(x), _rows(gradient), _rows(result), curve, torch.get_num_threads())
    return result


def shift(x: Tensor, before: Tensor) -> Tensor:
    """x - before, one number per channel."""
    result = torch.empty_like(x)
    _native().training_shift(_rows(x), _numbers(before), _rows(result), torch.get_num_threads())
    return result


def channel_sums(x: Tensor) -> Tensor:
    """The sum of each channel, float32."""
    sums = torch.empty(x.shape[1])
    _native().training_sum(_rows(x), sums.numpy(), torch.get_num_threads())
    return sums


def rprelu(x: Tensor, before: Tensor, slope: Tensor, after: Tensor) -> Tensor:
    """d = x - before: d + after where d > 0, else slope d + after; one number of each per channel."""
    result = torch.empty_like(x)
    numbers = (_numbers(t) for t in (before, slope, after))
    _native().training_rprelu(_rows(x), *numbers, _rows(result), torch.get_num_threads())
    return result


def rprelu_gradient(x: Tensor, gradient: Tensor, before: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Of x, and sums per channel (3, C): of that, of gradient min(d, 0), of gradient."""
    result, sums = torch.empty_like(x), torch.empty(3, x.shape[1])
    numbers = _numbers(before), _numbers(slope)
    rows = _rows(x), _rows(_as(gradient, x))
    _native().training_rprelu_back(*rows, *numbers, _rows(result), sums.numpy(), torch.get_num_threads())
    return result, sums


def _native() -> Any:
    from bitwright import _native

    return _native


def _as(tensor: Tensor, x: Tensor) -> Tensor:
    """In the type and layout of x."""
    form = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return tensor.to(x.dtype).contiguous(memory_format=form)


def _rows(x: Tensor) -> Array:
    """x as (pixels, channels), the very memory; bfloat16 as 16-bit integers."""
    last = x.detach().permute(0, 2, 3, 1) if x.ndim == 4 else x.detach()
    rows = last.reshape(x.numel() // max(x.shape[1], 1), x.shape[1])
    return (rows.view(torch.int16) if x.dtype == torch.bfloat16 else rows).numpy()


def _numbers(numbers: Tensor) -> Array:
    return numbers.detach().float().contiguous().numpy()
