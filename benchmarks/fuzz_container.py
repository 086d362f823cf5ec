"""Mutates packed files and reads them: each must be refused with a BitwrightError or load. No crash, no hang.

    python benchmarks/fuzz_container.py [N=100000] [--seed S]

Mutations: bit flips, truncations, splices, edits of the safetensors header, of the JSON and of the records; most with
checksum, compression and header redone, so that the deep checks are reached. Each file that loads is also decoded,
densely and as non-zeros. Prints how many mutants met which refusal, and the slowest.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitwright import BitwrightError
from bitwright.packing.container import read_container
from bitwright.packing.envelope import unwrap, wrap

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
MAX_BYTES = 1 << 24
Random = np.random.Generator
ODD = [0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**63, -(2**40), 1.5, "", "x", None, True, [], {}, [[]], [0], {"a": 1}]


def flip(data: bytes, rng: Random) -> bytes:
    """One to eight bits the other way."""
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if result else 0):
        result[rng.integers(len(result))] ^= 1 << int(rng.integers(8))
    return bytes(result)


def overwrite(data: bytes, rng: Random) -> bytes:
    """A few bytes become extreme or random."""
    start, size = int(rng.integers(len(data) + 1)), int(rng.integers(1, 9))
    new = rng.choice([b"\0" * size, b"\xff" * size, b"\x80" * size, rng.bytes(size)])
    return data[:start] + new + data[start + size :]


def truncate(data: bytes, rng: Random) -> bytes:
    """Some of the end is missing."""
    return data[: int(rng.integers(len(data) + 1))]


def splice(data: bytes, rng: Random) -> bytes:
    """A piece is copied to another place, over what is there or between it."""
    a, b, to = (int(n) for n in rng.integers(0, len(data) + 1, 3))
    piece = data[min(a, b) : max(a, b)]
    return data[:to] + piece + data[to + (len(piece) if rng.random() < 0.5 else 0) :]


BYTES: list[Callable[[bytes, Random], bytes]] = [flip, overwrite, truncate, splice]


def any_bytes(data: bytes, rng: Random) -> bytes:
    """One of the mutations of bytes."""
    return BYTES[rng.integers(len(BYTES))](data, rng)


def edit_json(value: Any, rng: Random) -> Any:
    """The JSON value with one place of it changed: replaced, removed, doubled, or a number shifted a little."""
    if isinstance(value, list | dict) and value and rng.random() < 0.85:
        key = int(rng.integers(len(value))) if isinstance(value, list) else list(value)[rng.integers(len(value))]
        value = value.copy()
        choice = rng.random()
        if choice < 0.06:
            del value[key]
        elif choice < 0.12 and isinstance(value, list):
            value.insert(key, value[int(rng.integers(len(value)))])
        elif choice < 0.16 and isinstance(value, dict):
            value["new"] = value[key]
        else:
            value[key] = edit_json(value[key], rng)
        return value
    if isinstance(value, int) and rng.random() < 0.6:
        return value + int(rng.integers(-3, 4))
    return ODD[rng.integers(len(ODD))]


def whole(file: bytes, rng: Random) -> bytes:
    """Bytes of the file change, nothing is redone: mostly the checksum's business."""
    return any_bytes(file, rng)


def header(file: bytes, rng: Random) -> bytes:
    """The safetensors header changes, its length is redone."""
    length = int.from_bytes(file[:8], "little")
    text = file[8 : 8 + length]
    new = any_bytes(text, rng) if rng.random() < 0.3 else json.dumps(edit_json(json.loads(text), rng)).encode()
    return len(new).to_bytes(8, "little") + new + file[8 + length :]


def graph(file: bytes, rng: Random) -> bytes:
    """One to three places of the JSON change; compression, checksum and header are redone."""
    content, data = unwrap(file, MAX_BYTES)
    for _ in range(int(rng.integers(1, 4))):
        content = edit_json(content, rng)
    return wrap(content, data)


def records(file: bytes, rng: Random) -> bytes:
    """The records change; their total size in the JSON, checksum and header are redone."""
    content, data = unwrap(file, MAX_BYTES)
    entries = [entry for entry in content["t"] if len(entry) == 4] + content["s"]
    target, start = int(rng.integers(len(entries))), 0
    for entry in entries[:target]:
        start += entry[-1]
    stop = start + entries[target][-1]
    record = any_bytes(data[start:stop], rng)
    entries[target][-1] = len(record)
    return wrap(content, data[:start] + record + data[stop:])


def both(file: bytes, rng: Random) -> bytes:
    """The records, then the JSON."""
    return graph(records(file, rng), rng)


MUTATIONS = [whole, header, graph, records, records, records, both]


def read_all(data: bytes) -> str:
    """Decode everything. The kind of the refusal, or "loads"."""
    try:
        for stored in read_container(data, MAX_BYTES).stored.values():
            dense, sparse = stored.dense(), stored.sparse()
            assert np.isfinite(dense).all()
            assert sparse is None or np.flatnonzero(dense).tolist() == sparse.positions.tolist()
    except BitwrightError as error:
        return error.kind or f"a refusal without a kind: {error}"
    return "loads"


def fuzz(count: int, seed: int) -> tuple[Counter[str], float]:
    """Outcomes of `count` mutants of the golden files, and the seconds of the slowest. Other exceptions escape."""
    files = [path.read_bytes() for path in sorted(GOLDEN.glob("[gq]*-*.safetensors"))]
    assert files, f"no golden files in {GOLDEN}"
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        try:
            mutant = mutation(files[rng.integers(len(files))], rng)
        except (BitwrightError, ValueError):  # the edit made something that JSON can't hold
            outcomes["not written"] += 1
            continue
        start = time.perf_counter()
        try:
            outcomes[read_all(mutant)] += 1
        except BaseException:
            print(f"mutant {number} of seed {seed} ({mutation.__name__})", file=sys.stderr)
            raise
        slowest = max(slowest, time.perf_counter() - start)
    return outcomes, slowest


def main() -> None:
    """Fuzz and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes, slowest = fuzz(options.count, options.seed)
    for outcome, times in outcomes.most_common():
        print(f"{outcome:12} {times:8}")
    print(f"{options.count} mutants in {time.perf_counter() - start:.0f} s, the slowest took {1000 * slowest:.0f} ms")


if __name__ == "__main__":
    main()
