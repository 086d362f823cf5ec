"""Weights of +1 and -1 in training (BinaryConnect)."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitwright.steps.latent import Latent, quantised_weights, signs, surrogate
from bitwright.steps.layers import plain_layers, weight_of
from bitwright.steps.masks import attached
from bitwright.steps.order import warn_of_order
from bitwright.steps.step import Step
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context

Mode = Literal["deterministic", "stochastic"]
Start = Literal["uniform", "given"]
_NORM_IMAGES = 5_000

_TRAIN = TrainSettings(
    epochs=100,
    batch_size=100,
    optimizer=Optimizer("Adam", 1e-3, {}),
    schedule=Schedule("exponential", gamma=math.log(1e-3 / 3e-6) / 100),
    weight_decay=0.0,
    loss="squared-hinge",
)


def stochastic_signs(x: Tensor) -> Tensor:
    """+1 with probability clip((x + 1) / 2, 0, 1), rounded to a multiple of 2^-16, else -1; float32.

    Drawn from torch's generator, which a training seeds for every epoch: four numbers from each 64 bits, in half the
    time of `torch.rand`.
    """
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    steps = bits.view(torch.int16)[: x.numel()].view(x.shape)
    # +1 where the threshold (steps + 1/2) / 2^15, one of 2^16 between -1 and 1, is below x
    return signs(torch.add(x.float(), steps, alpha=-(2.0**-15)).sub_(2.0**-16))


class Clipped(Latent):
    """A latent weight that stays in [-1, 1]."""

    def prepare(self, latent: Tensor) -> None:
        """The clip after the update before, w <- clip(w, -1, 1)."""
        latent.clamp_(-1, 1)


class BinarySigns(Clipped):
    """w = +1 or -1 from a latent weight in [-1, 1]; see `BinaryConnect`."""

    def __init__(self, mode: Mode = "deterministic") -> None:
        super().__init__()
        self.mode = mode

    def quantise(self, latent: Tensor) -> Tensor:
        """Signs, drawn in training if stochastic; the real weights of a stochastic layer at test time."""
        if self.mode == "deterministic":
            return surrogate(signs(latent.detach()), latent)
        if self.training:
            return surrogate(stochastic_signs(latent.detach()), latent)
        return latent.clamp(-1, 1)


def glorot_factor(weight: Tensor) -> float:
    """1 / sqrt(1.5 / (fan_in + fan_out)), with fans of k k C (released code of Courbariaux et al. 2015)."""
    field_size = weight[0, 0].numel()
    return math.sqrt((weight.shape[0] + weight.shape[1]) * field_size / 1.5)


@contextmanager
def clipped_weights(layers: Mapping[str, nn.Module], make: Callable[[], Clipped], scale_rates: bool) -> Iterator[None]:
    """While inside, make() computes each layer's weight from a latent one; with `scale_rates` that learns faster."""
    with quantised_weights(layers, lambda name, weight: make()):
        for layer in layers.values():
            free = attached(layer, "weight")[1]
            free.lr_factor = glorot_factor(free) if scale_rates else 1.0  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for layer in layers.values():
                del attached(layer, "weight")[1].lr_factor  # type: ignore[attr-defined]


@dataclass(frozen=True)
class BinaryConnect(Step):
    """Train with weights of +1 and -1, keep the small changes in latent ones (Courbariaux, Bengio, David 2015).

        deterministic  w_b = sign(w)                       stochastic  P(w_b = +1) = clip((w + 1) / 2, 0, 1)
        dL/dw = dL/dw_b,     w <- clip(w - eta s dL/dw, -1, 1),      s = 1 / sqrt(1.5 / (fan_in + fan_out))

    At test time a deterministic network has the signs (1 bit per weight), a stochastic one the real weights w (section
    2.6, third way): stochastic binarisation regularises and gives no small file; a warning says so. As batch norm has
    averaged over signs until then, its statistics are measured anew for the real weights (not in the paper), on 5,000
    training images if `norm_images` of the training doesn't say otherwise.

    mode            "deterministic" or "stochastic" (section 2.3).
    layers, ignore  which; all of them in the paper, the first and the last too. They need a norm behind them, as
                    sums of signs grow with the fan-in: a warning names those that have none.
    scale_rates     multiply the latent weights' learning rates by s (section 2.5), as the released code does.
    start           "uniform": latent weights start uniform in [-1, 1], as in the released code; "given": as they are.
    train           the training: Adam from 1e-3 to 3e-6, batch 100, square hinge loss, 100 epochs (released code: 250).
    """

    name: ClassVar[str] = "binaryconnect"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Courbariaux, Bengio, David, NIPS 2015"

    mode: Mode = "deterministic"
    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    scale_rates: bool = True
    start: Start = "uniform"
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        layers = plain_layers(model, self.layers, self.ignore)
        warn_of_order(model, layers, context.data)
        if self.mode == "stochastic":
            warnings.warn(
                "stochastic BinaryConnect ends with real weights (section 2.6 of the paper): the packed file will not "
                'be small; mode="deterministic" gives 1 bit per weight',
                stacklevel=2,
            )
        if self.start == "uniform":
            start_uniform(layers, context.seed)
        with clipped_weights(layers, lambda: BinarySigns(self.mode), self.scale_rates):
            context.train(model, self._settings())
        return model

    def _settings(self) -> TrainSettings:
        """The training's; a stochastic one ends with norms measured for the weights in use."""
        if self.mode == "deterministic" or self.train.norm_images:
            return self.train
        return dataclasses.replace(self.train, norm_images=_NORM_IMAGES)


@torch.no_grad()
def start_uniform(layers: Mapping[str, nn.Module], seed: int) -> None:
    """Latent weights uniform in [-1, 1]; biases stay."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        weight = weight_of(layer)
        weight.copy_(torch.rand(weight.shape, generator=generator) * 2 - 1)
