"""How fast this machine copies memory: the yardstick of decoders."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

TRIES = 15


def best_seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    """The fastest of some calls."""
    seconds = []
    for _ in range(TRIES):
        start = clock()
        function()
        seconds.append(clock() - start)
    return min(seconds)


def copied_bytes(count: int) -> float:
    """Bytes per second of copying an array of `count` bytes, by one thread."""
    source = np.ones(count, np.uint8)
    target = np.empty_like(source)
    return count / best_seconds(lambda: np.copyto(target, source), time.thread_time)
