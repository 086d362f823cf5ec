"""A small network, and what every method of low-bit training must end with, for the tests of these methods."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bitwright as bw
from bitwright.data.dataset import Dataset
from bitwright.models.resnet import ResNet
from bitwright.packing.inspect import inspect_file
from bitwright.steps.step import select_layers
from bitwright.training.evaluate import predict_logits


def small_resnet(block: str, signs: bool = False, seed: int = 0) -> nn.Module:
    """The ResNet of eight layers for images of handwritten digits; for `signs` without ReLUs in front of them."""
    activation = "identity" if signs else "relu"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet(8, (1, 8, 8), 10, block=block, activation=activation)


def check_packed(model: nn.Module, data: Dataset, bits: float, folder: Path) -> None:
    """The file has about `bits` per weight of all layers but the first and last, and the engine gives torch's logits.

    But for a few images with a number so near a threshold that another order of summation takes it across.
    """
    model.eval()
    bw.pack(model, (torch.zeros(1, *data.shape),), preprocess=data.preprocess).save(folder / "net.safetensors")
    packed = bw.load(folder / "net.safetensors")
    expected = predict_logits(model, torch.from_numpy(data.test.images), data.preprocess).numpy()
    found = packed(data.test.images)
    near = np.abs(found - expected).max(1) <= 1e-4 * np.ptp(expected)
    same = found.argmax(1) == expected.argmax(1)
    assert near.mean() >= 0.99
    assert same[near].all()
    names = select_layers(model, ("*",), ("first", "last"))
    rows = [row for row in inspect_file(folder / "net.safetensors").rows if row.layer in names and row.role == "weight"]
    assert len(rows) == len(names)
    magnitudes = sum(32 * row.shape[0] + 400 for row in rows)  # and headers
    assert 8 * sum(row.nbytes for row in rows) <= bits * sum(math.prod(row.shape) for row in rows) + magnitudes
