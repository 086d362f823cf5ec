"""The report of a packed file adds up, and its paper column is the paper's arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest

from bitwright import BitwrightError
from bitwright.packing.coders import entropy_bits
from bitwright.packing.container import read_container, write_container
from bitwright.packing.inspect import PAPER, inspect_bytes, inspect_file, paper_bytes
from bitwright.packing.profile import Profile
from bitwright.runtime.graph import Graph, Node

GOLDEN = Path(__file__).parent / "golden"


def clustered(shape, density, clusters, seed=0):
    rng = np.random.default_rng(seed)
    levels = np.linspace(-1, 1, clusters).astype(np.float32) + np.float32(0.01)
    return np.where(rng.random(shape) < density, rng.choice(levels, shape), 0).astype(np.float32)


def linear(weight):
    graph = Graph(((weight.shape[1],),), (Node("linear", (0,), {}, {"weight": "ip.weight"}, "ip"),), (1,))
    return lambda profile=None: write_container(graph, {"ip.weight": weight}, {}, profile)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("good-*")), ids=lambda path: path.stem)
def test_the_bytes_add_up(path):
    report = inspect_file(path)
    assert report.file_bytes == path.stat().st_size == report.overhead + sum(row.nbytes for row in report.rows)
    assert report.float32_bytes == 4 * sum(int(np.prod(row.shape)) for row in report.rows)
    assert report.ratio == report.float32_bytes / report.file_bytes
    assert [row.role for row in report.rows] == ["bias", "weight", "scale", "shift", "bias", "weight", "weight"]
    assert report.rows[1].layer == "conv"
    assert report.rows[1].paper_bytes is not None
    assert report.rows[0].paper_bytes is None
    assert json.loads(json.dumps(report.as_dict()))["paper"] == PAPER


def test_the_entropy_bound_is_reached_from_above_by_coders_without_memory():
    make = linear(clustered((300, 784), 0.08, 31))
    for profile in (Profile.paper(), Profile(coders=("rans",), positions=("gaps",))):
        row = inspect_bytes(make(profile)).rows[0]
        assert row.entropy_bytes <= row.nbytes <= 1.03 * row.entropy_bytes
        assert row.density == pytest.approx(0.08, abs=0.005)
        assert row.bits_per_weight == pytest.approx(8 * row.nbytes / (300 * 784))


def test_the_paper_column_counts_codes_gaps_and_codebook():
    """LeNet-300-100's first layer, 8 % dense: (nonzeros + fillers) * (code + gap) + 32 k bits."""
    weight = clustered((300, 784), 0.08, 31).reshape(-1)
    places = np.flatnonzero(weight)
    zeros = np.diff(places, prepend=-1) - 1
    bounds = []
    for width in range(1, 9):
        fillers = int((zeros >> width).sum())
        gaps = np.bincount(zeros & ((1 << width) - 1), minlength=1 << width)
        gaps[-1] += fillers
        codes = np.append(np.unique(weight[places], return_counts=True)[1], fillers)
        bounds.append((entropy_bits(gaps) + entropy_bits(codes) + 32 * 31) / 8)
    found = paper_bytes(weight)
    assert min(bounds) <= found <= 1.02 * min(bounds)
    assert inspect_bytes(linear(weight.reshape(300, 784))()).paper_bytes == found


def test_the_paper_column_of_dense_and_float_layers():
    floats = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert paper_bytes(floats) == 4000
    assert paper_bytes(np.full(800, 0.5, np.float32)) == 800 / 8 + 4  # one code: Huffman's floor of a bit each
    half = np.where(np.arange(1000) % 2, floats, 0)
    assert paper_bytes(half) >= 4 * 500
    assert paper_bytes(np.zeros(100, np.float32)) == 0


def test_damage_and_missing_files_are_reported(tmp_path):
    with pytest.raises(BitwrightError, match=r"cannot read .*no-such-file.*check the path"):
        inspect_file(tmp_path / "no-such-file")
    (tmp_path / "cut").write_bytes(linear(clustered((30, 40), 0.1, 5))()[:-3])
    with pytest.raises(BitwrightError, match="pack the model again"):
        inspect_file(tmp_path / "cut")


def test_streams_tell_their_coders():
    stored = read_container(linear(clustered((300, 784), 0.08, 31))(Profile.paper())).stored["ip.weight"]
    assert [stream.coder for stream in stored.streams] == ["huffman", "huffman"]
    assert sum(stream.nbytes for stream in stored.streams) <= stored.nbytes
    context = read_container(linear(clustered((300, 784), 0.08, 31))()).stored["ip.weight"]
    assert [stream.coder for stream in context.streams] == ["context"]
