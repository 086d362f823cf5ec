"""Masks on weights while a pruning lasts: which weights stay, and how a mask acts on a layer in training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitwright.errors import BitwrightError
from bitwright.steps.blocks import Blocks, keep_largest
from bitwright.steps.layers import weight_of

By = Literal["quality", "fraction", "threshold"]


class Mask(nn.Module):
    """Parametrization w = v * m of a weight by a free tensor v and a 0/1 mask m, both of the weight's shape.

    Fixed:            dL/dv = m * dL/dw, so a removed weight gets no gradient; with a new optimizer its momentum and
                      Adam's moments stay 0. If the mask has moved during the training they fade, and move only v.
    straight_through: dL/dv = dL/dw; removed weights go on learning out of sight and may come back when the mask is
                      drawn again (dynamic network surgery, Guo et al. 2016, equation 3).

    Buffers, so that they are part of every checkpoint: `mask`; `allowed` (what was not zero before the step: zeros of
    earlier steps stay); `steps`, the training steps seen so far.
    """

    mask: Tensor
    allowed: Tensor
    steps: Tensor

    def __init__(self, weight: Tensor, *, straight_through: bool = False) -> None:
        super().__init__()
        self.straight_through = straight_through
        self.register_buffer("mask", weight != 0)
        self.register_buffer("allowed", weight != 0)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, free: Tensor) -> Tensor:
        if self.straight_through:
            return free + (free * self.mask - free).detach()
        return free * self.mask


def deviation(weight: Tensor, of: Literal["surviving", "all"]) -> float:
    """Standard deviation (population, around the mean) of the non-zero or of all weights; 0 where there is none."""
    values = weight[weight != 0] if of == "surviving" else weight.flatten()
    return float(values.double().std(unbiased=False)) if values.numel() else 0.0


@dataclass
class Rule:
    """Which weights a layer keeps, at a `factor` of the whole way (0: as it is, 1: the goal).

    quality    |w| >= factor q_l std_l, std_l as `measure` last found it (of one layer, or of all together)
    threshold  |w| >= factor t_l
    fraction   the largest; the zero share is s = s_0 + factor (f_l - s_0), s_0 the share before the step. Scope
               "global": one fraction, the largest over all layers together. With `blocks` the largest of each block.
    """

    by: By
    amounts: Mapping[str, float]
    scope: Literal["layer", "global"] = "layer"
    std_of: Literal["surviving", "all"] = "surviving"
    blocks: Blocks | None = None

    def measure(self, weights: Mapping[str, Tensor]) -> None:
        """Take the layers' standard deviations (quality); the first time also their sparsity (fraction)."""
        if self.by == "quality" and self.scope == "global":
            everything = torch.cat([w.flatten() for w in weights.values()])
            self.stds = dict.fromkeys(weights, deviation(everything, self.std_of))
        elif self.by == "quality":
            self.stds = {n: deviation(w, self.std_of) for n, w in weights.items()}
        if not hasattr(self, "zeros"):
            self.zeros = {n: int((w == 0).sum()) for n, w in weights.items()}

    def select(self, scores: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        """Masks from scores: |w|, or 0 for what may not be kept. Raises BitwrightError if a layer would lose all."""
        if self.by == "fraction":
            masks = self._by_fraction(scores, factor)
        else:
            masks = {n: (s >= factor * self._threshold(n)) & (s > 0) for n, s in scores.items()}
        for name, mask in masks.items():
            if not mask.any() and (scores[name] > 0).any():
                raise self._collapse(name, scores[name], factor)
        return masks

    def _threshold(self, name: str) -> float:
        return self.amounts[name] * (self.stds[name] if self.by == "quality" else 1.0)

    def _by_fraction(self, scores: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        def kept(size: int, zeros: int, goal: float) -> int:
            before = zeros / size
            return size - round(size * (before + factor * (goal - before)))

        if (blocks := self.blocks) is not None:
            shares = {n: self.zeros[n] / s.numel() for n, s in scores.items()}
            return {n: blocks.keep(s, shares[n] + factor * (self.amounts[n] - shares[n])) for n, s in scores.items()}
        if self.scope == "layer":
            return {n: keep_largest(s, kept(s.numel(), self.zeros[n], self.amounts[n])) for n, s in scores.items()}
        everything = torch.cat([s.flatten() for s in scores.values()])
        goal = next(iter(self.amounts.values()))
        mask = keep_largest(everything, kept(everything.numel(), sum(self.zeros.values()), goal))
        parts = mask.split([s.numel() for s in scores.values()])
        return {n: part.view_as(s) for part, (n, s) in zip(parts, scores.items(), strict=True)}

    def _collapse(self, name: str, scores: Tensor, factor: float) -> BitwrightError:
        amount, largest = self.amounts[name], float(scores.max())
        reason = f"the largest is {largest:.3g}"
        if self.by == "quality":
            reason = f"the threshold is {factor * self._threshold(name):.3g}, {reason}"
        return BitwrightError(
            f"layer {name!r}: {self.by} {amount:g} removes all {int((scores > 0).sum())} weights it has left "
            f"({reason}); give this layer a smaller {self.by} or leave it out with `ignore`",
            kind="layer-collapse",
        )


def attach(layer: nn.Module, tensor: str, parametrization: nn.Module) -> None:
    """Let `parametrization` compute one of the layer's tensors from a free one."""
    getattr(layer, tensor).grad = None  # it may have another shape than the free tensor's
    parametrize.register_parametrization(layer, tensor, parametrization, unsafe=True)


def attached(layer: nn.Module, tensor: str) -> tuple[nn.Module, nn.Parameter]:
    """The parametrization of a tensor and the free one behind it."""
    chains = layer.parametrizations
    assert isinstance(chains, nn.ModuleDict)
    chain = chains[tensor]
    assert isinstance(chain, parametrize.ParametrizationList)
    assert isinstance(chain.original, nn.Parameter)
    return chain[0], chain.original


def detach(layer: nn.Module, tensor: str) -> None:
    """Make the tensor a plain parameter again, with the value that was computed last (and 0.0 for -0.0).

    Also puts weight before bias again: where gradients are summed over all parameters, their order decides the last
    bit, and a run that was resumed has them in the constructor's.
    """
    attached(layer, tensor)[1].grad = None
    parametrize.remove_parametrizations(layer, tensor)
    with torch.no_grad():
        getattr(layer, tensor).add_(0.0)
    for name in ("weight", "bias"):
        if name in layer._parameters:
            layer._parameters[name] = layer._parameters.pop(name)


@contextlib.contextmanager
def holding_zeros(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """While inside, weights of these layers that are zero now stay zero, whatever is trained."""
    sparse = [layer for layer in layers.values() if bool((weight_of(layer) == 0).any())]
    for layer in sparse:
        attach(layer, "weight", Mask(weight_of(layer).detach()))
    try:
        yield
    finally:
        for layer in sparse:
            detach(layer, "weight")


class Masks:
    """The masks of all `layers` (path -> module) during one pruning. Attach, update, train, detach."""

    def __init__(
        self, layers: Mapping[str, nn.Module], rule: Rule, *, regrow: bool = False, margin: float = 0.1
    ) -> None:
        """With `regrow` masks are drawn from the free tensors; a kept weight's score counts (1 + margin)-fold and a
        removed one's (1 - margin)-fold, so that weights on the edge don't flicker (Guo et al. 2016: a_k < b_k)."""
        self.layers, self.rule, self.regrow, self.margin = layers, rule, regrow, margin

    def __enter__(self) -> Masks:
        for layer in self.layers.values():
            attach(layer, "weight", Mask(weight_of(layer).detach(), straight_through=self.regrow))
        self.measure()
        return self

    def __exit__(self, *exception: object) -> None:
        for layer in self.layers.values():
            detach(layer, "weight")

    def _of(self, name: str) -> tuple[Mask, nn.Parameter]:
        """A layer's mask and its free tensor."""
        mask, free = attached(self.layers[name], "weight")
        assert isinstance(mask, Mask)
        return mask, free

    @property
    def steps(self) -> Tensor:
        """Training steps since it was last zeroed; a checkpoint holds it."""
        return self._of(next(iter(self.layers)))[0].steps

    def kept(self) -> dict[str, float]:
        """The share of each layer's weights that stays."""
        masks = {name: self._of(name)[0].mask for name in self.layers}
        return {name: int(mask.sum()) / mask.numel() for name, mask in masks.items()}

    @torch.no_grad()
    def measure(self) -> None:
        """Let the rule look at the weights as they are now."""
        self.rule.measure({name: free * mask.mask for name, (mask, free) in self._all().items()})

    @torch.no_grad()
    def update(self, factor: float) -> None:
        """Draw the masks anew; without `regrow` only kept weights can be chosen, and what goes is set to 0."""
        parts = self._all()
        masks = self.rule.select({name: self._scores(mask, free) for name, (mask, free) in parts.items()}, factor)
        for name, (mask, free) in parts.items():
            # A new tensor, not new contents: a weight computed before may be waiting for its backward pass.
            mask.mask = masks[name]
            if not self.regrow:
                free.mul_(mask.mask)

    def fix(self) -> None:
        """From here on removed weights stay removed."""
        self.regrow = False
        for mask, free in self._all().values():
            mask.straight_through = False
            with torch.no_grad():
                free.mul_(mask.mask)

    def _all(self) -> dict[str, tuple[Mask, nn.Parameter]]:
        return {name: self._of(name) for name in self.layers}

    def _scores(self, mask: Mask, free: Tensor) -> Tensor:
        if not self.regrow:
            return free.abs() * mask.mask
        return free.abs() * mask.allowed * (1.0 + self.margin * (2.0 * mask.mask - 1.0))

    @contextlib.contextmanager
    def moving(
        self,
        model: nn.Module,
        every: int,
        last: int,
        factor: Callable[[float], float],
        notify: Callable[[dict[str, float]], None] | None = None,
    ) -> Iterator[None]:
        """While inside, training steps redraw the masks: every `every` steps up to step `last`, at factor(step / last).

        `notify` hears the kept shares at the first step and after each drawing. The steps are counted in a buffer, so a
        resumed training goes on with the schedule where it was.
        """
        first = True

        def before(module: nn.Module, _: object) -> None:
            nonlocal first
            if not module.training:
                return
            step = int(self.steps)
            due = step <= last and (step % every == 0 or step == last)
            if due:
                self.update(factor(step / last))
            if notify and (due or first):
                notify(self.kept())
            first = False
            self.steps.add_(1)

        self.steps.zero_()
        hook = model.register_forward_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()
