"""Sparse and coded float layers beside dense ones: strips, lists and patterns of weights, digits of codes.

Claims, one thread, beside the faster of onnxruntime and torch in float32. The first linear layer of VGG-16 (25088 to
4096) with 4 % of its weights, of 32 values: 15 times as fast at batch 1, 4 times at batch 16. 3x3 convolutions: 3 times
with 90 % zeros, 1.5 times with 80 %. Linear layers whose weights are codes of at most 5 bits: 3 times at batch 1, where
the weights are too many for the first caches.

2:4 patterns, beside our own dense layers, on Zen 5: linear layers 1.4 times at batch 1. 3x3 convolutions 1.3 times
where 16 output channels share the pattern; otherwise 1.15 times at 64 channels, as Zen 5 permutes beside its
multiply-adds.

    python benchmarks/bench_sparse.py [--only "linear 25088"] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import contest
from bitwright import _native
from contest import Array, Case, Claim

TERNARY, SIGNS = np.array([-1, 0, 1], np.float32), np.array([-1, 1], np.float32)


def result(operation: Any, x: Array, batch: int) -> Array:
    (found,) = _native.run_operation(operation, [x], batch)
    return found.view(np.float32)


def linear_case(
    name: str, operation: Any, weight: Array, batch: int, threads: int, claims: tuple[Claim, ...] = ()
) -> Case:
    """A linear operation beside the dense layer of the same weight [O, C]."""
    import torch

    rng = np.random.default_rng(1)
    rows = [rng.standard_normal((batch, weight.shape[1]), dtype=np.float32) for _ in range(contest.INPUTS)]
    dense = torch.from_numpy(weight)
    peers = {
        contest.TORCH: contest.torch_calls(lambda x: torch.nn.functional.linear(x, dense), rows, threads),
        contest.ORT: contest.onnx_float("MatMul", rows, {"w": np.ascontiguousarray(weight.T)}, threads),
        **contest.onnx_int8_linear(weight, batch=batch, threads=threads),
    }

    def check() -> None:
        for x, call in zip(rows, peers[contest.TORCH], strict=True):
            contest.assert_close(name, result(operation, x, batch).reshape(batch, -1), call())

    facts = {"weight_bytes": operation.weight_bytes, "kernel": operation.kernel}
    ours = contest.ours(operation, [[x] for x in rows], batch, threads)
    return Case(name, 2.0 * batch * weight.size, {"bitwright": ours, **peers}, check, claims, facts=facts)


def sparse_linear_cases(threads: int, only: str) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for (outputs, inputs), density, values, batches in (
        ((4096, 25088), 0.04, 32, {1: 15, 16: 4, 64: 0, 256: 0}),
        ((4096, 4096), 0.04, 32, {1: 0, 16: 0}),
        ((4096, 4096), 0.04, None, {1: 0}),
        ((4096, 4096), 0.3, 32, {64: 0, 256: 0}),
        ((300, 784), 0.08, 32, {1: 0, 16: 0, 64: 0, 256: 0}),
    ):
        kind = "floats" if values is None else f"{values} values"
        names = {batch: f"linear {inputs}>{outputs} {density:.0%} {kind} batch {batch}" for batch in batches}
        if not any(only in name for name in names.values()):  # dense forms of hundreds of megabytes
            continue
        positions = np.flatnonzero(rng.random(outputs * inputs, dtype=np.float32) < density)
        table = rng.standard_normal(len(positions) if values is None else values).astype(np.float32)
        codes = None if values is None else rng.integers(0, values, len(positions)).astype(np.uint8)
        weight = np.zeros((outputs, inputs), np.float32)
        weight.ravel()[positions] = table if codes is None else table[codes]
        finish = _native.Finish(outputs)
        operation = _native.SparseLinearOp(outputs, inputs, positions, codes, table, finish)
        for batch, times in batches.items():
            if only in names[batch]:
                yield linear_case(names[batch], operation, weight, batch, threads, (Claim(times),) if times else ())


def sparse_conv_cases(threads: int) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for channels, size, stride, claimed in (
        (256, 14, 1, True),
        (64, 56, 1, True),
        (128, 28, 1, False),
        (512, 7, 1, False),
        (64, 32, 1, False),
        (128, 56, 2, False),
    ):
        for density, times in ((0.1, 3.0), (0.2, 1.5)):
            yield conv_case(rng, channels, size, stride, density, threads, (Claim(times),) if claimed else ())


def conv_case(
    rng: np.random.Generator,
    channels: int,
    size: int,
    stride: int,
    density: float,
    threads: int,
    claims: tuple[Claim, ...],
) -> Case:
    import torch

    weight = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    weight *= rng.random(weight.shape) < density
    positions = np.flatnonzero(weight)
    window = _native.Window((size, size), channels, channels, (3, 3), (stride, stride), (1, 1))
    finish = _native.Finish(channels)
    operation = _native.SparseConvOp(window, positions, None, weight.ravel()[positions], finish)
    images = [rng.standard_normal((1, channels, size, size), dtype=np.float32) for _ in range(contest.INPUTS)]
    dense = torch.from_numpy(weight).contiguous(memory_format=torch.channels_last)
    peers = {
        contest.TORCH: contest.torch_calls(
            lambda x: torch.nn.functional.conv2d(x, dense, padding=1, stride=stride), images, threads
        ),
        contest.ORT: contest.onnx_float("Conv", images, {"w": weight}, threads, pads=[1] * 4, strides=[stride, stride]),
        **contest.onnx_int8_conv(weight, (size, size), stride=(stride, stride), padding=(1, 1), threads=threads),
    }
    name = f"conv {channels}@{size} stride {stride} {1 - density:.0%} zeros"

    def check() -> None:
        for x, call in zip(images, peers[contest.TORCH], strict=True):
            expected = contest.nhwc(call())
            contest.assert_close(name, result(operation, contest.nhwc(x), 1).reshape(expected.shape), expected)

    height, width, outputs = window.output
    ours = contest.ours(operation, [[contest.nhwc(x)] for x in images], 1, threads)
    facts = {"weight_bytes": operation.weight_bytes, "kernel": operation.kernel}
    operations = 2.0 * height * width * outputs * channels * 9
    return Case(name, operations, {"bitwright": ours, **peers}, check, claims, facts=facts)


OWN = "bitwright dense"


def pattern_weight(rng: np.random.Generator, shape: tuple[int, ...], rows: int) -> Array:
    """2 of every 4 inputs (axis 1), the same in so many rows."""
    outputs, inputs, *rest = shape
    places = rng.random((-(-outputs // rows), inputs // 4, 4, *rest)).argsort(axis=2) < 2
    mask = places.reshape(-1, inputs, *rest).repeat(rows, axis=0)[:outputs]
    return (rng.standard_normal(shape) * mask).astype(np.float32)


def pattern_cases(threads: int, only: str) -> Iterator[Case]:
    """2:4 beside our own dense layer and the kernel for any zeros."""
    rng = np.random.default_rng(0)
    for channels, size, times in ((16, 32, 0.0), (32, 16, 0.0), (64, 8, 1.15), (256, 14, 0.0)):
        window = _native.Window((size, size), channels, channels, (3, 3), (1, 1), (1, 1))
        images = [rng.standard_normal((1, size, size, channels), dtype=np.float32) for _ in range(contest.INPUTS)]
        for rows, claimed in ((1, times), (16, 1.3)):
            weight = pattern_weight(rng, (channels, channels, 3, 3), rows)
            name = f"2:4 conv {channels}@{size}, patterns of {rows} rows"
            if only in name:
                yield pattern_case(name, window, weight, images, rows, 1, threads, claimed)
    for outputs, inputs in ((300, 784), (4096, 4096)):
        weight = pattern_weight(rng, (outputs, inputs), 1)
        for batch in (1, 4, 64):
            samples = [rng.standard_normal((batch, inputs), dtype=np.float32) for _ in range(contest.INPUTS)]
            name = f"2:4 linear {inputs}>{outputs} batch {batch}"
            if only in name:
                window = _native.Window((1, 1), inputs, outputs)
                yield pattern_case(name, window, weight, samples, 1, batch, threads, 1.6 if batch == 1 else 0.0)


def pattern_case(
    name: str, window: Any, weight: Array, inputs: list[Array], rows: int, batch: int, threads: int, claimed: float
) -> Case:
    outputs, positions = len(weight), np.flatnonzero(weight)
    finish, entries = _native.Finish(outputs), (positions, None, weight.ravel()[positions])
    if weight.ndim == 2:
        dense: Any = _native.FloatLinearOp(weight.shape[1], weight, finish)
        sparse: Any = _native.SparseLinearOp(*weight.shape, *entries, finish)
    else:
        dense, sparse = _native.FloatConvOp(window, weight, finish), _native.SparseConvOp(window, *entries, finish)
    make = _native.BlockedConvOp if rows > 1 else _native.PatternConvOp
    operation = make(window, weight if weight.ndim == 4 else weight[:, :, None, None], finish)
    ours = {"bitwright": operation, OWN: dense, "bitwright sparse": sparse}

    def check() -> None:
        for x in inputs:
            expected = result(dense, x, batch)
            for other in (operation, sparse):
                contest.assert_close(name, result(other, x, batch), expected)

    timers = {who: contest.ours(op, [[x] for x in inputs], batch, threads) for who, op in ours.items()}
    height, width, _ = window.output
    facts = {"weight_bytes": {who: op.weight_bytes for who, op in ours.items()}, "kernel": operation.kernel}
    claims = (Claim(claimed, (OWN,)),) if claimed else ()
    return Case(name, 2.0 * batch * height * width * weight.size, {**timers}, check, claims, facts=facts)


def coded_cases(threads: int, only: str) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    tables = {
        "signs": SIGNS,
        "ternary": TERNARY,
        "4 values": rng.standard_normal(4).astype(np.float32),
        "16 values": rng.standard_normal(16).astype(np.float32),
        "32 values": rng.standard_normal(32).astype(np.float32),
        "int8": np.arange(-128, 128, dtype=np.float32),
    }
    for outputs, inputs, batches in ((4096, 25088, (1, 8)), (4096, 4096, (1, 64)), (1000, 512, (1, 64))):
        for kind, table in tables.items():
            names = {batch: f"coded {inputs}>{outputs} {kind} batch {batch}" for batch in batches}
            if inputs > 4096 and kind not in ("signs", "ternary", "32 values"):  # forms of hundreds of megabytes
                continue
            if not any(only in name for name in names.values()):
                continue
            codes = rng.integers(0, len(table), (outputs, inputs), dtype=np.uint8)
            scale = rng.random(outputs, dtype=np.float32) + np.float32(0.5)
            operation = _native.CodedLinearOp(codes, table, _native.Finish(outputs), scale=scale)
            weight = table[codes] * scale[:, None]
            for batch, name in names.items():
                claimed = batch == 1 and inputs > 1000 and kind != "int8"
                if only in name:
                    yield linear_case(name, operation, weight, batch, threads, (Claim(3),) if claimed else ())


def cases(options: argparse.Namespace) -> Iterator[Case]:
    yield from sparse_linear_cases(options.threads, options.only)
    yield from sparse_conv_cases(options.threads)
    yield from pattern_cases(options.threads, options.only)
    yield from coded_cases(options.threads, options.only)


if __name__ == "__main__":
    raise SystemExit(contest.main(__doc__ or "", cases))
