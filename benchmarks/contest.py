"""What the benchmark scripts share: contestants that take turns, the peers, and the table of what they needed.

A script gives `main` a function that yields cases. Every case is checked first. Then its contestants run in turns,
round after round, on inputs that change, so that a busy machine hurts all alike; with one thread its own CPU time
counts, which other programs do not lengthen. A turn begins with a call that is not counted. Printed: median and median
absolute deviation of milliseconds, Gop/s (two operations per multiply-accumulate of the dense computation), how many
times ours each takes (above 1: ours is faster), and whether the claims hold.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bitwright import _native
from bitwright.measure.machine import describe_machine, versions

Array = np.ndarray
Calls = list[Callable[[], Any]]

INPUTS = 4  # different inputs per case, taken in turn
ORT, ORT_INT8, TORCH = "onnxruntime float32", "onnxruntime int8", "torch float32"
FLOAT_PEERS, INT8_PEERS = (ORT, TORCH), (ORT_INT8, f"{ORT_INT8} NHWC", f"{ORT_INT8} QDQ", f"{ORT_INT8} QOperator")


class Timer(Protocol):
    """Seconds per call of so many calls, on inputs that change; `_native.Stopwatch` is one."""

    def __call__(self, repeats: int, /) -> float: ...


@dataclass(frozen=True)
class Claim:
    """`ours` takes at most 1 / `times` of what the fastest of the `peers` that take part takes."""

    times: float
    peers: Sequence[str] = FLOAT_PEERS
    ours: str = "bitwright"


@dataclass(frozen=True)
class Case:
    """A computation and who does it: a timer, or calls, one for each input. The first contestant is ours.

    `operations` are those of the dense computation, two per multiply-accumulate. `check` raises AssertionError unless
    the contestants compute what they should. `peaks` gives, for contestants of which a share is wanted, operations per
    second of the loop that they could at best be. `facts` goes into the JSON as it is. `judged` are claims about other
    figures, in the form that `judge` gives.
    """

    name: str
    operations: float
    contestants: dict[str, Timer | Calls]
    check: Callable[[], None] = lambda: None
    claims: Sequence[Claim] = ()
    peaks: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    judged: Sequence[dict[str, Any]] = ()


def assert_close(name: str, found: Array, expected: Array, tolerance: float = 1e-4) -> None:
    """The largest difference is at most `tolerance` of the largest number expected; 0: equal."""
    assert found.shape == expected.shape, f"{name}: shape {found.shape}, expected {expected.shape}"
    error = float(np.abs(found.astype(np.float64) - expected).max()) / max(float(np.abs(expected).max()), 1e-30)
    assert error <= tolerance, f"{name} differs by {error:.2g} of the largest number"


# --- our side


def ours(operation: Any, inputs: Sequence[Sequence[Array]], batch: int = 1, threads: int = 1) -> Timer:
    """The times of an operation; `inputs` has a list of arrays for each of the inputs that take turns."""
    return _native.Stopwatch(
        operation, [[np.ascontiguousarray(a) for a in arrays] for arrays in inputs], batch, threads
    )


def nhwc(image: Array) -> Array:
    """(N, C, H, W) to contiguous (N, H, W, C)."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


# --- the peers


def torch_calls(function: Callable[..., Any], inputs: Sequence[Any], threads: int = 1) -> Calls:
    """`function` of torch tensors in channels_last order; `inputs` are arrays, or tuples of them."""
    import torch

    torch.set_num_threads(threads)

    def tensor(array: Array) -> Any:
        found = torch.from_numpy(array)
        return found.contiguous(memory_format=torch.channels_last) if array.ndim == 4 else found

    arguments = [tuple(map(tensor, x if isinstance(x, tuple) else (x,))) for x in inputs]

    def call(tensors: tuple[Any, ...]) -> Array:
        with torch.inference_mode():
            return function(*tensors).numpy()

    return [lambda t=tensors: call(t) for tensors in arguments]


def onnx_calls(model: bytes, feeds: Sequence[dict[str, Array]], threads: int = 1, optimized: bool = True) -> Calls:
    """Runs of an ONNX model by onnxruntime, in and out of buffers made before; each gives the first output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [_bound_call(session, feed) for feed in feeds]


def _bound_call(session: Any, feed: dict[str, Array]) -> Callable[[], Array]:
    import onnxruntime

    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    shapes = [output.shape for output in session.run(None, feed)]
    kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32}
    values = []
    for output, shape in zip(session.get_outputs(), shapes, strict=True):
        values.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, kinds[output.type])))
        binding.bind_ortvalue_output(output.name, values[-1])

    def call() -> Array:
        session.run_with_iobinding(binding)
        return values[0].numpy()

    return call


def onnx_model(
    nodes: Sequence[Any], constants: dict[str, Array], inputs: dict[str, tuple[Any, Any]], kind: Any
) -> bytes:
    """A serialised graph with the output "y" of an element type; `inputs` has name: (element type, shape)."""
    from onnx import helper, numpy_helper

    known = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    given = [helper.make_tensor_value_info(name, *described) for name, described in inputs.items()]
    made = helper.make_tensor_value_info("y", kind, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "case", given, [made], known), opset_imports=opsets, ir_version=8
    )
    return bytes(model.SerializeToString())


def onnx_float(
    op: str, inputs: Sequence[Array], constants: dict[str, Array], threads: int = 1, **attributes: Any
) -> Calls:
    """One float32 operation, "Conv" (pads=[1] * 4) or "MatMul" for example, of each input x and the constants."""
    from onnx import TensorProto, helper

    node = helper.make_node(op, ["x", *constants], ["y"], **attributes)
    model = onnx_model([node], constants, {"x": (TensorProto.FLOAT, inputs[0].shape)}, TensorProto.FLOAT)
    return onnx_calls(model, [{"x": x} for x in inputs], threads)


def onnx_int8_conv(
    weight: Array,
    image: tuple[int, int],
    *,
    batch: int = 1,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    threads: int = 1,
) -> dict[str, Calls]:
    """Convolution of random uint8 images by `weight` [O, C / groups, kh, kw] rounded to int8 per channel, to uint8.

    The operation alone, codes in and codes out: as ONNX has it (NCHW), and in the channels-last layout that
    onnxruntime turns whole networks into, where no transposition is left to time. The faster one counts.
    """
    from onnx import TensorProto, helper

    outputs, group_channels = weight.shape[:2]
    scale = np.abs(weight).reshape(outputs, -1).max(axis=1) / 127
    whole = np.clip(np.rint(weight / scale.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
    constants = {
        "xs": np.float32(0.02),
        "xz": np.uint8(128),
        "w": whole,
        "ws": scale.astype(np.float32),
        "wz": np.zeros(outputs, np.int8),
        "ys": np.float32(0.02 * np.sqrt(weight[0].size) * float(weight.std())),
        "yz": np.uint8(128),
    }
    window = {"pads": [*padding, *padding], "strides": list(stride), "dilations": list(dilation), "group": groups}
    names, u8 = ["x", *constants], TensorProto.UINT8
    channels = group_channels * groups
    random = np.random.default_rng(7)
    images = [random.integers(0, 256, (batch, channels, *image), dtype=np.uint8) for _ in range(INPUTS)]
    found = {}
    for name, domain, extra, arrays in (
        (ORT_INT8, "", {}, images),
        (f"{ORT_INT8} NHWC", "com.microsoft", {"channels_last": 1}, [nhwc(x) for x in images]),
    ):
        node = helper.make_node(
            "QLinearConv", names, ["y"], domain=domain, kernel_shape=weight.shape[2:], **window, **extra
        )
        model = onnx_model([node], constants, {"x": (u8, arrays[0].shape)}, u8)
        found[name] = onnx_calls(model, [{"x": x} for x in arrays], threads, optimized=False)
    np.testing.assert_array_equal(found[ORT_INT8][0]().transpose(0, 2, 3, 1), found[f"{ORT_INT8} NHWC"][0]())
    return found


def onnx_int8_linear(weight: Array, *, batch: int = 1, threads: int = 1) -> dict[str, Calls]:
    """Rows of random uint8 times `weight` [O, C] rounded to int8 per channel, to uint8: the operation alone."""
    from onnx import TensorProto, helper

    scale = np.abs(weight).max(axis=1) / 127
    constants = {
        "xs": np.float32(0.02),
        "xz": np.uint8(128),
        "w": np.ascontiguousarray(np.rint(weight / scale[:, None]).astype(np.int8).T),
        "ws": scale.astype(np.float32),
        "wz": np.zeros(len(weight), np.int8),
        "ys": np.float32(0.02 * np.sqrt(weight.shape[1]) * float(weight.std())),
        "yz": np.uint8(128),
    }
    random, u8 = np.random.default_rng(7), TensorProto.UINT8
    rows = [random.integers(0, 256, (batch, weight.shape[1]), dtype=np.uint8) for _ in range(INPUTS)]
    node = helper.make_node("QLinearMatMul", ["x", *constants], ["y"])
    model = onnx_model([node], constants, {"x": (u8, rows[0].shape)}, u8)
    return {ORT_INT8: onnx_calls(model, [{"x": x} for x in rows], threads)}


# --- taking turns


def as_timer(contestant: Timer | Calls, threads: int) -> Timer:
    """Seconds per call of so many calls, the inputs in turn."""
    if not isinstance(contestant, list):
        return contestant
    clock = time.thread_time if threads == 1 else time.perf_counter

    def timer(repeats: int) -> float:
        start = clock()
        for i in range(repeats):
            contestant[i % len(contestant)]()
        return (clock() - start) / repeats

    return timer


def measure(case: Case, rounds: int, threads: int, turn: float = 0.002) -> dict[str, dict[str, float]]:
    """Median and median absolute deviation, in milliseconds, and Gop/s of every contestant.

    A turn is a call that is not timed and then `turn` seconds of calls, at least five: what is measured is a network
    that is called again and again, not one in the caches that another network has just left.
    """
    timers = {name: as_timer(contestant, threads) for name, contestant in case.contestants.items() if contestant}
    repeats = {}
    for name, timer in timers.items():
        timer(3)  # warm
        repeats[name] = max(5, int(turn / max(timer(5), 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            timer(1)
            times[name].append(timer(repeats[name]) * 1e3)
    result = {}
    for name, values in times.items():
        median = float(np.median(values))
        spread = float(np.median(np.abs(np.array(values) - median)))
        result[name] = {"ms": median, "mad": spread, "gops": case.operations / median / 1e6}
        if name in case.peaks:
            result[name]["share"] = result[name]["gops"] * 1e9 / case.peaks[name]
    first = next(iter(result.values()))["ms"]
    for row in result.values():
        row["ratio"] = row["ms"] / first
    return result


def judge(claim: Claim, found: dict[str, dict[str, float]]) -> dict[str, Any] | None:
    """The claim beside what was found; None if its contestants did not take part."""
    peers = {name: found[name]["ms"] for name in claim.peers if name in found}
    if claim.ours not in found or not peers:
        return None
    best = min(peers, key=peers.__getitem__)
    times = peers[best] / found[claim.ours]["ms"]
    return {"ours": claim.ours, "peer": best, "wanted": claim.times, "times": times, "holds": times >= claim.times}


# --- the script around it


def options(description: str) -> argparse.ArgumentParser:
    """What every script takes; more may be added."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--isa", choices=_native.isa_names(), default=None, help="narrow the instruction set")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser


def main(description: str, cases: Callable[[argparse.Namespace], Iterable[Case]], arguments: Any = None) -> int:
    """Check, measure and print the cases; the exit status is 1 if a claim does not hold.

    `cases` is called with the options after --isa is set; `arguments`, the parsed `options`, where a script has more.
    """
    chosen = arguments or options(description).parse_args()
    _native.set_isa(chosen.isa)
    report: dict[str, Any] = {"machine": describe_machine(), "versions": versions(), "isa": _native.isa()}
    report.update(threads=chosen.threads, rounds=chosen.rounds, cases={})
    print(f"{report['machine']['cpu']}, {report['isa']} kernels, {chosen.threads} thread(s)")
    claims = []
    for case in cases(chosen):
        if chosen.only not in case.name:
            continue
        case.check()
        found = measure(case, chosen.rounds, chosen.threads)
        judged = [verdict for claim in case.claims if (verdict := judge(claim, found))] + list(case.judged)
        claims += judged
        report["cases"][case.name] = {
            "operations": case.operations, "contestants": found, "claims": judged, **case.facts
        }  # fmt: skip
        for line in lines(case.name, found, judged):
            print(line, flush=True)
    good = all(claim["holds"] for claim in claims)
    if claims:
        print("claims hold" if good else "CLAIMS DO NOT HOLD")
    if chosen.json:
        from bitwright.files import write_atomic

        write_atomic(chosen.json, json.dumps(report, indent=1) + "\n")
    return 0 if good else 1


def lines(name: str, found: dict[str, dict[str, float]], claims: list[dict[str, Any]]) -> Iterator[str]:
    """The table of a case."""
    width = max(map(len, found))
    yield name
    for contestant, row in found.items():
        share = f"{row['share']:7.1%} of peak" if "share" in row else ""
        yield (
            f"  {contestant:{width}s} {row['ms']:10.4f} ms +- {row['mad']:7.4f} {row['gops']:8.1f} Gop/s"
            f"  x{row['ratio']:6.2f}{share}"
        )
    for claim in claims:
        verdict = "holds" if claim["holds"] else "DOES NOT HOLD"
        yield f"  {claim['ours']}: {claim['times']:.2f} x {claim['peer']}, claimed {claim['wanted']} x: {verdict}"
