"""LeNet-5 as Caffe defines it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from bitwright.models.initialize import xavier_
from bitwright.models.options import image_shape, probabilities, whole
from bitwright.models.registry import register_model

_SMALLEST = 16  # 16 -5x5-> 12 -pool-> 6 -5x5-> 2 -pool-> 1


class LeNet5(nn.Sequential):
    """20C5 - MP2 - dropout - 50C5 - MP2 - dropout - 500 - ReLU - dropout - K: (N, C, H, W) -> (N, K).

    No ReLU after the convolutions.

    The dropout module is always there, with p = 0 when unused, so that a step can change p.
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int, dropout: Sequence[float]) -> None:
        channels, height, width = input_shape
        rows, columns = (((n - 4) // 2 - 4) // 2 for n in (height, width))
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 20, 5),
                pool1=nn.MaxPool2d(2),
                dropout1=nn.Dropout(dropout[0]),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                dropout2=nn.Dropout(dropout[1]),
                flatten=nn.Flatten(),
                fc1=nn.Linear(50 * rows * columns, 500),
                relu1=nn.ReLU(),
                dropout3=nn.Dropout(dropout[2]),
                fc2=nn.Linear(500, num_classes),
            )
        )
        self.input_shape = input_shape
        xavier_(self)


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


def _dropout(value: float | Sequence[float]) -> tuple[float, ...]:
    given = value if isinstance(value, Sequence) else (0.0, 0.0, value)
    return probabilities("lenet-5", given, ("pool1", "pool2", "fc1"))
