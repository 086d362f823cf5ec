"""A network of convolutions alone (Springenberg et al. 2014, "Striving for simplicity: the all convolutional net")."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bitwright.models.initialize import he_normal_
from bitwright.models.norms import check_norm, least_rows, new_norm, wants_bias
from bitwright.models.options import image_shape, probabilities, smallest, whole
from bitwright.models.registry import register_model

_LAYERS = ((96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1))
"""Channels, kernel, stride; one with a stride takes the place of a pool."""


class AllConv(nn.Sequential):
    """dropout0, conv1 - norm1 - relu1, ..., conv9 - relu9 to K maps, their means: (N, C, H, W) -> (N, K).

    A dropout follows each layer with a stride. First weights: He normal.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], num_classes: int, norm: str | None, dropout: Sequence[float]
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        places = iter(dropout)
        self.dropout0 = nn.Dropout(next(places))
        channels, bias = input_shape[0], wants_bias(norm)
        for number, (size, kernel, stride) in enumerate(_LAYERS, start=1):
            convolution = nn.Conv2d(channels, size, kernel, stride, padding=kernel // 2, bias=bias)
            self.add_module(f"conv{number}", convolution)
            if norm is not None:
                self.add_module(f"norm{number}", new_norm(norm, size))
            self.add_module(f"relu{number}", nn.ReLU())
            if stride > 1:
                self.add_module(f"dropout{number}", nn.Dropout(next(places)))
            channels = size
        self.conv9 = nn.Conv2d(channels, num_classes, 1)
        self.relu9 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        he_normal_(self)


@register_model
def all_conv(
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    norm: str | None = None,
    dropout: float | Sequence[float] = (0.2, 0.5, 0.5),
) -> nn.Module:
    """All-CNN-C: 2x96C3 - 96C3/2 - 2x192C3 - 192C3/2 - 192C3 - 192C1 - 10C1 - global means: 1,369,738 parameters.

    Any image size. The paper's seventh convolution has no border; here it has one, which changes no size of a tensor.

    norm     in front of each ReLU but the last: "batch", "layer", "instance", "group" or "local-response". Default:
             none, as in the paper
    dropout  of the input and behind the two layers with a stride; one number: the latter only. The default is the
             paper's
    """
    name = "all-conv"
    return AllConv(
        image_shape(name, input_shape, smallest(lambda rows: -(-rows // 4), least_rows(check_norm(name, norm)))),
        whole(name, "num_classes", num_classes, 2),
        norm,
        probabilities(name, dropout, ("the input", "conv3", "conv6")),
    )
