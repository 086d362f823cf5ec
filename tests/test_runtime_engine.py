"""What `Model` and `load` promise, and what they refuse."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import bitwright
from bitwright import BitwrightError, _native
from bitwright.packing.container import write_container
from bitwright.runtime import Model, load
from bitwright.runtime import engine as engine_module
from bitwright.runtime.domains import domains
from bitwright.runtime.fuse import Chain, fuse
from bitwright.runtime.graph import Graph, Node, validate
from bitwright.runtime.reference import run_reference

TOLERANCE = 1e-5
"""Of the largest output: float32 sums of up to a few hundred terms, a few layers deep."""


def compare(graph: Graph, weights: dict[str, np.ndarray], x: np.ndarray) -> None:
    """The native outputs against the reference's."""
    outputs = Model(graph, weights)(x)
    for ours, theirs in zip(
        outputs if isinstance(outputs, tuple) else (outputs,), run_reference(graph, weights, (x,)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def chains_of(graph: Graph, weights: dict[str, np.ndarray]) -> list[Chain]:
    shapes = validate(graph, {name: array.shape for name, array in weights.items()})
    return fuse(graph, shapes, domains(graph, weights), lambda node: False)


def images_per_pass(model: Model) -> int:
    return model._prepare(frozenset()).pass_images if model.engine == "native" else model._chunk


def conv(value: int, weight: str, name: str = "") -> Node:
    attributes = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    return Node("conv2d", (value,), attributes, {"weight": weight}, name)


def residual_block(channels: int = 5) -> tuple[Graph, dict[str, np.ndarray]]:
    """relu(bn(conv(relu(bn(conv(x))))) + x), with a pad and a slice that undo each other, then a classifier."""
    random = np.random.default_rng(3)
    weights = {f"w{i}": random.standard_normal((channels, channels, 3, 3)).astype(np.float32) / 7 for i in range(2)}
    weights |= {name: random.standard_normal(channels).astype(np.float32) for name in ("s0", "t0", "s1", "t1")}
    weights["head"] = random.standard_normal((7, channels)).astype(np.float32)
    nodes = (
        conv(0, "w0"),
        Node("affine", (1,), {}, {"scale": "s0", "shift": "t0"}),
        Node("relu", (2,)),
        conv(3, "w1"),
        Node("affine", (4,), {}, {"scale": "s1", "shift": "t1"}),
        Node("pad", (0,), {"before": [1, 0, 0], "after": [0, 0, 0], "value": 9.0}),
        Node("slice", (6,), {"axis": 0, "start": 1, "stop": channels + 1, "step": 1}),
        Node("add", (7, 5)),
        Node("relu", (8,)),
        Node("mean", (9,), {"axes": [1, 2], "keepdim": False}),
        Node("linear", (10,), {}, {"weight": "head"}),
    )
    return Graph(((channels, 6, 4),), nodes, (11,)), weights


def batch_for(graph: Graph, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *graph.inputs[0])).astype(np.float32)


def test_epilogues_take_in_what_they_can():
    graph, weights = residual_block()
    chains = chains_of(graph, weights)
    assert [(c.node.op, c.result, c.affine is not None, c.residual, len(c.activation)) for c in chains] == [
        ("conv2d", 3, True, None, 1),
        ("pad", 6, False, None, 0),
        ("slice", 7, False, None, 0),
        ("conv2d", 9, True, 7, 1),
        ("mean", 10, False, None, 0),
        ("linear", 11, False, None, 0),
    ]
    compare(graph, weights, batch_for(graph, 3))


def test_values_that_others_read_stay_out_of_epilogues():
    nodes = (conv(0, "w"), Node("relu", (1,)), Node("add", (1, 2)), conv(3, "w"), Node("add", (4, 4)), conv(5, "w"))
    graph = Graph(((2, 3, 3),), (*nodes, Node("relu", (6,))), (7, 6))
    weights = {"w": np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)}
    assert [chain.result for chain in chains_of(graph, weights)] == [1, 2, 3, 4, 5, 6, 7]
    compare(graph, weights, batch_for(graph, 2))


def test_two_convolutions_that_are_added():
    graph = Graph(((2, 3, 3),), (conv(0, "w"), conv(0, "v"), Node("add", (1, 2)), Node("relu", (3,))), (4,))
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((2, 2, 3, 3)).astype(np.float32) for name in "wv"}
    assert [(c.result, c.residual) for c in chains_of(graph, weights)] == [(2, None), (4, 2)]
    compare(graph, weights, batch_for(graph, 2))


def test_one_channel_for_all_is_no_shortcut_of_a_layer():
    """Neither as what is added to the layer's result, nor where the layer makes it."""
    random = np.random.default_rng(0)
    for outputs, sides in [(2, (2, 1)), (1, (0, 2))]:
        nodes = (Node("mean", (0,), {"axes": [0], "keepdim": True}), conv(0, "w"), Node("add", sides))
        graph = Graph(((2, 3, 3),), nodes, (3,))
        weights = {"w": random.standard_normal((outputs, 2, 3, 3)).astype(np.float32)}
        assert all(chain.residual is None for chain in chains_of(graph, weights))
        compare(graph, weights, batch_for(graph, 2))


def test_normalized_pixels_are_equal_in_every_bit():
    """FORMAT.md fixes this arithmetic: both engines, all byte values, several channel counts."""
    random = np.random.default_rng(5)
    for channels in (1, 3, 17):
        graph = Graph(((channels, 16, 16),), (Node("normalize", (0,), {}, {"scale": "s", "shift": "t"}),), (1,))
        weights = {name: random.standard_normal(channels).astype(np.float32) for name in "st"}
        pixels = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, channels, 16, 16))
        for x in (pixels, pixels / np.float32(255)):
            expected = pixels / np.float32(255) * weights["s"].reshape(-1, 1, 1) + weights["t"].reshape(-1, 1, 1)
            for engine in ("native", "reference"):
                assert np.array_equal(Model(graph, weights, engine=engine)(x), expected)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_large_batches_go_through_in_chunks(engine, monkeypatch):
    graph, weights = residual_block()
    x = batch_for(graph, 30)
    whole = Model(graph, weights, engine=engine, threads=1)(x)
    monkeypatch.setattr(engine_module, "CHUNK_BYTES", 20_000)
    model = Model(graph, weights, engine=engine, threads=1)
    assert 1 < images_per_pass(model) < 30
    np.testing.assert_allclose(model(x), whole, rtol=0, atol=1e-6)
    monkeypatch.setattr(engine_module, "CHUNK_BYTES", 1)
    np.testing.assert_allclose(Model(graph, weights, engine=engine)(x), whole, rtol=0, atol=1e-6)
    assert model(x[:0]).shape == (0, 7)


def test_memory_of_a_large_batch_is_bounded():
    """Only what is alive at once counts: a long chain of values takes no more than a short one."""
    chain = Graph(((4, 8, 8),), tuple(Node("relu", (i,)) for i in range(50)), (50,))
    short = Graph(((4, 8, 8),), tuple(Node("relu", (i,)) for i in range(2)), (2,))
    assert images_per_pass(Model(chain, {})) == images_per_pass(Model(short, {}))
    reference = {"engine": "reference"}
    assert images_per_pass(Model(chain, {}, **reference)) < images_per_pass(Model(short, {}, **reference))


def test_outputs_belong_to_the_caller():
    graph = Graph(((4,),), (Node("slice", (0,), {"axis": 0, "start": 1, "stop": 3, "step": 1}),), (0, 1))
    x = batch_for(graph, 2)
    for engine in ("native", "reference"):
        same, part = Model(graph, {}, engine=engine)(x)
        assert np.array_equal(same, x)
        assert np.array_equal(part, x[:, 1:3])
        assert not np.shares_memory(same, x)
        assert not np.shares_memory(part, x)


def test_any_memory_layout_of_the_input():
    graph, weights = residual_block()
    x = batch_for(graph, 4)
    model = Model(graph, weights)
    for other in (np.asfortranarray(x), x[::-1].copy()[::-1], np.repeat(x, 2, axis=3)[..., ::2]):
        assert np.array_equal(model(other), model(x))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_go_through(value):
    pool = {"kernel": [2, 2], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "ceil": False}
    nodes = (
        Node("relu", (0,)),
        Node("max_pool2d", (0,), pool),
        Node("affine", (0,), {}, {"scale": "s", "shift": "t"}),
        conv(0, "w"),
        Node("relu", (4,)),
        Node("add", (0, 0)),
        Node("softmax", (0,), {"axis": 2}),
    )
    graph = Graph(((2, 3, 3),), nodes, tuple(range(1, 8)))
    weights = {"s": np.full(2, 2, np.float32), "t": np.ones(2, np.float32), "w": np.ones((2, 2, 3, 3), np.float32)}
    x = batch_for(graph, 2)
    x[1, 1, 0, 1] = value
    expected = run_reference(graph, weights, (x,))
    for ours, theirs in zip(Model(graph, weights)(x), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_calls_from_several_threads():
    graph, weights = residual_block()
    model = Model(graph, weights, threads=2)
    batches = [batch_for(graph, 5, seed) for seed in range(8)]
    expected = [model(x) for x in batches]
    results: list[Any] = [None] * len(batches)

    def work(index: int) -> None:
        for _ in range(20):
            results[index] = model(batches[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(results, expected, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
def test_calls_after_a_fork():
    graph, weights = residual_block()
    model = Model(graph, weights, threads=2)
    x = batch_for(graph, 5)
    expected = model(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(model(x), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_program_may_end_while_a_daemon_thread_computes():
    """Calls come back before and while the interpreter, slowed down by an object that takes long to die, shuts down."""
    code = """
import threading, time, numpy as np
from bitwright.runtime import Model
from bitwright.runtime.graph import Graph, Node
class Slow:
    def __del__(self, sleep=time.sleep): sleep(0.6)
slow, started = Slow(), threading.Event()
window = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
weight = np.ones((64, 64, 3, 3), np.float32)
model = Model(Graph(((64, 32, 32),), (Node("conv2d", (0,), window, {"weight": "w"}),), (1,)), {"w": weight}, threads=1)
x = np.ones((8, 64, 32, 32), np.float32)
def compute():
    started.set()
    while True:
        model(x)
threading.Thread(target=compute, daemon=True).start()
started.wait()
time.sleep(0.05)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def sparse_layer(density: float) -> tuple[Graph, dict[str, np.ndarray]]:
    """A linear layer with 15 different values where it is not zero."""
    random = np.random.default_rng(11)
    weight = random.choice(random.standard_normal(15).astype(np.float32), (40, 300))
    weight[random.random(weight.shape) >= density] = 0
    graph = Graph(((300,),), (Node("linear", (0,), {}, {"weight": "w", "bias": "b"}), Node("relu", (1,))), (2,))
    return graph, {"w": weight, "b": random.standard_normal(40).astype(np.float32)}


@pytest.mark.parametrize(("density", "kernel"), [(0.08, "sparse"), (0.9, "linear")])
def test_a_packed_sparse_layer_runs_on_its_codes(density, kernel, tmp_path):
    graph, weights = sparse_layer(density)
    path = tmp_path / "sparse.safetensors"
    names = [f"class {i}" for i in range(40)]
    path.write_bytes(write_container(graph, weights, {"classes": names}))
    model = load(path, threads=1)
    assert [step.kernel.split()[0] for step in model.plan] == [kernel]
    x = batch_for(graph, 9)
    (expected,) = run_reference(graph, weights, (x,))
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max() * 4)
    np.testing.assert_allclose(load(path, engine="reference")(x), expected, rtol=0, atol=0)
    assert model.classes == tuple(names)
    assert model.input_shapes == ((300,),)
    assert model.stored["w"].shape == (40, 300)
    assert bitwright.load is load


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_model_can_not_be_copied_and_says_what_to_do(copied):
    model = Model(Graph(((4,),), (Node("relu", (0,)),), (1,)), {})
    with pytest.raises(BitwrightError, match=r"can't be pickled or copied.*call load in each process"):
        copied(model)


def test_what_a_model_says_of_itself():
    graph, weights = residual_block()
    assert repr(Model(graph, weights)) == "Model((5, 6, 4) -> (7,), engine='native')"


class Elsewhere:
    """Like a torch tensor on a GPU, or one with a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("can't become an array")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "the model got 0 inputs; expected 1"),
        ((np.zeros((2, 5, 6, 4)),), r"input 0 is float64; expected float32: convert it with x.astype\(numpy.float32\)"),
        ((np.zeros((2, 5, 6, 4), np.uint8),), "input 0 is uint8, but this model has no preprocessing in it"),
        ((np.zeros((2, 5, 4, 6), np.float32),), r"input 0 has shape \(2, 5, 4, 6\); expected \(N, 5, 6, 4\)"),
        ((np.zeros((5, 6, 4), np.float32),), r"expected \(N, 5, 6, 4\): add the batch axis, x\[None\]"),
        ((np.float32(3),), r"input 0 has shape \(\); expected"),
        (("cat.png",), "input 0 has shape"),
        (([[1], [2, 3]],), "input 0 is a list that is no array"),
        ((Elsewhere(),), "input 0 is a Elsewhere that is no array"),
    ],
)
def test_inputs_that_are_refused(inputs, message):
    graph, weights = residual_block()
    with pytest.raises(BitwrightError, match=message) as caught:
        Model(graph, weights, engine="reference")(*inputs)
    assert caught.value.kind == "input"


def test_batches_must_agree():
    model = Model(Graph(((4,), (4,)), (Node("add", (0, 1)),), (2,)), {})
    with pytest.raises(BitwrightError, match="the inputs have batches of 2, 3; expected equal ones"):
        model(np.zeros((2, 4), np.float32), np.zeros((3, 4), np.float32))


def test_pixels_may_be_bytes_or_floats_but_no_other_integers():
    graph = Graph(((1, 2, 2),), (Node("normalize", (0,), {}, {"scale": "s", "shift": "t"}),), (1,))
    model = Model(graph, {"s": np.ones(1, np.float32), "t": np.zeros(1, np.float32)})
    with pytest.raises(BitwrightError, match="input 0 is int64; expected float32 or uint8 pixels"):
        model(np.zeros((1, 1, 2, 2), np.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "cuda"}, "unknown engine 'cuda'; known: native, reference"),
        ({"threads": 0}, "threads is 0; expected an integer from 1 to 1024"),
        ({"threads": True}, "threads is True"),
        ({"meta": {"classes": "abc"}}, "the classes are 'abc'; expected a list of names"),
        ({"meta": {"classes": [1]}}, r"the classes are \[1\]"),
        ({"meta": {"classes": ["a", "b"]}}, r"2 classes for an output of shape \(4,\); expected one name"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(BitwrightError, match=message):
        Model(Graph(((4,),), (), (0,)), {}, **options)


def test_without_the_extension_the_error_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitwright._native", None)
    monkeypatch.delattr(bitwright, "_native", raising=False)
    with pytest.raises(BitwrightError, match=r'the native engine is not available .*engine="reference"') as caught:
        Model(Graph(((4,),), (), (0,)), {})
    assert caught.value.kind == "engine"
    assert Model(Graph(((4,),), (), (0,)), {}, engine="reference")(np.ones((1, 4), np.float32)).tolist() == [[1] * 4]


def test_a_wrong_environment_is_named(monkeypatch):
    monkeypatch.setenv("BITWRIGHT_CPU", "mmx")
    _native.set_isa(None)
    with pytest.raises(BitwrightError, match="BITWRIGHT_CPU is 'mmx', expected one of 'ref', 'avx2'"):
        Model(Graph(((4,),), (), (0,)), {})


def test_weights_that_grow_when_they_are_laid_out_are_capped(tmp_path):
    """Two channels in each of 2,000 groups: kernels pad every group to 16."""
    attributes = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 2000}
    graph = Graph(((4000, 1, 1),), (Node("conv2d", (0,), attributes, {"weight": "w"}),), (1,))
    path = tmp_path / "groups"
    path.write_bytes(write_container(graph, {"w": np.ones((4000, 2, 3, 3), np.float32)}, {}))
    assert load(path)(np.ones((1, 4000, 1, 1), np.float32)).tolist() == [[[[2.0]]] * 4000]
    with pytest.raises(BitwrightError, match=r"2,304,000 bytes for its weights .*; max_bytes is 1,000,000") as caught:
        load(path, max_bytes=1_000_000)
    assert caught.value.kind == "too-large"


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True, "1"])
def test_a_cap_is_a_positive_integer(max_bytes, tmp_path):
    with pytest.raises(BitwrightError, match=r"max_bytes is .*; expected a positive integer"):
        load(tmp_path, max_bytes=max_bytes)


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(BitwrightError, match=r"can't read the packed file .*absent: No such file") as caught:
        load(tmp_path / "absent")
    assert caught.value.kind == "file"
    with pytest.raises(BitwrightError, match="can't read the packed file"):
        load(tmp_path)
    path = tmp_path / "small"
    path.write_bytes(b"x" * 100)
    with pytest.raises(BitwrightError, match="has 100 bytes; max_bytes is 99") as caught:
        load(path, max_bytes=99)
    assert caught.value.kind == "too-large"
    with pytest.raises(BitwrightError):
        load(path)


def test_a_file_may_be_run_on_kernels_of_the_callers_choice(tmp_path):
    weights = {"w": np.where(np.arange(64).reshape(4, 16) % 3, 0.5, -0.5).astype(np.float32)}
    graph = Graph(((16,),), (Node("sign", (0,)), Node("linear", (1,), {}, {"weight": "w"})), (2,))
    path = tmp_path / "signs.safetensors"
    path.write_bytes(write_container(graph, weights, {}))
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    for kernels in ("bytes", ["bytes"], ["bits"]):
        model = load(path, kernels=kernels)
        assert model.plan[-1].kernel.startswith(tuple([kernels] if isinstance(kernels, str) else kernels))
        assert np.array_equal(model(x), run_reference(graph, weights, (x,))[0])
    with pytest.raises(BitwrightError, match="unknown kernel 'bit'; did you mean 'bits'"):
        load(path, kernels="bit")
