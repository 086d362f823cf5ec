"""Linear layers as products of two thin ones: truncated singular value decompositions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.steps.factors import Parts, factorise, matrices, weights_with
from bitwright.steps.layers import check_count, weight_of
from bitwright.steps.low_rank import (
    NOISE,
    Ranks,
    Split,
    choose_rank,
    damage,
    greedy,
    reduced_rank,
    row,
    saves,
    thin_layers,
    truncated,
)
from bitwright.steps.moments import Moments, gather, noised_
from bitwright.steps.recover import output_error, recover
from bitwright.steps.step import Step
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset


@dataclass(frozen=True)
class SVD(Step):
    """Replace a layer's matrix by the best one of rank k, as two layers with nothing in between.

        W = U S V^T ~ (U_k S_k^1/2) (S_k^1/2 V_k^T)            T x S weights become k (T + S)

    is the least squared error of the weights (Eckart, Young 1936; Denton et al. 2014). With `data_aware` it is that of
    the layer's outputs W a + b for training images, a what the float network gives it, c what the layers compressed
    before it leave of that (reduced-rank regression; step I of `GER`):

        min_{rank V <= k, b} sum_i || W a_i + b_0 - V c_i - b ||^2

    Convolutions are factorised as matrices of T x (S D D): a D x D convolution to k channels, and a 1 x 1. A layer that
    factors don't make smaller stays.

    layers, ignore   which layers; the linear ones.
    ranks            see `Ranks`: "rate", "count", "energy" (of the weights; of the outputs with `data_aware`),
                     "greedy", "vbmf".
    data_aware       as above.
    images           training images that outputs are looked at with, without their labels.
    factors          2, or 3: U_k, S_k and V_k^T by themselves, S_k stored as a k x k layer (linear layers only).
    norm_images      batch norms follow the change, measured on so many training images (`carry_over`); 0: they stay.
                     null is 1000, and 0 with `data_aware`: layers are fitted to what the norms were given then, and
                     a fit's smaller variance must not be made up for (LOG.md).
    train            the training afterwards, or null for none.

    Records: "low_rank" (per layer: rank, or null where it stays whole, weights before and after, relative error, with
    `data_aware` whether the images were too few or too much alike for the layer, "singular").
    """

    name: ClassVar[str] = "svd"
    changes_layers: ClassVar[bool] = True
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Denton et al., NIPS 2014"

    layers: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=lambda: Ranks("greedy"))
    data_aware: bool = False
    images: int = 5000
    factors: int = 2
    norm_images: int | None = None
    train: TrainSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ranks.allow("svd", "rate", "count", "energy", "greedy", "vbmf")
        check_count("svd: images", self.images, 1)
        if self.norm_images is not None:
            check_count("svd: norm_images", self.norm_images, 0)
        if self.factors not in (2, 3):
            raise BitwrightError(f"svd: factors is {self.factors!r}; expected 2 or 3", kind="setting")
        if self.factors == 3 and self.data_aware:
            raise BitwrightError("svd: data_aware finds two factors; set factors to 2", kind="setting")

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse layers without thin forms."""
        self._chosen(model, data)

    def _chosen(self, model: nn.Module, data: Dataset) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers, in the order of their calls."""
        chosen = thin_layers("svd", model, self.layers, self.ignore, self.ranks, data)
        if self.factors == 3:
            _check_linear(chosen)
        return chosen

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = self._chosen(model, context.data)
        float_model = copy.deepcopy(model)
        images = context.calibration(self.images)
        ranks = self._ranks(float_model, chosen, images)
        rows = [self._replace(model, float_model, name, ranks, images) for name in chosen]
        follow = self.norm_images if self.norm_images is not None else 0 if self.data_aware else 1000
        recover(model, float_model, context, follow, self.train)
        record = {"by": self.ranks.by, "layers": rows, "output_error": output_error(model, float_model, context)}
        context.record("low_rank", record)
        return model

    def _ranks(
        self, model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
    ) -> Callable[[str, nn.Module, Split], int | None]:
        """What gives a layer's rank: its name, the layer, and its split; None where it stays whole."""
        if self.ranks.by != "greedy":
            values = self.ranks.of(layers)
            return lambda name, layer, split: choose_rank(
                self.ranks, values[name], layer, split, name, self.factors == 3
            )
        errors = {}
        trial = copy.deepcopy(model)
        for name, layer in layers.items():
            moments = gather(model, model, name, images) if self.data_aware else None
            (split, _), changed = self._split(layer, moments), trial.get_submodule(name)
            errors[name] = damage(trial, partial(_put, changed, split, moments), split.full, images)
            changed.load_state_dict(layer.state_dict())
        assert not isinstance(self.ranks.value, dict)
        found = greedy(errors, layers, self.ranks.value, self.factors == 3)
        return lambda name, layer, split: found[name]

    def _split(self, layer: nn.Module, moments: Moments | None) -> tuple[Split, bool]:
        """All ranks, and whether the images were too few for the layer."""
        if not self.data_aware or moments is None:
            return truncated(layer), False
        return reduced_rank(*sums(layer, moments))

    def _replace(
        self,
        model: nn.Module,
        float_model: nn.Module,
        name: str,
        ranks: Callable[[str, nn.Module, Split], int | None],
        images: Tensor,
    ) -> dict[str, Any]:
        layer = model.get_submodule(name)
        moments = gather(model, float_model, name, images) if self.data_aware else None
        split, few = self._split(layer, moments)
        rank = ranks(name, layer, split)
        weights = weights_with(layer, (None, rank), self.factors == 3) if rank else matrices(layer).numel()
        if rank is None or not saves(self.ranks, layer, rank, self.factors == 3):
            return row(name, layer, None, matrices(layer).numel(), error=0.0)
        new = factorise(model, name, self._parts(split, rank))
        _set_bias(new.get_submodule("last"), moments, split.product(rank))
        said = {"singular": few} if self.data_aware else {}
        return row(name, layer, rank, weights, error=float(split.relative[rank]), **said)

    def _parts(self, split: Split, rank: int) -> Parts:
        if self.factors == 2:
            last, core = split.at(rank)
            return Parts(core, last=last)
        values = split.left[:, :, :rank].norm(dim=1).clamp(min=1e-30)
        return Parts(split.right[:, :rank], middle=values.diag_embed(), last=split.left[:, :, :rank] / values[:, None])


def _put(layer: nn.Module, split: Split, moments: Moments | None, rank: int) -> None:
    """Give a whole layer the matrix of a rank."""
    with torch.no_grad():
        weight_of(layer).copy_(split.product(rank).view_as(weight_of(layer)))
    _set_bias(layer, moments, split.product(rank))


def _set_bias(layer: nn.Module, moments: Moments | None, matrix: Tensor) -> None:
    """The best bias for a layer of such a matrix, where its outputs are looked at."""
    if moments is not None and isinstance(layer.bias, Tensor):
        with torch.no_grad():
            layer.bias.copy_(moments.bias(matrix))


def sums(layer: nn.Module, moments: Moments) -> tuple[Tensor, Tensor]:
    """Gram and cross moments: around the means where a bias can make up for them; with `NOISE`."""
    gram, cross = (moments.gram, moments.cross) if layer.bias is not None else moments.around_zero_()
    noised_(gram, cross, weight_of(layer).detach().flatten(1), NOISE)
    return gram, cross


def _check_linear(layers: Mapping[str, nn.Module]) -> None:
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear):
            raise BitwrightError(
                f"svd: {name!r} is a convolution, and factors is 3; take 2, or linear layers only", kind="setting"
            )
