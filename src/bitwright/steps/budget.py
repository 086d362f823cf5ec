"""How many channels each group keeps, so that so many multiply-accumulates go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.steps.dependencies import Group
from bitwright.steps.layers import Shapes, weight_of
from bitwright.steps.narrow import Side, sizes_of


def allowed(channels: int, lanes: int) -> list[int]:
    """The counts that a group may have, from all its channels down: multiples of `lanes`, below it of its eighth."""
    few = max(lanes // 8, 1)
    fewer = {*range(lanes, channels, lanes), *range(few, min(lanes, channels), few)}
    return [channels, *sorted(fewer, reverse=True)]


class Products:
    """Multiply-accumulates of a network's layers for one image, as a function of how many channels groups keep."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], shapes: Mapping[str, Shapes]) -> None:
        self.whole = {path: macs_of(model.get_submodule(path), shape) for path, shape in shapes.items()}
        self._sides = {path: sizes_of(model.get_submodule(path)) for path in shapes}
        self._entries: dict[str, dict[Side, dict[int, int]]] = {path: {} for path in shapes}
        self.touched: list[list[str]] = [[] for _ in groups]
        self._channels = [group.channels for group in groups]
        for g, group in enumerate(groups):
            for axis in group.axes:
                if axis.path in shapes:
                    each = Counter(c for c in axis.owner if c >= 0)
                    self._entries[axis.path].setdefault(axis.side, {})[g] = max(each.values())
            self.touched[g] = sorted({axis.path for axis in group.axes if axis.path in shapes})

    def sizes(self, path: str, counts: Sequence[int]) -> dict[Side, int]:
        """How many outputs and inputs a layer has left."""
        found: dict[Side, int] = {}
        for side, size in self._sides[path].items():
            entries = self._entries[path].get(side, {})
            found[side] = size - sum(n * (self._channels[g] - counts[g]) for g, n in entries.items())
        return found

    def of(self, path: str, counts: Sequence[int]) -> int:
        """Those of one layer."""
        each = self.whole[path] // math.prod(self._sides[path].values())
        return each * math.prod(self.sizes(path, counts).values())

    def total(self, counts: Sequence[int]) -> int:
        """Those of all layers."""
        return sum(self.of(path, counts) for path in self.whole)

    def saved(self, group: int, before: Sequence[int], after: Sequence[int]) -> int:
        """What goes where only this group's count changes."""
        return sum(self.of(path, before) - self.of(path, after) for path in self.touched[group])


def macs_of(layer: nn.Module, shapes: Shapes) -> int:
    """Multiply-accumulates of a layer for one image of these shapes."""
    given, output = shapes
    return weight_of(layer).numel() * math.prod(given[:-1] if isinstance(layer, nn.Linear) else output[1:])


def cheapest(
    scores: Sequence[Tensor], lanes: int, products: Products, fraction: float, per_product: bool = False
) -> list[int]:
    """Counts with which at least `fraction` of the products go: always the block of channels of the least price next.

    The price is the mean of the block's scores, or `per_product` their sum by the products that go with it.
    """
    counts = [len(score) for score in scores]
    ways = [allowed(count, lanes) for count in counts]
    sums = [torch.cat([score.new_zeros(1), score.sort().values.cumsum(0)]).tolist() for score in scores]
    left = whole = products.total(counts)

    def smaller(g: int) -> list[int]:
        return [ways[g][ways[g].index(n) + 1] if i == g else n for i, n in enumerate(counts)]

    def price(g: int) -> float:
        size, after = len(scores[g]), smaller(g)
        lost = sums[g][size - after[g]] - sums[g][size - counts[g]]
        return lost / (max(products.saved(g, counts, after), 1) if per_product else counts[g] - after[g])

    while left > (1 - fraction) * whole:
        able = [g for g, way in enumerate(ways) if counts[g] > way[-1]]
        if not able:
            raise _unreachable(fraction, 1 - left / whole)
        best = min(able, key=price)
        after = smaller(best)
        left -= products.saved(best, counts, after)
        counts = after
    return counts


def alike(channels: Sequence[int], lanes: int, products: Products, fraction: float) -> list[int]:
    """The same: every group loses the same share of its channels, the smallest one that is enough."""
    whole = products.total(channels)
    shares = sorted({1 - count / size for size in channels for count in allowed(size, lanes)})
    for share in shares:
        counts = [count_for(size, lanes, share) for size in channels]
        if products.total(counts) <= (1 - fraction) * whole:
            return counts
    raise _unreachable(fraction, 1 - products.total(counts) / whole)


def count_for(channels: int, lanes: int, share: float) -> int:
    """The fewest channels allowed of which no more than `share` are gone."""
    return min(count for count in allowed(channels, lanes) if count >= (1 - share) * channels - 1e-9)


def _unreachable(fraction: float, most: float) -> BitwrightError:
    return BitwrightError(
        f"channels: fraction is {fraction:g}, and with the fewest channels everywhere only {most:.3f} of the "
        "multiply-accumulates go; ask for less, choose more layers, or smaller `lanes`",
        kind="too-small",
    )
