"""The packed file as a whole: golden files, canonical bytes, overhead, refusals, mutants."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from bitwright import BitwrightError
from bitwright.packing import Packed, Profile, coders, encodings
from bitwright.packing.container import read_container, write_container
from bitwright.packing.envelope import unwrap, wrap
from bitwright.runtime import load
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.reference import run_reference

GOLDEN = Path(__file__).parent / "golden"
FORMAT = Path(__file__).parent.parent / "FORMAT.md"


def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_script(GOLDEN / "make.py")
GRAPH, TENSORS = make.small_model()
QUANTISED = make.quantised_model()
META = make.META


def good(name="best"):
    return (GOLDEN / f"good-{name}.safetensors").read_bytes()


def bits(array):
    return np.ascontiguousarray(array).view(np.uint32).tolist()


# --- golden files


def check_golden(path, graph, meta=META):
    container = read_container(path.read_bytes())
    assert container.meta == meta
    assert container.graph == graph
    with np.load(GOLDEN / f"{path.stem.split('-')[0]}.npz") as expected:
        assert list(container.stored) == list(
            dict.fromkeys(w for n in graph.nodes for _, w in sorted(n.weights.items()))
        )
        for name, stored in container.stored.items():
            assert bits(stored.dense()) == bits(expected[name])
            assert stored.dense().shape == expected[name].shape
            assert not stored.dense().flags.writeable
    return {name: stored.encoding for name, stored in container.stored.items()}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("good-*")), ids=lambda path: path.stem)
def test_golden_files_load_for_ever(path):
    check_golden(path, GRAPH)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("quantised-*")), ids=lambda path: path.stem)
def test_golden_files_of_quantised_weights_load_for_ever(path):
    found = check_golden(path, QUANTISED[0], make.QUANTISED_META)
    assert {"signs", "ternary", "fixed"} <= set(found.values())


def test_readable_decoders_read_them_too(monkeypatch):
    monkeypatch.setattr(coders, "_native", None)
    check_golden(GOLDEN / "quantised-best.safetensors", QUANTISED[0], make.QUANTISED_META)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_engines_run_quantised_weights_as_they_are_stored(engine):
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    expected = run_reference(*QUANTISED, (x,))[0]
    for path in GOLDEN.glob("quantised-*.safetensors"):
        found = load(path, engine=engine)(x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("broken-*")), ids=lambda path: path.stem)
def test_broken_golden_files_are_refused_for_their_reason(path):
    with pytest.raises(BitwrightError) as caught:
        [stored.dense() for stored in read_container(path.read_bytes()).stored.values()]
    assert path.stem.removeprefix("broken-").startswith(caught.value.kind)
    assert f"`{caught.value.kind}`" in FORMAT.read_text()


def test_golden_files_are_what_the_packer_writes_today():
    """Not a promise of the format, but a change here should be meant. Only the data: zlib may differ elsewhere."""
    for name, profile in make.PROFILES.items():
        data = unwrap(write_container(GRAPH, TENSORS, META, profile), 1 << 20)[1]
        assert data == unwrap(good(name), 1 << 20)[1], name
    for name, profile in {"best": None, "raw": make.QUANTISED_RAW}.items():
        data = unwrap(write_container(*QUANTISED, make.QUANTISED_META, profile), 1 << 20)[1]
        assert data == unwrap((GOLDEN / f"quantised-{name}.safetensors").read_bytes(), 1 << 20)[1], name


def test_every_refusal_of_the_format_has_a_golden_file_or_a_test():
    section = FORMAT.read_text().split("## 6. Refusals")[1]
    kinds = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    golden = {path.stem.removeprefix("broken-") for path in GOLDEN.glob("broken-*")}
    elsewhere = {"codebook", "sparse", "value"}  # test_packing_encodings.py: they concern one record
    assert {kind for kind in kinds if not any(name.startswith(kind) for name in golden)} == elsewhere


# --- writing


def test_same_model_same_bytes_in_any_order():
    backwards = dict(reversed(TENSORS.items()))
    assert write_container(GRAPH, TENSORS, META) == write_container(GRAPH, backwards, META)
    fortran = {name: np.asfortranarray(array) for name, array in TENSORS.items()}
    assert write_container(GRAPH, fortran, META) == write_container(GRAPH, TENSORS, META)


def test_negative_zero_becomes_zero_and_float16_is_taken():
    changed = {**TENSORS, "norm.shift": TENSORS["norm.shift"].astype(np.float16)}
    changed["conv.bias"] = np.array([-0.0, 0.1, -0.3, -0.0], np.float32)
    assert write_container(GRAPH, changed, META) == write_container(GRAPH, TENSORS, META)


def test_the_safetensors_library_opens_the_file():
    tensors = safetensors.numpy.load(good())
    assert {name: tensor.dtype.name for name, tensor in tensors.items()} == {"data": "uint8", "graph": "uint8"}
    assert int.from_bytes(good()[:8], "little") % 8 == 0


def test_every_tensor_may_be_forced_into_an_encoding():
    profile = Profile(encodings={"conv.*": "dense", "*.bias": "codebook", "fc.weight": "codebook"})
    stored = read_container(write_container(GRAPH, TENSORS, {}, profile)).stored
    assert [stored[n].encoding for n in ("conv.weight", "conv.bias", "fc.bias")] == ["dense", "dense", "codebook"]
    assert stored["fc.weight"].sparse().positions.tolist() == np.flatnonzero(TENSORS["fc.weight"]).tolist()
    with pytest.raises(BitwrightError, match=r"'conv.weight'.*'sparse' cannot hold it"):
        write_container(GRAPH, TENSORS, {}, Profile(encodings={"conv.weight": "sparse"}))


def test_small_vectors_share_a_record_and_big_ones_do_not():
    graph = Graph(((5000,),), (Node("affine", (0,), {}, {"scale": "s", "shift": "t"}, "a"),), (1,))
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    stored = read_container(write_container(graph, {"s": values, "t": values}, {})).stored
    assert stored["s"].start is None
    stored = read_container(good()).stored
    shared = [entry for entry in stored.values() if entry.start is not None]
    assert [entry.name for entry in shared] == ["conv.bias", "norm.scale", "norm.shift", "fc.bias"]
    records = {id(entry.record): entry.record for entry in shared}
    assert sum(entry.nbytes for entry in shared) == sum(len(record.data) for record in records.values())
    assert all(entry.sparse() is None for entry in shared)


@pytest.mark.parametrize("blocks", [8, 40, 80])
def test_overhead_is_at_most_2_kb_and_40_bytes_per_node(blocks):
    """Of a residual network with names as long as torch makes them: all that is in no record."""
    conv = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    nodes, tensors, rng = [], {}, np.random.default_rng(0)
    for i in range(blocks):
        last, path = len(nodes), f"layer{1 + i // 8}.{i % 8}"
        weights = [f"{path}.conv{i % 2 + 1}.weight", f"{path}.bn{i % 2 + 1}.scale", f"{path}.bn{i % 2 + 1}.shift"]
        nodes.append(Node("conv2d", (last,), conv, {"weight": weights[0]}, f"{path}.conv{i % 2 + 1}"))
        nodes.append(Node("affine", (last + 1,), {}, {"scale": weights[1], "shift": weights[2]}, f"{path}.bn"))
        nodes.append(Node("add", (last, last + 2), {}, {}, ""))
        nodes.append(Node("relu", (last + 3,), {}, {}, f"{path}.relu"))
        tensors[weights[0]] = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
        tensors.update({name: rng.standard_normal(4).astype(np.float32) for name in weights[1:]})
    data = write_container(Graph(((4, 8, 8),), tuple(nodes), (len(nodes),)), tensors, {})
    overhead = len(data) - sum(stored.nbytes for stored in read_container(data).stored.values())
    assert overhead <= 2048 + 40 * len(nodes)


def test_the_writer_refuses_what_no_file_may_hold():
    for changes, kind, message in [
        ({"fc.weight": TENSORS["fc.weight"] * np.nan}, "value", "'fc.weight' holds nan"),
        ({"fc.weight": TENSORS["fc.weight"].astype(np.float64)}, "dtype", "'fc.weight' has dtype float64"),
        ({"stray": TENSORS["fc.bias"]}, "graph", "'stray'"),
        ({"fc.weight": TENSORS["fc.weight"][:, 1:]}, "graph", r"\(12, 63\)"),
    ]:
        with pytest.raises(BitwrightError, match=message) as caught:
            write_container(GRAPH, {**TENSORS, **changes}, {})
        assert caught.value.kind == kind
    for meta in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(BitwrightError, match="cannot be written as JSON"):
            write_container(GRAPH, TENSORS, meta)
    with pytest.raises(BitwrightError, match="bytes of JSON, 16777216 at most"):
        write_container(GRAPH, TENSORS, {"x": "y" * (1 << 24)})


def test_an_encoding_that_loses_a_bit_is_caught(monkeypatch):
    encode = encodings.encode

    def forgetful(weight, profile, name=None):
        return encode(encodings.Weight(weight.name, weight.shape, weight.numbers * np.float32(0.5)), profile, name)

    monkeypatch.setattr(encodings, "encode", forgetful)
    with pytest.raises(AssertionError, match=r"conv.bias: .* does not give back what was packed"):
        write_container(GRAPH, TENSORS, {})


# --- reading


def test_many_shared_vectors_are_read_in_one_pass():
    """A file may have one per tensor; a search through all tensors for each would hang here."""
    count, record = 20_000, encodings.encode(encodings.Weight.of("w", np.ones(1, np.float32)), Profile())
    nodes = [["affine", [i], {}, {"scale": 2 * i, "shift": 2 * i + 1}, ""] for i in range(count // 2)]
    tensors = [[str(i), [1], count - 1 - i] for i in range(count)]
    shared = [[record[0], len(record[1])]] * count
    content = {"i": [[1]], "n": nodes, "o": [count // 2], "t": tensors, "s": shared, "m": {}}
    stored = read_container(wrap(content, count * record[1])).stored
    assert list(stored) == [entry[0] for entry in tensors]
    assert stored["7"].dense().tolist() == [1.0]


def test_max_bytes_caps_json_tensors_and_activations():
    graph = Graph(((50,),), (Node("linear", (0,), {}, {"weight": "w"}),), (1,))
    file, needed = write_container(graph, {"w": np.ones((20, 50), np.float32)}, {}), 4 * 20 * 50
    read_container(file, max_bytes=needed)
    with pytest.raises(BitwrightError, match=rf"the tensors take {needed} bytes.*max_bytes is {needed - 1}") as caught:
        read_container(file, max_bytes=needed - 1)
    assert caught.value.kind == "too-large"
    with pytest.raises(BitwrightError, match="inflates to more than 99 bytes"):
        read_container(good(), max_bytes=99)
    wide = Graph(((1, 30, 30),), (Node("affine", (0,), {}, {"scale": "s", "shift": "s"}),), (1,))
    with pytest.raises(BitwrightError, match="elements per image") as caught:
        read_container(write_container(wide, {"s": np.ones(1, np.float32)}, {}), max_bytes=1000)
    assert caught.value.kind == "graph"


def test_the_header_may_be_written_by_others():
    """Other order of the keys and of the tensors, other metadata beside ours: still a file of ours."""
    file = good()
    length = int.from_bytes(file[:8], "little")
    header, body = json.loads(file[8 : 8 + length]), file[8 + length :]
    split = header["data"]["shape"][0]
    header["graph"]["data_offsets"] = [0, len(body) - split]
    header["data"]["data_offsets"] = [len(body) - split, len(body)]
    header["__metadata__"]["who"] = "somebody"
    text = json.dumps(dict(reversed(header.items())), indent=1).encode() + b"   "
    moved = len(text).to_bytes(8, "little") + text + body[split:] + body[:split]
    assert list(read_container(moved).stored) == list(read_container(file).stored)


def test_2000_mutants_are_refused_or_load():
    fuzz = load_script(Path(__file__).parent.parent / "benchmarks" / "fuzz_container.py")
    outcomes, slowest = fuzz.fuzz(2000, seed=int(os.environ.get("BITWRIGHT_FUZZ_SEED", "0")))
    known = {line.split("`")[1] for line in FORMAT.read_text().splitlines() if line.startswith("| `")}
    assert set(outcomes) <= known | {"loads", "not written"}
    assert {"stream", "json", "graph", "tensor", "codebook", "sparse", "value", "loads"} <= set(outcomes)
    assert slowest < 5  # seconds; a hang, not a speed


def test_reading_needs_no_torch():
    code = "import sys, bitwright.packing.container, bitwright.packing.inspect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_packed_saves_and_reports(tmp_path):
    packed = Packed(good())
    packed.save(tmp_path / "folder" / "model.safetensors")
    assert (tmp_path / "folder" / "model.safetensors").read_bytes() == good()
    assert packed.report().file_bytes == len(good())
