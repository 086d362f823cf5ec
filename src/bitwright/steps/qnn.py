"""Weights and activations of a few bits, on a line or on powers of two, in training (quantised neural networks)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from bitwright.steps.activations import exact_norms, set_scale, training_inputs
from bitwright.steps.binaryconnect import BinarySigns, Clipped, Start, clipped_weights, start_uniform
from bitwright.steps.bnn import _TRAIN, First, all_but_first, check_pixels, quantise_layers
from bitwright.steps.latent import surrogate
from bitwright.steps.layers import check_bits, plain_layers
from bitwright.steps.order import warn_of_order
from bitwright.steps.shift_norm import ap2
from bitwright.steps.step import Step
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset


def linear_quant(x: Tensor, bits: int) -> Tensor:
    """The nearest m 2^-(bits-1), -2^(bits-1) <= m < 2^(bits-1): from -1 to just below 1."""
    steps = 2.0 ** (bits - 1)
    return (x * steps).round_().clamp_(-steps, steps - 1).mul_(1 / steps)


def log_quant(x: Tensor, bits: int) -> Tensor:
    """AP2(x) within the 2^(bits-1) - 1 powers of two from 1 down, with their signs, or 0 for less: float32."""
    least = 2.0 ** (2 - 2 ** (bits - 1))
    y = ap2(x).clamp_(-1, 1)
    return y.mul_(y.abs() >= least).add_(0.0)


class QuantisedWeight(Clipped):
    """A weight that `linear_quant` or `log_quant` makes of a latent one in [-1, 1]."""

    def __init__(self, bits: int, kind: Literal["linear", "log"]) -> None:
        super().__init__()
        self.bits, self.kind = bits, kind

    def quantise(self, latent: Tensor) -> Tensor:
        """The layer's weight; the gradient goes to the latent one unchanged."""
        to_grid = linear_quant if self.kind == "linear" else log_quant
        return surrogate(to_grid(latent.detach(), self.bits), latent)


class QuantisedInput(nn.Module):
    """LinearQuant in front of a layer while it is trained; the gradient passes where |x| <= 1."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x.float()
        return surrogate(linear_quant(x.detach(), self.bits), x, x.detach().abs() <= 1)


@dataclass(frozen=True)
class QNN(Step):
    """Weights and activations of a few bits (Hubara, Courbariaux, Soudry, El-Yaniv, Bengio 2016, "QNN").

        LinearQuant(x, b) = clip(round(x / 2^-(b-1)) 2^-(b-1), -1, 1 - 2^-(b-1))                   (equation 6)
        LogQuant(x, b)    = sign(x) 2^k,  k = round(log2 |x|) clipped to at most 0,                (equation 5)
                            0 for k < 2 - 2^(b-1): 2^(b-1) - 1 powers of two, their negatives and 0
        dL/dw = dL/dw_q,  w <- clip(w, -1, 1);    dL/da = dL/da_q 1{|a| <= 1}

    The first layer sees 8-bit pixels; the order of layers is that of `BNN`. Activations are LinearQuant only: the
    engine has no operation that rounds to powers of two. Weights are integers times a power of two for LinearQuant of
    up to 8 bits, and for LogQuant of up to 4; beyond, a layer of LogQuant weights packs as a codebook and its sums are
    floats.

    weight_bits      1 to 8; 1 means signs.
    activation_bits  2 to 8; for signs there is the step `bnn`.
    weights          "linear" or "log".
    layers, ignore, first, scale_rates, start, train   as in `BNN`.
    """

    name: ClassVar[str] = "qnn"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Hubara, Courbariaux, Soudry, El-Yaniv, Bengio, JMLR 2018 (arXiv 1609.07061)"

    weight_bits: int = 4
    activation_bits: int = 4
    weights: Literal["linear", "log"] = "linear"
    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    first: First = "pixels"
    scale_rates: bool = True
    start: Start = "uniform"
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits("qnn: weight_bits", self.weight_bits, 1, 8)
        check_bits("qnn: activation_bits", self.activation_bits, 2, 8)

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        check_pixels(self.name, self.first, data)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        self.look_ahead(model, context.data)
        chosen = plain_layers(model, self.layers, self.ignore)
        steps = 2 ** (self.activation_bits - 1)
        layers, quantised = quantise_layers(model, chosen, self.first, "grid", -steps, steps - 1)
        inner = all_but_first(model, quantised)
        set_scale(inner.values(), 1 / steps)
        exact_norms(model)
        warn_of_order(model, layers, context.data)
        if self.start == "uniform":
            start_uniform(layers, context.seed)
        with (
            clipped_weights(layers, self._weight, self.scale_rates),
            training_inputs(
                model, quantised, lambda name: QuantisedInput(self.activation_bits) if name in inner else None
            ),
        ):
            context.train(model, self.train)
        return model

    def _weight(self) -> Clipped:
        return BinarySigns() if self.weight_bits == 1 else QuantisedWeight(self.weight_bits, self.weights)
