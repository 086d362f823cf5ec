"""Global error reconstruction: low rank layers that together give what the network gave."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.steps.dropout import without_dropout
from bitwright.steps.factors import Parts, factorise, fill, weights_with
from bitwright.steps.following import Behind, following
from bitwright.steps.layers import check_count, check_number, weight_of
from bitwright.steps.low_rank import (
    Ranks,
    Split,
    balanced,
    choose_rank,
    damage,
    greedy,
    row,
    saves,
    thin_layers,
)
from bitwright.steps.placement import trace
from bitwright.steps.reconstruct import Fit, alternate, regress
from bitwright.steps.recover import distance, output_error
from bitwright.steps.step import Step
from bitwright.steps.view import View, judging, look_at
from bitwright.training.batchnorm import freezing
from bitwright.training.settings import Distill, Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

_FEW = 2
"""Windows that are kept where sums are all that is needed."""
_JOINT = TrainSettings(
    epochs=20,
    batch_size=128,
    optimizer=Optimizer("Adam", 1e-3, {}),
    schedule=Schedule("cosine"),
    weight_decay=0.0,
    distill=Distill("start", "logits", weight=1.0),
    select="last",
)


@dataclass(frozen=True)
class GER(Step):
    """Low rank layers by the outputs they lead to, not by their weights; labels are never used.

    Stage 1, layer by layer from the bottom (a: inputs in the float network, c: in the compressed one, f: the ReLU):

        min_{rank V <= k, b} sum_i || f(W a_i + b_0) - f(V c_i + b) ||^2

    by a relaxation whose two halves have closed forms; `steps/reconstruct.py` has them. A batch norm between a layer
    and its ReLU belongs to f. A layer that no ReLU follows has f(y) = y, and one regression is exact. One that stays
    whole, above others that don't, has k = full: its regression makes up for what they lost.

    Stage 2, all factors P_l Q_l together by back-propagation, the other layers as they are:

        J = 1/2 sum_i || x_i^L - x~_i^L ||^2      of the network's outputs, logits where these are the last;

    those of a module inside, such as the last hidden ReLU, where `joint.distill.at` names it.

    Convolutions are matrices over their windows (im2col): a D x D to k channels and a 1 x 1.

    layers, ignore   which layers; the linear ones, as in the paper.
    ranks            see `Ranks`: "rate" (the same in every layer), "count", "energy" (of the outputs), "greedy". One
                     rate for all ruins a classifier of few outputs.
    images           training images that stage 1 looks at; sums over them are streamed.
    samples          windows that steps I and II alternate on and that are held in memory: those of all images, or if
                     there are more, so many. A tenth of the images only judges: by their windows which iterate is kept,
                     by the network's outputs whether it, or a layer's new weights, are better than step I or the old.
    penalties        lambda, one after the other, each for `alternations`.
    alternations     at most, of each penalty; 0: step I alone.
    joint            the training of stage 2, or null for none.

    Defaults: penalties and alternations are those of the non-linear accelerator of Zhang et al. 2015; the joint
    training is ours, by trial on LeNet-300-100 (SGD with momentum from 1e-3 diverges at 16 times fewer weights): GER's
    own settings aren't published.

    Records: "low_rank" (per layer: rank, weights, relative error behind f on judging samples after step I and after
    alternating, whether inputs are so few or so alike that their Gram matrix is singular; the relative error of the
    network's outputs before and after stage 2).

    Raises BitwrightError for a layer that is called twice, and for a model whose operations can't be followed.
    """

    name: ClassVar[str] = "ger"
    changes_layers: ClassVar[bool] = True
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Global Error Reconstruction, IJCAI 2016"

    layers: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=lambda: Ranks("greedy"))
    images: int = 10_000
    samples: int = 50_000
    penalties: tuple[float, ...] = (0.01, 1.0)
    alternations: int = 25
    joint: TrainSettings | None = field(default_factory=lambda: _JOINT)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ranks.allow("ger", "rate", "count", "energy", "greedy")
        check_count("ger: images", self.images, 1)
        check_count("ger: samples", self.samples, 2)
        check_count("ger: alternations", self.alternations, 0)
        if not isinstance(self.penalties, list | tuple):
            raise BitwrightError(f"ger: penalties is {self.penalties!r}; expected a list of numbers", kind="setting")
        if self.joint is not None and (self.joint.distill is None or self.joint.distill.weight != 1):
            raise BitwrightError(
                "ger: joint would train on labels, which GER never uses; give it a teacher alone, "
                "distill: {teacher: start, kind: logits, weight: 1}",
                kind="setting",
            )
        for penalty in self.penalties:
            check_number("ger: one of penalties", penalty, lambda p: 0 < p < float("inf"), "a number above 0")

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse layers without thin forms, and operations that can't be followed."""
        following(trace(model), thin_layers("ger", model, self.layers, self.ignore, self.ranks, data))

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = thin_layers("ger", model, self.layers, self.ignore, self.ranks, context.data)
        images = context.calibration(self.images)
        behind = following(trace(model), chosen)
        float_model = copy.deepcopy(model)
        ranks = self._ranks(float_model, chosen, behind, images, context.seed)
        judges = images[: judging(len(images))]
        rows: list[dict[str, Any]] = []
        for name in chosen:
            view = look_at(model, float_model, name, behind[name], images, self.samples, context.seed)
            trial = _Trial(model, float_model, judges, name, view)
            if rank := ranks(name, view):
                rows.append(self._replace(trial, rank))
            else:
                error = trial.refit() if any(done["rank"] for done in rows) else 0.0
                rows.append(row(name, view.layer, None, weight_of(view.layer).numel(), error=error))
            del view, trial
        record = {"by": self.ranks.by, "layers": rows, "output_error": output_error(model, float_model, context)}
        changed = [row["layer"] for row in rows if row["rank"]]
        if self.joint is not None and changed:
            with _only(changed, model), without_dropout(model):
                context.train(model, self.joint)
            record["output_error_joint"] = output_error(model, float_model, context)
        context.record("low_rank", record)
        return model

    def _ranks(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        behind: Mapping[str, Behind],
        images: Tensor,
        seed: int,
    ) -> Callable[[str, View], int]:
        """What gives a layer's rank: its name and what is known of it; 0 where it stays whole."""
        if self.ranks.by != "greedy":
            values = self.ranks.of(layers)

            def rank(name: str, view: View) -> int:
                found = choose_rank(self.ranks, values[name], view.layer, view.split(), name)
                return found if saves(self.ranks, view.layer, found) else 0

            return rank
        assert not isinstance(self.ranks.value, dict)
        errors, changed = {}, copy.deepcopy(model)
        for name in layers:
            view = look_at(changed, model, name, behind[name], images, _FEW, seed)
            trial = _Trial(changed, model, images, name, view)
            split = view.split()
            errors[name] = damage(changed, partial(trial.put_rank, split), split.full, images)
            trial.restore()
            del view, trial, split  # gigabytes for wide layers; the next ones come on top
        chosen = greedy(errors, layers, self.ranks.value)
        return lambda name, view: chosen[name] or 0

    def _replace(self, trial: _Trial, rank: int) -> dict[str, Any]:
        view = trial.view
        fits = linear = [regress(sums, rank) for sums in view.sums]
        new = factorise(trial.model, trial.name, _parts([view.plain(i, fit) for i, fit in enumerate(linear)]))
        trial.put(new, linear)
        if view.rectified and self.alternations:
            found = [alternate(*group, self.penalties, self.alternations) for group in view.groups(linear)]
            fits = trial.better(new, [one.fit for one in found], linear)
        errors = {"error_linear": view.error(linear), "error": view.error(fits), "singular": view.singular}
        weights = weights_with(view.layer, (None, rank))
        return row(trial.name, view.layer, rank, weights, rectified=view.rectified, **errors)


@dataclass
class _Trial:
    """A layer of the compressed network that may have one fit or another; what the network gives then decides."""

    model: nn.Module
    float_model: nn.Module
    images: Tensor
    name: str
    view: View

    def __post_init__(self) -> None:
        self.kept = copy.deepcopy(self.model.get_submodule(self.name).state_dict())

    def put_rank(self, split: Split, rank: int) -> None:
        """Give the whole layer the matrix and bias of a rank."""
        self.put(self.model.get_submodule(self.name), self.view.fits(split, rank))

    def restore(self) -> None:
        """Give the whole layer, and the norm behind it, what they had."""
        self.model.get_submodule(self.name).load_state_dict(self.kept)
        if self.view.norm is not None and self.view.norm.running_mean is not None and self.view.mean is not None:
            self.view.norm.running_mean.copy_(self.view.mean)

    def put(self, layer: nn.Module, fits: list[Fit]) -> None:
        """Give the layer, whole or in factors, the weights and bias of a fit."""
        plain = [self.view.plain(i, fit) for i, fit in enumerate(fits)]
        bias, norm = torch.cat([fit.bias for fit in plain]), self.view.norm
        factored = not isinstance(layer, nn.Conv2d | nn.Linear)
        if factored:
            fill(layer, _parts(plain))
        last = layer.get_submodule("last") if factored else layer
        with torch.no_grad():
            if not factored:
                weight_of(layer).copy_(torch.cat([fit.left @ fit.right for fit in plain]).view_as(weight_of(layer)))
            if isinstance(last.bias, Tensor):
                last.bias.copy_(bias)
            elif norm is not None and norm.running_mean is not None and self.view.mean is not None:
                norm.running_mean.copy_(self.view.mean - bias)  # the norm takes it

    def better(self, layer: nn.Module, fits: list[Fit], than: list[Fit]) -> list[Fit]:
        """Put in what brings the network's outputs nearer to the float network's; `than` is in the layer."""
        before = self._distance()
        self.put(layer, fits)
        if self._distance() <= before:
            return fits
        self.put(layer, than)
        return than

    def refit(self) -> float:
        """Let a whole layer make up for those below, if that helps the outputs; the error of its regression."""
        before, fits = self._distance(), [regress(sums) for sums in self.view.sums]
        self.put(self.model.get_submodule(self.name), fits)
        if self._distance() < before:
            return self.view.error(fits)
        self.restore()
        return 0.0

    def _distance(self) -> float:
        return distance(self.model, self.float_model, self.images)


def _parts(fits: list[Fit]) -> Parts:
    """The factors of each group, with equal singular values."""
    pairs = [balanced(fit.left[None], fit.right[None]) for fit in fits]
    return Parts(torch.cat([right for _, right in pairs]), last=torch.cat([left for left, _ in pairs]))


@contextlib.contextmanager
def _only(names: list[str], model: nn.Module) -> Iterator[None]:
    """While inside, only these modules are trained."""
    inside = {module for name in names for module in model.get_submodule(name).modules()}
    with freezing(module for module in model.modules() if module not in inside):
        yield
