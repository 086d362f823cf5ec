"""What augmentation makes of training images, as a picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitwright.training.settings import Augment

if TYPE_CHECKING:
    from PIL import Image

IMAGES = 12
"""So many are drawn, one beside the other."""
_SIDE = 64
"""Images are enlarged by a whole number to about so many pixels."""
_GAP, _CAPTION = 4, 110

_STRONG = Augment(True, 4, "black", 0.4, 0.2, 30, 25, 0.6, 0.15, 0.5, 0.6, 0.8, 0.15, 0.5)
"""Each kind strong enough to be seen."""


def shown_by_default(shape: tuple[int, ...]) -> Augment:
    """Every kind of view that images (N, C, H, W) can have."""
    _, channels, height, width = shape
    crop = min(_STRONG.crop, min(height, width) // 4)
    saturation, hue = (_STRONG.saturation, _STRONG.hue) if channels == 3 else (0.0, 0.0)
    return dataclasses.replace(_STRONG, crop=crop, saturation=saturation, hue=hue)


def draw_views(images: np.ndarray, settings: Augment, out: Path, seed: int) -> None:
    """One PNG: the first training images (N, C, H, W), a row for each kind of view in `settings`, and all together.

    Raises BitwrightError for settings that such images can't have.
    """
    from PIL import Image, ImageDraw

    from bitwright.training.augment import Views, kinds
    from bitwright.training.evaluate import as_tensor

    train = as_tensor(images)
    alone = kinds(settings)
    rows = {"as it is": None, **alone, **({"together": settings} if len(alone) > 1 else {})}
    zoom = max(1, _SIDE // images.shape[3])
    height, width = (zoom * side + _GAP for side in images.shape[2:])
    count = min(IMAGES, len(images))
    page = Image.new("RGB", (_CAPTION + count * width, len(rows) * height + _GAP), "white")
    draw = ImageDraw.Draw(page)
    for row, (name, chosen) in enumerate(rows.items()):
        top = _GAP + row * height
        value = getattr(chosen, name, "")
        draw.text((6, top + 4), name if isinstance(value, bool) else f"{name}\n{value}", fill="black")
        shown = train[:count]
        if chosen is not None:
            make = Views(chosen, train)
            shown = make(shown, make.draw(count, seed))
        for column, image in enumerate(shown):
            page.paste(_picture(image.numpy(), zoom), (_CAPTION + column * width, top))
    page.save(out, format="PNG")


def _picture(image: np.ndarray, zoom: int) -> Image.Image:
    """(C, H, W), uint8 or float in 0..1, each pixel zoom times as large; the first channel if not three."""
    from PIL import Image

    pixels = image if image.dtype == np.uint8 else np.rint(255 * image).astype(np.uint8)
    pixels = pixels[[0, 1, 2]] if len(pixels) == 3 else pixels[[0, 0, 0]]
    return Image.fromarray(np.kron(pixels.transpose(1, 2, 0), np.ones((zoom, zoom, 1), np.uint8)))
