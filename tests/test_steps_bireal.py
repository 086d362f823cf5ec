"""Bi-Real: stages, the result packed, settings. Its gradients are tested with those of signs and of filters."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d
from bitwright.packing.lattice import find_lattice
from bitwright.steps.bireal import BiReal
from bitwright.training.settings import TrainSettings
from low_bits import check_packed, small_resnet

SHORT = TrainSettings(epochs=1, batch_size=100)


@pytest.mark.parametrize("block", ["bireal", "react"])
def test_a_network_ends_binary_and_runs_packed(block: str, tmp_path: Path) -> None:
    data = bw.load_dataset("digits")
    step = BiReal(first=SHORT, train=dataclasses.replace(SHORT, norm_images=500))
    model = step.apply(small_resnet(block, signs=True), Context(data))
    layers = [m for m in model.modules() if isinstance(m, QuantConv2d)]
    assert len(layers) == 6
    for layer in layers:
        lattice = find_lattice(layer.weight.detach().numpy())
        assert lattice is not None
        assert set(np.unique(lattice.integers)) == {-1, 1}
    check_packed(model, data, 1, tmp_path)


def test_the_first_stage_has_binary_activations_and_real_weights() -> None:
    seen = []

    class Look(Context):
        def train(self, model, settings):  # type: ignore[no-untyped-def]
            weight, given = model.get_submodule("layer1.0.conv1").weight, []
            hook = model.get_submodule("layer1.0.conv1").input.register_forward_hook(
                lambda module, inputs, output: given.append(output)
            )
            model(torch.rand(4, 1, 8, 8))
            hook.remove()
            seen.append((settings, len(weight[0].abs().unique()), set(given[0].unique().tolist())))

    first = TrainSettings(epochs=3)
    BiReal(first=first, train=SHORT).apply(small_resnet("react", signs=True), Look(bw.load_dataset("digits")))
    assert seen == [(first, 144, {-1.0, 1.0}), (SHORT, 1, {-1.0, 1.0})]


def test_latent_weights_stay_within_the_limit() -> None:
    from bitwright.steps.masks import attached

    class Look(Context):
        def train(self, model, settings):  # type: ignore[no-untyped-def]
            latent = attached(model.get_submodule("layer1.0.conv1"), "weight")[1]
            with torch.no_grad():
                latent.mul_(100)
            model.train()(torch.rand(4, 1, 8, 8))
            assert float(latent.detach().abs().max()) == 0.5

    BiReal(limit=0.5).apply(small_resnet("bireal", signs=True), Look(bw.load_dataset("digits")))


def test_a_relu_in_front_is_refused() -> None:
    with pytest.raises(BitwrightError, match="block: bireal"):
        BiReal(train=SHORT).apply(small_resnet("pre-activation"), Context(bw.load_dataset("digits")))


def test_a_layer_without_a_norm_is_warned_of() -> None:
    model = small_resnet("bireal", signs=True)
    model.layer2[0].bn2 = torch.nn.Identity()  # type: ignore[index,operator,union-attr,assignment]
    with pytest.warns(UserWarning, match=r"'layer2.0.conv2' has no norm behind it"):
        BiReal(train=TrainSettings(epochs=0)).apply(model, Context(bw.load_dataset("digits")))


def test_layers_without_a_shortcut_are_warned_of() -> None:
    none, data = TrainSettings(epochs=0), bw.load_dataset("digits")
    with pytest.warns(
        UserWarning, match=r"no shortcut goes past 'layer1.0.conv1', 'layer2.0.conv1', 'layer3.0.conv1', so"
    ):
        BiReal(train=none).apply(small_resnet("pre-activation", signs=True), Context(data))
    for block in ("bireal", "react"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            BiReal(train=none).apply(small_resnet(block, signs=True), Context(data))


@pytest.mark.parametrize("make", [lambda: BiReal(limit=0), lambda: BiReal(gradient="swish")])
def test_bad_settings(make: object) -> None:
    with pytest.raises(BitwrightError, match="bireal: "):
        make()  # type: ignore[operator]
