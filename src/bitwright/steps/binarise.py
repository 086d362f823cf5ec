"""Binarisation after training: the signs of weights, and nothing else of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitwright.steps.layers import plain_layers, weight_of
from bitwright.steps.step import Step
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context


@dataclass(frozen=True)
class Binarise(Step):
    """Replace each weight by its sign, times a scale or not (Gong et al. 2014, "BIN").

        W~ = alpha sign(W),   sign(0) = 1,   alpha = 1, or mean |W|, the least squared error of the weights

    One bit per weight, 32 per scale; with float inputs, so it is small rather than fast. `BWN` trains such weights.

    layers, ignore   which layers; the linear ones.
    scale            "layer", "channel" (of the output), or "none", which is the paper's.
    train            a training afterwards of what is left to train (biases, norms, other layers), or null for none.

    Records: "binarise" (per layer: weights, squared error relative to the weights' squares).
    """

    name: ClassVar[str] = "binarise"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Gong et al., 2014"

    layers: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ()
    scale: Literal["layer", "channel", "none"] = "layer"
    train: TrainSettings | None = None

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = plain_layers(model, self.layers, self.ignore)
        rows = []
        with torch.no_grad():
            for name, layer in chosen.items():
                weight = weight_of(layer)
                found = self._signs(weight)
                error = (found - weight).square().sum() / weight.square().sum().clamp(min=1e-30)
                rows.append({"layer": name, "weights": weight.numel(), "error": float(error)})
                weight.copy_(found)
        if self.train is not None:
            weights = [(weight, weight.requires_grad) for weight in map(weight_of, chosen.values())]
            for weight, _ in weights:
                weight.requires_grad_(False)
            try:
                context.train(model, self.train)
            finally:
                for weight, trained in weights:
                    weight.requires_grad_(trained)
        context.record("binarise", rows)
        return model

    def _signs(self, weight: Tensor) -> Tensor:
        signs = torch.where(weight >= 0, 1.0, -1.0)
        if self.scale == "none":
            return signs
        if self.scale == "layer":
            return signs * weight.abs().mean()
        return signs * weight.flatten(1).abs().mean(1).view(-1, *(1,) * (weight.ndim - 1))
