"""Magnitudes and steps of quantised weights, one for a tensor or one per output channel (FORMAT.md 4.3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitwright.packing.bits import Cursor
from bitwright.packing.values import FLOAT16, FLOAT32, Trace, Values, fits_half, read_values

_TYPES = {FLOAT32: "<f4", FLOAT16: "<f2"}
PER_CHANNEL = 1
"""The flag of a record that has a number per output channel."""


@dataclass(frozen=True)
class Magnitudes:
    """The lists (one, or two for ternary weights) that begin a record, and the coders that it may use."""

    lists: list[np.ndarray]
    coders: Collection[int]

    @cached_property
    def bits(self) -> float:
        """About the bits that they take."""
        return 8.0 + 8 * sum(len(_write(numbers, self.coders)) for numbers in self.lists)

    def write(self, flags: int, between: bytes = b"") -> bytes:
        """The flags, what comes between, the lists."""
        head = bytes([flags | PER_CHANNEL * (len(self.lists[0]) > 1)]) + between
        return head + b"".join(_write(numbers, self.coders) for numbers in self.lists)


def _write(numbers: np.ndarray, coders: Collection[int]) -> bytes:
    kind = FLOAT16 if fits_half(numbers) else FLOAT32
    raw = numbers.astype(_TYPES[kind]).tobytes()
    return bytes([kind]) + (raw if len(numbers) == 1 else Values(numbers, None, None).write(kind, coders))


def fewest(*lists: np.ndarray) -> list[np.ndarray]:
    """The lists, cut to their first number where each of them repeats a single one."""
    return list(lists) if any((n != n[0]).any() for n in lists) else [n[:1] for n in lists]


def read_magnitudes(cursor: Cursor, count: int, trace: Trace) -> np.ndarray:
    """`count` float32 numbers, all above zero."""
    kind = cursor.u8()
    if kind not in (FLOAT32, FLOAT16):
        raise cursor.fail(f"magnitudes of kind {kind}", kind="lattice")
    if count == 1:
        magnitudes = np.frombuffer(cursor.take(4 - 2 * kind), _TYPES[kind]).astype(np.float32)
    else:
        magnitudes = read_values(cursor, kind, count, trace=trace).numbers
    if not ((magnitudes > 0) & np.isfinite(magnitudes)).all():
        raise cursor.fail(f"a magnitude of {magnitudes.min()}; all must be above zero, and finite", kind="lattice")
    return magnitudes


def read_flags(cursor: Cursor, allowed: int) -> int:
    """The flags of a record, none but `allowed` ones."""
    flags = cursor.u8()
    if flags & ~allowed:
        raise cursor.fail(f"flags {flags:#x}", kind="lattice")
    return flags
