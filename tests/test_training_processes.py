"""Two processes see the same batches as one and learn the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bitwright import create_model, load_dataset
from bitwright.training.loop import fit
from bitwright.training.settings import Augment, Optimizer, TrainSettings
from training_cases import blobs, linear_net, weights

# 91 samples in batches of 30: the last batch holds one more, and its halves are of different size
DATA = {"train": 91, "validation": 45}
SETTINGS = TrainSettings(
    epochs=3,
    batch_size=30,
    optimizer=Optimizer(lr=0.1),
    clip_norm=1.0,
    l1=1e-3,
    augment=Augment(flip=True, crop=1),
    select="last",
)


class Spare(nn.Module):
    """A linear layer, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.used = linear_net()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


class LeNet(nn.Module):
    """A LeNet-5 that computes in float64, where rounding stays small for a whole training."""

    def __init__(self):
        super().__init__()
        self.net = create_model("lenet-5", input_shape=(1, 16, 16), seed=0).double()

    def forward(self, x):
        return self.net(x.double())


LENET = TrainSettings(epochs=3, batch_size=50, optimizer=Optimizer("SGD", 0.05), select="last")
CASES = {
    "spare": (Spare, lambda: blobs(**DATA), SETTINGS, 1e-4),
    "lenet": (LeNet, lambda: load_dataset("digits", size=16, train=300), LENET, 1e-12),
}
"""name -> model, data, settings, and how far training losses may differ. Dropout would be another in each process."""

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import torch.distributed
import test_training_processes as cases
from safetensors.torch import save_file
for name, (model, data, settings, _) in cases.CASES.items():
    for number in (1, 2):  # the second finds a checkpoint
        net = model()
        cases.fit(net, data(), settings, folder=f"{sys.argv[1]}/{name}")
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        save_file(net.state_dict(), f"{sys.argv[1]}/{name}/{number}-{rank}-of-{size}.safetensors")
assert torch.distributed.get_backend() == "gloo"
torch.distributed.destroy_process_group()
"""


def launch(options, script, *arguments):
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, str(script), *map(str, arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    launch(options, folder / "script.py", folder, Path(__file__).parent)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_process(folder, name):
    model, data, settings, tolerance = CASES[name]
    net = model()
    history = fit(net, data(), settings)
    for number, rank in ((1, 0), (1, 1), (2, 0), (2, 1)):
        found = load_file(folder / name / f"{number}-{rank}-of-2.safetensors")
        for key, tensor in weights(net).items():
            torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-5)
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    for line, epoch in zip(lines, history.epochs, strict=True):
        assert line["train_loss"] == pytest.approx(epoch.train_loss, rel=tolerance)
        assert line["validation_loss"] == pytest.approx(epoch.validation_loss, rel=1e-4)
        assert line["train_error"] == pytest.approx(epoch.train_error)


@pytest.mark.parametrize("name", CASES)
def test_both_processes_hold_the_same(folder, name):
    one, other = (load_file(folder / name / f"1-{rank}-of-2.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_launch_that_starts_one_process_only_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from bitwright.training.devices import Devices; print(Devices('float32', None).processes)")
    done = launch(["--cpu", "--num_processes", "2"], script)
    assert done.stdout == "1\n"
    assert "starts one unless it is told --multi_gpu" in done.stderr
