"""How much each layer can lose: prune one layer at a time, without retraining, and look at the validation error.

Han et al. 2015, section 3.1 and figure 6: the curves tell the sensitive layers (there the first convolution, with its
three input channels), and the quality parameter of each layer is chosen by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError


class Point(TypedDict):
    """One layer pruned by `amount`: the zero share of its weights (0..1), the network's error in percent."""

    amount: float
    sparsity: float
    error: float


class Sensitivity(TypedDict):
    """The error of the whole network in percent, and a curve for each layer. Plain data for JSON."""

    baseline: float
    layers: dict[str, list[Point]]


def scan(
    layers: Mapping[str, nn.Module],
    amounts: Sequence[float],
    select: Callable[[str, Tensor, float], Tensor],
    error: Callable[[], float],
) -> Sensitivity:
    """Prune each of `layers` (path -> module) by each of `amounts` in turn; every weight is put back.

    `select(name, weight, amount)` gives the 0/1 mask of what stays; it may raise BitwrightError where nothing would,
    which ends that layer's curve. `error()` evaluates the network as it is, in percent.
    """
    result: Sensitivity = {"baseline": error(), "layers": {}}
    for name, layer in layers.items():
        result["layers"][name] = _curve(name, layer, sorted(amounts), select, error)
    return result


@torch.no_grad()
def _curve(
    name: str,
    layer: nn.Module,
    amounts: Sequence[float],
    select: Callable[[str, Tensor, float], Tensor],
    error: Callable[[], float],
) -> list[Point]:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    original = weight.clone()
    points: list[Point] = []
    try:
        for amount in amounts:
            try:
                weight.copy_(original * select(name, original, amount))
            except BitwrightError:
                break
            sparsity = float((weight == 0).double().mean())
            points.append({"amount": amount, "sparsity": sparsity, "error": error()})
    finally:
        weight.copy_(original)
    return points


def propose(sensitivity: Sensitivity, tolerance: float) -> dict[str, float]:
    """For each layer the largest amount whose error exceeds the baseline by at most `tolerance` percentage points.

    0 where even the smallest amount costs more.
    """
    limit = sensitivity["baseline"] + tolerance
    return {
        name: max((p["amount"] for p in points if p["error"] <= limit), default=0.0)
        for name, points in sensitivity["layers"].items()
    }
