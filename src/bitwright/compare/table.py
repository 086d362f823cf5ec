"""The figures of a comparison as rows of text, for the terminal, the page and the documents."""

from __future__ import annotations

import statistics
from typing import Any

from bitwright.report.layers import cell

COLUMNS = {
    "train_error": "training error",
    "validation_error": "validation error",
    "output_error": "outputs, %",
    "products": "products, %",
    "busy": "busy, %",
    "busy_without": "unbalanced, %",
    "evaluations": "evaluations",
    "traffic": "bits of values, %",
    "weight_bits": "bits of weights, %",
    "error": "test error",
    **{f"error_{bits}": f"with {bits} bit{'s' if bits > 1 else ''}" for bits in range(1, 9)},
    "bytes": "bytes",
    "ms": "ms for one image",
}


_FORMS = {"bytes": "{:,.0f}", "evaluations": "{:,.0f}", "output_error": "{:.3g}"}


def table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of a comparison.json: means and deviations over the seeds, in brackets what was published."""
    rows = record["variants"]
    keys = [key for key in COLUMNS if any(key in seed for row in rows for seed in row["seeds"].values())]
    body = [[row["name"], *(_cell(row, key) for key in keys)] for row in [*rows, *_beside(record)]]
    return ["variant", *(COLUMNS[key] for key in keys)], body


def _beside(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The float32 network that variants have in common, and the same in int8, as further rows."""
    networks = {row["beside"]["name"]: row["beside"] for row in record["variants"] if "int8_error" in row["beside"]}
    kinds = {"float32": ("error", "bytes", "float32"), "int8": ("int8_error", "int8_bytes", "int8")}
    return [
        {
            "name": f"{kind}, onnxruntime",
            "published": {},
            "seeds": {
                "": {k: network[own] for k, own in zip(("error", "bytes", "ms"), keys, strict=True) if own in network}
            },
        }
        for network in networks.values()
        for kind, keys in kinds.items()
    ]


def note(record: dict[str, Any]) -> str:
    """What the columns are, in sentences."""
    seeds = max(len(row["seeds"]) for row in record["variants"])
    said = ["Errors are in percent, the training's over its last epoch as it was seen then (dropout, augmentation)."]
    if any(mean_of(row, "output_error") is not None for row in record["variants"]):
        said.append("Outputs: how far logits of validation images are from the float network's, of their squares.")
    if any(mean_of(row, "products") is not None for row in record["variants"]):
        said.append("Products: multiply-accumulates of the layers that a step made thinner, of what they were.")
    if any(mean_of(row, "busy") is not None for row in record["variants"]):
        said.append("Busy: the share of cycles in which a processing element works; unbalanced: with as many weights.")
    if any(mean_of(row, "evaluations") is not None for row in record["variants"]):
        said.append("Evaluations of the network by a search for bits; bits are shares of float32's.")
    for row in record["variants"]:
        if faults := row.get("faults"):
            said.append(
                f"The engine does not run the file of {row['name']} as torch ran the model: {'; '.join(faults)}."
            )
    if seeds > 1:
        said.append(f"Mean ± deviation over {seeds} seeds.")
    if any(row["published"] for row in record["variants"]):
        said.append(f"In brackets what was published{': ' if record['source'] else '.'}{record['source']}")
    elif record["source"]:
        said.append(f"Source: {record['source']}")
    return " ".join(one if one.endswith(".") else f"{one}." for one in said)


def minutes(record: dict[str, Any]) -> float:
    """How long all its trainings took."""
    return sum(seed["seconds"] for row in record["variants"] for seed in row["seeds"].values()) / 60


def mean_of(row: dict[str, Any], key: str) -> float | None:
    """The mean over a variant's seeds; None where none has the figure."""
    values = [seed[key] for seed in row["seeds"].values() if key in seed]
    return statistics.mean(values) if values else None


def deviation_of(row: dict[str, Any], key: str) -> float | None:
    """The standard deviation over the seeds; None where there are fewer than two."""
    values = [seed[key] for seed in row["seeds"].values() if key in seed]
    return statistics.stdev(values) if len(values) > 1 else None


def _cell(row: dict[str, Any], key: str) -> str:
    mean, deviation = mean_of(row, key), deviation_of(row, key)
    if mean is None:
        return "-"
    if key == "ms":
        return cell(mean)
    form = _FORMS.get(key, "{:.2f}")
    text = form.format(mean) + (f" ± {form.format(deviation)}" if deviation is not None else "")
    return f"{text} ({row['published'][key]:g})" if key in row["published"] else text
