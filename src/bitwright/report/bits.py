"""Charts of bit widths: what a search tried and found, single layers at every width, and the ranges of formats."""

from __future__ import annotations

import math
from typing import Any

from bitwright.report.lines import COLOURS, Chart, line


def search_charts(number: int, found: dict[str, Any]) -> list[Chart]:
    """Of one `search_bits` record: all configurations, the bits of the answers, and the scan if there is one."""
    charts = [tried(number, found), profile(number, found)]
    return [*charts, curves(number, found)] if found["scan"] else charts


def tried(number: int, found: dict[str, Any]) -> Chart:
    """Accuracy against the share of float32's bits that values move: every configuration, and the best of them."""
    accuracy, traffic, weights = ([row[i] for row in found["tried"]] for i in range(3))
    hover = [f"weights {100 * w:.1f} % of float32's bits" for w in weights]
    points = _marks(_percent(traffic), accuracy, "tried", "muted", hover, size=4)
    best = _front(list(zip(_percent(traffic), accuracy, strict=True)))
    front = line([x for x, _ in best], [y for _, y in best], "front", "c2", line={"shape": "hv", "width": 1})
    answers = found["answers"]
    names = [f"at most {answer['tolerance']:g} % lost" for answer in answers]
    shares, accuracies = _percent([a["traffic"] for a in answers]), [a["accuracy"] for a in answers]
    return {
        "id": f"bits-tried-{number}",
        "data": [points, front, _marks(shares, accuracies, "answers", "c1", names, size=9)],
        "layout": {
            "height": 380,
            "xaxis": {"title": {"text": "bits of values, % of float32"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "accuracy, %"}},
        },
    }


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those to whose left nothing is as high."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


def profile(number: int, found: dict[str, Any]) -> Chart:
    """The bits of each value and each layer's weights, a line for each tolerance."""
    data = []
    for i, answer in enumerate(found["answers"]):
        bits = [sum(b) if isinstance(b, list) else b for b in answer["value_bits"].values()]
        names = [f"value {name}" for name in answer["value_bits"]]
        names += [f"weights {name}" for name in answer["weight_bits"]]
        label = f"{answer['tolerance']:g} %"
        style = {"mode": "lines+markers", "line": {"shape": "hvh"}, "marker": {"size": 5}}
        data.append(line(names, [*bits, *answer["weight_bits"].values()], label, COLOURS[i % len(COLOURS)], **style))
    return {
        "id": f"bits-profile-{number}",
        "data": data,
        "layout": {
            "height": 380,
            "xaxis": {"tickangle": -60, "automargin": True},
            "yaxis": {"title": {"text": "bits"}, "rangemode": "tozero"},
        },
    }


def curves(number: int, found: dict[str, Any]) -> Chart:
    """Accuracy against bits, one value or one layer's weights at a time; the steepest first."""
    ordered = sorted(found["scan"].items(), key=lambda item: min(accuracy for _, accuracy in item[1]))
    data = []
    for i, (name, points) in enumerate(ordered):
        bits, accuracy = ([point[j] for point in points] for j in range(2))
        dash = "solid" if name.startswith("weight") else "dot"
        shown = True if i < len(COLOURS) else "legendonly"
        style = {"mode": "lines+markers", "marker": {"size": 4}, "line": {"dash": dash}, "visible": shown}
        data.append(line(bits, accuracy, name, COLOURS[i % len(COLOURS)], **style))
    return {
        "id": f"bits-scan-{number}",
        "data": data,
        "layout": {
            "height": 340,
            "xaxis": {"title": {"text": "bits of this value or layer alone"}, "dtick": 1},
            "yaxis": {"title": {"text": "accuracy, %"}},
        },
    }


def ranges(number: int, record: dict[str, Any]) -> Chart:
    """From the step of each format to its largest number, as powers of two: values, and weights of layers."""
    data = []
    for kind, rows, colour in (("values", record["points"], "c1"), ("weights", record["layers"], "c2")):
        names = [f"{row.get('name') or row['layer']}" for row in rows]
        steps = [math.log2(row["scale"]) for row in rows]
        tops = [math.log2(max(abs(row["low"]), abs(row["high"]), row["scale"])) for row in rows]
        bits = [row.get("bits") or row["weight_bits"] for row in rows]
        bar: dict[str, Any] = {
            "type": "bar",
            "name": kind,
            "x": [f"{kind[:-1]} {name}" for name in names],
            "base": steps,
        }
        bar["y"] = [top - step for top, step in zip(tops, steps, strict=True)]
        bar["marker"] = {"color": colour}
        bar["hovertext"] = [f"{b} bits, {2**s:.3g} to {2**t:.3g}" for b, s, t in zip(bits, steps, tops, strict=True)]
        data.append(bar | {"hoverinfo": "x+text"})
    return {
        "id": f"ranges-{number}",
        "data": data,
        "layout": {
            "height": 380,
            "bargap": 0.3,
            "xaxis": {"tickangle": -60, "automargin": True},
            "yaxis": {"title": {"text": "power of two"}, "dtick": 2},
        },
    }


def accumulator(number: int, record: dict[str, Any]) -> Chart:
    """The pairs of bits that were tried for each layer and how far its outputs were off, relative to the best pair."""
    data = []
    for i, row in enumerate(record["layers"]):
        pairs = sorted(row["tried"], key=lambda pair: pair[1])
        least = max(min(error for *_, error in pairs), 1e-30)
        hover = [f"{w}-bit weights, {d}-bit values" for w, d, _ in pairs]
        x, y = [d for _, d, _ in pairs], [error / least for *_, error in pairs]
        style = {"mode": "lines+markers", "marker": {"size": 6}, "text": hover}
        data.append(line(x, y, row["layer"], COLOURS[i % len(COLOURS)], **style))
    return {
        "id": f"accumulator-{number}",
        "data": data,
        "layout": {
            "height": 340,
            "xaxis": {"title": {"text": "bits of values (weights have what is left)"}, "dtick": 1},
            "yaxis": {"title": {"text": "difference of outputs, x the best pair"}, "type": "log"},
        },
    }


def _marks(x: list[float], y: list[float], name: str, colour: str, hover: list[str], size: int) -> dict[str, Any]:
    style = {"type": "scatter", "mode": "markers", "name": name, "marker": {"color": colour, "size": size}}
    return {"x": x, "y": y, "text": hover, **style}


def _percent(shares: list[float]) -> list[float]:
    return [100 * share for share in shares]


def precisions(rows: list[dict[str, Any]]) -> list[Chart]:
    """Accuracy and, if they were measured, milliseconds of one file against the bits that are used of it."""
    bits = [row["bits"] for row in rows]
    found = {"accuracy": ([100 - row["error"] for row in rows], "test accuracy, %", "c1")}
    if all(row["ms"] for row in rows):
        found["ms"] = [row["ms"] for row in rows], "ms for one image", "c2"
    return [
        {
            "id": f"precisions-{key}",
            "data": [line(bits, values, title, colour, mode="lines+markers")],
            "layout": {
                "height": 260,
                "showlegend": False,
                "xaxis": {"title": {"text": "bits of weights and activations"}, "dtick": 1},
                "yaxis": {"title": {"text": title}, **({"rangemode": "tozero"} if key == "ms" else {})},
            },
        }
        for key, (values, title, colour) in found.items()
    ]
