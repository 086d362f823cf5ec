"""Quantised inputs of layers while a method trains them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from bitwright import edits
from bitwright.ops import QuantConv2d, QuantLinear

QuantLayer = QuantConv2d | QuantLinear


def quantise_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], kind: str, qmin: int = 0, qmax: int = 255
) -> dict[str, QuantLayer]:
    """Replace the layers by quantised ones, as edits that checkpoints replay: `Sign` or `Quantize` in front of each."""
    options = {} if kind == "sign" else {"qmin": qmin, "qmax": qmax}
    made = {name: edits.replace(model, name, "quantised", kind=kind, **options) for name in layers}
    return {name: layer for name, layer in made.items() if isinstance(layer, QuantConv2d | QuantLinear)}


@contextlib.contextmanager
def training_inputs(layers: Mapping[str, QuantLayer], make: Callable[[str], nn.Module]) -> Iterator[None]:
    """While inside, make(path) quantises the input of each layer; afterwards the plain quantiser is back.

    make's modules are part of the state_dict, so learnt scales resume with everything else. One that has learnt
    something has a method settle(plain), which writes it into the plain `Sign` or `Quantize` that stays.
    """
    plain = {name: layer.input for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.input = make(name).to(layer.weight.device)
    try:
        yield
    finally:
        for name, layer in layers.items():
            trained, layer.input = layer.input, plain[name]
            with torch.no_grad():
                if callable(settle := getattr(trained, "settle", None)):
                    settle(plain[name])
