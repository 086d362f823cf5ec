"""Two plain networks for small colour images: cuda-convnet's "quick" one, and an AlexNet of 3x3 convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bitwright.errors import BitwrightError
from bitwright.models.initialize import he_normal_
from bitwright.models.options import image_shape, probability, whole, widths
from bitwright.models.registry import register_model

_SMALLEST = 8


class _Plain(nn.Sequential):
    """conv1 - relu1 - pool1 - ..., flatten, dropout1 - fc1 - ...: (N, C, H, W) -> (N, K)."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.channels, *self.size = input_shape

    def convolve(self, number: int, channels: int, kernel: int, pool: nn.Module | None) -> None:
        """Add a convolution that keeps the image's size, its ReLU, and a pool that halves it."""
        self.add_module(f"conv{number}", nn.Conv2d(self.channels, channels, kernel, padding=kernel // 2))
        self.add_module(f"relu{number}", nn.ReLU())
        self.channels = channels
        if pool is not None:
            self.add_module(f"pool{number}", pool)
            self.size = [(rows + 1) // 2 for rows in self.size]

    def classify(self, hidden: Sequence[int], classes: int, dropout: float, activation: bool) -> None:
        """Add the linear layers."""
        self.flatten = nn.Flatten()
        width = self.channels * self.size[0] * self.size[1]
        for number, units in enumerate([*hidden, classes], start=1):
            self.add_module(f"dropout{number}", nn.Dropout(dropout))
            self.add_module(f"fc{number}", nn.Linear(width, units))
            if activation and number <= len(hidden):
                self.add_module(f"fc_relu{number}", nn.ReLU())
            width = units
        he_normal_(self)


@register_model
def convnet(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, dropout: float = 0.0) -> nn.Module:
    """ConvNet, 32C5 - P - 32C5 - P - 64C5 - P - 64 - 10 (cuda-convnet's quick network): 145,578 parameters.

    Any image of 8x8 or more. P is a 3x3 pool of stride 2, the first of maxima, the others of means; there is no ReLU
    between the two linear layers. `dropout` in front of each of these. First weights: He normal.
    """
    net = _Plain(image_shape("convnet", input_shape, _SMALLEST))
    for number, channels in enumerate((32, 32, 64), start=1):
        net.convolve(number, channels, 5, (nn.MaxPool2d if number == 1 else nn.AvgPool2d)(3, 2, 1))
    rate = probability("convnet", "dropout", dropout)
    net.classify([64], whole("convnet", "num_classes", num_classes, 2), rate, activation=False)
    return net


@register_model
def alexnet_32(
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    channels: Sequence[int] = (64, 192, 384, 256, 256),
    hidden: Sequence[int] = (1024, 1024),
    dropout: float = 0.5,
) -> nn.Module:
    """AlexNet's layers for 32x32 images, with 3x3 kernels: 7,506,762 parameters.

    64C3 - MP - 192C3 - MP - 384C3 - 256C3 - 256C3 - MP - 1024 - 1024 - 10, MP of 2x2, a ReLU behind all but the last
    layer; images of 8x8 or more. channels: of the five convolutions; hidden: of the linear layers; `dropout` in front
    of each linear layer. First weights: He normal.
    """
    name = "alexnet-32"
    sizes = widths(name, "channels", channels)
    if len(sizes) != 5:
        raise BitwrightError(
            f"model {name!r}: channels is {sizes}; expected five numbers, e.g. [64, 192, 384, 256, 256]"
        )
    net = _Plain(image_shape(name, input_shape, _SMALLEST))
    for number, size in enumerate(sizes, start=1):
        net.convolve(number, size, 3, nn.MaxPool2d(2, ceil_mode=True) if number in (1, 2, 5) else None)
    rate = probability(name, "dropout", dropout)
    net.classify(widths(name, "hidden", hidden), whole(name, "num_classes", num_classes, 2), rate, activation=True)
    return net
