"""Weight sharing at scale: 100 million weights into 256 clusters, and scikit-learn's KMeans on 5 million.

    python benchmarks/bench_share.py [--weights 100000000] [--peer 5000000] [--json FILE]

Claims: at most 30 s and 4 GB for 100 million weights; from the same start a distortion no higher than scikit-learn's,
many times faster. Each part runs in a process of its own, so that its peak memory (the
kernel's ru_maxrss) is its own; the weights are float32, normally distributed. The clustering runs in one thread and its
limit is checked in CPU seconds, which other programs on the machine do not lengthen; scikit-learn uses what it finds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

CLUSTERS = 256
SECONDS, GIGABYTES = 30.0, 4.0


def weights(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count, dtype=np.float32)


def distortion(values: np.ndarray, shared: np.ndarray) -> float:
    """Mean squared error, in blocks and float64."""
    blocks = (slice(i, i + (1 << 20)) for i in range(0, len(values), 1 << 20))
    return sum(float(np.sum((values[b].astype(np.float64) - shared[b]) ** 2)) for b in blocks) / len(values)


def peak() -> float:
    """The most memory this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def large(count: int, entropy: float) -> dict[str, Any]:
    """One run on `count` weights, data included in the memory."""
    from bitwright.steps.clusters import cluster

    values = weights(count, 0)
    start, begin = time.perf_counter(), time.process_time()
    found = cluster(values, CLUSTERS, entropy=entropy)
    seconds, cpu = time.perf_counter() - start, time.process_time() - begin
    used = peak()
    error = distortion(values, found.weights())
    return {
        "weights": count,
        "entropy": entropy,
        "clusters": len(found.codebook),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "gigabytes": used,
        "mse": error,
    }


def ours(count: int, seed: int) -> tuple[float, float]:
    """Seconds and distortion."""
    from bitwright.steps.clusters import cluster

    values = weights(count, seed)
    start = time.perf_counter()
    shared = cluster(values, CLUSTERS).weights()
    return time.perf_counter() - start, distortion(values, shared)


def theirs(count: int, seed: int) -> tuple[float, float]:
    """The same start (linear), to convergence as scikit-learn defines it by default (300 iterations, tol 1e-4)."""
    from sklearn.cluster import KMeans

    values = weights(count, seed)
    begin = np.linspace(values.min(), values.max(), CLUSTERS, dtype=np.float32)[:, None]
    start = time.perf_counter()
    model = KMeans(CLUSTERS, init=begin, n_init=1).fit(values[:, None])
    shared = model.cluster_centers_[:, 0][model.labels_]
    return time.perf_counter() - start, distortion(values, shared)


def alone(function: Any, *arguments: Any) -> Any:
    """Run it in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=int, default=100_000_000)
    parser.add_argument("--peer", type=int, default=5_000_000, help="weights for the comparison; 0 leaves it out")
    parser.add_argument("--repeat", type=int, default=3, help="interleaved repetitions of the comparison")
    parser.add_argument("--json", help="also write the figures there")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, NumPy {np.__version__}"
    result: dict[str, Any] = {"machine": machine, "large": []}
    print(machine)
    for entropy in (0.0, 0.001):
        row = alone(large, options.weights, entropy)
        result["large"].append(row)
        print("{weights:,} weights, entropy {entropy}: {clusters} clusters".format(**row), end=", ")
        print("{seconds:.1f} s (CPU {cpu_seconds:.1f} s), peak {gigabytes:.2f} GB, mse {mse:.3e}".format(**row))
    good = all(row["cpu_seconds"] <= SECONDS and row["gigabytes"] <= GIGABYTES for row in result["large"])
    if options.peer:
        good &= compare(options.peer, options.repeat, result)
    if options.json:
        from bitwright.files import write_atomic

        write_atomic(options.json, json.dumps(result, indent=1))
    print("claims hold" if good else "CLAIMS DO NOT HOLD")
    return 0 if good else 1


def compare(count: int, repeat: int, result: dict[str, Any]) -> bool:
    """Median times of interleaved runs, and distortions."""
    pairs = [(alone(ours, count, seed), alone(theirs, count, seed)) for seed in range(repeat)]
    mine, peer = (statistics.median(pair[i][0] for pair in pairs) for i in (0, 1))
    ratios = [a[1] / b[1] for a, b in pairs]
    result["peer"] = {
        "weights": count,
        "seconds": [a[0] for a, _ in pairs],
        "sklearn_seconds": [b[0] for _, b in pairs],
        "time_ratio": peer / mine,
        "mse_ratios": ratios,
    }
    print(f"{count:,} weights: {mine:.2f} s, scikit-learn {peer:.1f} s (medians of {repeat}): {peer / mine:.0f} times")
    print("distortion relative to scikit-learn's:", ", ".join(f"{ratio:.4f}" for ratio in ratios))
    return max(ratios) <= 1.0 + 1e-6


if __name__ == "__main__":
    sys.exit(main())
