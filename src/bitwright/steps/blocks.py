"""Which weights are the largest: of all, of each processing element's rows, or n of every m inputs of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import BitwrightError
from bitwright.measure.balance import check_elements


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest scores above 0 (all of those if they are fewer); of equals the first ones."""
    flat = scores.flatten()
    positive = int((flat > 0).sum())
    if count >= positive:
        return scores > 0
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    edge = flat.kthvalue(flat.numel() - count + 1).values
    mask = flat > edge
    ties = (flat == edge).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return mask.view_as(scores)


@dataclass(frozen=True)
class Elements:
    """Row r of a layer belongs to element r mod `count`; each keeps as many weights.

    ESE (section 4) gives each the same share, as many where `count` divides the rows. Elsewhere those of fewer rows
    would wait for the others, 6 % of the time with 64 elements for 300 rows.
    """

    count: int

    def check(self, name: str, weight: Tensor) -> None:
        """Raise BitwrightError for a layer with fewer rows."""
        check_elements(len(weight), self.count, f"layer {name!r}")

    def keep(self, scores: Tensor, zeros: float) -> Tensor:
        """Mask of each element's largest scores (O, ...) above 0, so that all together have that share of zeros."""
        mask = torch.zeros_like(scores, dtype=torch.bool)
        rows = [scores[element :: self.count] for element in range(self.count)]
        most = _share_out(round((1 - zeros) * scores.numel()), [own.numel() for own in rows])
        for element, own in enumerate(rows):
            mask[element :: self.count] = keep_largest(own, most)
        return mask


def _share_out(total: int, sizes: list[int]) -> int:
    """What each may have at most, so that all have as many, or all they hold, and together that total, but rounding."""
    for i, size in enumerate(sorted(sizes)):
        if size * (len(sizes) - i) >= total:
            return round(total / (len(sizes) - i))
        total -= size
    return max(sizes)


@dataclass(frozen=True)
class Pattern:
    """Of every `of` inputs in a row at most `kept` stay (Mishra et al. 2021: 2 of 4).

    In a convolution that is of every `of` input channels of one group, at each place of the kernel by itself. So many
    `rows`, output channels 0 to rows - 1 and so on, keep the same inputs: those with the largest sums of scores.
    """

    kept: int
    of: int
    rows: int = 1

    def check(self, name: str, weight: Tensor) -> None:
        """Raise BitwrightError for a layer whose inputs are no multiple."""
        if weight.shape[1] % self.of:
            raise BitwrightError(
                f"layer {name!r} has {weight.shape[1]} inputs for each output, no multiple of {self.of}; `ignore` it",
                kind="pattern",
            )

    def keep(self, scores: Tensor, zeros: float) -> Tensor:
        """Mask of scores (O, I, ...): on the way to the pattern, with fewer zeros, more of each `of` stay."""
        rows = scores.flatten(2).transpose(1, 2) if scores.ndim > 2 else scores
        count = max(self.kept, self.of - round(zeros * self.of))
        shared = _sums_of_rows(rows, self.rows)
        mask = _largest_of_rows(shared.reshape(-1, self.of), count).view_as(shared)
        mask = mask.repeat_interleave(self.rows, 0)[: len(rows)] & (rows > 0)
        return (mask.transpose(1, 2) if scores.ndim > 2 else mask).reshape(scores.shape)


Blocks = Elements | Pattern


def _sums_of_rows(scores: Tensor, rows: int) -> Tensor:
    """The sums of every `rows` scores along the first axis; the last may have fewer."""
    if rows == 1:
        return scores
    return torch.stack([part.sum(0) for part in scores.split(rows)])


def _largest_of_rows(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest scores above 0 of each row (N, K); of equals the first ones."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask.scatter_(1, order[:, :count], True)
    return mask & (scores > 0)
