"""Networks of fully connected layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from bitwright.errors import BitwrightError
from bitwright.models.initialize import xavier_
from bitwright.models.norms import FEATURE_NORMS, check_norm, new_feature_norm
from bitwright.models.options import image_shape, new_activation, probabilities, whole, widths, yes_or_no
from bitwright.models.registry import register_model


class Maxout(nn.Module):
    """y_c = max of x_j, j = c pieces .. (c + 1) pieces - 1 (Goodfellow et al. 2013, "Maxout networks", section 3)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C pieces, ...) -> (N, C, ...)."""
        return x.unflatten(1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        """What the printed module says."""
        return str(self.pieces)


class MLP(nn.Sequential):
    """(N, C, H, W) -> (N, K): flatten - dropout, fc1 - norm - activation - dropout, fc2 - ... , a last fc - norm.

    The dropout modules are always there, with p = 0 when unused, so that a step can change p. A layer with a norm has
    no bias: the norm would take it out again. The last layer has no activation. With `pieces` a hidden unit is the
    largest of so many sums, in place of the activation.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int],
        dropout: Sequence[float],
        activation: str = "relu",
        norm: str | None = None,
        norm_output: bool = False,
        pieces: int = 1,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), dropout0=nn.Dropout(dropout[0]))
        width, last = math.prod(input_shape), len(hidden) + 1
        for i, units in enumerate([*hidden, num_classes], start=1):
            normed = norm if i < last or norm_output else None
            sums = units * pieces if i < last else units
            layers[f"fc{i}"] = nn.Linear(width, sums, bias=normed is None)
            if normed is not None:
                layers[f"norm{i}"] = new_feature_norm(normed, sums)
            if i < last:
                layers[f"act{i}"] = new_activation(activation) if pieces == 1 else Maxout(pieces)
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
    activation   relu, leaky-relu, elu, gelu, silu, hard-swish, hardtanh, tanh, sigmoid or identity
    norm         "batch", "layer" or "group": after each hidden layer, which then has no bias. Default: none
    norm_output  the same after the last layer

    Sizes on MNIST: 300-100 without norm 266,610 parameters. BinaryConnect's net (Courbariaux et al. 2015, section 3.1)
    is hidden 3 x 1024 with ReLU, and batch norm everywhere: 2,916,372. BNN's (Hubara et al. 2016, section 2) is
    3 x 2048 (Torch) or 3 x 4096 (Theano) with hardtanh, and batch norm everywhere: 10,027,028 or 36,831,252.

    First weights: Caffe's xavier (see `xavier_`), Glorot's where two layers are equally wide; within [-1, 1], where
    latent binary weights have to be.
    """
    if check_norm("mlp", norm, FEATURE_NORMS) is None and norm_output:
        raise BitwrightError("model 'mlp': norm_output without a norm; set norm to 'batch'")
    return _mlp("mlp", input_shape, num_classes, hidden, dropout, activation, norm, norm_output)


@register_model
def lenet_300_100(
    *, input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10, dropout: float | Sequence[float] = 0.0
) -> nn.Module:
    """LeNet-300-100: 784-300-100-10 with ReLU, 266,610 parameters (LeCun et al. 1998, section III.C.3).

    dropout: as `mlp` has it.

    First weights: Caffe's xavier (see `xavier_`).
    """
    return _mlp("lenet-300-100", input_shape, num_classes, (300, 100), dropout)


@register_model
def maxout_mlp(
    *,
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    hidden: Sequence[int] = (240, 240),
    pieces: int = 5,
    dropout: float | Sequence[float] | None = None,
) -> nn.Module:
    """Maxout layers, then a linear one: 1,233,610 parameters (Goodfellow et al. 2013, section 5.1, and its code).

    hidden   units of the maxout layers, each the largest of `pieces` sums
    dropout  as `mlp` has it. Default: 0.2 of the input and 0.5 of the hidden layers, as the authors'
    """
    name = "maxout-mlp"
    places = [0.2, *(0.5 for _ in widths(name, "hidden", hidden))] if dropout is None else dropout
    return _mlp(name, input_shape, num_classes, hidden, places, pieces=whole(name, "pieces", pieces, 2))


def _mlp(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    hidden: Sequence[int],
    dropout: float | Sequence[float],
    activation: str = "relu",
    norm: str | None = None,
    norm_output: bool = False,
    pieces: int = 1,
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
        pieces,
    )
