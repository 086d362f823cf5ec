"""Binary weights and activations as they are trained today (Bi-Real Net, ReActNet)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from bitwright.errors import BitwrightError
from bitwright.steps.activations import TrainingSign, quantise_inputs, training_inputs
from bitwright.steps.latent import quantised_weights
from bitwright.steps.layers import plain_layers
from bitwright.steps.order import check_signs, warn_of_order
from bitwright.steps.step import Step
from bitwright.steps.xnor import FilterSigns
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context

_TRAIN = TrainSettings(
    epochs=256,
    batch_size=128,
    optimizer=Optimizer("Adam", 5e-4, {}),
    schedule=Schedule("cosine"),
    weight_decay=0.0,
)


@dataclass(frozen=True)
class BiReal(Step):
    """Binary weights and activations with a smoother gradient, in up to two stages (Liu et al. 2018, Liu et al. 2020).

        x_b = sign(x),          dx_b/dx = max(0, 2 - 2 |x|)                            (Bi-Real, equation 6)
        w_b = mean|w| sign(w),  dw_b/dw = 1{|w| <= limit}           "straight": the released codes of both papers
                                          mean|w| 1{|w| <= limit}   "magnitude": Bi-Real, section 3.3, per filter

    The mean is over a filter and constant in back-propagation. Latent weights are clamped to [-limit, limit] before
    each forward pass in training, so that none is stuck beyond.

    What makes it work is the network: a shortcut over every binary layer, so that real numbers go past the signs
    (block: bireal; a warning names the layers that have none), and learned thresholds and shifts (block: react;
    ReActNet, section 4). 1 bit per weight, 32 per filter.

    layers, ignore  which; all but the first and the last. None may have a ReLU in front, all signs would be +1.
    activations     the gradient of sign(x): "polynomial", or "clip", 1{|x| < 1} (Hubara et al. 2016).
    gradient        that of the weights: "straight" or "magnitude", or "paper", which is XNOR-Net's, see `BWN`.
    limit           of the latent weights, above 0; in the papers the gradient ends at 1.
    first           the training of a first stage with binary activations and real weights (ReActNet, section 5.1), or
                    null for none.
    train           the training with both binary; in ReActNet 256 epochs of Adam from 5e-4 without weight decay, the
                    first stage the same with a decay of 1e-5; there linear to 0, here a cosine.
    """

    name: ClassVar[str] = "bireal"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Liu, Wu, Luo, Yang, Liu, Cheng, ECCV 2018; Liu, Shen, Savvides, Cheng, ECCV 2020"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ("first", "last")
    activations: Literal["polynomial", "clip"] = "polynomial"
    gradient: Literal["straight", "magnitude", "paper"] = "straight"
    limit: float = 1.5
    first: TrainSettings | None = None
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not 0 < self.limit < 1e6:
            raise BitwrightError(f"bireal: limit is {self.limit!r}; expected a number above 0", kind="setting")

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = plain_layers(model, self.layers, self.ignore)
        check_signs(model, chosen, context.calibration(256))
        layers = quantise_inputs(model, chosen, "sign")
        warn_of_order(model, layers, context.data, shortcuts=True)
        with training_inputs(model, layers, lambda name: TrainingSign(self.activations)):
            if self.first is not None:
                context.train(model, self.first)
            with quantised_weights(layers, lambda name, weight: FilterSigns(self.gradient, limit=self.limit)):
                context.train(model, self.train)
        return model
