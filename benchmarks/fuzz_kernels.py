"""Random shapes through every native operation at every instruction set, against plain NumPy.

    python benchmarks/fuzz_kernels.py [COUNT=10000] [--seed S] [--only FAMILY]

Integer operations must give every bit of the exact sums and of FORMAT.md's arithmetic after them, float operations be
within a tolerance (`fuzz/endings.py`) of the sum of magnitudes; the instruction set and the number of threads change
nothing in the one and stay within the tolerance in the other. `run_operation` refuses what an operation writes beyond
its outputs, and what it forgets to write shows as a pattern. `make sanitize` runs it with AddressSanitizer and UBSan.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from bitwright import _native
from fuzz.channels import joined
from fuzz.codes import bit_conv, byte_conv, encode, exact_conv, pool_codes
from fuzz.floats import (
    blocked_conv,
    coded_linear,
    float_conv,
    float_linear,
    pattern_conv,
    pattern_linear,
    product_linear,
    sparse_conv,
    sparse_linear,
)
from fuzz.training import training
from fuzz.trial import Array, Call, Random, Trial, chance, pick
from fuzz.unweighted import average_pool, elementwise, max_pool, movers, reductions

FAMILIES: dict[str, tuple[Callable[[Random], Trial | Call], float]] = {
    "bit_conv": (bit_conv, 4),
    "byte_conv": (byte_conv, 3),
    "encode": (encode, 2),
    "pool_codes": (pool_codes, 1),
    "float_conv": (float_conv, 2),
    "float_linear": (float_linear, 1),
    "sparse_linear": (sparse_linear, 1),
    "sparse_conv": (sparse_conv, 1),
    "pattern_conv": (pattern_conv, 1),
    "pattern_linear": (pattern_linear, 1),
    "blocked_conv": (blocked_conv, 1),
    "coded_linear": (coded_linear, 1),
    "product_linear": (product_linear, 1),
    "exact_conv": (exact_conv, 1),
    "elementwise": (elementwise, 1),
    "movers": (movers, 1),
    "reductions": (reductions, 0.5),
    "joined": (joined, 0.5),
    "max_pool": (max_pool, 1),
    "average_pool": (average_pool, 1),
    "training": (training, 1),
}
"""And how often each is tried."""


def run(trial: Trial | Call, isa: str, threads: int) -> list[Array]:
    """The outputs at one level."""
    _native.set_isa(isa)
    try:
        if isinstance(trial, Call):
            return trial.call(threads)
        return list(_native.run_operation(trial.make(), trial.inputs, trial.batch, threads))
    finally:
        _native.set_isa(None)


def run_in_plan(trial: Trial, isa: str, threads: int, pass_bytes: int) -> list[Array]:
    """The outputs at one level from a plan that may write over the inputs, as later steps copy the results."""
    _native.set_isa(isa)
    try:
        operation = trial.make()
        sizes, values = operation.output_bytes, len(operation.input_bytes)
        copies = [(_native.PadOp([size // 4], [0], [0], 0.0), [values + i]) for i, size in enumerate(sizes)]
        results = [values + len(sizes) + i for i in range(len(sizes))]
        plan = _native.Plan(operation.input_bytes, [(operation, list(range(values))), *copies], results, pass_bytes)
    finally:
        _native.set_isa(None)
    outputs = [np.full(trial.batch * size, 0xA5, np.uint8) for size in sizes]
    inputs = [x.copy() for x in trial.inputs]
    for _ in range(2):  # the second time the arena is no longer zero
        plan.run(inputs, outputs, trial.batch, threads)
    assert all(x.tobytes() == y.tobytes() for x, y in zip(inputs, trial.inputs, strict=True)), "an input was changed"
    return outputs


def fuzz(trials: int, seed: int, only: str = "") -> Counter[str]:
    """How many trials each family had; AssertionError, with how to repeat it, where one fails."""
    names = [name for name in FAMILIES if only in name]
    weights = np.array([FAMILIES[name][1] for name in names])
    done: Counter[str] = Counter()
    for number in range(seed, seed + trials):
        random = np.random.default_rng(number)
        name = names[int(random.choice(len(names), p=weights / weights.sum()))]
        trial = FAMILIES[name][0](random)
        for isa in _native.isa_names():
            threads = int(random.integers(1, 4))
            try:
                trial.check(run(trial, isa, threads))
                plain = isinstance(trial, Trial) and not any(x[0].nbytes % 4 for x in trial.inputs)
                if isinstance(trial, Trial) and plain and chance(random, 0.2):
                    trial.check(run_in_plan(trial, isa, threads, pick(random, 1, 10_000, 1 << 20)))
            except (AssertionError, ValueError, RuntimeError) as error:
                repeat = f"fuzz_kernels.py 1 --seed {number}" + (f" --only {only}" if only else "")
                raise AssertionError(f"{name} {isa} {threads} threads: {error}\n{trial.shape}\n{repeat}") from error
        done[name] += 1
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="families whose name has this in it")
    options = parser.parse_args()
    start = time.perf_counter()
    done = fuzz(options.count, options.seed, options.only)
    tried = ", ".join(f"{name} {times}" for name, times in sorted(done.items()))
    print(f"{options.count} trials at {', '.join(_native.isa_names())} in {time.perf_counter() - start:.0f} s: {tried}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
