"""Dense float16 in byte planes: at most 16 bits per weight, for tensors that float16 holds exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bitwright.packing.bits import Cursor
from bitwright.packing.coders import coder_codes
from bitwright.packing.encodings import Candidate, Content, Weight
from bitwright.packing.profile import Profile
from bitwright.packing.values import FLOAT16, Trace, read_values


class Half:
    """w = float16(w)."""

    name = "half"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """One where every value is exact in float16."""
        coders = coder_codes(profile.coders)
        if weight.values.fits(FLOAT16):
            yield Candidate(weight.values.estimate(FLOAT16), lambda: weight.values.write(FLOAT16, coders))

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """Two byte planes."""
        return Content(read_values(cursor, FLOAT16, math.prod(shape), trace=trace).numbers)


ENCODING = Half()
