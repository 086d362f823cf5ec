"""Weights, activations and gradients of a few bits on fixed grids (DoReFa-Net)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitwright.steps.activations import QuantLayer, quantise_inputs, set_scale, training_inputs
from bitwright.steps.grid import on_grid
from bitwright.steps.latent import Latent, quantised_weights, signs, surrogate
from bitwright.steps.layers import check_bits, plain_layers
from bitwright.steps.order import warn_of_order
from bitwright.steps.step import Step
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context

_LEAST = 1e-20

_TRAIN = TrainSettings(
    epochs=100,
    batch_size=128,
    optimizer=Optimizer("Adam", 1e-3, {"eps": 1e-5}),
    schedule=Schedule("cosine"),
    weight_decay=0.0,
)


class DoReFaWeight(Latent):
    """The weight from a latent one; see `DoReFa`."""

    def __init__(self, bits: int, scale: Literal["one", "mean"]) -> None:
        super().__init__()
        self.bits, self.scale = bits, scale

    def quantise(self, latent: Tensor) -> Tensor:
        """The layer's weight: whole numbers times one step."""
        mean = latent.detach().abs().mean()
        if self.bits == 1:
            return surrogate(signs(latent.detach()) * mean, latent)
        levels = (1 << self.bits) - 1
        squashed = torch.tanh(latent)
        within = squashed / squashed.abs().max().clamp(min=_LEAST)  # from -1 to 1
        size = mean if self.scale == "mean" else torch.ones_like(mean)
        with torch.no_grad():
            odd = 2 * (levels * (within / 2 + 0.5)).round() - levels  # -levels, 2 - levels, ..., levels
            weight = odd * (size / levels)
        return surrogate(weight, within * size)


class ClippedInput(nn.Module):
    """quantize_k(clip(x, 0, 1)) in training; see `DoReFa`."""

    step: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.high = (1 << bits) - 1
        self.register_buffer("step", torch.tensor(1 / self.high), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, float32."""
        return on_grid(x.float(), self.step, 0, self.high)


class _CoarseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, bits: int) -> Tensor:
        ctx.bits = bits
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        exact = gradients[0].float()
        return coarse_gradient(exact, ctx.bits, torch.rand_like(exact) - 0.5).to(gradients[0].dtype), None


def coarse_gradient(gradient: Tensor, bits: int, noise: Tensor) -> Tensor:
    """f(g) = 2 m (quantize_k(clip(g / 2m + 1/2 + noise / (2^k - 1), 0, 1)) - 1/2), m = max |g| over a sample.

    `noise` has the gradient's shape and is uniform from -1/2 to 1/2: f(g) is g on average (section 2.4, equation 12).
    """
    levels = (1 << bits) - 1
    largest = gradient.abs().amax(tuple(range(1, gradient.ndim)), keepdim=True).clamp(min=_LEAST)
    codes = (gradient / largest).mul_(levels / 2).add_(noise).add_(levels / 2)
    return codes.round_().clamp_(0, levels).sub_(levels / 2).mul_(largest * (2 / levels))


@contextlib.contextmanager
def coarse_gradients(layers: Mapping[str, nn.Module], bits: int | None) -> Iterator[None]:
    """While inside, what back-propagation brings to each layer's result has so many bits; None leaves it alone."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        result: Tensor = _CoarseGradient.apply(output, bits) if module.training else output
        return result

    hooks = [] if bits is None else [layer.register_forward_hook(hook) for layer in layers.values()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@dataclass(frozen=True)
class DoReFa(Step):
    """DoReFa-Net (Zhou et al. 2016): weights, inputs and gradients on grids of 2^k numbers, none of them learned.

        quantize_k(r) = round((2^k - 1) r) / (2^k - 1),  r from 0 to 1
        weights    k = 1:  E|r| sign(r), the mean over the whole layer and constant;     dw/dr = 1
                   k > 1:  2 quantize_k(tanh(r) / (2 max|tanh r|) + 1/2) - 1;            d quantize_k(r)/dr = 1
        inputs     quantize_k(clip(x, 0, 1)), the clip in place of a ReLU;               dx_q/dx = 1{0 < x < 1}
        gradients  f(g) = 2 m (quantize_k(g / 2m + 1/2 + N) - 1/2),  m = max|g| over a sample,
                   N uniform from -1/2 to 1/2, over 2^k - 1; of a layer's result, before the norm behind it

    Weights of k > 1 bits reach from -1 to 1 whatever the fan-in, so every layer needs a norm behind it (a warning names
    those without one); or `scale`.

    k bits per weight, 32 per layer. Layers end as sums of whole numbers; with weights of 8 bits, which are odd
    multiples up to 255 of their step, as sums of floats.

    layers, ignore    which; all but the first and the last.
    weight_bits       1 to 8.
    activation_bits   1 to 8.
    gradient_bits     1 to 16, or null: gradients stay real.
    scale             "one", or "mean": for k > 1 times E|r|, constant (Any-Precision DNN, Yu et al. 2021).
    train             the training; the authors' ImageNet code has Adam from 1e-4 down to 4e-6, eps 1e-5, batch 128;
                      here from 1e-3 and a cosine, as for small images.
    """

    name: ClassVar[str] = "dorefa"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Zhou, Wu, Ni, Zhou, Wen, Zou, arXiv 1606.06160, 2016"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ("first", "last")
    weight_bits: int = 2
    activation_bits: int = 2
    gradient_bits: int | None = None
    scale: Literal["one", "mean"] = "one"
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits("dorefa: weight_bits", self.weight_bits, 1, 8)
        check_bits("dorefa: activation_bits", self.activation_bits, 1, 8)
        if self.gradient_bits is not None:
            check_bits("dorefa: gradient_bits", self.gradient_bits, 1, 16)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = plain_layers(model, self.layers, self.ignore)
        layers = unit_inputs(model, chosen, self.activation_bits)
        if self.weight_bits > 1 and self.scale == "one":
            warn_of_order(model, layers, context.data)
        with (
            training_inputs(model, layers, lambda name: ClippedInput(self.activation_bits)),
            quantised_weights(layers, lambda name, weight: DoReFaWeight(self.weight_bits, self.scale)),
            coarse_gradients(layers, self.gradient_bits),
        ):
            context.train(model, self.train)
        return model


def unit_inputs(model: nn.Module, layers: Mapping[str, nn.Module], bits: int) -> dict[str, QuantLayer]:
    """Replace the layers by ones whose inputs are 0 to 1 in equal steps."""
    high = (1 << bits) - 1
    made = quantise_inputs(model, layers, "grid", 0, high)
    set_scale(made.values(), 1 / high)
    return made
