"""Weights and activations of +1 and -1 in training (binarised neural networks)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.steps.activations import QuantLayer, exact_norms, quantise_inputs, set_scale, training_inputs
from bitwright.steps.binaryconnect import BinarySigns, Start, clipped_weights, start_uniform, stochastic_signs
from bitwright.steps.latent import signs, surrogate
from bitwright.steps.layers import plain_layers
from bitwright.steps.order import check_signs, warn_of_order
from bitwright.steps.shift_norm import shift_norms
from bitwright.steps.step import Step, select_layers
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

First = Literal["pixels", "float"]

_TRAIN = TrainSettings(
    epochs=100,
    batch_size=100,
    optimizer=Optimizer("Adam", 3e-3, {}),
    schedule=Schedule("exponential", gamma=math.log(1e4) / 100),
    weight_decay=0.0,
    loss="squared-hinge",
)


class TrainedSign(nn.Module):
    """The signs in front of a layer while it is trained; see `BNN`."""

    def __init__(self, stochastic: bool) -> None:
        super().__init__()
        self.stochastic = stochastic

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; +1 and -1 in eval mode, whatever they are in training."""
        free = x.detach()
        drawn = stochastic_signs(free).to(x.dtype) if self.stochastic and self.training else signs(free)
        return surrogate(drawn, x, free.abs() <= 1)


@dataclass(frozen=True)
class BNN(Step):
    """Binary weights and activations (Hubara, Courbariaux, Soudry, El-Yaniv, Bengio 2016): popcounts for sums.

        weights      w_b = sign(w),  dL/dw = dL/dw_b,  w <- clip(w - eta s dL/dw, -1, 1)   as in `BinaryConnect`
        activations  a_b = sign(a),  dL/da = dL/da_b 1{|a| <= 1}                           (algorithm 1)
        stochastic   P(a_b = +1) = clip((a + 1) / 2, 0, 1) while training, sign(a) at test time
        first layer  x = p / 255, p = 0 .. 255: eight planes of bits                       (algorithm 4)

    with sign(0) = +1. The block is convolution - pooling - batch norm - hard tanh - sign: `model` brings it, the step
    puts the signs in front of its layers. Signs that are all equal, as behind a ReLU, are refused; signs of sums
    without a norm between, and a layer without a norm behind it are warned of. With batch norm behind the last layer,
    too, every sum is one of whole numbers, and norm and sign are a threshold on it. Bits per weight: 1.

    layers, ignore  which; all of them in the paper. The model's first layer gets no sign in front of it.
    first           "pixels": its input is quantised to the 256 pixels, which the data set's preprocess must leave
                    in 0..1 (mean 0, std 1; a BitwrightError says so). Behind a norm, other means and scales of the
                    input change nothing. "float": its input stays as it is, and it is no integer layer.
    stochastic      draw the activations' signs while training, as the paper's Torch runs do.
    norm            "batch", or "shift": shift-based batch norm while training (algorithm 3; see `ShiftBatchNorm`). In
                    the end plain batch norms whose scales are powers of two compute the same.
    scale_rates, start   as in `BinaryConnect`.
    train           the training: Adam from 3e-3 down to 3e-7, batch 100, square hinge loss as in the paper's Theano
                    runs on MNIST, 100 of their 1,000 epochs. Those in Torch have ShiftAdaMax, lr 2^-6, halved every
                    20 epochs. Dropout that the model has in front of a sign works on the sign.
    """

    name: ClassVar[str] = "bnn"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Hubara, Courbariaux, Soudry, El-Yaniv, Bengio, NIPS 2016"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    first: First = "pixels"
    stochastic: bool = False
    norm: Literal["batch", "shift"] = "batch"
    scale_rates: bool = True
    start: Start = "uniform"
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        check_pixels(self.name, self.first, data)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        self.look_ahead(model, context.data)
        chosen = plain_layers(model, self.layers, self.ignore)
        inner = all_but_first(model, chosen)
        check_signs(model, inner, context.calibration(256))
        layers, quantised = quantise_layers(model, chosen, self.first, "sign")
        exact_norms(model)
        warn_of_order(model, layers, context.data)
        if self.start == "uniform":
            start_uniform(layers, context.seed)
        with (
            clipped_weights(layers, BinarySigns, self.scale_rates),
            training_inputs(model, quantised, lambda name: TrainedSign(self.stochastic) if name in inner else None),
            shift_norms(model) if self.norm == "shift" else contextlib.nullcontext(),
        ):
            context.train(model, self.train)
        return model


def check_pixels(step: str, first: First, data: Dataset) -> None:
    """Raise BitwrightError where pixels are wanted and the preprocess makes something else of them."""
    changed = any(data.preprocess.mean) or any(std != 1 for std in data.preprocess.std)
    if first == "pixels" and changed:
        zeros, ones = [0] * data.shape[0], [1] * data.shape[0]
        raise BitwrightError(
            f"{step}: the preprocess of {data.name!r} has mean {list(data.preprocess.mean)} and std "
            f"{list(data.preprocess.std)}, but a first layer of 8-bit pixels takes them as p / 255; give the data set "
            f'preprocess: {{mean: {zeros}, std: {ones}}}, or set {step}.first to "float"',
            kind="preprocess",
        )


def quantise_layers(
    model: nn.Module, layers: Mapping[str, nn.Module], first: First, kind: str, qmin: int = 0, qmax: int = 255
) -> tuple[dict[str, nn.Module], dict[str, QuantLayer]]:
    """Put a quantiser in front of each layer: pixels (or nothing) for the model's first one, `kind` for the others.

    Gives all layers as they are now, and those with a quantiser.
    """
    inner = all_but_first(model, layers)
    made = quantise_inputs(model, inner, kind, qmin, qmax)
    if first == "pixels":
        taking_pixels = quantise_inputs(model, {n: m for n, m in layers.items() if n not in inner}, "grid", 0, 255)
        set_scale(taking_pixels.values(), 1 / 255)
        made |= taking_pixels
    return {**layers, **made}, made


def all_but_first(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Those of `layers` that are not the model's first one, which takes pixels."""
    entry = select_layers(model, ("first",))
    return {name: layer for name, layer in layers.items() if name not in entry}
