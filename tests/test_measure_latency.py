"""Peers compute the same, where they should; times come with what they were measured on."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import bitwright
from bitwright import BitwrightError, _native
from bitwright.measure import latency, layers, onnx_peer, peers
from bitwright.measure.latency import compare_outputs, measure_beside_floats, measure_file, take_turns
from bitwright.measure.onnx_peer import open_peer
from bitwright.measure.peers import without_quantizers
from bitwright.measure.torch_peer import open_torch
from bitwright.packing.container import write_container
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.reference import run_reference
from test_runtime_graph import AVG_POOL, CONV, GOOD, MAX_POOL


def file_of(tmp_path: Any, *nodes: Node, **stored: np.ndarray) -> Any:
    path = tmp_path / "net.safetensors"
    path.write_bytes(write_container(Graph(((4, 6, 8),), nodes, (len(nodes),)), stored, {}))
    return path


NODES = (
    Node("normalize", (0,), {}, {"scale": "s", "shift": "t"}),
    Node("conv2d", (1,), CONV, {"weight": "w", "bias": "b"}),
    Node("flatten", (2,)),
)
WEIGHTS = {"s": np.full(4, 2, np.float32), "t": np.ones(4, np.float32), "b": np.ones(2, np.float32)}
WEIGHTS["w"] = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("peer", [open_peer, open_torch])
@pytest.mark.parametrize("case", GOOD, ids=lambda case: case[0])
def test_the_peers_compute_the_same(case, peer):
    for package in ("onnxruntime", "onnx", "torch"):
        pytest.importorskip(package)
    op, shape, attributes, roles, stored, _ = case
    if op.startswith("adaptive"):
        attributes = {"size": [2, 4]}
    random = np.random.default_rng(2)
    weights = {name: random.standard_normal(size).astype(np.float32) for name, size in stored.items()}
    if op == "quantize":
        weights = {"s": np.abs(weights["s"]), "z": np.rint(weights["z"])}
    graph = Graph((shape, shape), (Node(op, (0,), attributes, roles), Node("add", (0, 1))), (2, 3))
    inputs = tuple(random.standard_normal((3, *shape)).astype(np.float32) for _ in range(2))
    for found, expected in zip(peer(graph, weights, 1)(*inputs), run_reference(graph, weights, inputs), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("peer", [open_peer, open_torch])
def test_the_peers_concatenate(peer):
    pytest.importorskip("onnxruntime")
    graph = Graph(((4, 6, 8), (3, 6, 8)), (Node("concat", (0, 1, 0), {"axis": 0}),), (2,))
    inputs = tuple(np.random.default_rng(2).standard_normal((3, *shape)).astype(np.float32) for shape in graph.inputs)
    (found,) = peer(graph, {}, 1)(*inputs)
    assert np.array_equal(found, np.concatenate([*inputs, inputs[0]], axis=1))


def test_torch_folds_batch_norm_and_forgets_what_nobody_needs():
    pytest.importorskip("torch")
    nodes = (
        Node("conv2d", (0,), CONV, {"weight": "w"}),
        Node("relu", (0,)),  # between the convolution and its batch norm, and reads what that read
        Node("affine", (1,), {}, {"scale": "a", "shift": "b"}),
        Node("conv2d", (2,), CONV, {"weight": "w", "bias": "b"}),
        Node("affine", (4,), {}, {"scale": "a", "shift": "a"}),
        Node("add", (3, 5)),
        Node("add", (4, 6)),  # the batch norm before can't be folded: this needs what it reads
    )
    graph = Graph(((4, 6, 8),), nodes, (7,))
    random = np.random.default_rng(3)
    sizes = {"w": (2, 4, 3, 3), "a": (2,), "b": (2,)}
    weights = {name: random.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    x = random.standard_normal((2, 4, 6, 8)).astype(np.float32)
    (found,), (expected,) = open_torch(graph, weights, 1)(x), run_reference(graph, weights, (x,))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("adaptive_avg_pool2d", (0,), {"size": [4, 4]}), r"no adaptive pool of \(6, 8\) to \(4, 4\)"),
        (Node("avg_pool2d", (0,), {**AVG_POOL, "kernel": [3, 3], "ceil": True}), "torch does not"),
    ],
)
def test_without_an_equal_operation_there_is_no_peer_but_a_note(node, message, tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(BitwrightError, match=message) as caught:
        open_peer(Graph(((4, 6, 8),), (node,), (1,)), {}, 1)
    assert caught.value.kind == "no-peer"
    rows = measure_file(file_of(tmp_path, node), seconds=0)
    assert [row["name"] for row in rows["contestants"]] == ["bitwright", "torch float32"]
    assert rows["notes"] == [str(caught.value)]


def test_a_file_is_measured_beside_its_peer(tmp_path):
    pytest.importorskip("onnxruntime")
    rows = measure_file(file_of(tmp_path, *NODES, **WEIGHTS), threads=1, batch=3, seconds=0)
    names = [row["name"] for row in rows["contestants"]]
    assert [name.removesuffix(" QDQ").removesuffix(" QOperator") for name in names] == [
        "bitwright",
        "onnxruntime float32",
        "onnxruntime int8",
        "torch float32",
    ]
    for row in rows["contestants"]:
        assert row["median"] > 0
        assert row["spread"] >= 0
        assert row["rounds"] == latency.ROUNDS[0]
    assert rows["threads"] == 1
    assert rows["batch"] == 3
    assert rows["isa"] in _native.isa_names()
    assert rows["machine"]["cpu"]
    assert rows["notes"] == []


def test_a_file_is_measured_beside_a_float_network(tmp_path):
    pytest.importorskip("onnxruntime")
    pads = [Node("pad", (i,), {"before": [1, 0, 0], "after": [0, 0, 0], "value": 0.0}) for i in (1, 2)]
    nodes = (NODES[0], *pads, Node("sign", (3,)), Node("conv2d", (4,), CONV, {"weight": "w"}))
    weights = {**WEIGHTS, "w": np.ones((2, 6, 3, 3), np.float32)}
    found = measure_beside_floats(
        file_of(tmp_path, *NODES, **WEIGHTS), Graph(((4, 6, 8),), nodes, (5,)), weights, batches=(1, 3)
    )
    assert found["notes"] == [], "onnxruntime quantises pads, too"
    for batch in ("1", "3"):
        assert list(found["batches"][batch]) == ["engine", "float32", "int8"]
        assert all(row["median"] > 0 for row in found["batches"][batch].values())
    assert found["threads"] == 1


def test_without_onnxruntime_a_note_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    rows = measure_file(file_of(tmp_path, Node("max_pool2d", (0,), MAX_POOL)), seconds=0)
    assert [row["name"] for row in rows["contestants"]] == ["bitwright"]
    assert "torch is not installed; `pip install bitwright[train]`" in rows["notes"][-1]
    assert "onnxruntime is not installed; `pip install bitwright[bench]`" in rows["notes"][0]


def test_a_contestant_that_differs_is_not_timed(tmp_path, monkeypatch):
    path = file_of(tmp_path, *NODES, **WEIGHTS)
    monkeypatch.setattr(peers, "open_peer", lambda *_: lambda x: [np.zeros((len(x), 48), np.float32)])
    with pytest.raises(BitwrightError, match=r"onnxruntime float32 differs in output 0 by .* of its range") as caught:
        measure_file(path)
    assert caught.value.kind == "differs"


def test_outputs_are_compared_by_their_range():
    ours = np.array([[0.0, 100.0]], np.float32)
    compare_outputs("x", [ours + np.float32(0.005)], ours)
    for wrong in (ours + np.float32(0.05), ours * np.float32(np.nan)):
        with pytest.raises(BitwrightError, match="x differs in output 0"):
            compare_outputs("x", [wrong], ours)
    with pytest.raises(BitwrightError, match=r"x gives output 0 the shape \(2,\); ours is \(1, 2\)"):
        compare_outputs("x", [ours[0]], ours)


def test_a_contestant_that_rounding_leads_to_other_codes_is_timed_with_a_note(tmp_path, monkeypatch):
    path = file_of(tmp_path, Node("sign", (0,)), Node("conv2d", (1,), CONV, {"weight": "w"}), w=WEIGHTS["w"])
    x = np.zeros((1, 4, 6, 8), np.float32)
    shape = bitwright.load(path)(x).shape[1:]
    monkeypatch.setattr(peers, "open_peer", lambda *_: lambda x: [np.zeros((len(x), *shape), np.float32)])
    rows = measure_file(path, seconds=0, peers=["onnxruntime"])
    assert "onnxruntime float32" in [row["name"] for row in rows["contestants"]]
    assert any("onnxruntime float32 differs in output 0 by" in note for note in rows["notes"])


def test_coded_outputs_are_compared_by_their_median():
    ours = np.array([[0.0, 50.0, 100.0]], np.float32)
    assert compare_outputs("x", [ours + np.array([[0, 0, 90]], np.float32)], ours, coded=True) == []
    (note,) = compare_outputs("x", [ours + np.array([[0, 50, 100]], np.float32)], ours, coded=True)
    assert note.startswith("x differs in output 0 by 5.0e-01 of its range (median)")
    for wrong in (np.nan, np.inf):
        with pytest.raises(BitwrightError, match="x differs in output 0"):
            compare_outputs("x", [ours + np.array([[wrong, 0, 0]], np.float32)], ours, coded=True)


def test_what_onnxruntime_does_not_take_is_a_note(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_peer, "to_onnx", lambda *_: b"not a model")
    with pytest.raises(BitwrightError, match="no peer: onnxruntime does not take the model") as caught:
        open_peer(Graph(((4,),), (), (0,)), {}, 1)
    assert caught.value.kind == "no-peer"


def test_unknown_peers_are_refused(tmp_path):
    with pytest.raises(BitwrightError, match="unknown peer 'tvm'; known: onnxruntime, torch"):
        measure_file(file_of(tmp_path, *NODES, **WEIGHTS), peers=["tvm"])


def test_a_network_without_its_quantisers_reads_past_them():
    nodes = (
        Node("quantize", (0,), {"qmin": 0, "qmax": 3}, {"scale": "q", "zero_point": "z"}),
        Node("conv2d", (1,), CONV, {"weight": "w"}),
        Node("sign", (2,)),
        Node("sign", (3,)),
        Node("add", (3, 4)),
    )
    graph, weights = without_quantizers(Graph(((4, 6, 8),), nodes, (5, 2)), {"q": 1, "z": 2, "w": 3})
    assert [(node.op, node.inputs) for node in graph.nodes] == [("conv2d", (0,)), ("add", (1, 1))]
    assert graph.outputs == (2, 1)
    assert weights == {"w": 3}


@pytest.mark.parametrize("options", [{"threads": 0}, {"batch": 0}, {"batch": 1.5}])
def test_options_that_are_refused(options):
    with pytest.raises(BitwrightError, match="expected an integer from 1"):
        measure_file("any", **options)


def test_calls_take_turns_on_changing_inputs():
    seen: list[tuple[str, int]] = []
    callees = {name: lambda x, name=name: seen.append((name, int(x[0]))) for name in "ab"}
    times = take_turns(callees, [(np.array([i]),) for i in range(3)], seconds=0)
    turn = [0, 1, 2, 0, 1, 2]
    assert seen[:12] == [("a", i) for i in turn] + [("b", i) for i in turn]
    turns = len(seen) // (2 * (1 + latency.TURN))
    assert times["a"]["rounds"] == times["b"]["rounds"] == turns * latency.TURN >= latency.ROUNDS[0]


def test_layers_show_the_literature_beside_what_was_measured(tmp_path):
    random = np.random.default_rng(0)
    weights = {"w": random.choice(np.array([0.5, -0.5], np.float32), (8, 16, 3, 3))}
    weights["v"] = random.standard_normal((5, 8 * 9)).astype(np.float32)
    nodes = (
        Node("sign", (0,)),
        Node("conv2d", (1,), CONV, {"weight": "w"}, "conv"),
        Node("flatten", (2,)),
        Node("linear", (3,), {}, {"weight": "v"}, "head"),
    )
    path = tmp_path / "net.safetensors"
    path.write_bytes(write_container(Graph(((16, 5, 5),), nodes, (4,)), weights, {}))
    found = measure_file(path, peers=[], seconds=0, layers=True)
    rows = {row["name"]: row for row in found["layers"]}
    assert sum(row["share"] for row in found["layers"]) == pytest.approx(1)
    conv, head = rows["conv"], rows["head"]
    assert conv["counted_speedup"] == pytest.approx(64 * 144 / (144 + 64))
    assert conv["counted_saving"] == 32
    assert conv["measured_speedup"] > 0
    assert 1 < conv["measured_saving"] <= 40
    assert conv["gops"] == pytest.approx(2 * 72 * 144 / conv["ms"] / 1e6)
    assert head["counted_speedup"] is head["measured_speedup"] is head["counted_saving"] is None
    assert head["measured_saving"] > 0.9, "dense float32, in byte planes"
    assert set(found["peaks"]) == {"float32", "int8", "popcount"}


@pytest.mark.parametrize(
    ("kernel", "speed"),
    [("bits avx2", 2.0), ("bytes amx", 4.0), ("conv2d avx512", 1.0), ("sparse_conv avx2", None)],
)
def test_kernels_are_judged_by_the_peak_of_the_unit_that_they_use(kernel, speed):
    layer = layers._Layer(Node("conv2d", (0,)), 6.0, 3, 1, 1)
    share = layers._judged(layer, kernel, 1.0, {"float32": 1.0, "popcount": 2.0, "int8": 4.0}).get("of_peak")
    assert share == (None if speed is None else 6 / speed)
