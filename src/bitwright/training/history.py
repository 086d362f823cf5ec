"""What a training tells about itself: in memory, in metrics.jsonl and in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitwright.files import write_atomic

NAME = "metrics.jsonl"


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures: errors in percent, losses per sample (without penalties), `lr` at its last step.

    The training figures are means over the epoch, in training mode, of the very loss that was minimised (with the
    teacher's share); the validation figures are of the weights at the epoch's end and of the loss on labels alone.
    """

    epoch: int
    train_loss: float
    train_error: float
    validation_loss: float
    validation_error: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class History:
    """All epochs of a training, numbered from 1, and the one whose weights were kept (0: none was trained)."""

    epochs: tuple[Epoch, ...] = ()
    selected: int = 0


def best_epoch(epochs: Sequence[Epoch]) -> int:
    """The number of the epoch with the least validation error, the earliest of equals; 0 if there is none."""
    return min(epochs, key=lambda e: (e.validation_error, e.epoch)).epoch if epochs else 0


def timeless(epochs: Sequence[Epoch]) -> list[dict[str, Any]]:
    """The epochs as JSON without their seconds: equal for equal trainings."""
    return [{k: v for k, v in asdict(epoch).items() if k != "seconds"} for epoch in epochs]


def with_seconds(records: Sequence[dict[str, Any]], folder: Path) -> list[Epoch]:
    """The inverse of `timeless`, with the seconds that metrics.jsonl still knows (0 for the others)."""
    seconds = _known_seconds(folder / NAME)
    return [Epoch(**record, seconds=seconds.get(record["epoch"], 0.0)) for record in records]


def rewrite_metrics(folder: Path, epochs: Sequence[Epoch]) -> None:
    """Make metrics.jsonl hold exactly these epochs: a killed run may have left half a line or one too many."""
    write_atomic(folder / NAME, "".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs))


def append_metrics(folder: Path, epoch: Epoch) -> None:
    """Add one line to metrics.jsonl."""
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(epoch)) + "\n")


def _known_seconds(path: Path) -> dict[int, float]:
    known: dict[int, float] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            known[int(record["epoch"])] = float(record["seconds"])
        except (ValueError, KeyError, TypeError):
            continue  # the half line of a killed run
    return known
