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


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import torch.distributed
import test_training_processes as case
from safetensors.torch import save_file
for number in (1, 2):  # the second finds a checkpoint
    net = case.Spare()
    case.fit(net, case.blobs(**case.DATA), case.SETTINGS, folder=sys.argv[1])
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    save_file(net.state_dict(), f"{sys.argv[1]}/{number}-{rank}-of-{size}.safetensors")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    # on CPUs `accelerate launch` would want mpirun; torchrun is what it starts for GPUs
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    arguments = [str(script), str(folder), str(Path(__file__).parent)]
    done = subprocess.run(
        [*launch, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_equal_to_one_process(folder):
    net = Spare()
    history = fit(net, blobs(**DATA), SETTINGS)
    for number, rank in ((1, 0), (1, 1), (2, 0), (2, 1)):
        found = load_file(folder / f"{number}-{rank}-of-2.safetensors")
        for name, tensor in weights(net).items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line, epoch in zip(lines, history.epochs, strict=True):
        assert line["train_loss"] == pytest.approx(epoch.train_loss, rel=1e-4)
        assert line["validation_loss"] == pytest.approx(epoch.validation_loss, rel=1e-4)
        assert line["train_error"] == pytest.approx(epoch.train_error)


def test_both_processes_hold_the_same(folder):
    one, other = (load_file(folder / f"1-{rank}-of-2.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
