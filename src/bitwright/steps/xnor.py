"""Signs times a magnitude per filter: binary weights (BWN), and binary activations with them (XNOR-Net)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright import edits
from bitwright.edits import edit
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d, QuantLinear, Sign, quantised_like
from bitwright.steps.activations import QuantLayer, TrainingSign, quantise_inputs, training_inputs
from bitwright.steps.latent import Latent, filter_mean, quantised_weights, signs, surrogate
from bitwright.steps.layers import plain_layers
from bitwright.steps.order import check_signs, warn_of_order
from bitwright.steps.step import Step
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context

Gradient = Literal["paper", "straight", "magnitude"]

_BWN = TrainSettings(
    epochs=58,
    batch_size=128,
    optimizer=Optimizer("SGD", 0.1, {"momentum": 0.9}),
    schedule=Schedule("cosine"),
    weight_decay=1e-4,
)
_XNOR = TrainSettings(
    epochs=58,
    batch_size=128,
    optimizer=Optimizer("Adam", 1e-3, {}),
    schedule=Schedule("cosine"),
    weight_decay=0.0,
)


class FilterSigns(Latent):
    """w = mean|latent| sign(latent), the mean over an output channel; see `BWN` for `centre` and `gradient`.

    Before each forward pass in training latent weights are clamped to [-limit, limit]. So 1{|latent| <= limit}, which
    the papers' gradients have, is 1 everywhere.
    """

    def __init__(self, gradient: Gradient, centre: bool = False, limit: float = 1.0) -> None:
        super().__init__()
        self.gradient, self.centre, self.limit = gradient, centre, limit

    def prepare(self, latent: Tensor) -> None:
        """Centre over the input channels (one would be centred to nothing), then clamp, for good."""
        if self.centre and latent.shape[1] > 1:
            latent.sub_(latent.mean(1, keepdim=True))
        latent.clamp_(-self.limit, self.limit)

    def quantise(self, latent: Tensor) -> Tensor:
        """The layer's weight."""
        with torch.no_grad():
            alpha = filter_mean(latent)
            weight = signs(latent) * alpha
        return surrogate(weight, latent, self.slope(alpha, latent[0].numel(), latent.shape[1]))

    def slope(self, alpha: Tensor, n: int, channels: int) -> Tensor | None:
        """dL/dlatent over dL/dw, from the filters' magnitudes, their weights and input channels; None is 1."""
        if self.gradient != "paper":
            return alpha if self.gradient == "magnitude" else None
        return (alpha * n + 1) * (1 - 1 / channels if self.centre and channels > 1 else 1.0)


@dataclass(frozen=True)
class BWN(Step):
    """Binary weight networks (Rastegari et al. 2016): each filter is its mean magnitude times signs.

        W~ = alpha sign(W),    alpha = mean |W| over the n = c k k weights of a filter: the least ||W - alpha B||^2
        "paper"      dL/dW_i = n (1/n + alpha 1{|W_i| <= 1}) dL/dW~_i           (times 1 - 1/c where W is centred)
        "straight"   dL/dW_i = 1{|W_i| <= 1} dL/dW~_i
        "magnitude"  dL/dW_i = alpha 1{|W_i| <= 1} dL/dW~_i

    The factor n is the released code's for SGD; the paper (section 3.1) has none, and Adam doesn't see it. Before each
    forward pass in training W is centred over the input channels and clamped to [-1, 1], as in the released code; that
    1 - 1/c is the derivative of the centring.

    1 bit per weight, 32 per filter for alpha.

    layers, ignore  which; all but the first and the last.
    gradient        "paper", "straight" or "magnitude".
    centre          whether W is centred; where a network was trained with real weights, that changes what it computes.
    train           the training; the paper's 58 epochs (ResNet-18) of SGD from 0.1 with momentum 0.9, here a cosine.
    """

    name: ClassVar[str] = "bwn"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Rastegari, Ordonez, Redmon, Farhadi, ECCV 2016"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ("first", "last")
    gradient: Gradient = "paper"
    centre: bool = True
    train: TrainSettings = field(default_factory=lambda: _BWN)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        layers = plain_layers(model, self.layers, self.ignore)
        with quantised_weights(layers, lambda name, weight: FilterSigns(self.gradient, self.centre)):
            context.train(model, self.train)
        return model


class ScaledConv2d(QuantConv2d):
    """sign(x) * weight, times the map K of the windows' mean |x|; see `XNOR`. K takes no part in back-propagation."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        magnitude = x.detach().abs().mean(1, keepdim=True)
        assert not isinstance(self.padding, str)
        return super().forward(x) * F.avg_pool2d(magnitude, self.kernel_size, self.stride, self.padding)


class ScaledLinear(QuantLinear):
    """sign(x) times the weight, times the sample's mean |x|; see `XNOR`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return super().forward(x) * x.detach().abs().mean(1, keepdim=True)


@edit("scaled-signs")
def scaled_signs(old: nn.Module) -> QuantLayer:
    """The layer with signs in front and K behind. Raises BitwrightError where K has no meaning or no kernel."""
    new = quantised_like(old, Sign(), ScaledConv2d, ScaledLinear)
    if new.bias is not None:
        raise BitwrightError(
            "xnor: a layer has a bias, which the map K would scale with the sums; give it a norm and no bias, or set "
            "use_k to false",
            kind="edit",
        )
    if isinstance(new, nn.Conv2d):
        plain = new.groups == 1 and new.dilation == (1, 1) and new.padding_mode == "zeros"
        if not plain or isinstance(new.padding, str) or _too_wide(new.padding, new.kernel_size):
            raise BitwrightError(
                f"xnor: the map K of {old} is not defined; use_k needs a convolution without groups and dilation, "
                "padded with zeros by numbers of at most half the kernel. Set use_k to false, or `ignore` the layer",
                kind="edit",
            )
    return new


def _too_wide(padding: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    return any(2 * p > k for p, k in zip(padding, kernel, strict=True))


@dataclass(frozen=True)
class XNOR(Step):
    """XNOR-Net (Rastegari et al. 2016): filters as in `BWN`, and the signs of what they are given.

        I * W  ~  (sign(I) * sign(W)) alpha K,     K = box(mean over channels of |I|),  box = 1/(k k)   (equation 11)
        dL/dI = dL/dsign(I) 1{|I| < 1},            dL/dW as in BWN;  K and alpha are constants in back-propagation

    K has one number per place of the result, the mean |I| of the window (zeros outside the image count). The paper has
    it on and finds less than 1 % between on and off; the released code leaves it out, as `use_k` does by default.

    1 bit per weight, 32 per filter for alpha; sums by XNOR and popcount.

    layers, ignore       which; all but the first and the last. Each needs a batch norm directly in front (block order
                         norm, sign, convolution, pooling), not a ReLU: all of its signs would be +1.
    use_k                whether K is computed.
    gradient, centre     as in BWN, which see.
    binarise_gradients   a layer's gradient with respect to its input becomes max|g| sign(g), the maximum over a sample
                         (section 3.2), before that of the sign.
    train                the training; Adam as in the paper, here from 1e-3 and a cosine over 58 epochs.
    """

    name: ClassVar[str] = "xnor"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Rastegari, Ordonez, Redmon, Farhadi, ECCV 2016"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ("first", "last")
    use_k: bool = False
    gradient: Gradient = "paper"
    centre: bool = True
    binarise_gradients: bool = False
    train: TrainSettings = field(default_factory=lambda: _XNOR)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = plain_layers(model, self.layers, self.ignore)
        check_signs(model, chosen, context.calibration(256))
        layers = scale_signs(model, chosen) if self.use_k else quantise_inputs(model, chosen, "sign")
        warn_of_order(model, layers, context.data)
        with (
            training_inputs(model, layers, lambda name: TrainingSign("clip", self.binarise_gradients)),
            quantised_weights(layers, lambda name, weight: FilterSigns(self.gradient, self.centre)),
        ):
            context.train(model, self.train)
        return model


def scale_signs(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, QuantLayer]:
    """Replace the layers by ones with signs in front and K behind, as edits that checkpoints replay."""
    made = {name: edits.replace(model, name, "scaled-signs") for name in layers}
    return {name: layer for name, layer in made.items() if isinstance(layer, QuantConv2d | QuantLinear)}
