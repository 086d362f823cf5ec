"""The charts of a report as plain plotly figures: {"id", "data", "layout"}."""

from __future__ import annotations

import base64
import io
from typing import Any

from bitwright.report import bits
from bitwright.report.lines import COLOURS, Chart, line


def all_charts(facts: dict[str, Any]) -> list[Chart]:
    """Every chart of the page, in no particular order; the template places them by id."""
    charts = [curves(i, step) for i, step in enumerate(facts["steps"]) if step["curves"]]
    charts += [sensitivity(i, scan) for i, (_, scan) in enumerate(facts["sensitivity"])]
    charts += [
        weights(i, j, picture) for i, layer in enumerate(facts["pictures"]) for j, picture in enumerate(layer["steps"])
    ]
    for i, (_, found) in enumerate(facts["bit_searches"]):
        charts += bits.search_charts(i, found)
    charts += [bits.ranges(i, record) for i, (_, record) in enumerate(facts["ranges"])]
    charts += [bits.accumulator(i, record) for i, (_, record) in enumerate(facts["accumulators"])]
    charts += bits.precisions(facts["precisions"]) if facts["precisions"] else []
    for i, (_, record) in enumerate(facts["balance"]):
        charts += [work(i, j, row) for j, row in enumerate(record["layers"])]
    if facts["features"] is not None:
        charts.append(features(facts["features"]))
    return [*charts, layer_bytes(facts["layers"]["rows"])]


def curves(number: int, step: dict[str, Any]) -> Chart:
    """Training and validation error over all epochs of a step, its trainings one after the other, and its teacher's."""
    train: list[Any] = []
    validation: list[Any] = []
    borders = []
    for training in step["curves"]:
        if train:
            borders.append(len(train) + 0.5)
        train += [row["train_error"] for row in training["rows"]]
        validation += [row["validation_error"] for row in training["rows"]]
    epochs = list(range(1, len(train) + 1))
    mode = "lines" if len(train) > 1 else "markers"
    data = [
        line(epochs, train, "training", "muted", mode=mode),
        line(epochs, validation, "validation", "c1", mode=mode),
    ]
    if teacher := step.get("teacher"):
        errors = teacher["epochs"] or [teacher["error"]] * max(len(epochs), 2)
        dotted = {"dash": "dot"}
        data.append(line(list(range(1, len(errors) + 1)), errors, "teacher, validation", "c2", line=dotted))
    return {
        "id": f"curves-{number}",
        "data": data,
        "layout": {
            "height": 260,
            "xaxis": {"title": {"text": "epoch"}},
            "yaxis": {"title": {"text": "error, %"}, "rangemode": "tozero"},
            "shapes": [_border(x) for x in borders],
        },
    }


def _border(x: float) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "grid", "width": 1, "dash": "dot"},
    }


def sensitivity(number: int, scan: dict[str, Any]) -> Chart:
    """Error after pruning one layer alone, without retraining, against what is cut of it (Han et al. 2015)."""
    data = []
    for i, (layer, points) in enumerate(scan["layers"].items()):
        x, y = [100 * p["sparsity"] for p in points], [p["error"] for p in points]
        colour = COLOURS[i % len(COLOURS)]
        data.append(line([0, *x], [scan["baseline"], *y], layer, colour, mode="lines+markers", marker={"size": 5}))
    return {
        "id": f"sensitivity-{number}",
        "data": data,
        "layout": {
            "height": 300,
            "xaxis": {"title": {"text": "weights of this layer that are cut, %"}},
            "yaxis": {"title": {"text": "validation error, %"}, "rangemode": "tozero"},
        },
    }


def weights(layer: int, step: int, picture: dict[str, Any]) -> Chart:
    """The values of one layer after one step: a histogram, or one stem per value where few are left."""
    bars: dict[str, Any] = {"type": "bar", "x": picture["x"], "y": picture["y"], "marker": {"color": "c1"}}
    bars["hovertemplate"] = "%{x:.4g}: %{y}<extra></extra>"
    if picture["exact"] and len(picture["x"]) > 1:
        reach = max(picture["x"]) - min(picture["x"])
        bars["width"] = reach / 160
    return {
        "id": f"weights-{layer}-{step}",
        "data": [bars],
        "layout": {
            "height": 150,
            "bargap": 0,
            "showlegend": False,
            "margin": {"l": 44, "r": 8, "t": 6, "b": 26},
            "xaxis": {"nticks": 5, "zeroline": False},
            "yaxis": {"nticks": 4},
        },
    }


def work(number: int, place: int, row: dict[str, Any]) -> Chart:
    """Entries of each processing element, as many weights without balance beside those with it."""
    elements = list(range(len(row["balanced"]["entries"])))
    kinds = (("without balance", "unbalanced", "muted"), ("balanced", "balanced", "c1"))
    bars = [
        {"type": "bar", "name": name, "x": elements, "y": row[kind]["entries"], "marker": {"color": colour}}
        for name, kind, colour in kinds
    ]
    axes = {
        "xaxis": {"title": {"text": "processing element"}},
        "yaxis": {"title": {"text": "entries, fillers included"}},
    }
    return {"id": f"work-{number}-{place}", "data": bars, "layout": {"height": 260, "bargap": 0.2, **axes}}


def features(picture: dict[str, Any]) -> Chart:
    """Weights of the first layer as tiles of pixels, dark below and bright above zero."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture["image"]).save(file, format="PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    height, width = picture["image"].shape[:2]
    zoom = max(2.5, 300 / width)
    return {
        "id": "features",
        "data": [{"type": "image", "source": source, "hoverinfo": "skip"}],
        "layout": {
            "height": round(zoom * height) + 12,
            "width": round(zoom * width) + 12,
            "margin": {"l": 6, "r": 6, "t": 6, "b": 6},
            "xaxis": {"visible": False},
            "yaxis": {"visible": False, "autorange": "reversed"},
        },
    }


def layer_bytes(rows: list[dict[str, Any]]) -> Chart:
    """Bytes of each stored tensor, the largest on top; the small ones are summed."""
    ordered = sorted(rows[:-1], key=lambda r: -r["bytes"])  # without the total
    shown, rest = ordered[:12], ordered[12:]
    names = [r["name"] for r in shown] + ([f"{len(rest)} smaller"] if rest else [])
    sizes = [r["bytes"] for r in shown] + ([sum(r["bytes"] for r in rest)] if rest else [])
    return {
        "id": "layer-bytes",
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": sizes[::-1],
                "y": names[::-1],
                "marker": {"color": "c1"},
                "hovertemplate": "%{y}: %{x:,} bytes<extra></extra>",
            }
        ],
        "layout": {
            "height": 60 + 24 * len(names),
            "showlegend": False,
            "bargap": 0.35,
            "margin": {"l": 110, "r": 16, "t": 6, "b": 40},
            "xaxis": {"title": {"text": "bytes"}},
        },
    }
