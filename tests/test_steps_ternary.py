"""Ternary weights: thresholds against brute force, trained magnitudes against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.context import Context
from bitwright.data.dataset import Dataset
from bitwright.errors import BitwrightError
from bitwright.packing.lattice import find_lattice
from bitwright.steps.step import select_layers
from bitwright.steps.ternary import TTQ, TWN, TernaryByRule, TrainedTernary, best_threshold
from bitwright.training.settings import TrainSettings

SHORT = TrainSettings(epochs=1, batch_size=100)


def error_at(weight: torch.Tensor, kept: torch.Tensor) -> float:
    """||w - alpha t||^2 for the best alpha on this support."""
    sizes = weight.abs().double()
    return float(sizes.square().sum() - (sizes * kept).sum().square() / kept.sum())


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_best_threshold_is_the_best_of_all(seed: int, count: int) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).standard_normal(count).astype(np.float32))
    best = min(error_at(weight, weight.abs() >= size) for size in weight.abs())
    assert error_at(weight, weight.abs() > best_threshold(weight)) == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_twn_by_the_rule() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.1, 0.0, -0.9]])  # mean |w| = 0.8, Delta = 0.56
    got = TernaryByRule(0.7).quantise(weight)
    assert torch.allclose(got, torch.tensor([[1.3, -1.3, 0.0, 0.0, -1.3]]))


@pytest.mark.parametrize("sparsity", [None, 0.4])
def test_ttq_gradients(sparsity: float | None) -> None:
    """Of both magnitudes by finite differences, of the latent weights by the paper's rule."""
    torch.manual_seed(1)
    weight = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    ternary = TrainedTernary(weight.detach(), 0.3, sparsity, "mean", 1.0).double()
    target = torch.randn(6, 5, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (ternary.quantise(weight) - target).pow(3).sum()

    loss().backward()
    for magnitude in (ternary.positive, ternary.negative):
        value, step = magnitude.detach().clone(), 1e-6
        losses = []
        for moved in (value + step, value - step):
            magnitude.data = moved
            losses.append(float(loss().detach()))
        magnitude.data = value
        assert float(magnitude.grad) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6)  # type: ignore[arg-type]
    above, below = ternary.supports(weight.detach())
    outer = 3 * (ternary.quantise(weight).detach() - target).square()
    slope = 1 + above * (ternary.positive.detach() - 1) + below * (ternary.negative.detach() - 1)
    assert torch.allclose(weight.grad, outer * slope)  # type: ignore[arg-type]
    if sparsity is not None:
        assert int((~(above | below)).sum()) == 12


@pytest.mark.parametrize(("step", "two"), [(TWN(train=SHORT), False), (TTQ(ignore=("first",), train=SHORT), True)])
def test_layers_end_ternary(step: bw.steps.Step, two: bool) -> None:
    data = bw.load_dataset("digits")
    model = step.apply(bw.create_model("mlp", input_shape=data.shape, hidden=[20, 12]), Context(data))
    layers = select_layers(model, ("*",), step.ignore)  # type: ignore[attr-defined]
    assert len(layers) == (2 if two else 3)
    for layer in layers.values():
        assert isinstance(layer.weight, nn.Parameter)
        lattice = find_lattice(layer.weight.detach().numpy())
        assert lattice is not None
        assert set(np.unique(lattice.integers)) == {-1, 0, 1}
        assert lattice.two_magnitudes == two


def test_first_and_last_stay_float() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    assert list(select_layers(model, ("*",), TTQ().ignore)) == ["1"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TWN(threshold=-1.0),
        lambda: TTQ(threshold=1.0),
        lambda: TTQ(sparsity=1.0),
        lambda: TTQ(initial="zero"),  # type: ignore[arg-type]
        lambda: TTQ(rate=float("nan")),
    ],
)
def test_bad_settings(make: object) -> None:
    with pytest.raises(BitwrightError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"layers": ("re:(",)}, "is no regular expression"),
        ({"layers": "fc1"}, r"twn: layers is 'fc1'; expected a tuple of patterns, \('fc1',\)"),
        ({"threshold": 4.5}, r"no weight of layer 'fc1' is above 4.5 times their mean magnitude; take a smaller"),
        ({"ignore": ("fc*",)}, r"no layer is left: ignore=\['fc\*'\] takes all of fc1, fc2, fc3"),
    ],
)
def test_settings_that_suit_no_layer(options: dict[str, object], problem: str) -> None:
    with pytest.raises(BitwrightError, match=problem):
        TWN(train=SHORT, **options).apply(
            bw.create_model("mlp", input_shape=(1, 8, 8)), Context(bw.load_dataset("digits"))
        )  # type: ignore[arg-type]


def test_a_pattern_that_matches_nothing() -> None:
    data: Dataset = bw.load_dataset("digits")
    with pytest.raises(BitwrightError, match="matches nothing"):
        TWN(layers=("conv9",), train=SHORT).apply(bw.create_model("mlp", input_shape=data.shape), Context(data))
