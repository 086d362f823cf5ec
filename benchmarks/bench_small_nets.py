"""Published small networks at batch 1, whole: a pretrained ResNet-20 stored dense and a LeNet-5 after Deep Compression.

    python benchmarks/bench_small_nets.py [--threads 1] [--rounds 40] [--json FILE]

The engine runs the packed files as they are; onnxruntime and torch run the dense float32 weights that they decode to.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import bitwright
import contest
from bitwright.measure.latency import compare_outputs, random_inputs
from bitwright.measure.onnx_peer import to_onnx
from bitwright.measure.torch_peer import open_torch
from bitwright.runtime.graph import Graph, validate

RESULTS = Path(__file__).parent.parent / "results"
NAMES = ("resnet-20-pretrained", "lenet-5-deep-compression")


def network_case(name: str, threads: int) -> contest.Case:
    model = bitwright.load(RESULTS / f"{name}.safetensors", threads=threads)
    inputs = [x for (x,) in random_inputs(model, 1)]
    dense = {tensor: stored.dense() for tensor, stored in model.stored.items()}
    feeds = [{"input_0": x} for x in inputs]
    torch_peer = open_torch(model.graph, dense, threads)
    contestants: dict[str, contest.Timer | contest.Calls] = {
        "bitwright": [lambda x=x: model(x) for x in inputs],
        contest.ORT: contest.onnx_calls(to_onnx(model.graph, dense), feeds, threads),
        contest.TORCH: [lambda x=x: torch_peer(x)[0] for x in inputs],
    }

    def check() -> None:
        for peer in (contest.ORT, contest.TORCH):
            for call, x in zip(contestants[peer], inputs, strict=True):
                compare_outputs(peer, [call()], model(x))

    return contest.Case(
        f"{name} batch 1",
        dense_operations(model.graph, dense),
        contestants,
        check,
        [contest.Claim(1.0, (contest.ORT,))],
    )


def dense_operations(graph: Graph, dense: dict[str, np.ndarray]) -> int:
    """Of the convolutions and linear layers, for one image: two per multiply-accumulate, zeros included."""
    shapes = validate(graph, {name: array.shape for name, array in dense.items()})[len(graph.inputs) :]
    layers = (
        (node.weights["weight"], shape)
        for node, shape in zip(graph.nodes, shapes, strict=True)
        if "weight" in node.weights
    )
    return sum(2 * math.prod(shape) * dense[weight][0].size for weight, shape in layers)


def cases(options: argparse.Namespace) -> Iterator[contest.Case]:
    for name in NAMES:
        yield network_case(name, options.threads)


if __name__ == "__main__":
    sys.exit(contest.main(__doc__, cases))
