"""A trial, random choices, and comparisons of what an operation gave with what it must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Random = np.random.Generator
Check = Callable[[list[Array]], None]


@dataclass(frozen=True)
class Trial:
    """An operation to make anew at every level, its inputs, and what its outputs must be."""

    make: Callable[[], Any]
    inputs: list[Array]
    batch: int
    check: Check
    shape: str


@dataclass(frozen=True)
class Call:
    """A native function that is no operation: given the number of threads it returns its results."""

    call: Callable[[int], list[Array]]
    check: Check
    shape: str


def chance(random: Random, probability: float = 0.5) -> bool:
    return bool(random.random() < probability)


def pick(random: Random, *choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def count(random: Random, least: int, most: int) -> int:
    """Small numbers more often."""
    return int(least + (most + 1 - least) * random.random() ** 2)


def odd_floats(random: Random, *shape: int) -> Array:
    """Normal ones, ties and zeros, sometimes NaN, infinities and the smallest."""
    x = random.standard_normal(shape).astype(np.float32)
    if chance(random):
        x = (np.rint(x * 2) / 2).astype(np.float32)
    if chance(random):
        odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38], np.float32)
        places = random.random(shape) < 0.02
        x[places] = random.choice(odd, int(places.sum()))
    return x


def compare(found: list[Array], expected: list[tuple[Array, int]], floats: bool) -> None:
    """Bit for bit, but zeros of either sign are equal."""
    assert len(found) == len(expected), f"{len(found)} outputs, expected {len(expected)}"
    for i, (output, (wanted, used)) in enumerate(zip(found, expected, strict=True)):
        got = output.reshape(len(wanted), -1)[:, :used]
        want = wanted[:, :used]
        if floats and i == 0:
            got, want = (np.ascontiguousarray(a).view(np.float32) for a in (got, want))
        wrong = np.count_nonzero((got != want) & ((got == got) | (want == want)))  # NaN is NaN
        assert not wrong, f"output {i}: {wrong} of {got.size} are wrong"


def exactly(operation: Callable[[], Any], inputs: list[Array], y: Array, shape: str) -> Trial:
    """An operation with one output of floats, known in every bit."""
    expected = [(np.ascontiguousarray(y, np.float32).reshape(len(y), -1).view(np.uint8), 4 * y[0].size)]
    return Trial(operation, inputs, len(y), lambda found: compare(found, expected, floats=True), shape)


def close(operation: Callable[[], Any], x: Array, y: Array, shape: str) -> Trial:
    """What is computed in float64 and rounded once."""

    def check(found: list[Array]) -> None:
        np.testing.assert_allclose(found[0].view(np.float32).reshape(y.shape), y, rtol=1e-6, atol=1e-7)

    return Trial(operation, [x], len(x), check, shape)
