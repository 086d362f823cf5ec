"""What every data source gives: images and labels in three fixed parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from bitwright.data.holdout import SIXTH, Part, choose, hold_out
from bitwright.data.preprocess import Preprocess
from bitwright.errors import BitwrightError, unknown


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8 or float32 in 0..1, and labels (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A classification task.

    Selection of any kind looks at `validation`; `test` is read once, for the final figure. `preprocess` was fitted on
    `train` and travels with the packed model.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    preprocess: Preprocess

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train: Part,
        test: Part,
        validation: Part | int | float | None = None,
        classes: Sequence[str] | None = None,
        *,
        preprocess: Preprocess | Mapping[str, Any] | None = None,
        holdout: Literal["stratified", "last"] = "stratified",
        training: int | float | None = None,
    ) -> Dataset:
        """A Dataset from your own arrays: each part is (images, labels).

        images (N, C, H, W): uint8 0..255, or float in 0..1 (kept as float32). labels (N,): any integer type,
        0..len(classes)-1; `classes` defaults to "0", "1", ... `validation` is a part, or the number or fraction of
        training images to hold out (default a sixth): `holdout` "stratified" takes the same share of every class by a
        fixed shuffle, "last" the end of the arrays. `training` is the number or fraction of what is left then that is
        trained on (default all), of every class alike by a fixed shuffle. `preprocess` defaults to `Preprocess.fit` of
        that.

        Raises BitwrightError when shapes, types or sizes don't fit, a part is empty, a pixel is NaN or out of range,
        a label out of range, or the training part has one class only.
        """
        _check_part(name, "train", train)
        if not isinstance(validation, tuple):
            train, validation = hold_out(name, train, SIXTH if validation is None else validation, holdout)
        if training is not None:
            train = choose(name, train, training)
        parts = {"train": train, "validation": validation, "test": test}
        for part, (images, labels) in parts.items():
            _check_part(name, part, (images, labels))
        names = _class_names(name, classes, parts)
        _check_together(name, parts, len(names))
        images = parts["train"][0]
        fitted = Preprocess.fit(images) if preprocess is None else Preprocess.of(preprocess, images.shape[1])
        return cls(name, names, _split(*parts["train"]), _split(*parts["validation"]), _split(*parts["test"]), fitted)

    def limited(self, n: int) -> Dataset:
        """The first `n` of each part; the same classes and preprocess."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise BitwrightError(f"dataset {self.name!r}: limit is {n!r}; expected a whole number >= 1")
        train, validation, test = (Split(s.images[:n], s.labels[:n]) for s in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test)

    def split(self, name: str) -> Split:
        """The part called "train", "validation" or "test"."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in parts:
            raise unknown("part of a dataset", name, parts)
        return parts[name]

    def sample(self, n: int) -> Split:
        """The first n (or all) training images of one shuffle, which depends on nothing but how many there are."""
        chosen = np.random.default_rng(0).permutation(len(self.train))[:n]
        return Split(self.train.images[chosen], self.train.labels[chosen])

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return tuple(self.train.images.shape[1:])


def _check_part(name: str, part: str, arrays: Part) -> None:
    """Everything that can be wrong with one part by itself."""
    where = f"dataset {name!r}, {part}"
    if not isinstance(arrays, tuple) or len(arrays) != 2:
        raise BitwrightError(
            f"{where}: found {type(arrays).__name__}; expected a tuple (images, labels) of NumPy arrays"
        )
    images, labels = np.asarray(arrays[0]), np.asarray(arrays[1])
    _check_images(where, images)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise BitwrightError(
            f"{where}: labels are {labels.dtype} {labels.shape}; expected whole numbers of shape (N,), e.g. "
            f"labels.astype('int64')"
        )
    if len(labels) != len(images):
        raise BitwrightError(f"{where}: {len(images)} images but {len(labels)} labels; expected one label per image")


def _check_images(where: str, images: np.ndarray) -> None:
    if images.ndim != 4:
        raise BitwrightError(
            f"{where}: images have shape {images.shape}; expected (N, channels, height, width); grey images without a "
            f"channel axis become so with images[:, None]"
        )
    if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        raise BitwrightError(
            f"{where}: images have shape {images.shape}, channels last; expected (N, channels, height, width): "
            f"images.transpose(0, 3, 1, 2)"
        )
    if images.size == 0:
        raise BitwrightError(
            f"{where}: images have shape {images.shape}, so there is nothing in it; expected >= 1 image"
        )
    if images.dtype == np.uint8:
        return
    if images.dtype.kind != "f":
        raise BitwrightError(f"{where}: images are {images.dtype}; expected uint8 in 0..255 or float in 0..1")
    low, high = float(images.min()), float(images.max())  # NaN anywhere makes both NaN
    if np.isnan(low) or not 0 <= low <= high <= 1:
        raise BitwrightError(
            f"{where}: pixels go from {low:g} to {high:g}; expected no NaN and 0..1 (divide by the largest value; mean "
            f"and std belong to preprocess)"
        )


def _class_names(name: str, classes: Sequence[str] | None, parts: Mapping[str, Part]) -> tuple[str, ...]:
    if classes is None:
        return tuple(str(i) for i in range(1 + max(int(labels.max()) for _, labels in parts.values())))
    names = tuple(str(c) for c in classes)
    if len(set(names)) != len(names):
        twice = sorted({c for c in names if names.count(c) > 1})
        raise BitwrightError(f"dataset {name!r}: class names {twice} appear twice; expected distinct names")
    return names


def _check_together(name: str, parts: Mapping[str, Part], classes: int) -> None:
    """What the parts must share: image shape and type, the range of labels; and that there are two classes."""
    images = parts["train"][0]
    for part, (other, labels) in parts.items():
        if other.shape[1:] != images.shape[1:] or other.dtype.kind != images.dtype.kind:
            raise BitwrightError(
                f"dataset {name!r}, {part}: images are {other.dtype} {other.shape[1:]}, but train has {images.dtype} "
                f"{images.shape[1:]}; all parts need the same"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise BitwrightError(
                f"dataset {name!r}, {part}: labels go from {low} to {high}; expected 0..{classes - 1} "
                f"for {classes} classes"
            )
    found = np.unique(parts["train"][1])
    if len(found) < 2:
        raise BitwrightError(
            f"dataset {name!r}, train: every label is {found[0]}; expected at least two classes to tell apart"
        )


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    return Split(np.ascontiguousarray(images, kind), np.ascontiguousarray(labels, np.int64))
