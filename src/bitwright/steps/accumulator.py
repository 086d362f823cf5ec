"""Bits of weights and values that an accumulator is sure to hold, layer by layer, and weights that keep it so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bitwright.errors import BitwrightError
from bitwright.runtime.domains import Domain
from bitwright.steps.bit_search import Config, Knob
from bitwright.steps.calibrate import Grid
from bitwright.steps.latent import surrogate
from bitwright.steps.layers import check_bits, check_count
from bitwright.steps.lsq import SteppedWeight
from bitwright.steps.simulated import Simulated

Coder = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""A weight as whole numbers of so many bits, (O, K), and their scales, (O, 1)."""


@dataclass(frozen=True)
class Accumulator:
    """Keep every partial sum of every layer, in whatever order, in an accumulator of so many bits.

    For each layer, in the order of the network, all pairs of weight and value bits are tried that use what the
    accumulator has; the one whose outputs differ least from the float layer's stays (sum |y - y^|, earlier layers as
    they were chosen). That is the layer-wise heuristic of de Bruin, Zivkovic and Corporaal (2020).

    bits         of the accumulator, 8 to 31, in two's complement
    constraint   what must fit (see `measure.accumulators`): "worst-case", the number of products times the largest
                 weight times the largest value; "act-w", the largest sum of a kernel's magnitudes times the largest
                 value; "act-y", the largest sum that the float network makes of the images. Only the first two are
                 proofs: with "act-y" the packed file promises nothing, the engine adds in 32 bits, and the step
                 `overflow` tells what narrower sums do
    images       that the layers' outputs are compared on
    """

    bits: int = 16
    constraint: Literal["act-w", "worst-case", "act-y"] = "act-w"
    images: int = 100

    def __post_init__(self) -> None:
        check_bits("accumulator: bits", self.bits, 8, 31)
        if self.constraint not in ("act-w", "worst-case", "act-y"):
            raise BitwrightError(
                f"accumulator: constraint is {self.constraint!r}; expected act-w, worst-case or act-y", kind="setting"
            )
        check_count("accumulator: images", self.images, 1)

    @property
    def proves(self) -> bool:
        """Whether no sum can leave the accumulator, whatever the image."""
        return self.constraint != "act-y"

    @property
    def largest(self) -> int:
        """The largest whole number that the accumulator holds."""
        return (1 << (self.bits - 1)) - 1

    def largest_sum(self, span: int) -> int:
        """What the magnitudes of a channel's whole numbers may sum up to, for values of at most `span`."""
        return self.largest // span


def fit_accumulators(
    settings: Accumulator,
    space: Simulated,
    inputs: Mapping[str, str],
    grid_of: Callable[[str, int], Grid],
    code: Coder,
    most: tuple[int, int],
) -> tuple[Config, list[dict[str, Any]]]:
    """The bits of every layer, and what was tried for each: weight bits, value bits, the difference of its outputs.

    inputs     the point that each layer reads, layers in the order of the network; points that `space` has no knob for
               keep the most bits
    most       bits of weights and of values

    Raises BitwrightError for a layer whose accumulator is too narrow for 2-bit weights and values.
    """
    config: Config = {}
    tried = []
    for layer, point in inputs.items():
        data = Knob("data", point)
        given: Sequence[int]
        given = [config[data]] if data in config else [most[1]] if point not in space.values else range(2, most[1] + 1)
        weight = space.float_weight(layer)
        sums = None if settings.proves else space.largest_sums(layer)
        pairs = {}
        for bits in given:
            wide = _most_weight_bits(settings, weight, sums, grid_of(point, bits).domain, code, most[0])
            if wide is not None:
                knobs = {Knob("weight", layer): wide, data: bits}
                pairs[wide, bits] = config | {k: b for k, b in knobs.items() if k != data or point in space.values}
        if not pairs:
            raise BitwrightError(
                f"layer {layer!r} adds {weight[0].numel()} products of weights of 2 bits and {_said(given)}, which an "
                f"accumulator of {settings.bits} bits can't hold ({settings.constraint}); give it more bits, "
                f"{'the pixels' if point not in space.values else 'values'} fewer (activation_bits), or `ignore` the "
                "layer",
                kind="accumulator",
            )
        errors = {pair: space.layer_error(found, layer) for pair, found in pairs.items()}
        best = min(errors, key=lambda pair: errors[pair])
        config = pairs[best]
        rows = [[*pair, error] for pair, error in errors.items()]
        tried.append({"layer": layer, "weight_bits": best[0], "value_bits": best[1], "tried": rows})
    return config, tried


def _said(bits: Sequence[int]) -> str:
    """The bits of values in words."""
    return f"values of {bits[0]} bits" if len(bits) == 1 else f"values of {bits[0]} to {bits[-1]} bits"


def _most_weight_bits(
    settings: Accumulator, weight: Tensor, sums: Tensor | None, values: Domain, code: Coder, most: int
) -> int | None:
    """The most bits that weights may have for such values; None where two are too many."""
    for bits in range(most, 1, -1):
        if settings.constraint == "worst-case":
            largest = weight[0].numel() * ((1 << (bits - 1)) - 1) * values.span
        else:
            codes, scale = code(weight, bits)
            if sums is None:
                largest = int(codes.abs().sum(1).max()) * values.span
            else:
                largest = math.ceil(float((sums / (scale.flatten() * float(values.scale))).max()))
        if largest <= settings.largest:
            return bits
    return None


def bounded(codes: Tensor, limit: int) -> Tensor:
    """Whole numbers (O, K) whose magnitudes sum up to at most `limit` in each row, near to `codes` (O, K), any numbers.

    Rows that are within it once rounded stay. Others go to the nearest point of the L1 ball (all magnitudes less the
    same amount, those below it zero), are rounded toward zero as in A2Q (Colbert, Pappalardo, Petri-Koenig, ICCV 2023),
    and what is left of the limit then rounds the largest fractions up.
    """
    rounded = codes.round()
    over = rounded.abs().sum(1) > limit
    if over.any():
        rounded[over] = _within(codes[over], limit)
    return rounded


def _within(rows: Tensor, limit: int) -> Tensor:
    magnitude = rows.abs().double()
    ordered = magnitude.sort(1, descending=True).values
    excess = (ordered.cumsum(1) - limit) / torch.arange(1, rows.shape[1] + 1)
    kept = (ordered > excess).sum(1, keepdim=True).clamp(min=1)
    shrunk = (magnitude - excess.gather(1, kept - 1).clamp(min=0)).clamp(min=0)
    whole = shrunk.floor()
    left = (limit - whole.sum(1, keepdim=True)).clamp(min=0)
    fraction = shrunk - whole
    rank = fraction.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    whole += (rank < left) & (fraction >= 0.5)
    return (whole * rows.sign()).to(rows.dtype)


class BoundedWeight(SteppedWeight):
    """LSQ's weight, moved to where an accumulator holds every sum; gradients are those of LSQ.

    limit   of the sum of a channel's magnitudes, as whole numbers
    """

    def __init__(self, weight: Tensor, step: Tensor, low: int, high: int, learn: bool, limit: int) -> None:
        super().__init__(weight, step, low, high, learn)
        self.limit = limit

    def quantise(self, latent: Tensor) -> Tensor:
        """(O, ...)."""
        plain = super().quantise(latent)
        with torch.no_grad():
            step = self.step.clamp(min=1e-30)
            inside = (latent / step).clamp(self.low, self.high)
            kept = bounded(inside.flatten(1), self.limit).view_as(latent) * step
        return surrogate(kept, plain)
