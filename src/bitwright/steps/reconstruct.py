"""One layer of low rank that gives what the layer behind its activation gave: the first stage of `GER`.

With c the layer's inputs in the compressed network, r = f(s + b) what the float network has behind the activation f,
and lambda a penalty (Zhang et al. 2015, GER's slides):

    min_{V, y} sum_i || r_i - f(y_i) ||^2 + lambda || y_i - V c_i - b ||^2,   rank V <= k

Step I, y fixed: reduced-rank regression of y on c. Step II, V fixed, for each number by itself, z = V c + b:

    y_0 = min(0, z),                                 cost_0 = r^2 + lambda (y_0 - z)^2
    y_1 = max(0, (r + lambda z) / (1 + lambda)),     cost_1 = (r - y_1)^2 + lambda (y_1 - z)^2,    y of the lower cost
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.steps.low_rank import solve

_ROWS = 4096
"""Samples that are worked on at once."""
_EXACT = 1024
"""Up to so many outputs all eigenvectors are computed anew each time."""
_ENOUGH = 1e-5
"""An alternation that gains less than this share of the objective is the last of its penalty."""


@dataclass
class Fit:
    """A matrix of rank k for one group: left (T, k), right (k, K), bias (T,); all float64."""

    left: Tensor
    right: Tensor
    bias: Tensor

    def outputs(self, x: Tensor) -> Tensor:
        """(n, K) -> (n, T), float32."""
        return (x @ self.right.T.float()) @ self.left.T.float() + self.bias.float()


@dataclass
class Samples:
    """Windows that a layer is given, x (n, K), and what it should give before the activation, y (n, T); float32."""

    x: Tensor
    y: Tensor

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """A few thousand at a time."""
        yield from zip(self.x.split(_ROWS), self.y.split(_ROWS), strict=True)


@dataclass
class Sums:
    """Over all windows, in float64: how many, the means of x (K,) and y (T,), and H = sum (y - mean)(x - mean)^T.

    factor   the Cholesky factor of G + eps I, (K, K), G = sum (x - mean)(x - mean)^T
    movable  whether there is a bias, the layer's or its norm's; else x has no mean that counts, and is zero here
    """

    count: int
    x: Tensor
    y: Tensor
    cross: Tensor
    factor: Tensor
    movable: bool = True

    def bias(self, left: Tensor, right: Tensor) -> Tensor:
        """The best one for a matrix left right, (T,)."""
        return self.y - left @ (right @ self.x) if self.movable else torch.zeros_like(self.y)


def error(fit: Fit, samples: Samples, rectified: bool) -> float:
    """sum || f(y) - f(V x + b) ||^2 over the samples."""
    return sum(_error(fit.outputs(x), y, rectified) for x, y in samples.blocks())


def _error(z: Tensor, y: Tensor, rectified: bool) -> float:
    difference = z.clamp(min=0) - y.clamp(min=0) if rectified else z - y
    return float(difference.square().sum(dtype=torch.float64))


def regress(sums: Sums, rank: int | None = None, start: Tensor | None = None) -> Fit:
    """Step I: the V of a rank, or of any, that is nearest to the wanted outputs; `start` as in `directions`."""
    solved = solve(sums.factor[None], sums.cross[None])[0]
    if rank is None:
        left = torch.eye(len(solved), dtype=torch.float64)
        return Fit(left, solved, sums.bias(left, solved))
    m = solved @ sums.cross.T
    left = directions((m + m.T) / 2, rank, start)
    right = left.T @ solved
    return Fit(left, right, sums.bias(left, right))


def directions(m: Tensor, rank: int, start: Tensor | None = None) -> Tensor:
    """The first eigenvectors of a symmetric positive matrix, (T, rank), float64.

    Of a large one, from `start` (T, rank) by two rounds of subspace iteration: the sum of what they catch never falls,
    so that alternating stays a descent.
    """
    if start is None or len(m) <= _EXACT:
        return torch.linalg.eigh(m)[1].flip(1)[:, :rank]
    basis = start
    for _ in range(2):
        basis = torch.linalg.qr(m @ basis)[0]
    return basis @ torch.linalg.eigh(basis.T @ m @ basis)[1].flip(1)


def nearest_response(z: Tensor, r: Tensor, penalty: float) -> Tensor:
    """Step II: y that minimises (r - f(y))^2 + lambda (y - z)^2, f = max(0, .), r >= 0; of any shape."""
    off, on = z.clamp(max=0), ((r + penalty * z) / (1 + penalty)).clamp(min=0)
    cost_off = r.square() + penalty * (off - z).square()
    cost_on = (r - on).square() + penalty * (on - z).square()
    return torch.where(cost_off < cost_on, off, on)


@dataclass(frozen=True)
class Alternated:
    """The best fit, and the objective with its penalty after every alternation: [(lambda, objective)]."""

    fit: Fit
    descent: list[tuple[float, float]]


def alternate(
    sums: Sums, samples: Samples, judges: Samples, fit: Fit, penalties: tuple[float, ...], alternations: int
) -> Alternated:
    """Steps I and II in turn, from a fit; the result is the one with the least `error` on `judges`, `fit` included.

    `samples` may be fewer than those that `sums` were made of: what step II changes of their y stands for the others,
    too. Where they are all, the objective never rises at one penalty.
    """
    best, least = fit, error(fit, judges, True)
    descent = []
    for penalty in penalties:
        before = None
        for _ in range(alternations):
            moved, objective = _step_two(sums, samples, fit, penalty)
            descent.append((penalty, objective))
            fit = regress(moved, fit.left.shape[1], fit.left)
            if (found := error(fit, judges, True)) < least:
                best, least = fit, found
            if before is not None and before - objective < _ENOUGH * before:
                break
            before = objective
    return Alternated(best, descent)


def _step_two(sums: Sums, samples: Samples, fit: Fit, penalty: float) -> tuple[Sums, float]:
    """The sums with the y of step II, and the objective for these y and the fit."""
    change = torch.zeros_like(sums.cross)
    mean = torch.zeros_like(sums.y)
    objective = 0.0
    for x, wanted in samples.blocks():
        z, r = fit.outputs(x), wanted.clamp(min=0)
        y = nearest_response(z, r, penalty)
        cost = (r - y.clamp(min=0)).square() + penalty * (y - z).square()
        objective += float(cost.sum(dtype=torch.float64))
        moved = y - wanted
        change += (moved.T @ (x - sums.x.float())).double()
        mean += moved.sum(0, dtype=torch.float64)
    share = sums.count / len(samples.x)
    return replace(sums, y=sums.y + mean / len(samples.x), cross=sums.cross + share * change), objective
