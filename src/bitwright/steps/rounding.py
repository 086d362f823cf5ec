"""How weights become whole numbers times a scale: the nearest, or those that change the layer's outputs least."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.steps.moments import Moments, noised_

_STRETCH = 1.2
"""The sigmoid's range, around the middle of 0..1 (AdaRound, equation 23: zeta = 1.1, gamma = -0.1)."""
_FIRST_BETA, _LAST_BETA, _WARM_UP = 20.0, 2.0, 0.2
_NOISE = 0.01
"""Of the inputs' mean power. As GPTQ damps (Frantar et al. 2023, section 3)."""
_MOVES = 50
"""At most, of each code of a row on average."""
_SHARES = [share / 100 for share in range(40, 101)]


def weight_scales(rows: Tensor, largest: int, clip: str, power_of_two: bool) -> Tensor:
    """The scale of each row of weights (O, K): (O, 1), float32.

    clip "max" gives the largest weight the code `largest`; "mse" takes the share of that scale, from 0.40 to 1, whose
    rounded weights are nearest to the row.
    """
    full = (rows.abs().amax(1, keepdim=True) / largest).clamp(min=2.0**-30)
    best, least = full, torch.full_like(full, torch.inf)
    for share in [1.0] if clip == "max" else reversed(_SHARES):
        scale = full * share
        scale = torch.exp2(torch.log2(scale).ceil()) if power_of_two else scale
        error = (nearest(rows, scale, largest) * scale - rows).square().sum(1, keepdim=True)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def nearest(rows: Tensor, scale: Tensor, largest: int) -> Tensor:
    """Whole numbers from -largest to largest, as floats: (O, K)."""
    return (rows / scale).round().clamp(-largest, largest)


def ada_round(rows: Tensor, scale: Tensor, largest: int, moments: Moments, iterations: int) -> Tensor:
    """Whole numbers whose layer gives nearly the wanted outputs (Nagel et al. 2020, "Up or down?"): (O, K).

        W~ = s clip(floor(W / s) + h(V), -largest, largest),  h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
        V minimises |y - W~ x|^2 + lambda sum (1 - |2 h(V) - 1|^beta),   beta from 20 to 2 after a fifth of the way

    The first term, which the paper estimates from batches, is here that of all windows at once, from their second
    moments, and in units of the error of rounding to the nearest; then every weight that alone lowers the error goes
    the other way, until there is none. Inputs count as if a hundredth of their power were noise: what few images never
    show is rounded to the nearest.
    """
    gram, cross = moments.gram, moments.cross
    noised_(gram, cross, rows, _NOISE)
    gram, cross = gram.float(), cross.float()
    floor = (rows / scale).floor()
    start = (rows / scale - floor).clamp(0.01, 0.99)
    logits = torch.logit((start + (_STRETCH - 1) / 2) / _STRETCH).requires_grad_()

    def error(codes: Tensor) -> Tensor:
        w = (codes * scale).view_as(cross)
        return ((w @ gram - 2 * cross) * w).sum()

    rounded = nearest(rows, scale, largest)
    unit = max(float(error(rounded)) - _least_error(gram, cross), 1e-30) / rows.numel()
    optimizer = torch.optim.Adam([logits], 1e-2)
    for i in range(iterations):
        way = max(0.0, (i / iterations - _WARM_UP) / (1 - _WARM_UP))
        h = (_STRETCH * torch.sigmoid(logits) - (_STRETCH - 1) / 2).clamp(0, 1)
        loss = error((floor + h).clamp(-largest, largest)) / unit
        if way > 0:
            beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 - way)
            loss = loss + 0.1 * (1 - (2 * h - 1).abs() ** beta).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    codes = (floor + (logits.detach() > 0)).clamp(-largest, largest)
    best = min((codes, rounded), key=lambda c: float(error(c)))
    return _descend(best, floor.clamp(min=-largest), (floor + 1).clamp(max=largest), scale, gram, cross)


def _least_error(gram: Tensor, cross: Tensor) -> float:
    """Of any weight, rounded or not."""
    fit = torch.linalg.solve(gram.double(), cross.double().mT).mT
    return float(((fit @ gram.double() - 2 * cross.double()) * fit).sum())


def _descend(codes: Tensor, low: Tensor, high: Tensor, scale: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """Move single codes by one, within their limits, as long as that lowers the squared error: in each row the move
    that lowers it most."""
    groups, outputs, width = cross.shape
    codes, low, high = (c.clone().view_as(cross) for c in (codes, low, high))
    scales = scale.expand(groups * outputs, 1).reshape(groups, outputs, 1)
    gradient = 2 * ((codes * scales) @ gram - cross)
    curvature = gram.diagonal(dim1=1, dim2=2)[:, None, :] * scales.square()
    for _ in range(_MOVES * width):
        change = torch.stack([d * gradient * scales + curvature for d in (-1.0, 1.0)])  # of the error, by -1 and by +1
        change[0].masked_fill_(codes <= low, torch.inf)
        change[1].masked_fill_(codes >= high, torch.inf)
        least, place = change.permute(1, 2, 0, 3).reshape(groups, outputs, -1).min(2, keepdim=True)
        step = torch.where(least < -1e-7 * curvature.amax(2, keepdim=True), torch.where(place < width, -1.0, 1.0), 0.0)
        if not step.any():
            break
        column = place % width
        codes.scatter_add_(2, column, step)
        moved = torch.gather(gram, 1, column.expand(-1, -1, width))
        gradient += 2 * step * scales * moved
    return codes.view(groups * outputs, width)
