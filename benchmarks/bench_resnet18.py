"""ResNet-18 with binary 3x3 convolutions, 224x224, batch 1: whole networks beside the ordinary float ResNet-18.

    python benchmarks/bench_resnet18.py [--threads 1] [--rounds 40] [--json FILE]

The binary network is plain PyTorch: signs in front of 3x3 convolutions whose weights are +-alpha per filter, a shortcut
over each of them; stem, 1x1 convolutions and classifier are float. In the second variant the stem takes its input and
its weights rounded to 8 bits. Weights are random, batch norm has the statistics of random images. Packed, loaded and
compared with torch and with the reference engine first. The peers run the dense float ResNet-18 of the zoo, which has
ReLUs and no signs, in float32 and in onnxruntime's best int8. With one thread the scaling to two is measured as well,
beside that of the popcount peak loop.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bitwright
import contest
from bitwright import _native
from bitwright.measure.int8_peer import quantized
from bitwright.measure.layers import layer_times
from bitwright.measure.onnx_peer import to_onnx
from bitwright.measure.torch_peer import open_torch
from bitwright.ops import Quantize

SIZE = 224
FILE_BYTES = 4_300_000
IMAGES = 8  # that outputs are compared on
SCALING = 0.85  # of the peak loop's scaling
PAIRS = 15  # interleaved measurements of the scaling


class BinaryBlock(nn.Module):
    """A residual block of the zoo with a sign in front of each 3x3 convolution, a shortcut over it, and no ReLU."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "conv2", "bn2", "downsample"):
            setattr(self, name, getattr(block, name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shapes as the block's."""
        y = self.bn1(self.conv1(torch.ops.bitwright.sign(x))) + self.downsample(x)
        return self.bn2(self.conv2(torch.ops.bitwright.sign(y))) + y


def binary_resnet(stem_bits: int | None) -> nn.Module:
    """Random, seeded; made of the zoo's resnet-18."""
    torch.manual_seed(0)
    model = bitwright.create_model("resnet-18")
    model.relu = nn.Identity()  # behind a ReLU all signs would be +1
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for i, block in enumerate(stage):
            stage[i] = BinaryBlock(block)
    with torch.no_grad():
        for block in (m for m in model.modules() if isinstance(m, BinaryBlock)):
            for conv in (block.conv1, block.conv2):
                alpha = conv.weight.abs().mean((1, 2, 3), keepdim=True)
                conv.weight.copy_(torch.where(conv.weight >= 0, alpha, -alpha))
    settle(model)
    if stem_bits is not None:
        most = 2 ** (stem_bits - 1) - 1
        with torch.no_grad():
            step = model.conv1.weight.abs().amax((1, 2, 3), keepdim=True) / most
            model.conv1.weight.copy_(torch.round(model.conv1.weight / step) * step)
        model.conv1 = nn.Sequential(Quantize(8 / 2**stem_bits, 2 ** (stem_bits - 1), 0, 2**stem_bits - 1), model.conv1)
    return model.eval()


def settle(model: nn.Module) -> None:
    """Batch norm with random scales and shifts, and the statistics of random images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
            norm.momentum = None  # the mean of all batches
        model.train()
        for seed in range(2):
            model(torch.from_numpy(images(8, seed)))
    model.eval()


def images(count: int, seed: int) -> np.ndarray:
    """Normalised: smooth, with some noise."""
    random = np.random.default_rng(100 + seed)
    coarse = torch.from_numpy(random.standard_normal((count, 3, 14, 14)).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").numpy()
    return smooth + np.float32(0.3) * random.standard_normal(smooth.shape).astype(np.float32)


def packed(model: nn.Module, folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    bitwright.pack(model, (torch.zeros(1, 3, SIZE, SIZE),)).save(path)
    return path


def check(name: str, model: nn.Module, path: Path, threads: int) -> dict[str, Any]:
    """The engine computes what torch and the reference engine do, on the kernels of codes. How far they are apart."""
    engine = bitwright.load(path, threads=threads)
    kernels = [step.kernel for step in engine.plan]
    binary = sum(kernel.startswith(("bits", "bytes")) for kernel in kernels)
    assert binary >= 16, f"{name}: {binary} of 16 binary convolutions run on codes: {kernels}"
    x = images(IMAGES, 50)
    found = engine(x)
    with torch.inference_mode():
        theirs = model(torch.from_numpy(x)).numpy()
    reference = bitwright.load(path, engine="reference")(x[:1])
    apart = {"torch": compare(name, found, theirs), "reference": compare(name, found[:1], reference)}
    return {"bytes": path.stat().st_size, "binary_kernels": binary, "apart": apart}


def compare(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Labels are equal; the typical difference as a share of the range.

    Rounding in the float stem carries a few values across the boundary of a sign, which changes what follows a little.
    """
    assert np.array_equal(found.argmax(1), expected.argmax(1)), f"{name}: labels differ"
    apart = float(np.median(np.abs(found - expected)) / np.ptp(expected))
    assert apart <= 0.01, f"{name}: outputs are typically {apart:.2g} of their range apart"
    return apart


def dense_peers(folder: Path, inputs: list[np.ndarray], threads: int) -> tuple[dict[str, Any], Callable[[], None]]:
    """The float ResNet-18 in onnxruntime float32 and int8, torch, and our engine; and their check."""
    torch.manual_seed(1)
    model = bitwright.create_model("resnet-18")
    settle(model)
    engine = bitwright.load(packed(model, folder, "dense"), threads=threads)
    dense = {name: tensor.dense() for name, tensor in engine.stored.items()}
    onnx = to_onnx(engine.graph, dense)
    feeds = [{"input_0": x} for x in inputs]
    torch_peer = open_torch(engine.graph, dense, threads)
    peers: dict[str, Any] = {
        contest.ORT: contest.onnx_calls(onnx, feeds, threads),
        contest.TORCH: [lambda x=x: torch_peer(x)[0] for x in inputs],
    }
    for form, int8 in quantized(onnx, feeds).items():
        peers[f"{contest.ORT_INT8} {form}"] = contest.onnx_calls(int8, feeds, threads)
    peers["bitwright dense float32"] = calls(engine, inputs)

    def check_peers() -> None:
        expected = peers[contest.ORT][0]().copy()
        for name in (contest.TORCH, "bitwright dense float32"):
            contest.assert_close(name, peers[name][0](), expected, 1e-3)

    return peers, check_peers


def calls(engine: bitwright.Model, inputs: list[np.ndarray]) -> contest.Calls:
    return [lambda x=x: engine(x) for x in inputs]


def peak_seconds(threads: int) -> float:
    """Of the popcount peak loop, in so many threads at once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))  # the threads exist
        start = time.perf_counter()
        list(pool.map(lambda _: _native.popcount_peak(), range(threads)))
        return time.perf_counter() - start


def scaling(path: Path, inputs: list[np.ndarray]) -> dict[str, float]:
    """How many times as fast two threads are: the network, and the peak loop beside it; medians of pairs."""
    engines = [bitwright.load(path, threads=threads) for threads in (1, 2)]
    network, loop = [], []
    for i in range(PAIRS + 2):
        seconds = [contest.as_timer(calls(engine, inputs), 2)(20) for engine in engines]
        peak = [peak_seconds(threads) for threads in (1, 2)]
        if i >= 2:
            network.append(seconds[0] / seconds[1])
            loop.append(2 * peak[0] / peak[1])
    return {"network": float(np.median(network)), "peak": float(np.median(loop))}


def judge_scaling(found: dict[str, float]) -> dict[str, Any]:
    share = found["network"] / found["peak"]
    ours, peer = "bitwright in two threads", "the scaling of the peak loop"
    return {"ours": ours, "peer": peer, "wanted": SCALING, "times": share, "holds": share >= SCALING}


def cases(options: argparse.Namespace) -> Iterator[contest.Case]:
    inputs = [images(1, seed) for seed in range(contest.INPUTS)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        contestants: dict[str, Any] = {}
        facts: dict[str, Any] = {"file_limit": FILE_BYTES}
        for name, bits in (("bitwright", None), ("bitwright 8-bit stem", 8)):
            model = binary_resnet(bits)
            path = packed(model, folder, name.replace(" ", "-"))
            facts[name] = check(name, model, path, options.threads)
            assert facts[name]["bytes"] <= FILE_BYTES, f"{name}: the file has {facts[name]['bytes']:,} bytes"
            engine = bitwright.load(path, threads=options.threads)
            contestants[name] = calls(engine, inputs)
            facts[name] |= layer_times(path, engine, (inputs[0],))
            print(f"{name}: {facts[name]['bytes']:,} bytes, outputs apart {facts[name]['apart']}")
        peers, check_peers = dense_peers(folder, inputs, options.threads)
        judged = []
        if options.threads == 1 and not options.no_scaling:
            facts["scaling"] = scaling(folder / "bitwright.safetensors", inputs)
            judged.append(judge_scaling(facts["scaling"]))
            print("two threads: {network:.2f} x, the peak loop {peak:.2f} x".format(**facts["scaling"]))
        yield contest.Case(
            "ResNet-18 binary 224x224 batch 1",
            2 * 1_814_073_344,
            {**contestants, **peers},
            check_peers,
            [
                contest.Claim(6.5),
                contest.Claim(2.0, contest.INT8_PEERS),
                contest.Claim(6.5, ours="bitwright 8-bit stem"),
            ],
            judged=judged,
            facts=facts,
        )


if __name__ == "__main__":
    parser = contest.options(__doc__)
    parser.add_argument("--no-scaling", action="store_true", help="leave the second thread out")
    sys.exit(contest.main(__doc__, cases, parser.parse_args()))
