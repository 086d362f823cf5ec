"""Speed of sums in 16 bits, where they are known to fit, beside 32 bits: int8 convolutions with AVX2 alone.

Cases are 3x3 convolutions, as many channels out as in, of 2-bit codes with weights from -3 to 3: no sum of theirs can
leave 16 bits. "32 bits" is told that codes may be up to 255, and computes the same numbers.

    python benchmarks/bench_accumulators.py [--only 64@56] [--threads 1] [--isa avx512] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from bench_binary import SHAPES
from bitwright import _native
from contest import INPUTS, Case, Claim, main, options, ours

NARROW, WIDE = "16 bits", "32 bits"
CODES = 4


def convolution(channels: int, size: int, threads: int, random: np.random.Generator) -> Case:
    margins = dict.fromkeys(("top", "left", "bottom", "right"), 1)
    layout = _native.CodeLayout(size, size, channels, planes=0, **margins)
    window = _native.Window((size, size), channels, channels, (3, 3), padding=(1, 1))
    weight = random.integers(-3, 4, (channels, channels, 3, 3)).astype(np.int8)
    multiplier = random.random(channels, np.float32)
    kernels = {}
    for name, largest in ((NARROW, CODES - 1), (WIDE, 255)):
        encode = _native.Encode("quantize", layout, low=0, high=CODES - 1)
        finish = _native.Finish(channels, multiplier=multiplier, out=False, encode=encode)
        kernels[name] = _native.ByteConvOp(window, layout, 0, weight, finish=finish, largest=largest)
    encoder = _native.EncodeOp(_native.Encode("quantize", layout, low=0, high=CODES - 1))
    images = [random.integers(0, CODES, (size, size, channels)).astype(np.float32) for _ in range(INPUTS)]
    codes = [_native.run_operation(encoder, [image])[0] for image in images]

    def check() -> None:
        found = [_native.run_operation(kernel, [codes[0]])[0] for kernel in kernels.values()]
        np.testing.assert_array_equal(*found)

    return Case(
        f"{channels}@{size}",
        2.0 * size * size * channels * channels * 9,
        {name: ours(kernel, [[c] for c in codes], 1, threads) for name, kernel in kernels.items()},
        check,
        (Claim(1.4, (WIDE,), NARROW),),
    )


def cases(chosen: argparse.Namespace) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for channels, size in SHAPES:
        yield convolution(channels, size, chosen.threads, random)


if __name__ == "__main__":
    arguments = options(__doc__ or "").parse_args()
    arguments.isa = arguments.isa or "avx2"
    raise SystemExit(main(__doc__ or "", cases, arguments))
