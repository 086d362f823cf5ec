"""A list of distinct values and one code per weight: entropy(codes) <= log2 k bits per weight, 32 k bits for the list.

Weight sharing, Deep Compression (Han, Mao, Dally, ICLR 2016), section 3: rate n b / (n log2 k + k b).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bitwright.packing.bits import Cursor
from bitwright.packing.coders import coder_codes
from bitwright.packing.encodings import Candidate, Content, Sparse, Weight
from bitwright.packing.profile import Profile
from bitwright.packing.values import CODES, Trace, Values, read_values


class Codebook:
    """w_i = c[code_i], c ascending, at most 65,536 entries. Zero, if it occurs, is one of them."""

    name = "codebook"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """One where there are few enough distinct values."""
        coders = coder_codes(profile.coders)
        if weight.values.fits(CODES):
            yield Candidate(weight.values.estimate(CODES), lambda: weight.values.write(CODES, coders))

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """The list, then the codes. Mostly zeros: the content also comes as non-zeros."""
        values = read_values(cursor, CODES, math.prod(shape), trace=trace)
        return Content(values.numbers, _sparse(values))


def _sparse(values: Values) -> Sparse | None:
    table, codes = values.listed
    positions = np.flatnonzero(values.numbers)
    if 2 * len(positions) > len(values.numbers) or not len(positions):
        return None
    codes = codes[positions]
    codes -= codes > np.searchsorted(table, 0)  # the codebook without its zero
    table = table[table != 0]
    return Sparse(positions, codes.astype(np.uint8 if len(table) <= 256 else np.uint16), table, None)


ENCODING = Codebook()
