"""One network at several precisions: what it has once, and what each precision has for itself.

Layers keep their weights at the highest precision; those of k bits are the top k bits of the same codes (see
`packing.nested`). Each precision has its own quantisers of activations and its own batch norms. `set_bits` switches the
network, `at_bits` gives the plain network of one precision.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright import edits
from bitwright.edits import edit
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d, Quantize, QuantLinear, code_range, quantised_forward, quantised_like
from bitwright.packing.nested import codes
from bitwright.runtime.domains import Domain

__all__ = ["Switch", "SwitchConv2d", "SwitchLinear", "at_bits", "in_use", "precisions_of", "set_bits", "truncated"]


class Switch(nn.Module):
    """A module for each precision, of which the one of `bits` is used; the highest unless told otherwise."""

    def __init__(self, choices: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.choices = nn.ModuleDict({str(bits): choices[bits] for bits in sorted(choices)})
        self.bits = max(choices)

    @property
    def choice(self) -> nn.Module:
        """The module in use."""
        return self.choices[str(self.bits)]

    def forward(self, x: Tensor) -> Tensor:
        """What the module in use gives."""
        result: Tensor = self.choice(x)
        return result

    def domain(self) -> Domain | None:
        """What the numbers of a quantiser are, as whole numbers times a scale."""
        found = getattr(self.choice, "domain", None)
        domain: Domain | None = found() if callable(found) else None
        return domain


class _Switched(nn.Module):
    """A quantised layer whose weight has `top` bits and is used with `bits`."""

    weight: Tensor
    top: int
    bits: int

    def current(self) -> Tensor:
        """The weight of the precision in use."""
        return truncated(self.weight, self.top, self.bits)


class SwitchConv2d(_Switched, QuantConv2d):
    """A `QuantConv2d` of several precisions."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        return quantised_forward(self, x, self.current(), self._conv_forward)


class SwitchLinear(_Switched, QuantLinear):
    """A `QuantLinear` of several precisions."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return quantised_forward(self, x, self.current(), F.linear)


class _Truncate(torch.autograd.Function):
    """The numbers of `packing.nested.truncated`, bit for bit; the gradient passes as if nothing were cut off."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, top: int, bits: int) -> Tensor:
        step = weight.abs().max() / ((1 << top) - 1)
        if step == 0:
            return weight.clone()
        codes = ((weight / step + ((1 << top) - 1)) / 2).round_().to(torch.int16)
        return (2 * (codes >> (top - bits)) + (1 - (1 << bits))).to(weight.dtype) * (step * (1 << (top - bits)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


def truncated(weight: Tensor, top: int, bits: int) -> Tensor:
    """The weight of `bits` bits from one on the nested grid of `top` bits, float32, of any shape.

    With step s = max |w| / (2^top - 1), w = s (2 c + 1 - 2^top) becomes 2^(top - bits) s (2 (c >> (top - bits)) + 1 -
    2^bits); dw_k/dw = 1.
    """
    if bits == top:
        return weight
    result: Tensor = _Truncate.apply(weight, top, bits)
    return result


@edit("precisions")
def _several(old: nn.Module, *, bits: Sequence[int], signed: bool = False) -> nn.Module:
    """A convolution or linear layer with weights and inputs of several precisions, or a batch norm for each of them.

    All norms begin as copies of the old one. Raises BitwrightError for other modules.
    """
    if isinstance(old, _BatchNorm):
        return Switch({k: copy.deepcopy(old) for k in bits})
    quantisers = Switch({k: Quantize(1.0, 0, *code_range(k, signed)) for k in bits})
    new = quantised_like(old, quantisers, SwitchConv2d, SwitchLinear)
    assert isinstance(new, SwitchConv2d | SwitchLinear)
    new.top = new.bits = max(bits)
    return new


@edit("one-precision")
def _one(old: nn.Module, *, bits: int) -> nn.Module:
    """What a module of several precisions is at one of them. Raises BitwrightError for other modules."""
    if isinstance(old, Switch):
        return copy.deepcopy(old.choices[str(bits)])
    if not isinstance(old, SwitchConv2d | SwitchLinear) or not isinstance(old.input, Switch):
        raise BitwrightError(f"a {type(old).__name__} has one precision only", kind="edit")
    new = quantised_like(old, copy.deepcopy(old.input.choices[str(bits)]))
    new.weight = nn.Parameter(truncated(old.weight.detach(), old.top, bits), old.weight.requires_grad)
    return new


def precisions_of(model: nn.Module) -> tuple[int, ...]:
    """The bits of a network of several precisions, ascending; () of any other."""
    switch = _first_switch(model)
    return () if switch is None else tuple(map(int, switch.choices))


def refuse_precisions(model: nn.Module, who: str) -> None:
    """Raise BitwrightError for a network of several precisions, whose common codes `who` would take apart."""
    if known := precisions_of(model):
        raise BitwrightError(
            f"{who}: the network has precisions of {', '.join(map(str, known))} bits, and their common codes would be "
            "taken apart; do it before `progressive`",
            kind="quantised",
        )


def _first_switch(model: nn.Module) -> Switch | None:
    modules = model.modules() if isinstance(model, nn.Module) else ()  # what is none, exporting refuses
    layers = (module for module in modules if isinstance(module, SwitchConv2d | SwitchLinear))
    found = (part for layer in layers for part in layer.input.modules() if isinstance(part, Switch))
    return next(found, None)  # in training it may have a dropout behind it


def in_use(model: nn.Module) -> nn.Module:
    """The plain network that a network of several precisions is now; any other as it is."""
    switch = _first_switch(model)
    return model if switch is None else at_bits(model, switch.bits)


def set_bits(model: nn.Module, bits: int) -> None:
    """Switch a network of several precisions, in place. Raises BitwrightError for bits that it has not."""
    _check(model, bits)
    for module in model.modules():
        if isinstance(module, Switch | _Switched):
            module.bits = bits


def at_bits(model: nn.Module, bits: int) -> nn.Module:
    """A copy of a network of several precisions as the plain network of one.

    Raises BitwrightError as `set_bits`, and for a layer whose weights are on no common grid.
    """
    _check(model, bits)
    for name, layer in model.named_modules():
        if isinstance(layer, _Switched) and codes(layer.weight.detach().cpu().numpy(), layer.top) is None:
            raise BitwrightError(
                f"layer {name!r}: its weights are not on the grid of {layer.top} bits, so none has a code whose first "
                "bits are those of fewer; what changes weights, as steps and training do, has to come before they are "
                "made",
                kind="bits",
            )
    plain = copy.deepcopy(model)
    for kind in (_Switched, Switch):  # layers first: they bring their quantisers
        for name in [name for name, module in plain.named_modules() if isinstance(module, kind)]:
            edits.replace(plain, name, "one-precision", bits=bits)
    return plain


def _check(model: nn.Module, bits: int) -> None:
    known = precisions_of(model)
    if type(bits) is not int or bits not in known:
        raise BitwrightError(
            f"{type(model).__name__} has no precision of {bits!r} bits, only "
            f"{', '.join(map(str, known)) or 'the one it computes with'}",
            kind="bits",
        )
