"""A device that only runs models has no torch: importing, loading and running must not ask for it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import bitwright

SCRIPT = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"no module named {name!r}: this device only runs models", name=name)

sys.meta_path.insert(0, Forbid())
import numpy as np
import bitwright
from bitwright.runtime import load

for engine in ("native", "reference"):
    model = load(sys.argv[1], engine=engine)
    pixels = np.load(sys.argv[2])
    np.save(f"{sys.argv[3]}-{engine}.npy", model(pixels))
    assert model.classes == ("no", "yes", "maybe")
assert not set({blocked}) & set(sys.modules)
"""
BLOCKED = {"torch", "accelerate", "pydantic", "sklearn", "scipy", "onnx", "onnxruntime", "plotly", "yaml"}
"""Everything that the base install leaves out."""


@pytest.fixture
def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).eval()


def test_a_packed_model_runs_where_there_is_no_torch(small_net, tmp_path):
    from bitwright.data.preprocess import Preprocess

    preprocess = Preprocess((0.25,), (0.5,))
    packed = bitwright.pack(
        small_net, (torch.zeros(1, 1, 8, 8),), preprocess=preprocess, classes=["no", "yes", "maybe"]
    )
    packed.save(tmp_path / "net.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    script = SCRIPT.replace("{blocked}", repr(sorted(BLOCKED)))
    arguments = [str(tmp_path / name) for name in ("net.safetensors", "pixels.npy", "out")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = small_net(preprocess.torch(torch.from_numpy(pixels))).numpy()
    for engine in ("native", "reference"):
        np.testing.assert_allclose(np.load(f"{tmp_path}/out-{engine}.npy"), expected, rtol=0, atol=1e-5)
