"""Random graphs of all operations: the native engine equals the reference engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.runtime import Model
from bitwright.runtime.graph import Graph, Node, validate
from bitwright.runtime.reference import run_reference

TOLERANCE = 2e-6
"""Of the largest value anywhere in the graph: float32 sums of up to a few hundred terms against float64 ones."""

PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3)).map(list)
SMALL = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(list)


class Builder:
    """A random valid graph, node by node; a node that does not fit is left out."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        rank = draw(st.sampled_from([3, 3, 3, 2, 1]))
        shape = tuple(draw(st.integers(1, 9)) for _ in range(rank))
        self.inputs = (shape,) * draw(st.integers(1, 2))
        self.nodes: list[Node] = []
        self.weights: dict[str, np.ndarray] = {}
        self.shapes = list(self.inputs)
        self.made = 0

    def weight(self, *shape: int) -> str:
        self.made += 1
        name = f"w{self.made}"
        values = self.random.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        self.weights[name] = values.astype(np.float32)
        return name

    def append(self, op: str, *inputs: int, attributes: dict[str, Any] | None = None, **roles: str) -> None:
        self.nodes.append(Node(op, inputs, attributes or {}, roles, f"layer{len(self.nodes)}"))
        shapes = {name: self.weights[name].shape for name in self.used()}
        try:
            self.shapes = validate(Graph(self.inputs, tuple(self.nodes), (0,)), shapes, 20_000)
        except BitwrightError:
            self.nodes.pop()

    def used(self) -> list[str]:
        return sorted({name for node in self.nodes for name in node.weights.values()})

    def step(self) -> None:
        draw = self.draw
        value = draw(st.sampled_from([len(self.shapes) - 1, draw(st.integers(0, len(self.shapes) - 1))]))
        shape = self.shapes[value]
        ops = ["affine", "relu", "prelu", "clamp", "abs", "add", "mul", "flatten", "pad", "slice", "mean", "softmax"]
        ops += ["curve", "maxout", "response_norm", "group_norm", "concat"]
        ops += ["conv2d", "max_pool2d", "avg_pool2d", "adaptive_pool2d"] * 2 if len(shape) == 3 else ["linear"] * 3
        ops += ["unflatten"] * 2 if len(shape) == 1 else []
        ops += ["normalize"] if value < len(self.inputs) else []
        getattr(self, draw(st.sampled_from(ops)))(value, shape)

    def normalize(self, value: int, shape: tuple[int, ...]) -> None:
        self.append("normalize", value, scale=self.weight(shape[0]), shift=self.weight(shape[0]))

    def affine(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            self.append("affine", value, scale=self.weight(shape[0]), shift=self.weight(shape[0]))

    def conv2d(self, value: int, shape: tuple[int, ...]) -> None:
        draw = self.draw
        groups = draw(st.sampled_from([g for g in (1, 2, 3, shape[0]) if shape[0] % g == 0]))
        outputs = groups * draw(st.integers(1, 5))
        weight = self.weight(outputs, shape[0] // groups, *draw(PAIR))
        roles = {"weight": weight} | ({"bias": self.weight(outputs)} if draw(st.booleans()) else {})
        attributes = {"stride": draw(PAIR), "padding": draw(SMALL), "dilation": draw(PAIR), "groups": groups}
        self.append("conv2d", value, attributes=attributes, **roles)
        if draw(st.booleans()):
            self.append("affine", len(self.shapes) - 1, scale=self.weight(outputs), shift=self.weight(outputs))
        shape = self.shapes[-1]
        others = [i for i, other in enumerate(self.shapes[:-1]) if other in (shape, (1, *shape[1:]))]
        if others and draw(st.booleans()):
            pair = [len(self.shapes) - 1, draw(st.sampled_from(others))]
            self.append("add", *(pair if draw(st.booleans()) else pair[::-1]))
        follow = draw(st.sampled_from(["", "relu", "prelu", "clamp"]))
        if follow:
            getattr(self, follow)(len(self.shapes) - 1, self.shapes[-1])

    def linear(self, value: int, shape: tuple[int, ...]) -> None:
        if len(shape) == 1:
            outputs = self.draw(st.integers(1, 20))
            roles = {"weight": self.weight(outputs, shape[0])}
            self.append(
                "linear", value, **roles, **({"bias": self.weight(outputs)} if self.draw(st.booleans()) else {})
            )

    def relu(self, value: int, shape: tuple[int, ...]) -> None:
        self.append("relu", value)

    def prelu(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            self.append("prelu", value, slope=self.weight(shape[0]))

    def clamp(self, value: int, shape: tuple[int, ...]) -> None:
        low, high = self.draw(st.sampled_from([(-1.0, 1), (0, 0.5), (None, 0.25), (-0.5, None), (0.125, 0.125)]))
        self.append("clamp", value, attributes={"low": low, "high": high})

    def abs(self, value: int, shape: tuple[int, ...]) -> None:
        self.append("abs", value)

    def mul(self, value: int, shape: tuple[int, ...], op: str = "mul") -> None:
        if shape and self.draw(st.booleans()):
            self.append("mean", value, attributes={"axes": [0], "keepdim": True})
        others = [i for i, other in enumerate(self.shapes) if other in (shape, (1, *shape[1:]))]
        self.append(op, value, self.draw(st.sampled_from(others)))

    def add(self, value: int, shape: tuple[int, ...]) -> None:
        self.mul(value, shape, "add")

    def flatten(self, value: int, shape: tuple[int, ...]) -> None:
        self.append("flatten", value)

    def unflatten(self, value: int, shape: tuple[int, ...]) -> None:
        channels, height = (self.draw(st.sampled_from([n for n in range(1, 7) if shape[0] % n == 0])) for _ in range(2))
        if shape[0] % (channels * height) == 0:
            image = [channels, height, shape[0] // channels // height]
            self.append("unflatten", value, attributes={"shape": image})

    def pad(self, value: int, shape: tuple[int, ...]) -> None:
        before, after = ([self.draw(st.integers(0, 2)) for _ in shape] for _ in range(2))
        filler = self.draw(st.sampled_from([0.0, -1.5]))
        self.append("pad", value, attributes={"before": before, "after": after, "value": filler})

    def slice(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            axis = self.draw(st.integers(0, len(shape) - 1))
            start = self.draw(st.integers(0, shape[axis] - 1))
            stop, step = self.draw(st.integers(start + 1, shape[axis])), self.draw(st.integers(1, 3))
            self.append("slice", value, attributes={"axis": axis, "start": start, "stop": stop, "step": step})
            value = len(self.shapes) - 1
            follow = self.draw(st.sampled_from(["", "slice", "pad"]))
            if follow == "slice":
                self.slice(value, self.shapes[value])
            elif follow == "pad":  # of channels
                before, after = ([self.draw(st.integers(0, 2)), *[0] * (len(shape) - 1)] for _ in range(2))
                self.append("pad", value, attributes={"before": before, "after": after, "value": 0.5})

    def mean(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            axes = self.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
            self.append("mean", value, attributes={"axes": axes, "keepdim": self.draw(st.booleans())})

    def softmax(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            self.append("softmax", value, attributes={"axis": self.draw(st.integers(0, len(shape) - 1))})

    def _window(self) -> dict[str, Any]:
        draw = self.draw
        return {"kernel": draw(PAIR), "stride": draw(PAIR), "padding": draw(SMALL), "ceil": draw(st.booleans())}

    def max_pool2d(self, value: int, shape: tuple[int, ...]) -> None:
        self.append("max_pool2d", value, attributes={**self._window(), "dilation": self.draw(PAIR)})

    def avg_pool2d(self, value: int, shape: tuple[int, ...]) -> None:
        attributes = {**self._window(), "count_include_pad": self.draw(st.booleans())}
        self.append("avg_pool2d", value, attributes=attributes)

    def adaptive_pool2d(self, value: int, shape: tuple[int, ...]) -> None:
        op = self.draw(st.sampled_from(["adaptive_avg_pool2d", "adaptive_max_pool2d"]))
        self.append(op, value, attributes={"size": self.draw(PAIR)})

    def curve(self, value: int, shape: tuple[int, ...]) -> None:
        op = self.draw(st.sampled_from(["sigmoid", "tanh", "elu", "gelu", "sqrt", "rsqrt"]))
        if "sqrt" in op:  # near 0 a rounding would change it much
            self.append("clamp", value, attributes={"low": 0.25, "high": None})
            value = len(self.shapes) - 1
        self.append(op, value, attributes={"alpha": 0.75} if op == "elu" else {})

    def maxout(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            pieces = self.draw(st.sampled_from([k for k in range(1, shape[0] + 1) if shape[0] % k == 0]))
            self.append("maxout", value, attributes={"pieces": pieces})

    def response_norm(self, value: int, shape: tuple[int, ...]) -> None:
        beta, size = self.draw(st.sampled_from([0.75, 0.5, 2.0])), self.draw(st.integers(1, 7))
        self.append("response_norm", value, attributes={"size": size, "alpha": 0.5, "beta": beta, "k": 1.5})

    def group_norm(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            groups = self.draw(st.sampled_from([k for k in range(1, shape[0] + 1) if shape[0] % k == 0]))
            self.append("group_norm", value, attributes={"groups": groups, "epsilon": 0.1})

    def concat(self, value: int, shape: tuple[int, ...]) -> None:
        if shape:
            axis = self.draw(st.integers(0, len(shape) - 1))
            rest = [*shape[:axis], *shape[axis + 1 :]]
            alike = [i for i, s in enumerate(self.shapes) if [*s[:axis], *s[axis + 1 :]] == rest and len(s) > axis]
            others = self.draw(st.lists(st.sampled_from(alike), min_size=1, max_size=4))
            self.append("concat", value, *others, attributes={"axis": axis})


@st.composite
def graphs(draw: Any) -> tuple[Graph, dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """A graph, its weights, and a batch for it (empty now and then)."""
    builder = Builder(draw)
    for _ in range(draw(st.integers(0, 8))):
        builder.step()
    last = len(builder.shapes) - 1
    outputs = (last, *draw(st.lists(st.integers(0, last), max_size=1)))
    graph = Graph(builder.inputs, tuple(builder.nodes), outputs)
    batch = draw(st.sampled_from([1, 2, 3, 5, 0]))
    inputs = []
    for i, shape in enumerate(graph.inputs):
        x = builder.random.standard_normal((batch, *shape)).astype(np.float32)
        pixels = i in graph.pixel_inputs() and draw(st.booleans())
        inputs.append((x * 50 + 128).clip(0, 255).astype(np.uint8) if pixels else x)
    return graph, {name: builder.weights[name] for name in builder.used()}, tuple(inputs)


@settings(max_examples=500, deadline=None)
@given(graphs(), st.integers(1, 3))
def test_native_equals_reference_on_any_graph(case, threads):
    graph, weights, inputs = case
    values = run_reference(
        Graph(graph.inputs, graph.nodes, tuple(range(len(graph.inputs) + len(graph.nodes)))), *case[1:]
    )
    scale = max([1.0, *(float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in values)])
    model = Model(graph, weights, threads=threads)
    outputs = model(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert model.output_shapes == tuple(values[i].shape[1:] for i in graph.outputs)
    for ours, number in zip(outputs, graph.outputs, strict=True):
        assert ours.dtype == np.float32
        assert ours.flags.c_contiguous
        np.testing.assert_allclose(ours, values[number], rtol=0, atol=TOLERANCE * scale)
