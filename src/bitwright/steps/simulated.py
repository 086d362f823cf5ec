"""A float network whose values and weights can be given any bits at will: what bit widths are searched with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, fx, nn

from bitwright.ops import Quantize
from bitwright.steps.bit_search import Config, Knob
from bitwright.steps.calibrate import Grid, Seen, format_grid
from bitwright.steps.layers import weight_of
from bitwright.steps.placement import Point, quantised_graph

_BATCH = 250  # images

GridOf = Callable[[str, int], Grid]
"""The grid of a point for so many bits."""
Rounded = Callable[[Tensor, int], Tensor]
"""A weight with so many bits."""


class Simulated:
    """A `bit_search.Space` of a model: quantisers behind `places`, the layers plain, their weights rounded to nearest.

    places     the points that have knobs
    always     points without knobs: their grids in every configuration but the empty one, which is the float network
    seen       what every point was given for training images
    grid_of    chooses the grid of a point whose knob is "data"; formats decide the grids of the others
    rounded    rounds a layer's weight
    images, labels  preprocessed, what accuracy is measured on
    """

    def __init__(
        self,
        model: nn.Module,
        places: Sequence[Point],
        always: Mapping[str, Grid],
        layers: Sequence[str],
        seen: Mapping[str, Seen],
        grid_of: GridOf,
        rounded: Rounded,
        images: Tensor,
        labels: Tensor,
    ) -> None:
        model = copy.deepcopy(model).eval()
        names = [place.name for place in places]
        self._seen, self._grid_of, self._rounded, self._labels = seen, cache(grid_of), rounded, labels
        self._images = images
        self._float = {name: weight_of(model.get_submodule(name)).detach().clone() for name in layers}
        self.weights = {name: weight.numel() for name, weight in self._float.items()}
        self._always = always
        self._model = quantised_graph(model, points=dict.fromkeys([*names, *always], (0, 1)), layers={})
        assert isinstance(self._model, fx.GraphModule)
        self._quantisers = self._model.get_submodule("quantisers")
        self._outputs: dict[str, Tensor] = {}  # of one layer, without quantisers
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._set({})
        self.values = self._count(names)
        self.integer_bits = max((_integer_bits(seen[name]) for name in names), default=1)
        self._logits = self._run()

    def accuracy(self, config: Config) -> float:
        """In percent."""
        self._set(config)
        return 100 * float((self._run().argmax(1) == self._labels).double().mean())

    def distortion(self, config: Config) -> float:
        """The mean square of what the logits differ by from the float network's."""
        self._set(config)
        return float((self._run() - self._logits).double().square().mean())

    def error(self, knob: Knob, bits: int) -> float:
        """Of the numbers that were seen, or of the weights: the sum of squares."""
        if knob.kind == "weight":
            return float((self._weight(knob.name, bits) - self._float[knob.name]).double().square().sum())
        seen, grid = self._seen[knob.name], self._grid_of(knob.name, bits)
        return float((seen.counts * (grid.rounded(seen.centres) - seen.centres).square()).sum())

    def float_weight(self, layer: str) -> Tensor:
        """As the model was given."""
        return self._float[layer]

    def largest_sums(self, layer: str) -> Tensor:
        """Of products, without the bias, in the float network: the magnitude for each output channel, (O,)."""
        self._set({})
        sums, bias = self._output(layer).transpose(0, 1).flatten(1), self._model.get_submodule(layer).bias
        return (sums - bias.detach()[:, None] if isinstance(bias, Tensor) else sums).abs().amax(1)

    def layer_error(self, config: Config, layer: str) -> float:
        """The sum of what a layer's outputs differ by from the float network's."""
        if layer not in self._outputs:
            self._set({})
            self._outputs = {layer: self._output(layer)}
        self._set(config)
        return float((self._output(layer) - self._outputs[layer]).double().abs().sum())

    def _output(self, layer: str) -> Tensor:
        found: list[Tensor] = []
        handle = self._model.get_submodule(layer).register_forward_hook(lambda _, __, y: found.append(y))
        try:
            self._run()
        finally:
            handle.remove()
        return torch.cat(found).detach()

    @torch.no_grad()
    def _set(self, config: Config) -> None:
        for name, module in self._quantisers.named_children():
            grid = self._always.get(name) if config else None
            if mentions(config, name):
                grid = grid_in(config, name, self._seen[name], self._grid_of)
            new = nn.Identity() if grid is None else Quantize(grid.scale, grid.zero_point, grid.qmin, grid.qmax)
            if grid is not None or not isinstance(module, nn.Identity):
                setattr(self._quantisers, name, new)
        for name, weight in self._float.items():
            bits = config.get(Knob("weight", name))
            held = weight_of(self._model.get_submodule(name))
            held.copy_(weight if bits is None else self._weight(name, bits))

    def _weight(self, name: str, bits: int) -> Tensor:
        if (name, bits) not in self._kept:
            self._kept[name, bits] = self._rounded(self._float[name], bits)
        return self._kept[name, bits]

    @torch.no_grad()
    def _run(self) -> Tensor:
        return torch.cat([self._model(batch) for batch in self._images.split(_BATCH)])

    def _count(self, names: Sequence[str]) -> dict[str, int]:
        """How many numbers each value has for one image."""
        counts: dict[str, int] = {}
        handles = [
            module.register_forward_hook(lambda _, __, y, name=name: counts.__setitem__(name, y[0].numel()))
            for name, module in self._quantisers.named_children()
        ]
        with torch.no_grad():
            self._model(self._images[:1])
        for handle in handles:
            handle.remove()
        return {name: counts[name] for name in names}


def grid_in(config: Config, name: str, seen: Seen, grid_of: GridOf) -> Grid:
    """What a configuration makes of a point that it mentions."""
    if Knob("data", name) in config:
        return grid_of(name, config[Knob("data", name)])
    return format_grid(seen, config[Knob("integer", name)], config[Knob("fraction", name)])


def mentions(config: Config, name: str) -> bool:
    """Whether a configuration says anything of a point."""
    return Knob("data", name) in config or Knob("integer", name) in config


def _integer_bits(seen: Seen) -> int:
    """Of the largest number, with a sign where some are below zero."""
    largest = max(abs(seen.low), abs(seen.high), 2.0**-8)
    return math.floor(math.log2(largest)) + 1 + (seen.low < 0)
