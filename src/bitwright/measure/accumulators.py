"""How wide the accumulator of a layer must be: three constraints, and what happens where it is narrower.

De Bruin, Zivkovic and Corporaal ("Quantization of deep neural networks for accumulator-constrained processors", 2020):
y = sum_i w_i d_i over K products of whole numbers, added one by one in BW_acc bits.

    WC      K max|w| max|d|            no weights and no images are looked at
    ACT_w   max_o sum_i |w_oi| max|d|  the weights are; like WC, no partial sum in any order can overflow
    ACT_y   max |y| over images        only final sums of images that were seen fit
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bitwright.errors import BitwrightError
from bitwright.runtime.domains import width

Constraint = Literal["worst-case", "act-w", "act-y"]
Overflow = Literal["wrap", "clip", "clip-last"]


def eligible(constraint: Constraint, bits: int, **known: float) -> Iterator[tuple[int, int]]:
    """The pairs (BW_w, BW_d) that use all of an accumulator of `bits` bits, both at least 2, formats signed.

        worst-case   BW_w + BW_d = BW_acc + 1 - ceil(log2 K)                       known: products
        act-w        BW_w + BW_d = BW_acc - floor(log2 R) + IL_w                   known: kernel_sum, il_w
        act-y        BW_w + BW_d = BW_acc + 1 - max(0, IL_y - (IL_w + IL_d))       known: il_y, il_w, il_d

    R is the largest sum of a kernel's magnitudes, IL are integer bits without the sign. R is that of the quantised
    weights, so a caller asks again for each BW_w.
    """
    if constraint == "worst-case":
        total = bits + 1 - math.ceil(math.log2(known["products"]))
    elif constraint == "act-w":
        total = bits - math.floor(math.log2(known["kernel_sum"])) + int(known["il_w"])
    else:
        total = bits + 1 - max(0, int(known["il_y"] - (known["il_w"] + known["il_d"])))
    return ((w, total - w) for w in range(2, total - 1))


@dataclass(frozen=True)
class Needs:
    """The bits that a layer's accumulator needs, in two's complement, by each constraint."""

    worst_case: int
    act_w: int
    act_y: int

    @classmethod
    def of(cls, codes: Tensor, largest_code: int, largest_value: int, largest_sum: int) -> Needs:
        """Of weights as whole numbers, (O, K), of at most `largest_code`, and values of at most `largest_value`.

        `largest_sum` is the largest |y| that was seen.
        """
        products = codes.shape[1]
        kernel = int(codes.abs().sum(1).max())
        return cls(width(products * largest_code * largest_value), width(kernel * largest_value), width(largest_sum))


def wrap(sums: Tensor, bits: int) -> Tensor:
    """((a + 2^(B-1)) mod 2^B) - 2^(B-1): what is left of sums in two's complement, in whatever order they were made."""
    half = 1 << (bits - 1)
    return (sums + half).remainder(1 << bits) - half


def accumulate(values: Tensor, codes: Tensor, bits: int, overflow: Overflow) -> Tensor:
    """Sums of products in an accumulator of `bits` bits: values (N, K), codes (O, K), whole numbers; (N, O), int64.

    "wrap" is two's complement. "clip" saturates after every addition, in the order of K. "clip-last" saturates the
    exact sum once, which no machine does. Raises BitwrightError for fewer than 2 or more than 32 bits.
    """
    if not 2 <= bits <= 32:
        raise BitwrightError(f"an accumulator has {bits} bits; expected 2 to 32", kind="setting")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if overflow != "clip":
        sums = (values.double() @ codes.double().T).long()  # exact below 2^53
        return wrap(sums, bits) if overflow == "wrap" else sums.clamp(low, high)
    largest = (int(t.abs().max()) if t.numel() else 0 for t in (values, codes))
    kind = torch.int32 if math.prod(largest) - low < 1 << 31 else torch.int64  # which is slower
    columns, rows = values.T.contiguous().to(kind), codes.T.contiguous().to(kind)
    sums = torch.zeros(len(values), len(codes), dtype=kind)
    for value, code in zip(columns, rows, strict=True):
        sums.addcmul_(value[:, None], code[None, :]).clamp_(low, high)
    return sums.long()
