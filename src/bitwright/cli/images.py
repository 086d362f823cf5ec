"""Pictures and arrays as what a packed model takes, or a clear refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bitwright.errors import BitwrightError


def read_images(path: Path, shape: tuple[int, ...], pixels: bool, resize: bool) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array (1, *shape)) for each image in a file.

    A .npy file holds one array of `shape`, or many along a first axis; anything else is opened as a picture, turned
    grey or RGB as the model wants, and must have the model's height and width unless `resize`. `pixels`: the model
    normalises its input itself, so a picture's uint8 pixels may go in.
    """
    if not path.is_file():
        raise BitwrightError(f"no file {path}; expected a picture or a .npy array", kind="no-file")
    if path.suffix == ".npy":
        yield from _from_array(path, shape)
    else:
        yield str(path), _from_picture(path, shape, pixels, resize)


def _from_array(path: Path, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BitwrightError(f"{path} is no NumPy array: {error}", kind="not-an-array") from None
    if len(shape) == 3 and shape[0] == 1 and array.shape[-2:] == shape[1:] and array.ndim in (2, 3):
        # grey images are often kept without their channel axis: (H, W) or (N, H, W)
        array = array[None] if array.ndim == 2 else array if array.shape == shape else array[:, None]
    if array.shape == shape:
        array = array[None]
    if array.shape[1:] != shape:
        raise BitwrightError(
            f"{path} has shape {_sizes(array.shape)}; the model takes {_sizes(shape)}, or many along a first axis",
            kind="input-shape",
        )
    if array.dtype != np.uint8:  # whole numbers of another width are no pixels to the engine, floats are float32
        array = array.astype(np.float32)
    for i, image in enumerate(array):
        yield (f"{path}[{i}]" if len(array) > 1 else str(path)), image[None]


def _from_picture(path: Path, shape: tuple[int, ...], pixels: bool, resize: bool) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise BitwrightError(f"the model takes arrays of {_sizes(shape)}, not pictures; give a .npy file")
    if not pixels:
        raise BitwrightError(
            f"{path}: this model was packed without its input's normalisation, so pixels mean nothing to it; give a "
            ".npy file of normalised values, or pack it with preprocess=",
            kind="no-preprocess",
        )
    channels, height, width = shape
    try:
        with Image.open(path) as opened:
            picture = opened.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise BitwrightError(f"{path} cannot be read as a picture: {error}", kind="not-a-picture") from None
    if picture.size != (width, height):
        if not resize:
            raise BitwrightError(
                f"{path} is {picture.width}x{picture.height} pixels (width x height), the model takes "
                f"{width}x{height}; scale it or use --resize",
                kind="input-shape",
            )
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(picture, np.uint8)
    return (array[None] if channels == 1 else array.transpose(2, 0, 1))[None].copy()


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
