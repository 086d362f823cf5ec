"""Entropy coders: exactness first, then bits per symbol beside the entropy, then symbols per second on one core.

    python benchmarks/bench_coders.py

The claim is Huffman decoding of at least 100 million symbols per second. Symbols: 20 million of a rounded normal
distribution over 16, 32 and 256 values, new for every alphabet. Times are processor time of the one thread (so other
processes on the machine matter less), medians of seven runs with their spread (largest minus smallest over median).
Beside them: the share of what this core copies in memory, counted in the two bytes per decoded symbol, and zlib with
Huffman coding alone, with how many times its speed each coder has.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import astuple

import numpy as np

import peak
from bitwright import _native
from bitwright.packing import context, huffman, rans
from bitwright.packing.coders import entropy_bits

COUNT, RUNS, CHECKED = 20_000_000, 7, 20_000
CLAIM = 100e6


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of processor time, and spread relative to it."""
    seconds = []
    for _ in range(RUNS):
        start = time.thread_time()
        function()
        seconds.append(time.thread_time() - start)
    median = statistics.median(seconds)
    return median, (max(seconds) - min(seconds)) / median


class Table:
    """Prints a line per coder. `peer` is the speed of zlib on the same symbols."""

    def __init__(self) -> None:
        self.copied, self.peer = peak.copied_bytes(2 * COUNT), 0.0
        names = f"{'bits':>8} {'entropy':>8} {'M/s':>8} {'spread':>8} {'of copy':>8} {'x zlib':>8}"
        print(f"{'coder, alphabet':28} {names}")

    def show(self, name: str, count: int, bits: float, entropy: float, decode: Callable[[], object]) -> float:
        """Time and print; symbols per second."""
        seconds, spread = timed(decode)
        speed = count / seconds
        ratio = f"{speed / self.peer:8.2f}" if self.peer else ""
        rates = f"{speed / 1e6:8.1f} {spread:8.0%} {2 * speed / self.copied:8.1%} {ratio}"
        print(f"{name:28} {bits:8.4f} {entropy:8.4f} {rates}", flush=True)
        return speed

    def show_peer(self, symbols: np.ndarray, entropy: float) -> None:
        """zlib's own Huffman coding, which has codes of up to 15 bits, without matches."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
        plain = symbols.astype(np.uint8).tobytes()
        data = packer.compress(plain) + packer.flush()
        assert zlib.decompress(data, -15) == plain
        name, bits = f"zlib, Huffman only {symbols.max() + 1}", 8 * len(data) / COUNT
        self.peer = 0.0
        self.peer = self.show(name, COUNT, bits, entropy, lambda: zlib.decompress(data, -15, COUNT))


def bench_huffman(table: Table, symbols: np.ndarray, entropy: float) -> float:
    """Decode speed, after comparing with the readable decoder."""
    lengths = huffman.code_lengths(np.bincount(symbols))
    part = _native.huffman_encode(symbols[:CHECKED], lengths)
    assert (huffman.decode(part, lengths, CHECKED) == symbols[:CHECKED]).all()
    data = _native.huffman_encode(symbols, lengths)
    assert (_native.huffman_decode(data, lengths, COUNT) == symbols).all()
    bits = 8 * len(data) / COUNT
    name = f"huffman {len(lengths)}"
    return table.show(name, COUNT, bits, entropy, lambda: _native.huffman_decode(data, lengths, COUNT))


def bench_rans(table: Table, symbols: np.ndarray, entropy: float, lanes: int) -> None:
    """The same for rANS."""
    _, exponents, mantissas = rans.write_frequencies(np.bincount(symbols), 4)
    freqs = rans.frequencies(exponents, mantissas, 4, 12)
    part = _native.rans_encode(symbols[:CHECKED], freqs, 12, lanes)
    assert (rans.decode(part, freqs, 12, lanes, CHECKED) == symbols[:CHECKED]).all()
    data = _native.rans_encode(symbols, freqs, 12, lanes)
    assert (_native.rans_decode(data, freqs, 12, lanes, COUNT) == symbols).all()
    name = f"rans {len(freqs)}, {lanes} lanes"
    table.show(name, COUNT, 8 * len(data) / COUNT, entropy, lambda: _native.rans_decode(data, freqs, 12, lanes, COUNT))


def bench_context(table: Table, density: float) -> None:
    """Elements per second of a random sparse grid, codes included."""
    rng = np.random.default_rng(0)
    grid = np.where(rng.random((500, 800)) < density, rng.integers(1, 9, (500, 800)), 0).astype(np.int16).reshape(-1)
    nonzero = np.count_nonzero(grid)
    shape = context.Shape(500, 800, 4, 3, int(nonzero))
    data = _native.context_encode(grid, *astuple(shape))
    assert (_native.context_decode(data, *astuple(shape)) == grid).all()
    entropy = entropy_bits(np.bincount(grid)) / len(grid)
    name = f"context, {100 * density:.0f} % of elements"
    bits = 8 * len(data) / len(grid)
    table.show(name, len(grid), bits, entropy, lambda: _native.context_decode(data, *astuple(shape)))


def main() -> None:
    """Print the table; fail where the claim does not hold."""
    table, speeds = Table(), []
    for alphabet in (16, 32, 256):
        normal = np.random.default_rng(alphabet).normal(alphabet / 2, alphabet / 8, COUNT)
        symbols = np.clip(normal, 0, alphabet - 1).astype(np.uint16)
        entropy = entropy_bits(np.bincount(symbols)) / COUNT
        table.show_peer(symbols, entropy)
        speeds.append(bench_huffman(table, symbols, entropy))
        for lanes in (1, 4):
            bench_rans(table, symbols, entropy, lanes)
    table.peer = 0.0
    for density in (0.02, 0.1):
        bench_context(table, density)
    print(f"Huffman: at least {min(speeds) / 1e6:.0f} million symbols/s decoded, {CLAIM / 1e6:.0f} claimed")
    if min(speeds) < CLAIM:
        raise SystemExit("the claim does not hold on this machine, or it was busy")


if __name__ == "__main__":
    main()
