"""What every data source gives: images and labels in three fixed parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitwright.data.preprocess import Preprocess


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

    def split(self, name: str) -> Split:
        """The part called "train", "validation" or "test"."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return tuple(self.train.images.shape[1:])
