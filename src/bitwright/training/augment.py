"""Other views of the training images: a batch at a time, from numbers that were drawn for each sample beforehand.

An epoch draws a row of uniform numbers for every training sample, and a view is a function of an image and its row. So
it depends neither on the batch that the sample comes in nor on the process that trains on it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.errors import BitwrightError
from bitwright.training import colours, warp
from bitwright.training.settings import Augment

_FLIP, _ROW, _COLUMN = range(3)
_OWN = 3
_WIDTHS = (_OWN, warp.NUMBERS, colours.NUMBERS)


class Views:
    """The views that `settings` describe, of images like the training images (N, C, H, W).

    Raises BitwrightError for settings that such images can't have.
    """

    def __init__(self, settings: Augment, images: Tensor) -> None:
        check(settings, tuple(images.shape[1:]))
        self.settings = settings
        self.warps = warp.wanted(settings)
        self.colours = colours.wanted(settings)
        self.lighting = colours.principal(images) if settings.lighting else None

    def draw(self, samples: int, seed: int) -> Tensor:
        """What decides one epoch's views: float32 (samples, numbers), uniform in [0, 1).

        Every kind of view has its own columns: switching one on leaves the others as they were.
        """
        generator = torch.Generator().manual_seed(seed)
        widths = _WIDTHS if self.warps or self.colours else _WIDTHS[:1]
        return torch.cat([torch.rand(samples, width, generator=generator) for width in widths], 1)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """The views of raw images (N, C, H, W), uint8 or float in 0..1, that their rows of `draw` decide; same shape.

        The type stays where images are mirrored and cropped only, else the views are float32 in 0..1.
        """
        views = _window(images, self.settings, numbers) if self.settings.flip or self.settings.crop else images
        if self.warps or self.colours:
            _, for_warp, for_colours = numbers.split(_WIDTHS, 1)
            views = views.float() / 255 if views.dtype == torch.uint8 else views
            if self.warps:
                views = warp.warp(views, self.settings, for_warp)
            if self.colours:
                views = colours.change(views, self.settings, for_colours, self.lighting)
        return views


def _window(images: Tensor, settings: Augment, numbers: Tensor) -> Tensor:
    """One gather from the padded images and their mirror images: about 0.7 ms for 128 CIFAR images on one core."""
    count, _, height, width = images.shape
    padded = _reflected(images, settings.crop) if settings.border == "reflect" else F.pad(images, (settings.crop,) * 4)
    windows = torch.stack((padded, padded.flip(3))).unfold(3, height, 1).unfold(4, width, 1)
    places = windows.shape[3]
    mirrored = (numbers[:, _FLIP] < 0.5 * settings.flip).long()
    row, column = (numbers[:, _ROW] * places).long(), (numbers[:, _COLUMN] * places).long()
    return windows[mirrored, torch.arange(count, device=images.device), :, row, column]


def _reflected(images: Tensor, pixels: int) -> Tensor:
    """Padded by the image itself, mirrored at its edges; of any type, unlike torch's."""

    def places(size: int) -> Tensor:
        at = torch.arange(-pixels, size + pixels, device=images.device).abs()
        return torch.where(at < size, at, 2 * (size - 1) - at)

    height, width = images.shape[2:]
    return images[:, :, places(height)][:, :, :, places(width)]


def check(settings: Augment, shape: tuple[int, ...]) -> None:
    """Raise BitwrightError unless images of this shape (C, H, W) can be augmented so."""
    if len(shape) != 3:
        raise BitwrightError(
            f"augment: the training samples have shape {shape}; only images (channels, height, width) have views: "
            "leave augment out",
            kind="setting",
        )
    if settings.crop >= min(shape[1:]):
        raise BitwrightError(
            f"augment.crop is {settings.crop} for images of {shape[1]}x{shape[2]} pixels, so a view could be all "
            f"padding; take a crop below {min(shape[1:])}, usually an eighth of the side",
            kind="setting",
        )
    if shape[0] != 3 and (settings.saturation or settings.hue):
        name = "saturation" if settings.saturation else "hue"
        raise BitwrightError(
            f"augment.{name} is {getattr(settings, name)} for images of {shape[0]} channels; only red, green and blue "
            f"have a {name}: leave it out",
            kind="setting",
        )


def kinds(settings: Augment) -> dict[str, Augment]:
    """Each kind of view that is switched on, alone: its name -> settings."""
    plain, found = Augment(), {}
    for name in (field.name for field in dataclasses.fields(settings)):
        if name != "border" and getattr(settings, name) != getattr(plain, name):
            alone = {name: getattr(settings, name)} | ({"border": settings.border} if name == "crop" else {})
            found[name] = dataclasses.replace(plain, **alone)
    return found
