"""Packed networks give torch's labels: LeNets and MLPs on random pixels, the published ResNet-20 on real CIFAR-10."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import bitwright
from bitwright.data.preprocess import Preprocess

LOGITS = 1e-4
"""Largest difference of a logit, as a share of the logits' range."""


def compare(model: torch.nn.Module, preprocess: Preprocess, pixels: np.ndarray, path: Path) -> np.ndarray:
    """Pack, load, run; the logits after comparing them, and their labels, with torch's."""
    model.eval()
    example = torch.zeros(1, *pixels.shape[1:])
    bitwright.pack(model, (example,), preprocess=preprocess).save(path)
    logits = bitwright.load(path)(pixels)
    with torch.no_grad():
        expected = model(preprocess.torch(torch.from_numpy(pixels))).numpy()
    assert np.abs(logits - expected).max() <= LOGITS * np.ptp(expected)
    assert np.array_equal(logits.argmax(1), expected.argmax(1))
    small = pixels[:20]
    reference = bitwright.load(path, engine="reference")(small)
    assert np.abs(logits[:20] - reference).max() <= LOGITS * np.ptp(expected)
    return logits


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "mlp"])
def test_small_networks(name, tmp_path):
    model = bitwright.create_model(name, seed=0)
    with torch.no_grad():  # prune, so that some layers run on the sparse kernel
        for parameter in model.parameters():
            if parameter.ndim > 1:
                threshold = parameter.abs().flatten().kthvalue(int(0.9 * parameter.numel())).values
                parameter[parameter.abs() < threshold] = 0
    pixels = np.random.default_rng(0).integers(0, 256, (200, 1, 28, 28), dtype=np.uint8)
    compare(model, Preprocess((0.13,), (0.31,)), pixels, tmp_path / "net.safetensors")


@pytest.mark.skipif(
    not os.environ.get("BITWRIGHT_DATA"), reason="BITWRIGHT_DATA is not set: needs CIFAR-10 and weights"
)
def test_the_published_resnet_20_on_real_images(tmp_path):
    """The first 1,000 test images; 91.5 % is what torch has on them (91.73 % on all)."""
    test = bitwright.load_dataset("cifar-10").test
    model = bitwright.create_model("resnet-20", weights="resnet20-12fca82f")
    preprocess = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    logits = compare(model, preprocess, test.images[:1000], tmp_path / "resnet.safetensors")
    assert (logits.argmax(1) == test.labels[:1000]).mean() == 0.915
