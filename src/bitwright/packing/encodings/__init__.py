"""Exact storage forms of one tensor. One file each; a file put here is found, nothing lists it.

An encoding is an object with

* `name`: what the file calls it;
* `candidates(weight, profile)`: the ways in which it can hold `weight` exactly, each with about how many bits it takes
  and a function that makes the bytes of the record. None at all if it can't.
* `read(cursor, shape, trace)`: a record's content. Refuses anything that FORMAT.md forbids. The number of elements has
  been checked against `max_bytes` before.

The packer asks all encodings, makes the most promising records, takes the smallest, and verifies it bit for bit.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from bitwright.errors import BitwrightError, unknown
from bitwright.packing.bits import Cursor
from bitwright.packing.profile import Profile
from bitwright.packing.values import Trace, Values

SHORT_LIST = 4  # candidates that are really encoded; more gained nothing on the LeNets and on ResNet-20
_FAR = 3.0  # a candidate estimated at so many times the best one's bits is not encoded at all
SLOW_FROM, SLOW_GAIN = 1 << 20, 0.97
"""From this many weights on, a way that is slow to decode must save 3 % to be taken."""


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as FORMAT.md 4 sees it: the first dimension, and all others together."""
    return (shape[0], math.prod(shape[1:])) if len(shape) >= 2 else (1, math.prod(shape))


@dataclass(frozen=True)
class Weight:
    """A tensor to encode: finite float32 numbers without -0.0, flat in row-major order."""

    name: str
    shape: tuple[int, ...]
    numbers: np.ndarray

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> Weight:
        """Checks the tensor and turns -0.0 into 0.0."""
        if array.dtype not in (np.float32, np.float16):
            raise BitwrightError(
                f"tensor {name!r} has dtype {array.dtype}, float32 or float16 is needed; convert it first", kind="dtype"
            )
        numbers = array.astype(np.float32).reshape(-1) + np.float32(0)  # -0.0 + 0.0 is 0.0
        if not np.isfinite(numbers).all():
            at = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise BitwrightError(
                f"tensor {name!r} holds {numbers[at]} at element {at} of {len(numbers)}; "
                "only finite weights can be packed: find the step that made it",
                kind="value",
            )
        return cls(name, array.shape, numbers)

    @cached_property
    def values(self) -> Values:
        """All values."""
        return Values.of(self.numbers)

    @cached_property
    def nonzero(self) -> np.ndarray:
        """Flat positions (int64, ascending) of what is not zero."""
        return np.flatnonzero(self.numbers)

    @cached_property
    def nonzero_values(self) -> Values:
        """The values at `nonzero`."""
        return Values.of(self.numbers[self.nonzero])


@dataclass(frozen=True)
class Sparse:
    """A tensor as its non-zeros: `positions` (int64, ascending, flat) and either `codes` into `codebook` or `values`.

    `codes` is uint8 where the codebook (float32, ascending, without zero) has at most 256 entries, else uint16.
    """

    positions: np.ndarray
    codes: np.ndarray | None
    codebook: np.ndarray | None
    values: np.ndarray | None


@dataclass(frozen=True)
class Content:
    """What a record holds: the numbers flat in row-major order, and the non-zeros if the encoding is a sparse one."""

    numbers: np.ndarray
    sparse: Sparse | None = None


def sparse_if_sparse(numbers: np.ndarray, codebook: np.ndarray | None = None) -> Content:
    """The content with these numbers, also as non-zeros where they are at most half of it.

    `codebook`: all non-zeros that occur, ascending, if they are few.
    """
    positions = np.flatnonzero(numbers)
    if not len(positions) or 2 * len(positions) > len(numbers):
        return Content(numbers)
    values = numbers[positions]
    if codebook is None:
        return Content(numbers, Sparse(positions, None, None, values))
    codes = np.searchsorted(codebook, values)
    return Content(
        numbers, Sparse(positions, codes.astype(np.uint8 if len(codebook) <= 256 else np.uint16), codebook, None)
    )


@dataclass(frozen=True)
class Candidate:
    """One way to store a weight: about `bits` bits, made by `make`; `slow` if decoding takes tens of ns per weight."""

    bits: float
    make: Callable[[], bytes]
    slow: bool = False


class Encoding(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str: ...
    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]: ...
    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content: ...


def _discover() -> dict[str, Encoding]:
    found: dict[str, Encoding] = {}
    for module_info in pkgutil.iter_modules(__path__):
        encoding: Encoding = importlib.import_module(f"{__name__}.{module_info.name}").ENCODING
        if encoding.name in found:
            raise BitwrightError(f"two encodings are called {encoding.name!r}; rename one")
        found[encoding.name] = encoding
    return dict(sorted(found.items()))


def list_encodings() -> dict[str, Encoding]:
    """All encodings by name."""
    return dict(_all())


_found: dict[str, Encoding] = {}


def _all() -> dict[str, Encoding]:
    if not _found:  # not at import: the encodings import this module
        _found.update(_discover())
    return _found


def encode(weight: Weight, profile: Profile, name: str | None = None) -> tuple[str, bytes]:
    """The name and the record of the smallest encoding of `weight`, or of the one called `name`.

    Ties go to the first in alphabetical order, so the same weight always gets the same bytes.
    """
    for wanted in (name, profile.preferred, *profile.excluded):
        if wanted is not None and wanted not in _all():
            raise unknown("encoding", wanted, _all())
    allowed = [e for e in _all() if e not in profile.excluded] if name is None else [name]
    listed = _candidates(weight, profile, allowed)
    if name is None and profile.preferred is not None and len(weight.shape) >= 2:
        listed = [entry for entry in listed if entry[1] == profile.preferred] or listed
    if not listed:
        needs = "say for how many `elements`, " if name == "ese" and profile.elements is None else ""
        raise BitwrightError(
            f"tensor {weight.name!r} {weight.shape}: encoding {name!r} cannot hold it exactly; {needs}"
            "take it out of the profile's encodings or change the values",
            kind="profile",
        )
    listed = sorted(listed, key=lambda entry: entry[:3])[:SHORT_LIST]
    records = [(c.make(), e, c.slow) for bits, e, _, c in listed if bits <= _FAR * listed[0][0]]
    handicap = SLOW_GAIN if len(weight.numbers) > SLOW_FROM else 1.0
    record, best, _ = min(records, key=lambda r: (len(r[0]) / (handicap if r[2] else 1.0), r[1], r[0]))
    return best, record


def _candidates(weight: Weight, profile: Profile, names: list[str]) -> list[tuple[float, str, int, Candidate]]:
    """(estimated bits, encoding, number) of each candidate, which together order them, and the candidate."""
    return [(c.bits, e, i, c) for e in names for i, c in enumerate(_all()[e].candidates(weight, profile))]


def decode(name: str, record: bytes, shape: tuple[int, ...], where: str = "record", trace: Trace = None) -> Content:
    """The content of a record, all of which must be used."""
    cursor = Cursor(record, where)
    content = _all()[name].read(cursor, shape, trace)
    cursor.end()
    return content
