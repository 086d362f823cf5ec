"""Which images are trained on, validated with and tested on: always the same ones, whatever the training's seed."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bitwright.errors import BitwrightError

Part = tuple[np.ndarray, np.ndarray]  # images, labels
SIXTH = 1 / 6  # the share of MNIST's usual 50,000 / 10,000


def hold_out(name: str, part: Part, amount: int | float, how: Literal["stratified", "last"]) -> tuple[Part, Part]:
    """(what is left, what is held out) of `part`; `amount` is a number of images (int) or a fraction (float)."""
    images, labels = np.asarray(part[0]), np.asarray(part[1])
    count = _count(name, "validation", len(labels), amount)
    if not 1 <= count < len(labels):
        raise BitwrightError(
            f"dataset {name!r}: validation={amount:g} would hold out {count} of {len(labels)} images; expected at "
            f"least 1 image on either side"
        )
    if how == "last":
        return (images[:-count], labels[:-count]), (images[-count:], labels[-count:])
    held = _stratified(labels, count)
    return (images[~held], labels[~held]), (images[held], labels[held])


def choose(name: str, part: Part, amount: int | float) -> Part:
    """So many images of `part` (int) or this fraction of it (float), in their order, the same share of every class."""
    images, labels = np.asarray(part[0]), np.asarray(part[1])
    count = _count(name, "train", len(labels), amount)
    if not 1 <= count <= len(labels):
        raise BitwrightError(
            f"dataset {name!r}: train={amount:g} would take {count} of {len(labels)} images; expected at least 1 and "
            f"at most all that validation leaves"
        )
    chosen = _stratified(labels, count)
    return images[chosen], labels[chosen]


def _count(name: str, option: str, total: int, amount: int | float) -> int:
    """How many of `total` images an amount means."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise BitwrightError(f"dataset {name!r}: {option} is {amount!r}; expected a number or a fraction of images")
    # max(0, NaN) is 0, which is refused
    return amount if isinstance(amount, int) else int(total * min(max(0.0, amount), 1.0) + 1e-9)


def _stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """A mask of exactly `count` images, every class with the same share as far as whole images allow.

    Image number k of the n of its class (in shuffled order) gets the rank (k + 1/2) / n; the `count` smallest ranks
    are chosen. RandomState, because its stream is the one that NumPy promises never to change.
    """
    shuffled, rank = _ranks(labels)
    held = np.zeros(len(labels), bool)
    held[shuffled[np.argsort(rank[shuffled], kind="stable")[:count]]] = True
    return held


def fold_of(labels: np.ndarray, folds: int) -> np.ndarray:
    """The fold, 0 to folds - 1, of each image, for cross-validation: every class in equal shares, by a fixed shuffle.

    Raises BitwrightError for fewer images than folds.
    """
    if folds > len(labels):
        raise BitwrightError(f"{folds} folds of {len(labels)} images; expected at most one fold per image")
    shuffled, rank = _ranks(labels)
    fold = np.empty(len(labels), np.int64)
    fold[shuffled[np.argsort(rank[shuffled], kind="stable")]] = np.arange(len(labels)) * folds // len(labels)
    return fold


def _ranks(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A fixed shuffle, and the rank (k + 1/2) / n of image number k of the n of its class in that order."""
    shuffled = np.random.RandomState(0).permutation(len(labels))
    rank = np.empty(len(labels))
    for c in np.unique(labels):
        members = shuffled[labels[shuffled] == c]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled, rank
