"""Pictures as equal uint8 arrays, in the size and colours that are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from bitwright.data.holdout import SIXTH, Part, hold_out
from bitwright.data.place import Place
from bitwright.data.registry import Parts
from bitwright.errors import BitwrightError, unknown

_MODES = {"rgb": "RGB", "grey": "L"}


@dataclass(frozen=True)
class Form:
    """The form all pictures are brought into: `size` (height, width) and colour, None to take them as they are."""

    size: tuple[int, int] | None
    color: Literal["rgb", "grey"] | None

    @classmethod
    def of(cls, size: int | Sequence[int] | None, color: str | None) -> Form:
        """Check the options of a source: size is one number for a square, or [height, width]."""
        if color not in ("rgb", "grey", None):
            raise unknown("color", color, _MODES)
        sides = [size, size] if isinstance(size, int) else size
        if sides is not None and not (
            isinstance(sides, Sequence) and len(sides) == 2 and all(type(n) is int and n >= 1 for n in sides)
        ):
            raise BitwrightError(f"size is {size!r}; expected a number of pixels or [height, width]")
        return cls(None if sides is None else (sides[0], sides[1]), cast(Literal["rgb", "grey"] | None, color))

    def array(self, image: Any) -> np.ndarray:
        """A Pillow image as uint8 (C, H, W): turned as its EXIF data says, converted, resized (bilinear)."""
        from PIL import ImageOps

        if image.mode.startswith(("I", "F")):
            raise BitwrightError(
                f"it has more than 8 bits per channel (mode {image.mode}); expected 8, convert it first"
            )
        return self._pixels(ImageOps.exif_transpose(image))

    def _pixels(self, image: Any) -> np.ndarray:
        from PIL import Image

        if self.color is not None:
            image = image.convert(_MODES[self.color])
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def arrays(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W), uint8 with 1 or 3 channels, each as `array` makes it of a picture."""
        from PIL import Image

        channels = {None: images.shape[1:2], "rgb": (3,), "grey": (1,)}[self.color]
        if images.shape[1:] == (*channels, *(self.size or images.shape[2:])):
            return images
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in (1, 3):
            raise BitwrightError(
                f"images are {images.dtype} {images.shape}, which size and color can't change; they are for uint8 "
                "images (N, channels, height, width) with 1 or 3 channels"
            )
        pictures = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
        return np.stack([self._pixels(Image.fromarray(np.ascontiguousarray(picture))) for picture in pictures])

    def parts(self, parts: Parts) -> Parts:
        """All images of a source, each as `arrays` makes it."""
        if self == Form(None, None):
            return parts

        def formed(part: Part) -> Part:
            return self.arrays(part[0]), part[1]

        validation = formed(parts.validation) if parts.validation else None
        return replace(parts, train=formed(parts.train), test=formed(parts.test), validation=validation)


def read_image(path: Path, form: Form) -> np.ndarray:
    """The image file `path` as uint8 (C, H, W)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return form.array(image)
    except Exception as error:  # Pillow's readers fail in many ways on damaged files
        raise BitwrightError(
            f"can't read image {path}: {error}; remove it or replace it by a whole image", kind="damaged-data"
        ) from None


def stack(place: Place, pictures: Sequence[tuple[str, np.ndarray, int]]) -> Part | None:
    """(name, picture, label) triples as images and labels in a fixed shuffled order, so that any first n are mixed."""
    if not pictures:
        return None
    first, shape = pictures[0][0], pictures[0][1].shape
    for name, picture, _ in pictures:
        if picture.shape != shape:
            raise BitwrightError(
                f"dataset {place.name!r}: {name} is {picture.shape[1:]} pixels but {first} is {shape[1:]}; give "
                f"size=[height, width] to resize all"
            )
    order = np.random.RandomState(0).permutation(len(pictures))  # a stream that NumPy never changes
    images = np.stack([pictures[i][1] for i in order])
    return images, np.array([pictures[i][2] for i in order], np.int64)


def complete(place: Place, parts: dict[str, Part | None], classes: Sequence[str]) -> Parts:
    """Parts from what there is of "train", "validation" and "test"; without a test part a stratified sixth is it."""
    train, test = parts.get("train"), parts.get("test")
    if train is None:
        raise BitwrightError(f"dataset {place.name!r} has no training images; expected at least one per class")
    if test is None:
        train, test = hold_out(place.name, train, SIXTH, "stratified")
    return Parts(train, test, classes, parts.get("validation"))
