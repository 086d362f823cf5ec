"""Speed of the float kernels and of those on sparse codes: as fast as PyTorch and onnxruntime, and faster still.

Each case is checked against PyTorch first. Then all contestants run in turns, round after round, on inputs that change,
so that a busy machine hurts all alike; with one thread the thread's own CPU time is taken, which other programs do not
lengthen. Printed: median and median absolute deviation of milliseconds, GFLOP/s of the dense computation, their share
of the machine's peak (a large matrix product; sparse layers, which leave out most of the work, may go beyond), and how
many times bitwright's time each takes (above 1: bitwright is faster).

    python benchmarks/bench_kernels.py [--threads 1] [--rounds 60] [--isa avx2] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import peak
from bitwright import _native

INPUTS = 4  # different inputs per case, taken in turn
SECONDS_PER_ROUND = 0.002  # of one contestant
TOLERANCE = 1e-4  # of the largest output; a sanity check, the tests have the exact bound


@dataclass(frozen=True)
class Case:
    """A kernel, its inputs and its contestants; the first contestant is bitwright, the second PyTorch."""

    name: str
    flops: float
    contestants: dict[str, list[Callable[[], np.ndarray]]]


def onnx_calls(op: str, inputs: list[np.ndarray], constants: dict[str, np.ndarray], threads: int, **attributes) -> list:
    """The same operation as a model of one node in onnxruntime; empty where that is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return []
    helper = onnx.helper
    node = helper.make_node(op, ["x", *constants], ["y"], **attributes)
    known = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, inputs[0].shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph([node], op, [x], [y], known), opset_imports=opset, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [lambda v=value: session.run(None, {"x": v})[0] for value in inputs]


def conv_case(channels: int, size: int, batch: int, threads: int) -> Case:
    rng = np.random.default_rng(channels)
    w = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    images = [rng.standard_normal((batch, channels, size, size)).astype(np.float32) for _ in range(INPUTS)]
    native = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for x in images]
    packed, tw = _native.conv2d_pack(w), torch.from_numpy(w)
    tensors = [torch.from_numpy(x) for x in images]
    return Case(
        f"conv {channels:3d}@{size:2d} batch {batch}",
        2.0 * batch * size * size * channels * channels * 9,
        {
            "bitwright": [lambda v=x: _native.conv2d(v, packed, None, (1, 1), (1, 1), (1, 1), threads) for x in native],
            "torch": [lambda v=x: F.conv2d(v, tw, padding=1).numpy() for x in tensors],
            "onnxruntime": onnx_calls("Conv", images, {"w": w}, threads, pads=[1, 1, 1, 1]),
        },
    )


def linear_case(batch: int, density: float | None, bits: int, threads: int) -> Case:
    """The first layer of LeNet-300-100; with a density, sparse and sharing 2^bits values."""
    rng = np.random.default_rng(bits)
    w = rng.standard_normal((300, 784)).astype(np.float32)
    rows = [rng.standard_normal((batch, 784)).astype(np.float32) for _ in range(INPUTS)]
    if density is None:
        packed = _native.linear_pack(w)
        native = [lambda v=x: _native.linear(v, packed, None, threads) for x in rows]
        name = f"linear 784x300 batch {batch}"
    else:
        positions = np.flatnonzero(rng.random(w.size) < density)
        table = rng.standard_normal(2**bits).astype(np.float32)
        codes = rng.integers(0, 2**bits, len(positions)).astype(np.uint8)
        w[:] = 0
        w.ravel()[positions] = table[codes]
        sparse = _native.sparse_linear_pack(300, 784, positions, codes, table)
        native = [lambda v=x: _native.sparse_linear(v, sparse, None, threads) for x in rows]
        name = f"linear 784x300 {density:.0%} {bits} bits batch {batch}"
    tw = torch.from_numpy(w)
    return Case(
        name,
        2.0 * batch * w.size,
        {
            "bitwright": native,
            "torch": [lambda v=x: F.linear(v, tw).numpy() for x in map(torch.from_numpy, rows)],
            "onnxruntime": onnx_calls("MatMul", rows, {"w": np.ascontiguousarray(w.T)}, threads),
        },
    )


def check(case: Case) -> None:
    """Every contestant gives PyTorch's result on every input."""
    for i, call in enumerate(case.contestants["torch"]):
        expected = call()
        for name, calls in case.contestants.items():
            if not calls:
                continue
            found = calls[i]()
            if name == "bitwright" and found.ndim == 4:
                found = found.transpose(0, 3, 1, 2)
            error = np.abs(found - expected).max() / np.abs(expected).max()
            assert error < TOLERANCE, f"{case.name}: {name} differs by {error:.2g} of the largest output"


def seconds_per_call(calls: list[Callable[[], np.ndarray]], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for i in range(repeats):
        calls[i % len(calls)]()
    return (clock() - start) / repeats


def measure(case: Case, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """Median and median absolute deviation, in milliseconds, per contestant."""
    contestants = {name: calls for name, calls in case.contestants.items() if calls}
    clock = time.thread_time if threads == 1 else time.perf_counter
    repeats = {}
    for name, calls in contestants.items():
        seconds_per_call(calls, 3, clock)  # warm
        repeats[name] = max(1, int(SECONDS_PER_ROUND / seconds_per_call(calls, 10, clock)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, calls in contestants.items():
            times[name].append(seconds_per_call(calls, repeats[name], clock) * 1e3)
    result = {}
    for name, values in times.items():
        median = float(np.median(values))
        spread = float(np.median(np.abs(np.array(values) - median)))
        result[name] = {"ms": median, "mad": spread, "gflops": case.flops / median / 1e6}
    for values in result.values():
        values["ratio"] = values["ms"] / result["bitwright"]["ms"]
    return result


def all_cases(threads: int) -> list[Case]:
    convs = [(16, 32), (32, 16), (64, 8), (64, 56)]
    cases = [conv_case(channels, size, 1, threads) for channels, size in convs]
    cases += [conv_case(channels, size, 16, threads) for channels, size in convs[:3]]
    for batch in (1, 64):
        cases.append(linear_case(batch, None, 0, threads))
        cases += [linear_case(batch, 0.08, bits, threads) for bits in (5, 6)]
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--isa", choices=["ref", "avx2", "avx512"], default=None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _native.set_isa(options.isa)
    report = {"isa": _native.isa(), "threads": options.threads, "peak_gflops": peak.gflops(options.threads)}
    report["machine"] = platform.processor() or platform.machine()
    if not options.json:
        print("{isa}, {threads} threads, peak {peak_gflops:.1f} GFLOP/s".format(**report))
    results = {}
    with torch.inference_mode():
        for case in all_cases(options.threads):
            check(case)
            results[case.name] = measure(case, options.rounds, options.threads)
            if not options.json:
                for name, v in results[case.name].items():
                    share = v["gflops"] / report["peak_gflops"]
                    line = f"{v['ms']:9.4f} ms +- {v['mad']:7.4f}  {v['gflops']:7.1f} GFLOP/s {share:6.0%}"
                    print(f"{case.name:36s} {name:12s} {line}  x{v['ratio']:5.2f}", flush=True)
    if options.json:
        print(json.dumps({**report, "results": results}, indent=2))


if __name__ == "__main__":
    main()
