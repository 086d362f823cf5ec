"""Static range asymmetric numeral systems: a readable coder beside the native one, and its compact frequency table.

The state x of a lane holds the message: pushing a symbol of frequency f (of 2^p) and start c makes

    x -> floor(x / f) * 2^p + c + x mod f

so x grows by log2(2^p / f) bits, the symbol's information, without a floor of one bit per symbol. FORMAT.md 5.4.
Duda, "Asymmetric numeral systems", arXiv 1311.2540; interleaving: Giesen, arXiv 1402.3392.
"""

from __future__ import annotations

import numpy as np

from bitwright.packing.bits import BitCursor, BitWriter, Cursor, read_table, write_table

FLOOR = 1 << 16  # states live in [2^16, 2^32), words have 16 bits
LOWEST_PRECISION, HIGHEST_PRECISION = 8, 14


def quantise(counts: np.ndarray, mantissa: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts as (exponent 0..15, mantissa) of `(2^mantissa + v) * 2^(exponent-1)`, exponent 0 for a count of 0.

    The counts are scaled so that the largest gets exponent 15 if it has that many bits.
    """
    largest = int(counts.max(initial=1))
    shift = max(0, largest.bit_length() - 15)
    scaled = np.maximum((counts + (1 << shift >> 1)) >> shift, counts > 0).astype(np.int64)
    scaled = np.minimum(scaled, (1 << 15) - 1)
    exponents = np.zeros(len(counts), np.uint8)
    mantissas = np.zeros(len(counts), np.int64)
    for s in np.flatnonzero(scaled).tolist():
        weight = int(scaled[s])
        e = weight.bit_length()
        rounded = round((weight << mantissa) / (1 << (e - 1)))
        if rounded >> (mantissa + 1) and e < 15:
            e, rounded = e + 1, 1 << mantissa
        exponents[s], mantissas[s] = e, min(rounded, (2 << mantissa) - 1) - (1 << mantissa)
    return exponents, mantissas


def frequencies(exponents: np.ndarray, mantissas: np.ndarray, mantissa: int, precision: int) -> np.ndarray:
    """Frequencies (uint16) that sum to 2^precision, as FORMAT.md 5.4 derives them from the table."""
    used = exponents > 0
    shifts = np.where(used, exponents.astype(np.int64) - 1, 0)
    weights = np.where(used, ((1 << mantissa) + mantissas) << shifts, 0)
    total = max(1, int(weights.sum()))
    result = np.where(used, np.maximum(1, (weights << precision) // total), 0)
    missing = (1 << precision) - int(result.sum())
    while missing:
        largest = int(result.argmax())
        change = missing if missing > 0 else -min(-missing, int(result[largest]) // 2)
        result[largest] += change
        missing -= change
    return result.astype(np.uint16)


def write_frequencies(counts: np.ndarray, mantissa: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The table's bytes for `counts`, with the exponents and mantissas that a reader will find in it."""
    exponents, mantissas = quantise(counts, mantissa)
    writer = BitWriter()
    for v in mantissas[exponents > 0].tolist():
        writer.write(v, mantissa)
    return write_table(exponents) + writer.bytes(), exponents, mantissas


def read_frequencies(cursor: Cursor, width: int, mantissa: int, precision: int) -> np.ndarray:
    """The frequencies of the table at the cursor."""
    exponents = read_table(cursor, width)
    used = np.flatnonzero(exponents)
    if not 1 <= len(used) <= 1 << precision:
        raise cursor.fail(f"a rANS table with {len(used)} symbols for precision {precision}")
    mantissas, bits = np.zeros(len(exponents), np.int64), BitCursor(cursor)
    for s in used.tolist():
        mantissas[s] = bits.read(mantissa)
    bits.end()
    return frequencies(exponents, mantissas, mantissa, precision)


def encode(symbols: np.ndarray, freqs: np.ndarray, precision: int, lanes: int) -> bytes:
    """States and words of `symbols`, which are pushed from the last to the first."""
    starts = np.cumsum(np.append(0, freqs.astype(np.int64)))
    states, words = [FLOOR] * lanes, []
    for i in reversed(range(len(symbols))):
        s, x = int(symbols[i]), states[i % lanes]
        f = int(freqs[s])
        if x >= (FLOOR >> precision << 16) * f:
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // f << precision) + x % f + int(starts[s])
    return np.array(states, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()


def decode(data: bytes, freqs: np.ndarray, precision: int, lanes: int, count: int) -> np.ndarray:
    """The `count` symbols of `data` as uint16; ValueError where the bytes break FORMAT.md 5.4."""
    if len(data) < 4 * lanes or len(data) % 2:
        raise ValueError("rANS payload is too short or not made of words")
    states = np.frombuffer(data, "<u4", lanes).tolist()
    words = iter(np.frombuffer(data, "<u2", offset=4 * lanes).tolist())
    if min(states) < FLOOR:
        raise ValueError("rANS state is too small")
    symbol_of_slot = np.repeat(np.arange(len(freqs)), freqs)
    starts = np.cumsum(freqs.astype(np.int64)) - freqs
    symbols = np.empty(count, np.uint16)
    for i in range(count):
        x = states[i % lanes]
        slot = x & ((1 << precision) - 1)
        s = int(symbol_of_slot[slot])
        x = int(freqs[s]) * (x >> precision) + slot - int(starts[s])
        if x < FLOOR:
            word = next(words, None)
            if word is None:
                raise ValueError("rANS payload is too short")
            x = x << 16 | word
        symbols[i], states[i % lanes] = s, x
    if next(words, None) is not None or any(x != FLOOR for x in states):
        raise ValueError("rANS payload does not end in the initial state")
    return symbols
