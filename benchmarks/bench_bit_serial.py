"""Time against bits where activations are taken bit by bit: 3x3 convolutions of signs with 1 to 4 bits on popcounts.

Stripes (Judd et al. 2016; `measure.bit_costs.stripes_speedup`) counts p bits as p / 16 of the time of a machine with
16 bits at once. The columns show what a processor makes of that: time for p bits beside 1 bit, and beside the int8
kernels of the same instruction set, which take 8 bits at once whatever they hold.

    python benchmarks/bench_bit_serial.py [--only 64@56] [--threads 1] [--isa avx2] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench_binary import SHAPES
from bitwright import _native
from contest import INPUTS, Case, main, options, ours

WIDTHS = (1, 2, 3, 4)


def operations(channels: int, size: int, random: np.random.Generator) -> dict[str, tuple[Any, Any]]:
    """By name: the convolution, to floats, and what encodes its input."""
    margins = dict.fromkeys(("top", "left", "bottom", "right"), 1)
    window = _native.Window((size, size), channels, channels, (3, 3), padding=(1, 1))
    weights = random.choice(np.array([-1, 1], np.int8), (channels, channels, 3, 3))
    finish = _native.Finish(channels)
    found: dict[str, tuple[Any, Any]] = {}
    for bits in WIDTHS:
        layout = _native.CodeLayout(size, size, channels, planes=bits, **margins)
        encoder = _native.EncodeOp(_native.Encode("quantize", layout, high=2**bits - 1))
        conv = _native.BitConvOp(window, layout, 0, 1, weights, finish=finish)
        found[f"{bits} bit{'s' if bits > 1 else ''}"] = conv, encoder
    for bits in WIDTHS[1:3]:
        odd = np.arange(1 - 2**bits, 2**bits, 2, dtype=np.int8)
        weights_of_bits = random.choice(odd, (channels, channels, 3, 3))
        layout = _native.CodeLayout(size, size, channels, planes=bits, **margins)
        encoder = _native.EncodeOp(_native.Encode("quantize", layout, high=2**bits - 1))
        conv = _native.BitConvOp(window, layout, 0, 1, weights_of_bits, finish=finish)
        found[f"{bits} by {bits} bits"] = conv, encoder
    layout = _native.CodeLayout(size, size, channels, planes=0, **margins)
    encoder = _native.EncodeOp(_native.Encode("quantize", layout, high=2 ** WIDTHS[-1] - 1))
    found["int8"] = _native.ByteConvOp(window, layout, 0, weights, finish=finish), encoder
    return found


def convolution(channels: int, size: int, threads: int, random: np.random.Generator) -> Case:
    made = operations(channels, size, random)
    images = [random.integers(0, 16, (size, size, channels)).astype(np.float32) for _ in range(INPUTS)]

    def run(name: str) -> np.ndarray:
        conv, encoder = made[name]
        return _native.run_operation(conv, [_native.run_operation(encoder, [images[0]])[0]])[0]

    def check() -> None:
        np.testing.assert_array_equal(run("4 bits"), run("int8"))

    timers = {}
    for name, (conv, encoder) in made.items():
        codes = [_native.run_operation(encoder, [image])[0] for image in images]
        timers[name] = ours(conv, [[c] for c in codes], 1, threads)
    return Case(f"{channels}@{size}", 2.0 * size * size * channels * channels * 9, timers, check)


def cases(chosen: argparse.Namespace) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for channels, size in SHAPES:
        yield convolution(channels, size, chosen.threads, random)


if __name__ == "__main__":
    arguments = options(__doc__ or "").parse_args()
    best = "avx512vpopcntdq" if "avx512vpopcntdq" in _native.isa_names() else _native.isa_names()[-1]
    arguments.isa = arguments.isa or best  # beyond it, tiles multiply bits as bytes
    raise SystemExit(main(__doc__ or "", cases, arguments))
