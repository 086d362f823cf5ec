"""Layers as products of thinner ones, and what these cost.

A convolution with S inputs, T outputs and D x D kernels, or a linear layer (D = 1), of g groups becomes in order

    first   1 x 1, S -> g R_in                         where the inputs have a rank
    core    D x D, S or g R_in -> T or g R_out         stride, padding and dilation of the layer
    last    1 x 1, g R_out -> T                        where the outputs have a rank

with nothing in between, and the layer's bias on whichever comes last. A matrix is a core and a last: W = last core.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from bitwright import edits
from bitwright.edits import edit
from bitwright.errors import BitwrightError
from bitwright.steps.layers import Shapes

Pair = tuple[int | None, int | None]
"""Of a layer's inputs and outputs, in each group; None: all of them, no factor."""


@edit("factors")
def factors(old: nn.Module, *, inputs: int | None, outputs: int | None, scales: bool = False) -> nn.Sequential:
    """The thin layers that take the place of a layer, their weights yet to be set.

    `scales` puts a linear layer of outputs x outputs weights between core and last. Raises BitwrightError for other
    modules.
    """
    if isinstance(old, nn.Linear) and inputs is None and outputs is not None:
        core, last = _linear(old, old.in_features, outputs), _linear(old, outputs, old.out_features, old.bias)
        middle = {"middle": _linear(old, outputs, outputs)} if scales else {}
        return nn.Sequential(OrderedDict({"core": core, **middle, "last": last}))
    if isinstance(old, nn.Conv2d) and not scales and (inputs or outputs):
        return nn.Sequential(_convolutions(old, inputs, outputs))
    raise BitwrightError(f"a {type(old).__name__} can't be made of factors of rank {inputs} and {outputs}", kind="edit")


def _linear(old: nn.Linear, inputs: int, outputs: int, bias: Tensor | None = None) -> nn.Module:
    new = skip_init(nn.Linear, inputs, outputs, bias is not None, device=old.weight.device)
    return _with_bias(new, bias)


def _convolutions(old: nn.Conv2d, inputs: int | None, outputs: int | None) -> OrderedDict[str, nn.Module]:
    groups, device = old.groups, old.weight.device
    entering = old.in_channels if inputs is None else groups * inputs
    leaving = old.out_channels if outputs is None else groups * outputs
    made: OrderedDict[str, nn.Module] = OrderedDict()
    if inputs is not None:
        made["first"] = skip_init(nn.Conv2d, old.in_channels, entering, 1, groups=groups, bias=False, device=device)
    window = (old.kernel_size, old.stride, old.padding, old.dilation)
    bias = old.bias if outputs is None else None
    core = skip_init(nn.Conv2d, entering, leaving, *window, groups, bias is not None, old.padding_mode, device=device)
    made["core"] = _with_bias(core, bias)
    if outputs is not None:
        last = skip_init(
            nn.Conv2d, leaving, old.out_channels, 1, groups=groups, bias=old.bias is not None, device=device
        )
        made["last"] = _with_bias(last, old.bias)
    return made


def _with_bias(layer: nn.Module, bias: Tensor | None) -> nn.Module:
    if bias is not None and isinstance(layer.bias, Tensor):
        with torch.no_grad():
            layer.bias.copy_(bias)
    return layer


class Parts(NamedTuple):
    """The matrices of thin layers, group by group; None where there is no such layer.

    core     (g, outputs, inputs D D): T or R_out rows of each group
    first    (g, R_in, S / g)
    middle   (1, R_out, R_out), of a linear layer
    last     (g, T / g, R_out)
    """

    core: Tensor
    first: Tensor | None = None
    middle: Tensor | None = None
    last: Tensor | None = None


def factorise(model: nn.Module, path: str, parts: Parts) -> nn.Module:
    """Put thin layers in the place of a layer of the model, recorded as an edit; what comes last has its bias."""
    inputs = None if parts.first is None else parts.first.shape[1]
    outputs = None if parts.last is None else parts.last.shape[2]
    options = {} if parts.middle is None else {"scales": True}
    new = edits.replace(model, path, "factors", inputs=inputs, outputs=outputs, **options)
    fill(new, parts)
    return new


def fill(new: nn.Module, parts: Parts) -> None:
    """Give thin layers that are there other matrices of the same sizes."""
    with torch.no_grad():
        for name, matrix in parts._asdict().items():
            if matrix is not None:
                weight = new.get_submodule(name).weight
                assert isinstance(weight, Tensor)
                weight.copy_(matrix.reshape(weight.shape))


def groups_of(layer: nn.Module) -> int:
    """Of a convolution; a linear layer has one."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def matrices(layer: nn.Module) -> Tensor:
    """The weight as the matrix of each group, (g, T / g, S / g D D), float64."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    groups = groups_of(layer)
    return weight.detach().double().reshape(groups, weight.shape[0] // groups, -1)


def kernel_of(layer: nn.Module) -> Tensor:
    """The weight as the kernels of each group, (g, T / g, S / g, D D), float64."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    groups = groups_of(layer)
    return weight.detach().double().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def weights_with(layer: nn.Module, ranks: Pair, scales: bool = False) -> int:
    """How many weights the layer has with factors of these ranks, biases aside."""
    g, t, s, window = kernel_of(layer).shape
    inputs, outputs = ranks
    r_in, r_out = s if inputs is None else inputs, t if outputs is None else outputs
    first = 0 if inputs is None else s * r_in
    last = 0 if outputs is None else t * r_out
    return g * (first + window * r_in * r_out + last) + (r_out * r_out if scales else 0)


def macs_with(layer: nn.Module, ranks: Pair, shapes: Shapes) -> int:
    """Multiply-accumulates for one image of these shapes, with factors of these ranks."""
    given, output = shapes
    if not isinstance(layer, nn.Conv2d):
        return weights_with(layer, ranks) * math.prod(given[:-1])
    g, t, s, window = kernel_of(layer).shape
    inputs, outputs = ranks
    r_in, r_out = s if inputs is None else inputs, t if outputs is None else outputs
    pixels = math.prod(output[1:])
    first = 0 if inputs is None else s * r_in * math.prod(given[1:])
    last = 0 if outputs is None else t * r_out * pixels
    return g * (first + window * r_in * r_out * pixels + last)
