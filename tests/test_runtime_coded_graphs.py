"""Random graphs with signs, quantisers and whole-number weights: every kernel gives the reference engine's bits.

All other numbers are multiples of small powers of two, so that what is computed in floats is exact too and no value
lies beside a boundary in one engine only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import _native
from bitwright.errors import BitwrightError
from bitwright.runtime import Model
from bitwright.runtime.graph import Graph, Node, validate
from bitwright.runtime.kernels import KERNELS
from bitwright.runtime.reference import run_reference

PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3)).map(list)
SMALL = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(list)
GRIDS = {
    "signs": [-1, 1],
    "ternary": [-1, 0, 1],
    "odd": [-3, -1, 1, 3],
    "two bits": [-2, -1, 0, 1],
    "four bits": list(range(-8, 8)),
    "bytes": list(range(-127, 128)),
    "quarters": [-0.75, -0.5, 0.25, 0.5, 1],
}


class Builder:
    """A random valid graph whose numbers are all multiples of 2^-6."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        shape = (draw(st.sampled_from([1, 2, 3, 4, 6, 33, 70])), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
        self.inputs = (shape,)
        self.nodes: list[Node] = []
        self.weights: dict[str, np.ndarray] = {}
        self.shapes = list(self.inputs)
        self.made = 0

    def weight(self, array: Any) -> str:
        self.made += 1
        self.weights[f"w{self.made}"] = np.asarray(array, np.float32)
        return f"w{self.made}"

    def append(self, op: str, *inputs: int, attributes: dict[str, Any] | None = None, **roles: str) -> int:
        """The new value, or the one read if the node does not fit."""
        self.nodes.append(Node(op, inputs, attributes or {}, roles, f"layer{len(self.nodes)}"))
        try:
            shapes = {name: self.weights[name].shape for name in self.used()}
            self.shapes = validate(Graph(self.inputs, tuple(self.nodes), (0,)), shapes, 20_000)
            return len(self.shapes) - 1
        except BitwrightError:
            self.nodes.pop()
            return inputs[0]

    def used(self) -> list[str]:
        return sorted({name for node in self.nodes for name in node.weights.values()})

    def coded(self, value: int) -> int:
        """A sign or quantised form of a value, perhaps after a batch norm, and with something done to the codes."""
        draw = self.draw
        channels = self.shapes[value][0]
        if draw(st.booleans()):
            value = self.affine(value)
        if draw(st.booleans()):
            value = self.append("sign", value)
        else:
            per = draw(st.sampled_from([1, 1, 1, channels]))
            low = draw(st.sampled_from([0, -1, -2, -4, -8, -128, -300]))
            high = low + draw(st.sampled_from([1, 2, 3, 7, 15, 255, 700]))
            roles = {
                "scale": self.weight(self.random.choice([0.25, 0.5, 1.0, 2.0], per)),
                "zero_point": self.weight(self.random.integers(-2, 3, per)),
            }
            value = self.append("quantize", value, attributes={"qmin": low, "qmax": high}, **roles)
        if draw(st.integers(0, 3)) == 0:
            after = ["max_pool2d", "pad", "relu", "flatten", "slice", "maxout", "adaptive_max_pool2d", "concat"]
            value = getattr(self, draw(st.sampled_from(after)))(value)
        return value

    def maxout(self, value: int) -> int:
        pieces = self.draw(st.sampled_from([1, 2, 3]))
        return self.append("maxout", value, attributes={"pieces": pieces})

    def adaptive_max_pool2d(self, value: int) -> int:
        return self.append("adaptive_max_pool2d", value, attributes={"size": self.draw(PAIR)})

    def concat(self, value: int) -> int:
        other = self.draw(st.integers(0, len(self.shapes) - 1))
        axis = self.draw(st.integers(0, len(self.shapes[value]) - 1))
        return self.append("concat", value, other, value, attributes={"axis": axis})

    def lattice(self, *shape: int) -> str:
        grid = self.random.choice(GRIDS[self.draw(st.sampled_from(sorted(GRIDS)))], shape)
        signs = self.random.choice([0.25, 0.5, 1.0], (shape[0], *(1,) * (len(shape) - 1)))
        array = grid * signs
        if self.draw(st.integers(0, 3)) == 0:
            array[array > 0] *= 2
        return self.weight(array)

    def layer(self, value: int) -> int:
        draw, shape = self.draw, self.shapes[value]
        if len(shape) == 3 and draw(st.integers(0, 4)):
            groups = draw(st.sampled_from([g for g in (1, 1, 2, 3, shape[0]) if shape[0] % g == 0]))
            outputs = groups * draw(st.sampled_from([1, 2, 5, 40]))
            roles = {"weight": self.lattice(outputs, shape[0] // groups, *draw(PAIR))}
            attributes = {"stride": draw(PAIR), "padding": draw(SMALL), "dilation": draw(PAIR), "groups": groups}
        else:
            value = self.flatten(value)
            outputs, attributes = draw(st.integers(1, 40)), {}
            roles = {"weight": self.lattice(outputs, self.shapes[value][0])}
        if draw(st.booleans()):
            roles["bias"] = self.numbers(outputs)
        value = self.append("conv2d" if attributes else "linear", value, attributes=attributes, **roles)
        activations = (("relu",), ("clamp",), ("affine", "prelu", "affine"), ("prelu",), ())
        for follow in ("affine", "add", *draw(st.sampled_from(activations)), "max_pool2d"):
            if draw(st.booleans()):
                value = getattr(self, follow)(value)
        return value

    def numbers(self, count: int) -> str:
        return self.weight(self.random.integers(-16, 17, count) / 8)

    def affine(self, value: int) -> int:
        channels = self.shapes[value][0]
        scale = self.weight(self.random.choice([-1, -0.5, 0.5, 1, 0], channels))
        return self.append("affine", value, scale=scale, shift=self.numbers(channels))

    def relu(self, value: int) -> int:
        return self.append("relu", value)

    def prelu(self, value: int) -> int:
        slope = self.weight(self.random.choice([-0.5, 0, 0.25, 0.5], self.shapes[value][0]))
        return self.append("prelu", value, slope=slope)

    def clamp(self, value: int) -> int:
        low, high = self.draw(st.sampled_from([(-1, 1), (0, 2.5), (None, 0.5), (-0.25, None)]))
        return self.append("clamp", value, attributes={"low": low, "high": high})

    def flatten(self, value: int) -> int:
        return self.append("flatten", value)

    def slice(self, value: int) -> int:
        attributes = {"axis": 0, "start": 0, "stop": max(1, self.shapes[value][0] - 1), "step": 1}
        return self.append("slice", value, attributes=attributes)

    def pad(self, value: int) -> int:
        border = [0, *self.draw(SMALL)]
        number = self.draw(st.sampled_from([0.0, 1.0, -1.0, 2.5]))
        return self.append("pad", value, attributes={"before": border, "after": border, "value": number})

    def max_pool2d(self, value: int) -> int:
        draw = self.draw
        window = {"kernel": draw(PAIR), "stride": draw(PAIR), "padding": draw(SMALL), "ceil": draw(st.booleans())}
        return self.append("max_pool2d", value, attributes={**window, "dilation": [1, 1]})

    def add(self, value: int) -> int:
        others = [i for i, shape in enumerate(self.shapes) if shape == self.shapes[value]]
        return self.append("add", value, self.draw(st.sampled_from(others)))


@st.composite
def graphs(draw: Any) -> tuple[Graph, dict[str, np.ndarray], np.ndarray]:
    """A graph that codes and computes several times over, its weights and a batch."""
    builder = Builder(draw)
    value = 0
    for _ in range(draw(st.integers(1, 4))):
        value = builder.layer(builder.coded(value))
        value = draw(st.sampled_from([value, value, value, draw(st.integers(0, len(builder.shapes) - 1))]))
    last = len(builder.shapes) - 1
    graph = Graph(builder.inputs, tuple(builder.nodes), (last, *draw(st.lists(st.integers(0, last), max_size=2))))
    x = builder.random.integers(-64, 65, (draw(st.integers(1, 3)), *graph.inputs[0])) / 16
    return graph, {name: builder.weights[name] for name in builder.used()}, x.astype(np.float32)


def exact(graph: Graph, weights: dict[str, np.ndarray], x: np.ndarray) -> bool:
    """Whether no value of the graph is so large that sums of floats would round."""
    every = Graph(graph.inputs, graph.nodes, tuple(range(len(graph.inputs) + len(graph.nodes))))
    return all(np.abs(value).max(initial=0) < 2**10 for value in run_reference(every, weights, (x,)))


@settings(max_examples=600, deadline=None)
@given(graphs(), st.sampled_from(["", *KERNELS]), st.integers(1, 3), st.sampled_from(_native.isa_names()))
def test_every_kernel_gives_the_bits_of_the_reference(case, kernel, threads, isa):
    graph, weights, x = case
    _native.set_isa(isa)
    try:
        outputs = Model(graph, weights, threads=threads, kernels=[kernel] if kernel else [])(x)
    finally:
        _native.set_isa(None)
    expected = run_reference(graph, weights, (x,))
    for ours, theirs in zip(outputs if isinstance(outputs, tuple) else (outputs,), expected, strict=True):
        if exact(graph, weights, x):
            assert np.array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max(initial=1))


def test_unknown_kernels_are_refused():
    graph = Graph(((3,),), (Node("linear", (0,), {}, {"weight": "w"}),), (1,))
    with pytest.raises(BitwrightError, match="unknown kernel 'bit'; did you mean 'bits'"):
        Model(graph, {"w": np.ones((2, 3), np.float32)}, kernels=["bit"])
