"""A training that was killed ends with the same bits as one that was not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from bitwright import BitwrightError
from bitwright.training import checkpoint
from bitwright.training.loop import fit
from bitwright.training.optimizers import list_optimizers
from bitwright.training.settings import Augment, Distill, Optimizer, Schedule, TrainSettings
from training_cases import KillAt, Killed, blobs, equal, linear_net, small_net, weights

BASE = TrainSettings(epochs=4, batch_size=30, optimizer=Optimizer("SGD", 0.1, {"momentum": 0.9}))
BATCHES = 3  # an epoch


class Halve(nn.Module):
    """A parametrization with a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(0.5))

    def forward(self, weight):
        return weight * self.factor


def parametrized_net():
    net = small_net(0.2)
    parametrize.register_parametrization(net[0], "weight", Halve())
    return net


def undisturbed(make, settings, folder=None):
    net = make()
    history = fit(net, blobs(), settings, folder=folder)
    return weights(net), history


def killed_once(make, settings, folder, batches):
    """Killed when so many batches are done, then called again with a model made anew."""
    with pytest.raises(Killed):
        fit(make(), blobs(), settings, folder=folder, progress=KillAt(batches))
    net = make()
    history = fit(net, blobs(), settings, folder=folder)
    return weights(net), history


def timeless(history):
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in history.epochs]


@pytest.mark.parametrize("batches", [0, 3, 6, 9, 12])
@pytest.mark.parametrize("make", [lambda: small_net(0.4), parametrized_net], ids=["dropout", "parametrized"])
def test_killed_at_every_epoch(tmp_path, make, batches):
    final, history = undisturbed(make, BASE, tmp_path / "whole")
    resumed, again = killed_once(make, BASE, tmp_path / "killed", batches)
    assert equal(final, resumed)
    assert timeless(history) == timeless(again)
    name = checkpoint.NAME
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def with_rules():
    net = small_net(0.2)
    net[0].weight.lr_factor, net[5].bias.lr_factor, net[5].weight.decays, net[1].weight.decays = 0.5, 4.0, False, True
    return net


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_parameters_with_rules_of_their_own_resume(tmp_path, name):
    settings = dataclasses.replace(BASE, optimizer=Optimizer(name, 0.01, {}), weight_decay=0.1)
    final, _ = undisturbed(with_rules, settings)
    assert equal(final, killed_once(with_rules, settings, tmp_path, 2 * BATCHES + 1)[0])
    assert not equal(final, undisturbed(lambda: small_net(0.2), settings)[0])
    with pytest.raises(
        BitwrightError, match=r"another training: parameters\.0\.weight\.lr_factor is None, there it was 0"
    ):
        fit(small_net(0.2), blobs(), settings, folder=tmp_path)


@pytest.mark.parametrize("name", sorted(set(list_optimizers()) - {"SparseAdam", "Muon"}))
def test_every_optimizers_state_survives(tmp_path, name):
    settings = dataclasses.replace(BASE, epochs=3, optimizer=Optimizer(name, 0.01, {}))
    final, _ = undisturbed(small_net, settings)
    assert equal(final, killed_once(small_net, settings, tmp_path, 2 * BATCHES + 1)[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": Schedule("plateau", patience=1), "optimizer": Optimizer(lr=1.0), "epochs": 6},
        {"schedule": Schedule("one-cycle", warmup=1)},
        {"patience": 2, "optimizer": Optimizer(lr=1.0), "epochs": 20},
        {"select": "last"},
        {"select_among": 0.5},
        {"precision": "bf16"},
        {"augment": Augment(flip=True, crop=1)},
    ],
    ids=["plateau", "one-cycle", "patience", "last", "among", "bf16", "augment"],
)
def test_every_decision_survives(tmp_path, changes):
    settings = dataclasses.replace(BASE, **changes)
    final, history = undisturbed(small_net, settings)
    resumed, again = killed_once(small_net, settings, tmp_path, 2 * BATCHES + 1)
    assert equal(final, resumed)
    assert timeless(history) == timeless(again)
    assert equal(final, undisturbed(small_net, settings, tmp_path)[0])  # loaded, as it is finished


def test_killed_again_and_again(tmp_path):
    final, _ = undisturbed(small_net, BASE)
    for batches in (1, 3, 4, 8, 11):
        with pytest.raises(Killed):
            fit(small_net(), blobs(), BASE, folder=tmp_path, progress=KillAt(batches))
    net = small_net()
    fit(net, blobs(), BASE, folder=tmp_path)
    assert equal(weights(net), final)


@pytest.mark.parametrize("after", [False, True])
def test_killed_while_the_checkpoint_is_written(tmp_path, monkeypatch, after):
    final, _ = undisturbed(small_net, BASE)
    real, calls = checkpoint.write_atomic, []

    def write(path, data):
        calls.append(path)
        if after:
            real(path, data)
        if len(calls) == 2:
            raise Killed
        if not after:
            real(path, data)

    monkeypatch.setattr(checkpoint, "write_atomic", write)
    with pytest.raises(Killed):
        fit(small_net(), blobs(), BASE, folder=tmp_path)
    monkeypatch.setattr(checkpoint, "write_atomic", real)
    net = small_net()
    fit(net, blobs(), BASE, folder=tmp_path)
    assert equal(weights(net), final)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_a_half_written_line_of_metrics_is_mended(tmp_path):
    with pytest.raises(Killed):
        fit(small_net(), blobs(), BASE, folder=tmp_path, progress=KillAt(2 * BATCHES + 1))
    metrics = tmp_path / "metrics.jsonl"
    known = json.loads(metrics.read_text().splitlines()[0])["seconds"]
    metrics.write_text(metrics.read_text() + '{"epoch": 3, "trai')
    history = fit(small_net(), blobs(), BASE, folder=tmp_path)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert lines == [dataclasses.asdict(epoch) for epoch in history.epochs]
    assert lines[0]["seconds"] == known > 0


def test_resuming_trains_only_what_is_left(tmp_path):
    counts = []

    class Count(nn.Linear):
        def forward(self, x):
            if self.training:
                counts.append(len(x))
            return super().forward(x)

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), Count(16, 3))

    with pytest.raises(Killed):
        fit(make(), blobs(), BASE, folder=tmp_path, progress=KillAt(3 * BATCHES + 1))
    counts.clear()
    fit(make(), blobs(), BASE, folder=tmp_path)
    assert sum(counts) == 90  # one epoch of four
    counts.clear()
    finished = make()
    history = fit(finished, blobs(), BASE, folder=tmp_path)
    assert counts == []
    assert len(history.epochs) == 4
    fit(finished, blobs(), BASE, folder=tmp_path)  # the very model that is finished
    assert counts == []


def test_an_interrupted_model_holds_what_it_came_with_and_goes_on(tmp_path):
    net = small_net(0.4)
    start = weights(net)
    with pytest.raises(Killed):
        fit(net, blobs(), BASE, folder=tmp_path, progress=KillAt(2 * BATCHES + 1))
    assert equal(weights(net), start)
    fit(net, blobs(), BASE, folder=tmp_path)
    assert equal(weights(net), undisturbed(lambda: small_net(0.4), BASE)[0])


def test_only_one_checkpoint_is_kept(tmp_path):
    undisturbed(small_net, BASE, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.NAME, "metrics.jsonl", "tensorboard"]


def test_a_teacher_survives(tmp_path):
    settings = dataclasses.replace(BASE, distill=Distill())
    whole, killed = small_net(), small_net()
    fit(whole, blobs(), settings, teacher=linear_net())
    with pytest.raises(Killed):
        fit(small_net(), blobs(), settings, teacher=linear_net(), folder=tmp_path, progress=KillAt(7))
    fit(killed, blobs(), settings, teacher=linear_net(), folder=tmp_path)
    assert equal(weights(whole), weights(killed))
    other = linear_net()
    nn.init.zeros_(other[1].bias)
    with pytest.raises(BitwrightError, match="belongs to another training: teacher is"):
        fit(small_net(), blobs(), settings, teacher=other, folder=tmp_path)


class TestAnotherTraining:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"settings": dataclasses.replace(BASE, epochs=9)}, r"settings\.epochs is 9, there it was 4"),
            (
                {"settings": dataclasses.replace(BASE, optimizer=Optimizer(lr=0.2))},
                r"settings\.optimizer\.lr is 0\.2, there it was 0\.1",
            ),
            ({"seed": 1}, "seed is 1, there it was 0"),
            ({"label": "3-train"}, "label is '3-train', there it was 'train'"),
            ({"model": linear_net}, r"model\.0\.bias is None, there it was \['torch\.float32', 4\]"),
            ({"model": lambda: small_net(0.1)}, r"architecture is"),
            ({"data": blobs(seed=1)}, r"data\.fingerprint is"),
            ({"data": dataclasses.replace(blobs(), validation=blobs(seed=1).validation)}, r"data\.fingerprint is"),
            ({"data": blobs(train=60)}, r"data\.counts is \[60, 45\], there it was \[90, 45\]"),
        ],
    )
    def test_the_difference_is_named(self, tmp_path, changes, message):
        fit(small_net(), blobs(), BASE, folder=tmp_path)
        given = {"model": small_net, "data": blobs(), "settings": BASE, **changes}
        model = given.pop("model")()
        with pytest.raises(BitwrightError, match=f"belongs to another training: .*{message}.*another folder"):
            fit(model, given.pop("data"), given.pop("settings"), **given, folder=tmp_path)

    def test_other_starting_weights(self, tmp_path):
        fit(small_net(), blobs(), BASE, folder=tmp_path)
        net = small_net()
        nn.init.zeros_(net[5].bias)
        with pytest.raises(BitwrightError, match=r"another training: starting_weights is '[0-9a-f]{16}', there it was"):
            fit(net, blobs(), BASE, folder=tmp_path)

    @pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b"\xff" * 50])
    def test_damaged_file(self, tmp_path, damage):
        fit(small_net(), blobs(), BASE, folder=tmp_path)
        path = tmp_path / checkpoint.NAME
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(BitwrightError, match=r"is not a readable training checkpoint .*; delete it"):
            fit(small_net(), blobs(), BASE, folder=tmp_path)

    def test_a_foreign_safetensors_file(self, tmp_path):
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(2)}, tmp_path / checkpoint.NAME)
        with pytest.raises(BitwrightError, match="is not a readable training checkpoint"):
            fit(small_net(), blobs(), BASE, folder=tmp_path)

    def test_another_version(self, tmp_path, monkeypatch):
        fit(small_net(), blobs(), BASE, folder=tmp_path)
        monkeypatch.setattr(checkpoint, "_VERSION", 2)
        with pytest.raises(BitwrightError, match="has version 1, this bitwright reads 2; delete it"):
            fit(small_net(), blobs(), BASE, folder=tmp_path)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import test_training_resume
test_training_resume.long_training(sys.argv[1])
"""


def long_training(folder):
    """Under a second, with a checkpoint every eighth of it."""
    fit(small_net(0.3), blobs(train=1000), TrainSettings(epochs=8, batch_size=16), folder=folder)


def test_kill_minus_nine(tmp_path):
    """A real SIGKILL after the second epoch; this process goes on."""
    arguments = [str(tmp_path / "killed"), str(Path(__file__).parent)]
    process, metrics = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments]), tmp_path / "killed/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= metrics.read_text().count("\n") < 8
    long_training(tmp_path / "killed")
    long_training(tmp_path / "whole")
    name = checkpoint.NAME
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert metrics.read_text().count("\n") == 8
