"""Sparse linear layers on two threads: rows of unequal against rows of equal numbers of weights.

Processing elements with rows of their own wait for the one with most to do, which load-balance-aware pruning prevents
(Han et al. 2017). Threads are given equal work instead of equal numbers of rows, so they hardly wait either way. Timed
is the busier of two threads, alone and in its own CPU time, which other programs do not lengthen: unequal rows
("bitwright"), as many weights in equal rows, and unequal rows cut into equal numbers of rows. Claims: the first takes
at most 1.2 times the second, and at batch 1 the third at least 1.2 times the first. With --wall both threads run, on
two CPUs that nobody else uses: unequal against equal rows.

    python benchmarks/bench_balance.py [--wall] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import contest
from bitwright import _native
from contest import Array, Case, Claim, Timer

BALANCED, BY_ROWS = "balanced rows", "equal numbers of rows"
LAYERS = (((4096, 4096), 0.04, 32), ((4096, 4096), 0.1, None), ((1000, 4096), 0.1, None), ((1024, 1024), 0.1, 32))
BATCHES = (1, 64)
THREADS = 2


def unequal(rows: int, columns: int, density: float, rng: np.random.Generator) -> Array:
    """Numbers of non-zeros of rows, falling, spread as exp(0.7 normal)."""
    shares = np.sort(np.exp(0.7 * rng.standard_normal(rows)))[::-1]
    return np.minimum(np.rint(shares / shares.mean() * density * columns), columns).astype(np.int64)


def equal(counts: Array) -> Array:
    """As many non-zeros, in rows that differ by one at most."""
    return np.sort(np.diff(np.arange(len(counts) + 1) * counts.sum() // len(counts)))[::-1]


def operation(counts: Array, columns: int, table: int | None, rng: np.random.Generator) -> Any:
    """A layer whose rows have so many non-zeros."""
    rows = [np.sort(rng.permutation(columns)[:count]) + row * columns for row, count in enumerate(counts)]
    positions = np.concatenate(rows).astype(np.int64)
    values = rng.standard_normal(len(positions) if table is None else table).astype(np.float32)
    codes = None if table is None else rng.integers(0, table, len(positions)).astype(np.uint8)
    finish = _native.Finish(len(counts))
    return _native.SparseLinearOp(len(counts), columns, positions, codes, values, finish)


def busier(layer: Any, inputs: list[Array], equal_rows: bool = False) -> Timer:
    """Seconds of the thread that has more to do."""

    def timer(repeats: int) -> float:
        some = -(-repeats // len(inputs))
        seconds = [layer.part_seconds(x, THREADS, some, equal_rows) for x in inputs]
        return float(np.mean(seconds, axis=0).max())

    return timer


def cases(options: argparse.Namespace) -> Iterator[Case]:
    for (rows, columns), density, table in LAYERS:
        rng = np.random.default_rng(0)
        counts = unequal(rows, columns, density, rng)
        layer, balanced = (operation(own, columns, table, rng) for own in (counts, equal(counts)))
        for batch in BATCHES:
            inputs = [rng.standard_normal((batch, columns), dtype=np.float32) for _ in range(contest.INPUTS)]
            kind = "floats" if table is None else f"{table} values"
            name = f"linear {columns}>{rows} {density:.0%} {kind} batch {batch}"
            claims = [Claim(1 / 1.2, (BALANCED,)), *([Claim(1.2, (BY_ROWS,))] if batch == 1 else [])]
            timers: dict[str, Any] = {
                "bitwright": busier(layer, inputs),
                BALANCED: busier(balanced, inputs),
                BY_ROWS: busier(layer, inputs, equal_rows=True),
            }
            if options.wall:
                both = {"bitwright": layer, BALANCED: balanced}
                timers = {who: contest.ours(op, [[x] for x in inputs], batch, THREADS) for who, op in both.items()}
            facts = {
                "kernels": [layer.kernel, balanced.kernel],
                "share of the first half of the rows": float(counts[: rows // 2].sum() / counts.sum()),
            }
            yield Case(name, 2.0 * batch * rows * columns, timers, claims=claims, facts=facts)


if __name__ == "__main__":
    parser = contest.options(__doc__ or "")
    parser.add_argument("--wall", action="store_true", help="two threads at once")
    chosen = parser.parse_args()
    chosen.threads = THREADS if chosen.wall else 1
    raise SystemExit(contest.main(__doc__ or "", cases, chosen))
