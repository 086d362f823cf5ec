"""LeNet-5 as Caffe defines it, and the wider one with batch norm of ternary weight networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from bitwright.errors import BitwrightError
from bitwright.models.initialize import he_or_glorot_, xavier_
from bitwright.models.options import image_shape, new_activation, probabilities, whole, widths
from bitwright.models.registry import register_model

_SMALLEST = 16  # 16 -5x5-> 12 -pool-> 6 -5x5-> 2 -pool-> 1


class LeNet5(nn.Sequential):
    """20C5 - MP2 - dropout - 50C5 - MP2 - dropout - 500 - ReLU - dropout - K: (N, C, H, W) -> (N, K).

    No ReLU after the convolutions.

    The dropout module is always there, with p = 0 when unused, so that a step can change p.
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int, dropout: Sequence[float]) -> None:
        channels, height, width = input_shape
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 20, 5),
                pool1=nn.MaxPool2d(2),
                dropout1=nn.Dropout(dropout[0]),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                dropout2=nn.Dropout(dropout[1]),
                flatten=nn.Flatten(),
                fc1=nn.Linear(50 * _pixels(height, width), 500),
                relu1=nn.ReLU(),
                dropout3=nn.Dropout(dropout[2]),
                fc2=nn.Linear(500, num_classes),
            )
        )
        self.input_shape = input_shape
        xavier_(self)


class LeNet5BN(nn.Sequential):
    """A C5 - BN - act - MP2 - B C5 - BN - act - MP2 - F - BN - act - K: (N, C, H, W) -> (N, K), BN batch norm.

    Layers with a batch norm have no bias. First weights: see `he_or_glorot_`.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        channels: tuple[int, int],
        hidden: int,
        activation: str,
    ) -> None:
        (first, second), pixels = channels, _pixels(*input_shape[1:])
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(input_shape[0], first, 5, bias=False),
                norm1=nn.BatchNorm2d(first),
                act1=new_activation(activation),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(first, second, 5, bias=False),
                norm2=nn.BatchNorm2d(second),
                act2=new_activation(activation),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(second * pixels, hidden, bias=False),
                norm3=nn.BatchNorm1d(hidden),
                act3=new_activation(activation),
                fc2=nn.Linear(hidden, num_classes),
            )
        )
        self.input_shape = input_shape
        he_or_glorot_(self, activation)


def _pixels(height: int, width: int) -> int:
    """What two 5x5 convolutions and 2x2 poolings leave of an image."""
    rows, columns = (((n - 4) // 2 - 4) // 2 for n in (height, width))
    return rows * columns


@register_model
def lenet_5(
    *, input_shape: Sequence[int] = (1, 28, 28), num_classes: int = 10, dropout: float | Sequence[float] = 0.0
) -> nn.Module:
    """LeNet-5 of Caffe's MNIST example: 431,080 parameters on 28x28 grey images; images of 16x16 or more.

    dropout: a probability after fc1 alone, or three: after pool1, pool2 and fc1. First weights: Caffe's xavier (see
    `xavier_`), as in that example.
    """
    return LeNet5(
        image_shape("lenet-5", input_shape, _SMALLEST),
        whole("lenet-5", "num_classes", num_classes, 2),
        _dropout(dropout),
    )


@register_model
def lenet_5_bn(
    *,
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    channels: Sequence[int] = (32, 64),
    hidden: int = 512,
    activation: str = "relu",
) -> nn.Module:
    """LeNet-5 of ternary weight networks (Li et al. 2016, section 3): 582,634 parameters; images of 16x16 or more.

    32C5 - MP2 - 64C5 - MP2 - 512FC - 10, with batch norm and activation behind all layers but the last, as the authors'
    code has it. channels: of the two convolutions; activation: as `mlp` has it.
    """
    sizes = widths("lenet-5-bn", "channels", channels)
    if len(sizes) != 2:
        raise BitwrightError(f"model 'lenet-5-bn': channels is {sizes}; expected two numbers, e.g. [32, 64]")
    return LeNet5BN(
        image_shape("lenet-5-bn", input_shape, _SMALLEST),
        whole("lenet-5-bn", "num_classes", num_classes, 2),
        (sizes[0], sizes[1]),
        whole("lenet-5-bn", "hidden", hidden),
        activation,
    )


def _dropout(value: float | Sequence[float]) -> tuple[float, ...]:
    given = value if isinstance(value, Sequence) else (0.0, 0.0, value)
    return probabilities("lenet-5", given, ("pool1", "pool2", "fc1"))
