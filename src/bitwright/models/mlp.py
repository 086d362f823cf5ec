"""Networks of fully connected layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from bitwright.errors import BitwrightError
from bitwright.models.initialize import xavier_
from bitwright.models.options import choice, image_shape, new_activation, probabilities, whole, widths, yes_or_no
from bitwright.models.registry import register_model


class MLP(nn.Sequential):
    """(N, C, H, W) -> (N, K): flatten - dropout, fc1 - norm - activation - dropout, fc2 - ... , a last fc - norm.

    The dropout modules are always there, with p = 0 when unused, so that a step can change p. A layer with a norm has
    no bias: the norm would take it out again. The last layer has no activation.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int],
        dropout: Sequence[float],
        activation: str = "relu",
        norm: bool = False,
        norm_output: bool = False,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), dropout0=nn.Dropout(dropout[0]))
        width, last = math.prod(input_shape), len(hidden) + 1
        for i, units in enumerate([*hidden, num_classes], start=1):
            normed = norm if i < last else norm_output
            layers[f"fc{i}"] = nn.Linear(width, units, bias=not normed)
            if normed:
                layers[f"norm{i}"] = nn.BatchNorm1d(units)
            if i < last:
                layers[f"act{i}"] = new_activation(activation)
                layers[f"dropout{i}"] = nn.Dropout(dropout[i])
            width = units
        super().__init__(layers)
        self.input_shape = input_shape
        xavier_(self)


@register_model
def mlp(
    *,
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    hidden: Sequence[int] = (300, 100),
    dropout: float | Sequence[float] = 0.0,
    activation: str = "relu",
    norm: str | None = None,
    norm_output: bool = False,
) -> nn.Module:
    """Any number of fully connected `hidden` layers, each followed by `norm`, `activation` and `dropout`.

    dropout      one probability for all hidden layers, or a list: one for each, with one for the input before them or
                 not. Where the next layer takes signs, it stands before them
    activation   relu, leaky-relu, hardtanh, tanh, sigmoid, gelu or identity
    norm         "batch": batch norm after each hidden layer, which then has no bias. Default: none
    norm_output  the same after the last layer

    Sizes on MNIST: 300-100 without norm 266,610 parameters. BinaryConnect's net (Courbariaux et al. 2015, section 3.1)
    is hidden 3 x 1024 with ReLU, and batch norm everywhere: 2,916,372. BNN's (Hubara et al. 2016, section 2) is
    3 x 2048 (Torch) or 3 x 4096 (Theano) with hardtanh, and batch norm everywhere: 10,027,028 or 36,831,252.

    First weights: Caffe's xavier (see `xavier_`), Glorot's where two layers are equally wide; within [-1, 1], where
    latent binary weights have to be.
    """
    if norm is not None:
        choice("norm of model 'mlp'", norm, ("batch",))
    elif norm_output:
        raise BitwrightError("model 'mlp': norm_output without a norm; set norm to 'batch'")
    return _mlp("mlp", input_shape, num_classes, hidden, dropout, activation, norm is not None, norm_output)


@register_model
def lenet_300_100(
    *, input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10, dropout: float | Sequence[float] = 0.0
) -> nn.Module:
    """LeNet-300-100: 784-300-100-10 with ReLU, 266,610 parameters (LeCun et al. 1998, section III.C.3).

    dropout: as `mlp` has it.

    First weights: Caffe's xavier (see `xavier_`).
    """
    return _mlp("lenet-300-100", input_shape, num_classes, (300, 100), dropout)


def _mlp(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    hidden: Sequence[int],
    dropout: float | Sequence[float],
    activation: str = "relu",
    norm: bool = False,
    norm_output: bool = False,
) -> MLP:
    units = widths(name, "hidden", hidden)
    places = ["the input", *(f"hidden layer {i}" for i, _ in enumerate(units, start=1))]
    return MLP(
        image_shape(name, input_shape),
        whole(name, "num_classes", num_classes, 2),
        units,
        probabilities(name, dropout, places),
        activation,
        norm,
        yes_or_no(name, "norm_output", norm_output),
    )
