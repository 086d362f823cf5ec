"""Everything a report shows, read from a run's folder into plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError
from bitwright.report.features import first_features
from bitwright.report.findings import precisions
from bitwright.report.histograms import weight_pictures
from bitwright.report.layers import layer_table, milliseconds

if TYPE_CHECKING:
    from bitwright.recipe import Recipe

DRAWN = ("activity", "sensitivity", "bit_search", "accumulator", "overflow", "low_rank", "channels", "balance")
"""Records of steps that have a chart or table of their own."""


def gather(folder: Path) -> dict[str, Any]:
    """The facts of a finished run, by the names that the page's template uses."""
    from bitwright.final import require_finished
    from bitwright.folders import stored_recipe

    require_finished(folder)
    recipe = stored_recipe(folder)
    result = _json(folder / "result.json")
    measurements = _json(folder / "measurements.json") or {}
    steps = [_step(folder / label, label) | {"teacher": teacher_of(folder, recipe, label)} for label in recipe.labels]
    labels = [result["dense"]["step"], *recipe.labels]
    return {
        "name": recipe.name,
        "description": recipe.description,
        "seed": recipe.seed,
        "summary": before_after(result, measurements, recipe.published),
        "remarks": remarks(result, measurements, recipe.published),
        "published": recipe.published,
        "result": result,
        "steps": steps,
        "layers": _layers(folder / "packed.safetensors"),
        "activity": _activity(steps),
        "sensitivity": _recorded(steps, "sensitivity"),
        "bit_searches": _recorded(steps, "bit_search"),
        "ranges": _recorded(steps, "fixed"),
        "accumulators": _recorded(steps, "accumulator"),
        "overflow": _recorded(steps, "overflow"),
        "low_rank": _recorded(steps, "low_rank"),
        "channels": _recorded(steps, "channels"),
        "balance": _recorded(steps, "balance"),
        "precisions": precisions(result, measurements),
        "features": first_features(folder / "packed.safetensors"),
        "pictures": weight_pictures(folder, list(dict.fromkeys(labels))),
        "recipe_text": recipe.to_yaml(),
        "measurements": measurements,
    }


def before_after(
    result: dict[str, Any], measurements: dict[str, Any], published: dict[str, Any] | None = None
) -> list[dict[str, str]]:
    """The table of a run: one row per quantity, with columns "dense", "packed" and, where given, "published"."""
    dense, packed = result["dense"], result["packed"]
    paper = published or {}
    ratio = dense["bytes"] / packed["bytes"]
    rows = [
        ("test error", _percent(dense, "error"), _percent(packed, "error"), _paper(paper.get("error"), "{:.2f} %")),
        ("test accuracy", _percent(dense, "accuracy"), _percent(packed, "accuracy"), ""),
        ("bytes on disk", f"{dense['bytes']:,}", f"{packed['bytes']:,}", _paper(paper.get("bytes"), "{:,}")),
        ("times smaller", "1.0", f"{ratio:.1f}", _paper(paper.get("ratio"), "{:.1f}")),
    ]
    for batch, times in measurements.get("milliseconds", {}).get("batches", {}).items():
        images = "one image" if batch == "1" else f"{batch} images"
        rows.append((f"ms for {images}", milliseconds(times.get("float32")), milliseconds(times["engine"]), ""))
        if "int8" in times:
            rows.append((f"ms for {images}, dense in int8", milliseconds(times["int8"]), "", ""))
    return [dict(zip(("quantity", "dense", "packed", "published"), row, strict=True)) for row in rows]


def remarks(result: dict[str, Any], measurements: dict[str, Any], published: dict[str, Any]) -> list[str]:
    """The sentences below that table: what the columns are, and how far the engine is from torch."""
    dense, coded, agreement = result["dense"], result["packed"]["coded"], result["agreement"]
    speed = measurements.get("milliseconds", {})
    found = ["Bytes are whole files as they lie on disk."]
    if coded["weights"]:
        bits = 8 * coded["bytes"] / coded["weights"]
        found.append(f"The {coded['weights']:,} weights that are stored as codes take {bits:.2f} bits each.")
    size = f"{dense['weights']:,} parameters"
    if "error" in dense:
        found.append(f"The float32 network is the one after step {dense['step']}, {size}.")
    else:
        found.append(f"It was trained from nothing, so of the float32 network, {size}, only size and speed are shown.")
    if speed:
        found.append(
            f"Times are medians ± half the distance of the quartiles, threads: {speed['threads']}; the packed file in "
            "the engine, the float network of the same architecture in onnxruntime."
        )
        found += [f"{note[:1].upper()}{note[1:]}." for note in speed["notes"]]
    images, apart = f"{agreement['images']:,} test images", agreement["logit_difference"]
    if apart:
        found.append(f"The engine and torch give different labels for {agreement['labels_different']:,} of {images}.")
        found.append(f"The largest difference of a logit is {apart:.1e} of their range.")
    else:
        found.append(f"Every logit of {images} is torch's.")
    if (seen := agreement["quantised"])["values"]:
        numbers = f"{seen['different']:,} of {seen['values']:,} numbers of quantised layers"
        found.append(
            f"Layer by layer on a few images, {numbers} differ, {seen['wrong']:,} of them far from a threshold."
        )
    if "source" in published:
        found.append(f"Published figures: {published['source']}.")
    return found


def _percent(side: dict[str, Any], key: str) -> str:
    """A figure in percent; a dash for a network that was never trained."""
    return f"{side[key]:.2f} %" if key in side else "-"


def _paper(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _step(place: Path, label: str) -> dict[str, Any]:
    facts = _json(place / "step.json")
    seconds = _json(place / "seconds.json") or {}
    return {
        "label": label,
        "name": facts["step"],
        "validation": facts["validation"],
        "records": facts["records"],
        "seconds": seconds.get("seconds"),
        "curves": curves_of(place),
        "other_records": _as_text({k: v for k, v in facts["records"].items() if k not in DRAWN}),
    }


def curves_of(place: Path) -> list[dict[str, Any]]:
    """The epochs of every training inside a step, from their metrics.jsonl, in order."""
    found = []
    for path in sorted(place.rglob("metrics.jsonl"), key=lambda p: _numbers(p.parent.name)):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        if rows:
            found.append({"name": path.parent.name, "rows": rows})
    return found


def teacher_of(folder: Path, recipe: Recipe, label: str) -> dict[str, Any] | None:
    """The teacher of a step's training: its name, validation error in percent, and epochs; None without, or unknown."""
    from bitwright.folders import teacher_step
    from bitwright.steps.step import teachers

    number = recipe.labels.index(label)
    name = next(iter(teachers(recipe.steps[number])), None)
    if name is None:
        return None
    try:
        place = teacher_step(folder, recipe, number, name)
    except BitwrightError:  # what it is called by is no longer there
        return None
    facts = _json(place / "step.json") if place is not None else None
    if place is None or facts is None:
        return None
    epochs = [row["validation_error"] for training in curves_of(place) for row in training["rows"]]
    return {"name": name, "error": facts["validation"]["error"], "epochs": [] if name == "start" else epochs}


def _numbers(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return int(digits or 0), name


def _layers(packed: Path) -> dict[str, Any]:
    """The rows and totals of `bitwright inspect`."""
    from bitwright.packing.inspect import inspect_file

    return layer_table(inspect_file(packed))


def _recorded(steps: list[dict[str, Any]], kind: str) -> list[tuple[str, Any]]:
    """What steps recorded of a kind, each with its label."""
    return [(step["label"], step["records"][kind]) for step in steps if kind in step["records"]]


def _activity(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Han's table of the last step that recorded one."""
    tables = _recorded(steps, "activity")
    return tables[-1][1] if tables else []


def _as_text(records: dict[str, Any]) -> str:
    """Records as readable text, without the weights' positions and other long lists."""
    return json.dumps(records, indent=1) if records else ""
