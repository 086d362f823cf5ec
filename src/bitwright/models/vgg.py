"""Plain chains of 3x3 convolutions, after VGG (Simonyan and Zisserman 2014), with batch norm, for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bitwright.models.initialize import he_or_glorot_
from bitwright.models.options import image_shape, new_activation, whole, widths, yes_or_no
from bitwright.models.registry import register_model

_STAGES = ((128, 128), (256, 256), (512, 512))


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
    hidden: Sequence[int] = (1024, 1024),
    activation: str = "relu",
    norm_output: bool = True,
) -> nn.Module:
    """2x128C3 - MP2 - 2x256C3 - MP2 - 2x512C3 - MP2 - 2x1024FC - 10, batch norm after each layer.

    14,029,716 parameters; images of 8x8 or more. The CIFAR-10 net of BinaryConnect (Courbariaux et al. 2015, section
    3.2; ReLU) and of BNN (activation "hardtanh"), both with a square hinge loss.

    hidden       sizes of the fully connected layers. Later papers (LQ-Nets, Zhang et al. 2018) have none: []
    activation   as `mlp` has it; in front of signs "hardtanh" or "identity"
    norm_output  whether a batch norm follows the last layer. False where that layer stays float, with a bias
    """
    return _vgg("vgg-small", input_shape, num_classes, hidden, activation, norm_output)


@register_model
def vgg_7(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10, activation: str = "relu") -> nn.Module:
    """2x128C3 - MP2 - 2x256C3 - MP2 - 2x512C3 - MP2 - 1024FC - 10, batch norm between: 12,979,082 parameters.

    The CIFAR-10 net of ternary weight networks (Li et al. 2016, section 3); its last layer is a softmax's, with a bias.
    Images of 8x8 or more; activation as `mlp` has it.
    """
    return _vgg("vgg-7", input_shape, num_classes, (1024,), activation, False)


def _vgg(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    hidden: Sequence[int],
    activation: str,
    norm_output: bool,
) -> VGG:
    return VGG(
        _STAGES,
        widths(name, "hidden", hidden),
        image_shape(name, input_shape, 2 ** len(_STAGES)),
        whole(name, "num_classes", num_classes, 2),
        activation,
        yes_or_no(name, "norm_output", norm_output),
    )
