"""Data: image classification sets as NumPy arrays, with a fixed training, validation and test part. No torch here.

To add a source, add a file here with a reader under `@register_dataset`, and its test.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bitwright.data.dataset import Dataset, Split
from bitwright.data.images import Form
from bitwright.data.place import Place
from bitwright.data.preprocess import Preprocess
from bitwright.data.registry import reader_of, register_dataset, sources
from bitwright.errors import BitwrightError

__all__ = ["Dataset", "Preprocess", "Split", "list_datasets", "load_dataset", "register_dataset"]


def load_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    train: int | float | None = None,
    validation: int | float | None = None,
    size: int | Sequence[int] | None = None,
    color: str | None = None,
    limit: int | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    verify: bool = True,
    **options: Any,
) -> Dataset:
    """Read the dataset `name` (see `list_datasets`): uint8 (N, C, H, W) images in three parts that never change.

    root        where its files are: root/name/ or root itself; default the environment variable BITWRIGHT_DATA
    train       number (int) or share (float) of what is left of the training images then, the same share of every class
                by a fixed shuffle; default all. What is fitted to training images sees these only
    validation  number (int) or share (float) of the training images held out; default what the source is known for:
                the last 10,000 of MNIST's and Fashion-MNIST's training file, the last 5,000 of CIFAR's, else a sixth of
                every class by a fixed shuffle
    size        one number or [height, width] that all images are resized to (bilinear), e.g. 32 for a CIFAR network
    color       "rgb" or "grey": grey images with three equal channels, or colour ones without their colours. `size` and
                `color` do what `bitwright predict --resize` does to a picture
    limit       only the first so many images of each part, for quick trials
    preprocess  mean and std instead of those of the training part, e.g. {"mean": [...], "std": [...]} of a
                pretrained net
    verify      compare known files with their published checksums
    options     of the source itself, e.g. labels="coarse" for cifar-100

    Raises BitwrightError for an unknown name or option, and for missing or damaged files, with the paths tried.
    """
    place = Place(name, root, verify)
    form = {key: value for key, value in (("size", size), ("color", color)) if value is not None}
    parts = Form.of(size, color).parts(reader_of(name, options, form)(place))
    if parts.validation is not None and validation is not None:
        raise BitwrightError(f"dataset {name!r} has a validation part of its own; leave validation={validation} out")
    data = Dataset.from_arrays(
        name,
        parts.train,
        parts.test,
        parts.validation if parts.validation is not None else (parts.share if validation is None else validation),
        parts.classes,
        preprocess=preprocess,
        holdout=parts.holdout,
        training=train,
    )
    return data if limit is None else data.limited(limit)


def list_datasets() -> dict[str, str]:
    """Every dataset name, with one line about it."""
    return sources()
