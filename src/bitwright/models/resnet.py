"""The residual networks of He et al. 2015, "Deep residual learning for image recognition": for CIFAR and for ImageNet.

CIFAR (section 4.2): a 3x3 stem with 16 channels, three stages of n blocks with 16, 32 and 64 channels (the second and
third begin with stride 2), global average pooling, one linear layer: 6n + 2 layers. Tensors are named as in the public
CIFAR-10 weights, e.g. layer1.0.conv1.weight, so those load as they are.

ImageNet (section 4.1): a 7x7 stem of 64 channels with stride 2, max pooling, four stages with 64, 128, 256 and 512
channels, or four times as many, of bottlenecks (50 layers and more); shortcuts with a 1x1 convolution and batch norm
where the shape changes (option B). Tensors are named, and first weights drawn, as in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from bitwright.errors import BitwrightError
from bitwright.models.blocks import (
    BasicBlock,
    BiRealBlock,
    Bottleneck,
    PlainBlock,
    PreActivationBlock,
    ReActBlock,
    Residual,
)
from bitwright.models.initialize import he_normal_
from bitwright.models.norms import check_norm, least_rows, new_norm, wants_bias
from bitwright.models.options import choice, image_shape, new_activation, smallest, whole
from bitwright.models.registry import register_model

_ACTIVATIONS = {
    "basic": "relu",
    "plain": "relu",
    "pre-activation": "relu",
    "bireal": "identity",
    "react": "identity",
}
"""The blocks that CIFAR ResNets can be made of, with the activation that each has in its source."""


class ResNet(nn.Module):
    """The net of `depth` = 6n + 2 layers: (N, C, H, W) -> (N, K). First weights: He normal; biases 0.

    Before the stages: convolution, batch norm, activation. With pre-activation this is also the first block's, which
    has none of its own, and batch norm and activation follow the last block (He et al. 2016, appendix).
    """

    def __init__(
        self,
        depth: int,
        input_shape: tuple[int, int, int],
        num_classes: int,
        block: str = "basic",
        downsample: str = "pad",
        activation: str = "relu",
        norm: str | None = "batch",
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=wants_bias(norm))
        self.bn1 = new_norm(norm, 16)
        self.relu = new_activation(activation)
        make, blocks = _maker(block, downsample, activation, norm), (depth - 2) // 6
        self.layer1 = _stage(blocks, 16, 16, 1, make)
        self.layer2 = _stage(blocks, 16, 32, 2, make)
        self.layer3 = _stage(blocks, 32, 64, 2, make)
        self.last = nn.Sequential()
        if block == "pre-activation":
            self.layer1[0].bn1, self.layer1[0].relu1 = nn.Identity(), nn.Identity()
            self.last = nn.Sequential(nn.BatchNorm2d(64), new_activation(activation))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, num_classes)
        he_normal_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, K); any height and width."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.last(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.flatten(self.pool(x)))


def _maker(block: str, downsample: str, activation: str, norm: str | None) -> Callable[[int, int, int], Residual]:
    """What makes a block of (channels_in, channels, stride)."""
    if block in ("basic", "plain"):
        return partial(
            PlainBlock if block == "plain" else BasicBlock, downsample=downsample, activation=activation, norm=norm
        )
    if block == "react":
        return partial(ReActBlock, downsample=downsample)
    kinds = {"pre-activation": PreActivationBlock, "bireal": BiRealBlock}
    return partial(kinds[block], downsample=downsample, activation=activation)


def _stage(
    blocks: int, channels_in: int, channels: int, stride: int, make: Callable[[int, int, int], Residual]
) -> nn.Sequential:
    return nn.Sequential(make(channels_in, channels, stride), *(make(channels, channels, 1) for _ in range(blocks - 1)))


class ImageNetResNet(nn.Module):
    """The net with `blocks` blocks in its four stages, bottlenecks or not: (N, C, H, W) -> (N, K).

    First weights: N(0, 2 / fan_out) in convolutions, torch's own in the linear layer.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        bottleneck: bool,
        input_shape: tuple[int, int, int],
        num_classes: int,
        norm: str | None,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.conv1 = nn.Conv2d(input_shape[0], 64, 7, 2, padding=3, bias=wants_bias(norm))
        self.bn1 = new_norm(norm, 64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        make: Callable[[int, int, int], Residual] = partial(
            Bottleneck if bottleneck else BasicBlock, downsample="conv", norm=norm
        )
        wider = 4 if bottleneck else 1
        self.layer1 = _stage(blocks[0], 64, 64 * wider, 1, make)
        self.layer2 = _stage(blocks[1], 64 * wider, 128 * wider, 2, make)
        self.layer3 = _stage(blocks[2], 128 * wider, 256 * wider, 2, make)
        self.layer4 = _stage(blocks[3], 256 * wider, 512 * wider, 2, make)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512 * wider, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, K); any height and width."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def _register_imagenet(layers: int, blocks: Sequence[int], parameters: int, error: float) -> None:
    name = f"resnet-{layers}"

    def resnet(
        *, input_shape: Sequence[int] = (3, 224, 224), num_classes: int = 1000, norm: str | None = "batch"
    ) -> nn.Module:
        least = smallest(lambda rows: -(-rows // 32), least_rows(check_norm(name, norm)))
        shape, classes = image_shape(name, input_shape, least), whole(name, "num_classes", num_classes, 2)
        return ImageNetResNet(blocks, layers >= 50, shape, classes, norm)

    resnet.__name__ = f"resnet_{layers}"
    resnet.__doc__ = f"""ImageNet ResNet with {layers} layers: {parameters:,} parameters.

    {error} % top-1 error with torchvision's first weights.

    norm  behind each convolution: "batch", "layer", "instance", "group", "local-response" or none
    """
    register_model(resnet)


for _depth, _blocks, _parameters, _error in (
    (18, (2, 2, 2, 2), 11_689_512, 30.24),
    (34, (3, 4, 6, 3), 21_797_672, 26.69),
    (50, (3, 4, 6, 3), 25_557_032, 23.87),
    (101, (3, 4, 23, 3), 44_549_160, 22.63),
    (152, (3, 8, 36, 3), 60_192_808, 21.69),
):
    _register_imagenet(_depth, _blocks, _parameters, _error)


def _cifar(
    depth: int,
    input_shape: Sequence[int],
    num_classes: int,
    block: str,
    downsample: str,
    activation: str | None,
    norm: str | None,
) -> ResNet:
    name = f"resnet-{depth}"
    own = _ACTIVATIONS[choice(f"block of model {name!r}", block, _ACTIVATIONS)]
    if block == "react" and activation is not None:
        raise BitwrightError(
            f"model {name!r}: block 'react' learns its activation; leave out activation={activation!r}"
        )
    if block == "plain" and downsample != "pad":
        raise BitwrightError(f"model {name!r}: block 'plain' has no shortcuts; leave out downsample={downsample!r}")
    if block not in ("basic", "plain") and norm != "batch":
        raise BitwrightError(f"model {name!r}: block {block!r} has batch norm only, not norm={norm!r}")
    return ResNet(
        depth,
        image_shape(name, input_shape, smallest(lambda rows: -(-rows // 4), least_rows(check_norm(name, norm)))),
        whole(name, "num_classes", num_classes, 2),
        block,
        choice(f"downsample of model {name!r}", downsample, ("pad", "conv")),
        own if activation is None else activation,
        norm,
    )


def _register_cifar(depth: int, parameters: int, reported: str) -> None:
    def resnet(
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        block: str = "basic",
        downsample: str = "pad",
        activation: str | None = None,
        norm: str | None = "batch",
    ) -> nn.Module:
        return _cifar(depth, input_shape, num_classes, block, downsample, activation, norm)

    resnet.__name__ = f"resnet_{depth}"
    resnet.__doc__ = f"""CIFAR ResNet with {depth} layers: {parameters:,} parameters; {reported}.

    block       the order within blocks, see `models/blocks.py`: "basic", "pre-activation", "bireal", "react", or
                "plain": "basic" without shortcuts
    downsample  shortcuts where the shape changes: "pad" (option A, no parameters) or "conv" (1x1, with batch norm)
    activation  as `mlp` has it. Default: the block's own, ReLU for "basic" and "pre-activation", none for "bireal"
    norm        behind each convolution: "batch", and in "basic" and "plain" ones "layer", "instance", "group" or none
    """
    register_model(resnet)


for _depth, _parameters, _reported in (
    (14, 172_506, "not in the paper"),
    (20, 269_722, "8.75 % error in the paper"),
    (32, 464_154, "7.51 % error in the paper"),
    (44, 658_586, "7.17 % error in the paper"),
    (56, 853_018, "6.97 % error in the paper"),
    (110, 1_727_962, "6.43 % error in the paper"),
):
    _register_cifar(_depth, _parameters, _reported)
