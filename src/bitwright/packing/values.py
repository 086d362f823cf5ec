"""The values of a tensor as streams: float32, float16, or codes into a sorted list (FORMAT.md 4.1)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import StreamInfo, estimate_bits, read_stream, width_of, write_stream

FLOAT32, FLOAT16, CODES = 0, 1, 2
LARGEST_TABLE = 1 << 16
_SAMPLE = 1 << 18  # of a larger tensor, this many values tell whether a list of distinct values can be short enough

Trace = list[StreamInfo] | None


@dataclass(frozen=True)
class Values:
    """Numbers in the order in which they are stored.

    `table` are the distinct non-filler numbers, ascending, and `codes` (uint16) say which; None where there are too
    many. With `fillers`, code 0 and the number 0.0 mean a filler entry of a relative index, code c the number c-1.
    """

    numbers: np.ndarray
    table: np.ndarray | None
    codes: np.ndarray | None
    fillers: bool = False

    @classmethod
    def of(cls, numbers: np.ndarray) -> Values:
        """Values of these float32 numbers, with their table if it can be stored."""
        if len(numbers) == 0 or len(np.unique(numbers[:_SAMPLE])) > LARGEST_TABLE:
            return cls(numbers, None, None)
        table, codes = np.unique(numbers, return_inverse=True)
        if len(table) > LARGEST_TABLE:
            return cls(numbers, None, None)
        return cls(numbers, table, codes.astype(np.uint16))

    @property
    def listed(self) -> tuple[np.ndarray, np.ndarray]:
        """Table and codes, where it is known that they exist."""
        assert self.table is not None
        assert self.codes is not None
        return self.table, self.codes

    def reorder(self, order: np.ndarray) -> Values:
        """The same values visited in another order."""
        codes = None if self.codes is None else self.codes[order]
        return replace(self, numbers=self.numbers[order], codes=codes)

    def with_fillers(self, is_filler: np.ndarray) -> Values:
        """The same values with filler entries between them (`is_filler`: one flag per entry)."""
        if not is_filler.any():
            return self
        numbers = np.zeros(len(is_filler), np.float32)
        numbers[~is_filler] = self.numbers
        if self.table is None or self.codes is None or len(self.table) >= LARGEST_TABLE:
            return Values(numbers, None, None, fillers=True)
        codes = np.zeros(len(is_filler), np.uint16)
        codes[~is_filler] = self.codes + 1
        return Values(numbers, self.table, codes, fillers=True)

    def fits(self, kind: int) -> bool:
        """Whether this kind stores the numbers exactly."""
        return (
            kind == FLOAT32
            or (kind == FLOAT16 and fits_half(self.numbers))
            or (kind == CODES and self.table is not None)
        )

    def estimate(self, kind: int) -> float:
        """About the bits that `write` will take."""
        if kind == CODES:
            table, codes = self.listed
            size = 16 if fits_half(table) else 32
            return 24 + size * len(table) + estimate_bits(np.bincount(codes), width_of(codes))
        return sum(estimate_bits(np.bincount(plane, minlength=256), 8) for plane in planes(self.numbers, kind))

    def write(self, kind: int, coders: Collection[int]) -> bytes:
        """The bytes of FORMAT.md 4.1."""
        if kind != CODES:
            return b"".join(write_stream(plane, width_of(plane), coders) for plane in planes(self.numbers, kind))
        table, codes = self.listed
        return write_list(table) + write_stream(codes, width_of(codes), coders)


def fits_half(numbers: np.ndarray) -> bool:
    """Whether float16 holds every number exactly."""
    with np.errstate(over="ignore"):
        return bool((numbers.astype(np.float16).astype(np.float32) == numbers).all())


def planes(numbers: np.ndarray, kind: int) -> list[np.ndarray]:
    """The bytes of the bit patterns rotated left by one, plane by plane, lowest first."""
    if kind == FLOAT32:
        pattern = numbers.astype("<f4").view("<u4")
        rotated = pattern << np.uint32(1) | pattern >> np.uint32(31)
    else:
        pattern = numbers.astype("<f2").view("<u2")
        rotated = pattern << np.uint16(1) | pattern >> np.uint16(15)
    size = rotated.dtype.itemsize
    return list(rotated.view(np.uint8).reshape(-1, size).T)


def read_values(cursor: Cursor, kind: int, count: int, fillers: bool = False, trace: Trace = None) -> Values:
    """The `count` values at the cursor; refuses what FORMAT.md 4.1 forbids."""
    if kind == CODES:
        return _read_codes(cursor, count, fillers, trace)
    dtype, rotate = ("<u4", 31) if kind == FLOAT32 else ("<u2", 15)
    rotated = np.zeros(count, dtype)
    for j in range(rotated.itemsize):
        rotated |= read_stream(cursor, count, trace, width=8).astype(dtype) << rotated.dtype.type(8 * j)
    one, high = rotated.dtype.type(1), rotated.dtype.type(rotate)
    numbers = (rotated >> one | rotated << high).view(dtype.replace("u", "f")).astype(np.float32)
    return Values(_checked(cursor, numbers), None, None, fillers)


def write_list(table: np.ndarray) -> bytes:
    """The list of distinct values, in float16 where that is exact."""
    half = fits_half(table)
    return varint(len(table) - 1) + bytes([half]) + table.astype("<f2" if half else "<f4").tobytes()


def read_list(cursor: Cursor, longest: int = LARGEST_TABLE) -> np.ndarray:
    """The list of distinct values, strictly ascending."""
    size = cursor.varint() + 1
    if size > longest:
        raise cursor.fail(f"a list of {size} values, {longest} are allowed", kind="codebook")
    kind = cursor.u8()
    if kind > 1:
        raise cursor.fail(f"a list of values of kind {kind}", kind="codebook")
    raw = cursor.take(size * (2 if kind else 4))
    table = _checked(cursor, np.frombuffer(raw, "<f2" if kind else "<f4").astype(np.float32))
    if not (table[:-1] < table[1:]).all():
        raise cursor.fail("the list of values is not strictly ascending", kind="codebook")
    return table


def _read_codes(cursor: Cursor, count: int, fillers: bool, trace: Trace) -> Values:
    table = read_list(cursor)
    codes = read_stream(cursor, count, trace)
    if len(codes) and int(codes.max()) >= len(table) + fillers:
        raise cursor.fail(f"code {int(codes.max())} where there are {len(table)} values", kind="codebook")
    numbers = np.append(np.float32(0), table)[codes] if fillers else table[codes]
    return Values(numbers, table, codes, fillers)


def _checked(cursor: Cursor, numbers: np.ndarray) -> np.ndarray:
    if not np.isfinite(numbers).all():
        raise cursor.fail("a value that is not finite", kind="value")
    if (np.signbit(numbers) & (numbers == 0)).any():
        raise cursor.fail("a value that is -0.0", kind="value")
    return numbers
