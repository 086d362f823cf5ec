"""Searches for bit widths: on made-up spaces whose answers are known, and on a trained network."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.measure.agreement import kind_of_network
from bitwright.models import create_model
from bitwright.ops import Quantize
from bitwright.packing.lower import lower
from bitwright.steps.bit_search import BitSearch, Config, Knob, Limits, greedy, scan, sensitive, value_bits
from bitwright.steps.calibrate import Grid
from bitwright.steps.fixed import Fixed
from bitwright.steps.searched import configuration, search_bits
from bitwright.training.settings import TrainSettings


@dataclass
class MadeUp:
    """Accuracy falls by damage[name] / 4^bits for each knob: the error of rounding, added up."""

    values: dict[str, int]
    weights: dict[str, int]
    damage: dict[str, float]
    integer_bits: int = 3
    calls: list[Config] = field(default_factory=list)

    def accuracy(self, config: Config) -> float:
        self.calls.append(config)
        return max(100 - self.distortion(config), 0)

    def distortion(self, config: Config) -> float:
        return sum(self.damage[knob.name] * self.error(knob, bits) for knob, bits in config.items())

    def error(self, knob: Knob, bits: int) -> float:
        if knob.kind == "integer":
            return 0.0 if bits >= self.integer_bits else 10.0 * (self.integer_bits - bits)
        return 4.0 ** -(bits if knob.kind != "fraction" else bits + self.integer_bits)


def made_up(*damage: float) -> MadeUp:
    names = [f"v{i}" for i in range(len(damage) - 1)]
    counts = dict(zip(names, (1000, 100, 10), strict=False))
    return MadeUp(counts, {"w": 500}, dict(zip([*names, "w"], damage, strict=True)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.1, 1000), min_size=2, max_size=3), st.booleans())
def test_both_searches_keep_the_accuracy_and_come_near_the_best_there_is(damage: list[float], formats: bool) -> None:
    space = made_up(*damage)
    best = cheapest(space, 1.0)
    for search in (greedy(space, Limits(8, 8, formats=formats)), sensitive(space, Limits(8, 8))):
        answer = search.answer(1.0)
        assert space.accuracy(answer) >= 99
        assert best <= search.cost(answer) < best + 1.6 / 32
        assert all(search.cost(search.answer(t)) <= search.cost(answer) for t in (2.0, 5.0, 10.0))


def cheapest(space: MadeUp, tolerance: float) -> float:
    """By trying everything."""
    names = [*space.values, *space.weights]
    counts = space.values | space.weights
    total = sum(counts.values())
    found = 1.0
    for bits in itertools.product(range(1, 9), repeat=len(names)):
        if any(b < 2 for name, b in zip(names, bits, strict=True) if name in space.weights):
            continue
        lost = sum(space.damage[name] * 4.0**-b for name, b in zip(names, bits, strict=True))
        if lost <= tolerance:
            found = min(found, sum(counts[n] * b for n, b in zip(names, bits, strict=True)) / (32 * total))
    return found


def test_the_sensitivity_search_asks_far_less_often() -> None:
    asked = []
    for search in (greedy, sensitive):
        space = made_up(50.0, 400.0, 3000.0, 20.0)
        found = search(space, Limits(10, 10))
        assert found.evaluations == len(space.calls) + (len(space.damage) if search is sensitive else 0)
        asked.append(found.evaluations)
    assert asked[1] * 2 < asked[0]


def test_a_knob_that_matters_gets_bits() -> None:
    space = made_up(1.0, 5000.0, 1.0)
    for search in (greedy(space, Limits(8, 8)), sensitive(space, Limits(8, 8))):
        answer = search.answer(1.0)
        assert value_bits(answer, "v1") > value_bits(answer, "v0") + 3


def test_weights_that_are_not_searched_are_uniform() -> None:
    space = made_up(10.0, 10.0, 300.0)
    assert all(
        t.config.get(Knob("weight", "w"), 8) == 8 for t in sensitive(space, Limits(8, 8, weights=False)).tried.values()
    )
    fewest = greedy(space, Limits(8, 8, weights=False))
    complete = [t.config for t in fewest.tried.values() if len(t.config) == 3]
    assert {config[Knob("weight", "w")] for config in complete} == {6}  # 300 / 4^6 is below 0.1, 300 / 4^5 above
    assert fewest.cost(fewest.answer(1.0)) == pytest.approx(traffic(fewest.answer(1.0), space))


def traffic(config: Config, space: MadeUp) -> float:
    bits = sum(n * value_bits(config, name) for name, n in space.values.items())
    return bits / (32 * sum(space.values.values()))


def test_a_scan_moves_one_knob_at_a_time() -> None:
    space = made_up(64.0, 1.0)
    search = sensitive(space, Limits(4, 5))
    curves = scan(search, Limits(4, 5).most(space))
    assert [bits for bits, _ in curves[Knob("data", "v0")]] == [5, 4, 3, 2, 1]
    assert [bits for bits, _ in curves[Knob("weight", "w")]] == [4, 3, 2]
    assert dict(curves[Knob("data", "v0")])[2] == pytest.approx(100 - 64 / 16)


class Together(MadeUp):
    """Weights and values need twelve bits between them: either may have few while the other is float."""

    def accuracy(self, config: Config) -> float:
        weight = config.get(Knob("weight", "w"), 32)
        return 100.0 if weight + min(value_bits(config, name) for name in self.values) >= 12 else 50.0


@pytest.mark.parametrize("formats", [False, True])
def test_bits_that_do_not_suit_each_other_grow_until_they_do(formats: bool) -> None:
    space = Together({"v0": 10, "v1": 10}, {"w": 10}, {})
    for weights in (False, True):
        answer = greedy(space, Limits(8, 8, weights, formats)).answer(1.0)
        assert space.accuracy(answer) == 100
        assert all(1 <= value_bits(answer, name) <= 8 for name in space.values)


def test_what_no_bits_can_reach_is_an_error() -> None:
    space = made_up(1e6, 1e6)
    with pytest.raises(BitwrightError, match="no configuration loses as little as 1 percent"):
        sensitive(space, Limits(4, 4)).answer(1.0)


def test_an_answer_is_read_back() -> None:
    for formats in (False, True):
        found = search_bits(made_up(30.0, 3.0), BitSearch("greedy"), Limits(8, 8, formats=formats))
        config = configuration(found["answer"])
        assert value_bits(config, "v0") == found["answer"]["traffic"] * 32
        assert (Knob("integer", "v0") in config) == formats
        assert found["evaluations"] > len(found["tried"]) > 0


DIGITS = load_dataset("digits")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model = create_model("lenet-300-100", input_shape=(1, 8, 8), seed=0)
    Context(DIGITS).train(model, TrainSettings(epochs=8, batch_size=50))
    return model


@pytest.mark.parametrize(
    ("options", "search"),
    [
        ({"scales": "power-of-two", "per_channel": False, "correct_bias": False}, BitSearch("greedy", images=200)),
        ({"scales": "power-of-two"}, BitSearch("sensitivity", weights=False)),
        ({}, BitSearch("sensitivity", scan=True)),
    ],
)
def test_a_searched_network_has_the_bits_that_were_found(trained: nn.Module, options: Any, search: BitSearch) -> None:
    context = Context(DIGITS)
    model = Fixed(**options, search=search).apply(copy.deepcopy(trained), context)
    found = context.records["bit_search"]
    answer = found["answer"]
    images, labels = context.held_out(search.images)
    assert kind_of_network(*lower(model.eval(), (images[:2],), DIGITS.preprocess)) == "integer"
    assert 100 * (model.eval()(images).argmax(1) == labels).double().mean() > answer["accuracy"] - 2.5
    assert answer["traffic"] < 0.2
    assert answer["accuracy"] >= 0.99 * found["baseline"]
    for name, bits in answer["value_bits"].items():
        quantiser = model.get_submodule(f"quantisers.{name}")
        assert isinstance(quantiser, Quantize)
        assert int(quantiser.qmax - quantiser.qmin).bit_length() == (sum(bits) if isinstance(bits, list) else bits)
        if isinstance(bits, list):
            assert quantiser.scale == 2.0 ** -bits[1]
    for name, bits in answer["weight_bits"].items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        assert all(len(row.unique()) <= 2**bits - 1 for row in weight)
    assert (found["scan"] is not None) == search.scan


@pytest.mark.parametrize("method", ["greedy", "sensitivity"])
def test_a_single_layer_has_weights_alone_to_search(method: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    context = Context(DIGITS)
    context.train(model, TrainSettings(epochs=3, batch_size=50))
    Fixed(search=BitSearch(method)).apply(model, context)
    answer = context.records["bit_search"]["answer"]
    assert answer["value_bits"] == {}
    assert 2 <= answer["weight_bits"]["1"] < 8
    with pytest.raises(BitwrightError, match="has no values to search bits for"):
        Fixed(search=BitSearch(method, weights=False)).apply(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), context)


def test_the_accuracy_of_the_answer_is_that_of_the_network_coarse_pixels_and_all(trained: nn.Module) -> None:
    for bits in (2, 3, 8):
        context = Context(DIGITS)
        step = Fixed(activation_bits=bits, correct_bias=False, search=BitSearch(tolerance=20))
        model = step.apply(copy.deepcopy(trained), context)
        images, labels = context.held_out(1000)
        found = 100 * (model.eval()(images).argmax(1) == labels).double().mean()
        assert found == pytest.approx(context.records["bit_search"]["answer"]["accuracy"], abs=0.5)


def test_symmetric_values_below_zero_can_be_searched_down_to_a_bit() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))
    context = Context(DIGITS)
    context.train(model, TrainSettings(epochs=8, batch_size=50))
    Fixed(images=50, symmetric=True, search=BitSearch(scan=True)).apply(model, context)
    assert context.records["bit_search"]["scan"]["data _1"][-1][0] == 1


def test_a_search_is_not_done_again(trained: nn.Module, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Fixed(search=BitSearch(images=100), images=50)
    first = step.apply(copy.deepcopy(trained), Context(DIGITS, folder=tmp_path))
    monkeypatch.setattr("bitwright.steps.fixed.search_bits", None)
    again = step.apply(copy.deepcopy(trained), Context(DIGITS, folder=tmp_path))
    states = first.state_dict(), again.state_dict()
    assert all((states[0][name] == states[1][name]).all() for name in states[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BitSearch("best"), "method is 'best'; expected greedy or sensitivity"),  # type: ignore[arg-type]
        (lambda: BitSearch(tolerance=100), "tolerance is 100; expected percent"),
        (lambda: BitSearch(tolerance="1"), "tolerance is '1'; expected percent"),  # type: ignore[arg-type]
        (lambda: BitSearch(images=0), "images is 0; expected a whole number from 1"),
        (lambda: Fixed(weight_bits={"*": 4}, search=BitSearch()), "the most that search or accumulator may give"),
    ],
)
def test_settings_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        make()


def test_formats_of_values_with_and_without_a_sign() -> None:
    from bitwright.steps.calibrate import Seen, format_grid

    counts = Context(DIGITS).calibration(1).new_zeros(4096)
    assert format_grid(Seen(0.0, 3.0, counts), 2, 3) == Grid(0.125, 0, 0, 31)
    assert format_grid(Seen(-1.0, 3.0, counts), 3, 2) == Grid(0.25, 0, -16, 15)
    assert format_grid(Seen(-1.0, 3.0, counts), 0, 1) == Grid(0.5, 0, -1, 0)
