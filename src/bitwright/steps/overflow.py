"""How narrow the accumulators of a quantised network could be: by proof, by what images show, and with overflow."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.measure.accumulators import Needs, Overflow, accumulate
from bitwright.ops import Coded, QuantConv2d, Quantize, QuantLinear, Sign
from bitwright.packing.lattice import Lattice, find_lattice
from bitwright.runtime.domains import Domain
from bitwright.steps.layers import check_bits, check_count, check_number, weight_of
from bitwright.steps.moments import windows
from bitwright.steps.step import Step

if TYPE_CHECKING:
    from bitwright.context import Context

_BATCH = 100  # images
_NARROWEST = 2


@dataclass(frozen=True)
class OverflowSurvey(Step):
    """Look at every integer layer of a quantised model, one at a time, and leave the model as it is.

    Found, in bits of two's complement: what the three constraints ask for (`measure.accumulators`), and the fewest with
    which the network keeps `keep` percent of its accuracy if that layer's sums wrap around, or saturate after every
    addition (channels innermost last, as the weight lies in memory). Fewest is found by halving from what ACT_w asks
    for, as if accuracy never rose with fewer bits. Saturation may need more than ACT_y: partial sums are what it cuts.
    Where all scales are powers of two, integer bits are given, too: bits - 1 - FL_w - FL_d (de Bruin, Zivkovic,
    Corporaal 2020, table of required IL_acc).

    images    of the training split for the largest sums, and of the validation split for accuracy
    keep      percent of the accuracy with exact sums
    together  also the accuracy where all layers have accumulators of so many bits at once, 2 to 32, or null

    Raises BitwrightError for a model without integer layers. Records: "overflow" (accuracy, the rows, and together).
    """

    name: ClassVar[str] = "overflow"
    after: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "de Bruin, Zivkovic, Corporaal, Microprocessors and Microsystems 2020"

    images: int = 500
    keep: float = 99.0
    together: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("overflow: images", self.images, 1)
        if self.together is not None:
            check_bits("overflow: together", self.together, 2, 32)
        check_number("overflow: keep", self.keep, lambda keep: 0 < keep <= 100, "percent, above 0 to 100")

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        layers = _integer_layers(model)
        if not layers:
            raise BitwrightError(
                "overflow: the model has no layer that is computed in whole numbers; quantise it first, for example by "
                "the step `fixed`, with at most 8 bits (wider layers are computed in float32)",
                kind="no-layers",
            )
        context.record("overflow", context.remember("overflow", lambda: self._survey(model.eval(), layers, context)))
        return model

    @torch.no_grad()
    def _survey(self, model: nn.Module, layers: dict[str, _Layer], context: Context) -> dict[str, Any]:
        images, labels = context.held_out(self.images)
        largest = _largest_sums(model, layers, context.calibration(self.images))
        exact = _accuracy(model, images, labels)

        def fewest(layer: _Layer, most: int, overflow: Overflow) -> int:
            low, high = _NARROWEST - 1, most
            while high - low > 1:
                bits = (low + high) // 2
                with layer.overflowing(bits, overflow):
                    kept = _accuracy(model, images, labels) >= self.keep / 100 * exact
                low, high = (low, bits) if kept else (bits, high)
            return high

        def all_at_once(bits: int, overflow: Overflow) -> float:
            with contextlib.ExitStack() as stack:
                for layer in layers.values():
                    stack.enter_context(layer.overflowing(bits, overflow))
                return _accuracy(model, images, labels)

        rows = []
        for name, layer in layers.items():
            needs = layer.needs(largest[name])
            row = {"layer": name, "products": layer.codes.shape[1], "worst_case": needs.worst_case}
            row |= {"act_w": needs.act_w, "act_y": needs.act_y}
            row |= {kind: fewest(layer, needs.act_w, kind) for kind in ("wrap", "clip")}
            rows.append(row | {"fraction_bits": layer.fraction_bits})
        found = {"accuracy": exact, "keep": self.keep, "images": len(images), "layers": rows}
        if (bits := self.together) is not None:
            found["together"] = {"bits": bits} | {kind: all_at_once(bits, kind) for kind in ("wrap", "clip")}
        return found


class _Layer:
    """An integer layer of a model: the whole numbers that it multiplies, and its forward with another accumulator."""

    def __init__(self, layer: QuantConv2d | QuantLinear, domain: Domain, lattice: Lattice) -> None:
        self.layer, self.domain, self.lattice = layer, domain, lattice
        self.groups = getattr(layer, "groups", 1)
        self.codes = torch.from_numpy(lattice.integers).flatten(1).long()

    def needs(self, largest_sum: int) -> Needs:
        """By each constraint; the format's largest code is that of the fewest bits that hold the weights."""
        bits = int(self.codes.abs().max()).bit_length()
        return Needs.of(self.codes, (1 << bits) - 1, self._largest_value, largest_sum)

    @property
    def _largest_value(self) -> int:
        return max(abs(self.domain.low), abs(self.domain.high))

    @property
    def fraction_bits(self) -> int | None:
        """FL_w + FL_d, where every channel has the same power of two for a scale."""
        factors = {math.frexp(float(m * self.domain.scale)) for m in (*self.lattice.positive, *self.lattice.negative)}
        return 1 - next(iter(factors))[1] if len(factors) == 1 and next(iter(factors))[0] == 0.5 else None

    def values(self, x: Tensor) -> list[Tensor]:
        """The whole numbers under each window, (N, K), for each group."""
        m = (self.layer.input(x).float() / float(self.domain.scale)).round()
        return [part.T for part in windows(self.layer, m).chunk(self.groups)]

    def sums(self, x: Tensor, bits: int, overflow: Overflow) -> Tensor:
        """(windows, O)."""
        codes = self.codes.chunk(self.groups)
        pairs = zip(self.values(x), codes, strict=True)
        return torch.cat([accumulate(values.long(), code, bits, overflow) for values, code in pairs], 1)

    @contextlib.contextmanager
    def overflowing(self, bits: int, overflow: Overflow) -> Iterator[None]:
        """While inside, the layer's sums are made in so many bits."""
        plain = self.layer.forward

        def forward(x: Tensor) -> Tensor:
            shape = plain(x).shape
            factor = torch.from_numpy(self.lattice.positive * self.domain.scale)
            y = self.sums(x, bits, overflow).float() * factor
            if self.layer.bias is not None:
                y = y + self.layer.bias
            return y if len(shape) == 2 else y.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

        self.layer.forward = forward  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.layer.forward


def _integer_layers(model: nn.Module) -> dict[str, _Layer]:
    """Those with one magnitude per channel: the sums of ternary weights with two are made apart."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, QuantConv2d | QuantLinear) or not isinstance(module.input, Sign | Quantize | Coded):
            continue
        domain, lattice = module.input.domain(), find_lattice(weight_of(module).detach().float().cpu().numpy())
        if domain is not None and lattice is not None and not lattice.two_magnitudes:
            found[name] = _Layer(module, domain, lattice)
    return found


def _largest_sums(model: nn.Module, layers: dict[str, _Layer], images: Tensor) -> dict[str, int]:
    """The largest magnitude of each layer's sums for the images."""
    largest = dict.fromkeys(layers, 0)
    handles = []
    for name, layer in layers.items():

        def see(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor, name: str = name, layer: _Layer = layer) -> None:
            largest[name] = max(largest[name], int(layer.sums(inputs[0], 32, "wrap").abs().max()))

        handles.append(layer.layer.register_forward_hook(see))
    try:
        for batch in images.split(_BATCH):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return largest


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    found = torch.cat([model(batch).argmax(1) for batch in images.split(_BATCH)])
    return 100 * float((found == labels).double().mean())
