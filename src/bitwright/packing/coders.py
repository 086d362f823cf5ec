"""Streams: symbols to bytes by the cheapest coder, and back (FORMAT.md section 5).

The coders themselves are native; `huffman.py`, `rans.py` and `context.py` hold the same in readable Python and take
over where the extension is missing. Both give and take the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError, unknown
from bitwright.packing import bits, huffman, rans
from bitwright.packing.bits import Cursor, varint

_native: Any
try:
    from bitwright import _native
except ImportError:  # a platform without the extension decodes slowly, but it decodes
    _native = None


def native() -> Any:
    """The extension module, or None."""
    return _native


RAW, HUFFMAN, RANS = 0, 1, 2
NAMES = {"raw": RAW, "huffman": HUFFMAN, "rans": RANS}
WIDEST = 16
_MANY_SYMBOLS = 4096  # above it, one rANS table layout is tried instead of all: each try walks over the symbols
_LANES_FROM = 1 << 15  # shorter streams get one lane: four states cost 12 bytes more and decode in no time anyway


@dataclass(frozen=True)
class StreamInfo:
    """What `inspect` wants to know of a stream: `entropy` is the order-0 entropy of its symbols, in bits in all."""

    coder: str
    width: int
    count: int
    nbytes: int
    entropy: float


def entropy_bits(counts: np.ndarray) -> float:
    """Order-0 entropy of symbols with these counts, all together, in bits."""
    used = counts[counts > 0].astype(np.float64)
    total = used.sum()
    return float(total * math.log2(total) - (used * np.log2(used)).sum()) if total else 0.0


def estimate_bits(counts: np.ndarray, width: int) -> float:
    """About what a stream will take with the best coder, table included; good enough to make a short list."""
    table = 5.0 * np.count_nonzero(counts) + 40
    return 16 + min(float(width * counts.sum()), entropy_bits(counts) + table)


def width_of(symbols: np.ndarray) -> int:
    """The smallest symbol width that holds all symbols."""
    return int(symbols.max(initial=0)).bit_length()


def coder_codes(names: Iterable[str]) -> frozenset[int]:
    """The numbers of coders given by name; an unknown name lists the known ones."""
    for name in names:
        if name not in NAMES:
            raise unknown("coder", name, NAMES)
    return frozenset(NAMES[name] for name in names)


def write_stream(symbols: np.ndarray, width: int, coders: Collection[int]) -> bytes:
    """The stream of `symbols` (each below 2^width) with the cheapest of `coders`, raw where none of them can."""
    symbols = np.ascontiguousarray(symbols, np.uint16)
    counts = np.bincount(symbols, minlength=1) if len(symbols) else np.zeros(1, np.int64)
    plans = [plan for code in sorted(coders) if (plan := _PLANS[code](symbols, counts, width)) is not None]
    if not plans:
        plans = [_plan_raw(symbols, counts, width)]
    _, code, make = min(plans, key=lambda plan: plan[:2])
    payload = make()
    head = bytes([code + 8 * width])
    return head + payload if code == RAW else head + varint(len(payload)) + payload


def read_stream(
    cursor: Cursor, count: int, trace: list[StreamInfo] | None = None, width: int | None = None
) -> np.ndarray:
    """The `count` symbols (uint16) of the stream at the cursor. `width`: refuse wider symbols.

    `count` must have been checked against the size of the tensor before: it is what gets allocated.
    """
    start, head = cursor.position, cursor.u8()
    code, stored_width = head & 7, head >> 3
    if code not in _READERS or stored_width > WIDEST:
        raise cursor.fail(f"unknown coder {code} or symbol width {stored_width}")
    if width is not None and stored_width > width:
        raise cursor.fail(f"symbols of {stored_width} bits where {width} were expected")
    size = (count * stored_width + 7) // 8 if code == RAW else cursor.varint()
    payload = Cursor(cursor.take(size), cursor.where)
    try:
        symbols = _READERS[code](payload, stored_width, count)
    except ValueError as error:
        raise cursor.fail(str(error)) from None
    if trace is not None:
        name = next(n for n, c in NAMES.items() if c == code)
        counts = np.bincount(symbols, minlength=1)
        trace.append(StreamInfo(name, stored_width, count, cursor.position - start, entropy_bits(counts)))
    return symbols


def stream_width(cursor: Cursor) -> int:
    """The symbol width of the stream that comes next, without moving."""
    if cursor.position >= len(cursor.data):
        raise cursor.fail("a stream is missing")
    return cursor.data[cursor.position] >> 3


Plan = tuple[float, int, Callable[[], bytes]]  # bytes it will take, coder, how to make it


def _plan_raw(symbols: np.ndarray, counts: np.ndarray, width: int) -> Plan:
    return (len(symbols) * width + 7) // 8, RAW, lambda: bits.pack_bits(symbols, width) if width else b""


def _plan_huffman(symbols: np.ndarray, counts: np.ndarray, width: int) -> Plan | None:
    if not len(symbols) or np.count_nonzero(counts) > 1 << huffman.LONGEST:
        return None
    lengths = huffman.code_lengths(counts)
    table = bits.write_table(lengths)
    size = 2 + len(table) + (int(counts @ lengths.astype(np.int64)) + 7) // 8
    encode = _native.huffman_encode if _native else huffman.encode
    return size, HUFFMAN, lambda: table + encode(symbols, lengths)


def _plan_rans(symbols: np.ndarray, counts: np.ndarray, width: int) -> Plan | None:
    used = np.count_nonzero(counts)
    if not used or not len(symbols) or used > 1 << rans.HIGHEST_PRECISION:
        return None
    log_lanes = 2 if len(symbols) >= _LANES_FROM else 0
    best: tuple[float, bytes, np.ndarray, int] | None = None
    for mantissa in (4,) if used > _MANY_SYMBOLS else (0, 1, 2, 3, 4, 6, 8):
        table, exponents, mantissas = rans.write_frequencies(counts, mantissa)
        for precision in (10, 12, 14):
            if used > 1 << precision:
                continue
            freqs = rans.frequencies(exponents, mantissas, mantissa, precision)
            size = len(table) + _cross_entropy(counts, freqs, precision) / 8
            if best is None or size < best[0]:
                best = size, bytes([precision + 16 * log_lanes, mantissa]) + table, freqs, precision
    assert best is not None
    size, head, freqs, precision = best
    lanes, encode = 1 << log_lanes, _native.rans_encode if _native else rans.encode
    return size + 4 + 4 * lanes, RANS, lambda: head + encode(symbols, freqs, precision, lanes)


def _cross_entropy(counts: np.ndarray, freqs: np.ndarray, precision: int) -> float:
    used = counts > 0
    return float((counts[used] * (precision - np.log2(freqs[used].astype(np.float64)))).sum())


def _read_raw(payload: Cursor, width: int, count: int) -> np.ndarray:
    data = payload.take(len(payload.data))
    if not bits.padding_is_zero(data, count * width):
        raise ValueError("the padding of raw symbols is not zero")
    return bits.unpack_bits(data, width, count)


def _read_huffman(payload: Cursor, width: int, count: int) -> np.ndarray:
    lengths = bits.read_table(payload, width)
    data = payload.take(len(payload.data) - payload.position)
    return (_native.huffman_decode if _native else huffman.decode)(data, lengths, count)


def _read_rans(payload: Cursor, width: int, count: int) -> np.ndarray:
    head, mantissa = payload.u8(), payload.u8()
    precision, log_lanes = head & 15, head >> 4
    if not rans.LOWEST_PRECISION <= precision <= rans.HIGHEST_PRECISION or log_lanes > 3 or mantissa > 8:
        raise ValueError(f"rANS with precision {precision}, {1 << log_lanes} lanes and {mantissa} bits of mantissa")
    freqs = rans.read_frequencies(payload, width, mantissa, precision)
    data = payload.take(len(payload.data) - payload.position)
    return (_native.rans_decode if _native else rans.decode)(data, freqs, precision, 1 << log_lanes, count)


_PLANS: dict[int, Callable[[np.ndarray, np.ndarray, int], Plan | None]] = {
    RAW: _plan_raw,
    HUFFMAN: _plan_huffman,
    RANS: _plan_rans,
}
_READERS: dict[int, Callable[[Cursor, int, int], np.ndarray]] = {
    RAW: _read_raw,
    HUFFMAN: _read_huffman,
    RANS: _read_rans,
}
__all__ = ["NAMES", "BitwrightError", "StreamInfo", "read_stream", "write_stream"]
