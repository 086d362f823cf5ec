"""Whole networks in 8-bit whole numbers at batch 1, beside onnxruntime's int8 of the same networks.

    python benchmarks/bench_int8_nets.py [--threads 1] [--rounds 40] [--json FILE]

The step `fixed` makes them, without training: ResNet-18 at 224x224 with random weights, batch norm as random images
leave it, and the pretrained CIFAR ResNet-20 of the results. onnxruntime gets the float networks and quantises them as
its guide advises, in both of its forms. Ours is compared with torch, and its file with the float weights: 27 % at most.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bench_resnet18
import bitwright
import contest
from bench_resnet18 import calls
from bitwright.measure.int8_peer import quantized
from bitwright.measure.onnx_peer import to_onnx
from bitwright.steps.fixed import Fixed

SHARE = 0.27  # of the float network's file
RESULTS = Path(__file__).parent.parent / "results"


class Images:
    """What `fixed` asks of a context: images to calibrate on."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images)

    def calibration(self, count: int) -> torch.Tensor:
        """The first ones."""
        return self.images[:count]

    def record(self, name: str, value: Any) -> None:
        """Nothing."""


def resnet_18() -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(1)
    model = bitwright.create_model("resnet-18")
    bench_resnet18.settle(model)
    return model.eval(), bench_resnet18.images(16, 7)


def resnet_20() -> tuple[nn.Module, np.ndarray]:
    """With the weights that the packed result decodes to."""
    stored = bitwright.load(RESULTS / "resnet-20-pretrained.safetensors").stored
    model = bitwright.create_model("resnet-20").eval()
    weights = {name: torch.from_numpy(tensor.dense().copy()) for name, tensor in stored.items()}
    own = model.state_dict()
    for name in own:
        if name in weights:
            own[name] = weights[name].view_as(own[name])
        elif name.endswith("running_var"):  # a batch norm is stored as scale and shift
            norm = name.removesuffix(".running_var")
            scale, shift = weights[f"{norm}.scale"], weights[f"{norm}.shift"]
            own |= {f"{norm}.weight": scale, f"{norm}.bias": shift, name: torch.full_like(scale, 1 - 1e-5)}
    model.load_state_dict(own)
    return model, np.random.default_rng(0).standard_normal((64, 3, 32, 32)).astype(np.float32)


def case(name: str, model: nn.Module, images: np.ndarray, folder: Path, options: argparse.Namespace) -> contest.Case:
    inputs = [images[i : i + 1] for i in range(contest.INPUTS)]
    example = (torch.from_numpy(inputs[0]),)
    whole = Fixed(images=16).apply(copy.deepcopy(model), Images(images)).eval()  # type: ignore[arg-type]
    paths = {kind: folder / f"{name}-{kind}.safetensors" for kind in ("float32", "int8")}
    bitwright.pack(model, example).save(paths["float32"])
    bitwright.pack(whole, example).save(paths["int8"])
    sizes = {kind: path.stat().st_size for kind, path in paths.items()}
    assert sizes["int8"] <= SHARE * 4 * sum(p.numel() for p in model.parameters()), sizes
    engine = bitwright.load(paths["int8"], threads=options.threads)
    dense = bitwright.load(paths["float32"], threads=options.threads)
    onnx = to_onnx(dense.graph, {key: tensor.dense() for key, tensor in dense.stored.items()})
    feeds = [{"input_0": x} for x in inputs]
    contestants: dict[str, Any] = {"bitwright": calls(engine, inputs)}
    for form, int8 in quantized(onnx, feeds).items():
        contestants[f"{contest.ORT_INT8} {form}"] = contest.onnx_calls(int8, feeds, options.threads)
    contestants |= {contest.ORT: contest.onnx_calls(onnx, feeds, options.threads), "float32": calls(dense, inputs)}

    def check() -> None:
        with torch.inference_mode():
            for x in inputs:
                assert np.array_equal(engine(x), whole(torch.from_numpy(x)).numpy()), f"{name}: not torch's bits"

    peers = tuple(peer for peer in contestants if peer.startswith(contest.ORT_INT8))
    operations = 2 * {"resnet-18": 1_814_073_344, "resnet-20": 40_551_424}[name]
    return contest.Case(f"{name} batch 1", operations, contestants, check, [contest.Claim(1.0, peers)], facts=sizes)


def cases(options: argparse.Namespace) -> Iterator[contest.Case]:
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("resnet-20", resnet_20), ("resnet-18", resnet_18)):
            yield case(name, *make(), Path(folder), options)


if __name__ == "__main__":
    sys.exit(contest.main(__doc__, cases))
