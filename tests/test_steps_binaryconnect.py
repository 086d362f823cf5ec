"""BinaryConnect: how signs are drawn and clipped, what is learned how fast, and what is left at the end."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.context import Context
from bitwright.data.dataset import Dataset
from bitwright.packing.inspect import inspect_file
from bitwright.packing.lower import lower
from bitwright.steps.binaryconnect import BinaryConnect, BinarySigns, clipped_weights, glorot_factor, stochastic_signs
from bitwright.steps.masks import attached
from bitwright.steps.order import complaints
from bitwright.steps.step import select_layers
from bitwright.training.batchnorm import reestimate
from bitwright.training.evaluate import as_tensor
from bitwright.training.optimizers import create_optimizer
from bitwright.training.settings import Optimizer
from training_cases import KillAt, Killed, equal, weights

DIGITS = bw.load_dataset("digits").limited(300)


def step(epochs: int = 2, **fields: Any) -> BinaryConnect:
    made = BinaryConnect(**fields)
    return dataclasses.replace(made, train=dataclasses.replace(made.train, epochs=epochs))


def net(data: Dataset = DIGITS, norm: bool = True) -> nn.Module:
    return bw.create_model(
        "mlp", input_shape=data.shape, hidden=[30, 20], norm="batch" if norm else None, norm_output=norm
    )


@pytest.mark.parametrize("value", [-3.0, -1.0, -0.6, -0.0, 0.001, 0.25, 1.0, 2.0])
def test_how_often_a_sign_is_drawn(value: float) -> None:
    """Within five standard deviations of 400,000 draws of probability clip((x + 1) / 2, 0, 1)."""
    torch.manual_seed(3)
    count, p = 400_003, min(1.0, max(0.0, (value + 1) / 2))
    drawn = stochastic_signs(torch.full((count,), value))
    assert set(drawn.unique().tolist()) <= {-1.0, 1.0}
    assert float((drawn == 1).double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / count) + 1e-9)


def test_neighbours_are_drawn_independently() -> None:
    """Four numbers come from the same 64 bits."""
    torch.manual_seed(4)
    drawn = stochastic_signs(torch.zeros(40_000)).view(-1, 4)
    products = (drawn.T @ drawn / len(drawn) - torch.eye(4)).abs()
    assert float(products.max()) < 5 / math.sqrt(len(drawn))


@pytest.mark.parametrize("mode", ["deterministic", "stochastic"])
def test_the_gradient_is_that_of_the_signs_and_the_clip_comes_with_the_next_step(mode: Any) -> None:
    layer = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.25, 0.75], [-5.0, 3.0, 0.0]]))
    with clipped_weights({"fc": layer}, lambda: BinarySigns(mode), scale_rates=False):
        free = attached(layer, "weight")[1]
        x = torch.tensor([[1.0, 10.0, 100.0]])
        layer.train()(x).sum().backward()
        assert torch.equal(free.grad, x.expand(2, 3))  # type: ignore[arg-type]
        assert free.tolist() == [[0.5, -0.25, 0.75], [-1.0, 1.0, 0.0]]
        used = layer.eval().weight
        expected = [[1, -1, 1], [-1, 1, 1]] if mode == "deterministic" else free.tolist()
        assert used.tolist() == expected


def test_the_rate_is_scaled_by_glorot() -> None:
    assert glorot_factor(torch.zeros(20, 30)) == pytest.approx(1 / math.sqrt(1.5 / 50))
    assert glorot_factor(torch.zeros(8, 4, 3, 5)) == pytest.approx(1 / math.sqrt(1.5 / (15 * 12)))
    model = net()
    layers = select_layers(model)
    with clipped_weights(layers, BinarySigns, scale_rates=True):
        groups = create_optimizer(Optimizer("Adam", 0.01, {}), model).param_groups
        rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
        for layer in layers.values():
            free = attached(layer, "weight")[1]
            assert rates[id(free)] == pytest.approx(0.01 * glorot_factor(free))
        others = [rates[id(p)] for n, p in model.named_parameters() if "norm" in n]
    assert set(others) == {0.01}
    assert not any(hasattr(p, "lr_factor") for p in model.parameters()), "the next step is another training"


@pytest.mark.parametrize("mode", ["deterministic", "stochastic"])
@pytest.mark.filterwarnings("ignore:stochastic BinaryConnect")
def test_a_killed_training_ends_with_the_same_bits(mode: Any, tmp_path: Path) -> None:
    """Signs are drawn from the seed of the epoch, and learning rates are scaled after resuming, too."""
    expected = weights(step(3, mode=mode).apply(net(), Context(DIGITS, seed=1)))
    torch.manual_seed(12345)
    with pytest.raises(Killed):
        step(3, mode=mode).apply(net(), Context(DIGITS, seed=1, folder=tmp_path, progress=KillAt(5)))
    resumed = step(3, mode=mode).apply(net(), Context(DIGITS, seed=1, folder=tmp_path))
    assert equal(weights(resumed), expected)
    unscaled = step(3, mode=mode, scale_rates=False).apply(net(), Context(DIGITS, seed=1))
    assert not equal(weights(unscaled), expected)


def test_deterministic_weights_end_as_signs_and_pack_to_a_bit(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = step(1).apply(bw.create_model("mlp", hidden=[400, 100], norm="batch", norm_output=True), mnist_like())
    layers = select_layers(model)
    assert all(set(layer.weight.unique().tolist()) == {-1.0, 1.0} for layer in layers.values())
    bw.pack(model, (torch.zeros(1, 1, 28, 28),)).save(tmp_path / "net.safetensors")
    rows = [row for row in inspect_file(tmp_path / "net.safetensors").rows if row.role == "weight"]
    bits, count = sum(8 * row.nbytes for row in rows), sum(layer.weight.numel() for layer in layers.values())
    assert 0.9 * count < bits < 1.02 * count + 1000


def mnist_like() -> Context:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 1, 28, 28)).astype(np.uint8)
    part = (images, np.arange(60) % 10)
    return Context(Dataset.from_arrays("noise", part, part, part))


def test_stochastic_weights_end_real_with_norms_measured_for_them() -> None:
    with pytest.warns(UserWarning, match='mode="deterministic" gives 1 bit'):
        model = step(3, mode="stochastic").apply(net(), Context(DIGITS))
    for layer in select_layers(model).values():
        assert layer.weight.abs().max() <= 1
        assert len(layer.weight.unique()) > 100
    before = weights(model)
    reestimate(model, as_tensor(DIGITS.sample(5_000).images), DIGITS.preprocess)
    assert equal(weights(model), before), "they are those of the real weights"


def test_validation_is_at_test_time_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sign is drawn while the network is evaluated."""
    drawn = []

    def draw(x: torch.Tensor) -> torch.Tensor:
        drawn.append(torch.is_grad_enabled())
        return stochastic_signs(x)

    monkeypatch.setattr("bitwright.steps.binaryconnect.stochastic_signs", draw)
    with pytest.warns(UserWarning, match="stochastic"):
        step(1, mode="stochastic").apply(net(), Context(DIGITS))
    assert drawn
    assert all(drawn)


def test_a_layer_without_a_norm_is_named() -> None:
    with pytest.warns(UserWarning, match="layer 'fc2' has no norm behind it") as caught:
        step(1).apply(net(norm=False), Context(DIGITS))
    assert len(caught) == 3


class Residual(nn.Module):
    """conv1 - norm, conv2 added to it and pooled before the norm; conv3 is followed by a sign."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 4, 3, padding=1) for c in (1, 4, 4))
        self.norm1, self.norm2, self.fc = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.conv1(x))
        x = self.norm2(nn.functional.max_pool2d(x + self.conv2(x), 2))
        x = torch.ops.bitwright.sign(self.conv3(torch.relu(x)))
        return self.fc(x.mean((2, 3)))


def test_norms_are_looked_for_in_the_graph() -> None:
    graph, _ = lower(Residual(), (torch.zeros(1, 1, 6, 6),))
    (about_the_sign,) = complaints(graph, ("conv1", "conv2"))
    assert "takes signs of the sums of 'conv3'" in about_the_sign
    found = list(complaints(graph, ("conv1", "conv2", "conv3", "fc")))
    assert "'conv3' has no norm" in found[0]
    assert "'fc' has no norm" in found[1]
    assert found[2] == about_the_sign
    assert "no shortcut goes past 'conv3', so" in list(complaints(graph, ("conv2", "conv3"), shortcuts=True))[-1]


def test_a_group_norm_behind_a_concatenation_is_a_norm() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.norm = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.GroupNorm(2, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(torch.cat([self.conv1(x), self.conv2(x)], 1))

    graph, _ = lower(Branches(), (torch.zeros(1, 1, 6, 6),))
    assert not list(complaints(graph, ("conv1", "conv2")))
