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
        yield from _from_array(path, shape, pixels)
    else:
        yield str(path), _from_picture(path, shape, pixels, resize)


def _from_array(path: Path, shape: tuple[int, ...], pixels: bool) -> Iterator[tuple[str, np.ndarray]]:
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
    _check_values(path, array, pixels)
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    for i, image in enumerate(array):
        yield (f"{path}[{i}]" if len(array) > 1 else str(path)), image[None]


def _check_values(path: Path, array: np.ndarray, pixels: bool) -> None:
    """Refuse what the model would take for something else: pixels are uint8, or floats from 0 to 1."""
    kinds = "f" if pixels else "fiub"
    if array.dtype != np.uint8 and array.dtype.kind not in kinds:
        expected = "uint8 pixels or floats from 0 to 1" if pixels else "numbers"
        raise BitwrightError(f"{path} holds {array.dtype} values; expected {expected}", kind="input-dtype")
    if array.size == 0:
        raise BitwrightError(f"{path} holds no image: its shape is {_sizes(array.shape)}", kind="empty")
    if not np.isfinite(array).all():
        raise BitwrightError(f"{path} holds NaN or infinite values", kind="not-finite")
    if pixels and array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):
        raise BitwrightError(
            f"{path} holds values from {array.min():g} to {array.max():g}; expected pixels as uint8, or as floats from "
            "0 to 1: divide by 255, and do not normalise (the file does it)",
            kind="not-pixels",
        )


def _from_picture(path: Path, shape: tuple[int, ...], pixels: bool, resize: bool) -> np.ndarray:
    from PIL import Image

    from bitwright.data.images import Form

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
        with Image.open(path) as picture:
            form = Form((height, width) if resize else None, "grey" if channels == 1 else "rgb")
            array = form.array(picture)  # as the pictures of the data source `folder` are read
    except (OSError, BitwrightError, Image.DecompressionBombError) as error:
        raise BitwrightError(f"{path} cannot be read as a picture: {error}", kind="not-a-picture") from None
    if array.shape != shape:
        raise BitwrightError(
            f"{path} is {array.shape[2]}x{array.shape[1]} pixels (width x height), the model takes "
            f"{width}x{height}; scale it or use --resize",
            kind="input-shape",
        )
    return array[None].copy()


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
