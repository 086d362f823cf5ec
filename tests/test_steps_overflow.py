"""The survey of accumulators: what it finds is what a network with such accumulators does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.models import create_model
from bitwright.steps.accumulator import Accumulator
from bitwright.steps.fixed import Fixed
from bitwright.steps.overflow import OverflowSurvey, _integer_layers
from bitwright.training.settings import Optimizer, TrainSettings

DIGITS = load_dataset("digits")


@pytest.fixture(scope="module")
def quantised() -> nn.Module:
    model = create_model("convnet", input_shape=(1, 8, 8), seed=0)
    context = Context(DIGITS)
    context.train(model, TrainSettings(epochs=5, batch_size=50, optimizer=Optimizer("Adam", 2e-3, {})))
    options: dict[str, Any] = {"weight_bits": 6, "activation_bits": 6, "scales": "power-of-two", "per_channel": False}
    return Fixed(images=50, **options).apply(model, context).eval()


def test_the_constraints_are_ordered_and_overflow_needs_fewer_bits(quantised: nn.Module) -> None:
    context = Context(DIGITS)
    assert OverflowSurvey(images=60).apply(quantised, context) is quantised
    rows = context.records["overflow"]["layers"]
    assert [row["layer"] for row in rows] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    for row in rows:
        assert row["worst_case"] >= row["act_w"] >= row["act_y"]
        assert max(row["wrap"], row["clip"]) <= row["act_w"]
        assert row["fraction_bits"] is not None
    assert sum(row["clip"] for row in rows) < sum(row["wrap"] for row in rows)


@pytest.mark.parametrize("name", ["conv1", "fc1"])
def test_wide_enough_accumulators_change_no_bit(quantised: nn.Module, name: str) -> None:
    x = Context(DIGITS).calibration(20)
    layer = _integer_layers(quantised)[name]
    with torch.no_grad():
        expected = quantised(x)
        for overflow in ("wrap", "clip"):
            with layer.overflowing(24, overflow):
                assert torch.equal(quantised(x), expected)
            with layer.overflowing(5, overflow):
                assert not torch.equal(quantised(x), expected)
        assert torch.equal(quantised(x), expected)


def test_grouped_layers_are_added_up_by_group() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10))
    model.input_shape = (4, 8, 8)
    layers = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), *model)
    quantised = Fixed(images=20).apply(layers, Context(DIGITS)).eval()
    x = Context(DIGITS).calibration(5)
    with torch.no_grad():
        expected = quantised(x)
        for layer in _integer_layers(quantised).values():
            with layer.overflowing(31, "clip"):
                assert torch.equal(quantised(x), expected)


def test_a_proven_width_shows_in_the_survey(quantised: nn.Module) -> None:
    model = create_model("lenet-300-100", input_shape=(1, 8, 8), seed=0)
    context = Context(DIGITS)
    context.train(model, TrainSettings(epochs=3, batch_size=50))
    model = Fixed(images=50, accumulator=Accumulator(16)).apply(model, context)
    OverflowSurvey(images=50, together=16).apply(model, context)
    found = context.records["overflow"]
    assert all(row["act_w"] <= 16 for row in found["layers"])
    assert found["together"] == {"bits": 16, "wrap": found["accuracy"], "clip": found["accuracy"]}
    narrow = Context(DIGITS)
    OverflowSurvey(images=50, together=6).apply(model, narrow)
    assert narrow.records["overflow"]["together"]["wrap"] < found["accuracy"] - 20


def test_a_float_model_is_refused() -> None:
    model = create_model("lenet-300-100", input_shape=(1, 8, 8), seed=0)
    with pytest.raises(BitwrightError, match="no layer that is computed in whole numbers; quantise it first"):
        OverflowSurvey().apply(model, Context(DIGITS))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"images": 0}, "images is 0"), ({"keep": 0}, "keep is 0"), ({"together": 33}, "together is 33")],
)
def test_settings_that_are_refused(options: Any, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        OverflowSurvey(**options)


def test_the_survey_is_kept(quantised: nn.Module, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = OverflowSurvey(images=10)
    contexts = [Context(DIGITS, folder=tmp_path) for _ in range(2)]
    step.apply(copy.deepcopy(quantised), contexts[0])
    monkeypatch.setattr(OverflowSurvey, "_survey", None)
    step.apply(copy.deepcopy(quantised), contexts[1])
    assert contexts[0].records == contexts[1].records
