"""Which values are coded, and that integer layers compute exactly what FORMAT.md 8 says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.packing.lattice import find_lattice
from bitwright.runtime import Model
from bitwright.runtime.domains import SIGNS, Domain, domains, integer_layer
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.reference import run_reference

POOL = {"kernel": [2, 2], "stride": [2, 2], "padding": [1, 1], "dilation": [1, 1], "ceil": True}
HALF = {"s": np.array([0.5], np.float32), "z": np.array([3], np.float32)}
QUANTIZER = {"scale": "s", "zero_point": "z"}


def pad(value: float) -> Node:
    return Node("pad", (1,), {"before": [0, 1, 1], "after": [0, 1, 1], "value": value})


def quantize(qmin: int, qmax: int) -> Node:
    return Node("quantize", (0,), {"qmin": qmin, "qmax": qmax}, QUANTIZER, "q")


HALVES = Domain(np.float32(0.5), -3, 12, 1)


@pytest.mark.parametrize(
    ("node", "after", "expected"),
    [
        (Node("sign", (0,)), Node("max_pool2d", (1,), POOL), SIGNS),
        (Node("sign", (0,)), Node("max_pool2d", (1,), {**POOL, "dilation": [1, 2]}), None),
        (Node("sign", (0,)), Node("flatten", (1,)), SIGNS),
        (Node("sign", (0,)), Node("slice", (1,), {"axis": 0, "start": 0, "stop": 1, "step": 1}), SIGNS),
        (Node("sign", (0,)), Node("relu", (1,)), Domain(np.float32(1), 0, 1, 1)),
        (Node("sign", (0,)), pad(-1.0), SIGNS),
        (Node("sign", (0,)), pad(0.0), Domain(np.float32(1), -1, 1, 1)),
        (Node("sign", (0,)), pad(3.0), Domain(np.float32(1), -1, 3, 2)),
        (Node("sign", (0,)), pad(0.5), None),
        (Node("sign", (0,)), pad(2.0**25), None),
        (Node("sign", (0,)), Node("adaptive_avg_pool2d", (1,), {"size": [1, 1]}), None),
        (quantize(0, 15), Node("flatten", (1,)), HALVES),
        (quantize(0, 15), Node("relu", (1,)), Domain(np.float32(0.5), 0, 12, 1)),
        (quantize(0, 15), pad(-2.5), Domain(np.float32(0.5), -5, 12, 1)),
        (quantize(0, 15), pad(7.0), Domain(np.float32(0.5), -3, 14, 1)),
        (quantize(0, 3), Node("relu", (1,)), None),
        (quantize(5, 15), Node("relu", (1,)), Domain(np.float32(0.5), 2, 12, 1)),
    ],
)
def test_domains(node, after, expected):
    graph = Graph(((2, 4, 4),), (node, after, Node("flatten", (0,))), (2,))
    found = domains(graph, HALF if node.op == "quantize" else {})
    assert found[0] is None
    assert found[1] is not None
    assert found[2:] == [expected, None]
    if expected:
        x = np.linspace(-9, 9, 32, dtype=np.float32).reshape(1, 2, 4, 4)
        (y,) = run_reference(Graph(graph.inputs, (node, after), (2,)), HALF, (x,))
        members = np.float32(expected.scale) * np.arange(expected.low, expected.high + 1, expected.step)
        assert np.isin(y, members.astype(np.float32)).all()
        assert expected.levels == len(members)


def test_channels_with_one_scale_are_coded_and_others_are_not():
    node = Node("quantize", (0,), {"qmin": 0, "qmax": 3}, QUANTIZER)
    graph = Graph(((2, 4, 4),), (node,), (1,))
    same, zeros = np.full(2, 0.25, np.float32), np.zeros(2, np.float32)
    assert domains(graph, {"s": same, "z": zeros})[1] == Domain(np.float32(0.25), 0, 3)
    assert domains(graph, {"s": np.array([0.25, 0.5], np.float32), "z": zeros})[1] is None
    assert domains(graph, {"s": same, "z": np.array([0, 1], np.float32)})[1] is None


@pytest.mark.parametrize(
    ("role", "value", "message"),
    [
        ("s", 0, "scale of 0.0; expected 2"),
        ("s", -1, "scale of -1.0"),
        ("s", 2.0**-101, "scale of "),
        ("s", 2.0**101, "scale of 2.5"),
        ("z", 0.5, "zero point of 0.5; expected whole numbers"),
        ("z", 65537, "zero point of 65537"),
    ],
)
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_quantizers_with_impossible_numbers_are_refused_when_loaded(role, value, message, engine):
    tensors = {**HALF, role: np.array([value], np.float32)}
    graph = Graph(((2, 4, 4),), (quantize(0, 15),), (1,))
    with pytest.raises(BitwrightError, match=f"quantize 'q' has a {message}") as caught:
        Model(graph, tensors, engine=engine)
    assert caught.value.kind == "value"


def test_sign_and_quantize_of_special_numbers():
    x = np.array([[np.nan, np.inf, -np.inf, -0.0, 0.25, 0.75, -0.2, 1e30]], np.float32)
    graph = Graph(((8,),), (Node("sign", (0,)), quantize(0, 15)), (1, 2))
    signs, codes = run_reference(graph, HALF, (x,))
    assert signs.tolist() == [[-1, 1, -1, 1, 1, 1, -1, 1]]
    assert codes.tolist() == [[-1.5, 6, -1.5, 0, 0, 1, 0, 6]]  # ties to even: 0.5 -> 0, 1.5 -> 2
    assert not np.signbit(codes[0, 3:7]).any()


def fl(number: Any) -> np.float32:
    """An exact number rounded to float32 (all here are exact in float64)."""
    assert Fraction(float(number)) == Fraction(number)
    return np.float32(float(number))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["signs", "ternary", "codes"]), st.booleans(), st.booleans())
def test_integer_layers_are_exact_sums_scaled_once(seed, kind, signed, bias):
    """Against a scalar computation with Python's integers and fractions, linear and convolution."""
    rng = np.random.default_rng(seed)
    outputs, channels, largest = int(rng.integers(1, 4)), int(rng.integers(1, 5)), {"codes": 100}.get(kind, 1)
    k = rng.integers(-largest, largest + 1, (outputs, channels))
    k = np.where(k == 0, 1, k) if kind == "signs" else k
    magnitude = rng.uniform(0.01, 3, (outputs, 1)).astype(np.float32)
    other = rng.uniform(0.01, 3, (outputs, 1)).astype(np.float32) if kind == "ternary" else magnitude
    tensors = {"w": np.where(k > 0, magnitude, other) * k.astype(np.float32), **HALF}
    tensors["s"] = rng.uniform(0.01, 3, 1).astype(np.float32)
    roles = {"weight": "w"}
    if bias:
        tensors["b"], roles["bias"] = rng.standard_normal(outputs).astype(np.float32), "b"
    quantizer = Node("sign", (0,)) if signed else quantize(0, 15)
    graph = Graph(((channels,),), (quantizer, Node("linear", (1,), {}, roles)), (1, 2))
    x = (rng.standard_normal((3, channels)) * 4).astype(np.float32)
    coded, found = run_reference(graph, tensors, (x,))
    scale = np.float32(1) if signed else tensors["s"][0]
    lattice = find_lattice(tensors["w"])
    assert lattice is not None
    for n in range(3):
        m = [round(float(v) / float(scale)) for v in coded[n]]
        for o in range(outputs):
            parts = [sum(a * int(b) for a, b in zip(m, lattice.integers[o], strict=True))]
            if lattice.two_magnitudes:
                parts = [sum(a for a, b in zip(m, lattice.integers[o], strict=True) if b == s) for s in (1, -1)]
            factors = [fl(Fraction(float(lattice.positive[o] * scale))), lattice.negative[o] * scale]
            terms = [fl(p) * f for p, f in zip(parts, factors, strict=False)]
            y = terms[0] if len(terms) == 1 else terms[0] - terms[1]
            y = y + tensors["b"][o] if bias else y
            assert y.dtype == np.float32
            assert found[n, o] == y
    exact = coded.astype(np.float64) @ tensors["w"].T.astype(np.float64) + (tensors["b"] if bias else 0)
    size = np.abs(coded).astype(np.float64) @ np.abs(tensors["w"]).T  # two magnitudes: two sums that may cancel
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6 * max(1, size.max()))


def test_convolutions_count_nothing_outside_the_image():
    rng = np.random.default_rng(0)
    conv = {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 1], "groups": 2}
    weight = np.where(rng.random((4, 3, 3, 3)) < 0.5, -1, 1).astype(np.float32)
    alpha = rng.uniform(0.1, 1, (4, 1, 1, 1)).astype(np.float32)
    x = rng.standard_normal((2, 6, 5, 5)).astype(np.float32)
    graph = Graph(((6, 5, 5),), (Node("sign", (0,)), Node("conv2d", (1,), conv, {"weight": "w"})), (2,))
    (scaled,) = run_reference(graph, {"w": weight * alpha}, (x,))
    (sums,) = run_reference(graph, {"w": weight}, (x,))
    assert np.array_equal(scaled, sums * alpha[None, :, 0, :, :])
    assert set(np.unique(sums).tolist()) <= set(range(-27, 28))


def test_sums_that_could_overflow_are_no_integer_layer():
    node = Node("linear", (1,), {}, {"weight": "w"})
    lattice = find_lattice(np.where(np.arange(20_000) % 2, 127, 64).astype(np.float32).reshape(1, -1) * np.float32(0.1))
    assert lattice is not None
    total = lattice.largest_sum
    highest = (2**31 - 1) // total
    assert integer_layer(node, Domain(np.float32(1), 0, highest), lattice)
    assert not integer_layer(node, Domain(np.float32(1), 0, highest + 1), lattice)
    assert not integer_layer(node, Domain(np.float32(1), -highest // 2 - 1, highest // 2 + 1), lattice)
    assert not integer_layer(node, None, lattice)
    assert not integer_layer(node, SIGNS, None)
    assert not integer_layer(Node("flatten", (1,)), SIGNS, lattice)
