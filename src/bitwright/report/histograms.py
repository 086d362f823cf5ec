"""Pictures of weights: how the values of each layer are spread after each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BINS = 101
"""Odd, so that zero has a bin of its own around which the gap that pruning leaves is seen."""
MOST_VALUES = 256
"""Up to so many distinct values a layer is drawn value by value (a codebook), beyond as a histogram."""
MOST_LAYERS = 8
"""The largest layers are drawn; more would make the page slow and nobody wiser."""


def weight_pictures(folder: Path, labels: list[str]) -> list[dict[str, Any]]:
    """For each of the largest layers: one picture per step checkpoint in `labels` that exists.

    A layer is {"layer": name, "steps": [picture]}; see `picture`.
    """
    from safetensors.numpy import load_file

    states = {s: load_file(p) for s in labels if (p := folder / s / "model.safetensors").is_file()}
    sizes = {n: w.size for state in states.values() for n, w in state.items() if n.endswith("weight") and w.ndim > 1}
    largest = sorted(sizes, key=lambda n: -sizes[n])[:MOST_LAYERS]
    return [
        {
            "layer": name.removesuffix(".weight"),
            "steps": [picture(label, state[name]) for label, state in states.items() if name in state],
        }
        for name in sizes
        if name in largest
    ]


def picture(label: str, weight: np.ndarray) -> dict[str, Any]:
    """How the values of one tensor are spread, zeros apart.

    {"label", "weights" (count), "density" (share of values that are not zero), "values" (how many distinct ones),
    "exact" (whether x are the distinct values themselves), "x", "y" (counts)}.
    """
    kept = weight[weight != 0].astype(np.float64).ravel()
    values, counts = np.unique(kept, return_counts=True)
    exact = len(values) <= MOST_VALUES
    if not exact:
        reach = float(np.abs(kept).max())
        counts, edges = np.histogram(kept, bins=BINS, range=(-reach, reach))
        middles = (edges[:-1] + edges[1:]) / 2
    return {
        "label": label,
        "weights": weight.size,
        "density": kept.size / max(1, weight.size),
        "values": len(values),
        "exact": exact,
        "x": [float(f"{v:.5g}") for v in (values if exact else middles)],
        "y": [int(c) for c in counts],
    }
