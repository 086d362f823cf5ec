"""Product quantisation looked up, beside dense layers.

Claim, one thread, batch 1, a 4096x4096 layer whose pairs of columns have 16 values each (2 bits a weight, 1/16 of
float32): 4 times as fast as the faster of onnxruntime and torch in float32.

    python benchmarks/bench_product.py [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

import contest
from bench_sparse import linear_case
from bitwright import _native
from contest import Case, Claim


def cases(options: argparse.Namespace) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for rows, cols in ((4096, 4096), (4096, 25088)):
        for width in (2, 4):
            runs = cols // width
            codes = rng.integers(0, 16, (rows, runs), dtype=np.uint8)
            books = rng.standard_normal((runs, 16, width), dtype=np.float32)
            weight = books[np.arange(runs), codes].reshape(rows, cols)
            operation = _native.CodedLinearOp.of_runs(codes, books, cols, _native.Finish(rows))
            for batch in (1, 4, 64) if cols == 4096 else (1,):
                claims = (Claim(4),) if batch == 1 else ()
                name = f"product {cols}>{rows} runs of {width} batch {batch}"
                yield linear_case(name, operation, weight, batch, options.threads, claims)


if __name__ == "__main__":
    raise SystemExit(contest.main(__doc__ or "", cases))
