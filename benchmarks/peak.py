"""What this machine does at best: the yardsticks for shares of its peak."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

SIZE, TRIES = 1024, 15


def best_seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    """The fastest of some calls."""
    seconds = []
    for _ in range(TRIES):
        start = clock()
        function()
        seconds.append(clock() - start)
    return min(seconds)


def gflops(threads: int) -> float:
    """Of PyTorch's product of two float32 matrices of 1024 x 1024: what its BLAS gets out of the units."""
    torch.set_num_threads(threads)
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    clock = time.thread_time if threads == 1 else time.perf_counter
    return 2.0 * SIZE**3 / best_seconds(lambda: a @ b, clock) / 1e9


def copied_bytes(count: int) -> float:
    """Bytes per second of copying an array of `count` bytes, by one thread."""
    source = np.ones(count, np.uint8)
    target = np.empty_like(source)
    return count / best_seconds(lambda: np.copyto(target, source), time.thread_time)
