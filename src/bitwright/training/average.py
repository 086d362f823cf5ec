"""Predictions averaged over several views of an image, and over several models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.data.dataset import Split
from bitwright.data.preprocess import Preprocess
from bitwright.errors import BitwrightError
from bitwright.training.evaluate import Evaluation, as_tensor, evaluate_logits, predict_logits


@dataclass(frozen=True)
class ManyViews:
    """What of an image is shown to the models: at each of `scales` so many `crops`.

    crops    1: the image; 2: and its mirror image; 10: the four corners and the middle of the image with `margin` black
             pixels around it, and the mirror images of these five (Krizhevsky et al. 2012, section 4.1, who cut windows
             of 224 out of 256 pixels; here a window has the image's size, as in training with augment.crop)
    margin   pixels, for ten crops
    scales   factors on the image's sides, bilinear; other than 1 only for networks that take any size
             (Simonyan & Zisserman 2015, section 4.2)

    Raises BitwrightError for other numbers.
    """

    crops: int = 1
    margin: int = 4
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.crops not in (1, 2, 10):
            raise BitwrightError(f"crops is {self.crops}; expected 1, 2 or 10", kind="setting")
        if self.margin < 0:
            raise BitwrightError(f"margin is {self.margin}; expected pixels, at least 0", kind="setting")
        if not self.scales or min(self.scales) <= 0 or max(self.scales) > 8:
            raise BitwrightError(f"scales are {self.scales}; expected factors above 0 and at most 8", kind="setting")

    def of(self, images: Tensor) -> Iterator[Tensor]:
        """The views of raw images (N, C, H, W), one batch after the other."""
        for scale in self.scales:
            scaled = _resized(images, scale)
            for view in self._crops(scaled):
                yield view
                if self.crops > 1:
                    yield view.flip(3)

    def _crops(self, images: Tensor) -> Iterator[Tensor]:
        if self.crops < 10:
            yield images
            return
        height, width = images.shape[2:]
        padded = F.pad(images, (self.margin,) * 4)
        end, middle = 2 * self.margin, self.margin
        for top, left in ((0, 0), (0, end), (end, 0), (end, end), (middle, middle)):
            yield padded[:, :, top : top + height, left : left + width]


def _resized(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    floats = images.float() / 255 if images.dtype == torch.uint8 else images
    size = [max(1, round(scale * side)) for side in images.shape[2:]]
    return F.interpolate(floats, size, mode="bilinear", align_corners=False, antialias=True)


def average_probabilities(
    models: Sequence[nn.Module], images: Tensor, preprocess: Sequence[Preprocess], views: ManyViews
) -> Tensor:
    """The mean of softmax over views and models, float32 (N, classes), of raw images; a preprocessing for each model.

    Raises BitwrightError for a model that doesn't take a scaled image, and for models with other classes.
    """
    total, count = torch.zeros(0), 0
    for view in views.of(images):
        for model, prepare in zip(models, preprocess, strict=True):
            try:
                logits = predict_logits(model, view, prepare)
            except RuntimeError as error:
                raise BitwrightError(
                    f"{type(model).__name__} can't take images of {view.shape[2]}x{view.shape[3]} pixels: leave scales "
                    f"at 1, or take a network with global pooling ({str(error).splitlines()[0]})",
                    kind="input-shape",
                ) from error
            if count and total.shape != logits.shape:
                raise BitwrightError(
                    f"a model gives {logits.shape[1]} logits, the one before {total.shape[1]}; only models of the same "
                    f"classes can be averaged",
                    kind="classes",
                )
            total = logits.softmax(1) + (total if count else 0)
            count += 1
    return total / count


def evaluate_average(
    models: Sequence[nn.Module], split: Split, preprocess: Sequence[Preprocess], views: ManyViews
) -> Evaluation:
    """Accuracy, error and loss of the averaged probabilities on a split."""
    if not models or not len(split):
        raise BitwrightError("there is nothing to evaluate: give a model, and a split with images", kind="empty")
    probabilities = average_probabilities(models, as_tensor(split.images), preprocess, views)
    return evaluate_logits(probabilities.clamp(min=1e-30).log(), split, "the average of the models")
