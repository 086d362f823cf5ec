"""What a profile of bits saves: memory traffic (Judd et al. 2015), and time on a bit-serial machine (Stripes)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from bitwright.errors import BitwrightError

FLOAT_BITS = 32
PARALLEL_BITS = 16
"""Of the machine that Stripes is compared with."""
_CHANNELS, _FILTERS = 16, 256  # that it multiplies in a cycle


def traffic_ratio(values: Sequence[int], bits: Sequence[float]) -> float:
    """sum_l n_l b_l / (32 sum_l n_l): the share of float32's bits that are moved (Judd et al. 2015).

    `values` has n_l, how many numbers layer l gives (convolutions before pooling), `bits` b_l. Raises BitwrightError
    where they differ in length or are empty.
    """
    _check(values, bits, "values")
    moved = sum(n * b for n, b in zip(values, bits, strict=True))
    return moved / (FLOAT_BITS * sum(values))


class Work(NamedTuple):
    """A convolution: channels in and out, groups, height and width of the kernel and of the output."""

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return math.prod((*self.size, *self.kernel)) * self.inputs * self.outputs // self.groups

    @property
    def cycles(self) -> int:
        """Of the parallel machine, which takes 16 channels of 256 filters at once: Ho Wo D D ceil(C/16) ceil(F/256)."""
        per_group = math.ceil(self.inputs / self.groups / _CHANNELS) * math.ceil(self.outputs / self.groups / _FILTERS)
        return math.prod((*self.size, *self.kernel)) * per_group * self.groups


def stripes_speedup(
    layers: Sequence[Work], bits: Sequence[float], weighting: Literal["cycles", "macs"] = "cycles"
) -> float:
    """16 sum_l work_l / sum_l work_l p_l: the ideal gain of taking activations bit by bit (Judd et al. 2016).

    `bits` has p_l, those of what layer l reads. The work of a layer is its cycles on the parallel machine, which is
    what the paper's table has for LeNet, ConvNet and VGG-19, or its multiply-accumulates. Raises BitwrightError where
    the lengths differ or are zero.
    """
    _check(layers, bits, "layers")
    work = [getattr(layer, weighting) for layer in layers]
    return PARALLEL_BITS * sum(work) / sum(w * b for w, b in zip(work, bits, strict=True))


def _check(things: Sequence[object], bits: Iterable[float], name: str) -> None:
    given = list(bits)
    if len(things) != len(given) or not given or min(given) <= 0:
        raise BitwrightError(
            f"{len(things)} {name} with bits {given}; expected one number above 0 for each", kind="value"
        )
