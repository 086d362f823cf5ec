"""Speed of popcount convolutions: bits to bits, floats to floats, and of more bits per number, beside float32 and int8.

All cases are 3x3 convolutions of as many channels out as in. Codes are bits in planes, on tiles (amx) bytes: the forms
that the engine chooses there. "bits" is a sign convolution whose result is a sign again; its share is that of a loop of
the same steps on registers. "floats" encodes the signs of floats, convolves, scales, shifts and adds these floats, as
the shortcut over a binary convolution does; the steps follow one another, as in a plan.
"k x m bits" has k bits of activations times m of weights; its claim is the time
of one "bits" convolution for each pair of planes, and 15 % more.

    python benchmarks/bench_binary.py [--only 64@56] [--threads 1] [--isa avx2] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np

from bitwright import _native
from bitwright.runtime.kernels import FAR
from contest import (
    FLOAT_PEERS,
    INPUTS,
    INT8_PEERS,
    ORT,
    TORCH,
    Case,
    Claim,
    Timer,
    assert_close,
    main,
    onnx_float,
    onnx_int8_conv,
    options,
    ours,
    torch_calls,
)

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7), (256, 28))
GRIDS = {1: [-1, 1], 2: [-3, -1, 1, 3]}
BITS, FLOATS = "bitwright bits", "bitwright floats"


def on_tiles(channels: int) -> bool:
    """Whether a plan would multiply bytes in AMX tiles, as the table of kernels has it."""
    return _native.isa() == "amx" and 9 * channels**2 <= FAR


def layout(channels: int, size: int, bits: int = 1) -> _native.CodeLayout:
    planes = 0 if on_tiles(channels) else bits
    return _native.CodeLayout(size, size, channels, top=1, left=1, bottom=1, right=1, planes=planes)


class Convolution:
    """A 3x3 convolution with zero padding of k-bit activations (signs if k is 1) and m-bit weights."""

    def __init__(self, channels: int, size: int, x_bits: int, w_bits: int, random: np.random.Generator) -> None:
        self.channels, self.size, self.bits = channels, size, x_bits
        self.window = _native.Window((size, size), channels, channels, (3, 3), padding=(1, 1))
        self.weight = random.choice(GRIDS[w_bits], (channels, channels, 3, 3)).astype(np.int8)
        self.affine = {
            "scale": random.uniform(0.5, 1.5, channels).astype(np.float32),
            "shift": random.standard_normal(channels).astype(np.float32),
        }
        self.images = [random.standard_normal((size, size, channels)).astype(np.float32) for _ in range(INPUTS)]
        kind = "sign" if x_bits == 1 else "quantize"
        self.encoder = _native.EncodeOp(_native.Encode(kind, layout(channels, size, x_bits), high=2**x_bits - 1))
        self.codes = [_native.run_operation(self.encoder, [x])[0] for x in self.images]

    def operation(self, finish: _native.Finish) -> _native.Operation:
        low, step = (-1, 2) if self.bits == 1 else (0, 1)
        make = _native.ByteConvOp if on_tiles(self.channels) else _native.BitConvOp
        x = layout(self.channels, self.size, self.bits)
        return make(self.window, x, low=low, step=step, weights=self.weight, finish=finish)

    def to_bits(self) -> _native.Operation:
        encode = _native.Encode("sign", layout(self.channels, self.size), **self.affine)
        return self.operation(_native.Finish(self.channels, out=False, encode=encode))

    def to_floats(self) -> _native.Operation:
        return self.operation(_native.Finish(self.channels, residual=True, **self.affine))

    def peaks(self, name: str, threads: int) -> dict[str, float]:
        """Those of popcounts, where it is popcounts that are used."""
        return {} if on_tiles(self.channels) else {name: _native.popcount_peak() * threads}

    def check(self) -> None:
        """Against a float convolution of the same numbers by torch."""
        import torch
        import torch.nn.functional as F

        x, codes = self.images[0], self.codes[0]
        m = np.where(x >= 0, 1, -1) if self.bits == 1 else np.clip(np.rint(x), 0, 2**self.bits - 1)
        sums = F.conv2d(
            torch.from_numpy(m.astype(np.float32).transpose(2, 0, 1)[None]),
            torch.from_numpy(self.weight.astype(np.float32)), padding=1,
        )[0].numpy().transpose(1, 2, 0)  # fmt: skip
        y = sums * self.affine["scale"] + self.affine["shift"]
        floats = _native.run_operation(self.to_floats(), [codes, x])[0].view(np.float32).reshape(y.shape)
        assert_close("floats", floats, y + x, 0)
        encoder = _native.EncodeOp(_native.Encode("sign", layout(self.channels, self.size)))
        bits = _native.run_operation(self.to_bits(), [codes])[0]
        np.testing.assert_array_equal(bits, _native.run_operation(encoder, [np.ascontiguousarray(y)])[0])


def aligned(size: int) -> np.ndarray:
    """Bytes from a cache line's first on, as values lie in a plan and all other contestants' results do."""
    memory = np.empty(size + 63, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + size]


def from_floats(conv: Convolution, threads: int) -> Timer:
    """The times of encoding, and of the convolution that adds what was encoded."""
    size = 4 * conv.size**2 * conv.channels
    plan = _native.Plan([size], [(conv.encoder, [0]), (conv.to_floats(), [1, 0])], [2], 1 << 20)
    images, out = [x.view(np.uint8).ravel() for x in conv.images], aligned(size)
    calls = itertools.cycle(images)
    return lambda repeats: sum(sum(plan.time([next(calls)], [out], 1, threads)) for _ in range(repeats)) / repeats


def float_peers(conv: Convolution, threads: int) -> dict:
    import torch
    import torch.nn.functional as F

    weight = conv.weight.astype(np.float32)
    images = [np.ascontiguousarray(x.transpose(2, 0, 1)[None]) for x in conv.images]
    w = torch.from_numpy(weight).contiguous(memory_format=torch.channels_last)
    return {
        ORT: onnx_float("Conv", images, {"w": weight}, threads, pads=[1] * 4),
        TORCH: torch_calls(lambda x: F.conv2d(x, w, padding=1), images, threads),
    }


def cases(chosen: argparse.Namespace) -> Iterator[Case]:
    random = np.random.default_rng(0)
    threads = chosen.threads
    for channels, size in SHAPES:
        operations = 2.0 * size * size * channels * channels * 9
        conv = Convolution(channels, size, 1, 1, random)
        to_bits = ours(conv.to_bits(), [[c] for c in conv.codes], 1, threads)
        to_floats = from_floats(conv, threads)
        yield Case(
            f"{channels}@{size}",
            operations,
            {
                BITS: to_bits,
                FLOATS: to_floats,
                **float_peers(conv, threads),
                **onnx_int8_conv(conv.weight.astype(np.float32), (size, size), padding=(1, 1), threads=threads),
            },
            conv.check,
            (
                Claim(17, FLOAT_PEERS, BITS),
                Claim(4.2, INT8_PEERS, BITS),
                Claim(11 if (channels, size) == (64, 56) else 13, FLOAT_PEERS, FLOATS),
            ),
            conv.peaks(BITS, threads),
            {"kernel": conv.to_bits().kernel},
        )
        for x_bits, w_bits in ((1, 2), (2, 2)):
            more = Convolution(channels, size, x_bits, w_bits, random)
            name = f"{x_bits} x {w_bits} bits"
            yield Case(
                f"{channels}@{size}, {name}",
                operations * x_bits * w_bits,
                {name: ours(more.to_bits(), [[c] for c in more.codes], 1, threads), BITS: to_bits},
                more.check,
                (Claim(1 / (1.15 * x_bits * w_bits), (BITS,), name),),
                more.peaks(name, threads),
                {"kernel": more.to_bits().kernel},
            )


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", cases, options(__doc__ or "").parse_args()))
