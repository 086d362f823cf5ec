"""The table of `bitwright inspect`, for the terminal and for the page, and how numbers are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitwright.packing.inspect import Report

COLUMNS = (
    ("name", "tensor", True),
    ("shape", "shape", True),
    ("encoding", "encoding", True),
    ("coders", "coders", True),
    ("density", "kept, %", False),
    ("bits", "bits/weight", False),
    ("bytes", "bytes", False),
    ("entropy", "entropy bound", False),
    ("paper", "paper counts", False),
)


def layer_table(report: Report) -> dict[str, Any]:
    """{"columns": [{key, title, left}], "rows": [values by key], "notes": [sentence]}; the last row is the total."""
    rows: list[dict[str, Any]] = [
        {
            "name": f"{row.layer} {row.role}",
            "shape": "x".join(map(str, row.shape)),
            "encoding": row.encoding,
            "coders": row.coders,
            "density": round(100 * row.density, 2),
            "bits": round(row.bits_per_weight, 3),
            "bytes": row.nbytes,
            "entropy": row.entropy_bytes,
            "paper": row.paper_bytes,
        }
        for row in report.rows
    ]
    blank = dict.fromkeys((key for key, _, _ in COLUMNS), "")
    rows.append({**blank, "name": "graph, names, headers", "bytes": report.overhead})
    total = {"bytes": report.file_bytes, "entropy": report.entropy_bytes, "paper": report.paper_bytes}
    bits = round(8 * report.file_bytes / max(1, report.weights), 3)
    rows.append({**blank, "name": "file", "bits": bits, **total})
    notes = [
        f"{report.weights:,} numbers, {report.float32_bytes:,} bytes as float32: {report.ratio:.1f} times the file.",
        "Entropy bound: what a coder without memory could reach on the same streams.",
        f"Paper counts: {report.paper}.",
    ]
    if report.accumulators:
        widths = sorted(set(report.accumulators.values()))
        layers = {bits: [name for name, b in report.accumulators.items() if b == bits] for bits in widths}
        said = "; ".join(f"{bits} bits: {', '.join(names)}" for bits, names in layers.items())
        notes.append(f"Sums proven to fit into so narrow accumulators, for every input. {said}.")
    return {"columns": [{"key": k, "title": t, "left": left} for k, t, left in COLUMNS], "rows": rows, "notes": notes}


def cell(value: object) -> str:
    """A number of a table: whole ones with separators, others with three digits that count."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def milliseconds(time: dict[str, float] | None) -> str:
    """Median and spread of one of `measure.latency`'s times; "" for none."""
    return f"{cell(time['median'])} ± {time['spread']:.1g}" if time else ""
