"""The residual networks of He et al. 2015, "Deep residual learning for image recognition": for CIFAR and for ImageNet.

CIFAR (section 4.2): a 3x3 stem with 16 channels, three stages of n blocks with 16, 32 and 64 channels (the second and
third begin with stride 2), global average pooling, one linear layer: 6n + 2 layers. Shortcuts have no parameters (the
paper's option A). Tensors are named as in the public CIFAR-10 weights, e.g. layer1.0.conv1.weight, so those load as
they are.

ImageNet (section 4.1, 18 and 34 layers): a 7x7 stem of 64 channels with stride 2, max pooling, four stages with 64,
128, 256 and 512 channels, shortcuts with a 1x1 convolution and batch norm where the shape changes (option B). Tensors
are named, and first weights drawn, as in torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from bitwright.models.initialize import he_normal_
from bitwright.models.options import image_shape, whole
from bitwright.models.registry import register_model


class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), both convolutions 3x3."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.stride = stride
        self.extra = channels - channels_in

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """x, or every second pixel of it with half of the new channels as zeros before and half after the old ones."""
        if self.stride == 1 and self.extra == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """The net of `depth` = 6n + 2 layers: (N, C, H, W) -> (N, K). First weights: He normal; biases 0."""

    def __init__(self, depth: int, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        blocks = (depth - 2) // 6
        self.layer1 = _stage(blocks, 16, 16, 1)
        self.layer2 = _stage(blocks, 16, 32, 2)
        self.layer3 = _stage(blocks, 32, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, num_classes)
        he_normal_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, K); any height and width."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.pool(x)))


class ProjectingBlock(Block):
    """The same with a learned shortcut where the shape changes: bn(1x1 convolution)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(channels_in, channels, stride)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or self.extra:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """x in the shape of the result."""
        return self.downsample(x)


class ImageNetResNet(nn.Module):
    """The net with `blocks` blocks in its four stages: (N, C, H, W) -> (N, K).

    First weights: N(0, 2 / fan_out) in convolutions, torch's own in the linear layer.
    """

    def __init__(self, blocks: Sequence[int], input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.conv1 = nn.Conv2d(input_shape[0], 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(blocks[0], 64, 64, 1, ProjectingBlock)
        self.layer2 = _stage(blocks[1], 64, 128, 2, ProjectingBlock)
        self.layer3 = _stage(blocks[2], 128, 256, 2, ProjectingBlock)
        self.layer4 = _stage(blocks[3], 256, 512, 2, ProjectingBlock)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, K); any height and width."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def _stage(blocks: int, channels_in: int, channels: int, stride: int, block: type[Block] = Block) -> nn.Sequential:
    first = block(channels_in, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(blocks - 1)))


def _imagenet(name: str, blocks: Sequence[int], input_shape: Sequence[int], num_classes: int) -> ImageNetResNet:
    return ImageNetResNet(blocks, image_shape(name, input_shape), whole(name, "num_classes", num_classes, 2))


@register_model
def resnet_18(*, input_shape: Sequence[int] = (3, 224, 224), num_classes: int = 1000) -> nn.Module:
    """ImageNet ResNet with 18 layers: 11,689,512 parameters; 30.24 % top-1 error with torchvision's weights."""
    return _imagenet("resnet-18", (2, 2, 2, 2), input_shape, num_classes)


@register_model
def resnet_34(*, input_shape: Sequence[int] = (3, 224, 224), num_classes: int = 1000) -> nn.Module:
    """ImageNet ResNet with 34 layers: 21,797,672 parameters; 26.69 % top-1 error with torchvision's weights."""
    return _imagenet("resnet-34", (3, 4, 6, 3), input_shape, num_classes)


def _resnet(depth: int, input_shape: Sequence[int], num_classes: int) -> ResNet:
    name = f"resnet-{depth}"
    return ResNet(depth, image_shape(name, input_shape), whole(name, "num_classes", num_classes, 2))


@register_model
def resnet_20(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """CIFAR ResNet with 20 layers: 269,722 parameters; 8.75 % error on CIFAR-10 in the paper."""
    return _resnet(20, input_shape, num_classes)


@register_model
def resnet_32(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """CIFAR ResNet with 32 layers: 464,154 parameters; 7.51 % error in the paper."""
    return _resnet(32, input_shape, num_classes)


@register_model
def resnet_44(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """CIFAR ResNet with 44 layers: 658,586 parameters; 7.17 % error in the paper."""
    return _resnet(44, input_shape, num_classes)


@register_model
def resnet_56(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """CIFAR ResNet with 56 layers: 853,018 parameters; 6.97 % error in the paper."""
    return _resnet(56, input_shape, num_classes)


@register_model
def resnet_110(*, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10) -> nn.Module:
    """CIFAR ResNet with 110 layers: 1,727,962 parameters; 6.43 % error in the paper."""
    return _resnet(110, input_shape, num_classes)
