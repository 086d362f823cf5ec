"""What a batch meets on its way through a network: activations and gradients of every layer.

Lecture 004's experiment on first weights: where the standard deviation of the activations shrinks or grows from layer
to layer, nothing arrives or everything saturates; where that of the gradients does, the first layers don't learn.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from functools import partial
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from bitwright.errors import BitwrightError
from bitwright.training.losses import with_heads

BINS = 61
PASSED_OVER = (nn.Identity, nn.Flatten, nn.Sequential, _DropoutNd)
"""Modules that compute nothing of their own; a Sequential, where it is empty."""


class Numbers(TypedDict):
    """Mean, standard deviation, share of exact zeros in percent; a histogram of the others: bins' middles, counts."""

    mean: float
    std: float
    zeros: float
    x: list[float]
    y: list[int]


class Row(TypedDict):
    """One layer: its outputs for all images, and the gradients of the loss with respect to them, summed over images.

    `gradients` is None where the loss does not depend on the layer in a way that can be differentiated.
    """

    layer: str
    kind: str
    activations: Numbers
    gradients: Numbers | None


def probe(model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> list[Row]:
    """A row for each module without children, in order of execution; one that runs again gets another row.

    The pass is one of training: batch norm takes the batch's statistics, dropout drops by `seed`; the loss is the sum
    of the images' cross entropies (with those of auxiliary heads, as in training), so that gradients don't depend on
    how many there are. `images` (N, C, H, W) are as the model takes them, labels (N,). `model` itself stays as it is.

    Raises BitwrightError where activations or gradients are not finite, naming the first layer.
    """
    rows: list[Row] = []
    runs = Counter[str]()
    watched = copy.deepcopy(model).train()

    def watch(name: str, module: nn.Module) -> None:
        def after(_: nn.Module, __: object, output: object) -> None:
            if not isinstance(output, Tensor):
                return
            runs[name] += 1
            label = name if runs[name] == 1 else f"{name} #{runs[name]}"
            kind = type(module).__name__
            row: Row = {"layer": label, "kind": kind, "activations": _numbers(output, label), "gradients": None}
            rows.append(row)

            def backward(gradient: Tensor) -> None:
                row["gradients"] = _numbers(gradient, f"{label}, gradient")

            if output.requires_grad:  # a hook sees the gradient of these values also if they are changed in place later
                output.register_hook(backward)

        module.register_forward_hook(after)

    for name, module in watched.named_modules():
        if not any(module.children()) and not isinstance(module, PASSED_OVER):
            watch(name, module)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with_heads(partial(F.cross_entropy, reduction="sum"), watched(images), labels).backward()
    return rows


def _numbers(tensor: Tensor, where: str) -> Numbers:
    values = tensor.detach().double().flatten()
    mean, std = values.mean().item(), values.std(correction=0).item()
    if not math.isfinite(std):
        raise BitwrightError(f"{where}: not all numbers are finite; begin with smaller weights", kind="not-finite")
    others = values[values != 0]
    low, high = (others.min().item(), others.max().item()) if others.numel() else (0.0, 0.0)
    if low == high:
        x, y = [low] * bool(others.numel()), [others.numel()] * bool(others.numel())
    else:
        width = (high - low) / BINS
        x, y = [low + width * (i + 0.5) for i in range(BINS)], others.histc(BINS, low, high).long().tolist()
    zeros = 100 * (1 - others.numel() / values.numel())
    return {"mean": mean, "std": std, "zeros": zeros, "x": [float(f"{v:.6g}") for v in x], "y": y}
