"""GoogLeNet (Szegedy et al. 2014, "Going deeper with convolutions"), with batch norm as torchvision has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from bitwright.models.initialize import he_normal_
from bitwright.models.norms import check_norm, least_rows, new_norm, wants_bias
from bitwright.models.options import choice, image_shape, probability, smallest, whole, yes_or_no
from bitwright.models.registry import register_model

_EPSILON = 1e-3  # of torchvision's norms here
_MODULES = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
"""Channels (table 1): of 1x1; of the 1x1 before 3x3, and 3x3; of the 1x1 before 5x5, and 5x5; behind the pool."""
_POOLS = {"inception3b": "maxpool3", "inception4e": "maxpool4"}
_HEADS = {"inception4a": "aux1", "inception4d": "aux2"}


def _rows(rows: int) -> int:
    """What the stem and the pools leave of so many rows."""
    rows = (rows - 1) // 2 + 1
    for kernel in (3, 3, 3, 2):
        rows = -(-(rows - kernel) // 2) + 1
    return rows


class ConvNorm(nn.Module):
    """relu(bn(conv(x)))."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, norm: str | None, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=wants_bias(norm))
        self.bn = new_norm(norm, channels, _EPSILON)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ...)."""
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches beside each other, their channels one behind the other.

    reduced  1x1; 1x1 - 3x3; 1x1 - 3x3 (torchvision's, where the paper has 5x5); MP3 - 1x1 (figure 2b)
    naive    1x1; 3x3; 5x5; MP3, which passes all channels on (figure 2a)

    `channels`: of the result.
    """

    def __init__(self, channels_in: int, sizes: Sequence[int], reduced: bool, norm: str | None) -> None:
        super().__init__()
        one, three_reduced, three, five_reduced, five, projected = sizes
        self.branch1 = ConvNorm(channels_in, one, 1, norm)
        pool = nn.MaxPool2d(3, 1, padding=1, ceil_mode=True)
        self.branch2: nn.Module
        self.branch3: nn.Module
        if reduced:
            self.branch2, self.branch3 = (
                nn.Sequential(ConvNorm(channels_in, narrow, 1, norm), ConvNorm(narrow, wide, 3, norm, padding=1))
                for narrow, wide in ((three_reduced, three), (five_reduced, five))
            )
            self.branch4 = nn.Sequential(pool, ConvNorm(channels_in, projected, 1, norm))
        else:
            self.branch2 = ConvNorm(channels_in, three, 3, norm, padding=1)
            self.branch3 = ConvNorm(channels_in, five, 5, norm, padding=2)
            self.branch4 = nn.Sequential(pool)
        self.channels = one + three + five + (projected if reduced else channels_in)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """4x4 means - 128C1 - 1024 - dropout - K: a classifier halfway (section 5)."""

    def __init__(self, channels_in: int, num_classes: int, dropout: float, norm: str | None) -> None:
        super().__init__()
        self.conv = ConvNorm(channels_in, 128, 1, norm)
        self.fc1 = nn.Linear(2048, 1024)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, K)."""
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """7x7 stem, nine inception modules with pools between, global means, one linear layer: (N, C, H, W) -> (N, K).

    With `auxiliary` heads, a model that trains gives (logits, logits of aux1, logits of aux2); the training loop adds
    their losses. Otherwise, and in an exported graph, it gives the logits alone. Tensors are named as in torchvision.
    First weights: He normal.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        reduced: bool,
        auxiliary: bool,
        norm: str | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input_shape, self.auxiliary = input_shape, auxiliary
        self.conv1 = ConvNorm(input_shape[0], 64, 7, norm, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64, 1, norm)
        self.conv3 = ConvNorm(64, 192, 3, norm, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = 192
        for name, sizes in _MODULES.items():
            module = Inception(channels, sizes, reduced, norm)
            channels = module.channels
            self.add_module(name, module)
            if name in _POOLS:
                self.add_module(_POOLS[name], nn.MaxPool2d(3 if name == "inception3b" else 2, 2, ceil_mode=True))
            if auxiliary and name in _HEADS:
                self.add_module(_HEADS[name], AuxiliaryHead(channels, num_classes, 0.7, norm))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        he_normal_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """(N, C, H, W) -> (N, K), or several of these, see the class; height and width of 15 or more."""
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        heads = []
        for name in _MODULES:
            x = self.get_submodule(name)(x)
            if self.auxiliary and self.training and name in _HEADS:
                heads.append(self.get_submodule(_HEADS[name])(x))
            if name in _POOLS:
                x = self.get_submodule(_POOLS[name])(x)
        x = self.fc(self.dropout(self.flatten(self.avgpool(x))))
        return (x, *heads) if heads else x


@register_model
def googlenet(
    *,
    input_shape: Sequence[int] = (3, 224, 224),
    num_classes: int = 1000,
    inception: str = "reduced",
    auxiliary: bool = False,
    norm: str | None = "batch",
    dropout: float = 0.2,
) -> nn.Module:
    """GoogLeNet: 6,624,904 parameters, 13,004,888 with auxiliary heads; images of 15x15 or more.

    inception  "reduced": 1x1 convolutions in front of the wide ones, or "naive": none, and pools that pass all channels
               on, as the paper's figure 2 compares them
    auxiliary  two more classifiers halfway, in training only; their losses count 0.3 each
    norm       behind each convolution: "batch", "layer", "instance" (images of 47x47 or more), "group",
               "local-response" or none
    dropout    of the inputs of the last layer
    """
    name = "googlenet"
    kind = choice(f"inception of model {name!r}", inception, ("reduced", "naive"))
    return GoogLeNet(
        image_shape(name, input_shape, smallest(_rows, least_rows(check_norm(name, norm)))),
        whole(name, "num_classes", num_classes, 2),
        kind == "reduced",
        yes_or_no(name, "auxiliary", auxiliary),
        norm,
        probability(name, "dropout", dropout),
    )
