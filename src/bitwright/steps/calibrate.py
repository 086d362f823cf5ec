"""The grid of a quantiser, from the numbers that it will be given for some images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx

from bitwright.errors import BitwrightError
from bitwright.runtime.domains import Domain

Method = Literal["min-max", "percentile", "mse", "kl"]

_BINS = 4096
_SHARES = [share / 100 for share in (1, 2, 3, 5, 7, 10, 15, *range(20, 101))]
"""Of the whole range, what is tried as the range of the grid."""
_LEAST_SCALE = 2.0**-30
_OUTLIER, _ENOUGH = 100.0, 8
"""An image whose largest pixel is so many times the median image's is broken; of fewer images none can be told."""


@dataclass
class Seen:
    """The numbers of a value: the least, the largest, and a histogram of `_BINS` equal bins between them."""

    low: float
    high: float
    counts: Tensor

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, float64."""
        width = (self.high - self.low) / _BINS
        return self.low + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)


@dataclass(frozen=True)
class Grid:
    """scale (q - zero_point), q from qmin to qmax."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @property
    def domain(self) -> Domain:
        """Its numbers as whole ones times a scale."""
        return Domain(np.float32(self.scale), self.qmin - self.zero_point, self.qmax - self.zero_point)

    def rounded(self, x: Tensor) -> Tensor:
        """The nearest of its numbers, by the rule of FORMAT.md 8.1, in the type of x."""
        domain = self.domain
        return (x / self.scale).round().clamp(domain.low, domain.high) * self.scale


def observe(traced: fx.GraphModule, names: Iterable[str], images: Tensor, batch_size: int = 100) -> dict[str, Seen]:
    """What the nodes of these names give for preprocessed images (N, C, H, W), in eval mode; in two passes.

    Raises BitwrightError for a value that is not finite or no tensor, and for an image with pixels so large that no
    range would suit it and the others.
    """
    wanted = set(names)
    batches = images.split(batch_size)
    ends: dict[str, tuple[float, float]] = {}
    pixels = {node.name for node in traced.graph.nodes if node.op == "placeholder"}
    largest: list[Tensor] = []  # pixel of each image

    def widen(name: str, x: Tensor) -> None:
        low, high = x.aminmax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise BitwrightError(f"the value {name!r} is NaN or infinite for a training image", kind="not-finite")
        if name in pixels:
            largest.append(x.abs().flatten(1).amax(1).float().cpu())
        before = ends.get(name, (math.inf, -math.inf))
        ends[name] = min(before[0], float(low)), max(before[1], float(high))

    _Watch(traced, wanted, widen).over(batches)
    _check_outlier(torch.cat(largest) if largest else torch.zeros(0))
    seen = {name: Seen(*_apart(*ends[name]), torch.zeros(_BINS, dtype=torch.float64)) for name in wanted}

    def count(name: str, x: Tensor) -> None:
        found = seen[name]
        found.counts += torch.histc(x.float(), _BINS, found.low, found.high).double().cpu()

    _Watch(traced, wanted, count).over(batches)
    return seen


def _check_outlier(largest: Tensor) -> None:
    """Raise BitwrightError where the pixels of one image (images,) are out of all proportion to the others'."""
    if len(largest) < _ENOUGH:
        return
    median, most = float(largest.median()), float(largest.max())
    if 0 < _OUTLIER * median < most:
        raise BitwrightError(
            f"training image {int(largest.argmax())} of those looked at has pixels of {most:.3g} after preprocessing, "
            f"{most / median:.0f} times the median image's: is it broken? A range for both leaves nothing of the "
            "others; take it out of the data",
            kind="outlier",
        )


def _apart(low: float, high: float) -> tuple[float, float]:
    """A range that histograms can have, of a value that never changes, too."""
    return (low, high) if high - low > _LEAST_SCALE else (min(low, 0.0), max(high, 0.0, low + _LEAST_SCALE))


class _Watch(fx.Interpreter):
    """Runs a graph and shows the values of some nodes."""

    def __init__(self, traced: fx.GraphModule, wanted: set[str], see: object) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # it would add torch's words to our errors
        self.wanted, self.see = wanted, see

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.name in self.wanted:
            if not isinstance(result, Tensor):
                raise BitwrightError(
                    f"the value {n.name!r} is a {type(result).__name__}, not one tensor, so it can't be quantised; "
                    "leave out the layers that read it (`ignore`)",
                    kind="placement",
                )
            self.see(n.name, result)  # type: ignore[operator]
        return result

    def over(self, batches: Iterable[Tensor]) -> None:
        mode = self.module.training
        self.module.eval()
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        with torch.no_grad():
            for batch in batches:
                self.run(batch.to(device))
        self.module.train(mode)


def choose_grid(
    seen: Seen, bits: int, method: Method, *, percentile: float, symmetric: bool, power_of_two: bool
) -> Grid:
    """The grid of `bits` bits for what was seen.

    Numbers that are never below zero have q = 0 .. 2^b - 1 and no zero point. Others have q = -2^(b-1) .. 2^(b-1) - 1
    where `symmetric`, else q = 0 .. 2^b - 1 with the zero point that fits the range best. `method` chooses the range;
    `power_of_two` then widens it until the scale is a power of two, except that "mse" and "kl" judge those scales.
    """

    def grid(share: float) -> Grid:
        return _grid(seen.low * share, seen.high * share, bits, symmetric, power_of_two)

    if method == "min-max":
        return grid(1.0)
    if method == "percentile":
        low, high = _percentiles(seen, percentile)
        return _grid(low, high, bits, symmetric, power_of_two)
    cost = _squared_error if method == "mse" else _divergence
    costs = [cost(seen, grid(share)) for share in _SHARES]
    return grid(_SHARES[min(range(len(costs)), key=lambda i: (costs[i], -i))])


def _grid(low: float, high: float, bits: int, symmetric: bool, power_of_two: bool) -> Grid:
    levels = (1 << bits) - 1
    low, high = min(low, 0.0), max(high, 0.0)
    if low == 0:
        return Grid(_scale(high / levels, power_of_two), 0, 0, levels)
    if symmetric:
        half = 1 << (bits - 1)
        above = high / (half - 1) if half > 1 else 0.0  # one bit has no number above zero
        return Grid(_scale(max(above, -low / half), power_of_two), 0, -half, half - 1)
    scale = _scale((high - low) / levels, power_of_two)
    return Grid(scale, min(max(round(-low / scale), 0), levels), 0, levels)


def format_grid(seen: Seen, integer: int, fraction: int) -> Grid:
    """Fixed point, Q I.F: multiples of 2^-F. I has the sign where numbers below zero were seen."""
    bits = integer + fraction
    if seen.low >= 0:
        return Grid(2.0**-fraction, 0, 0, (1 << bits) - 1)
    half = 1 << (bits - 1)
    return Grid(2.0**-fraction, 0, -half, max(half - 1, 1 - half))


def _scale(scale: float, power_of_two: bool) -> float:
    """As float32 has it."""
    scale = max(scale, _LEAST_SCALE)
    return 2.0 ** math.ceil(math.log2(scale)) if power_of_two else float(torch.tensor(scale, dtype=torch.float32))


def _percentiles(seen: Seen, percentile: float) -> tuple[float, float]:
    """The ends of what is left when the outermost 100 - `percentile` percent are cut off on each side of zero."""
    share = seen.counts.cumsum(0) / seen.counts.sum()
    cut = 1 - percentile / 100
    centres = seen.centres
    low, high = float(centres[int((share > cut).nonzero()[0])]), float(centres[int((share >= 1 - cut).nonzero()[0])])
    return (low if seen.low < 0 else 0.0), high


def _squared_error(seen: Seen, grid: Grid) -> float:
    return float((seen.counts * (grid.rounded(seen.centres) - seen.centres).square()).sum())


def _divergence(seen: Seen, grid: Grid) -> float:
    """The Kullback-Leibler divergence of what was seen, cut off to the grid's range, from what the grid leaves of it.

    What the grid can't tell apart it spreads evenly over the bins that were seen (Migacz 2017, "8-bit inference with
    TensorRT").
    """
    codes = (grid.rounded(seen.centres) / grid.scale).round().long()
    codes -= codes.min()
    clipped = _clipped(seen, grid)
    occupied = (clipped > 0).double()
    size = int(codes.max()) + 1
    inside = torch.where(_inside(seen, grid), seen.counts, 0.0)
    sums = torch.zeros(size, dtype=torch.float64).index_add_(0, codes, inside)
    bins = torch.zeros(size, dtype=torch.float64).index_add_(0, codes, occupied)
    spread = (sums / bins.clamp(min=1))[codes] * occupied
    p, q = clipped / clipped.sum(), spread / spread.sum().clamp(min=1e-300)
    some = p > 0
    return float((p[some] * (p[some] / q[some].clamp(min=1e-12)).log()).sum())


def _inside(seen: Seen, grid: Grid) -> Tensor:
    half = grid.scale / 2
    low, high = grid.scale * grid.domain.low, grid.scale * grid.domain.high
    return (seen.centres >= low - half) & (seen.centres <= high + half)


def _clipped(seen: Seen, grid: Grid) -> Tensor:
    """The counts, those beyond the range moved into the outermost bins inside."""
    inside = _inside(seen, grid).nonzero().flatten()
    if not len(inside):
        return seen.counts
    first, last = int(inside[0]), int(inside[-1])
    counts = seen.counts.clone()
    counts[first] += counts[:first].sum()
    counts[last] += counts[last + 1 :].sum()
    counts[:first], counts[last + 1 :] = 0, 0
    return counts
