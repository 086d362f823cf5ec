"""Features of small patches that need no labels, pooled over quadrants, and a classifier behind them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bitwright.ops  # noqa: F401 - torch.ops.bitwright.sign
from bitwright.errors import BitwrightError
from bitwright.models.mlp import MLP
from bitwright.models.options import choice, image_shape, probabilities, whole, widths
from bitwright.models.registry import register_model

_EPSILON = 0.01
"""Added to the variance of a feature, as a sum over its quadrant, before it divides (Coates' code)."""


class PatchFeatures(nn.Module):
    """What K centroids say about all patches p of an image (Coates, Lee and Ng 2011, sections 3.2 and 4.2).

        q = (p - m(p)) / sqrt(v(p) + contrast)       m, v: mean and variance of the patch's own D = C s^2 numbers
        x = W q + b                                  whitening: b = -W (mean of q)
        z_k = ||x - c_k||,   f_k = max(0, mean of z - z_k)       "triangle"
                             f_k = 1 for the nearest, else 0     "hard"
        y = (mean of f over a quadrant - mean) / sqrt(variance + epsilon)

    (N, C, H, W) to (N, 4 K). A quadrant's sides are half of the H - s + 1 places, rounded up for those that begin at 0.
    All of it is buffers, which the step `kmeans` fits: `whitening` (D, D, 1, 1), `offset` (D), `centroids`
    (K, D, 1, 1), and `mean` and `variance` (4 K) of the features. `epsilon` is Coates' 0.01 for sums, as means have it.
    """

    cut: Tensor
    whitening: Tensor
    offset: Tensor
    centroids: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(
        self, input_shape: tuple[int, int, int], centroids: int, patch: int, encoding: str, contrast: float
    ) -> None:
        super().__init__()
        channels, *size = input_shape
        self.patch, self.encoding, self.contrast = patch, encoding, contrast
        self.quadrant = [math.ceil((side - patch + 1) / 2) for side in size]
        self.epsilon = _EPSILON / math.prod(self.quadrant) ** 2
        numbers = channels * patch**2
        centred = torch.eye(numbers) - 1 / numbers
        self.register_buffer("cut", centred.reshape(numbers, channels, patch, patch), persistent=False)
        self.register_buffer("whitening", torch.eye(numbers)[:, :, None, None].clone())
        self.register_buffer("offset", torch.zeros(numbers))
        self.register_buffer("centroids", torch.randn(centroids, numbers, 1, 1))
        self.register_buffer("mean", torch.zeros(4 * centroids))
        self.register_buffer("variance", torch.ones(4 * centroids))

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"{len(self.centroids)} centroids, {self.patch}x{self.patch}, {self.encoding}, contrast={self.contrast}"

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features, float32."""
        return self.standardised(self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """The same before they are standardised. One image after the other, whose 4 K places fit the cache."""
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            parts = [x.float()] if torch.compiler.is_exporting() else x.float().split(1)
            return torch.cat([self._pooled(part) for part in parts])

    def standardised(self, y: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the training images."""
        return F.batch_norm(y, self.mean, self.variance, eps=self.epsilon)

    def normalised(self, x: Tensor) -> Tensor:
        """All patches q, (N, D, H - s + 1, W - s + 1)."""
        p = F.conv2d(x, self.cut)
        return p * ((p * p).mean(1, keepdim=True) + self.contrast).rsqrt()

    def _pooled(self, images: Tensor) -> Tensor:
        x = F.conv2d(self.normalised(images), self.whitening, self.offset)
        nearness = F.conv2d(x, self.centroids, self.centroids.square().sum((1, 2, 3)) / -2)  # (||x||^2 - z^2) / 2
        f = self._nearest(nearness) if self.encoding == "hard" else self._triangle(x, nearness)
        return F.avg_pool2d(f, self.quadrant, ceil_mode=True, count_include_pad=False).flatten(1)

    @staticmethod
    def _nearest(nearness: Tensor) -> Tensor:
        behind = nearness - nearness.unflatten(1, (1, -1)).amax(2)
        nearest: Tensor = torch.ops.bitwright.sign(behind)
        return (nearest + 1) / 2

    @staticmethod
    def _triangle(x: Tensor, nearness: Tensor) -> Tensor:
        squares = nearness * -2 + (x * x).mean(1, keepdim=True) * x.shape[1]
        z = squares.clamp(min=0).sqrt()
        return (z.mean(1, keepdim=True) - z).clamp(min=0)


@register_model
def patch_features(
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    centroids: int = 1600,
    patch: int = 6,
    encoding: str = "triangle",
    contrast: float = 1.5e-4,
    hidden: Sequence[int] = (),
    dropout: float | Sequence[float] = 0.0,
) -> nn.Module:
    """Features of patches without labels (`PatchFeatures`), then a linear layer or, with `hidden`, an `mlp`.

    centroids  of the features, 4 for each: one per quadrant
    patch      the side of a patch in pixels
    encoding   "triangle" or "hard"
    contrast   added to the variance of a patch; Coates' 10 for pixels of 0..255 is 10 / 255^2 = 1.5e-4 for 0..1
    hidden, dropout  as `mlp` has them

    The step `kmeans` learns the features and trains the classifier; before it the centroids are random numbers. On
    CIFAR-10 64,010 trained weights (Coates, Lee and Ng 2011).
    """
    name = "patch-features"
    shape = image_shape(name, input_shape)
    side = whole(name, "patch", patch, 2)
    if side >= min(shape[1:]):
        raise BitwrightError(
            f"model {name!r}: patch is {side}, but the images are {shape[1]}x{shape[2]}; expected less than the "
            f"shorter side, at most {min(shape[1:]) - 1}"
        )
    if isinstance(contrast, bool) or not isinstance(contrast, int | float) or not 0 < contrast < 1e6:
        raise BitwrightError(f"model {name!r}: contrast is {contrast!r}; expected a number above 0")
    count = whole(name, "centroids", centroids, 2)
    units = widths(name, "hidden", hidden)
    places = ["the features", *(f"hidden layer {i}" for i, _ in enumerate(units, start=1))]
    features = PatchFeatures(shape, count, side, choice("encoding", encoding, ("triangle", "hard")), float(contrast))
    classifier = MLP(
        (4 * count, 1, 1), whole(name, "num_classes", num_classes, 2), units, probabilities(name, dropout, places)
    )
    model = nn.Sequential(OrderedDict(features=features, classifier=classifier))
    model.input_shape = shape  # type: ignore[assignment]
    return model
