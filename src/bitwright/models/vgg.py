"""Plain chains of 3x3 convolutions: VGG (Simonyan and Zisserman 2014), and its small ones with batch norm for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bitwright.models.initialize import he_normal_, he_or_glorot_
from bitwright.models.norms import check_norm, new_norm
from bitwright.models.options import image_shape, new_activation, probability, whole, widths, yes_or_no
from bitwright.models.registry import register_model

_CHANNELS = (128, 256, 512)


class VGG(nn.Sequential):
    """Stages of 3x3 convolutions, each ended by MP2, then fully connected layers: (N, C, H, W) -> (N, K).

    conv1 - norm1 - act1, conv2 - pool2 - norm2 - act2, ..., flatten, fc7 - norm7 - act7, ..., a last fc (- norm).
    Layers are numbered through; one with a norm has no bias.

    Pooling directly behind the convolution is BNN's order (Hubara et al. 2016) and also XNOR-Net's (Rastegari et al.
    2016, section 3.2), which counts the same chain from the norm on: batch norm - sign - convolution - pooling.

    First weights: see `he_or_glorot_`.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        hidden: Sequence[int],
        input_shape: tuple[int, int, int],
        num_classes: int,
        activation: str,
        norm_output: bool,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        channels, height, width = input_shape
        number = 0
        for sizes in stages:
            for i, size in enumerate(sizes, start=1):
                number += 1
                self.add_module(f"conv{number}", nn.Conv2d(channels, size, 3, padding=1, bias=False))
                if i == len(sizes):
                    self.add_module(f"pool{number}", nn.MaxPool2d(2))
                self.add_module(f"norm{number}", nn.BatchNorm2d(size))
                self.add_module(f"act{number}", new_activation(activation))
                channels = size
        self.flatten = nn.Flatten()
        features = channels * (height >> len(stages)) * (width >> len(stages))
        for units in hidden:
            number += 1
            self.add_module(f"fc{number}", nn.Linear(features, units, bias=False))
            self.add_module(f"norm{number}", nn.BatchNorm1d(units))
            self.add_module(f"act{number}", new_activation(activation))
            features = units
        self.add_module(f"fc{number + 1}", nn.Linear(features, num_classes, bias=not norm_output))
        if norm_output:
            self.add_module(f"norm{number + 1}", nn.BatchNorm1d(num_classes))
        he_or_glorot_(self, activation)


@register_model
def vgg_small(
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    channels: Sequence[int] = _CHANNELS,
    hidden: Sequence[int] = (1024, 1024),
    activation: str = "relu",
    norm_output: bool = True,
) -> nn.Module:
    """2x128C3 - MP2 - 2x256C3 - MP2 - 2x512C3 - MP2 - 2x1024FC - 10, batch norm after each layer.

    14,029,716 parameters; images of 8x8 or more. The CIFAR-10 net of BinaryConnect (Courbariaux et al. 2015, section
    3.2; ReLU) and of BNN (activation "hardtanh"), both with a square hinge loss.

    channels     of each stage's two convolutions
    hidden       sizes of the fully connected layers. Later papers (LQ-Nets, Zhang et al. 2018) have none: []
    activation   as `mlp` has it; in front of signs "hardtanh" or "identity"
    norm_output  whether a batch norm follows the last layer. False where that layer stays float, with a bias
    """
    return _vgg("vgg-small", input_shape, num_classes, channels, hidden, activation, norm_output)


@register_model
def vgg_7(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, activation: str = "relu") -> nn.Module:
    """2x128C3 - MP2 - 2x256C3 - MP2 - 2x512C3 - MP2 - 1024FC - 10, batch norm between: 12,979,082 parameters.

    The CIFAR-10 net of ternary weight networks (Li et al. 2016, section 3); its last layer is a softmax's, with a bias.
    Images of 8x8 or more; activation as `mlp` has it.
    """
    return _vgg("vgg-7", input_shape, num_classes, _CHANNELS, (1024,), activation, False)


def _vgg(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    channels: Sequence[int],
    hidden: Sequence[int],
    activation: str,
    norm_output: bool,
) -> VGG:
    stages = [(size, size) for size in widths(name, "channels", channels)]
    return VGG(
        stages,
        widths(name, "hidden", hidden),
        image_shape(name, input_shape, 2 ** len(stages)),
        whole(name, "num_classes", num_classes, 2),
        activation,
        yes_or_no(name, "norm_output", norm_output),
    )


class ImageNetVGG(nn.Module):
    """Stages of 3x3 convolutions, each ended by MP2, 7x7 means, linear layers: (N, C, H, W) -> (N, K).

    Tensors are named as in torchvision, also with batch norm. First weights: He normal.
    """

    def __init__(
        self,
        convolutions: Sequence[int],
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int],
        norm: str | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.features, features = nn.Sequential(), input_shape[0]
        for count, channels in zip(convolutions, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                self.features.append(nn.Conv2d(features, channels, 3, padding=1))
                self.features.extend([new_norm(norm, channels), nn.ReLU()] if norm else [nn.ReLU()])
                features = channels
            self.features.append(nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential()
        features *= 49
        for units in hidden:
            self.classifier.extend([nn.Linear(features, units), nn.ReLU(), nn.Dropout(dropout)])
            features = units
        self.classifier.append(nn.Linear(features, num_classes))
        he_normal_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, K); height and width of 32 or more."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def _register_imagenet(layers: int, convolutions: Sequence[int], parameters: int) -> None:
    name = f"vgg-{layers}"

    def vgg(
        *,
        input_shape: Sequence[int] = (3, 224, 224),
        num_classes: int = 1000,
        hidden: Sequence[int] = (4096, 4096),
        norm: str | None = None,
        dropout: float = 0.5,
    ) -> nn.Module:
        return ImageNetVGG(
            convolutions,
            image_shape(name, input_shape, 32),
            whole(name, "num_classes", num_classes, 2),
            widths(name, "hidden", hidden),
            check_norm(name, norm),
            probability(name, "dropout", dropout),
        )

    vgg.__name__ = f"vgg_{layers}"
    vgg.__doc__ = f"""VGG with {layers} layers: {parameters:,} parameters; images of 32x32 or more.

    hidden   sizes of the linear layers before the last
    norm     in front of each ReLU of a convolution: "batch", "layer", "instance", "group" or "local-response". Default:
             none, as in the paper
    dropout  behind the hidden layers
    """
    register_model(vgg)


for _layers, _convolutions, _parameters in (
    (11, (1, 1, 2, 2, 2), 132_863_336),
    (13, (2, 2, 2, 2, 2), 133_047_848),
    (16, (2, 2, 3, 3, 3), 138_357_544),
    (19, (2, 2, 4, 4, 4), 143_667_240),
):
    _register_imagenet(_layers, _convolutions, _parameters)
