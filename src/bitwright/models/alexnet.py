"""AlexNet (Krizhevsky et al. 2012) in its three forms, and ZFNet: five convolutions, then linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bitwright.models.initialize import he_normal_
from bitwright.models.norms import check_norm, new_norm, wants_bias
from bitwright.models.options import image_shape, probability, smallest, whole, widths
from bitwright.models.registry import register_model

_NORMED, _POOLED = (1, 2), (1, 2, 5)


@dataclass(frozen=True)
class Form:
    """What sets the forms apart; convolutions are (channels, kernel, stride, padding), pools 3x3 with stride 2.

    `groups` divides the second, fourth and fifth one. `pool_first`: the local response norm follows the pool.
    """

    first: tuple[int, int, int, int]
    second: tuple[int, int, int, int]
    others: tuple[int, int, int]
    groups: int = 1
    pool_first: bool = False
    ceil: bool = True

    def convolution(self, number: int, channels_in: int, bias: bool = True) -> nn.Conv2d:
        """That of this number, from 1 on."""
        windows = [self.first, self.second, *((channels, 3, 1, 1) for channels in self.others)]
        channels, kernel, stride, padding = windows[number - 1]
        groups = self.groups if number in (2, 4, 5) else 1
        return nn.Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=bias)

    def pool(self) -> nn.MaxPool2d:
        """A pool of it."""
        return nn.MaxPool2d(3, 2, ceil_mode=self.ceil)

    def size(self, size: int) -> int:
        """Rows that are left of `size` behind the last pool; 0 or less for an image that is too small."""
        for _, kernel, stride, padding in (self.first, self.second):
            size = (size + 2 * padding - kernel) // stride + 1
            size = self._pooled(size)
        return self._pooled(size)

    def _pooled(self, size: int) -> int:
        return (-(-(size - 3) // 2) if self.ceil else (size - 3) // 2) + 1


TORCHVISION = Form((64, 11, 4, 2), (192, 5, 1, 2), (384, 256, 256), ceil=False)
CAFFE = Form((96, 11, 4, 0), (256, 5, 1, 2), (384, 384, 256), groups=2)
LECTURE = Form((96, 11, 4, 0), (256, 5, 1, 2), (384, 384, 256), pool_first=True)
ZFNET = Form((96, 7, 2, 1), (256, 5, 2, 0), (384, 384, 256), pool_first=True)


class AlexNet(nn.Module):
    """One tower (Krizhevsky 2014, "One weird trick", as torchvision has it): (N, C, H, W) -> (N, K).

    64C11/4 - norm - MP - 192C5 - norm - MP - 384C3 - 256C3 - 256C3 - MP - 6x6 means - 4096 - 4096 - K, with ReLU and
    dropout. Tensors are named as in torchvision; those of norms are features.norm1 and features.norm2. First weights:
    He normal.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int],
        norm: str | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.features, channels, place = nn.Sequential(), input_shape[0], 0
        for number in range(1, 6):
            layers = _convolution(TORCHVISION, number, channels, norm)
            for name, module in layers.items():  # numbers as in torchvision, which has no norms
                self.features.add_module(name if name.startswith("norm") else str(place), module)
                place += not name.startswith("norm")
            channels = layers[f"conv{number}"].out_channels  # type: ignore[assignment]
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential()
        features = channels * 36
        for units in hidden:
            self.classifier.extend([nn.Dropout(dropout), nn.Linear(features, units), nn.ReLU()])
            features = units
        self.classifier.append(nn.Linear(features, num_classes))
        he_normal_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, K); height and width of 63 or more."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


class FiveConvolutions(nn.Sequential):
    """conv1 - relu1 - norm1 - pool1, conv2 ..., fc6 - relu6 - dropout6, fc7 ..., a last fc: (N, C, H, W) -> (N, K).

    Names and orders are Caffe's; the linear layers fit the image. First weights: He normal.
    """

    def __init__(
        self,
        form: Form,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int],
        norm: str | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        channels, height, width = input_shape
        for number in range(1, 6):
            layers = _convolution(form, number, channels, norm)
            for name, module in layers.items():
                self.add_module(name, module)
            channels = layers[f"conv{number}"].out_channels  # type: ignore[assignment]
        self.flatten = nn.Flatten()
        features, number = channels * form.size(height) * form.size(width), 6
        for units in hidden:
            self.add_module(f"fc{number}", nn.Linear(features, units))
            self.add_module(f"relu{number}", nn.ReLU())
            self.add_module(f"dropout{number}", nn.Dropout(dropout))
            features, number = units, number + 1
        self.add_module(f"fc{number}", nn.Linear(features, num_classes))
        he_normal_(self)


def _convolution(form: Form, number: int, channels_in: int, norm: str | None) -> dict[str, nn.Module]:
    """A convolution and what follows it, in order: a local response norm behind the ReLU, others in front of it."""
    norm = norm if number in _NORMED else None
    convolution = form.convolution(number, channels_in, wants_bias(norm))
    layers: dict[str, nn.Module] = {f"conv{number}": convolution, f"relu{number}": nn.ReLU()}
    if norm:
        layers[f"norm{number}"] = new_norm(norm, convolution.out_channels)
    if number in _POOLED:
        layers[f"pool{number}"] = form.pool()
    order = ["conv", "relu", "pool", "norm"] if form.pool_first else ["conv", "relu", "norm", "pool"]
    order = order if wants_bias(norm) else ["conv", "norm", "relu", "pool"]
    return {name: layers[name] for kind in order if (name := f"{kind}{number}") in layers}


@register_model
def alexnet(
    *,
    input_shape: Sequence[int] = (3, 224, 224),
    num_classes: int = 1000,
    hidden: Sequence[int] = (4096, 4096),
    norm: str | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """AlexNet in one tower, as torchvision has it: 61,100,840 parameters; images of 63x63 or more.

    hidden   sizes of the linear layers before the last
    norm     behind the first two convolutions: "local-response", "batch", "layer", "instance" or "group". Default:
             none, as in torchvision
    dropout  of the inputs of the hidden layers
    """
    name = "alexnet"
    return AlexNet(
        image_shape(name, input_shape, smallest(TORCHVISION.size)),
        whole(name, "num_classes", num_classes, 2),
        widths(name, "hidden", hidden),
        check_norm(name, norm),
        probability(name, "dropout", dropout),
    )


def _caffe(
    name: str,
    form: Form,
    input_shape: Sequence[int],
    num_classes: int,
    hidden: Sequence[int],
    norm: str | None,
    dropout: float,
) -> FiveConvolutions:
    return FiveConvolutions(
        form,
        image_shape(name, input_shape, smallest(form.size)),
        whole(name, "num_classes", num_classes, 2),
        widths(name, "hidden", hidden),
        check_norm(name, norm),
        probability(name, "dropout", dropout),
    )


@register_model
def alexnet_caffe(
    *,
    input_shape: Sequence[int] = (3, 227, 227),
    num_classes: int = 1000,
    hidden: Sequence[int] = (4096, 4096),
    norm: str | None = "local-response",
    dropout: float = 0.5,
) -> nn.Module:
    """AlexNet in two groups, as Caffe has it and the papers on compression use it: 60,965,224 parameters.

    96C11/4 - norm - MP - 256C5 - norm - MP - 384C3 - 384C3 - 256C3 - MP - 4096 - 4096 - K; images of 39x39 or more.
    Options as `alexnet`. The local response is the paper's, with k = 2 and the sum itself times 1e-4; that of
    Caffe's model file has k = 1 and the mean.
    """
    return _caffe("alexnet-caffe", CAFFE, input_shape, num_classes, hidden, norm, dropout)


@register_model
def alexnet_227(
    *,
    input_shape: Sequence[int] = (3, 227, 227),
    num_classes: int = 1000,
    hidden: Sequence[int] = (4096, 4096),
    norm: str | None = "local-response",
    dropout: float = 0.5,
) -> nn.Module:
    """AlexNet as lectures draw it, 227x227 pixels, 96 filters, no groups: 62,378,344 parameters.

    As `alexnet-caffe`, but the norms follow the pools; images of 39x39 or more. Options as `alexnet`.
    """
    return _caffe("alexnet-227", LECTURE, input_shape, num_classes, hidden, norm, dropout)


@register_model
def zfnet(
    *,
    input_shape: Sequence[int] = (3, 224, 224),
    num_classes: int = 1000,
    hidden: Sequence[int] = (4096, 4096),
    norm: str | None = "local-response",
    dropout: float = 0.5,
) -> nn.Module:
    """ZFNet (Zeiler and Fergus 2013, figure 3): AlexNet with a finer first layer: 62,357,608 parameters.

    96C7/2 - MP - norm - 256C5/2 - MP - norm - 384C3 - 384C3 - 256C3 - MP - 4096 - 4096 - K; images of 47x47 or
    more. Options as `alexnet`.
    """
    return _caffe("zfnet", ZFNET, input_shape, num_classes, hidden, norm, dropout)
