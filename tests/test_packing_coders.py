"""Streams and coders: exactness, optimality, agreement of the readable and the native coder, safety on any bytes."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.packing import bits, coders, huffman, rans
from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import HUFFMAN, NAMES, RANS, RAW, entropy_bits, read_stream, write_stream

native = pytest.importorskip("bitwright._native")
ALL = frozenset(NAMES.values())
ALPHABETS = st.sampled_from([1, 2, 3, 17, 256, 5000])


@st.composite
def symbol_arrays(draw, most=400):
    """Symbols of all kinds: constant, even, skewed."""
    size, alphabet = draw(st.integers(0, most)), draw(ALPHABETS)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    skew = draw(st.sampled_from([0.3, 1.0, 8.0]))
    return (alphabet * rng.random(size) ** skew).astype(np.uint16)


def counts_of(symbols):
    return np.bincount(symbols, minlength=1)


@given(symbol_arrays(), st.sampled_from([*[frozenset([c]) for c in ALL], ALL]))
def test_a_stream_gives_back_its_symbols(symbols, allowed):
    width = coders.width_of(symbols)
    cursor = Cursor(write_stream(symbols, width, allowed))
    assert read_stream(cursor, len(symbols)).tolist() == symbols.tolist()
    cursor.end()


@given(symbol_arrays())
@example(np.array([0] * 18 + [1] * 110, np.uint16)[np.random.default_rng(1).permutation(128)])
def test_the_cheapest_coder_is_taken(symbols):
    width = coders.width_of(symbols)
    each = [len(write_stream(symbols, width, frozenset([code]))) for code in ALL]
    # A size of rANS is predicted up to what its final states absorb: 16 bits for each lane, one lane in short streams.
    lanes = 1 if len(symbols) < coders._LANES_FROM else 4
    assert len(write_stream(symbols, width, ALL)) <= min(each) + 2 * lanes


@given(symbol_arrays())
def test_readable_and_native_huffman_agree(symbols):
    if not len(symbols) or np.count_nonzero(counts_of(symbols)) > 4096:
        return
    lengths = huffman.code_lengths(counts_of(symbols))
    data = huffman.encode(symbols, lengths)
    assert native.huffman_encode(symbols, lengths) == data
    assert huffman.decode(data, lengths, len(symbols)).tolist() == symbols.tolist()
    assert native.huffman_decode(data, lengths, len(symbols)).tolist() == symbols.tolist()


@given(symbol_arrays(), st.sampled_from([10, 12, 14]), st.sampled_from([1, 2, 4, 8]), st.integers(0, 8))
def test_readable_and_native_rans_agree(symbols, precision, lanes, mantissa):
    if not len(symbols) or np.count_nonzero(counts_of(symbols)) > 1 << precision:
        return
    table, exponents, mantissas = rans.write_frequencies(counts_of(symbols), mantissa)
    freqs = rans.frequencies(exponents, mantissas, mantissa, precision)
    assert rans.read_frequencies(Cursor(table), 16, mantissa, precision).tolist() == freqs.tolist()
    data = rans.encode(symbols, freqs, precision, lanes)
    assert native.rans_encode(symbols, freqs, precision, lanes) == data
    assert rans.decode(data, freqs, precision, lanes, len(symbols)).tolist() == symbols.tolist()
    assert native.rans_decode(data, freqs, precision, lanes, len(symbols)).tolist() == symbols.tolist()


def outcome(decode, *arguments):
    try:
        return decode(*arguments).tolist()
    except ValueError:
        return "refused"


@settings(max_examples=300)
@given(st.binary(max_size=40), st.lists(st.integers(0, 13), max_size=20), st.integers(0, 60))
def test_huffman_decoders_agree_on_any_bytes(data, lengths, count):
    lengths = np.array(lengths, np.uint8)
    assert outcome(native.huffman_decode, data, lengths, count) == outcome(huffman.decode, data, lengths, count)


@settings(max_examples=300)
@given(symbol_arrays(most=60), st.binary(max_size=40), st.integers(0, 8), st.integers(0, 60), st.data())
def test_huffman_decoders_agree_on_damaged_codes(symbols, noise, cut, count, data):
    if not len(symbols) or np.count_nonzero(counts_of(symbols)) > 4096:
        return
    lengths = huffman.code_lengths(counts_of(symbols))
    good = huffman.encode(symbols, lengths)
    damaged = data.draw(st.sampled_from([noise, good[: len(good) - cut], good + noise[:1]]))
    assert outcome(native.huffman_decode, damaged, lengths, count) == outcome(huffman.decode, damaged, lengths, count)


@settings(max_examples=300)
@given(symbol_arrays(most=60), st.integers(0, 70), st.sampled_from([1, 4]), st.data())
def test_rans_decoders_agree_on_damaged_bytes(symbols, count, lanes, data):
    if not len(symbols) or np.count_nonzero(counts_of(symbols)) > 1024:
        return
    _, exponents, mantissas = rans.write_frequencies(counts_of(symbols), 3)
    freqs = rans.frequencies(exponents, mantissas, 3, 10)
    damaged = bytearray(rans.encode(symbols, freqs, 10, lanes))
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = bytes(damaged[: len(damaged) - data.draw(st.sampled_from([0, 0, 1, 2]))])
    results = [outcome(decode, damaged, freqs, 10, lanes, count) for decode in (native.rans_decode, rans.decode)]
    assert results[0] == results[1]


@given(symbol_arrays(most=2000))
def test_huffman_is_complete_and_within_a_bit_of_the_entropy(symbols):
    counts = counts_of(symbols)
    if np.count_nonzero(counts) < 2 or np.count_nonzero(counts) > 4096:
        return
    lengths = huffman.code_lengths(counts)
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1
    mean, entropy = counts @ lengths.astype(float) / counts.sum(), entropy_bits(counts) / counts.sum()
    assert entropy - 1e-9 <= mean < entropy + 1


@pytest.mark.parametrize(("counts", "longest"), [([1, 1, 2, 3, 5, 8, 13, 21], 4), ([5, 1, 1, 1, 100], 3), ([1] * 8, 3)])
def test_limited_lengths_are_optimal(counts, longest):
    """Against all length vectors that satisfy Kraft's inequality."""
    lengths = huffman.code_lengths(np.array(counts), longest)

    def best(remaining, room):
        if not remaining:
            return 0.0
        options = [2**-length for length in range(1, longest + 1)]
        tries = [
            (-math.log2(o)) * remaining[0] + best(remaining[1:], room - o)
            for o in options
            if o <= room - 1e-12 or o == room
        ]
        return min(tries, default=math.inf)

    assert lengths.max() <= longest
    assert np.array(counts) @ lengths.astype(int) == best(sorted(counts, reverse=True)[:8], 1.0)


def test_fibonacci_counts_are_cut_to_twelve_bits():
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    lengths = huffman.code_lengths(np.array(counts))
    assert lengths.max() == 12
    assert huffman.kraft_holds(lengths)


def test_too_many_symbols_for_huffman():
    with pytest.raises(ValueError, match="4097 symbols do not fit"):
        huffman.code_lengths(np.ones(4097))


def test_a_skewed_stream_goes_below_the_one_bit_of_huffman():
    symbols = (np.random.default_rng(0).random(100_000) < 0.02).astype(np.uint16)
    entropy = entropy_bits(np.bincount(symbols)) / 8
    assert len(write_stream(symbols, 1, frozenset([RANS]))) < 1.005 * entropy + 16
    assert len(write_stream(symbols, 1, frozenset([HUFFMAN]))) > 100_000 / 8


@given(st.lists(st.integers(0, 15), max_size=300), st.integers(0, 40))
def test_tables_come_back(numbers, zeros):
    numbers = np.array(numbers + [0] * zeros + [3], np.uint8)
    cursor = Cursor(bits.write_table(numbers))
    assert bits.read_table(cursor, 16).tolist() == numbers.tolist()
    cursor.end()


@given(st.integers(0, 16), st.integers(0, 100), st.integers(0, 2**32))
def test_raw_bits_are_low_first(width, count, seed):
    symbols = np.random.default_rng(seed).integers(0, 1 << width, count).astype(np.uint16)
    data = bits.pack_bits(symbols, width) if width else b""
    value = int.from_bytes(data, "little")
    assert [(value >> (i * width)) & ((1 << width) - 1) for i in range(count)] == symbols.tolist()
    assert bits.unpack_bits(data, width, count).tolist() == symbols.tolist()


@given(st.integers(0, 2**42 - 1))
def test_varints_come_back(value):
    cursor = Cursor(varint(value))
    assert cursor.varint() == value
    cursor.end()


def test_varint_limits():
    with pytest.raises(ValueError, match="varint"):
        varint(1 << 42)
    for data in (b"\x80\x00", b"\x80" * 6 + b"\x01"):
        with pytest.raises(BitwrightError, match="varint is longer"):
            Cursor(data).varint()


def stream(code, width, payload):
    return bytes([code + 8 * width]) + varint(len(payload)) + payload


TWO_CODES = bits.write_table(np.array([1, 1], np.uint8))
RANS_HEAD = bytes([10, 0]) + bits.write_table(np.array([1, 1], np.uint8))
STATE = (1 << 16).to_bytes(4, "little")
BROKEN = {
    "unknown coder 7": (bytes([7 + 8]), 1),
    "unknown coder": (bytes([8 * 17]), 1),
    "1 bytes expected": (b"", 1),
    "a stream is missing": (b"", None),
    "2 bytes expected": (bytes([RAW + 8 * 4, 0]), 3),
    "padding of raw": (bytes([RAW + 8 * 4, 0xF1]), 1),
    "symbols of 5 bits where 4": (bytes([RAW + 8 * 5, 0, 0]), 2),
    "9 bytes expected at byte 2, 0 are left": (bytes([HUFFMAN + 8, 9]), 4),
    "table of 4 symbols where symbols have 1": (stream(HUFFMAN, 1, b"\x04\x11\x11"), 4),
    "table ends with symbols": (stream(HUFFMAN, 2, b"\x03\x11\x00"), 4),
    "run of zeros leaves": (stream(HUFFMAN, 2, b"\x03\xf0\x0f\x01"), 4),
    "padding of a table": (stream(HUFFMAN, 2, b"\x03\x11\x12"), 4),
    "Kraft": (stream(HUFFMAN, 1, b"\x02\x21\x00"), 4),
    "Huffman payload is too short": (stream(HUFFMAN, 1, TWO_CODES), 4),
    "Huffman payload is too long": (stream(HUFFMAN, 1, TWO_CODES + b"\x00\x00"), 4),
    "rANS with precision 7": (stream(RANS, 1, bytes([7, 0])), 4),
    "rANS with precision 10, 16 lanes": (stream(RANS, 1, bytes([10 + 64, 0])), 4),
    "0 bits of mantissa": (stream(RANS, 1, bytes([10 + 64, 0])), 4),
    "rANS table with 0 symbols": (stream(RANS, 1, bytes([10, 0, 0])), 4),
    "rANS payload is too short": (stream(RANS, 1, RANS_HEAD + b"\x00"), 4),
    "rANS state is too small": (stream(RANS, 1, RANS_HEAD + b"\x00\x00\x00\x00"), 4),
    "initial state": (stream(RANS, 1, RANS_HEAD + b"\xff\xff\xff\x00" + b"\x00\x00"), 2),
    "rANS payload is too long": (stream(RANS, 1, RANS_HEAD + STATE + b"\x00\x00"), 0),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_streams_are_refused(message):
    data, count = BROKEN[message]
    with pytest.raises(BitwrightError, match=message) as caught:
        coders.stream_width(Cursor(data)) if count is None else read_stream(Cursor(data), count, width=4)
    assert caught.value.kind == "stream"


def test_an_unknown_coder_lists_the_known():
    with pytest.raises(BitwrightError, match=r"unknown coder 'zip'.*huffman, rans, raw"):
        coders.coder_codes(["zip"])


def test_without_the_extension_the_readable_coders_take_over(monkeypatch):
    symbols = np.random.default_rng(1).integers(0, 9, 500).astype(np.uint16)
    for code in ALL:
        fast = write_stream(symbols, 4, frozenset([code]))
        with monkeypatch.context() as context:
            context.setattr(coders, "_native", None)
            assert write_stream(symbols, 4, frozenset([code])) == fast
            assert read_stream(Cursor(fast), 500).tolist() == symbols.tolist()


def test_native_coders_check_their_arguments():
    one = np.zeros(1, np.uint16)
    with pytest.raises(ValueError, match="precision"):
        native.rans_decode(b"", one, 20, 1, 1)
    with pytest.raises(ValueError, match="lanes"):
        native.rans_decode(b"", one, 10, 3, 1)
    with pytest.raises(ValueError, match="sum to a whole"):
        native.rans_decode(bytes(8), one, 10, 1, 1)
    with pytest.raises(ValueError, match="65536"):
        native.huffman_decode(b"", np.zeros(65537, np.uint8), 1)
    with pytest.raises(ValueError, match="no Huffman code"):
        native.huffman_encode(np.array([5], np.uint16), np.array([1, 1], np.uint8))
    with pytest.raises(ValueError, match="no rANS frequency"):
        native.rans_encode(np.array([5], np.uint16), np.array([1024], np.uint16), 10, 1)
