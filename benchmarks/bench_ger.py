"""Minutes and memory of global error reconstruction's first stage on wide layers.

    python benchmarks/bench_ger.py [--only 4096] [--json FILE]

Claims, two cores: 4096 to 4096 with 50,000 samples at most 10 minutes and 4 GB; 25088 to 4096, sums over 50,000 and 10
alternations on 8,192 of them, at most 20 minutes and 14 GB. Each case has a process of its own, whose largest resident
memory counts, torch and all. Samples are random: correlated inputs behind a ReLU, outputs of a random matrix. Checked:
the fit is better behind the ReLU than reduced-rank regression on samples that took no part.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.files import write_atomic
from bitwright.measure.machine import describe_machine, versions
from bitwright.steps.low_rank import cholesky
from bitwright.steps.moments import Moments
from bitwright.steps.reconstruct import Samples, Sums, alternate, error, regress

BATCH = 1024
FACTORS = 512  # that the inputs are mixed from


@dataclass(frozen=True)
class Case:
    """A layer, the rank it gets, and the claim; alternations are for each of two penalties."""

    inputs: int
    outputs: int
    rank: int
    samples: int
    alternated: int
    alternations: int
    minutes: float
    gigabytes: float


CASES = (
    Case(4096, 4096, 512, 50_000, 50_000, 25, 10, 4),
    Case(25088, 4096, 512, 50_000, 8192, 5, 20, 14),
)


class Source:
    """Batches of inputs and of what the layer gives for them, the same for the same number."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.randn(FACTORS, case.inputs, generator=generator) / FACTORS**0.5
        self.weight = torch.randn(case.outputs, case.inputs, generator=generator) / case.inputs**0.5

    def batch(self, number: int, size: int) -> tuple[Tensor, Tensor]:
        """(size, inputs) and (size, outputs)."""
        generator = torch.Generator().manual_seed(number + 1)
        x = torch.randn(size, FACTORS, generator=generator) @ self.mix
        x = (x + 0.5 * torch.randn(x.shape, generator=generator)).clamp(min=0)
        return x, x @ self.weight.T


def measure(case: Case) -> dict[str, Any]:
    """Fit one layer in this process."""
    source = Source(case)
    begun = time.perf_counter()
    layer = nn.Linear(case.inputs, case.outputs, device="meta")
    moments, samples = Moments(layer), Samples.room(case.alternated, case.inputs, case.outputs)
    for first in range(0, case.samples, BATCH):
        x, y = source.batch(first // BATCH, min(BATCH, case.samples - first))
        moments.add_windows(x.T.contiguous(), y.T.contiguous())
        if (left := case.alternated - first) > 0:
            samples.x[first : first + BATCH], samples.y[first : first + BATCH] = x[:left], y[:left]
    held = Samples(*source.batch(1 << 20, BATCH))
    means = moments.mean_x[0], moments.mean_y[0]
    count, (gram, cross) = moments.count, moments.centred_()
    del moments
    factor, _ = cholesky(gram)
    del gram
    sums = Sums(count, *means, cross[0], factor[0])
    linear = regress(sums, case.rank)
    found = alternate(sums, samples, held, linear, (0.01, 1.0), case.alternations)
    seconds = time.perf_counter() - begun
    errors = error(linear, held, True), error(found.fit, held, True)
    return {
        "minutes": seconds / 60,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "alternations": len(found.descent),
        "error_linear": errors[0],
        "error": errors[1],
        "holds": seconds < 60 * case.minutes and errors[1] < errors[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measure(CASES[options.case])))
        return 0
    rows = []
    for number, case in enumerate(CASES):
        name = f"{case.inputs}>{case.outputs}"
        if options.only not in name:
            continue
        said = subprocess.run([sys.executable, __file__, "--case", str(number)], stdout=subprocess.PIPE, check=True)
        row = {"name": name, **json.loads(said.stdout)}
        row["holds"] = bool(row["holds"] and row["gigabytes"] < case.gigabytes)
        rows.append(row)
        print(
            f"{name}: {row['minutes']:.1f} min ({case.minutes} claimed), {row['gigabytes']:.1f} GB "
            f"({case.gigabytes}), {row['alternations']} alternations, error {row['error'] / row['error_linear']:.3f} "
            f"of one regression's: {'holds' if row['holds'] else 'FAILS'}"
        )
    if options.json:
        facts = {"machine": describe_machine(), "versions": versions(), "cases": rows}
        write_atomic(options.json, json.dumps(facts, indent=1) + "\n")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
