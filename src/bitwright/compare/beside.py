"""What stands beside the variants on the charts: the network before compression, in float32 and in plain int8."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.files import write_atomic
from bitwright.recipe import Recipe
from bitwright.run import Run

_CALIBRATION = 200  # images
_BATCH = 100


def beside(runs: Sequence[tuple[Path, Recipe]], place: Path, root: str | Path | None) -> list[dict[str, Any]]:
    """For each run its dense network: error, bytes and milliseconds in onnxruntime, what of these is known.

    "error", "bytes" and "float32" (milliseconds) of the float network, "int8" those of onnxruntime's int8, and "name",
    equal for equal networks. Of one that several runs begin with, times are medians, and there are "int8_error" and
    "int8_bytes", computed once and kept in `place`.
    """
    rows = [_of(folder) for folder, _ in runs]
    often = Counter(row["name"] for row in rows if "error" in row)
    for name in [name for name, count in often.items() if count > 1]:
        members = [row for row in rows if row["name"] == name]
        shared: dict[str, Any] = {}
        for key in ("float32", "int8"):
            if times := [row[key] for row in members if key in row]:
                shared[key] = statistics.median(times)
        shared |= _int8(*runs[rows.index(members[0])], name, place, root)
        for row in members:
            row |= shared
    return rows


def _of(folder: Path) -> dict[str, Any]:
    result, measurements = _json(folder / "result.json"), _json(folder / "measurements.json")
    dense, times = result["dense"], (measurements.get("milliseconds") or {}).get("batches", {}).get("1") or {}
    digest = hashlib.sha256((folder / dense["step"] / "model.safetensors").read_bytes()).hexdigest()
    return {
        "name": digest[:16],
        **{key: dense[key] for key in ("error", "bytes") if key in dense},
        **{key: times[key]["median"] for key in ("float32", "int8") if key in times},
    }


def _int8(folder: Path, recipe: Recipe, name: str, place: Path, root: str | Path | None) -> dict[str, float]:
    """Test error and bytes in int8; nothing where onnxruntime isn't there or can't."""
    kept = place / f"int8-{name}.json"
    if not kept.is_file():
        try:
            figures = _quantised(Run(recipe, folder, root=root))
        except (ImportError, BitwrightError):
            figures = {}
        write_atomic(kept, json.dumps(figures))
    return _json(kept)


def _quantised(run: Run) -> dict[str, float]:
    import torch

    from bitwright.measure.int8_peer import quantized
    from bitwright.measure.onnx_peer import open_session, to_onnx
    from bitwright.measure.peers import without_quantizers
    from bitwright.packing.lower import lower

    data, label = run.data, _json(run.folder / "result.json")["dense"]["step"]
    model = run.model(None if label == "0-start" else label)
    graph, weights = without_quantizers(*lower(model, (torch.zeros(1, *data.shape),), data.preprocess))
    chosen = _pixels(data.sample(_CALIBRATION).images)
    feeds = [{"input_0": batch} for batch in np.array_split(chosen, max(len(chosen) // _BATCH, 1))]
    made = quantized(to_onnx(graph, weights), feeds)["QDQ"]
    session = open_session(made, len(graph.inputs), 1)
    wrong = 0
    for start in range(0, len(data.test), _BATCH):
        logits = session(_pixels(data.test.images[start : start + _BATCH]))[0]
        wrong += int((logits.argmax(1) != data.test.labels[start : start + _BATCH]).sum())
    return {"int8_error": 100 * wrong / len(data.test), "int8_bytes": len(made)}


def _pixels(images: np.ndarray) -> np.ndarray:
    """From 0 to 1: a file of floats doesn't take bytes."""
    return images.astype(np.float32) / np.float32(255)


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found
