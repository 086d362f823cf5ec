"""Weights and activations of 2 to 8 bits whose steps are learned (LSQ)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitwright.ops import Quantize, code_range
from bitwright.steps.activations import QuantLayer, Range, input_ranges, quantise_inputs, training_inputs
from bitwright.steps.grid import on_grid
from bitwright.steps.latent import Latent, filter_mean, quantised_weights
from bitwright.steps.layers import check_bits, per_layer, plain_layers, weight_of
from bitwright.steps.step import Step
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

_LEAST_STEP = 2.0**-30

_TRAIN = TrainSettings(
    epochs=90,
    batch_size=128,
    optimizer=Optimizer("SGD", 0.01, {"momentum": 0.9}),
    schedule=Schedule("cosine"),
    weight_decay=2.5e-5,
)


class SteppedWeight(Latent):
    """w = s k, k from `low` to `high`; see `LSQ`. `step` is s: a scalar, or (O, 1, ...) with one per channel.

    `learn` says whether it is trained, or stays.
    """

    def __init__(self, weight: Tensor, step: Tensor, low: int, high: int, learn: bool = True) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.step = _learned(step, learn)
        self.factor = 1 / math.sqrt(weight.numel() / step.numel() * high)

    def prepare(self, latent: Tensor) -> None:
        """Keep the step above zero."""
        self.step.clamp_(min=_LEAST_STEP)

    def quantise(self, latent: Tensor) -> Tensor:
        """The layer's weight."""
        return on_grid(latent, self.step, self.low, self.high, self.factor)


class SteppedInput(nn.Module):
    """x to s k, k from `low` to `high`; see `LSQ`. `step` is s, a scalar."""

    def __init__(self, step: Tensor, low: int, high: int, learn: bool = True) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.step = _learned(step, learn)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, float32: bfloat16 can't say 1 / step times x to a whole number."""
        if self.training:
            with torch.no_grad():
                self.step.clamp_(min=_LEAST_STEP)
        numbers = x[0].numel() * max(self.high, 1)  # signed numbers of one bit are -1 and 0
        return on_grid(x.float(), self.step, self.low, self.high, 1 / math.sqrt(numbers))

    def settle(self, plain: nn.Module) -> None:
        """Give the step to the quantiser that stays."""
        assert isinstance(plain, Quantize)
        plain.scale.fill_(self.step.clamp(min=_LEAST_STEP))


def first_step(magnitude: Tensor, high: int) -> Tensor:
    """2 magnitude / sqrt(high), the paper's."""
    return 2 * magnitude / math.sqrt(high)


def _learned(step: Tensor, learn: bool) -> nn.Parameter:
    """The step as a parameter; weight decay leaves it alone."""
    parameter = nn.Parameter(step.clamp(min=_LEAST_STEP), requires_grad=learn)
    parameter.decays = False  # type: ignore[attr-defined]
    return parameter


@dataclass(frozen=True)
class LSQ(Step):
    """Learned step size quantisation (Esser et al. 2020): weights and inputs on grids whose steps are trained.

        v~ = s round(clip(v / s, -Q_N, Q_P)),   weights and signed inputs   Q_N = 2^(b-1),  Q_P = 2^(b-1) - 1
                                                inputs that are never < 0   Q_N = 0,        Q_P = 2^b - 1
        dv~/dv = 1 where -Q_N < v / s < Q_P, else 0
        dv~/ds = round(v / s) - v / s there,  -Q_N below,  Q_P above;  times 1 / sqrt(N Q_P)       (equations 3 and 5)

    N is the number of weights (of a channel, with a step each), or of a sample's numbers. Steps begin as 2 mean |v| /
    sqrt(Q_P); inputs, and whether they are ever below zero, are looked at for `images` calibration images. Where most
    inputs are zero, as behind many a ReLU, that is far too little: at 80 % zeros and 2 bits half of the inputs' energy
    is lost, far less with the mean over the others.

    b bits per weight, 32 per step. The layers end as `QuantConv2d` or `QuantLinear`: sums of whole numbers.

    layers, ignore           which; all but the first and the last. The paper gives those 8 bits: with ignore=() and
                             weight_bits={"first": 8, "last": 8, "*": 2}, the same for activation_bits.
    weight_bits              2 to 8, or a mapping from patterns (those of `layers`) to bits.
    activation_bits          the same for the inputs.
    per_channel              a step for each output channel's weights; one per layer in the paper.
    initial                  "mean", over all inputs as in the paper, or "nonzero", over those that are not zero.
    images                   for the first steps of the inputs; the paper uses the first batch.
    train                    the training, from a trained network; the paper's for 2 bits: SGD from 0.01 with momentum
                             0.9 and a cosine, 90 epochs, a quarter of the usual decay (half for 3 bits, all for 4).

    Records: "lsq" (per layer: bits, steps, whether its input is signed, share of weights that are zero).
    """

    name: ClassVar[str] = "lsq"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Esser, McKinstry, Bablani, Appuswamy, Modha, ICLR 2020"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ("first", "last")
    weight_bits: int | dict[str, int] = 2
    activation_bits: int | dict[str, int] = 2
    per_channel: bool = False
    initial: Literal["mean", "nonzero"] = "mean"
    images: int = 256
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits("lsq: weight_bits", self.weight_bits, 2, 8)
        check_bits("lsq: activation_bits", self.activation_bits, 2, 8)

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse bits for other layers."""
        chosen = plain_layers(model, self.layers, self.ignore)
        per_layer(self.weight_bits, chosen, "lsq: weight_bits")
        per_layer(self.activation_bits, chosen, "lsq: activation_bits")

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = plain_layers(model, self.layers, self.ignore)
        bits = per_layer(self.weight_bits, chosen, "lsq: weight_bits")
        ranges = input_ranges(model, chosen, context.calibration(self.images))
        grids = input_grids(per_layer(self.activation_bits, chosen, "lsq: activation_bits"), ranges)
        layers: dict[str, QuantLayer] = {}
        for name, (low, high) in grids.items():
            layers |= quantise_inputs(model, {name: chosen[name]}, "grid", low, high)

        def stepped_weight(name: str, weight: Tensor) -> SteppedWeight:
            low, high = code_range(bits[name], signed=True)
            magnitude = filter_mean(weight) if self.per_channel else weight.abs().mean()
            return SteppedWeight(weight, first_step(magnitude, high), low, high)

        def stepped_input(name: str) -> SteppedInput:
            found = ranges[name]
            zeros = found.zeros if self.initial == "nonzero" and found.zeros < 1 else 0.0
            low, high = grids[name]
            return SteppedInput(first_step(torch.tensor(found.magnitude / (1 - zeros)), high), low, high)

        with contextlib.ExitStack() as training:
            training.enter_context(training_inputs(model, layers, stepped_input))
            training.enter_context(quantised_weights(layers, stepped_weight))
            context.train(model, self.train)
        context.record("lsq", [_row(name, layer, bits[name]) for name, layer in layers.items()])
        return model


def input_grids(bits: Mapping[str, int], ranges: Mapping[str, Range]) -> dict[str, tuple[int, int]]:
    """The lowest and the highest whole number of each layer's input: signed where it is ever below zero."""
    return {name: code_range(bits[name], signed=ranges[name].low < 0) for name in ranges}


def _row(name: str, layer: QuantLayer, bits: int) -> dict[str, Any]:
    assert isinstance(layer.input, Quantize)
    weight = weight_of(layer).detach()
    return {
        "layer": name,
        "weight_bits": bits,
        "zeros": float((weight == 0).float().mean()),
        "input_step": float(layer.input.scale),
        "input_range": [int(layer.input.qmin), int(layer.input.qmax)],
    }
