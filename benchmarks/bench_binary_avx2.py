"""Speed of popcount convolutions without a popcount instruction: our AVX2 beside the usual one, and beside float32.

AVX2 looks up the counts of four bits in tables. Ours chooses the table by the activations of two pixels, so that one
look-up counts for both; "plain" combines first and looks every half of a byte up in one table (what differs is only the
kernel: same tasks, same finish). Cases are 3x3 sign convolutions, as many channels out as in, whose result is a sign
again; a linear layer of one row; and the encoding of floats as signs, in Gnumbers/s rather than Gop/s. The share is
that of the same look-ups and additions on registers. float32 has all instructions of the machine.

    python benchmarks/bench_binary_avx2.py [--only 64@56] [--threads 1] [--isa avx512] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from bench_binary import BITS, SHAPES, Convolution, float_peers, layout
from bitwright import _native
from contest import FLOAT_PEERS, INPUTS, Case, Claim, main, options, ours, torch_calls

PLAIN = "plain AVX2"


def to_bits(conv: Convolution, kernel: str) -> _native.BitConvOp:
    encode = _native.Encode("sign", layout(conv.channels, conv.size), **conv.affine)
    finish = _native.Finish(conv.channels, out=False, encode=encode)
    x = layout(conv.channels, conv.size)
    return _native.BitConvOp(conv.window, x, -1, 2, conv.weight, finish=finish, kernel=kernel)


def assert_same(a: _native.Operation, b: _native.Operation, inputs: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(_native.run_operation(a, inputs)[0], _native.run_operation(b, inputs)[0])


def convolution(channels: int, size: int, threads: int, random: np.random.Generator) -> Case:
    conv = Convolution(channels, size, 1, 1, random)
    kernels = {BITS: to_bits(conv, ""), PLAIN: to_bits(conv, "plain avx2")}

    def check() -> None:
        conv.check()
        assert_same(kernels[BITS], kernels[PLAIN], [conv.codes[0]])

    return Case(
        f"{channels}@{size}",
        2.0 * size * size * channels * channels * 9,
        {name: ours(k, [[c] for c in conv.codes], 1, threads) for name, k in kernels.items()}
        | float_peers(conv, threads),
        check,
        (Claim(1.5, (PLAIN,), BITS),),
        {BITS: _native.popcount_peak() * threads},
    )


def linear(inputs: int, outputs: int, threads: int, random: np.random.Generator) -> Case:
    import torch

    x = _native.CodeLayout(1, 1, inputs)
    weight = random.choice(np.array([-1, 1], np.int8), (outputs, inputs, 1, 1))
    window, finish = _native.Window((1, 1), inputs, outputs), _native.Finish(outputs)
    kernels = {
        name: _native.BitConvOp(window, x, -1, 2, weight, finish=finish, kernel=kernel)
        for name, kernel in ((BITS, ""), (PLAIN, "plain avx2"))
    }
    rows = [random.standard_normal((1, inputs)).astype(np.float32) for _ in range(INPUTS)]
    encoder = _native.EncodeOp(_native.Encode("sign", x))
    codes = [_native.run_operation(encoder, [row])[0] for row in rows]
    w = torch.from_numpy(weight.reshape(outputs, inputs).astype(np.float32))
    return Case(
        f"linear {inputs} to {outputs}",
        2.0 * inputs * outputs,
        {name: ours(k, [[c] for c in codes], 1, threads) for name, k in kernels.items()}
        | {FLOAT_PEERS[1]: torch_calls(lambda row: torch.nn.functional.linear(row, w), rows, threads)},
        lambda: assert_same(kernels[BITS], kernels[PLAIN], [codes[0]]),
    )


def encoding(channels: int, size: int, threads: int, random: np.random.Generator) -> Case:
    encoder = _native.EncodeOp(_native.Encode("sign", layout(channels, size)))
    images = [random.standard_normal((size, size, channels)).astype(np.float32) for _ in range(INPUTS)]
    timer = ours(encoder, [[x] for x in images], 1, threads)
    return Case(f"encode {channels}@{size}", float(images[0].size), {"bitwright": timer})


def cases(chosen: argparse.Namespace) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for channels, size in SHAPES:
        yield convolution(channels, size, chosen.threads, random)
    yield linear(4096, 4096, chosen.threads, random)
    for channels, size in SHAPES[:2]:
        yield encoding(channels, size, chosen.threads, random)


if __name__ == "__main__":
    arguments = options(__doc__ or "").parse_args()
    arguments.isa = arguments.isa or "avx2"
    raise SystemExit(main(__doc__ or "", cases, arguments))
