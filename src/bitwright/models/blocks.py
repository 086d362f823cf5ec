"""Residual blocks: of two 3x3 convolutions in the orders that quantised networks need, and the bottleneck.

The former name their tensors alike (conv1, bn1, conv2, bn2, downsample), so weights of one load into another where the
shapes fit. A sign in front of a convolution wants numbers around zero: sign(relu(x)) is always +1.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from bitwright.models.channels import rprelu, shift
from bitwright.models.norms import new_norm, wants_bias
from bitwright.models.options import new_activation


class Shift(nn.Module):
    """x - b, one learned b per channel, at first 0: the threshold of a sign behind it (RSign of `ReActBlock`)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W), the same shape."""
        return shift(x, self.threshold)


class RPReLU(nn.Module):
    """x - b + c where x > b, else a (x - b) + c, per channel (Liu et al. 2020, "ReActNet", section 4.2).

    First the slope a = 0.25, as `nn.PReLU` has it, and the shifts b = c = 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W), the same shape."""
        return rprelu(x, self.before, self.slope, self.after)


class Residual(nn.Module):
    """What the blocks share: the layers, and a shortcut in the shape of the result.

    Where the shape changes, `downsample` "pad" takes every `stride`-th pixel, with half of the new channels as zeros
    before and half after the old ones (option A of He et al. 2015, no parameters), and "conv" computes bn(1x1
    convolution) (option B). With `pool` it is the mean of stride x stride pixels that is padded or projected. `norm`
    is one of `models/norms.py`.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        downsample: str,
        pool: bool = False,
        norm: str | None = "batch",
    ) -> None:
        super().__init__()
        self.norm = norm
        self._layers(channels_in, channels, stride)
        pooling = [nn.AvgPool2d(stride, ceil_mode=True)] if pool and stride > 1 else []
        self.downsample: nn.Module = nn.Sequential(*pooling)
        self.stride = 1 if pool else stride
        self.extra = channels - channels_in
        if downsample == "conv" and (stride > 1 or self.extra):
            project = nn.Conv2d(channels_in, channels, 1, self.stride, bias=wants_bias(norm))
            self.downsample = nn.Sequential(*pooling, project, new_norm(norm, channels))
            self.stride, self.extra = 1, 0

    def _layers(self, channels_in: int, channels: int, stride: int) -> None:
        """Those beside the shortcut."""
        self.conv1, self.bn1 = self._normed(channels_in, channels, 3, stride)
        self.conv2, self.bn2 = self._normed(channels, channels, 3)

    def _normed(self, channels_in: int, channels: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.Module]:
        bias = wants_bias(self.norm)
        convolution = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=bias)
        return convolution, new_norm(self.norm, channels)

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        x = self.downsample(x)
        if self.stride == 1 and self.extra == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


class BasicBlock(Residual):
    """act(bn(conv(act(bn(conv(x))))) + shortcut(x)), act = ReLU (He et al. 2015, section 3.2)."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        downsample: str,
        activation: str = "relu",
        norm: str | None = "batch",
    ) -> None:
        super().__init__(channels_in, channels, stride, downsample, norm=norm)
        self.relu = new_activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class PlainBlock(BasicBlock):
    """act(bn(conv(act(bn(conv(x)))))): `BasicBlock` without its shortcut, what He et al. 2015 compare it with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)))


class Bottleneck(Residual):
    """relu(bn(1x1(relu(bn(3x3(relu(bn(1x1(x)))))))) + shortcut(x)), the inner layers with a quarter of the channels.

    He et al. 2015, figure 5; the 3x3 convolution has the stride, as in torchvision.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, downsample: str, norm: str | None = "batch"
    ) -> None:
        super().__init__(channels_in, channels, stride, downsample, norm=norm)
        self.relu = nn.ReLU()

    def _layers(self, channels_in: int, channels: int, stride: int) -> None:
        self.conv1, self.bn1 = self._normed(channels_in, channels // 4, 1)
        self.conv2, self.bn2 = self._normed(channels // 4, channels // 4, 3, stride)
        self.conv3, self.bn3 = self._normed(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class PreActivationBlock(Residual):
    """conv(act(bn(conv(act(bn(x)))))) + shortcut(x), act = ReLU (He et al. 2016, "Identity mappings", figure 1b).

    The batch norm stands directly before a convolution's quantiser, as XNOR-Net (section 3.2) and DoReFa-Net want it;
    for signs with the activation "identity".
    """

    def __init__(self, channels_in: int, channels: int, stride: int, downsample: str, activation: str = "relu") -> None:
        super().__init__(channels_in, channels, stride, downsample)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1, self.relu2 = new_activation(activation), new_activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.conv1(self.relu1(self.bn1(x)))
        return self.conv2(self.relu2(self.bn2(y))) + self.shortcut(x)


class BiRealBlock(Residual):
    """A shortcut over every convolution: y = act(bn(conv(x)) + shortcut(x)), then act(bn(conv(y)) + y).

    Liu et al. 2018, "Bi-Real Net", section 3: the sums stay real, and the signs that convolutions see are the only
    nonlinearity (act = identity; the code of IR-Net, Qin et al. 2020, has a hard tanh). Shortcuts average 2x2 pixels.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int, downsample: str, activation: str = "identity"
    ) -> None:
        super().__init__(channels_in, channels, stride, downsample, pool=True)
        self.act1, self.act2 = new_activation(activation), new_activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.act1(self.bn1(self.conv1(x)) + self.shortcut(x))
        return self.act2(self.bn2(self.conv2(y)) + y)


class ReActBlock(BiRealBlock):
    """Bi-Real with learned shifts: y = rprelu(bn(conv(x - b)) + shortcut(x)), then rprelu(bn(conv(y - b')) + y).

    Liu et al. 2020, "ReActNet", section 4: a sign in front of a convolution has the threshold b of its channel, and
    `RPReLU` follows every addition.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, downsample: str) -> None:
        super().__init__(channels_in, channels, stride, downsample)
        self.shift1, self.shift2 = Shift(channels_in), Shift(channels)
        self.act1, self.act2 = RPReLU(channels), RPReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        y = self.act1(self.bn1(self.conv1(self.shift1(x))) + self.shortcut(x))
        return self.act2(self.bn2(self.conv2(self.shift2(y))) + y)
