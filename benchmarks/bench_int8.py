"""3x3 convolutions of uint8 codes by int8 weights to uint8 codes, beside onnxruntime's int8.

Both sides read and write codes in their own layout: quantised in, quantised out, int8 weights scaled per channel. Of
onnxruntime the integer convolution alone runs (QLinearConv, U8S8), in ONNX's layout and channels-last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

import contest
from bitwright import _native

SHAPES = [(64, 56), (128, 28), (256, 14), (512, 7), (256, 28)]  # channels, image
LINEAR = [(512, 1000), (4096, 4096)]


def random_operation(image: int, in_c: int, out_c: int, kernel: int, largest: int = 127) -> _native.ByteConvOp:
    """Codes with zero point 0 to codes, as after a ReLU; outputs spread over the codes."""
    rng = np.random.default_rng(0)
    pad = kernel // 2
    weights = rng.integers(-largest, largest + 1, (out_c, in_c, kernel, kernel)).astype(np.int8)
    margins = {"top": pad, "left": pad, "bottom": pad, "right": pad, "planes": 0}
    made = _native.CodeLayout(image, image, out_c, **margins)
    encode = _native.Encode("quantize", made, reciprocal=50.0, low=0.0, high=255.0)
    multiplier = (0.02 / np.sqrt(in_c * kernel**2) / largest * rng.random(out_c)).astype(np.float32)
    finish = _native.Finish(out_c, multiplier=multiplier, bias=multiplier * 100, relu=True, out=False, encode=encode)
    window = _native.Window((image, image), in_c, out_c, (kernel, kernel), padding=(pad, pad))
    return _native.ByteConvOp(window, _native.CodeLayout(image, image, in_c, **margins), 0, weights, finish=finish)


def check_operation(operation: _native.ByteConvOp, image: int, in_c: int, out_c: int, kernel: int) -> None:
    """The bits are those of the reference kernel."""
    x = random_inputs(image, in_c, kernel // 2)[0]
    chosen = _native.isa()
    _native.set_isa("ref")
    reference = random_operation(image, in_c, out_c, kernel)
    _native.set_isa(chosen)
    (expected,) = _native.run_operation(reference, x)
    (found,) = _native.run_operation(operation, x)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 50, "the codes are hardly spread"


def random_inputs(image: int, channels: int, pad: int, batch: int = 1) -> list[list[np.ndarray]]:
    """Codes, margins of zeros around them. The channels are a multiple of 64, so that nothing follows an image."""
    rng = np.random.default_rng(1)
    shape, margins = (batch, image, image, channels), ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return [[np.pad(rng.integers(0, 256, shape, np.uint8), margins)] for _ in range(contest.INPUTS)]


def cases(options: argparse.Namespace) -> Iterator[contest.Case]:
    peak = _native.byte_peak() * options.threads
    claim = [contest.Claim(0.95, peers=contest.INT8_PEERS)]
    for channels, image in SHAPES:
        operation = random_operation(image, channels, channels, 3)
        weight = np.random.default_rng(2).standard_normal((channels, channels, 3, 3)).astype(np.float32)
        peers = contest.onnx_int8_conv(weight, (image, image), padding=(1, 1), threads=options.threads)
        yield contest.Case(
            f"3x3 {channels}@{image}",
            2 * image**2 * channels**2 * 9,
            {"bitwright": contest.ours(operation, random_inputs(image, channels, 1), threads=options.threads), **peers},
            lambda c=channels, i=image, o=operation: check_operation(o, i, c, c, 3),
            claim,
            {"bitwright": peak},
            {"kernel": operation.kernel},
        )
    for in_c, out_c in LINEAR:
        for batch in (1, 16, 64):
            operation = random_operation(1, in_c, out_c, 1)
            weight = np.random.default_rng(2).standard_normal((out_c, in_c)).astype(np.float32)
            inputs = random_inputs(1, in_c, 0, batch)
            yield contest.Case(
                f"linear {in_c} to {out_c}, batch {batch}",
                2 * in_c * out_c * batch,
                {
                    "bitwright": contest.ours(operation, inputs, batch, options.threads),
                    **contest.onnx_int8_linear(weight, batch=batch, threads=options.threads),
                },
                lambda i=in_c, o=out_c, op=operation: check_operation(op, 1, i, o, 1),
                facts={"kernel": operation.kernel},
            )


if __name__ == "__main__":
    sys.exit(contest.main(__doc__, cases))
