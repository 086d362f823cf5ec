"""How many components of a matrix are more than noise: the analytic solution of empirical VB matrix factorisation.

Nakajima, Sugiyama, Babacan, Tomioka ("Global analytic solution of fully-observed variational Bayesian matrix
factorization", JMLR 2013), as Kim et al. (ICLR 2016) choose the ranks of convolutions by it. With L <= M the sizes of
the matrix, s_h its singular values, alpha = L / M and x_h = s_h^2 / (M sigma^2):

    tau_b = 2.5129 sqrt(alpha),   x_b = (1 + tau_b) (1 + alpha / tau_b)
    tau(x) = (x - (1 + alpha) + sqrt((x - (1 + alpha))^2 - 4 alpha)) / 2
    F(sigma^2) = sum_{x_h <= x_b} (x_h - ln x_h)
               + sum_{x_h > x_b} (x_h - tau_h + ln((tau_h + 1) / x_h) + alpha ln(tau_h / alpha + 1))

The noise sigma^2 minimises F, and the components with s_h > sqrt(M sigma^2 x_b) stay.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEPS = 200
_GOLDEN = (math.sqrt(5) - 1) / 2


def vbmf(matrix: Tensor) -> tuple[int, float]:
    """The rank, from 0, and the variance of the noise, of a matrix (L, M) or its transpose."""
    values = torch.linalg.svdvals(matrix.double())
    short, long = sorted(matrix.shape)
    alpha = short / long
    tau_b = 2.5129 * math.sqrt(alpha)
    x_b = (1 + tau_b) * (1 + alpha / tau_b)
    squares = values.square() / long
    upper = float(squares.sum()) / short
    if upper == 0:
        return 0, 0.0
    most = max(min(math.ceil(short / (1 + alpha)) - 1, short) - 1, 0)
    rest = squares[most + 1 :]
    lower = max(float(rest[0]) / x_b, float(rest.mean())) if len(rest) else 0.0
    noise = _least(squares, alpha, x_b, max(lower, upper * 1e-12), upper)
    return int((squares > noise * x_b).sum()), noise


def _least(squares: Tensor, alpha: float, x_b: float, lower: float, upper: float) -> float:
    """The noise that minimises F: the best of a grid, then the golden section between its neighbours."""
    grid = torch.logspace(math.log10(lower), math.log10(upper), _STEPS, dtype=torch.float64).tolist()
    costs = [_cost(squares, alpha, x_b, noise) for noise in grid]
    best = min(range(_STEPS), key=costs.__getitem__)
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _STEPS - 1)]
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if _cost(squares, alpha, x_b, left) < _cost(squares, alpha, x_b, right):
            high = right
        else:
            low = left
    return (low + high) / 2


def _cost(squares: Tensor, alpha: float, x_b: float, noise: float) -> float:
    x = (squares / noise).clamp(min=1e-300)
    small, large = x[x <= x_b], x[x > x_b]
    shifted = large - (1 + alpha)
    tau = (shifted + (shifted.square() - 4 * alpha).clamp(min=0).sqrt()) / 2
    signal = large - tau + ((tau + 1) / large).log() + alpha * (tau / alpha + 1).log()
    return float((small - small.log()).sum() + signal.sum())
