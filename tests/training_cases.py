"""Small data and networks that the tests of training share."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bitwright.data.dataset import Dataset, Split
from bitwright.data.preprocess import Preprocess
from bitwright.training.progress import Progress


def blobs(train: int = 90, validation: int = 45, classes: int = 3, seed: int = 0, signal: int = 60) -> Dataset:
    """Noisy 1x4x4 images whose class brightens one row: learned within a few epochs, but not at once.

    Without `signal` there is nothing to learn.
    """
    rng = np.random.default_rng(seed)

    def split(count: int) -> Split:
        labels = np.arange(count) % classes
        images = rng.integers(0, 120, (count, 1, 4, 4))
        images[np.arange(count), 0, labels] += signal
        return Split(images.astype(np.uint8), labels.astype(np.int64))

    names = tuple(f"row {i}" for i in range(classes))
    return Dataset("blobs", names, split(train), split(validation), split(validation), Preprocess((0.3,), (0.2,)))


def small_net(dropout: float = 0.0, classes: int = 3) -> nn.Module:
    """Convolution, batch norm, dropout and linear layer: everything that carries state through an epoch."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64, classes),
        )


def linear_net(classes: int = 3) -> nn.Module:
    """One linear layer on 1x4x4 images."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states have the same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(BaseException):
    """What a signal would do, as far as one process can tell itself."""


class KillAt(Progress):
    """Ends the training when so many batches are done."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def update(self, done: int, text: str = "") -> None:
        if done >= self.batches:
            raise Killed
