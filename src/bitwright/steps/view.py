"""What the first stage of global error reconstruction knows of a layer: sums over all windows, and samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright.steps.factors import groups_of
from bitwright.steps.following import Behind
from bitwright.steps.layers import weight_of
from bitwright.steps.low_rank import NOISE, Split, cholesky, first_directions, solve
from bitwright.steps.moments import Moments, both_at, noised_, outputs, windows
from bitwright.steps.reconstruct import Fit, Samples, Sums, error
from bitwright.training.seeds import derive_seed

_JUDGES = 10
"""One of so many images only judges."""
_BATCH = 100  # images
_LEAST_SCALE = 1e-8


@dataclass
class View:
    """What stage 1 knows of a layer: for each of its groups sums over all windows, and samples of them.

    What the layer should give is that of the norm behind it, `scale` y + `shift`, (T,) each; `mean` is the norm's.
    """

    layer: nn.Module
    norm: _BatchNorm | None
    rectified: bool
    scale: Tensor
    shift: Tensor
    mean: Tensor | None
    sums: list[Sums]
    samples: list[Samples]
    judges: list[Samples]
    singular: bool

    def split(self) -> Split:
        """All ranks of step I."""
        solved = torch.stack([solve(sums.factor[None], sums.cross[None])[0] for sums in self.sums])
        return first_directions(solved, torch.stack([sums.cross for sums in self.sums]))

    def fits(self, split: Split, rank: int) -> list[Fit]:
        """Those of step I with a rank."""
        pairs = zip(split.left[:, :, :rank], split.right[:, :rank], self.sums, strict=True)
        return [Fit(left, right, sums.bias(left, right)) for left, right, sums in pairs]

    def groups(self, fits: list[Fit]) -> Iterator[tuple[Sums, Samples, Samples, Fit]]:
        """What alternating begins with."""
        return zip(self.sums, self.samples, self.judges, fits, strict=True)

    def error(self, fits: list[Fit]) -> float:
        """Behind the activation, on the judging samples: a share of the wanted outputs' squares around their means."""
        found = sum(error(fit, judge, self.rectified) for fit, judge in zip(fits, self.judges, strict=True))
        return found / max(sum(_spread(judge.y, self.rectified) for judge in self.judges), 1e-30)

    def plain(self, group: int, fit: Fit) -> Fit:
        """Without the norm: what the layer itself gives. A channel whose norm's scale is zero gives its bias alone."""
        part = slice(group * len(fit.left), (group + 1) * len(fit.left))
        scale, shift = self.scale[part], self.shift[part]
        inverse = torch.where(scale.abs() > _LEAST_SCALE, 1 / scale, 0.0)
        return Fit(fit.left * inverse[:, None], fit.right, (fit.bias - shift) * inverse)


def _spread(y: Tensor, rectified: bool) -> float:
    wanted = y.clamp(min=0) if rectified else y
    centre = wanted.mean(0) if len(wanted) > 1 else torch.zeros(1)  # of one, its mean is itself
    return float((wanted - centre).square().sum(dtype=torch.float64))


def look_at(
    model: nn.Module, float_model: nn.Module, name: str, behind: Behind, images: Tensor, samples: int, seed: int
) -> View:
    """Look at a layer's inputs in `model` and its outputs in `float_model` for the images."""
    layer = float_model.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    norm = float_model.get_submodule(behind.norm) if behind.norm else None
    assert norm is None or isinstance(norm, _BatchNorm)
    scale, shift = _affine(norm, weight_of(layer).shape[0])
    groups = groups_of(layer)
    moments, cut = Moments(layer), judging(len(images))
    kept: list[_Kept] = []  # of the judges, of the others
    for part, chosen in enumerate((images[:cut], images[cut:] if cut < len(images) else images)):
        batches = chosen.split(_BATCH)
        for i, batch in enumerate(batches):
            given, wanted = both_at(model, float_model, name, batch)
            x, y = windows(layer, given), outputs(layer, wanted) * scale.float()[:, None] + shift.float()[:, None]
            if part:
                moments.add_windows(x, y)
            each = x.shape[1] // len(batch)
            share = min(1.0, samples / (len(images) * each))
            if not i:
                kept.append(_Kept(groups, sum(_how_many(len(b) * each, share) for b in batches), len(x), len(y)))
            kept[part].add(x, y, _some(x.shape[1], share, derive_seed(seed, "ger", f"{name}/{part}/{i}")))
    movable = norm is not None or "bias" in dict(layer.named_parameters())
    moments.check(name)
    count, means = moments.count, (moments.mean_x * movable, moments.mean_y)
    gram, cross = moments.centred_() if movable else moments.around_zero_()
    noised_(gram, cross, weight_of(layer).detach().flatten(1) * scale[:, None], NOISE)
    factor, singular = cholesky(gram)
    return View(
        layer,
        norm if norm is None else model.get_submodule(behind.norm),  # type: ignore[arg-type]
        behind.rectified,
        scale,
        shift,
        None if norm is None or norm.running_mean is None else norm.running_mean.clone(),
        [Sums(count, means[0][g], means[1][g], cross[g], factor[g], movable) for g in range(groups)],
        kept[1].groups,
        kept[0].groups,
        singular,
    )


def judging(count: int) -> int:
    """How many of so many images only judge."""
    return max(count // _JUDGES, 1)


class _Kept:
    """Samples of each group, filled batch by batch."""

    def __init__(self, groups: int, count: int, inputs: int, outputs: int) -> None:
        self.groups = [Samples.room(count, inputs // groups, outputs // groups) for _ in range(groups)]
        self.filled = 0

    def add(self, x: Tensor, y: Tensor, some: Tensor) -> None:
        """Some of the windows of a batch, which are columns of all groups' x and y."""
        to = slice(self.filled, self.filled + len(some))
        for one, inputs, wanted in zip(self.groups, x.chunk(len(self.groups)), y.chunk(len(self.groups)), strict=True):
            one.x[to], one.y[to] = inputs[:, some].T, wanted[:, some].T
        self.filled = to.stop


def _how_many(count: int, share: float) -> int:
    return count if share >= 1 else max(round(count * share), 1)


def _some(count: int, share: float, seed: int) -> Tensor:
    """That share of so many places, at random, in order."""
    if share >= 1:
        return torch.arange(count)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return shuffled[: _how_many(count, share)].sort().values


def _affine(norm: _BatchNorm | None, channels: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in eval mode, float64; 1 and 0 without one."""
    if norm is None:
        return torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()
