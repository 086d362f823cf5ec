"""Ternary weights: one magnitude per layer by a rule (TWN), or two that are trained (TTQ)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.steps.blocks import keep_largest
from bitwright.steps.latent import Latent, quantised_weights, surrogate
from bitwright.steps.layers import check_number, plain_layers, weight_of
from bitwright.steps.step import Step
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context

_LEAST_MAGNITUDE = 1e-6

_TRAIN = TrainSettings(
    epochs=60,
    batch_size=128,
    optimizer=Optimizer("SGD", 0.1, {"momentum": 0.9}),
    schedule=Schedule("cosine"),
    weight_decay=1e-4,
)


def rule_threshold(weight: Tensor, share: float) -> Tensor:
    """Delta = share * mean |w|, a scalar (Li, Zhang, Liu 2016, equation 6 with share 0.7)."""
    return share * weight.abs().mean()


def best_threshold(weight: Tensor) -> Tensor:
    """The Delta whose best alpha gives the least ||w - alpha t||^2.

    The m largest are kept, m = argmax (sum_{i<=m} |w|_i)^2 / m, found exactly by sorting (Li, Zhang, Liu 2016, equation
    5, before its approximation). Kept are |w| > Delta.
    """
    sizes = weight.detach().abs().flatten().double().sort(descending=True).values
    gain = sizes.cumsum(0).square() / torch.arange(1, len(sizes) + 1, device=sizes.device)
    m = int(gain.argmax())
    below = sizes[m + 1] if m + 1 < len(sizes) else sizes[m] / 2
    return ((sizes[m] + below) / 2).to(weight.dtype)


class TernaryByRule(Latent):
    """w = alpha t(latent); see `TWN`."""

    def __init__(self, threshold: float | Literal["exact"]) -> None:
        super().__init__()
        self.threshold = threshold

    def quantise(self, latent: Tensor) -> Tensor:
        """The layer's weight; the gradient goes to the latent one unchanged."""
        with torch.no_grad():
            delta = best_threshold(latent) if self.threshold == "exact" else rule_threshold(latent, self.threshold)
            kept = latent.abs() > delta
            alpha = (latent.abs() * kept).sum() / kept.sum().clamp(min=1)
            weight = torch.where(kept, latent.sign() * alpha, torch.zeros_like(latent))
        return surrogate(weight, latent)


@dataclass(frozen=True)
class TWN(Step):
    """Ternary weight networks (Li, Zhang, Liu 2016): every layer's weights are -alpha, 0 or +alpha.

        Delta = 0.7 mean |w|,   t_i = sign(w_i) 1{|w_i| > Delta},   alpha = mean of |w_i| over |w_i| > Delta
        forward with w~ = alpha t;   dL/dw = dL/dw~  (straight through);   alpha and Delta anew in every forward pass

    Bits per weight: log2 3 = 1.58 at most, the entropy of the three signs by a good coder, 32 per layer for alpha.

    layers, ignore  which; the authors' code quantises all layers, the first and the last too.
    threshold       Delta / mean |w| (equation 6), or "exact": the minimum of ||w - alpha t||^2 (equation 5) by sorting.
    train           the training; the authors use SGD with momentum 0.9 and a decay of 1e-4 on the latent weights
                    (CIFAR-10: 0.1, a tenth at epochs 80 and 120 of 160, batch 100). Here: 60 epochs, cosine.

    Raises BitwrightError for a threshold that would leave a layer nothing but zeros. Records: "ternary" (per layer:
    weights, share of zeros, magnitudes).
    """

    name: ClassVar[str] = "twn"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Li, Zhang, Liu, arXiv 1605.04711, 2016"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    threshold: float | Literal["exact"] = 0.7
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold != "exact":
            check_number("twn: threshold", self.threshold, lambda t: 0 <= t < 5, "a number, 0 to below 5")

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        layers = plain_layers(model, self.layers, self.ignore)
        for name, layer in layers.items() if self.threshold != "exact" else ():
            weight = weight_of(layer)
            kept = weight.abs() > rule_threshold(weight, float(self.threshold))
            if weight.any() and not kept.any():
                raise BitwrightError(
                    f"twn: no weight of layer {name!r} is above {self.threshold:g} times their mean magnitude; take a "
                    'smaller threshold, 0.7 or "exact"',
                    kind="setting",
                )
        with quantised_weights(layers, lambda name, weight: TernaryByRule(self.threshold)):
            context.train(model, self.train)
        context.record("ternary", [_row(name, layer) for name, layer in layers.items()])
        return model


class TrainedTernary(Latent):
    """w = u W_p where latent > Delta, -u W_n where latent < -Delta, else 0; see `TTQ`.

    `positive` and `negative` are W_p and W_n, trained scalars; `unit` is u, float32.
    """

    unit: Tensor

    def __init__(self, weight: Tensor, threshold: float, sparsity: float | None, initial: str, rate: float) -> None:
        super().__init__()
        self.threshold, self.sparsity = threshold, sparsity
        with torch.no_grad():
            above, below = self.supports(weight)
            sizes = [weight[s].abs().mean() for s in (above, below) if bool(s.any())]
            unit = torch.stack(sizes).mean() if sizes and initial == "mean" else torch.ones(())
        self.register_buffer("unit", unit.to(weight))
        self.positive, self.negative = (nn.Parameter(torch.ones_like(self.unit)) for _ in range(2))
        for magnitude in (self.positive, self.negative):
            magnitude.lr_factor = rate  # type: ignore[attr-defined]

    def prepare(self, latent: Tensor) -> None:
        """Keep W_p and W_n above zero: a step too far would exchange the signs."""
        for magnitude in (self.positive, self.negative):
            magnitude.clamp_(min=_LEAST_MAGNITUDE)

    def supports(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Where the weight is positive, and where negative."""
        if self.sparsity is None:
            kept = latent.abs() > self.threshold * latent.abs().max()
        else:
            kept = keep_largest(latent.abs(), round(latent.numel() * (1 - self.sparsity)))
        return kept & (latent > 0), kept & (latent < 0)

    def quantise(self, latent: Tensor) -> Tensor:
        """The layer's weight; autograd sums the gradients of both magnitudes, the latent one's is scaled by them."""
        with torch.no_grad():
            above, below = self.supports(latent.detach())
            one = torch.ones((), device=latent.device)
            slope = torch.where(above, self.positive, torch.where(below, self.negative, one))
        weight = (self.unit * self.positive) * above - (self.unit * self.negative) * below
        return surrogate(weight, latent, slope)


@dataclass(frozen=True)
class TTQ(Step):
    """Trained ternary quantisation (Zhu, Han, Mao, Dally 2017): -W_n, 0 or +W_p, two trained magnitudes per layer.

        Delta = t max |w|,    w~ = u W_p where w > Delta,  -u W_n where w < -Delta,  0 elsewhere
        dL/dW_p = u sum_{w > Delta} dL/dw~_i,             dL/dW_n = - u sum_{w < -Delta} dL/dw~_i
        dL/dw_i = W_p dL/dw~_i,  dL/dw~_i,  W_n dL/dw~_i  for w_i > Delta,  |w_i| <= Delta,  w_i < -Delta

    (The paper's equation 7 leaves out the minus sign, which follows from w~ = -W_n.) Bits per weight: log2 3 at most
    and 64 per layer.

    layers, ignore  which; as in the paper all but the first and the last.
    threshold       t, 0.05 in the paper.
    sparsity        a fixed share of zeros instead of `threshold` (the paper's second way).
    initial         W_p and W_n begin as 1, as in the authors' code, in units u of 1 ("one", as there) or of the mean
                    size of the layer's weights above the threshold ("mean"). With "one" weights are many times what
                    they were; with "mean" the network starts close to what it was. (W_p = W_n = u = mean instead
                    would make weights near zero, whose slope is 1, move many times faster than the others.)
    rate            factor on the learning rate of W_p and W_n, whose gradients are sums over thousands of weights.
    train           the training; in the paper SGD from 0.1 with momentum 0.9, decay 2e-4 on latent weights and on
                    W_p and W_n, batch 128, hundreds of epochs. Here: 60 epochs, cosine.

    Records: "ternary" (per layer: weights, share of zeros, magnitudes).
    """

    name: ClassVar[str] = "ttq"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Zhu, Han, Mao, Dally, ICLR 2017"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ("first", "last")
    threshold: float = 0.05
    sparsity: float | None = None
    initial: Literal["mean", "one"] = "mean"
    rate: float = 1.0
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ttq: threshold", self.threshold, lambda t: 0 <= t < 1, "a number, 0 to below 1")
        check_number("ttq: rate", self.rate, lambda rate: 0 <= rate < 1000, "a number, 0 to below 1000")
        if self.sparsity is not None:
            check_number("ttq: sparsity", self.sparsity, lambda s: 0 <= s < 1, "a number, 0 to below 1")

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        layers = plain_layers(model, self.layers, self.ignore)

        def make(name: str, weight: Tensor) -> TrainedTernary:
            return TrainedTernary(weight, self.threshold, self.sparsity, self.initial, self.rate)

        with quantised_weights(layers, make):
            context.train(model, self.train)
        context.record("ternary", [_row(name, layer) for name, layer in layers.items()])
        return model


def _row(name: str, layer: nn.Module) -> dict[str, Any]:
    weight = weight_of(layer).detach()
    return {
        "layer": name,
        "weights": weight.numel(),
        "zeros": float((weight == 0).float().mean()),
        "positive": float(weight.max()),
        "negative": float(-weight.min()),
    }
