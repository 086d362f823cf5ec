"""Dense float32 in byte planes: 32 bits per weight, less where the exponents are few. Holds everything."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bitwright.packing.bits import Cursor
from bitwright.packing.coders import coder_codes
from bitwright.packing.encodings import Candidate, Content, Weight
from bitwright.packing.profile import Profile
from bitwright.packing.values import FLOAT32, Trace, read_values


class Dense:
    """w = w."""

    name = "dense"

    def candidates(self, weight: Weight, profile: Profile) -> Iterator[Candidate]:
        """Always one."""
        coders = coder_codes(profile.coders)
        yield Candidate(weight.values.estimate(FLOAT32), lambda: weight.values.write(FLOAT32, coders))

    def read(self, cursor: Cursor, shape: tuple[int, ...], trace: Trace = None) -> Content:
        """Four byte planes."""
        return Content(read_values(cursor, FLOAT32, math.prod(shape), trace=trace).numbers)


ENCODING = Dense()
