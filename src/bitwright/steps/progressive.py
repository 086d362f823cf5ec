"""One network at several precisions, trained bit by bit."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright import edits
from bitwright.errors import BitwrightError
from bitwright.ops import code_range
from bitwright.precisions import Switch, SwitchConv2d, SwitchLinear, precisions_of, set_bits
from bitwright.steps.activations import Range, input_ranges, training_inputs
from bitwright.steps.latent import Latent, quantised_weights, surrogate
from bitwright.steps.layers import check_number, plain_layers
from bitwright.steps.lsq import SteppedInput, first_step
from bitwright.steps.masks import attached
from bitwright.steps.order import warn_of_order
from bitwright.steps.step import Step
from bitwright.training.batchnorm import freezing
from bitwright.training.rounds import Round
from bitwright.training.settings import Optimizer, Schedule, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

MOST_BITS = 7
"""Codes are odd multiples of a step, up to 127; the engine computes with whole numbers of a byte."""
_DIGITS = 11
"""Binary digits of a step: with such codes the weights are exact, and a file stores the step in 16 bits."""

_TRAIN = TrainSettings(
    epochs=20,
    batch_size=128,
    optimizer=Optimizer("SGD", 0.01, {"momentum": 0.9, "nesterov": True}),
    schedule=Schedule("cosine"),
    weight_decay=1e-4,
    select="last",
)


class Nested(Latent):
    """The weight of B bits on the nested grid, from a latent one; see `Progressive`.

    `held` are the highest bits of each code that stay as they are, those of `floor`; so does the grid, that is the
    `edge`, and the `last` codes, of the largest weights, which tell a reader the step. All are buffers, so that they
    are part of every checkpoint.
    """

    floor: Tensor
    edge: Tensor
    last: Tensor

    def __init__(self, bits: int, reach: float, weight: Tensor) -> None:
        super().__init__()
        self.bits, self.reach, self.held = bits, reach, 0
        self.register_buffer("floor", torch.zeros_like(weight))
        self.register_buffer("edge", torch.zeros(()))
        self.register_buffer("last", torch.zeros_like(weight, dtype=torch.bool))

    def hold(self, latent: Tensor, bits: int) -> None:
        """From now on the highest `bits` bits of the code of each weight stay, and so does the grid."""
        with torch.no_grad():
            latent = self._inside(latent)
            if not self.held:
                self.edge.copy_(self._edge(latent))
                self.last.copy_(latent.abs() == latent.abs().max())
            self.held = bits
            self.floor.copy_((self._code(latent, self.edge) / (1 << (self.bits - bits))).floor())

    def prepare(self, latent: Tensor) -> None:
        """Latent weights stay inside the intervals of held codes."""
        if self.held:
            latent.copy_(self._inside(latent))

    def quantise(self, latent: Tensor) -> Tensor:
        """The layer's weight, s (2 c + 1 - 2^B)."""
        with torch.no_grad():
            edge = self.edge if self.held else self._edge(latent)
            codes = self._code(self._inside(latent), edge)
            weight = (2 * codes + (1 - (1 << self.bits))) * (edge / (1 << self.bits))
        return surrogate(weight, latent)

    def _inside(self, latent: Tensor) -> Tensor:
        """The nearest weights with held codes; half a step of the finest grid or a quarter inside, so that rounding
        can't leave."""
        if not self.held:
            return latent
        width, step = 2 * self.edge / (1 << self.held), 2 * self.edge / (1 << self.bits)
        low = self.floor * width - self.edge
        kept = torch.minimum(torch.maximum(latent, low + step / 4), low + width - step / 4)
        ends = torch.copysign(kept.abs().clamp(min=self.edge - step / 2), kept)
        return torch.where(self.last, ends, kept)

    def _edge(self, latent: Tensor) -> Tensor:
        """Where the grid ends; never beyond the largest weight, which so has the last code and tells the step."""
        magnitude = latent.detach().abs()
        edge = torch.minimum(self.reach * magnitude.mean(), magnitude.max())
        mantissa, exponent = torch.frexp(edge)
        return torch.ldexp((mantissa * (1 << _DIGITS)).floor() / (1 << _DIGITS), exponent)

    def _code(self, latent: Tensor, edge: Tensor) -> Tensor:
        levels = 1 << self.bits
        return ((latent / edge.clamp(min=1e-30) + 1) * (levels / 2)).floor().clamp(0, levels - 1)


class SwitchedInput(Switch):
    """A `SteppedInput` for each precision, while they are trained."""

    def settle(self, plain: nn.Module) -> None:
        """Give the steps to the quantisers that stay."""
        assert isinstance(plain, Switch)
        for bits, module in self.choices.items():
            assert isinstance(module, SteppedInput)
            module.settle(plain.choices[bits])


@dataclass(frozen=True)
class Stage:
    """One training: `rounds` are (bits, weight of the loss), the first the one that is validated; `new` begins."""

    new: int
    rounds: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Progressive(Step):
    """One network that works with 1, 2, ... B bits: codes of k bits are the first k bits of those of B bits.

    Weights, nested floor quantisers on [-e, e], w the latent weight, e = min(reach mean|w|, max|w|):

        c_B = min(floor(2^B (w / e + 1) / 2), 2^B - 1)         c_k = c_B >> (B - k)
        w_k = e (2 c_k + 1 - 2^k) / 2^k,  the middle of the interval;      dw_k/dw = 1

    Inputs of a layer, each precision with a step s_k of its own, trained as in `LSQ`:

        x_k = s_k round(clip(x / s_k, 0, 2^k - 1)),   -2^(k-1) to 2^(k-1) - 1 where inputs are ever below zero

    Every batch norm is there once for each precision (a norm takes up the scale that weights of k bits would need, too;
    layers without one behind them are warned of). First and last layers stay float and are shared.

    schedule    "up":        1 bit; then 2 with 1, whose loss counts `gamma` times; then 3 with 2 and 1; ...
                             norms of a new precision begin as those of the one below
                "down":      B bits; then B with B - 1; ...; begin as those of the one above
                "together":  all from the beginning
                "residual":  1 bit; then each further bit alone, W_k = W_(k-1) + s_k b_k: what is there of the weights
                             stays bit for bit, and with it the networks of fewer bits; only weights within their
                             intervals, and the norms and steps of the new precision, are trained

    Only weights are stored once, so only they are nested: inputs are rounded, which costs less than the floor. Weights
    have no trained scale, as a norm of their own takes it up. A lower precision learns from labels in "down" as well,
    unless `recursive`.

    The lecture's "FlexNet" names bit-by-bit training, and a batch norm for each precision; no paper of it is known. The
    equations above are this project's own specification; nested floor codes are those of AdaBits (Jin, Yang, Liao,
    CVPR 2020), `recursive` is that of Any-Precision DNN (Yu et al., AAAI 2021).

    layers, ignore   which; all but the first and the last.
    bits             the precisions, 1 to 7, ascending.
    schedule, gamma  as above.
    recursive        a lower precision learns the probabilities that the next higher one of the round gave, not labels.
    norms            "own", or "shared": one for all precisions, to see what that costs.
    reach            how far the grid goes; 2.5 is two standard deviations of normal weights, about what is best for 2
                     and 3 bits.
    images           for the first steps of the inputs.
    train            each training, from a trained network.

    Records: "progressive" (bits, per precision the validation error).
    """

    name: ClassVar[str] = "progressive"
    keeps_zeros: ClassVar[bool] = False
    gives_precisions: ClassVar[bool] = True
    paper: ClassVar[str] = "specification of this project; see AdaBits, CVPR 2020, and Any-Precision DNN, AAAI 2021"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ("first", "last")
    bits: tuple[int, ...] = (1, 2, 3)
    schedule: Literal["up", "down", "together", "residual"] = "up"
    gamma: float = 1.0
    recursive: bool = False
    norms: Literal["own", "shared"] = "own"
    reach: float = 2.5
    images: int = 256
    train: TrainSettings = field(default_factory=lambda: _TRAIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bits, list | tuple):
            raise BitwrightError(f"progressive: bits is {self.bits!r}; expected a list, [1, 2, 3]", kind="setting")
        good = all(type(k) is int and 1 <= k <= MOST_BITS for k in self.bits)
        if not self.bits or not good or list(self.bits) != sorted(set(self.bits)):
            raise BitwrightError(
                f"progressive: bits is {list(self.bits)!r}; expected precisions from 1 to {MOST_BITS} bits, ascending",
                kind="setting",
            )
        check_number("progressive: gamma", self.gamma, lambda g: 0 < g < math.inf, "a number above 0")
        check_number("progressive: reach", self.reach, lambda r: 0 < r < math.inf, "a number above 0")
        if self.schedule == "residual" and (self.recursive or self.norms == "shared"):
            raise BitwrightError(
                "progressive: residual trains one precision at a time and leaves the others as they are; leave out "
                "recursive, and norms: shared",
                kind="setting",
            )

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse networks that have several precisions already."""
        if known := precisions_of(model):
            raise BitwrightError(
                f"progressive: the network has precisions of {', '.join(map(str, known))} bits already; start from the "
                "float network",
                kind="quantised",
            )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        self.look_ahead(model, context.data)
        chosen = plain_layers(model, self.layers, self.ignore)
        ranges = input_ranges(model, chosen, context.calibration(self.images))
        warn_of_order(model, chosen, context.data)
        layers = {name: self._switched(model, name, signed=ranges[name].low < 0) for name in chosen}
        norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
        switches = [edits.replace(model, name, "precisions", bits=list(self.bits)) for name in self._own(norms)]
        with (
            training_inputs(model, layers, lambda name: self._inputs(ranges[name])),
            quantised_weights(layers, lambda name, weight: Nested(max(self.bits), self.reach, weight)),
        ):
            done: list[int] = []
            for stage in self._stages():
                self._begin(stage, done, switches, layers.values())
                with self._only(stage, done, model):
                    context.train(model, self.train, rounds=self._rounds(stage, model))
                done.append(stage.new)
        errors = {}
        for bits in self.bits:
            set_bits(model, bits)
            errors[str(bits)] = context.evaluate(model).error
        set_bits(model, max(self.bits))
        context.record("progressive", {"bits": list(self.bits), "validation_error": errors})
        return model

    def _own(self, norms: list[str]) -> list[str]:
        """The norms that each precision gets for itself."""
        return norms if self.norms == "own" else []

    def _switched(self, model: nn.Module, name: str, signed: bool) -> SwitchConv2d | SwitchLinear:
        new = edits.replace(model, name, "precisions", bits=list(self.bits), signed=signed)
        assert isinstance(new, SwitchConv2d | SwitchLinear)
        return new

    def _inputs(self, found: Range) -> SwitchedInput:
        """First steps by the mean of the numbers that are not zero: half the energy would be lost with all (`LSQ`)."""
        mean = torch.tensor(found.magnitude / (1 - found.zeros if found.zeros < 1 else 1.0))
        ranges = {k: code_range(k, signed=found.low < 0) for k in self.bits}
        return SwitchedInput(
            {k: SteppedInput(first_step(mean, max(high, 1)), low, high) for k, (low, high) in ranges.items()}
        )

    def _stages(self) -> list[Stage]:
        """What is trained, in order."""
        order = list(self.bits if self.schedule in ("up", "residual") else self.bits[::-1])
        if self.schedule == "together":
            return [Stage(order[0], tuple((k, 1.0 if k == order[0] else self.gamma) for k in order))]
        if self.schedule == "residual":
            return [Stage(k, ((k, 1.0),)) for k in order]
        stages = []
        for i, new in enumerate(order):
            others = sorted(order[:i], reverse=True)
            stages.append(Stage(new, ((new, 1.0), *((k, self.gamma) for k in others))))
        return [self._highest_first(stage) for stage in stages] if self.schedule == "down" else stages

    def _highest_first(self, stage: Stage) -> Stage:
        """So that each learns from the next higher one."""
        return Stage(stage.new, tuple(sorted(stage.rounds, reverse=True)))

    def _begin(
        self, stage: Stage, done: Sequence[int], norms: Sequence[nn.Module], layers: Collection[nn.Module]
    ) -> None:
        """Norms of a new precision begin where the last one ended; in "residual" the codes so far stay."""
        if not done:
            return
        for norm in norms:
            assert isinstance(norm, Switch)
            norm.choices[str(stage.new)].load_state_dict(copy.deepcopy(norm.choices[str(done[-1])].state_dict()))
        if self.schedule == "residual":
            for layer in layers:
                nested, latent = attached(layer, "weight")
                assert isinstance(nested, Nested)
                nested.hold(latent, done[-1])

    @contextlib.contextmanager
    def _only(self, stage: Stage, done: Sequence[int], model: nn.Module) -> Iterator[None]:
        """In "residual", after the first stage, only weights and what the new precision has for itself are trained."""
        if self.schedule != "residual" or not done:
            yield
            return
        own: set[nn.Module] = set()
        for module in model.modules():
            if isinstance(module, Switch):
                own |= set(module.choices[str(stage.new)].modules())
            if isinstance(module, SwitchConv2d | SwitchLinear):
                own |= set(module.get_submodule("parametrizations").modules())
        with freezing(module for module in model.modules() if module not in own):
            yield

    def _rounds(self, stage: Stage, model: nn.Module) -> list[Round]:
        return [
            Round(partial(set_bits, model, k), f"{k} bits", weight, follows=self.recursive and i > 0)
            for i, (k, weight) in enumerate(stage.rounds)
        ]
