"""First weights have the variances that their names promise, in the weights and in what layers make of them."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from torch import nn

from bitwright import load_dataset
from bitwright.errors import BitwrightError
from bitwright.models import create_model
from bitwright.models import initialize as rules
from bitwright.models.initialize import LAYERS, Initialize, fill_, initialize_
from bitwright.recipe import load_recipe
from bitwright.run import Run

NAMES = ("normal", "xavier-normal", "xavier-uniform", "he-normal", "he-uniform", "orthogonal")


def layers(model):
    return [m for m in model.modules() if isinstance(m, LAYERS)]


@pytest.mark.parametrize(
    ("name", "gain", "variance"),
    [
        ("normal", None, lambda i, o: 0.01**2),
        ("normal", 1.0, lambda i, o: 1.0),
        ("xavier-normal", None, lambda i, o: 2 / (i + o)),
        ("xavier-uniform", None, lambda i, o: 2 / (i + o)),
        ("xavier-uniform", 4, lambda i, o: 16 * 2 / (i + o)),
        ("he-normal", None, lambda i, o: 2 / i),
        ("he-normal", 1, lambda i, o: 1 / i),
        ("he-uniform", None, lambda i, o: 2 / i),
        ("orthogonal", 3, lambda i, o: 9 / max(i, o)),
    ],
)
def test_the_variance_of_every_draw(name, gain, variance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 200), nn.Conv2d(30, 50, 3))
    fill_(model, name, gain)
    # a convolution's 3x3 windows: 270 numbers in; 50 channels, each read in 9 places
    for layer, fans in zip(model, [(300, 200), (270, 450 if name != "orthogonal" else 50)], strict=True):
        measured, expected = layer.weight.double().var().item(), variance(*fans)
        assert measured == pytest.approx(expected, rel=0.04)
        assert abs(layer.weight.mean()) < 4 * math.sqrt(expected / layer.weight.numel())
        assert not layer.bias.any()
        if name.endswith("uniform"):
            assert layer.weight.abs().max() <= math.sqrt(3 * expected)
            assert layer.weight.abs().max() > 0.99 * math.sqrt(3 * expected)


@pytest.mark.parametrize(("shape", "rows"), [((20, 50), True), ((50, 20), False), ((8, 3, 3, 3), True)])
def test_orthogonal_rows_or_columns(shape, rows):
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
    fill_(nn.Sequential(layer), "orthogonal", 2)
    w = layer.weight.detach().flatten(1).double()
    product = w @ w.T if rows else w.T @ w
    torch.testing.assert_close(product, 4 * torch.eye(len(product), dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*NAMES, "lsuv"])
def test_a_seed_gives_the_same_bytes_and_leaves_the_global_state(name):
    before = torch.get_rng_state()
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    build = {"input_shape": (1, 8, 8), "norm": "batch", "initialize": name, "images": lambda: images}
    one, same, other = (create_model("mlp", seed=seed, **build) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.fc1.weight, other.fc1.weight)
    assert one.norm1.weight.eq(1).all()
    assert one.training


def ten_layers(activation, name, gain=None):
    """Standard deviations of the activations of lecture 004's net, 10 x 500 units, on standard normal numbers."""
    options = {"hidden": [500] * 10, "activation": activation, "input_shape": (1, 20, 25)}
    model = create_model("mlp", initialize={"name": name, "gain": gain}, seed=0, **options)
    x = torch.randn(500, 1, 20, 25, generator=torch.Generator().manual_seed(1))
    found = []
    for child in model:
        x = child(x)
        if type(child).__name__.lower() == activation:
            found.append(x.std().item())
    assert len(found) == 10
    return found


def test_the_ten_layers_of_lecture_004():
    small = ten_layers("tanh", "normal")
    assert all(0.2 < after / before < 0.24 for before, after in itertools.pairwise(small))  # 0.01 sqrt(500)
    assert small[-1] < 1e-5  # nothing arrives
    assert ten_layers("tanh", "normal", 1.0)[-1] > 0.95  # all saturated, at -1 or 1
    assert 0.2 < ten_layers("tanh", "xavier-uniform")[-1] < 0.35
    stalled, kept = ten_layers("relu", "xavier-normal"), ten_layers("relu", "he-normal")
    assert stalled[-1] < stalled[0] / 15  # every ReLU halves the variance: 2^-4.5 = 1/22
    assert 0.5 < kept[-1] / kept[0] < 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden": [60] * 8, "activation": "tanh"}),
        ("mlp", {"hidden": [60] * 8, "activation": "sigmoid"}),
        ("lenet-5", {}),
        ("resnet-20", {"input_shape": (1, 28, 28)}),
    ],
)
@pytest.mark.parametrize("gain", [None, 2.0])
def test_lsuv_gives_every_layer_unit_variance(name, options, gain):
    images = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = create_model(
        name, seed=0, initialize={"name": "lsuv", "gain": gain}, images=lambda: images, **options
    ).eval()
    seen = {}
    for layer in layers(model):
        layer.register_forward_hook(lambda layer, _, output: seen.update({layer: output.var(correction=0).item()}))
    model(images)
    assert len(seen) == len(layers(model))
    assert all(abs(variance / (gain or 1) ** 2 - 1) < 0.1 for variance in seen.values())


def test_lsuv_only_scales_what_orthogonal_draws():
    images = torch.randn(64, 1, 28, 28)
    scaled = create_model("lenet-5", seed=0, initialize="lsuv", images=lambda: images)
    drawn = create_model("lenet-5", seed=0, initialize="orthogonal")
    for a, b in zip(layers(scaled), layers(drawn), strict=True):
        factor = a.weight.norm() / b.weight.norm()
        torch.testing.assert_close(a.weight, factor * b.weight)
        assert not a._forward_hooks


def test_a_recipe_initialises_the_first_model_and_no_later_one(tmp_path, monkeypatch):
    raw = {"name": "x", "data": "digits", "model": {"name": "mlp", "initialize": "lsuv"}, "steps": ["half"]}
    run = Run(load_recipe(raw), tmp_path)
    first = run.model(None).fc1
    images = run.data.preprocess.torch(torch.from_numpy(run.data.sample(256).images))
    assert first(images.flatten(1)).var().item() == pytest.approx(1, abs=0.01)
    assert load_recipe(load_recipe(raw)).model["initialize"] == "lsuv"
    run.run_steps()

    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(rules, "_scale_layers_", refuse)
    assert run.model("1-half").fc1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hee-normal", "model.initialize.name is \"hee-normal\"; expected one of 'normal'"),
        ({"name": "normal", "std": 1}, "unknown key model.initialize.std; Allowed here: gain, name"),
        ({"name": "normal", "gain": 0}, "gain is 0"),
        ("lsuv", "measures on images"),
    ],
)
def test_what_it_cannot_read_is_named(value, message):
    with pytest.raises(BitwrightError, match=re.escape(message)):
        create_model("lenet-5", initialize=value)


def test_refusals():
    with pytest.raises(BitwrightError, match="both weights and initialize"):
        create_model("lenet-5", initialize="normal", weights="x")
    with pytest.raises(BitwrightError, match="Flatten has no convolution or linear layer"):
        initialize_(nn.Flatten(), Initialize("normal"))
    with pytest.raises(BitwrightError, match=r"'fc1' have variance 0\.0"):
        create_model("mlp", initialize="lsuv", images=lambda: torch.zeros(4, 1, 28, 28))


def test_a_sample_is_the_start_of_one_shuffle():
    data = load_dataset("digits")
    few, many = data.sample(10), data.sample(20)
    assert (few.images == many.images[:10]).all()
    assert (few.labels == many.labels[:10]).all()
    assert len(data.sample(10**6)) == len(data.train)
