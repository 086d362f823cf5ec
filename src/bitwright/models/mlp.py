"""Networks of fully connected layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from bitwright.errors import BitwrightError, unknown
from bitwright.models.initialize import xavier_
from bitwright.models.options import image_shape, probabilities, whole
from bitwright.models.registry import register_model

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}


class MLP(nn.Sequential):
    """(N, C, H, W) -> (N, K): flatten - dropout, fc1 - activation - dropout, fc2 - ... , a last fc without activation.

    The dropout modules are always there, with p = 0 when unused, so that a step can change p.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int],
        dropout: Sequence[float],
        activation: str,
    ) -> None:
        if activation not in _ACTIVATIONS:
            raise unknown("activation", activation, _ACTIVATIONS)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), dropout0=nn.Dropout(dropout[0]))
        width = math.prod(input_shape)
        for i, units in enumerate(hidden, start=1):
            layers[f"fc{i}"] = nn.Linear(width, units)
            layers[f"act{i}"] = _ACTIVATIONS[activation]()
            layers[f"dropout{i}"] = nn.Dropout(dropout[i])
            width = units
        layers[f"fc{len(hidden) + 1}"] = nn.Linear(width, num_classes)
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
) -> nn.Module:
    """Any number of fully connected `hidden` layers, each followed by `activation` and `dropout`.

    dropout: one probability for all hidden layers, or a list: one for each, with one for the input before them or not.

    activation: relu, leaky-relu, tanh, sigmoid, gelu or identity. First weights: Caffe's xavier (see `xavier_`).
    """
    return _mlp("mlp", input_shape, num_classes, hidden, dropout, activation)


@register_model
def lenet_300_100(
    *, input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10, dropout: float | Sequence[float] = 0.0
) -> nn.Module:
    """LeNet-300-100: 784-300-100-10 with ReLU, 266,610 parameters (LeCun et al. 1998, section III.C.3).

    dropout: as `mlp` has it.

    First weights: Caffe's xavier (see `xavier_`).
    """
    return _mlp("lenet-300-100", input_shape, num_classes, (300, 100), dropout, "relu")


def _mlp(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    hidden: Sequence[int],
    dropout: float | Sequence[float],
    activation: str,
) -> MLP:
    if not isinstance(hidden, (list, tuple)):
        raise BitwrightError(f"model {name!r}: hidden is {hidden!r}; expected a list of layer widths, e.g. [300, 100]")
    places = ["the input", *(f"hidden layer {i}" for i, _ in enumerate(hidden, start=1))]
    return MLP(
        image_shape(name, input_shape),
        whole(name, "num_classes", num_classes, 2),
        [whole(name, "hidden", units) for units in hidden],
        probabilities(name, dropout, places),
        activation,
    )
