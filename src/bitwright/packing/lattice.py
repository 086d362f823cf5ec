"""Weights as whole numbers times a magnitude per output channel: what integer layers compute with.

A lattice is a function of the numbers alone, not of how a file stores them, so every engine finds the same one.
FORMAT.md 8.2 has the rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

LARGEST = 127
"""The largest whole number of a lattice, -128 the smallest: weights fit a signed byte."""
_BLOCK = 1 << 18  # elements that are looked at together: the first block turns most other tensors away
_SMALLEST = np.float32(2.0**-100)  # of a weight that is not zero, so that no step is subnormal
_SCREEN = 2.0**-22  # how far, relatively, a weight may be from a multiple of an approximate step: twice two roundings


@dataclass(frozen=True)
class Lattice:
    """w = float32(positive[o] * k) for every weight w of output channel o; with `two_magnitudes` k is -1, 0 or 1, and
    k = -1 means -negative[o].

    integers   the numbers k, int8 (int16 where one needs it), in the tensor's shape
    positive   float32, one per output channel (the first axis), above zero; 1 for a channel of zeros
    negative   the same array as `positive` unless the weight is ternary with two magnitudes
    """

    integers: Array
    positive: Array
    negative: Array

    @property
    def two_magnitudes(self) -> bool:
        """Whether the sums over k = 1 and over k = -1 are scaled apart."""
        return self.negative is not self.positive

    @property
    def largest_sum(self) -> int:
        """The largest sum of |k| over one output channel."""
        return int(np.abs(self.integers.reshape(len(self.integers), -1).astype(np.int32)).sum(axis=1).max())


def find_lattice(weight: Array, largest: int = LARGEST) -> Lattice | None:
    """The lattice of a float32 tensor of two or more dimensions with -`largest` - 1 <= k <= `largest` (at
    most 32,767), or None.

    Signs and ternary weights have k in -1, 0, 1. They are ternary if each output channel holds at most one number above
    zero and one below; where these differ in magnitude in any channel, the lattice has two magnitudes. Otherwise
    each channel has the largest float32 step of which all its weights are, rounded, multiples k.
    """
    if weight.ndim < 2 or not weight.size:
        return None
    matrix = np.ascontiguousarray(weight, np.float32).reshape(len(weight), -1)
    if (found := find_ternary(matrix)) is None and (found := find_multiples(matrix, largest)) is None:
        return None
    integers, positive, negative = found
    return Lattice(integers.reshape(weight.shape), positive, negative)


def find_ternary(matrix: Array) -> tuple[Array, Array, Array] | None:
    """Signs (int8) and magnitudes above and below zero per row, if no row has more than one of each."""
    rows, columns = matrix.shape
    integers = np.empty((rows, columns), np.int8)
    above, below = np.empty(rows, np.float32), np.empty(rows, np.float32)
    size = max(1, _BLOCK // columns)
    for start in range(0, rows, size):
        block, part = matrix[start : start + size], slice(start, start + size)
        high, low = block.max(axis=1), block.min(axis=1)
        positive, negative = block > 0, block < 0
        if not ((~positive | (block == high[:, None])) & (~negative | (block == low[:, None]))).all():
            return None
        integers[part] = positive.view(np.int8) - negative.view(np.int8)
        above[part], below[part] = np.maximum(high, 0), np.maximum(-low, 0)
    one = np.float32(1)
    positive = np.where(above > 0, above, np.where(below > 0, below, one))
    negative = np.where(below > 0, below, positive)
    return integers, positive, positive if np.array_equal(positive, negative) else negative


def find_multiples(matrix: Array, largest: int = LARGEST) -> tuple[Array, Array, Array] | None:
    """Multiples (int8, or int16 where one needs it) and, twice, the largest steps per row, if each row has one."""
    integers = np.zeros(matrix.shape, np.int16)
    steps = np.ones(len(matrix), np.float32)
    for row, numbers in enumerate(matrix):
        magnitudes = np.abs(numbers)
        if not (longest := magnitudes.max()):
            continue
        step = _largest_step(magnitudes, longest, largest + 1)
        if step is None or (longest / step > largest + 0.5 and longest in numbers):
            return None
        steps[row], integers[row] = step, np.rint(numbers / step)
    narrow = integers.astype(np.int8)
    return narrow if np.array_equal(narrow, integers) else integers, steps, steps


def _largest_step(magnitudes: Array, longest: np.float32, largest: int) -> np.float32 | None:
    """The largest float32 of which all `magnitudes` are rounded multiples, none more than `largest` times it.

    The smallest weight is j times the step, so the step is about a j-th of it: that leaves `largest` places to look at,
    nearly all of which a few weights rule out, and at each place a handful of float32 numbers. The largest of those
    that suit a few weights is tried on all; one that it does not suit then rules out more.
    """
    shortest = magnitudes.min(where=magnitudes > 0, initial=longest)
    if shortest < _SMALLEST or longest > (largest + 0.5) * np.float64(shortest):
        return None
    divisors = np.arange(1, int((largest + 0.5) * np.float64(shortest) / longest) + 1)
    few = np.unique(np.append(magnitudes[:64], longest))
    for weight in few[few > 0]:
        multiples = divisors * (np.float64(weight) / np.float64(shortest))
        divisors = divisors[np.abs(multiples - np.rint(multiples)) <= _SCREEN * multiples]
    for part in np.split(divisors, [8, 256]):  # the largest steps first: most often one of them is it
        steps = _near((shortest / part.astype(np.float64)).astype(np.float32))
        while len(steps := steps[_multiple(steps[:, None], few, largest).all(axis=1)]):
            wrong = np.flatnonzero(~_multiple(steps[0], magnitudes, largest))
            if not len(wrong):
                return np.float32(steps[0])
            few = np.append(few, magnitudes[wrong[:1]])
    return None


def _near(numbers: Array) -> Array:
    """Each number and two on either side of it, the largest first: all whose multiple can round to the same weight."""
    return (numbers.view(np.int32)[:, None] + np.arange(2, -3, -1, dtype=np.int32)).reshape(-1).view(np.float32)


def _multiple(steps: Array, magnitudes: Array, largest: int) -> Array:
    """Where a magnitude is a rounded multiple of a step; both broadcast."""
    with np.errstate(over="ignore", invalid="ignore"):  # steps beside the largest float32 are infinite or NaN
        multiples = np.rint(magnitudes / steps)
        return (multiples <= largest) & (multiples * steps == magnitudes)
