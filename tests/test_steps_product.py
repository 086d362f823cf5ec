"""Product quantisation and binarisation: what they leave, what it takes in a file, and that it runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitwright as bw
from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.models import create_model
from bitwright.steps.binarise import Binarise
from bitwright.steps.product import Product, looked_up, quantise
from bitwright.training.settings import Optimizer, TrainSettings

DIGITS = load_dataset("digits")
TRAIN = TrainSettings(epochs=3, batch_size=50, optimizer=Optimizer("Adam", 1e-3, {}))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    model = create_model("mlp", input_shape=(1, 8, 8), hidden=[512, 512], seed=0)
    Context(DIGITS).train(model, TrainSettings(epochs=8, batch_size=50, optimizer=Optimizer("Adam", 2e-3, {})))
    return model


def run(step: Any, model: nn.Module) -> tuple[nn.Module, Context]:
    context = Context(DIGITS)
    given = copy.deepcopy(model)
    context.begin(given)
    return step.apply(given, context).eval(), context


def test_planted_runs_are_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    books = 10 * torch.randn(6, 4, 2, generator=generator)
    codes = torch.randint(4, (300, 6), generator=generator)
    matrix = looked_up(books, codes, 12)
    found, places = quantise(matrix, 2, 4, 100, 1)
    assert float((looked_up(found, places, 12) - matrix).square().mean()) < 0.15 * float(matrix.var())
    best, _ = quantise(matrix, 2, 16, 100, 1)
    assert best.shape == (6, 16, 2)


def test_centroids_are_means_and_codes_the_nearest() -> None:
    matrix = torch.randn(200, 7, generator=torch.Generator().manual_seed(3))
    books, codes = quantise(matrix, 3, 8, 200, 0)
    parts = torch.nn.functional.pad(matrix, (0, 2)).view(200, 3, 3)
    for run_ in range(3):
        distances = torch.cdist(parts[:, run_], books[run_])
        assert torch.equal(distances.argmin(1), codes[:, run_])
        for k in codes[:, run_].unique():
            assert torch.allclose(parts[codes[:, run_] == k, run_].mean(0), books[run_, k], atol=1e-5)


def test_more_centroids_lose_less(net: nn.Module) -> None:
    errors = [run(Product(centroids=count), net)[1].records["product"][1]["error"] for count in (4, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.2, "2 bits a weight"


def test_layers_pack_as_runs_and_run_by_looking_up(net: nn.Module, tmp_path: Path) -> None:
    model, context = run(Product(train=TRAIN), net)
    layer = model.get_submodule("fc2")
    assert isinstance(layer.weight, Tensor)
    pairs = layer.weight.detach().view(512, 256, 2)
    assert max(len(pairs[:, run_].unique(dim=0)) for run_ in range(256)) <= 16
    assert context.evaluate(model).error < context.evaluate(net).error + 3
    pixels = DIGITS.split("test").images[:30]
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels))
    packed = bw.pack(model, (x[:2],), preprocess=DIGITS.preprocess)
    packed.save(tmp_path / "net.safetensors")
    assert {row.layer: row.encoding for row in packed.report().rows if row.role == "weight"}["fc2"] == "product"
    loaded = bw.load(tmp_path / "net.safetensors")
    assert any("product" in str(step) for step in loaded.plan)
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.abs(loaded(pixels) - expected).max() < 1e-4 * np.ptp(expected)
    assert np.abs(loaded(pixels[:1]) - expected[:1]).max() < 1e-4 * np.ptp(expected)


def test_one_by_one_convolutions_are_matrices() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 64, 1), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.Flatten(), nn.Linear(2048, 10))
    model, _ = run(Product(layers=("2",), width=4, centroids=8), model)
    weight = model.get_submodule("2").weight
    assert isinstance(weight, Tensor)
    assert len(weight.detach()[:, :4, 0, 0].unique(dim=0)) <= 8


@pytest.mark.parametrize(("scale", "magnitudes"), [("none", 1), ("layer", 1), ("channel", 10)])
def test_binarised_weights_are_signs(net: nn.Module, scale: Any, magnitudes: int) -> None:
    model, context = run(Binarise(layers=("fc3",), scale=scale, train=TRAIN), net)
    weight, before = model.get_submodule("fc3").weight, net.get_submodule("fc3").weight
    assert isinstance(weight, Tensor)
    assert isinstance(before, Tensor)
    assert len(weight.abs().unique()) == magnitudes
    assert torch.equal(weight >= 0, before >= 0)
    if scale == "layer":
        assert float(weight.abs().max()) == pytest.approx(float(before.abs().mean()))
    assert context.records["binarise"][0]["layer"] == "fc3"
    assert context.evaluate(model).error < 12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Product(width=0), "width is 0; expected 2 to 8 columns"),
        (lambda: Product(width=1), "for single weights take `share`"),
        (lambda: Product(width=9), "width is 9"),
        (lambda: Product(width=2.0), "width is 2.0"),  # type: ignore[arg-type]
        (lambda: Product(centroids={}), "centroids is an empty mapping"),
        (lambda: Product(centroids=257), "centroids is 257; expected 2 to 256"),
        (lambda: Product(centroids={"*": 1}), "centroids is 1"),
        (lambda: Binarise(scale="row"), "binarise: scale"),  # type: ignore[arg-type]
        (
            lambda: run(Product(layers=("*",)), create_model("lenet-5-bn", input_shape=(1, 28, 28))),
            "take linear layers",
        ),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        make()
