"""Convolutions as a 1 x 1, a thin D x D and another 1 x 1: Tucker decompositions of two modes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.measure.parts import engine_milliseconds
from bitwright.steps.factors import Pair, Parts, factorise, kernel_of, macs_with, weights_with
from bitwright.steps.layers import Shapes, check_count, per_layer, shapes_of
from bitwright.steps.low_rank import Ranks, tails, thin_layers
from bitwright.steps.recover import output_error, recover
from bitwright.steps.step import Step
from bitwright.steps.vbmf import vbmf
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

_FEW = 3
"""Inputs of a layer that reads pixels: no mode of their own."""


@dataclass(frozen=True)
class Tucker(Step):
    """Replace a convolution by three: 1 x 1 from S to R_in, D x D to R_out, 1 x 1 to T channels (Kim et al. 2016).

        K[t, s] ~ sum_{r, q} C[r, q] A[s, q] B[t, r]        of kernels D x D
        D^2 S T weights become S R_in + D^2 R_in R_out + R_out T

    A and B begin as the first left singular vectors of the two unfoldings of K (HOSVD) and are improved in turn, each
    for the other (HOOI); C = K x_S A^T x_T B^T. The groups of a convolution are decomposed by themselves, with the same
    ranks. A mode whose rank is full has no factor, and the inputs of 1 x 1 convolutions and of layers that read pixels
    are no mode: these become two matrices.

    layers, ignore   which layers; all convolutions.
    ranks            "vbmf" (the paper's: see `vbmf`), "rate" (weights so many times fewer, both modes by the same
                     share), "energy" (of each unfolding's squared norm), or "count": `value` of the outputs, `inputs`
                     of the inputs.
    inputs           ranks of the inputs by "count", a number or a mapping from patterns; null: `ranks.value`, too.
    iterations       of HOOI.
    skip             where a layer stays whole: "macs", if it would not have fewer multiply-accumulates; "ms", if the
                     engine would not be faster on this machine, one image on one thread (measured: another machine may
                     decide otherwise); "never".
    norm_images      batch norms follow the change, measured on so many training images (`carry_over`); 0: they stay.
    train            the training afterwards, or null for none. The paper's: all layers at once, 15 epochs, the learning
                     rate 10 times less after every 5.

    Records: "low_rank" (per layer: ranks, or null where it stays whole, weights, multiply-accumulates and, if measured,
    milliseconds before and after, relative squared error of the kernels).
    """

    name: ClassVar[str] = "tucker"
    changes_layers: ClassVar[bool] = True
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Kim et al., ICLR 2016"

    layers: tuple[str, ...] = ("Conv2d",)
    ignore: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=lambda: Ranks("vbmf"))
    inputs: int | dict[str, int] | None = None
    iterations: int = 20
    skip: Literal["macs", "ms", "never"] = "macs"
    norm_images: int = 1000
    train: TrainSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ranks.allow("tucker", "vbmf", "rate", "energy", "count")
        check_count("tucker: iterations", self.iterations, 0)
        check_count("tucker: norm_images", self.norm_images, 0)
        if self.inputs is not None and self.ranks.by != "count":
            raise BitwrightError('tucker: inputs are ranks by "count"; leave them out', kind="setting")
        for rank in self.inputs.values() if isinstance(self.inputs, dict) else [self.inputs]:
            if rank is not None:
                check_count("tucker: a rank of inputs", rank, 1)

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse layers that are no convolutions, and ranks that they can't have."""
        chosen = self._chosen(model, data)
        if self.ranks.by == "count":
            self._pairs(chosen)

    def _chosen(self, model: nn.Module, data: Dataset) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers, in the order of their calls."""
        chosen = thin_layers("tucker", model, self.layers, self.ignore, self.ranks, data)
        _check_convolutions(chosen)
        return chosen

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = self._chosen(model, context.data)
        shapes = shapes_of(model, chosen, context.calibration(1))
        pairs = self._pairs(chosen)
        found = {name: decompose(kernel_of(chosen[name]), *pairs[name], self.iterations) for name in shapes}
        times = context.remember(
            "milliseconds", lambda: self._milliseconds(chosen, found, shapes) if self.skip == "ms" else {}
        )
        float_model, rows = copy.deepcopy(model), []
        for name in shapes:
            row = self._row(name, chosen[name], pairs[name], shapes[name], times.get(name))
            if row["rank"] is not None:
                factorise(model, name, found[name].parts())
                row["error"] = found[name].error
            rows.append(row)
        recover(model, float_model, context, self.norm_images, self.train)
        record = {"by": self.ranks.by, "layers": rows, "output_error": output_error(model, float_model, context)}
        context.record("low_rank", record)
        return model

    def _pairs(self, layers: Mapping[str, nn.Module]) -> dict[str, Pair]:
        """The ranks of each layer's inputs and outputs; None for all of them."""
        values = self.ranks.of(layers)
        inputs = values if self.inputs is None else per_layer(self.inputs, layers, "tucker: inputs")
        return {name: self._pair(name, layer, values[name], inputs[name]) for name, layer in layers.items()}

    def _pair(self, name: str, layer: nn.Module, value: float, inputs: float) -> Pair:
        kernel = kernel_of(layer)
        _, t, s, window = kernel.shape
        one_mode = window == 1 or s <= _FEW
        if self.ranks.by == "rate":
            found = _at_rate(t, s, window, value, one_mode)
        elif self.ranks.by == "count":
            found = (s if one_mode else int(inputs)), int(value)
        else:
            found = self._rank(unfolded(kernel, 2), value), self._rank(unfolded(kernel, 1), value)
        r_in, r_out = (s, min(found[1], t, window * s)) if one_mode else _held(*found, t, s, window)
        if self.ranks.by == "count" and (r_in, r_out) != found:
            raise BitwrightError(
                f"tucker: ranks {found[0]} and {found[1]} for inputs and outputs of layer {name!r}, which can have "
                f"{r_in} and {r_out}; take less",
                kind="setting",
            )
        return None if r_in == s else r_in, None if r_out == t else r_out

    def _rank(self, matrices: Tensor, value: float) -> int:
        """Of one unfolding of each group."""
        if self.ranks.by == "vbmf":
            return max(1, *(vbmf(matrix)[0] for matrix in matrices))
        left = tails(torch.linalg.svdvals(matrices).square())
        return max(int((1 - left / left[0].clamp(min=1e-300) <= value).sum()), 1)

    def _milliseconds(
        self, layers: Mapping[str, nn.Module], found: Mapping[str, Tucker2], shapes: Mapping[str, Shapes]
    ) -> dict[str, list[float]]:
        """Milliseconds of each layer in the engine for one image, as it is and as factors."""
        times = {}
        for name, (given, _) in shapes.items():
            whole, thin = nn.Sequential(copy.deepcopy(layers[name])), nn.Sequential(copy.deepcopy(layers[name]))
            if found[name].first is not None or found[name].last is not None:
                factorise(thin, "0", found[name].parts())
            times[name] = engine_milliseconds([whole, thin], [given, given])
        return times

    def _row(
        self, name: str, layer: nn.Module, pair: Pair, shapes: Shapes, times: list[float] | None
    ) -> dict[str, Any]:
        """What is recorded of a layer; rank null where it stays whole."""
        macs = macs_with(layer, (None, None), shapes), macs_with(layer, pair, shapes)
        worth = {"never": True, "macs": macs[1] < macs[0], "ms": times is not None and times[1] < times[0]}[self.skip]
        if pair == (None, None) or not worth:
            pair, macs = (None, None), (macs[0], macs[0])
        row: dict[str, Any] = {"layer": name, "rank": None if pair == (None, None) else list(pair)}
        row |= {"weights": weights_with(layer, (None, None)), "weights_after": weights_with(layer, pair)}
        row |= {"macs": macs[0], "macs_after": macs[1], "error": 0.0}
        return row if times is None else row | {"ms": times[0], "ms_after": times[1]}


@dataclass(frozen=True)
class Tucker2:
    """K ~ C x_S A x_T B, group by group; None for a whole mode.

    first   A, (g, S, R_in)
    core    C, (g, R_out, R_in, D D)
    last    B, (g, T, R_out)
    error   |K - K~|^2 / |K|^2
    """

    first: Tensor | None
    core: Tensor
    last: Tensor | None
    error: float

    def parts(self) -> Parts:
        """As layers."""
        return Parts(self.core.flatten(2), first=None if self.first is None else self.first.mT, last=self.last)


def decompose(kernel: Tensor, r_in: int | None, r_out: int | None, iterations: int = 20) -> Tucker2:
    """HOSVD and HOOI of kernels (g, T, S, D D), float64, by ranks of inputs and outputs; None for all of them.

    The error is 1 - |C|^2 / |K|^2, as A and B have orthonormal columns.
    """
    a = None if r_in is None else _first(unfolded(kernel, 2), r_in)
    b = None if r_out is None else _first(unfolded(kernel, 1), r_out)
    for _ in range(iterations if a is not None and b is not None else 0):
        a = _first(unfolded(_times(kernel, None, b), 2), r_in)
        b = _first(unfolded(_times(kernel, a, None), 1), r_out)
    core = _times(kernel, a, b)
    error = 1 - float(core.square().sum() / kernel.square().sum().clamp(min=1e-300))
    return Tucker2(a, core, b, max(error, 0.0))


def unfolded(kernel: Tensor, mode: int) -> Tensor:
    """The matrices whose rows are the outputs (mode 1) or the inputs (mode 2) of kernels (g, T, S, D D)."""
    return kernel.movedim(mode, 1).flatten(2)


def _first(matrices: Tensor, rank: int | None) -> Tensor:
    """The first left singular vectors, (g, rows, rank)."""
    return torch.linalg.svd(matrices, full_matrices=False)[0][:, :, :rank]


def _times(kernel: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """K x_S A^T x_T B^T."""
    if a is not None:
        kernel = torch.einsum("gtsd,gsr->gtrd", kernel, a)
    return kernel if b is None else torch.einsum("gtsd,gtr->grsd", kernel, b)


def _at_rate(t: int, s: int, window: int, factor: float, one_mode: bool) -> tuple[int, int]:
    """Ranks that are the same share of inputs and outputs, the largest with `factor` times fewer weights."""
    whole = window * s * t
    if one_mode:
        return s, max(int(whole / (factor * (window * s + t))), 1)
    sizes = max(s, t)
    for step in range(sizes, 0, -1):
        r_in, r_out = _held(max(step * s // sizes, 1), max(step * t // sizes, 1), t, s, window)
        first, last = (0 if r_in == s else s * r_in), (0 if r_out == t else r_out * t)
        if first + window * r_in * r_out + last <= whole / factor:
            break
    return r_in, r_out


def _held(r_in: int, r_out: int, t: int, s: int, window: int) -> tuple[int, int]:
    """Ranks no larger than what the other mode can tell apart: R_in <= D^2 R_out and R_out <= D^2 R_in."""
    r_in = min(r_in, s, window * min(r_out, t))
    return r_in, min(r_out, t, window * r_in)


def _check_convolutions(layers: Mapping[str, nn.Module]) -> None:
    for name, layer in layers.items():
        if not isinstance(layer, nn.Conv2d):
            raise BitwrightError(
                f"tucker: layer {name!r} is a {type(layer).__name__}, not a convolution of images; take `svd`",
                kind="setting",
            )
