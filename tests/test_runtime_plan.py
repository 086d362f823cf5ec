"""What the steps of a plan say: which nodes run together, on which kernel, and in which form values are handed on."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from bitwright import _native
from bitwright.packing.encodings import Sparse
from bitwright.runtime import Model
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.reference import run_reference

CHANNELS = 32


class Network:
    """A graph that grows from one image of `CHANNELS` channels."""

    def __init__(self, size: int = 6) -> None:
        self.random = np.random.default_rng(0)
        self.inputs = ((CHANNELS, size, size),)
        self.nodes: list[Node] = []
        self.weights: dict[str, np.ndarray] = {}

    def weight(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, np.float32)
        return name

    def add(self, op: str, *inputs: int, **attributes: Any) -> int:
        roles = {
            role: attributes.pop(role) for role in ("weight", "scale", "shift", "zero_point") if role in attributes
        }
        self.nodes.append(Node(op, inputs, attributes, roles, f"{op}{len(self.nodes)}"))
        return len(self.nodes)

    def conv(self, value: int, kind: str = "signs", padding: int = 1, groups: int = 1) -> int:
        shape = (CHANNELS, CHANNELS // groups, 3, 3)
        array = self.random.standard_normal(shape)
        if kind == "signs":
            array = np.where(array > 0, 0.25, -0.25)
        elif kind == "bytes":
            array = np.rint(array * 20) / 64
        both = {"stride": [1, 1], "padding": [padding] * 2, "dilation": [1, 1]}
        return self.add("conv2d", value, weight=self.weight(array), groups=groups, **both)

    def norm(self, value: int) -> int:
        scale, shift = (self.weight(self.random.standard_normal(CHANNELS)) for _ in range(2))
        return self.add("affine", value, scale=scale, shift=shift)

    def quantize(self, value: int, low: int, high: int) -> int:
        roles = {"scale": self.weight([0.125]), "zero_point": self.weight([0])}
        return self.add("quantize", value, qmin=low, qmax=high, **roles)

    def model(self, *outputs: int, **options: Any) -> Model:
        return Model(Graph(self.inputs, tuple(self.nodes), outputs or (len(self.nodes),)), self.weights, **options)

    def check(self, model: Model, batch: int = 2) -> None:
        """The outputs are the reference engine's."""
        x = self.random.standard_normal((batch, *self.inputs[0])).astype(np.float32)
        ours, expected = model(x), run_reference(model.graph, self.weights, (x,))
        for found, wanted in zip(ours if isinstance(ours, tuple) else (ours,), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def layers(model: Model) -> list[str]:
    """What each step does, without the transposes at either end."""
    return [step.does for step in model.plan if step.does != "transpose"]


def binary_block(network: Network) -> int:
    """Twice y = bn(conv(sign(x))) + x, and a last sign."""
    value = network.add("relu", 0)
    for _ in range(2):
        value = network.add("add", network.norm(network.conv(network.add("sign", value))), value)
    return network.add("sign", value)


def test_a_binary_residual_block_is_one_step_per_convolution():
    network = Network()
    binary_block(network)
    model = network.model(kernels=["bits"])
    assert layers(model) == ["relu", "sign", "conv2d + affine + add + sign", "conv2d + affine + add", "sign"]
    first, second = (step for step in model.plan if step.does.startswith("conv2d"))
    assert first.reads == ("1 bit 32x6x6", "float 32x6x6")
    assert first.makes == ("float 32x6x6", "1 bit 32x6x6")
    assert second.makes == ("float 32x6x6",)
    assert first.kernel.startswith("bits")
    network.check(model)


def test_norm_and_sign_become_thresholds_where_nothing_else_is_wanted():
    network = Network()
    network.conv(network.add("sign", network.norm(network.conv(network.add("sign", 0)))))
    model = network.model(kernels=["bits"])
    assert layers(model) == ["sign", "conv2d + affine + sign", "conv2d"]
    assert model.plan[2].makes == ("1 bit 32x6x6",)
    network.check(model)


def test_an_affine_between_moves_into_the_encoder():
    network = Network()
    value = network.conv(network.add("sign", 0))
    coded = network.add("sign", network.norm(value))
    network.add("add", network.conv(coded), value)
    model = network.model(kernels=["bits"])
    assert layers(model) == ["sign", "conv2d + affine + sign", "conv2d + add"]
    assert model.plan[2].makes == ("float 32x6x6", "1 bit 32x6x6")
    network.check(model)


def test_a_norm_that_others_read_too_is_computed_for_them():
    network = Network()
    normed = network.norm(0)
    network.add("add", network.conv(network.add("sign", normed)), normed)
    model = network.model()
    assert layers(model) == ["affine", "affine + sign", "conv2d + add"]
    network.check(model)


def test_padding_with_ones_merges_into_the_convolution():
    border = {"before": [0, 1, 1], "after": [0, 1, 1]}
    for value in (1.0, -1.0, 0.0):
        network = Network()
        network.conv(network.add("pad", network.add("sign", 0), **border, value=value), padding=0)
        model = network.model()
        assert layers(model) == ["sign", "conv2d"]
        network.check(model)
    network = Network()
    network.conv(network.add("pad", 0, **border, value=0.0), "floats", padding=1)
    model = network.model()
    assert layers(model) == ["conv2d"]
    network.check(model)


def test_padding_that_does_not_merge_is_computed():
    network = Network()
    uneven = {"before": [0, 1, 0], "after": [0, 1, 1], "value": -1.0}
    network.conv(network.add("pad", network.add("sign", 0), **uneven), padding=0)
    model = network.model()
    assert layers(model) == ["sign", "pad", "encode", "conv2d"]
    network.check(model)


def test_layers_with_other_needs_get_codes_of_their_own():
    network = Network()
    coded = network.quantize(0, 0, 3)
    values = [network.conv(coded), network.conv(coded, padding=2), network.conv(coded, groups=2)]
    values.append(network.conv(coded, "bytes"))
    model = network.model(*values, kernels=["bits"])
    assert layers(model) == ["quantize"] * 3 + ["conv2d"] * 4
    made = [step.makes for step in model.plan if step.does == "quantize"]
    assert sorted(made) == [("2 bit 32x6x6",), ("2 bit 32x6x6",), ("bytes 32x6x6",)]
    network.check(model)


def test_pools_pick_among_codes():
    window = {"kernel": [3, 2], "stride": [2, 2], "padding": [1, 1], "dilation": [1, 1]}
    for ceil in (False, True):
        network = Network()
        network.conv(network.add("max_pool2d", network.add("sign", 0), **window, ceil=ceil))
        model = network.model(kernels=["bits"])
        assert layers(model) == ["sign", "max_pool2d", "conv2d"]
        assert model.plan[2].reads[0].startswith("1 bit")
        network.check(model)


def test_what_nobody_wants_is_not_computed():
    network = Network()
    network.conv(0, "floats")
    network.add("sign", 1)
    kept = network.add("relu", 0)
    model = network.model(kept)
    assert layers(model) == ["relu"]
    network.check(model)


@pytest.mark.parametrize("kernel", ["bits", "bytes", "exact"])
def test_preferred_kernels_compute_what_they_can(kernel):
    network = Network()
    network.conv(network.add("sign", network.conv(network.quantize(0, -2, 1))))
    network.conv(network.conv(0, "floats"), "floats")
    model = network.model(4, 6, kernels=[kernel])
    names = [step.kernel.split()[0] for step in model.plan if "conv2d" in step.does]
    assert names == [kernel, kernel, "conv2d", "conv2d"]
    network.check(model)


def test_codes_that_fit_no_byte_are_computed_exactly():
    network = Network()
    network.conv(network.quantize(0, -1000, 1000), "bytes")
    model = network.model()
    assert [step.kernel for step in model.plan if step.does == "conv2d"] == ["exact portable"]
    network.check(model)


def test_the_description_of_a_step():
    network = Network()
    network.add("relu", network.conv(network.add("sign", 0)))
    step = network.model(kernels=["bits"]).plan[2]
    assert str(step).startswith("conv2d1: conv2d + relu [bits")
    assert str(step).endswith("] 1 bit 32x6x6 -> float 32x6x6")
    assert step.weight_bytes > 0


def test_steps_are_timed():
    network = Network()
    binary_block(network)
    model = network.model()
    x = np.zeros((3, *network.inputs[0]), np.float32)
    assert len(model.time_steps(x, repeats=3)) == len(model.plan)


@pytest.mark.parametrize("isa", _native.isa_names())
def test_coded_networks_in_several_threads(isa):
    """The same bits from several Python threads at once, each with two of the engine's."""
    _native.set_isa(isa)
    try:
        network = Network(9)
        network.conv(network.quantize(binary_block(network), -1, 1), "bytes")
        model = network.model(threads=2)
    finally:
        _native.set_isa(None)
    inputs = [network.random.standard_normal((5, *network.inputs[0])).astype(np.float32) for _ in range(4)]
    expected = [model(x) for x in inputs]
    single = network.model(threads=1)
    assert all(np.array_equal(single(x), y) for x, y in zip(inputs, expected, strict=True))
    wrong = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(20) if not np.array_equal(model(inputs[index]), expected[index]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pixels_of_one_byte_share_the_operations():
    scale, shift = np.full(CHANNELS, 2, np.float32), np.full(CHANNELS, -1, np.float32)
    nodes = (
        Node("normalize", (0,), {}, {"scale": "s", "shift": "t"}),
        Node("relu", (1,)),
        Node("normalize", (0,), {}, {"scale": "s", "shift": "t"}),
    )
    model = Model(Graph(((CHANNELS, 3, 3),), nodes, (2, 3)), {"s": scale, "t": shift})
    pixels = np.random.default_rng(0).integers(0, 256, (4, CHANNELS, 3, 3), dtype=np.uint8)
    for ours, theirs in zip(model(pixels), model(pixels / np.float32(255)), strict=True):
        assert np.array_equal(ours, theirs)
    assert len(model._plans) == 2


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("others", [False, True])
def test_images_are_encoded_as_callers_give_them(channels, normalized, others):
    """... with a residual that wants the numbers too, and a reader of what lies before the quantiser."""
    rng = np.random.default_rng(0)
    weights = {
        "s": rng.random(channels, np.float32) + 1,
        "t": rng.random(channels, np.float32) - 1,
        "scale": np.array([0.0175], np.float32),
        "zero": np.array([114], np.float32),
        "w": rng.choice(np.array([-0.5, 0.5], np.float32), (channels, channels, 3, 3)),
    }
    first = [Node("normalize", (0,), {}, {"scale": "s", "shift": "t"})] if normalized else []
    at = len(first)
    nodes = [*first, Node("quantize", (at,), {"qmin": 0, "qmax": 255}, {"scale": "scale", "zero_point": "zero"})]
    window = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    nodes.append(Node("conv2d", (at + 1,), window, {"weight": "w"}))
    if others:
        nodes += [Node("add", (at + 1, at + 2)), Node("relu", (at,)), Node("add", (at + 3, at + 4))]
    used = {name for node in nodes for name in node.weights.values()}
    graph = Graph(((channels, 9, 19),), tuple(nodes), (at + len(nodes) - len(first),))
    model = Model(graph, {name: weights[name] for name in used}, kernels=["bytes"], threads=2)
    steps = [step.does.split(" + ")[-1] for step in model.plan if "encode image" in step.kernel]
    assert steps == (["quantize"] if channels <= 4 else [])
    pixels = rng.integers(0, 256, (3, channels, 9, 19), dtype=np.uint8)
    for x in [pixels / np.float32(255), *([pixels] if normalized else [])]:
        (expected,) = run_reference(graph, weights, (x,))
        if others:
            np.testing.assert_allclose(model(x), expected, rtol=1e-6, atol=1e-6)
        else:
            assert np.array_equal(model(x), expected)


class Stored:
    """A tensor as a file with sparse storage has it."""

    def __init__(self, array: np.ndarray, codebook: bool) -> None:
        self.array, self.codebook = array, codebook
        self.shape = array.shape

    def dense(self) -> np.ndarray:
        return self.array

    def sparse(self) -> Sparse:
        positions = np.flatnonzero(self.array)
        values = self.array.reshape(-1)[positions]
        table, codes = np.unique(values, return_inverse=True)
        if self.codebook:
            return Sparse(positions, codes.astype(np.uint8), table, None)
        return Sparse(positions, None, None, values)


@pytest.mark.parametrize("codebook", [False, True])
@pytest.mark.parametrize("op", ["conv2d", "linear"])
def test_sparse_layers_with_everything_that_follows(op, codebook):
    network = Network()
    value = network.conv(0, "bytes") if op == "conv2d" else network.add("flatten", 0)
    if op == "linear":
        numbers = network.random.choice([-1, 0.5, 2], (CHANNELS, CHANNELS * 36)) / 64
        value = network.add("linear", value, weight=network.weight(numbers))
    mask = network.random.random(network.weights["w0"].shape) < 0.05
    network.weights["w0"] *= mask.astype(np.float32)
    value = network.norm(value)
    network.add("relu", value)
    graph = Graph(network.inputs, tuple(network.nodes), (len(network.nodes),))
    tensors = {name: Stored(array, codebook) for name, array in network.weights.items()}
    model = Model(graph, tensors)
    assert next(step.kernel for step in model.plan if op in step.does).startswith("sparse")
    network.check(model)


@pytest.mark.parametrize("numbers", [[-1, 1], [-1, 0, 1], [-1, 0, 2], list(range(-7, 8)), [0.3, -1.7, 2.2, 5.1]])
@pytest.mark.parametrize("batch", [1, 20])
def test_large_linear_layers_of_few_numbers_run_on_codes(numbers, batch):
    random = np.random.default_rng(0)
    weight = random.choice(np.array(numbers, np.float32), (512, 520)) / 32
    if 0.3 not in numbers:
        weight *= random.random((512, 1), np.float32) + np.float32(0.5)
    graph = Graph(((520,),), (Node("linear", (0,), {}, {"weight": "w"}), Node("relu", (1,))), (2,))
    model = Model(graph, {"w": weight})
    assert [step.kernel.split()[0] for step in model.plan] == ["coded"]
    x = random.standard_normal((batch, 520)).astype(np.float32)
    (expected,) = run_reference(graph, {"w": weight}, (x,))
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
