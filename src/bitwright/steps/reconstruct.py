"""One layer of low rank that gives what the layer behind its activation gave: the first stage of `GER`.

With c the layer's inputs in the compressed network, r = f(s + b) what the float network has behind the activation f,
and lambda a penalty (Zhang et al. 2015, GER's slides):

    min_{V, y} sum_i || r_i - f(y_i) ||^2 + lambda || y_i - V c_i - b ||^2,   V = P Q of rank k

Step I, y fixed: reduced-rank regression of y on c, in closed form to begin with, then of P and of Q in turn; with means
taken away, H = sum y c^T, G = sum c c^T:

    P = H Q^T (Q G Q^T)^-1, orthonormalised,    Q = P^T H G^-1,    b = mean y - P Q mean c

Step II, before each of the two, for each number by itself, z = V c + b:

    y_0 = min(0, z),                                 cost_0 = r^2 + lambda (y_0 - z)^2
    y_1 = max(0, (r + lambda z) / (1 + lambda)),     cost_1 = (r - y_1)^2 + lambda (y_1 - z)^2,    y of the lower cost

which is y_1 where z > (1 - sqrt(1 + 1 / lambda)) r, and z elsewhere: of a positive z y_1 costs less; of a negative one
cost_0 = r^2 and, where y_1 is above 0, cost_1 = lambda / (1 + lambda) (r - z)^2.

Each minimises the objective over what it changes. Two steps II around two thin products descend faster than one before
a regression of all ranks, and cost less: no product is as large as H.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.steps.low_rank import cholesky, solve

_ROWS, _CACHED = 4096, 128
"""Samples whose products are made at once, and those worked on number by number, in the cache."""
_PER_INPUT = 10
"""Samples for each input number: with fewer, what step II changes of some says little about the others."""
_ENOUGH = 3e-4
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

    @classmethod
    def room(cls, count: int, inputs: int, outputs: int) -> Samples:
        """For so many, to be filled: gigabytes that are joined from parts are there twice."""
        return cls(torch.empty(count, inputs), torch.empty(count, outputs))

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


def regress(sums: Sums, rank: int | None = None) -> Fit:
    """Step I: the V of a rank, or of any, that is nearest to the wanted outputs."""
    if rank is None:
        solved = solve(sums.factor[None], sums.cross[None])[0]
        left = torch.eye(len(solved), dtype=torch.float64)
        return Fit(left, solved, sums.bias(left, solved))
    # H G^-1 H^T from half of a solution: all of it is for the directions that count
    half = torch.linalg.solve_triangular(sums.factor, sums.cross.T, upper=False)
    left = torch.linalg.eigh(half.T @ half)[1].flip(1)[:, :rank]
    del half
    right = solve(sums.factor[None], (left.T @ sums.cross)[None])[0]
    return Fit(left, right, sums.bias(left, right))


def nearest_response(z: Tensor, r: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Step II: y that minimises (r - f(y))^2 + lambda (y - z)^2, f = max(0, .), r >= 0, of any shape; and the sum."""
    missing = torch.where(z > (1 - math.sqrt(1 + 1 / penalty)) * r, r - z, 0)
    y = torch.add(z, missing, alpha=1 / (1 + penalty))
    lost, moved = (r - y.clamp(min=0)).square().sum(), missing.square().sum()  # y - z = missing / (1 + lambda)
    return y, float(lost) + penalty / (1 + penalty) ** 2 * float(moved)


@dataclass(frozen=True)
class Alternated:
    """The best fit, and the objective with its penalty before every alternation: [(lambda, objective)]."""

    fit: Fit
    descent: list[tuple[float, float]]


def alternate(
    sums: Sums, samples: Samples, judges: Samples, fit: Fit, penalties: tuple[float, ...], alternations: int
) -> Alternated:
    """Steps I and II in turn, from a fit; the result is the one with the least `error` on `judges`, `fit` included.

    `samples` may be n of the N that `sums` were made of. What step II changes of their y then stands for the others,
    too, shrunk by n / (n + K) for what is chance in it; and where n < 10 K the inputs are first reduced to what a
    regression of all ranks makes of them, at most n / 2 numbers. Where n = N the objective never rises at one penalty.
    """
    if len(samples.x) >= min(sums.count, _PER_INPUT * samples.x.shape[1]):
        return _alternate(sums, samples, judges, fit, penalties, alternations)
    features, sums = _reduced(sums, max(len(samples.x) // 2, fit.left.shape[1]))
    few, few_judges = (Samples(one.x @ features.T.float(), one.y) for one in (samples, judges))
    found = _alternate(sums, few, few_judges, regress(sums, fit.left.shape[1]), penalties, alternations)
    best = Fit(found.fit.left, found.fit.right @ features, found.fit.bias)
    return replace(found, fit=min(fit, best, key=lambda one: error(one, judges, True)))


def _reduced(sums: Sums, most: int) -> tuple[Tensor, Sums]:
    """Numbers made of the inputs, (m, K), that a regression's outputs are made of, at most so many; and their sums."""
    solved = solve(sums.factor[None], sums.cross[None])[0]
    m = solved @ sums.cross.T
    m = (m + m.T) / 2
    left = torch.linalg.eigh(m)[1].flip(1)[:, :most] if most < len(m) else torch.eye(len(m), dtype=m.dtype)
    features = left.T @ solved
    factor, _ = cholesky((left.T @ m @ left)[None])
    return features, replace(sums, x=features @ sums.x, cross=m @ left, factor=factor[0])


def _alternate(
    sums: Sums, samples: Samples, judges: Samples, fit: Fit, penalties: tuple[float, ...], alternations: int
) -> Alternated:
    best, least = fit, error(fit, judges, True)
    half = fit.right @ sums.factor
    gram, descent = half @ half.T, []
    for penalty in penalties:
        before = None
        for _ in range(alternations):
            fit, gram, objective = _alternation(sums, samples, fit, gram, penalty)
            descent.append((penalty, objective))
            if (found := error(fit, judges, True)) < least:
                best, least = fit, found
            if before is not None and before - objective < _ENOUGH * before:
                break
            before = objective
    return Alternated(best, descent)


def _alternation(sums: Sums, samples: Samples, fit: Fit, gram: Tensor, penalty: float) -> tuple[Fit, Tensor, float]:
    """Step II and the best left factor, step II and the best right one; its Q G Q^T; the objective for the fit given.

    gram   Q G Q^T of the fit given, (k, k)
    """
    inner = samples.x @ fit.right.T.float()
    known, inputs = samples.x.shape
    trust = known / (known + inputs) if known < sums.count else 1.0
    share = trust * sums.count / known
    added, moved, objective = _gather(samples, inner, fit, penalty, None, inner, fit.right @ sums.x)
    left = (sums.cross @ fit.right.T + share * added) @ torch.linalg.pinv(gram, hermitian=True)
    fit = Fit(left, fit.right, replace(sums, y=sums.y + trust * moved).bias(left, fit.right))
    basis = torch.linalg.qr(left)[0]
    added, moved, _ = _gather(samples, inner, fit, penalty, basis.float(), samples.x, sums.x)
    cross = basis.T @ sums.cross + share * added  # P^T H
    right = solve(sums.factor[None], cross[None])[0]
    gram = right @ cross.T
    return Fit(basis, right, replace(sums, y=sums.y + trust * moved).bias(basis, right)), (gram + gram.T) / 2, objective


def _gather(
    samples: Samples, inner: Tensor, fit: Fit, penalty: float, basis: Tensor | None, by: Tensor, centre: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Step II for a fit: sum moved (by - centre)^T, the mean of moved = y - what was wanted, and the objective.

    inner   what the fit's right factor makes of the samples, (n, k)
    basis   (T, k): what has been moved is seen in these directions only; or None
    """
    added, mean, objective = [], torch.zeros_like(samples.y[0], dtype=torch.float64), 0.0
    for low, wanted, other in zip(inner.split(_ROWS), samples.y.split(_ROWS), by.split(_ROWS), strict=True):
        moved, cost = _step_two(low, fit, wanted, penalty)
        objective += cost
        mean += moved.sum(0)
        seen = moved if basis is None else moved @ basis
        added.append(seen.T @ (other - centre.float()))
    return torch.stack(added).sum(0, dtype=torch.float64), mean / len(inner), objective


def _step_two(inner: Tensor, fit: Fit, wanted: Tensor, penalty: float) -> tuple[Tensor, float]:
    """y - wanted, (n, T), for what the right factor makes of some samples, (n, k); and their part of the objective."""
    left, bias, objective = fit.left.T.float(), fit.bias.float(), 0.0
    moved = torch.empty_like(wanted)
    for low, y, to in zip(inner.split(_CACHED), wanted.split(_CACHED), moved.split(_CACHED), strict=True):
        near, cost = nearest_response(torch.addmm(bias, low, left), y.clamp(min=0), penalty)
        torch.sub(near, y, out=to)
        objective += cost
    return moved, objective
