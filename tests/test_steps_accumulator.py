"""Networks whose sums fit into an accumulator: bits that are chosen, and weights that are kept within it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.models import create_model
from bitwright.ops import Coded, QuantConv2d, QuantLinear
from bitwright.packing.inspect import inspect_file
from bitwright.packing.lattice import find_lattice
from bitwright.rebuild import load_checkpoint, save_checkpoint
from bitwright.report.layers import layer_table
from bitwright.runtime.domains import width
from bitwright.runtime.graph import Graph, Node, validate
from bitwright.runtime.reference import run_reference
from bitwright.steps.accumulator import Accumulator, bounded
from bitwright.steps.bit_search import BitSearch
from bitwright.steps.fixed import Fixed
from bitwright.training.settings import Optimizer, TrainSettings

DIGITS = load_dataset("digits")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model = create_model("convnet", input_shape=(1, 8, 8), seed=0)
    Context(DIGITS).train(model, TrainSettings(epochs=6, batch_size=50, optimizer=Optimizer("Adam", 2e-3, {})))
    return model


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 200), st.integers(0, 999))
def test_bounded_rows_keep_the_limit_and_what_fits_stays(width: int, limit: int, seed: int) -> None:
    codes = 20 * torch.randn(6, width, generator=torch.Generator().manual_seed(seed))
    found = bounded(codes.clone(), limit)
    assert torch.equal(found, found.round())
    assert (found.abs().sum(1) <= limit).all()
    assert (found * codes >= 0).all()
    fits = codes.round().abs().sum(1) <= limit
    assert torch.equal(found[fits], codes[fits].round())
    cut = found[~fits].abs().sum(1)
    assert (cut >= limit - width).all(), "no more is taken than rounding needs"


def test_the_smallest_go_first() -> None:
    assert bounded(torch.tensor([[8.0, -6.0, 2.0, 1.0]]), 10).tolist() == [[6.0, -4.0, 0.0, 0.0]]


def narrowest(model: nn.Module) -> dict[str, int]:
    """The bits that each layer's sums need, whatever the image."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantConv2d | QuantLinear):
            assert isinstance(layer.input, Coded)
            domain, lattice = layer.input.domain(), find_lattice(layer.weight.detach().numpy())
            assert domain is not None
            assert lattice is not None
            found[name] = width(domain.span * lattice.largest_sum)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rounding": "adaround", "iterations": 50},
        {"scales": "power-of-two", "per_channel": False},
        {"train": TrainSettings(epochs=2, batch_size=50, optimizer=Optimizer("SGD", 0.01, {"momentum": 0.9}))},
    ],
)
@pytest.mark.parametrize("constraint", ["act-w", "worst-case"])
def test_every_layer_fits(trained: nn.Module, options: Any, constraint: Any) -> None:
    context = Context(DIGITS)
    model = Fixed(images=100, accumulator=Accumulator(16, constraint), **options).apply(copy.deepcopy(trained), context)
    assert max(narrowest(model).values()) <= 16
    assert context.evaluate(model).error < context.evaluate(trained).error + (6 if constraint == "act-w" else 40)
    rows = context.records["accumulator"]["layers"]
    assert [row["layer"] for row in rows] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    for row in rows:
        best = min(row["tried"], key=lambda t: t[2])
        assert best[:2] == [row["weight_bits"], row["value_bits"]]


def test_sums_that_were_seen_allow_more_bits_and_promise_nothing(trained: nn.Module) -> None:
    found: dict[str, dict[int, int]] = {}
    for constraint in ("act-w", "act-y"):
        context = Context(DIGITS)
        step = Fixed(images=100, accumulator=Accumulator(14, constraint))
        model = step.apply(copy.deepcopy(trained), context).eval()
        first = context.records["accumulator"]["layers"][0]  # whose input no earlier choice has changed
        found[constraint] = {values: weights for weights, values, _ in first["tried"]}
        assert {getattr(m, "accumulator", 0) for m in model.modules()} == {0, 14} - (
            {14} if constraint == "act-y" else set()
        )
    assert found["act-y"].keys() >= found["act-w"].keys()
    assert all(found["act-y"][bits] >= weights for bits, weights in found["act-w"].items())
    assert max(narrowest(model).values()) > 14


def test_the_file_has_the_promise_and_readers_check_it(trained: nn.Module, tmp_path: Path) -> None:
    model = Fixed(images=50, accumulator=Accumulator(16)).apply(copy.deepcopy(trained), Context(DIGITS)).eval()
    pixels = DIGITS.split("test").images[:20]
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels))
    path = tmp_path / "net.safetensors"
    packed = bw.pack(model, (x[:2],), preprocess=DIGITS.preprocess)
    packed.save(path)
    loaded = bw.load(path)
    report = inspect_file(path)
    assert set(report.accumulators.values()) == {16}
    assert "16 bits: conv1, " in layer_table(report)["notes"][-1]
    layers = [node for node in loaded.graph.nodes if node.op in ("conv2d", "linear")]
    assert [node.attributes["accumulator"] for node in layers] == [16] * 5
    with torch.no_grad():
        expected = model(x).numpy()
    for engine in ("reference", "native"):
        assert np.array_equal(bw.load(path, engine=engine)(pixels), expected)

    save_checkpoint(model, tmp_path / "model.safetensors", "1-fixed")
    again = load_checkpoint(copy.deepcopy(trained), tmp_path / "model.safetensors").eval()
    assert again.get_submodule("conv1").accumulator == 16

    broken = model.get_submodule("conv2")
    assert isinstance(broken, QuantConv2d)
    broken.accumulator = 9
    with pytest.raises(BitwrightError, match=r"promises an accumulator of 9 bits, but its sums need 1[0-6] bits"):
        bw.pack(model, (x[:2],), preprocess=DIGITS.preprocess)


def graph_with(attributes: dict[str, Any], quantised: bool) -> tuple[Graph, dict[str, np.ndarray]]:
    grid = {"scale": "s", "zero_point": "z"}
    nodes = [Node("quantize", (0,), {"qmin": 0, "qmax": 3}, grid, "q")] if quantised else []
    nodes.append(Node("linear", (len(nodes),), attributes, {"weight": "w"}, "fc"))
    tensors = {"s": np.ones(1, "f4"), "z": np.zeros(1, "f4"), "w": np.array([[1, -2, 1], [3, -4, 1]], "f4")}
    return Graph(((3,),), tuple(nodes), (len(nodes),)), tensors


def test_a_broken_promise_is_refused_by_every_engine() -> None:
    x = np.ones((1, 3), np.float32)
    graph, tensors = graph_with({"accumulator": 6}, True)  # 3 * 8 = 24 takes six bits
    assert run_reference(graph, tensors, (x,))[0].tolist() == [[0, 0]]
    for wrong in (graph_with({"accumulator": 5}, True), graph_with({"accumulator": 16}, False)):
        with pytest.raises(BitwrightError, match="promises an accumulator of"):
            run_reference(*wrong, (x,))
    with pytest.raises(BitwrightError, match="accumulator is 33; expected an integer from 2 to 32"):
        validate(graph_with({"accumulator": 33}, True)[0], {"s": (1,), "z": (1,), "w": (2, 3)})


def test_wider_accumulators_lose_less(trained: nn.Module) -> None:
    errors = []
    for bits in (14, 24):
        context = Context(DIGITS)
        Fixed(images=100, accumulator=Accumulator(bits)).apply(copy.deepcopy(trained), context)
        errors.append([min(t[2] for t in row["tried"]) for row in context.records["accumulator"]["layers"]])
    assert all(wide < narrow for narrow, wide in zip(*errors, strict=True))


def test_a_width_that_nothing_fits_into_is_refused(trained: nn.Module) -> None:
    step = Fixed(images=100, accumulator=Accumulator(9, "worst-case"))
    message = "'conv1' adds 25 products of weights of 2 bits and values of 8 bits, which an accumulator of 9 bits can't"
    with pytest.raises(BitwrightError, match=message):
        step.apply(copy.deepcopy(trained), Context(DIGITS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Accumulator(7), "bits is 7; expected a whole number of bits from 8 to 31"),
        (lambda: Accumulator(16, "act"), "constraint is 'act'; expected act-w, worst-case or act-y"),  # type: ignore[arg-type]
        (lambda: Accumulator(images=0), "images is 0"),
        (lambda: Fixed(weight_bits={"*": 4}, accumulator=Accumulator()), "one number each"),
        (lambda: Fixed(weight_bits=12, accumulator=Accumulator()), "weight_bits is 12 with an accumulator"),
        (lambda: Fixed(search=BitSearch(), accumulator=Accumulator()), "leave one out"),
    ],
)
def test_settings_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        make()
