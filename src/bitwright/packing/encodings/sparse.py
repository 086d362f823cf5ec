"""Non-zeros only: where they are (gaps, mask, or context-coded mask) and what they are (floats or codes).

Bits: with density d and n weights, a mask takes about n H(d); gaps of b bits take (nonzeros + fillers) * H(gaps) and
another entry of the values per filler. FORMAT.md 4.2; relative index with fillers: Deep Compression (Han, Mao, Dally,
ICLR 2016), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitwright.packing.bits import Cursor, varint
from bitwright.packing.coders import coder_codes, entropy_bits, estimate_bits, read_stream, stream_width, write_stream
from bitwright.packing.encodings import Candidate, Content, Sparse, Weight, matrix_shape
from bitwright.packing.grid import LARGEST_LIST, read_grid, smallest, strides, write_grid
from bitwright.packing.positions import WIDEST_INDEX, View, from_gaps, gap_counts, to_gaps
from bitwright.packing.profile import VALUES as VALUE_NAMES
from bitwright.packing.profile import Profile
from bitwright.packing.values import CODES, FLOAT32, Trace, Values, read_values

GAPS, MASK, CONTEXT = 0, 1, 2
TRANSPOSED, LIVE_ROWS, LIVE_COLUMNS, RESERVED = 4, 8, 16, 128
_CONTEXT_GAIN = 0.7  # how much smaller than mask and codes the context coder may be at best, for the short list
_LARGEST_CONTEXT = 1 << 24  # elements; larger matrices would take seconds to decode
_SPARSEST_MASK = 1 << 10  # a mask is not considered where more than so many elements come on one non-zero


class SparseEncoding:
    """w = 0 except at the stored positions."""

    name = "sparse"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """One per visiting order, choice of left-out lines and way to store positions; none without a zero."""
        if len(weight.nonzero) == len(weight.numbers):
            return
        kinds = [k for k, name in enumerate(VALUE_NAMES) if name in profile.values and weight.nonzero_values.fits(k)]
        if not kinds:
            return
        kind = min(kinds, key=weight.nonzero_values.estimate)
        if "context" in profile.positions and len(weight.numbers) <= _LARGEST_CONTEXT:
            yield _context(weight, profile, kind)
        for view in _views(weight, profile):
            yield from _Plan(weight, view, kind, coder_codes(profile.coders)).candidates(profile)

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """Flags, live lines, positions, values."""
        flags = cursor.u8()
        kind, values_kind = flags & 3, flags >> 5 & 3
        if kind not in _READ_POSITIONS or values_kind > CODES or flags & RESERVED:
            raise cursor.fail(f"flags {flags:#x} of a sparse tensor", kind="sparse")
        view = _read_view(cursor, flags, matrix_shape(shape), trace)
        elements, nonzeros = math.prod(view.lines), cursor.varint()
        if nonzeros > elements:
            raise cursor.fail(f"{nonzeros} non-zeros among {elements} elements", kind="sparse")
        places, values = _READ_POSITIONS[kind](cursor, view, nonzeros, values_kind, trace)
        if not values.numbers.all() or (values.table is not None and not values.table.all()):
            raise cursor.fail("a zero among the values of non-zeros", kind="sparse")
        return _content(view, places, values, shape)


ENCODING = SparseEncoding()


@dataclass(frozen=True)
class _Plan:
    """The ways to store one weight in one view."""

    weight: Weight
    view: View
    kind: int
    coders: Collection[int]

    def candidates(self, profile: Profile) -> Iterator[Candidate]:
        places, order = self._places()
        elements, value_bits = math.prod(self.view.lines), self.weight.nonzero_values.estimate(self.kind)
        base = 8.0 + sum(20 + entropy_bits(np.bincount(mask)) for mask in self.view.masks)
        if "gaps" in profile.positions:
            width, bits = self._best_width(places, profile.index_bits(len(self.weight.shape)))
            yield Candidate(base + bits, lambda: self._gaps(places, order, width))
        mask_bits = entropy_bits(np.array([elements - len(places), len(places)]))
        if "mask" in profile.positions and elements <= _SPARSEST_MASK * (len(places) + 1):
            yield Candidate(base + mask_bits + 40 + value_bits, lambda: self._mask(places, order))

    def _places(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The non-zeros' places, ascending, and how their values must be reordered."""
        places = self.view.visit(self.weight.nonzero)
        if not self.view.transposed:
            return places, None
        order = np.argsort(places, kind="stable")
        return places[order], order

    def _best_width(self, places: np.ndarray, forced: int | None) -> tuple[int, float]:
        """The index width that costs least, codes of the fillers included, and about how many bits that takes."""
        zeros, times = np.unique(np.diff(places, prepend=-1) - 1, return_counts=True)
        values = self.weight.nonzero_values
        codes = np.zeros(1, np.int64) if values.codes is None else np.bincount(values.codes)
        costs = {}
        for width in range(1, WIDEST_INDEX + 1) if forced is None else (forced,):
            counts, fillers = gap_counts(zeros, times, width)
            filled = estimate_bits(np.append(fillers, codes), 16) if self.kind == CODES else 8.0 * fillers
            plain = estimate_bits(codes, 16) if self.kind == CODES else 0.0
            costs[width] = estimate_bits(counts, width) + filled - plain
        width = min(costs, key=lambda w: (costs[w], w))
        return width, costs[width] + values.estimate(self.kind)

    def _head(self, kind: int) -> bytes:
        flags = kind + TRANSPOSED * self.view.transposed + (self.kind << 5)
        flags += LIVE_ROWS * (self.view.rows is not None) + LIVE_COLUMNS * (self.view.columns is not None)
        lines = b"".join(write_stream(mask, 1, self.coders) for mask in self.view.masks)
        return bytes([flags]) + lines + varint(len(self.weight.nonzero))

    def _values(self, order: np.ndarray | None) -> Values:
        values = self.weight.nonzero_values
        return values if order is None else values.reorder(order)

    def _gaps(self, places: np.ndarray, order: np.ndarray | None, width: int) -> bytes:
        gaps, is_filler = to_gaps(places, width)
        values = self._values(order).with_fillers(is_filler)
        kind = self.kind if values.fits(self.kind) else FLOAT32  # 65,536 distinct values leave no code for the filler
        head = bytearray(self._head(GAPS))
        head[0] += (kind - self.kind) << 5
        stream = write_stream(gaps, width, self.coders)
        return bytes(head) + varint(len(gaps)) + stream + values.write(kind, self.coders)

    def grid(self, stride: int) -> bytes:
        """The record with the context coder."""
        places, order = self._places()
        values = self._values(order)
        record = self._head(CONTEXT) + write_grid(self.view, places, values, self.kind, stride)
        return record if self.kind == CODES else record + values.write(self.kind, self.coders)

    def _mask(self, places: np.ndarray, order: np.ndarray | None) -> bytes:
        mask = np.zeros(math.prod(self.view.lines), bool)
        mask[places] = True
        return self._head(MASK) + write_stream(mask, 1, self.coders) + self._values(order).write(self.kind, self.coders)


def _context(weight: Weight, profile: Profile, kind: int) -> Candidate:
    """The context coder, in the visiting orders, strides and choices of left-out lines that may suit the weight."""
    if kind == CODES and len(weight.nonzero_values.listed[0]) > LARGEST_LIST:
        kind = FLOAT32
    elements, nonzeros = len(weight.numbers), len(weight.nonzero)
    bits = entropy_bits(np.array([elements - nonzeros, nonzeros])) + weight.nonzero_values.estimate(kind)
    views = list(_views(weight, profile))
    whole = [v for v in views if v.columns is None and not v.transposed][-1]  # all columns, or a stride has no meaning
    plans = [(whole, stride) for stride in strides(weight.shape)]
    plans += [(v, 0) for v in (views[-1], views[len(views) // 2 - 1]) if v is not whole]
    tries = [partial(_Plan(weight, v, kind, coder_codes(profile.coders)).grid, stride) for v, stride in plans]
    return Candidate(_CONTEXT_GAIN * bits, lambda: smallest(list(tries)), slow=True)


def _views(weight: Weight, profile: Profile) -> Iterator[View]:
    shape = matrix_shape(weight.shape)
    r, c = np.divmod(weight.nonzero, max(1, shape[1]))
    rows, columns = np.bincount(r, minlength=shape[0]) > 0, np.bincount(c, minlength=shape[1]) > 0
    keep_rows = [None, rows] if profile.drop_dead and not rows.all() else [None]
    keep_columns = [None, columns] if profile.drop_dead and not columns.all() else [None]
    for transposed in (False, True) if profile.column_order and shape[0] > 1 else (False,):
        for kept_rows in keep_rows:
            for kept_columns in keep_columns:
                yield View(shape, transposed, kept_rows, kept_columns)


def _read_view(cursor: Cursor, flags: int, shape: tuple[int, int], trace: Trace) -> View:
    rows = read_stream(cursor, shape[0], trace, width=1).astype(bool) if flags & LIVE_ROWS else None
    columns = read_stream(cursor, shape[1], trace, width=1).astype(bool) if flags & LIVE_COLUMNS else None
    return View(shape, bool(flags & TRANSPOSED), rows, columns)


def _read_gaps(cursor: Cursor, view: View, nonzeros: int, kind: int, trace: Trace) -> tuple[np.ndarray, Values]:
    elements, entries = math.prod(view.lines), cursor.varint()
    if not nonzeros <= entries <= elements:
        raise cursor.fail(f"{entries} entries for {nonzeros} non-zeros of {elements} elements", kind="sparse")
    width = stream_width(cursor)
    if width == 0:
        raise cursor.fail("an index of 0 bits", kind="sparse")
    gaps = read_stream(cursor, entries, trace)
    places = from_gaps(gaps)
    if entries and int(places[-1]) >= elements:
        raise cursor.fail(f"position {int(places[-1])} of {elements} elements", kind="sparse")
    values = read_values(cursor, kind, entries, fillers=entries > nonzeros, trace=trace)
    if entries == nonzeros:
        return places, values
    is_filler = values.codes == 0 if values.codes is not None else values.numbers == 0
    if int(is_filler.sum()) != entries - nonzeros:
        raise cursor.fail(f"{int(is_filler.sum())} fillers, {entries - nonzeros} expected", kind="sparse")
    if is_filler[-1] or (gaps[is_filler] != (1 << width) - 1).any():
        raise cursor.fail("a filler at the end or without the widest gap", kind="sparse")
    codes = None if values.codes is None else values.codes[~is_filler] - np.uint16(1)
    return places[~is_filler], Values(values.numbers[~is_filler], values.table, codes)


def _read_mask(cursor: Cursor, view: View, nonzeros: int, kind: int, trace: Trace) -> tuple[np.ndarray, Values]:
    places = np.flatnonzero(read_stream(cursor, math.prod(view.lines), trace, width=1))
    if len(places) != nonzeros:
        raise cursor.fail(f"{len(places)} ones in the mask, {nonzeros} expected", kind="sparse")
    return places, read_values(cursor, kind, nonzeros, trace=trace)


_READ_POSITIONS: dict[int, Callable[[Cursor, View, int, int, Trace], tuple[np.ndarray, Values]]] = {
    GAPS: _read_gaps,
    MASK: _read_mask,
    CONTEXT: read_grid,
}


def _content(view: View, places: np.ndarray, values: Values, shape: tuple[int, ...]) -> Content:
    flat = view.flat(places)
    if view.transposed:
        order = np.argsort(flat, kind="stable")
        flat, values = flat[order], values.reorder(order)
    numbers = np.zeros(math.prod(shape), np.float32)
    numbers[flat] = values.numbers
    if values.table is None or values.codes is None:
        return Content(numbers, Sparse(flat, None, None, values.numbers))
    codes = values.codes.astype(np.uint8 if len(values.table) <= 256 else np.uint16)
    return Content(numbers, Sparse(flat, codes, values.table, None))
