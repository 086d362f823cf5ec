"""How long things take: medians of calls that take turns, after their outputs were compared.

Contestants take turns so that all meet the same machine; the input changes from call to call. A turn is a few calls in
a row, the first of them not counted: it finds the caches full of the others' numbers. The spread is half the distance
of the quartiles: half of all calls lie within median +- spread, if they are symmetric.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.measure.layers import layer_times
from bitwright.measure.machine import describe_machine, versions
from bitwright.measure.peers import PEERS, Peer, find_peers, has_quantizers, without_quantizers
from bitwright.runtime.engine import Model, load
from bitwright.runtime.graph import Graph

Array = np.ndarray

BATCHES = 4
"""Different inputs that the calls go through in turn."""
TURN = 5
"""Counted calls of a turn."""
ROUNDS = (30, 20_000)
"""At least and at most so many counted calls of each contestant."""
TOLERANCE = 1e-4
"""Largest difference of an output of the peer, as a share of the outputs' range: float32 engines differ by rounding."""
CODED = 2e-2
"""Where activations are coded, a value that rounding carries across the boundary of a sign changes all that follows,
the more the deeper the network: beyond this median difference a note says so, and no peer is refused for it."""


def measure_file(
    path: str | os.PathLike[str],
    threads: int = 1,
    batch: int = 1,
    seconds: float = 2.0,
    peers: Sequence[str] = PEERS,
    layers: bool = False,
    bits: Sequence[int] = (),
) -> dict[str, Any]:
    """Milliseconds of a packed file in the native engine, beside its peers where those are installed.

    The `peers` (onnxruntime in float32 and in int8, torch in float32) run the dense weights that the file decodes to,
    on the same inputs (random float32 images; pixels in 0..1 where the file normalizes them) and with as many
    `threads`. Outputs are compared before anything is timed, except those of int8 and of a network without its
    quantisers, which compute something else: they are peers in speed only. `seconds` is about how long to measure.
    `bits` are precisions of a file that has several, each a contestant; the peers run its highest.

    Gives {"contestants": [{"name", "median", "spread", "rounds", "ratio"}], "notes": [why there is no peer, or how far
    one differs], "isa", "threads", "batch", "machine", "versions"}, times in ms for one call on the whole batch;
    `layers` adds "layers" and "peaks", see `measure.layers`, of one precision. Raises `BitwrightError` if a peer's
    outputs differ (kind "differs") and no quantised activations explain it, or as `load` does.
    """
    for name, value in (("threads", threads), ("batch", batch)):
        if type(value) is not int or value < 1:
            raise BitwrightError(f"{name} is {value!r}; expected an integer from 1", kind="value")
    if layers and len(bits) > 1:
        raise BitwrightError(
            f"layers of {len(bits)} precisions at once; name one of {', '.join(map(str, bits))}", kind="bits"
        )
    from bitwright import _native

    model = load(path, threads=threads)
    own = {f"bitwright, {k} bit{'s' * (k > 1)}": model.at(k) for k in bits} or {"bitwright": model}
    inputs = random_inputs(model, batch)
    dense = {name: tensor.dense() for name, tensor in model.stored.items()}
    found, notes = find_peers(model.graph, dense, inputs, threads, peers)
    coded = has_quantizers(model.graph)
    for peer in found:
        if peer.same:
            notes += compare_outputs(peer.name, peer.run(*inputs[0]), model(*inputs[0]), coded)
    times = take_turns({**own, **{peer.name: peer.run for peer in found}}, inputs, seconds)
    for slower in _slower_rivals(found, times):
        del times[slower]
    ours = times[next(iter(own))]["median"]
    result = {
        "contestants": [{"name": name, **row, "ratio": row["median"] / ours} for name, row in times.items()],
        "notes": notes,
        "isa": _native.isa(),
        "threads": threads,
        "batch": batch,
        "machine": describe_machine(),
        "versions": versions(),
    }
    return result | layer_times(path, next(iter(own.values())), inputs[0]) if layers else result


def measure_beside_floats(
    path: str | os.PathLike[str],
    graph: Graph,
    weights: Mapping[str, Array],
    threads: int = 1,
    batches: Sequence[int] = (1, 64),
) -> dict[str, Any]:
    """Milliseconds of a packed file in the native engine, beside a float network in onnxruntime: float32 and int8.

    `graph` and `weights` are of a network of the same architecture; quantisers in it are left out. int8 is the faster
    of onnxruntime's two forms. They compute something else than the file, so that only their speed counts.

    Gives {"threads", "isa", "batches": {"1": {"engine": {"median", "spread", "rounds"}, "float32", "int8"}, "64": ..},
    "notes": [why there is no peer]}, of a file of several precisions also each but the highest under its bits; ms for
    one call on the whole batch. Takes a few seconds.
    """
    from bitwright import _native

    model = load(path, threads=threads)
    graph, weights = without_quantizers(graph, weights)
    found, notes = find_peers(graph, weights, random_inputs(model, 1), threads, ("onnxruntime",))
    result: dict[str, Any] = {"threads": threads, "isa": _native.isa(), "batches": {}, "notes": notes}
    for batch in batches:
        contestants: dict[str, Callable[..., Any]] = {"bitwright": model, **{peer.name: peer.run for peer in found}}
        contestants |= {f"bits {k}": model.at(k) for k in model.bits[:-1]}
        times = take_turns(contestants, random_inputs(model, batch), seconds=1.0, least=ROUNDS[0] if batch == 1 else 10)
        for slower in _slower_rivals(found, times):
            del times[slower]
        result["batches"][str(batch)] = {_role(name): row for name, row in times.items()}
    return result


def _role(name: str) -> str:
    """ "engine", "float32", "int8" or a number of bits of a contestant's name."""
    return "engine" if name == "bitwright" else name.split(" ")[1]


def _slower_rivals(peers: Sequence[Peer], times: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names of those that have a faster rival."""
    best: dict[str, str] = {}
    for peer in peers:
        leader = best.setdefault(peer.rival, peer.name)
        if times[peer.name]["median"] < times[leader]["median"]:
            best[peer.rival] = peer.name
    return [peer.name for peer in peers if peer.rival and best[peer.rival] != peer.name]


def take_turns(
    callees: Mapping[str, Callable[..., Any]],
    inputs: list[tuple[Array, ...]],
    seconds: float = 2.0,
    least: int = ROUNDS[0],
) -> dict[str, dict[str, float]]:
    """Median and spread in ms, and the calls counted, of each function, called in turns on the inputs in turn.

    It takes about `seconds`, or as long as `least` calls of each do, in whole turns.
    """
    seen: dict[str, list[float]] = {name: [] for name in callees}
    end, turns = time.perf_counter() + seconds, 0
    while turns * TURN < least or (time.perf_counter() < end and turns * TURN < ROUNDS[1]):
        for name, function in callees.items():
            times = [_milliseconds(function, inputs[(turns + i) % len(inputs)]) for i in range(1 + TURN)]
            seen[name] += times[1:]
        turns += 1
    result = {}
    for name, values in seen.items():
        low, median, high = np.percentile(values, (25, 50, 75))
        result[name] = {"median": float(median), "spread": float(high - low) / 2, "rounds": len(values)}
    return result


def _milliseconds(function: Callable[..., Any], arguments: tuple[Array, ...]) -> float:
    """Of one call."""
    begun = time.perf_counter_ns()
    function(*arguments)
    return (time.perf_counter_ns() - begun) / 1e6


def compare_outputs(name: str, found: Any, expected: Any, coded: bool = False) -> list[str]:
    """Raise if the outputs of a contestant are not ours, by more than `TOLERANCE` of their range.

    If activations are `coded`, differences of finite numbers are no error: gives a note for each output whose median
    difference is beyond `CODED`.
    """
    ours = expected if isinstance(expected, tuple) else (expected,)
    notes = []
    for i, (theirs, mine) in enumerate(zip(found, ours, strict=True)):
        if theirs.shape != mine.shape:
            raise BitwrightError(
                f"{name} gives output {i} the shape {theirs.shape}; ours is {mine.shape}", kind="differs"
            )
        differences = np.abs(theirs - mine) / max(float(np.ptp(mine)), 1e-30)
        largest, typical = float(np.max(differences)), float(np.median(differences))
        if not largest <= (np.finfo(np.float32).max if coded else TOLERANCE):
            raise BitwrightError(
                f"{name} differs in output {i} by {largest:.1e} of its range; at most {TOLERANCE:.0e} is rounding. "
                "One of the two is wrong, so no time is given",
                kind="differs",
            )
        if typical > CODED:
            notes.append(
                f"{name} differs in output {i} by {typical:.1e} of its range (median): it rounds sums that are exact "
                "here, and a code that rounding changes changes all behind it"
            )
    return notes


def random_inputs(model: Model, batch: int) -> list[tuple[Array, ...]]:
    """`BATCHES` different inputs of a model."""
    random = np.random.default_rng(0)

    def one(index: int, shape: tuple[int, ...]) -> Array:
        pixels = index in model.graph.pixel_inputs()
        values = random.random((batch, *shape)) if pixels else random.standard_normal((batch, *shape))
        return values.astype(np.float32)

    return [tuple(one(i, shape) for i, shape in enumerate(model.input_shapes)) for _ in range(BATCHES)]
