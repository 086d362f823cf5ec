"""The end of a run: the test set is read once, the file is written, loaded without torch and held against the model.

Three columns come out: the dense network (the last training before anything compresses), the compressed network in
torch, and the packed file in the engine. Nothing here chooses anything.
"""

from __future__ import annotations

import hashlib
import json
import time
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

BATCH = 1000
"""Images at once while testing; only speed depends on it."""


def conclude(run: Run, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pack, test, measure and report whatever of that is missing or stale; gives result.json and measurements.json."""
    from bitwright.report import write_report
    from bitwright.run import identity

    result = _read_if_current(run)
    stale = result is None
    if result is None:
        for name in ("measurements.json", "report.html"):
            (run.folder / name).unlink(missing_ok=True)
        result = {"recipe": identity(run.recipe), **_test(run)}
        write_atomic(run.folder / "result.json", json.dumps(result, indent=1))
    measured = run.folder / "measurements.json"
    if stale or not measured.is_file():
        write_atomic(measured, json.dumps(_measure(run, command), indent=1))
    measurements = json.loads(measured.read_text("utf-8"))
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


def _read_if_current(run: Run) -> dict[str, Any] | None:
    """result.json, if it belongs to this very recipe and to the packed file that is there."""
    from bitwright.run import identity

    written, packed = run.folder / "result.json", run.folder / "packed.safetensors"
    if not (written.is_file() and packed.is_file()):
        return None
    result = json.loads(written.read_text("utf-8"))
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    fresh = result["recipe"] == identity(run.recipe) and result["packed"]["sha256"] == digest
    return result if fresh else None


# -- what must be equal when repeated ----------------------------------------------------------------------------------


def _test(run: Run) -> dict[str, Any]:
    """Errors, bytes and agreement. The test part of the data is read here and nowhere else."""
    from bitwright.training.evaluate import evaluate

    data, label = run.data, baseline_label(run.recipe)
    dense = _baseline(run, label)
    model = run.model(run.recipe.last)
    packed = run.folder / "packed.safetensors"
    pack_model(run, model, run.recipe.pack).save(packed)
    after = _evaluation(evaluate(model, data.test, data.preprocess))
    return {
        "test_images": len(data.test),
        "dense": {
            "step": label,
            "weights": sum(p.numel() for p in dense.parameters()),
            "bytes": (run.folder / label / "model.safetensors").stat().st_size,
            **_evaluation(evaluate(dense, data.test, data.preprocess)),
        },
        "compressed": after,
        "packed": {**_file_facts(packed), **_in_engine(run, packed, model)},
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


def _file_facts(packed: Path) -> dict[str, Any]:
    return {"bytes": packed.stat().st_size, "sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}


def _in_engine(run: Run, packed: Path, model: nn.Module) -> dict[str, Any]:
    """Accuracy of the file in the engine, and how far it is from the torch model it was made of.

    `labels_different` counts test images with another top class; `logit_difference` is the largest absolute difference
    of a logit divided by the range (max - min) of all the torch model's logits.
    """
    from bitwright.runtime import load

    data = run.data
    engine = load(packed, threads=run.recipe.threads)
    ours = np.concatenate([np.asarray(engine(images)) for images in _batches(data)])
    theirs = _torch_logits(model, data)
    labels = ours.argmax(1)
    accuracy = 100.0 * float(np.mean(labels == data.test.labels))
    spread = float(theirs.max() - theirs.min())
    return {
        "accuracy": accuracy,
        "error": 100.0 - accuracy,
        "engine": engine.engine,
        "labels_different": int(np.count_nonzero(labels != theirs.argmax(1))),
        "logit_difference": float(np.abs(ours - theirs).max()) / (spread or 1.0),
    }


def _batches(data: Dataset) -> list[np.ndarray]:
    return [data.test.images[i : i + BATCH] for i in range(0, len(data.test), BATCH)]


def _torch_logits(model: nn.Module, data: Dataset) -> np.ndarray:
    import torch

    model.eval()
    with torch.no_grad():
        parts = [model(data.preprocess.torch(torch.from_numpy(images))).numpy() for images in _batches(data)]
    return np.concatenate(parts)


# -- what this machine gives -------------------------------------------------------------------------------------------


def _measure(run: Run, command: str) -> dict[str, Any]:
    from bitwright.measure.machine import describe_machine, versions

    seconds = {}
    for label in run.recipe.labels:
        written = run.folder / label / "seconds.json"
        seconds[label] = json.loads(written.read_text()) if written.is_file() else None
    return {
        "command": command or f"bw.run_recipe({run.recipe.name!r})",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": describe_machine(),
        "versions": versions(),
        "seconds": seconds,
        "milliseconds": _latency(run),
    }


def _latency(run: Run) -> dict[str, Any]:
    """Median milliseconds for one image: the packed file in the engine, the dense network in float32 beside it.

    "dense" is onnxruntime's time where that is installed, the faster peer for small networks, else torch's.
    """
    import torch

    from bitwright.measure.latency import take_turns
    from bitwright.runtime import load

    engine = load(run.folder / "packed.safetensors", threads=run.recipe.threads)
    label = baseline_label(run.recipe)
    dense = run.model(None if label == "0-start" else label).eval()
    prepare = run.data.preprocess.torch

    def in_torch(image: np.ndarray) -> Any:
        with torch.no_grad():
            return dense(prepare(torch.from_numpy(image)))

    contestants: dict[str, Any] = {"packed": engine, "torch": in_torch, **_onnxruntime(engine, run.recipe.threads)}
    images = run.data.test.images[:4]
    pixels = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    times: dict[str, Any] = take_turns(contestants, [(image[None],) for image in pixels], seconds=1.0)
    peer = "onnxruntime" if "onnxruntime" in times else "torch"
    return {"batch": 1, "threads": run.recipe.threads, "dense_in": peer, "dense": times[peer], **times}


def _onnxruntime(engine: Model, threads: int) -> dict[str, Any]:
    """The peer on the packed file's graph with dense weights, which cost it the same as the dense network's."""
    from bitwright.measure.onnx_peer import open_peer

    try:
        weights = {name: tensor.dense() for name, tensor in engine.stored.items()}
        return {"onnxruntime": open_peer(engine.graph, weights, threads)}
    except ImportError:
        return {}
    except BitwrightError as error:
        if error.kind != "no-peer":
            raise
        return {}


def require_finished(folder: Path) -> None:
    """Raise unless `folder` holds a finished run."""
    missing = [name for name in ("recipe.yaml", "result.json", "packed.safetensors") if not (folder / name).is_file()]
    if missing:
        raise BitwrightError(
            f"{folder} is not a finished run (no {', '.join(missing)}); finish it with `bitwright run`", kind="no-run"
        )
