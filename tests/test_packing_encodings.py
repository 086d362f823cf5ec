"""Every encoding, registered or to come: exact on all it takes, refuses the rest; the relative index of the papers."""

import pkgutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from bitwright import BitwrightError
from bitwright.measure.balance import loads
from bitwright.packing import encodings, pack
from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import NAMES, read_stream, write_stream
from bitwright.packing.encodings import Weight, decode, encode, list_encodings
from bitwright.packing.positions import View, from_gaps, to_gaps
from bitwright.packing.profile import Profile
from bitwright.packing.values import CODES, FLOAT16, FLOAT32, Values, planes, read_values

ALL = frozenset(NAMES.values())
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SIGNS = st.sampled_from([0.1, -0.1])
TRITS = st.sampled_from([0.1, -0.3, 0.0, -0.0])
FIXED = st.integers(-40000, 40000).map(lambda k: float(np.float32(k) * np.float32(1e-3)))
FEW = st.sampled_from([0.0, -0.0, 0.5, -0.25, 3.4028234663852886e38, 1.401298464324817e-45, 1e-3])
SHAPES = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
ELEMENTS = (FINITE, FEW, SIGNS.map(np.float32), TRITS.map(np.float32), FIXED)
TENSORS = st.one_of(*(nps.arrays(np.float32, SHAPES, elements=elements) for elements in ELEMENTS))
PROFILES = st.sampled_from(
    [
        Profile(),
        Profile.paper(),
        Profile.paper(linear_index_bits=1, conv_index_bits=1),
        Profile(coders=("raw",), positions=("mask",)),
        Profile(coders=("rans",), positions=("gaps",), values=("float32",)),
        Profile(positions=("context",), values=("float16", "float32")),
        Profile.ese(elements=1),
        Profile(elements=3),
    ]
)


def bits(array):
    return np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32).tolist()


@settings(max_examples=200, deadline=None)
@given(TENSORS, PROFILES)
def test_every_candidate_gives_back_every_bit(tensor, profile):
    weight = Weight.of("w", tensor)
    for name, encoding in list_encodings().items():
        for candidate in encoding.candidates(weight, profile):
            content = decode(name, candidate.make(), tensor.shape)
            assert bits(content.numbers) == bits(tensor + np.float32(0))  # -0.0 becomes 0.0, nothing else changes
            if content.sparse is not None:
                check_sparse(content.sparse, weight.numbers)


def check_sparse(sparse, numbers):
    assert sparse.positions.dtype == np.int64
    assert sparse.positions.tolist() == np.flatnonzero(numbers).tolist()
    if sparse.codes is None:
        assert sparse.values.tolist() == numbers[sparse.positions].tolist()
    else:
        assert sparse.codes.dtype == (np.uint8 if len(sparse.codebook) <= 256 else np.uint16)
        assert (sparse.codebook[1:] > sparse.codebook[:-1]).all()
        assert 0 not in sparse.codebook
        assert sparse.codebook[sparse.codes].tolist() == numbers[sparse.positions].tolist()


@settings(max_examples=100, deadline=None)
@given(TENSORS)
def test_the_smallest_is_never_much_larger_than_float32(tensor):
    name, record = encode(Weight.of("w", tensor), Profile())
    assert len(record) <= 4 * tensor.size + 12
    assert encode(Weight.of("w", tensor.copy(order="F")), Profile()) == (name, record)


def test_all_nine_are_found():
    assert list(list_encodings()) == [
        "codebook", "dense", "ese", "fixed", "half", "product", "signs", "sparse", "ternary"
    ]  # fmt: skip


def test_two_encodings_of_one_name_are_refused(monkeypatch):
    twice = [module for module in pkgutil.iter_modules(encodings.__path__) if module.name == "half"] * 2
    monkeypatch.setattr(encodings, "_found", {})
    monkeypatch.setattr(pkgutil, "iter_modules", lambda path: twice)
    with pytest.raises(BitwrightError, match="two encodings are called 'half'; rename one"):
        list_encodings()


RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal((40, 50)).astype(np.float32)
ALPHA = RNG.uniform(0.1, 1, (40, 1)).astype(np.float32)
RUNS = RNG.standard_normal((9, 5, 2)).astype(np.float32)[np.arange(9), RNG.integers(0, 5, (400, 9))].reshape(400, 18)
SPARSE = np.where(RNG.random((40, 50)) < 0.05, NORMAL, 0)


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (NORMAL, "dense"),
        (NORMAL[:2, :9].astype(np.float16), "half"),
        (np.sign(NORMAL) * np.float32(0.3), "signs"),
        (np.sign(NORMAL) * ALPHA, "signs"),
        (np.where(NORMAL < -0.43, -ALPHA, np.where(NORMAL > 0.43, 0.7 * ALPHA, 0)).astype(np.float32), "ternary"),
        (np.rint(NORMAL * 30) * np.float32(0.01), "fixed"),
        (np.rint(NORMAL * 3) * ALPHA, "fixed"),
        (np.array([-0.9123, -0.1071, 0.2, 0.2517, 0.7333], np.float32)[RNG.integers(0, 5, (40, 50))], "codebook"),
        (RUNS, "product"),
        (RUNS[:, :17], "product"),
        (SPARSE, "sparse"),
        (np.zeros((40, 50), np.float32), "codebook"),
    ],
)
def test_each_wins_on_its_own_ground(tensor, name):
    found, record = encode(Weight.of("w", tensor), Profile())
    assert found == name
    assert decode(name, record, tensor.shape).numbers.tolist() == tensor.reshape(-1).tolist()


def layer(rows=64, columns=576, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns // 9, 3, 3)).astype(np.float32), rng.uniform(0.1, 1, (rows, 1, 1, 1))


def bits_per_weight(weight):
    name, record = encode(Weight.of("w", weight.astype(np.float32)), Profile())
    decoded = decode(name, record, weight.shape).numbers
    assert decoded.tolist() == weight.astype(np.float32).reshape(-1).tolist()
    return 8 * len(record) / weight.size


def test_signs_take_one_bit_and_a_magnitude_per_channel():
    weight, alpha = layer()
    signs = np.where(weight < 0, -1, 1)
    assert bits_per_weight(signs * np.float32(0.3)) < 1.003
    assert bits_per_weight(signs * alpha.astype(np.float32)) < 1 + 32 / 576 + 0.003
    assert bits_per_weight(np.broadcast_to(signs[:1], weight.shape)) < 0.2  # equal rows: the context coder


@pytest.mark.parametrize("delta", [0.43, 1.0, 2.0])
def test_ternary_weights_come_near_their_entropy(delta):
    weight, _ = layer()
    for positive, negative in ((0.3, 0.3), (0.7, 0.2)):
        ternary = np.where(weight > delta, np.float32(positive), np.where(weight < -delta, np.float32(-negative), 0))
        counts = np.unique(ternary, return_counts=True)[1] / weight.size
        entropy = -(counts * np.log2(counts)).sum()
        assert bits_per_weight(ternary) < min(1.6, 1.02 * entropy + 0.003)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("offset", "stride"), [(0, 1), (0.5, 1), (3, 1), (0, 4)])
@pytest.mark.parametrize("k", [2, 4, 8])
def test_grids_of_k_bits_take_at_most_k_bits(k, offset, stride, per_channel):
    """Also with a zero point, on half-integers, and where only every fourth multiple occurs."""
    rng = np.random.default_rng(0)
    step = rng.uniform(0.1, 1, (64, 1)).astype(np.float32) if per_channel else np.float32(0.0123)
    numbers = (rng.integers(-(2 ** (k - 1)), 2 ** (k - 1), (64, 576)) + offset) * stride
    weight = np.float32(2 * numbers) * (step / 2)
    assert bits_per_weight(weight) < k + 32 / 576 * per_channel + 0.02


@pytest.mark.parametrize("width", [2, 3, 4, 8])
@pytest.mark.parametrize("count", [2, 16, 200])
def test_runs_cost_their_codes_and_their_values(width, count):
    """32 m n / (32 k n + s m log2 k) (Gong et al. 2014)."""
    rng = np.random.default_rng(0)
    rows, columns = 1600, 48
    books = rng.standard_normal((columns // width, count, width)).astype(np.float32)
    weight = books[np.arange(len(books)), rng.integers(0, count, (rows, len(books)))].reshape(rows, columns)
    paper = 32 * count * columns + columns / width * rows * np.log2(count)
    assert 0.85 * paper < bits_per_weight(weight) * weight.size < 1.02 * paper + 1000


def test_raw_trits_take_eight_fifths_of_a_bit():
    weight, _ = layer()
    ternary = Weight.of("w", (np.sign(weight) * (np.abs(weight) > 0.43)).astype(np.float32))
    record = encode(ternary, Profile(coders=("raw",)), "ternary")[1]
    assert len(record) == pytest.approx(weight.size / 5, abs=12)
    assert decode("ternary", record, weight.shape).numbers.tolist() == ternary.numbers.tolist()


@pytest.mark.parametrize("name", ["half", "codebook", "sparse", "signs", "ternary", "fixed", "ese"])
def test_an_encoding_that_cannot_hold_a_tensor_says_so(name):
    dense = np.arange(1, 70_002, dtype=np.float32)
    with pytest.raises(BitwrightError, match=rf"tensor 'w'.*encoding '{name}' cannot hold it exactly") as caught:
        encode(Weight.of("w", dense), Profile(), name)
    assert caught.value.kind == "profile"


def test_wrong_tensors_are_refused_with_their_name():
    with pytest.raises(BitwrightError, match=r"'conv1.weight' holds nan at element 2 of 3") as caught:
        Weight.of("conv1.weight", np.array([1, 2, np.nan], np.float32))
    assert caught.value.kind == "value"
    with pytest.raises(BitwrightError, match="'w' holds -inf"):
        Weight.of("w", np.array([-np.inf], np.float32))
    with pytest.raises(BitwrightError, match="'w' has dtype int64") as caught:
        Weight.of("w", np.arange(3))
    assert caught.value.kind == "dtype"


def test_unknown_names_list_the_known():
    with pytest.raises(
        BitwrightError,
        match=r"unknown encoding 'zip'.*dense, ese, fixed, half, product, signs, sparse, ternary",
    ):
        encode(Weight.of("w", NORMAL), Profile(), "zip")
    with pytest.raises(
        BitwrightError,
        match=r"unknown encoding 'zip'.*dense, ese, fixed, half, product, signs, sparse, ternary",
    ):
        encode(Weight.of("w", NORMAL), Profile(preferred="zip"))
    for field, names in {"coders": "huffman", "positions": "context", "values": "float16"}.items():
        with pytest.raises(BitwrightError, match=rf"unknown.*'zip'.*{names}"):
            Profile(**{field: ("zip",)})
    with pytest.raises(BitwrightError, match="index of 17 bits"):
        Profile(conv_index_bits=17)


# --- the relative index


@pytest.mark.parametrize(
    ("places", "width", "gaps", "fillers"),
    [
        ([1, 4, 15], 3, [1, 2, 7, 2], [2]),  # figure 2 of Deep Compression
        ([2, 3, 22], 4, [2, 0, 15, 2], [2]),  # a column of EIE: [0,0,1,2,0 x 18,3]
        ([0], 1, [0], []),
        ([8], 3, [7, 0], [0]),
        ([7], 3, [7], []),
        ([], 5, [], []),
    ],
)
def test_the_relative_index_of_the_papers(places, width, gaps, fillers):
    found, is_filler = to_gaps(np.array(places, np.int64), width)
    assert found.tolist() == gaps
    assert np.flatnonzero(is_filler).tolist() == fillers
    assert from_gaps(found)[~is_filler].tolist() == places


@given(st.sets(st.integers(0, 5000), max_size=60), st.integers(1, 16))
def test_gaps_come_back_for_every_width(places, width):
    places = np.array(sorted(places), np.int64)
    gaps, is_filler = to_gaps(places, width)
    assert (gaps < 1 << width).all()
    assert (gaps[is_filler] == (1 << width) - 1).all()
    assert from_gaps(gaps)[~is_filler].tolist() == places.tolist()


def test_fillers_cost_what_the_formula_says():
    """Expected fillers per non-zero, (1-d)^(2^b) / (1 - (1-d)^(2^b)): 0.37 for d = 4 % and b = 5."""
    places = np.flatnonzero(np.random.default_rng(0).random(1_000_000) < 0.04)
    for width in (4, 5):
        keep = (1 - 0.04) ** (1 << width)
        assert to_gaps(places, width)[1].sum() / len(places) == pytest.approx(keep / (1 - keep), rel=0.02)


@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_views_visit_and_come_back(rows, columns, transposed, drop, seed):
    weight = np.random.default_rng(seed).random((rows, columns)) < 0.4
    keep = (weight.any(1), weight.any(0)) if drop else (None, None)
    view, flat = View((rows, columns), transposed, *keep), np.flatnonzero(weight)
    places = view.visit(flat)
    assert view.flat(places).tolist() == flat.tolist()
    small = weight[weight.any(1)][:, weight.any(0)] if drop else weight
    assert sorted(places.tolist()) == np.flatnonzero(small.T if transposed else small).tolist()


def test_the_paper_profile_writes_gaps_of_the_given_width():
    profile = Profile.paper(linear_index_bits=5, conv_index_bits=3)
    for shape, width in (((40, 50), 5), ((40, 2, 5, 5), 3)):
        name, record = encode(Weight.of("w", SPARSE.reshape(shape)), profile)
        trace = []
        decode(name, record, shape, trace=trace)
        assert name == "sparse"
        assert trace[0].width == width
        assert {stream.coder for stream in trace} <= {"huffman", "raw"}


# --- the words of ESE


def words_of(record: bytes, elements: int, columns: int, exponent: int) -> tuple[list[int], list[int]]:
    """Counts and words of a record with raw streams."""
    cursor = Cursor(record)
    zigzag = 2 * exponent if exponent >= 0 else -2 * exponent - 1
    assert (cursor.varint(), cursor.varint()) == (elements, zigzag)
    counts = read_stream(cursor, elements * columns).tolist()
    words = read_stream(cursor, sum(counts)).tolist()
    cursor.end()
    return counts, words


def test_a_column_of_eie_is_words_of_16_bits():
    """[0,0,1,2,0 x 18,3]: v = [1,2,0,3], z = [2,0,15,2]."""
    column = np.zeros((23, 1), np.float32)
    column[[2, 3, 22], 0] = [1, 2, 3]
    name, record = encode(Weight.of("w", column / 4), Profile.ese(elements=1))
    assert name == "ese"
    assert words_of(record, 1, 1, -2) == ([4], [1 + (2 << 12), 2, 15 << 12, 3 + (2 << 12)])


def test_what_ese_cannot_hold():
    weight = Weight.of("w", np.eye(64, dtype=np.float32) / 4)
    with pytest.raises(BitwrightError, match="cannot hold it exactly; say for how many `elements`, take it out"):
        encode(weight, Profile(), "ese")
    for elements in (2.5, "8", True, 0):
        with pytest.raises(BitwrightError, match="processing elements in a profile; at least 1"):
            Profile.ese(elements)
    model, x = torch.nn.Linear(3, 64), (torch.zeros(1, 3),)
    with pytest.warns(UserWarning, match="nothing could be stored as 'ese', which the profile prefers"):
        pack(model, x, profile=Profile.ese(70))
    assert encode(Weight.of("w", np.ones((70_000, 1), np.float32)), Profile.ese(1))[0] != "ese"
    assert encode(Weight.of("w", np.ones((70_000, 1), np.float32)), Profile.ese(2))[0] == "ese"


def test_rows_are_interleaved_over_processing_elements():
    weight = np.array([[1, 0], [0, -2048], [0, 0], [3, 0], [2047, 5]], np.float32)
    _, record = encode(Weight.of("w", weight), Profile.ese(elements=2), "ese")
    # element 0: rows 0, 2, 4; element 1: rows 1, 3
    expected = [1, 2047 + (1 << 12), 5 + (2 << 12), 3 + (1 << 12), 2048]
    assert words_of(record, 2, 2, 0) == ([2, 1, 1, 1], expected)


@given(
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(1, 9),
    st.floats(0, 1),
    st.integers(-149, 100),
    st.integers(0, 99),
)
def test_ese_is_the_layout_that_balance_counts(rows, columns, elements, density, exponent, seed):
    elements = min(elements, rows)
    rng = np.random.default_rng(seed)
    codes = rng.integers(-2048, 2048, (rows, columns)) * (rng.random((rows, columns)) < density * 0.2)
    weight = Weight.of("w", np.ldexp(codes.astype(np.float64), exponent).astype(np.float32))
    record = encode(weight, Profile.ese(elements), "ese")[1]
    assert decode("ese", record, (rows, columns)).numbers.tolist() == weight.numbers.tolist()
    cursor = Cursor(record)
    cursor.varint(), cursor.varint()
    counts = read_stream(cursor, elements * columns).reshape(elements, columns)
    np.testing.assert_array_equal(counts, loads(codes.astype(np.float32), elements))


def test_only_a_profile_can_ask_for_ese():
    weight = Weight.of("w", np.eye(64, dtype=np.float32))
    assert not list(list_encodings()["ese"].candidates(weight, Profile()))
    assert encode(weight, Profile.ese(65))[0] != "ese"
    assert encode(Weight.of("w", np.arange(4098, dtype=np.float32).reshape(2, -1)), Profile.ese(2))[0] != "ese"
    with pytest.raises(BitwrightError, match="0 processing elements in a profile"):
        Profile.ese(0)


def test_a_sparse_layer_of_a_tenth_takes_a_twentieth():
    """10 % of the weights, 16 of 32 bits: 20 times (ESE), besides the fillers and the counts."""
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 2048, (1024, 153)) * (rng.random((1024, 153)) < 0.1)
    name, record = encode(Weight.of("w", (codes * 2.0**-10).astype(np.float32)), Profile.ese(32))
    assert name == "ese"
    assert 4 * codes.size / len(record) == pytest.approx(20, rel=0.25)


@given(st.integers(0, 2**32), st.data())
def test_damaged_words_are_refused_or_mean_something_else(seed, data):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-2048, 2048, (40, 3)) * (rng.random((40, 3)) < 0.1)
    record = bytearray(encode(Weight.of("w", codes.astype(np.float32)), Profile.ese(2), "ese")[1])
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] = data.draw(st.integers(0, 255))
    try:
        content = decode("ese", bytes(record[: data.draw(st.integers(0, len(record)))]), (40, 3))
    except BitwrightError:
        return
    assert content.numbers.shape == (120,)


# --- refusals of section 4


def values_of(kind, numbers):
    return Values.of(np.array(numbers, np.float32)).write(kind, ALL)


def gaps(nonzeros, entries, gap_bytes, values, flags=0):
    return bytes([flags]) + varint(nonzeros) + varint(entries) + gap_bytes + values


def stream(symbols, width):
    return write_stream(np.array(symbols, np.uint16), width, ALL)


def codes(table, symbols, kind=0):
    data = np.array(table, "<f4").tobytes()
    return varint(len(table) - 1) + bytes([kind]) + data + stream(symbols, 3)


def ese(counts, words, elements=2, zigzag=0):
    return varint(elements) + varint(zigzag) + stream(counts, 4) + stream(words, 16)


def runs(sizes, numbers, symbols):
    return b"\x00\x02" + stream(sizes, 8) + values_of(FLOAT32, numbers) + stream(symbols, 8)


ONE = b"\x00" + np.float32(1).tobytes()
BITS32 = np.array([np.inf, -0.0], np.float32)
BROKEN = {
    "flags 0x80": ("sparse", "sparse", b"\x80"),
    "flags 0x60": ("sparse", "sparse", b"\x60"),
    "flags 0x3": ("sparse", "sparse", b"\x03"),
    "9 non-zeros among 8": ("sparse", "sparse", b"\x00" + varint(9)),
    "1 entries for 2": ("sparse", "sparse", b"\x00\x02\x01"),
    "9 entries for 2": ("sparse", "sparse", b"\x00\x02\x09"),
    "a stream is missing": ("stream", "sparse", b"\x00\x02\x02"),
    "an index of 0 bits": ("sparse", "sparse", gaps(2, 2, stream([0, 0], 0), b"")),
    "position 8 of 8": ("sparse", "sparse", gaps(2, 2, stream([0, 7], 3), b"")),
    "0 fillers, 1 expected": ("sparse", "sparse", gaps(1, 2, stream([0, 1], 3), values_of(FLOAT32, [1, 2]))),
    "a filler at the end": ("sparse", "sparse", gaps(1, 2, stream([0, 3], 2), values_of(FLOAT32, [1, 0]))),
    "without the widest gap": ("sparse", "sparse", gaps(1, 2, stream([2, 1], 2), values_of(FLOAT32, [0, 1]))),
    "a zero among the values": ("sparse", "sparse", gaps(2, 2, stream([0, 1], 2), values_of(FLOAT32, [0, 1]))),
    "3 ones in the mask, 2 expected": ("sparse", "sparse", b"\x01\x02" + stream([1, 1, 1, 0, 0, 0, 0, 0], 1)),
    "symbols of 2 bits where 1": ("stream", "sparse", b"\x01\x02" + stream([3] * 8, 2)),
    "not finite": ("value", "dense", b"".join(stream(p, 8) for p in planes(np.repeat(BITS32[:1], 8), FLOAT32))),
    "that is -0.0": ("value", "half", b"".join(stream(p, 8) for p in planes(np.repeat(BITS32[1:], 8), FLOAT16))),
    "not strictly ascending": ("codebook", "codebook", codes([1, 1], [0] * 8)),
    "code 2 where there are 2": ("codebook", "codebook", codes([1, 2], [2] * 8)),
    "list of values of kind 2": ("codebook", "codebook", codes([1, 2], [0] * 8, kind=2)),
    "list of 65537 values": ("codebook", "codebook", varint(65536)),
    "flags 0x4": ("lattice", "signs", b"\x04" + ONE + stream([1] * 8, 1)),
    "flags 0x8": ("lattice", "ternary", b"\x08" + ONE + stream([1] * 8, 1)),
    "flags 0x2": ("lattice", "fixed", b"\x02\x00\x01" + ONE + stream([1] * 8, 1)),
    "magnitudes of kind 2": ("lattice", "signs", b"\x00\x02" + stream([1] * 8, 1)),
    "a magnitude of 0.0": ("lattice", "signs", b"\x00\x00" + bytes(4) + stream([1] * 8, 1)),
    "a magnitude of -1.0": ("lattice", "ternary", b"\x01\x00" + values_of(FLOAT32, [2, -1])),
    "a magnitude of inf": ("lattice", "fixed", b"\x00\x00\x01\x01\x00\x7c" + stream([1] * 8, 1)),
    "symbols of 2 bits where 1 were": ("stream", "signs", b"\x00" + ONE + stream([3] * 8, 2)),
    "a stride of 5": ("lattice", "signs", b"\x02" + ONE + b"\x05\x02\x00"),
    "9 ones in 2 lines of 4": ("lattice", "signs", b"\x02" + ONE + b"\x00\x09\x00"),
    "context payload": ("stream", "signs", b"\x02" + ONE + b"\x00\x04\x08" + bytes(8)),
    "a trit of 3": ("lattice", "ternary", b"\x00" + ONE + stream([3] * 8, 2)),
    "five trits of 243": ("lattice", "ternary", b"\x04" + ONE + stream([243, 0], 8)),
    "a trit beyond the last": ("lattice", "ternary", b"\x04" + ONE + stream([0, 27], 8)),
    "from 0 to 0 with stride 0": ("lattice", "fixed", b"\x00\x00\x00" + ONE + stream([1] * 8, 1)),
    "from 0 to 0 with stride 1099511627776": ("lattice", "fixed", b"\0\0" + varint(1 << 40) + ONE + stream([0] * 8, 1)),
    "from 0 to 16777217": ("lattice", "fixed", b"\x00\x00" + varint((1 << 24) + 1) + ONE + stream([1] * 8, 1)),
    "from -16777217 to": ("lattice", "fixed", b"\x00" + varint((1 << 25) + 1) + b"\x01" + ONE + stream([1] * 8, 1)),
    "3 processing elements for 2 rows": ("sparse", "ese", b"\x03\x00"),
    "0 processing elements": ("sparse", "ese", b"\x00\x00"),
    r"a step of 2\^128": ("sparse", "ese", b"\x01" + varint(256)),
    r"a step of 2\^-150": ("sparse", "ese", b"\x01" + varint(299)),
    "a column with more entries than rows": ("sparse", "ese", ese([2] + [0] * 7, [1, 1])),
    "an entry beyond the rows": ("sparse", "ese", ese([1] + [0] * 7, [1 + 4096])),
    "a filler without the widest": ("sparse", "ese", ese([2, 0, 0, 0], [0, 1], elements=1)),
    "value that is not finite": ("value", "ese", ese([1] + [0] * 7, [2], zigzag=254)),
    "values of kind 2": ("codebook", "product", b"\x02"),
    "runs of 0 columns": ("codebook", "product", b"\x00\x00"),
    "runs of 5 columns, expected 1 to 4": ("codebook", "product", b"\x00\x05"),
    "values of run 0 are not in ascending": (
        "codebook",
        "product",
        runs([1, 0], [2, 1, 2, 1, 5, 5], [0] * 4),
    ),
    "values of run 1 are not in ascending": (
        "codebook",
        "product",
        runs([0, 1], [9, 9, 2, 1, 1, 5], [0] * 4),
    ),
    "a code without a value": ("codebook", "product", runs([0, 0], [1, 2, 3, 4], [1, 0, 0, 0])),
    "a value that is not finite": (
        "value",
        "fixed",
        b"\x00\x10\x01\x00" + np.float32(3e38).tobytes() + stream([1] * 8, 1),
    ),
    "1 bytes left at the end": ("tensor", "codebook", codes([1, 2], [0] * 8) + b"\0"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_records_are_refused(message):
    kind, name, record = BROKEN[message]
    with pytest.raises(BitwrightError, match=message) as caught:
        decode(name, record, (2, 4), "tensor 'w'")
    assert caught.value.kind == kind
    assert "tensor 'w'" in str(caught.value)
    assert "pack the model again" in str(caught.value)


def test_a_filler_of_ese_cannot_end_a_column():
    with pytest.raises(BitwrightError, match="a filler at the end of a column") as caught:
        decode("ese", ese([1], [15 << 12], elements=1), (20, 1))
    assert caught.value.kind == "sparse"


def test_fillers_need_their_own_code():
    """Code 0 is the filler where there are some: code 2 is the second value, code 3 none."""
    record = bytes([CODES << 5]) + varint(1) + varint(2) + stream([1, 0], 1)
    content = decode("sparse", record + codes([5, 6], [0, 2]), (2, 4))
    assert content.numbers.tolist() == [0, 0, 6, 0, 0, 0, 0, 0]
    with pytest.raises(BitwrightError, match="code 3 where there are 2 values"):
        decode("sparse", record + codes([5, 6], [0, 3]), (2, 4))


def test_65536_values_leave_no_code_for_a_filler():
    tensor = np.zeros((2, 300_000), np.float32)
    tensor[0, ::2][:65536] = np.arange(1, 65537)
    tensor[1, -1] = 1
    weight = Weight.of("w", tensor)
    name, record = encode(weight, Profile(positions=("gaps",), values=("codes",), linear_index_bits=8), "sparse")
    assert decode(name, record, tensor.shape).numbers.tolist() == weight.numbers.tolist()


def test_float_planes_put_the_exponent_in_one_byte():
    numbers = np.array([1.0, -1.5], np.float32)  # exponent 127, sign in the lowest bit
    assert [plane.tolist() for plane in planes(numbers, FLOAT32)] == [[0, 1], [0, 0], [0, 128], [127, 127]]
    record = values_of(FLOAT32, numbers)
    assert read_values(Cursor(record), FLOAT32, 2).numbers.tolist() == [1.0, -1.5]
