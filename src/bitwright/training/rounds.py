"""Several passes over each batch, for networks that work in more than one way: the gradients of all make one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Round:
    """One forward pass; the losses of all rounds are added, each times `weight`.

    begin     puts the model into the state of this round
    name      of that state, for checkpoints
    follows   learns from the logits of the round before (cross entropy with its probabilities), not from labels or a
              teacher
    """

    begin: Callable[[], None] = _nothing
    name: str = ""
    weight: float = 1.0
    follows: bool = False


ONE = (Round(),)
"""What networks have that work in one way."""
