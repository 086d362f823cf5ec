"""Float convolutions and linear layers as fast as those of PyTorch and onnxruntime.

Layers of ResNet-18 at batch 1 and of ResNet-20 for CIFAR-10, linear layers and the max pool. The peak, a loop of
multiply-adds on registers, takes its turns too: the ratio printed for it is the share of it that the layer reaches. A
convolution leaves out kernel rows that lie outside the image, so that small images may come out beyond that peak.

    python benchmarks/bench_float.py [--threads 1] [--rounds 40] [--isa avx2] [--only 512] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

import contest
from bitwright import _native

CLAIM = [contest.Claim(0.95)]
# inputs, outputs, image, kernel, stride
RESNET18 = [
    (3, 64, 224, 7, 2),
    (64, 64, 56, 3, 1),
    (64, 128, 56, 3, 2),
    (64, 128, 56, 1, 2),
    (128, 128, 28, 3, 1),
    (128, 256, 28, 3, 2),
    (128, 256, 28, 1, 2),
    (256, 256, 14, 3, 1),
    (256, 512, 14, 3, 2),
    (256, 512, 14, 1, 2),
    (512, 512, 7, 3, 1),
    (256, 256, 28, 3, 1),
]
RESNET20 = [
    (3, 16, 32, 3, 1),
    (16, 16, 32, 3, 1),
    (16, 32, 32, 3, 2),
    (32, 32, 16, 3, 1),
    (32, 64, 16, 3, 2),
    (64, 64, 8, 3, 1),
]
LINEAR = [(512, 1000, 1), (784, 300, 1), (512, 1000, 64), (4096, 4096, 1)]  # inputs, outputs, batch


def randoms(*shape: int) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shape))
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(contest.INPUTS)]


def matrix_case(
    name: str, operations: float, operation: _native.Operation, ours: list[np.ndarray], peers: dict[str, contest.Calls],
    options: argparse.Namespace, batch: int = 1,
) -> contest.Case:  # fmt: skip
    """Our operation on the inputs `ours` of shape (batch, ...), whose channels are last."""

    def check() -> None:
        for i, x in enumerate(ours):
            (found,) = _native.run_operation(operation, [x], batch)
            expected = peers[contest.TORCH][i]()
            shaped = found.view(np.float32).reshape(np.moveaxis(expected, 1, -1).shape)
            contest.assert_close(name, np.moveaxis(shaped, -1, 1), expected)

    contestants: dict[str, contest.Timer | contest.Calls] = {
        "bitwright": contest.ours(operation, [[x] for x in ours], batch, options.threads),
        **peers,
    }
    if options.threads == 1:
        contestants["multiply-adds"] = lambda repeats: _native.fma_seconds(operations)
    facts = {"kernel": operation.kernel, "weight_bytes": operation.weight_bytes}
    return contest.Case(name, operations, contestants, check, CLAIM, facts=facts)


def conv_case(in_c: int, out_c: int, size: int, kernel: int, stride: int, options: argparse.Namespace) -> contest.Case:
    import torch
    import torch.nn.functional as F

    pad = kernel // 2
    weight = np.random.default_rng(0).standard_normal((out_c, in_c, kernel, kernel)).astype(np.float32)
    window = _native.Window((size, size), in_c, out_c, (kernel, kernel), (stride, stride), (pad, pad))
    images, tensor = randoms(1, in_c, size, size), torch.from_numpy(weight)
    height, width, _ = window.output
    peers = {
        contest.TORCH: contest.torch_calls(
            lambda x: F.conv2d(x, tensor, stride=stride, padding=pad), images, options.threads
        ),
        contest.ORT: contest.onnx_float(
            "Conv", images, {"w": weight}, options.threads, pads=[pad] * 4, strides=[stride] * 2
        ),
    }
    operation = _native.FloatConvOp(window, weight, _native.Finish(out_c))
    name = f"conv {in_c}->{out_c} {kernel}x{kernel}/{stride} of {size}x{size}"
    return matrix_case(
        name, 2.0 * height * width * weight.size, operation, [contest.nhwc(x) for x in images], peers, options
    )


def linear_case(in_c: int, out_c: int, batch: int, options: argparse.Namespace) -> contest.Case:
    import torch
    import torch.nn.functional as F

    weight = np.random.default_rng(0).standard_normal((out_c, in_c)).astype(np.float32)
    rows, tensor = randoms(batch, in_c), torch.from_numpy(weight)
    peers = {
        contest.TORCH: contest.torch_calls(lambda x: F.linear(x, tensor), rows, options.threads),
        contest.ORT: contest.onnx_float("MatMul", rows, {"w": np.ascontiguousarray(weight.T)}, options.threads),
    }
    operation = _native.FloatLinearOp(in_c, weight, _native.Finish(out_c))
    name = f"linear {in_c}->{out_c} batch {batch}"
    return matrix_case(name, 2.0 * batch * weight.size, operation, rows, peers, options, batch)


def pool_case(options: argparse.Namespace) -> contest.Case:
    """The pooling of ResNet-18."""
    import torch.nn.functional as F

    images = randoms(1, 64, 112, 112)
    operation = _native.MaxPoolOp((112, 112), 64, (3, 3), (2, 2), (1, 1))
    peers = {
        contest.TORCH: contest.torch_calls(lambda x: F.max_pool2d(x, 3, 2, 1), images, options.threads),
        contest.ORT: contest.onnx_float(
            "MaxPool", images, {}, options.threads, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
        ),
    }
    ours = [contest.nhwc(x) for x in images]
    return matrix_case("max pool 3x3/2 of 64 at 112x112", 9.0 * 56 * 56 * 64, operation, ours, peers, options)


def cases(options: argparse.Namespace) -> Iterator[contest.Case]:
    for shape in RESNET18 + RESNET20:
        yield conv_case(*shape, options)
    for in_c, out_c, batch in LINEAR:
        yield linear_case(in_c, out_c, batch, options)
    yield pool_case(options)


if __name__ == "__main__":
    sys.exit(contest.main(__doc__ or "", cases))
