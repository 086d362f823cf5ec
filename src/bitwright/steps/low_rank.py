"""Matrices as products of two thin ones, and how thin each layer's may be.

A `Split` holds all ranks at once, the best first: W_k = left[:, :k] right[:k], with the squared error of each k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d, QuantLinear
from bitwright.steps.factors import matrices
from bitwright.steps.layers import check_calls_of, per_layer, plain_layers, shapes_of
from bitwright.steps.moments import finite
from bitwright.training.evaluate import as_tensor, eval_mode

if TYPE_CHECKING:
    from bitwright.data.dataset import Dataset

By = Literal["rate", "count", "energy", "greedy", "vbmf"]
_DAMAGED, _BATCH = 500, 250  # images
NOISE = 1e-4
"""Of the inputs' mean power, added as noise: what images hardly show keeps the weights that it has (`noised_`)."""
_RIDGE = 1e-6
"""Of the mean of the inputs' second moments, added to each: a Gram matrix that can be inverted. More if it must be."""


@dataclass(frozen=True)
class Ranks:
    """How the rank of each layer is found.

    by      "rate": weights become `value` times fewer in every layer;
            "count": `value` itself;
            "energy": the least rank with more than `value` (0 to 1) of the squared norm of what the method keeps;
            "greedy": as "rate" for all layers together: the rank that moves the network's outputs least per weight
            that it saves goes first (`damage`);
            "vbmf": as many as are more than noise (see `vbmf`), without a value
    value   a number, or a mapping from patterns to numbers for "rate", "count" and "energy"
    """

    by: By = "rate"
    value: float | dict[str, float] = 4.0

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise BitwrightError(f"ranks: by is {self.by!r}; expected one of {', '.join(get_args(By))}", kind="setting")
        least, words = {"energy": (0.0, "a share from 0 to 1"), "count": (1, "a rank of at least 1")}.get(
            self.by, (1.0, "a factor of at least 1")
        )
        for value in self.value.values() if isinstance(self.value, dict) else [self.value]:
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            whole = self.by != "count" or (good and int(value) == value)
            if not (good and whole and value >= least and (self.by != "energy" or value <= 1)):
                raise BitwrightError(f"ranks: value is {value!r} by {self.by}; expected {words}", kind="setting")
        if self.by == "vbmf" and self.value != Ranks.value:
            raise BitwrightError("ranks: vbmf finds the ranks by itself; leave value out", kind="setting")
        if self.by == "greedy" and isinstance(self.value, dict):
            raise BitwrightError("ranks: value is a mapping by greedy; expected one factor for all", kind="setting")

    def allow(self, step: str, *known: By) -> None:
        """Raise BitwrightError unless the step knows this way."""
        if self.by not in known:
            raise BitwrightError(f"{step}: ranks by {self.by!r}; expected one of {', '.join(known)}", kind="setting")

    def of(self, layers: Mapping[str, nn.Module]) -> dict[str, float]:
        """The value for each layer."""
        return per_layer(self.value, layers, "ranks: value")


def thin_layers(
    step: str, model: nn.Module, layers: tuple[str, ...], ignore: tuple[str, ...], ranks: Ranks, data: Dataset
) -> dict[str, nn.Conv2d | nn.Linear]:
    """What `plain_layers` finds, in the order of inference, if each can be replaced by thin layers of such ranks.

    Those that inference doesn't call are left out. Raises BitwrightError for other kinds of convolutions, layers that
    are quantised or called twice, weights that aren't float32, ranks above the full one, and a model that is one layer.
    """
    found: dict[str, nn.Conv2d | nn.Linear] = {}
    for name, layer in plain_layers(model, layers, ignore).items():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            raise BitwrightError(
                f"{step}: layer {name!r} is a {type(layer).__name__}; only linear layers and convolutions of images "
                "have thin forms, `ignore` it",
                kind="setting",
            )
        if isinstance(layer, QuantConv2d | QuantLinear):
            raise BitwrightError(
                f"{step}: layer {name!r} is quantised already; take {step} before the steps that quantise",
                kind="quantised",
            )
        if not name:
            raise BitwrightError(
                f"{step}: the model is one layer, a {type(layer).__name__}; put it into a Sequential", kind="setting"
            )
        if layer.weight.dtype != torch.float32:
            raise BitwrightError(
                f"{step}: the weight of layer {name!r} is {layer.weight.dtype}; give a float32 model, model.float()",
                kind="dtype",
            )
        found[name] = layer
    image = data.preprocess.torch(as_tensor(data.sample(1).images))
    check_calls_of(model, found, image)
    called = {name: found[name] for name in shapes_of(model, found, image)}
    _check_counts(ranks, called)
    return called


def _check_counts(ranks: Ranks, layers: Mapping[str, nn.Module]) -> None:
    """Raise BitwrightError for a rank by "count" above the full one of a layer."""
    for name, value in ranks.of(layers).items() if ranks.by == "count" else ():
        full = min(matrices(layers[name]).shape[1:])
        if value > full:
            raise BitwrightError(
                f"layer {name!r} has rank {full} at most, and ranks.value is {value:g}; take less", kind="setting"
            )


@dataclass(frozen=True)
class Split:
    """left (g, T, r), right (g, r, K), and `error`: the squared errors that ranks 0 to r leave, summed over groups.

    Errors are those of the weights, or of the layer's outputs.
    """

    left: Tensor
    right: Tensor
    error: Tensor

    @property
    def full(self) -> int:
        """The largest rank."""
        return self.right.shape[1]

    @property
    def relative(self) -> Tensor:
        """The error of each rank as a share of that of rank 0."""
        return self.error / self.error[0].clamp(min=1e-300)

    def at(self, rank: int) -> tuple[Tensor, Tensor]:
        """The two factors of a rank, with equal singular values: neither gets all of a training's step."""
        return balanced(self.left[:, :, :rank], self.right[:, :rank])

    def product(self, rank: int) -> Tensor:
        """The matrix of a rank, (g, T, K)."""
        return self.left[:, :, :rank] @ self.right[:, :rank]


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product (g, T, r) (g, r, K) from factors with equal singular values."""
    basis, inner = torch.linalg.qr(left)
    u, s, vt = torch.linalg.svd(inner @ right, full_matrices=False)
    root = s.sqrt()
    return basis @ (u * root[:, None, :]), root[:, :, None] * vt


def truncated(layer: nn.Module) -> Split:
    """The singular value decomposition of a layer's matrices: the least squared error of the weights."""
    u, s, vt = torch.linalg.svd(matrices(layer), full_matrices=False)
    return Split(u * s[:, None, :], vt, tails(s.square()))


def reduced_rank(gram: Tensor, cross: Tensor) -> tuple[Split, bool]:
    """Reduced-rank regression of wanted outputs on inputs, and whether the inputs' Gram matrix is nearly singular.

        G = gram (g, K, K),  H = cross (g, T, K),  V = H (G + eps I)^-1,  M = V H^T,  U_k the first eigenvectors of M
        left = U_k,  right = U_k^T V,  error of rank k beyond that of the full rank: sum_{h > k} lambda_h

    eps is 1e-6 of the mean of G's diagonal, ten times more while rounding leaves G without a Cholesky factor. Raises
    BitwrightError where inputs are NaN or infinite.
    """
    factor, singular = cholesky(gram)
    return first_directions(solve(factor, cross), cross), singular


def first_directions(solved: Tensor, cross: Tensor) -> Split:
    """The split of a least-squares solution V = H (G + eps I)^-1 (g, T, K) by the directions of its outputs."""
    m = solved @ cross.mT
    values, vectors = torch.linalg.eigh((m + m.mT) / 2)
    values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1)
    most = min(cross.shape[1:])
    left = vectors[:, :, :most]
    return Split(left, left.mT @ solved, tails(values[:, :most]))


def solve(factor: Tensor, cross: Tensor) -> Tensor:
    """H (G + eps I)^-1, (g, T, K), from the Cholesky factor."""
    return torch.cholesky_solve(cross.mT, factor).mT


def cholesky(gram: Tensor) -> tuple[Tensor, bool]:
    """Of G + eps I, (g, K, K), and whether G, perhaps with `NOISE`, is nearly singular. Changes G.

    That means few windows, or inputs that repeat or never change.
    """
    if not finite(gram):
        raise BitwrightError("the layer's inputs are NaN or infinite for some training image", kind="not-finite")
    diagonal = gram.diagonal(dim1=1, dim2=2)
    ridge = (_RIDGE * diagonal.mean(1)).clamp(min=1e-30)
    added = torch.zeros_like(ridge)
    while True:
        diagonal.add_((ridge - added)[:, None])
        factor, failed = torch.linalg.cholesky_ex(gram)
        if not failed.any():
            break
        added, ridge = ridge, 10 * ridge  # rounding left negative eigenvalues
    least = factor.diagonal(dim1=1, dim2=2).amin(1).square()
    return factor, bool(added.any() or (least < 2 * NOISE * diagonal.mean(1)).any())


def tails(values: Tensor) -> Tensor:
    """sum_{h >= k} of values (g, r), k = 0..r, over all groups: (r + 1,)."""
    sums = values.sum(0).flip(0).cumsum(0).flip(0)
    return torch.cat([sums, sums.new_zeros(1)])


# -- ranks -------------------------------------------------------------------------------------------------------------


def break_even(layer: nn.Module, scales: bool = False) -> int:
    """The largest rank with which factors, two or with `scales` three, have fewer weights than the layer."""
    _, t, k = matrices(layer).shape
    return max(_most(t * k - 1, t + k, scales), 0)


def rank_at_rate(layer: nn.Module, factor: float, scales: bool = False) -> int:
    """The largest rank with `factor` times fewer weights, at least 1."""
    _, t, k = matrices(layer).shape
    return max(_most(t * k / factor, t + k, scales), 1)


def _most(weights: float, each: int, scales: bool) -> int:
    """The largest r with r each (+ r^2 with scales) <= weights."""
    return int((math.sqrt(each**2 + 4 * weights) - each) / 2 + 1e-9) if scales else int(weights / each)


def choose_rank(ranks: Ranks, value: float, layer: nn.Module, split: Split, name: str, scales: bool = False) -> int:
    """The rank of one layer, by anything but "greedy"."""
    if ranks.by == "count":
        return int(value)
    if ranks.by == "energy":
        kept = 1 - split.relative
        return max(int((kept <= value).sum()), 1) if value < 1 else split.full
    if ranks.by == "vbmf":
        from bitwright.steps.vbmf import vbmf

        return max(*(vbmf(matrix)[0] for matrix in matrices(layer)), 1)
    return rank_at_rate(layer, value, scales)


def greedy(
    errors: Mapping[str, Tensor], layers: Mapping[str, nn.Module], factor: float, scales: bool = False
) -> dict[str, int | None]:
    """Ranks with which all layers together have `factor` times fewer weights; None for a layer that stays whole.

    errors   of each layer for ranks from 0 up, in the same unit

    From all layers whole, always the step of max(1, rank / 32) that adds the least error per weight is taken. Raises
    BitwrightError where rank 1 everywhere is not enough.
    """
    whole = {name: matrices(layer).numel() for name, layer in layers.items()}
    each = {name: whole[name] * sum(1 / size for size in matrices(layer).shape[1:]) for name, layer in layers.items()}
    now: dict[str, int | None] = dict.fromkeys(layers)

    def size(name: str, rank: int | None) -> float:
        return whole[name] if rank is None else rank * each[name] + scales * rank**2

    def error(name: str, rank: int | None) -> float:
        return 0.0 if rank is None else float(errors[name][rank])

    def smaller(name: str) -> int | None:
        rank = now[name]
        if rank is None:
            return break_even(layers[name], scales) or None
        return rank - max(rank // 32, 1) if rank > 1 else None

    target = sum(whole.values()) / factor
    while sum(size(name, rank) for name, rank in now.items()) > target:
        moves = {name: rank for name in layers if (rank := smaller(name))}
        if not moves:
            raise BitwrightError(f"ranks: not even rank 1 makes the layers {factor:g} times smaller", kind="too-small")
        best = min(
            moves, key=lambda n: _price(error(n, moves[n]) - error(n, now[n]), size(n, now[n]) - size(n, moves[n]))
        )
        now[best] = moves[best]
    return now


@torch.no_grad()
def damage(model: nn.Module, put: Callable[[int], None], full: int, images: Tensor) -> Tensor:
    """How far the network's outputs move, |x~ - x|^2 / |x|^2, when one layer has ranks 0 to `full`: (full + 1,).

    `put` gives the layer a rank, the last time the full one. Known for some preprocessed images and at some ranks, each
    half as large again as the one before; between them its logarithm is interpolated.
    """
    images = images[:_DAMAGED]
    wanted = _outputs(model, images)
    whole = max(float(wanted.square().sum(dtype=torch.float64)), 1e-300)
    ranks = [0, 1]
    while ranks[-1] < full:
        ranks.append(min(max(ranks[-1] + 1, int(1.5 * ranks[-1])), full))
    errors = []
    for rank in ranks:
        put(rank)
        error = float((_outputs(model, images) - wanted).square().sum(dtype=torch.float64)) / whole
        if not math.isfinite(error):
            raise BitwrightError(
                f"the network's outputs are NaN, infinite or too large for some training image, with rank {rank} of a "
                "layer; look at the images and at the weights",
                kind="not-finite",
            )
        errors.append(math.log(max(error, 1e-12)))
    return torch.from_numpy(np.exp(np.interp(np.arange(full + 1), ranks, errors)))


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    with eval_mode(model):
        return torch.cat([model(batch) for batch in images.split(_BATCH)])


def _price(error: float, saved: float) -> float:
    return error / max(saved, 1e-30)


def saves(ranks: Ranks, layer: nn.Module, rank: int, scales: bool = False) -> bool:
    """Whether a layer gets factors: where they have fewer weights, or the rank itself was asked for."""
    return ranks.by == "count" or rank <= break_even(layer, scales)


def row(name: str, layer: nn.Module, rank: int | None, weights: int, **facts: Any) -> dict[str, Any]:
    """What is recorded of a layer: its weights before and after; rank null where it stays whole."""
    return {"layer": name, "rank": rank, "weights": matrices(layer).numel(), "weights_after": weights, **facts}
