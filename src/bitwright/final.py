"""The end of a run: the test set is read once, the file is written, loaded without torch and held against the model.

Three columns come out: the dense network (the last training before anything compresses, or the pretrained network; of
one that was quantised from nothing only the size), the compressed network in torch, and the packed file in the engine.
Nothing here chooses anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.files import write_atomic

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data import Dataset
    from bitwright.packing import Packed
    from bitwright.recipe import Recipe
    from bitwright.run import Run
    from bitwright.runtime import Model

THREADS = 1
"""Threads while speed is measured, the same for all that is published; a recipe's are for its training."""
BATCH = 1000
"""Images at once while testing; only speed depends on it."""
FEW = 16
"""Test images that are followed layer by layer."""
FLOATS = ("dense", "half")
"""The encodings that store weights as floats; all others are codes, but `truncated`, which stores nothing."""


def conclude(run: Run, command: str, speed: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pack, test, measure and report whatever of that is missing or stale; gives result.json and measurements.json.

    Without `speed` the latter has no milliseconds, unless they were measured before.
    """
    from bitwright.folders import identity
    from bitwright.report import write_report

    result = _read_if_current(run)
    stale = result is None
    if result is None:
        for name in ("measurements.json", "report.html"):
            (run.folder / name).unlink(missing_ok=True)
        result = {"recipe": identity(run.recipe), **_test(run)}
        write_atomic(run.folder / "result.json", json.dumps(result, indent=1))
    for fault in result["agreement"]["faults"]:
        warnings.warn(f"the engine does not compute what torch does, so don't ship this file: {fault}", stacklevel=2)
    measured = run.folder / "measurements.json"
    measurements = json.loads(measured.read_text("utf-8")) if measured.is_file() else None
    if measurements is None or (speed and "milliseconds" not in measurements):
        stale, measurements = True, _measure(run, command, speed)
        write_atomic(measured, json.dumps(measurements, indent=1))
    if stale or not (run.folder / "report.html").is_file():
        write_report(run.folder)
    return result, measurements


def baseline_label(recipe: Recipe) -> str:
    """The step whose model is the dense one: the last `train` before anything else, or "0-start" if there is none."""
    label = "0-start"
    for candidate, step in zip(recipe.labels, recipe.steps, strict=True):
        if step.name != "train":
            break
        label = candidate
    return label


def has_baseline(recipe: Recipe) -> bool:
    """Whether that model was ever trained: by a step, or before the run (`weights`, or a factory of the user's)."""
    pretrained = bool(recipe.model.get("weights")) or ":" in recipe.model["name"]
    return pretrained or baseline_label(recipe) != "0-start"


def _read_if_current(run: Run) -> dict[str, Any] | None:
    """result.json, if it is of this very recipe and of the packed file that is there, which was compared to torch."""
    from bitwright.folders import identity

    written, packed = run.folder / "result.json", run.folder / "packed.safetensors"
    if not (written.is_file() and packed.is_file()):
        return None
    result = json.loads(written.read_text("utf-8"))
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    fresh = result["recipe"] == identity(run.recipe) and result["packed"]["sha256"] == digest
    return result if fresh and "agreement" in result else None


# -- what must be equal when repeated ----------------------------------------------------------------------------------


def _test(run: Run) -> dict[str, Any]:
    """Errors, bytes and agreement. The test part of the data is read here and nowhere else."""
    from bitwright.precisions import at_bits, precisions_of
    from bitwright.training.evaluate import as_tensor, evaluate, evaluate_logits, predict_logits

    data, label = run.data, baseline_label(run.recipe)
    dense = _baseline(run, label)
    whole = model = run.model(run.recipe.last)
    packed = run.folder / "packed.safetensors"
    pack_model(run, whole, run.recipe.pack).save(packed)
    if known := precisions_of(whole):
        model = at_bits(whole, max(known))
    logits = predict_logits(model, as_tensor(data.test.images), data.preprocess, BATCH)
    tested = _evaluation(evaluate(dense, data.test, data.preprocess)) if has_baseline(run.recipe) else {}
    found = _in_engine(run, packed, model, logits.numpy())
    if known:
        found["precisions"] = {str(bits): _at_precision(run, packed, whole, bits) for bits in known}
        found["agreement"]["faults"] = [  # those of the most bits, which are the file's own, among them
            f"at {bits} bit{'s' if bits != '1' else ''}: {fault}"
            for bits, row in found["precisions"].items()
            for fault in row.pop("faults")
        ]
    return {
        "test_images": len(data.test),
        "dense": {
            "step": label,
            "weights": sum(p.numel() for p in dense.parameters()),
            "bytes": (run.folder / label / "model.safetensors").stat().st_size,
            **tested,
        },
        "compressed": _evaluation(evaluate_logits(logits, data.test, type(model).__name__)),
        **found,
        "steps": {s: json.loads((run.folder / s / "step.json").read_text())["validation"] for s in run.recipe.labels},
    }


def _baseline(run: Run, label: str) -> nn.Module:
    from bitwright.rebuild import save_checkpoint

    if label != "0-start":
        return run.model(label)
    model = run.model(None)
    save_checkpoint(model, run.folder / label / "model.safetensors", label)
    return model


def pack_model(run: Run, model: nn.Module, how: dict[str, Any]) -> Packed:
    """Pack a model of `run`, `how` as in its recipe's `pack`; normalisation and names of the classes go in."""
    import torch

    from bitwright.packing import pack
    from bitwright.recipe import make_profile

    data = run.data
    example = (torch.zeros(1, *data.shape),)
    return pack(model, example, preprocess=data.preprocess, classes=list(data.classes), profile=make_profile(how))


def _evaluation(evaluation: Any) -> dict[str, float]:
    return {"accuracy": evaluation.accuracy, "error": evaluation.error, "loss": evaluation.loss}


def file_facts(packed: Path) -> dict[str, Any]:
    """Bytes and digest of a packed file, and bytes and number of the weights that it stores as codes."""
    from bitwright.packing.inspect import inspect_file

    stored = [row for row in inspect_file(packed).rows if len(row.shape) > 1]
    rows = [row for row in stored if row.encoding.split()[0] not in (*FLOATS, "truncated")]
    coded = {"weights": sum(math.prod(row.shape) for row in rows), "bytes": sum(row.nbytes for row in rows)}
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    return {"bytes": packed.stat().st_size, "sha256": digest, "coded": coded}


def _in_engine(run: Run, packed: Path, model: nn.Module, theirs: np.ndarray) -> dict[str, Any]:
    """What the file gives in the engine ("packed"), and whether that is what the torch model gives ("agreement").

    `theirs` are the torch model's logits for the test images.
    """
    from bitwright.runtime import load

    engine = load(packed, threads=run.recipe.threads)
    accuracy, agreement = _compared(run.data, engine, model, theirs)
    return {
        "packed": {**file_facts(packed), "accuracy": accuracy, "error": 100.0 - accuracy, "engine": engine.engine},
        "agreement": agreement,
    }


def _at_precision(run: Run, packed: Path, model: nn.Module, bits: int) -> dict[str, Any]:
    """What one precision of the file gives in the engine, and how far that is from the torch network of those bits."""
    from bitwright.precisions import at_bits
    from bitwright.runtime import load
    from bitwright.training.evaluate import as_tensor, predict_logits

    data, plain, engine = run.data, at_bits(model, bits), load(packed, threads=run.recipe.threads).at(bits)
    theirs = predict_logits(plain, as_tensor(data.test.images), data.preprocess, BATCH).numpy()
    accuracy, agreement = _compared(data, engine, plain, theirs)
    return {"error": 100.0 - accuracy, **agreement}


def _compared(data: Dataset, engine: Model, model: nn.Module, theirs: np.ndarray) -> tuple[float, dict[str, Any]]:
    """The engine's accuracy on the test images, and how far it is from the torch model, whose logits are `theirs`.

    `labels_different` counts test images with another top class; `logit_difference` is the largest absolute difference
    of a logit divided by the range (max - min) of all the torch model's logits; `quantised` are sums over the rows of
    `compare_layers` for a few images. `faults` are `judge`'s: a run with any can't be published.
    """
    import torch

    from bitwright.measure.agreement import compare_layers, judge, kind_of_network

    weights = {name: tensor.dense() for name, tensor in engine.stored.items()}
    ours = np.concatenate([np.asarray(engine(images)) for images in _batches(data)])
    accuracy, expected = (100.0 * float(np.mean(logits.argmax(1) == data.test.labels)) for logits in (ours, theirs))
    few = data.test.images[:FEW]
    rows = compare_layers(model, data.preprocess.torch(torch.from_numpy(few)), engine.graph, weights, few)
    facts = {
        "images": len(ours),
        "labels_different": int(np.count_nonzero(ours.argmax(1) != theirs.argmax(1))),
        "accuracy_difference": abs(accuracy - expected),
        "logit_difference": float(np.abs(ours - theirs).max()) / (float(np.ptp(theirs)) or 1.0),
        "quantised": {key: sum(getattr(row, key) for row in rows) for key in ("values", "different", "wrong")},
    }
    kind = kind_of_network(engine.graph, weights)
    return accuracy, {"kind": kind, **facts, "faults": judge(kind, facts)}


def _batches(data: Dataset) -> list[np.ndarray]:
    return [data.test.images[i : i + BATCH] for i in range(0, len(data.test), BATCH)]


# -- what this machine gives -------------------------------------------------------------------------------------------


def _measure(run: Run, command: str, speed: bool) -> dict[str, Any]:
    seconds = {}
    for label in run.recipe.labels:
        written = run.folder / label / "seconds.json"
        seconds[label] = json.loads(written.read_text()) if written.is_file() else None
    times = measure_speed(run.folder / "packed.safetensors", run.recipe, run.data) if speed else None
    return {
        "command": command or f"bw.run_recipe({run.recipe.name!r})",
        **_circumstances(),
        "seconds": seconds,
        **({"milliseconds": times} if times else {}),
    }


def measure_speed(packed: Path, recipe: Recipe, data: Dataset) -> dict[str, Any]:
    """Milliseconds of a packed file in the engine, beside the float32 network that the recipe starts from.

    That is one of the same architecture without what its steps do; its weights don't matter to its speed.
    """
    import torch

    from bitwright.measure.latency import measure_beside_floats
    from bitwright.packing.lower import lower
    from bitwright.rebuild import build_model

    graph, weights = lower(build_model(recipe, data), (torch.zeros(1, *data.shape),), data.preprocess)
    return {**_circumstances(), **measure_beside_floats(packed, graph, weights, THREADS)}


def _circumstances() -> dict[str, Any]:
    from bitwright.measure.machine import describe_machine, versions

    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": describe_machine(), "versions": versions()}


def require_finished(folder: Path) -> None:
    """Raise unless `folder` holds a finished run."""
    missing = [name for name in ("recipe.yaml", "result.json", "packed.safetensors") if not (folder / name).is_file()]
    if missing:
        raise BitwrightError(
            f"{folder} is not a finished run (no {', '.join(missing)}); finish it with `bitwright run`", kind="no-run"
        )
