"""The context coder: readable and native agree, nothing reads outside, and it pays on structured matrices."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.packing import coders, context
from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import entropy_bits
from bitwright.packing.context import KNOTS, STRETCH, Shape, squash
from bitwright.packing.encodings import Weight, encode
from bitwright.packing.grid import read_grid, strides
from bitwright.packing.positions import View
from bitwright.packing.profile import Profile
from bitwright.packing.values import CODES, FLOAT32

native = pytest.importorskip("bitwright._native")


@st.composite
def grids(draw):
    """Grids with dead, dense and mixed lines."""
    lines, length, bits = draw(st.integers(0, 9)), draw(st.integers(0, 14)), draw(st.integers(-1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) * rng.random((lines, 1)) * 2
    grid = rng.integers(1, (1 << bits) + 1, (lines, length)) * rng.choice([-1, 1], (lines, length)) if bits >= 0 else 1
    grid = (grid * (rng.random((lines, length)) < density)).astype(np.int16).reshape(-1)
    return grid, Shape(lines, length, draw(st.integers(0, length)), bits, int(np.count_nonzero(grid)))


@settings(max_examples=150, deadline=None)
@given(grids())
def test_readable_and_native_coder_agree(pair):
    grid, shape = pair
    data = context.encode(grid, shape)
    assert native.context_encode(grid, *astuple(shape)) == data
    assert context.decode(data, shape).tolist() == grid.tolist()
    assert native.context_decode(data, *astuple(shape)).tolist() == grid.tolist()


def outcome(decode, *arguments):
    try:
        return decode(*arguments).tolist()
    except ValueError:
        return "refused"


@settings(max_examples=200, deadline=None)
@given(grids(), st.binary(max_size=30), st.data())
def test_decoders_agree_on_any_bytes(pair, noise, data):
    grid, shape = pair
    good = bytearray(context.encode(grid, shape))
    if good and data.draw(st.booleans()):
        good[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        noise = bytes(good[: data.draw(st.integers(0, len(good)))]) + noise[: data.draw(st.integers(0, 3))]
    assert outcome(native.context_decode, noise, *astuple(shape)) == outcome(context.decode, noise, shape)


def test_squash_is_the_logistic_function_and_stretch_inverts_it():
    knots = np.arange(-16, 17) / 2
    assert list(KNOTS) == [round(65536 / (1 + np.exp(-x))) for x in knots]
    s = np.arange(-2047, 2048)
    exact = 65536 / (1 + np.exp(-s / 256))
    assert np.abs([squash(int(x)) for x in s] / exact - 1).max() < 0.05  # 0.5^2 / 8 between knots, and rounding of 22
    for p in (0, 22, 23, 1000, 32768, 65514, 65535):
        found = STRETCH[p]
        assert squash(found) >= p or found == 2047
        assert found == -2047 or squash(found - 1) < p


def image_like(lines=200, side=20, seed=0):
    """What a pruned first layer is: pixels and neurons of very different density, patches of one sign."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    pixels = 0.5 * np.exp(-12 * (x**2 + y**2))
    neurons = rng.random((lines, 1, 1)) ** 2
    angle = rng.uniform(0, 2 * np.pi, (lines, 1, 1))
    field = np.sin(9 * (x * np.cos(angle) + y * np.sin(angle)) + angle)
    keep = rng.random((lines, side, side)) < 2 * pixels * neurons * np.abs(field)
    return np.where(keep, np.sign(field) * rng.integers(1, 5, keep.shape), 0).reshape(lines, -1).astype(np.float32)


def test_structure_pays_and_its_absence_costs_nothing():
    structured = image_like()
    shuffled = np.random.default_rng(0).permutation(structured.reshape(-1)).reshape(structured.shape)
    without = Profile(positions=("gaps", "mask"))
    sizes = [[len(encode(Weight.of("w", w), p)[1]) for p in (Profile(), without)] for w in (structured, shuffled)]
    assert sizes[0][0] < 0.95 * sizes[0][1]
    assert sizes[1][0] <= sizes[1][1]


def test_what_is_random_costs_its_entropy():
    grid = (np.random.default_rng(0).random(20_000) < 0.05).astype(np.int16)
    ones = int(grid.sum())
    size = len(native.context_encode(grid, 100, 200, 0, -1, ones))
    assert size < 1.04 * entropy_bits(np.array([20_000 - ones, ones])) / 8


def test_strides_are_kernels_or_square_images():
    assert strides((50, 20, 5, 5)) == [0, 25, 5]
    assert strides((300, 784))[:2] == [0, 28]
    assert 4 in strides((500, 800))
    assert strides((10,)) == [0]


def grid_bytes(stride, payload, table=b""):
    return varint(stride) + table + varint(len(payload)) + payload


LEVELS = np.array([0, 2, 0, -1, 0, 1], np.int16)
TABLE = varint(1) + b"\0" + np.array([0.5, 1.0], "<f4").tobytes()
BROKEN = {
    "a stride of 4": ("sparse", FLOAT32, grid_bytes(4, b""), 3),
    "bytes expected": ("stream", FLOAT32, varint(0) + varint(9), 3),
    "wrong length": ("stream", FLOAT32, grid_bytes(0, bytes(9)), 3),
    "2 non-zeros in the grid": (
        "sparse",
        FLOAT32,
        grid_bytes(0, context.encode(np.array([1, 0, 1, 0, 0, 0]), Shape(2, 3, 0, -1, 3))),
        3,
    ),
    "a level that has no value": (
        "codebook",
        CODES,
        grid_bytes(0, context.encode(LEVELS, Shape(2, 3, 0, 1, 3)), TABLE),
        3,
    ),
    "4097 values": ("codebook", CODES, varint(0) + varint(4096) + b"\0", 3),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_grids_are_refused(message):
    kind, values, data, nonzeros = BROKEN[message]
    with pytest.raises(BitwrightError, match=message) as caught:
        read_grid(Cursor(data), View((2, 3), False, None, None), nonzeros, values, None)
    assert caught.value.kind == kind


def test_a_huge_grid_is_refused_before_it_is_allocated():
    with pytest.raises(BitwrightError, match="in 67108865 lines of 1 elements") as caught:
        read_grid(Cursor(grid_bytes(0, b"")), View(((1 << 26) + 1, 1), False, None, None), 0, FLOAT32, None)
    assert caught.value.kind == "sparse"


def test_native_arguments_are_checked():
    for message, arguments in {
        "2.26": (1 << 20, 1 << 20, 0, 0, 0),
        "stride": (1, 2, 3, 0, 0),
        "12 bits": (1, 2, 0, 13, 0),
        "more non-zeros": (1, 2, 0, 0, 3),
    }.items():
        with pytest.raises(ValueError, match=message):
            native.context_decode(b"", *arguments)
    with pytest.raises(ValueError, match="lines \\* length"):
        native.context_encode(np.zeros(3, np.int16), 2, 2, 0, 0, 0)
    with pytest.raises(ValueError, match="level is out of range"):
        native.context_encode(np.array([3], np.int16), 1, 1, 0, 1, 1)


def test_without_the_extension_the_bytes_are_the_same(monkeypatch):
    weight = Weight.of("w", image_like(6, 8))
    fast = encode(weight, Profile())
    monkeypatch.setattr(coders, "_native", None)
    assert encode(weight, Profile()) == fast
