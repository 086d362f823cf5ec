"""What the training loop costs beside a loop written by hand.

    python benchmarks/bench_training.py [--rounds 5] [--json FILE]

Same model, data, order and arithmetic. Claims: at most 5 % more on ResNet-20 (bfloat16, channels last), at most 30 %
more on LeNet-300-100 with batch 64, where a step takes a millisecond. Checked before: both loops leave the same
weights. They take turns, in one thread, and its CPU seconds count, which other programs do not lengthen. Random
images; our loop also sums losses and errors, validates on two images after each epoch, and looks at settings and
model before it begins.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.data.dataset import Dataset
from bitwright.files import write_atomic
from bitwright.measure.machine import describe_machine, versions
from bitwright.models import create_model
from bitwright.training.loop import batch_bounds, fit
from bitwright.training.seeds import derive_seed
from bitwright.training.settings import Optimizer, TrainSettings

LR, MOMENTUM, DECAY, SEED, LABEL = 0.01, 0.9, 5e-4, 0, "train"


@dataclass(frozen=True)
class Case:
    """A training, and how much longer ours may take."""

    model: str
    shape: tuple[int, int, int]
    images: int
    epochs: int
    batch: int
    bf16: bool
    limit: float


CASES = (
    Case("resnet-20", (3, 32, 32), 2048, 1, 128, True, 1.05),
    Case("lenet-300-100", (1, 28, 28), 12_800, 5, 64, False, 1.30),
)


def random_data(case: Case) -> Dataset:
    """uint8 images, as data sets have them."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (case.images + 4, *case.shape), np.uint8)
    labels = random.integers(0, 10, len(images))
    labels[:10] = np.arange(10)
    parts = [(images[a:b], labels[a:b]) for a, b in ((4, None), (0, 2), (2, 4))]
    return Dataset.from_arrays("random", parts[0], parts[1], parts[2])


def ours(case: Case, model: nn.Module, data: Dataset) -> None:
    """The training loop."""
    settings = TrainSettings(
        epochs=case.epochs,
        batch_size=case.batch,
        optimizer=Optimizer("SGD", LR, {"momentum": MOMENTUM}),
        weight_decay=DECAY,
        select="last",
        precision="bf16" if case.bf16 else "float32",
    )
    fit(model, data, settings, seed=SEED, label=LABEL)


def by_hand(case: Case, model: nn.Module, data: Dataset) -> None:
    """What one would write for this one training."""
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels)
    scale, shift = (torch.from_numpy(a).reshape(1, -1, 1, 1) for a in (data.preprocess.scale, data.preprocess.shift))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    weights = [m.weight for m in layers]
    known = {id(w) for w in weights}
    others = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": weights, "weight_decay": DECAY}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)
    if case.bf16:
        model.to(memory_format=torch.channels_last)
    model.train()
    for epoch in range(1, case.epochs + 1):
        torch.manual_seed(derive_seed(SEED, LABEL, epoch, 0))
        generator = torch.Generator().manual_seed(derive_seed(SEED, LABEL, epoch, "order"))
        order = torch.randperm(len(labels), generator=generator)
        for first, last in batch_bounds(len(labels), case.batch):
            index = order[first:last]
            x: Tensor = images[index].float() / 255.0 * scale + shift
            if case.bf16:
                x = x.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
                logits = model(x)
            F.cross_entropy(logits.float(), labels[index]).backward()
            optimizer.step()


def check(case: Case, data: Dataset) -> None:
    """Raise AssertionError unless both loops leave the same weights, up to the rounding of float sums."""
    one = create_model(case.model, seed=0)
    other = copy.deepcopy(one)
    ours(case, one, data)
    by_hand(case, other, data)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        difference = float((a.double() - b.double()).abs().max())
        assert difference <= 2e-3 * max(1.0, float(b.abs().max())), f"{case.model}: {name} differs by {difference:.2g}"


def seconds(run: Callable[[Case, nn.Module, Dataset], None], case: Case, data: Dataset) -> float:
    """CPU seconds of one training."""
    model = create_model(case.model, seed=0)
    start = time.process_time()
    run(case, model, data)
    return time.process_time() - start


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Medians of CPU seconds, and their ratio over rounds in which the loops take turns."""
    data = random_data(case)
    check(case, data)
    pairs = [(seconds(ours, case, data), seconds(by_hand, case, data)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    return {
        "model": case.model,
        "batch": case.batch,
        "ours": statistics.median(a for a, _ in pairs),
        "by_hand": statistics.median(b for _, b in pairs),
        "ratio": ratio,
        "limit": case.limit,
        "holds": ratio <= case.limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The training loop beside one written by hand.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(case, arguments.rounds) for case in CASES]
    for row in rows:
        print(
            f"{row['model']:15} batch {row['batch']:4}  ours {row['ours']:7.3f} s  by hand {row['by_hand']:7.3f} s  "
            f"ratio {row['ratio']:.3f}, at most {row['limit']:.2f}: {'holds' if row['holds'] else 'DOES NOT HOLD'}"
        )
    if arguments.json:
        facts = {"machine": describe_machine(), "versions": versions(), "rows": rows}
        write_atomic(arguments.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
