"""Fixed point: weights and activations as whole numbers of a few bits, from the pixels to the logits."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright import edits
from bitwright.errors import BitwrightError
from bitwright.ops import Coded, QuantConv2d, Quantize, QuantLinear
from bitwright.steps.accumulator import Accumulator, BoundedWeight, bounded, fit_accumulators
from bitwright.steps.activations import exact_norms
from bitwright.steps.bit_search import TOLERANCES, BitSearch, Config, Knob, Limits
from bitwright.steps.calibrate import Grid, Method, Seen, choose_grid, format_grid, observe
from bitwright.steps.formats import formats_of
from bitwright.steps.latent import quantised_weights
from bitwright.steps.layers import check_bits, check_count, check_number, per_layer, plain_layers, weight_of
from bitwright.steps.lsq import SteppedInput, SteppedWeight
from bitwright.steps.moments import gather
from bitwright.steps.placement import Point, points, trace
from bitwright.steps.rounding import ada_round, nearest, weight_scales
from bitwright.steps.searched import configuration, search_bits
from bitwright.steps.simulated import Simulated, grid_in, mentions
from bitwright.steps.step import Step
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

QuantLayer = QuantConv2d | QuantLinear


@dataclass(frozen=True)
class Fixed(Step):
    """Weights and activations on uniform grids: after training, or with a training that knows of it.

        weights       w = s k,        k = -(2^(b-1) - 1) .. 2^(b-1) - 1, a scale s per output channel or layer
        activations   x = s (q - z),  q = 0 .. 2^b - 1, z = 0 where x is never below zero

    All that a layer, a mean or an addition reads is quantised, once, where it was computed; so are the pixels. Sums of
    products are exact, norms and additions are float32 operations of a fixed order (FORMAT.md 8): torch, the reference
    engine and the native one give the same bits for every image.

    With `train` the rounded network is trained further: weights as latent numbers that are rounded in every forward
    pass, and scales by the gradients of `LSQ`, those of values with a zero point and powers of two aside.

    layers, ignore    which layers; all.
    weight_bits       2 to 16, or a mapping from patterns to bits ({"first": 8, "*": 4}). A layer with more than 8 is
                      computed in float32, from rounded weights and values.
    activation_bits   the same for what the layers read. What only means and additions read has the bits of "*", or of
                      the one number.
    per_channel       a scale for each output channel's weights, or one per layer.
    scales            "free", or "power-of-two": fixed point in the narrow sense, Q I.F with F fraction bits.
    formats           whose scale is whose: "layer", each its own (dynamic fixed point), or "global", the largest scale
                      of all values for every value and that of all layers' weights for every weight: what a machine
                      with one format does, for comparison. Global formats are powers of two.
    symmetric         activations with numbers below zero have q = -2^(b-1) .. 2^(b-1) - 1 and no zero point.
    images            training images that ranges, rounding and biases are found with. None is labelled.
    calibrate         the range of an activation: "min-max"; "percentile" (all but the outermost 100 - `percentile`
                      percent); "mse" (the least squared error); "kl" (Kullback-Leibler divergence, Migacz 2017).
    clip              the range of the weights: "max", or "mse", the least squared error.
    rounding          "nearest", or "adaround": each weight up or down so that the layer's outputs, for inputs that are
                      quantised already, are nearest to the float network's (Nagel et al. 2020; see `ada_round`).
    iterations        of AdaRound's optimiser, per layer.
    correct_bias      give each layer the bias, or its batch norm the mean, with which its mean outputs are the float
                      network's (Nagel et al. 2019, section 4.2, from images instead of a prior).
    search            find the bits of each layer: `weight_bits` and `activation_bits` are then the most, one number
                      each. With "power-of-two" scales and method "greedy" values have integer and fraction bits of
                      their own (Judd et al. 2015), else bits whose range `calibrate` finds. Images keep
                      `activation_bits`. The search rounds to the nearest and corrects no bias; where it ends with
                      formats that cut much off, `correct_bias` may do harm.
    accumulator       find bits with which every layer's sums fit into an accumulator of 16, or other, bits; the same
                      two are then the most. AdaRound and training keep it so.
    train             the training afterwards, or null for none.

    Raises BitwrightError for a model that is quantised already, or whose operations can't be followed, and for images
    without a sane range (see `observe`). Records: "fixed" (see `formats_of`), "bit_search" (see `search_bits`) and
    "accumulator" (see `fit_accumulators`).
    """

    name: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Nagel et al., ICCV 2019 and ICML 2020"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    weight_bits: int | dict[str, int] = 8
    activation_bits: int | dict[str, int] = 8
    per_channel: bool = True
    scales: Literal["free", "power-of-two"] = "free"
    formats: Literal["layer", "global"] = "layer"
    symmetric: bool = False
    images: int = 500
    calibrate: Method = "mse"
    percentile: float = 99.99
    clip: Literal["max", "mse"] = "mse"
    rounding: Literal["nearest", "adaround"] = "nearest"
    iterations: int = 1000
    correct_bias: bool = True
    search: BitSearch | None = None
    accumulator: Accumulator | None = None
    train: TrainSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits("fixed: weight_bits", self.weight_bits, 2, 16)
        check_bits("fixed: activation_bits", self.activation_bits, 2, 16)
        check_number("fixed: percentile", self.percentile, lambda p: 50 < p <= 100, "percent, above 50 to 100")
        if self.search is not None and self.accumulator is not None:
            raise BitwrightError("fixed: search and accumulator both choose the bits; leave one out", kind="setting")
        numbers = isinstance(self.weight_bits, int) and isinstance(self.activation_bits, int)
        if (self.search is not None or self.accumulator is not None) and not numbers:
            raise BitwrightError(
                "fixed: weight_bits and activation_bits are the most that search or accumulator may give, one number "
                "each",
                kind="setting",
            )
        if self.accumulator is not None and isinstance(self.weight_bits, int) and self.weight_bits > 8:
            raise BitwrightError(
                f"fixed: weight_bits is {self.weight_bits} with an accumulator, but layers of more than 8 bits are "
                "computed in float32; take at most 8",
                kind="setting",
            )
        if self.formats == "global" and (
            self.scales != "power-of-two" or self.per_channel or self.search or self.accumulator or self.train
        ):
            raise BitwrightError(
                'fixed: formats "global" needs scales "power-of-two" and per_channel false, and no search, accumulator '
                "or train",
                kind="setting",
            )
        check_count("fixed: images", self.images, 1)
        check_count("fixed: iterations", self.iterations, 0)

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse bits for other layers."""
        per_layer(self.weight_bits, plain_layers(model, self.layers, self.ignore), "fixed: weight_bits")

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = plain_layers(model, self.layers, self.ignore)
        images = context.calibration(self.images)
        exact_norms(model)
        traced = trace(model)
        places = points(traced, chosen)
        seen = observe(traced, [place.name for place in places], images)
        if self.search is None and self.accumulator is None:
            bits = per_layer(self.weight_bits, chosen, "fixed: weight_bits")
            grids = self._grids(traced, places, seen)
        else:
            bits, grids = self._found(traced, places, seen, context)
        float_model = copy.deepcopy(model)
        model = edits.replace(
            model,
            "",
            "quantised-graph",
            points={name: [grid.qmin, grid.qmax] for name, grid in grids.items()},
            layers={layer: place.name for place in places for layer in place.layers},
            **({"accumulator": self.accumulator.bits} if self.accumulator and self.accumulator.proves else {}),
        )
        for name, grid in grids.items():
            quantiser = model.get_submodule(f"quantisers.{name}")
            assert isinstance(quantiser, Quantize)
            quantiser.scale.fill_(grid.scale)
            quantiser.zero_point.fill_(grid.zero_point)
        latent = {name: weight_of(float_model.get_submodule(name)) for name in bits}
        with torch.no_grad():
            self._round(model, float_model, bits, images)
        if self.train is not None:
            self._train(model, latent, bits, self.train, context)
        context.record("fixed", formats_of(model, places, bits, images[:1]))
        return model

    def _grids(self, traced: fx.GraphModule, places: list[Point], seen: Mapping[str, Seen]) -> dict[str, Grid]:
        """The grid of each point."""
        owners = {(place.layers or (place.name,))[0]: place.name for place in places}
        modules = dict(traced.named_modules())
        readers = {owner: modules.get(owner, nn.Identity()) for owner in owners}
        bits = per_layer(self.activation_bits, readers, "fixed: activation_bits")
        grids = {place: self._grid(seen[place], bits[owner]) for owner, place in owners.items()}
        if self.formats == "layer":
            return grids
        fraction = -round(math.log2(max(grid.scale for grid in grids.values())))
        return {place: format_grid(seen[place], bits[owner] - fraction, fraction) for owner, place in owners.items()}

    def _grid(self, seen: Seen, bits: int) -> Grid:
        return choose_grid(
            seen,
            bits,
            self.calibrate,
            percentile=self.percentile,
            symmetric=self.symmetric,
            power_of_two=self.scales == "power-of-two",
        )

    def _rounded(self, weight: Tensor, bits: int) -> Tensor:
        """A weight to the nearest of its grid."""
        codes, scale = self._code(weight, bits)
        return (codes * scale).view_as(weight)

    def _scale(self, rows: Tensor, largest: int) -> Tensor:
        """Of each row, (O, 1)."""
        judged = rows if self.per_channel else rows.reshape(1, -1)
        return weight_scales(judged, largest, self.clip, self.scales == "power-of-two").expand(len(rows), 1)

    def _found(
        self, traced: fx.GraphModule, places: list[Point], seen: Mapping[str, Seen], context: Context
    ) -> tuple[dict[str, int], dict[str, Grid]]:
        """Weight bits by layer and the grid of each point, by a search or for an accumulator; a run keeps them."""
        most = self.activation_bits
        assert isinstance(most, int)  # as __post_init__ asks
        pixels = {node.name for node in traced.graph.nodes if node.op == "placeholder"}
        knobs = [place for place in places if place.name not in pixels]
        inputs = {layer: place.name for place in places for layer in place.layers}

        def grid_of(name: str, bits: int) -> Grid:
            return self._grid(seen[name], bits)

        def space(count: int) -> Simulated:
            images, labels = context.held_out(count)
            always = {place.name: grid_of(place.name, most) for place in places if place.name in pixels}
            return Simulated(traced, knobs, always, list(inputs), seen, grid_of, self._rounded, images, labels)

        if self.search is not None:
            if not knobs and not self.search.weights:
                raise BitwrightError("fixed: the model has no values to search bits for; set search.weights: true")
            config = self._searched(self.search, space, context)
        else:
            ordered = {layer: inputs[layer] for layer in _in_order(traced, inputs)}
            config = self._accumulating(space, ordered, grid_of, context)
        grids = {
            place.name: grid_in(config, place.name, seen[place.name], grid_of)
            if mentions(config, place.name)
            else grid_of(place.name, most)
            for place in places
        }
        return {name: config[Knob("weight", name)] for name in inputs}, grids

    def _searched(self, settings: BitSearch, space: Callable[[int], Simulated], context: Context) -> Config:
        formats = self.scales == "power-of-two" and settings.method == "greedy"
        tolerances = sorted({*TOLERANCES, settings.tolerance})
        limits = Limits(*self._most(), settings.weights, formats, tolerances)
        found = context.remember("bit-search", lambda: search_bits(space(settings.images), settings, limits))
        context.record("bit_search", found)
        return configuration(found["answer"])

    def _accumulating(
        self,
        space: Callable[[int], Simulated],
        inputs: Mapping[str, str],
        grid_of: Callable[[str, int], Grid],
        context: Context,
    ) -> Config:
        settings = self.accumulator
        assert settings is not None
        config, tried = fit_accumulators(settings, space(settings.images), inputs, grid_of, self._code, self._most())
        context.record("accumulator", {"bits": settings.bits, "constraint": settings.constraint, "layers": tried})
        return config

    def _most(self) -> tuple[int, int]:
        """The bits of weights and values where one number is given for each."""
        assert isinstance(self.weight_bits, int)
        assert isinstance(self.activation_bits, int)
        return self.weight_bits, self.activation_bits

    def _code(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """A weight as the nearest whole numbers, (O, K), and their scales, (O, 1)."""
        rows, largest = weight.detach().flatten(1), (1 << (bits - 1)) - 1
        scale = self._scale(rows, largest)
        return nearest(rows, scale, largest), scale

    def _limits(self, model: nn.Module, bits: Mapping[str, int]) -> dict[str, int]:
        """Of the sum of a channel's whole numbers in each layer, where accumulators have a width for all images."""
        found: dict[str, int] = {}
        if self.accumulator is None or not self.accumulator.proves:
            return found
        for name in bits:
            layer = model.get_submodule(name)
            assert isinstance(layer, QuantConv2d | QuantLinear)
            assert isinstance(layer.input, Coded)
            domain = layer.input.domain()
            assert domain is not None
            found[name] = self.accumulator.largest_sum(domain.span)
        return found

    def _round(self, model: nn.Module, float_model: nn.Module, bits: Mapping[str, int], images: Tensor) -> None:
        """Round the layers' weights, one after the other as they are computed, and correct their biases."""
        norms, limits = _norms_behind(model, bits), self._limits(model, bits)
        widest = self._widest(model, bits) if self.formats == "global" else None
        for name in _in_order(model, bits):
            layer = model.get_submodule(name)
            assert isinstance(layer, QuantConv2d | QuantLinear)
            rows, largest = weight_of(layer).flatten(1), (1 << (bits[name] - 1)) - 1
            scale = self._scale(rows, largest) if widest is None else torch.full((len(rows), 1), widest)
            moments = None
            if self.rounding == "adaround" or self.correct_bias:
                moments = gather(model, float_model, name, images)
            if self.rounding == "adaround" and moments is not None:
                with torch.enable_grad():
                    codes = ada_round(rows.detach(), scale, largest, moments, self.iterations)
            else:
                codes = nearest(rows, scale, largest)
            if name in limits:
                codes = bounded(codes, limits[name])
            weight_of(layer).copy_((codes * scale).view_as(layer.weight))
            if self.correct_bias and moments is not None:
                _set_bias(layer, norms.get(name), moments.bias(weight_of(layer)))

    def _widest(self, model: nn.Module, bits: Mapping[str, int]) -> float:
        """The largest scale of any layer's weights."""
        rows = {name: weight_of(model.get_submodule(name)).flatten(1) for name in bits}
        return max(float(self._scale(rows[name], (1 << (b - 1)) - 1).max()) for name, b in bits.items())

    def _train(
        self,
        model: nn.Module,
        latent: Mapping[str, Tensor],
        bits: Mapping[str, int],
        settings: TrainSettings,
        context: Context,
    ) -> None:
        """Train on from the grids that were found, and from the weights before they were rounded."""
        layers, learn = {name: model.get_submodule(name) for name in bits}, self.scales == "free"
        limits = self._limits(model, bits)

        def stepped(name: str, weight: Tensor) -> SteppedWeight:
            largest = (1 << (bits[name] - 1)) - 1
            rows = (latent[name].flatten(1) if self.per_channel else latent[name].reshape(1, -1)).detach()
            scale = weight_scales(rows, largest, self.clip, not learn)
            step = scale.view(-1, *(1,) * (weight.ndim - 1)) if self.per_channel else scale.view(())
            if name in limits:
                return BoundedWeight(weight, step, -largest, largest, learn, limits[name])
            return SteppedWeight(weight, step, -largest, largest, learn)

        with torch.no_grad():
            for name, layer in layers.items():
                weight_of(layer).copy_(latent[name])
        with _learned_scales(model, learn), quantised_weights(layers, stepped):
            context.train(model, settings)


@contextlib.contextmanager
def _learned_scales(model: nn.Module, learn: bool) -> Iterator[None]:
    """While inside, the graph's quantisers without a zero point have scales that are trained."""
    quantisers = model.get_submodule("quantisers")
    assert isinstance(quantisers, nn.ModuleDict)
    plain = {name: q for name, q in quantisers.items() if isinstance(q, Quantize) and not q.zero_point.any() and learn}
    for name, q in plain.items():
        quantisers[name] = SteppedInput(q.scale.squeeze(), int(q.qmin), int(q.qmax))
    try:
        yield
    finally:
        for name, q in plain.items():
            trained, quantisers[name] = quantisers[name], q
            assert isinstance(trained, SteppedInput)
            with torch.no_grad():
                trained.settle(q)


def _in_order(model: nn.Module, names: Mapping[str, Any]) -> list[str]:
    """The layers as the graph calls them."""
    assert isinstance(model, fx.GraphModule)
    return [str(node.target) for node in model.graph.nodes if node.op == "call_module" and node.target in names]


def _norms_behind(model: nn.Module, names: Mapping[str, Any]) -> dict[str, _BatchNorm]:
    """The batch norm that alone reads a layer's result."""
    assert isinstance(model, fx.GraphModule)
    found = {}
    for node in model.graph.nodes:
        if node.op == "call_module" and node.target in names and len(node.users) == 1:
            user = next(iter(node.users))
            module = model.get_submodule(str(user.target)) if user.op == "call_module" else None
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                found[str(node.target)] = module
    return found


def _set_bias(layer: QuantLayer, norm: _BatchNorm | None, bias: Tensor) -> None:
    """Make the layer's mean outputs what they should be; one without bias or batch norm stays as it is."""
    if layer.bias is not None:
        layer.bias.copy_(bias)
    elif norm is not None and norm.running_mean is not None:
        norm.running_mean.sub_(bias)
