"""The loss around a trained network, on a plane through its weights (Li et al. 2018, "Visualizing the loss landscape").

Two random directions d, each scaled filter by filter to the size of the weights, span the plane (section 4):

    d_f <- d_f / |d_f| * |w_f|      for every filter (row) f of every weight; 0 for biases and norms
    L(a, b) = loss(w + a d1 + b d2)

Without that scaling a network with large weights would look flat and one with small weights steep, though batch norm or
ReLU make both compute the same. 1 on an axis means: as far away as the weights are from zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bitwright.errors import BitwrightError
from bitwright.training.evaluate import eval_mode
from bitwright.training.seeds import derive_seed


class Surface(TypedDict):
    """`axis`: the values of a and of b; `loss[i][j]`: L(axis[j], axis[i]), None where it is not finite."""

    axis: list[float]
    loss: list[list[float | None]]


@torch.no_grad()
def loss_surface(
    model: nn.Module, images: Tensor, labels: Tensor, points: int = 21, reach: float = 1.0, seed: int = 0
) -> Surface:
    """The mean cross entropy of a batch in eval mode at points x points places, from -reach to reach on both axes.

    `points` is odd, so that the middle is the network itself.
    """
    if points < 3 or points % 2 == 0:
        raise BitwrightError(f"the surface has {points} points a side; expected an odd number from 3", kind="setting")
    weights = dict(model.named_parameters())
    one, two = (direction(weights, derive_seed(seed, "surface", i)) for i in (1, 2))
    axis = [reach * (2 * i / (points - 1) - 1) for i in range(points)]

    def loss(a: float, b: float) -> float | None:
        moved = {name: w + a * one[name] + b * two[name] for name, w in weights.items()}
        found = F.cross_entropy(functional_call(model, moved, (images,)), labels).item()
        return found if math.isfinite(found) else None

    with eval_mode(model):
        return {"axis": axis, "loss": [[loss(a, b) for a in axis] for b in axis]}


def direction(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """One filter-normalised random direction, tensor by tensor."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            found[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=generator).to(weight).flatten(1)
        scale = weight.detach().flatten(1).norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
        found[name] = (drawn * scale).view_as(weight)
    return found
