"""What the steps of a run found that belongs beside its figures: bits, and accumulators that would do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

ACCUMULATORS = {
    "worst_case": "worst case",
    "act_w": "ACT w",
    "act_y": "ACT y",
    "wrap": "wrap",
    "clip": "clip",
}
"""The columns of an overflow record, by its keys."""


_FILES = ("result", "measurements")


class Table(NamedTuple):
    """A table, and the sentences above it."""

    said: str
    head: list[str]
    rows: list[list[str]]


def findings(folder: Path, labels: Iterable[str]) -> dict[str, Any]:
    """The records "bit_search", without the configurations that were tried, and "overflow" of the last such steps.

    And "precisions", where the file has several.
    """
    result, measurements = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in _FILES)
    found: dict[str, Any] = {"precisions": rows} if (rows := precisions(result, measurements)) else {}
    for label in labels:
        records = json.loads((folder / label / "step.json").read_text("utf-8"))["records"]
        if "bit_search" in records:
            kept = ("method", "tolerance", "baseline", "evaluations", "answers")
            found["bit_search"] = {key: records["bit_search"][key] for key in kept}
        if "overflow" in records:
            found["overflow"] = records["overflow"]
    return found


def tables(found: dict[str, Any]) -> list[Table]:
    """Of what `findings` gave."""
    made: dict[str, Callable[[Any], Table]] = {
        "bit_search": _bits,
        "overflow": _overflow,
        "precisions": _precisions,
    }
    return [made[name](record) for name, record in found.items()]


def _bits(record: dict[str, Any]) -> Table:
    said = (
        f"Bits per layer, by the search {record['method']!r} in {record['evaluations']} evaluations on validation "
        f"images ({record['baseline']:.2f} % in float32); values and weights in percent of float32's bits; bits of a "
        "value with a point are integer and fraction bits."
    )
    head = ["may lose", "accuracy", "values", "weights", "bits of values", "bits of weights"]
    return Table(said, head, [_answer(answer) for answer in record["answers"]])


def _answer(answer: dict[str, Any]) -> list[str]:
    """Bits as the paper writes them: layer by layer, integer and fraction bits with a point between."""
    values = [".".join(map(str, b)) if isinstance(b, list) else str(b) for b in answer["value_bits"].values()]
    shares = [f"{100 * answer[key]:.1f} %" for key in ("traffic", "weights")]
    weights = " ".join(map(str, answer["weight_bits"].values()))
    return [f"{answer['tolerance']:g} %", f"{answer['accuracy']:.2f} %", *shares, " ".join(values), weights]


def _precisions(rows: list[dict[str, Any]]) -> Table:
    said = "One file, by the bits that are used of its weights and activations; labels are compared with torch's."
    head = ["bits", "test error", "ms for one image", "labels that differ"]
    times = [f"{row['ms']:.4f}" if row["ms"] else "-" for row in rows]
    body = [
        [str(row["bits"]), f"{row['error']:.2f} %", time, str(row["labels_different"])]
        for row, time in zip(rows, times, strict=True)
    ]
    return Table(said, head, body)


def precisions(result: dict[str, Any], measurements: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each precision of the file: bits, test error, and milliseconds for one image if they were measured."""
    times = (measurements.get("milliseconds") or {}).get("batches", {}).get("1", {})
    rows = []
    for bits, found in result.get("precisions", {}).items():
        time = times.get(bits) or (times.get("engine") if bits == list(result["precisions"])[-1] else None)
        rows.append({"bits": int(bits), **found, "ms": time and time["median"]})
    return rows


def _overflow(record: dict[str, Any]) -> Table:
    said = (
        "Accumulators that would do, in bits of two's complement: by the number of products, by the weights (ACT w), "
        "by the largest sum of training images (ACT y), and the fewest with which that layer alone may wrap around, or "
        f"saturate, while {record['images']:,} validation images keep {record['keep']:g} % of the accuracy; integer "
        "bits in brackets where all scales are powers of two."
    )
    if "together" in record:
        said += f" {together(record)}"
    rows = [_row(row) for row in record["layers"]]
    return Table(said, ["layer", "products", *ACCUMULATORS.values()], rows)


def _row(row: dict[str, Any]) -> list[str]:
    return [row["layer"], f"{row['products']:,}", *(accumulator(row, key) for key in ACCUMULATORS)]


def accumulator(row: dict[str, Any], key: str) -> str:
    """The bits of a row of an overflow record, and the integer bits where its scales are powers of two."""
    fraction = row["fraction_bits"]
    return f"{row[key]}" + (f" ({row[key] - 1 - fraction})" if fraction is not None else "")


def together(record: dict[str, Any]) -> str:
    """What an overflow record says of narrow accumulators in all layers at once."""
    found = record["together"]
    return (
        f"With {found['bits']} bits in all layers at once {found['wrap']:.2f} % of these images are right where sums "
        f"wrap around, {found['clip']:.2f} % where they saturate, {record['accuracy']:.2f} % with exact sums."
    )
