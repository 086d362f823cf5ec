"""The page of a comparison: its charts and its table, one HTML file that opens without a network."""

from __future__ import annotations

from typing import Any

from bitwright.compare.table import deviation_of, mean_of, note, table
from bitwright.report.lines import COLOURS, Chart, line

Record = dict[str, Any]
_BESIDE = {
    "bytes": [("float32", ("bytes", "error"), "square-open"), ("int8", ("int8_bytes", "int8_error"), "diamond-open")],
    "ms": [("float32", ("float32", "error"), "square-open"), ("int8", ("int8", "int8_error"), "diamond-open")],
}
"""Of the networks beside: name, keys of both axes, and symbol."""
_MOST_LINES = 30
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")
_FAR = 4
"""Times the least error: with larger ones among them errors are drawn on a logarithmic axis."""
_MOST_NAMES = 12
"""With more variants their names would cover each other, and only hovering shows them."""


def render(record: Record) -> str:
    """The page as text, from what comparison.json holds."""
    from bitwright.report import fill

    found = charts(record)
    places = [{"title": title, "note": said, "id": chart["id"]} for title, said, chart in found]
    head, rows = table(record)
    facts = {
        **{key: record[key] for key in ("name", "description", "command", "date", "machine", "versions")},
        "charts": places,
        "head": head,
        "rows": list(zip(rows, [row["recipe"] for row in record["variants"]] + [""] * len(rows), strict=False)),
        "note": note(record),
    }
    return fill("compare.html.jinja", facts, [chart for _, _, chart in found])


def charts(record: Record) -> list[tuple[str, str, Chart]]:
    """Title, note and figure of each kind that the comparison asks for and has numbers of."""
    drawn = [_DRAWN[kind](record) for kind in record["charts"]]
    return [(title, said, chart) for title, said, chart in drawn if chart["data"]]


def _hover(row: Record) -> str:
    said = [f"<b>{row['name']}</b>", f"test error {mean_of(row, 'error'):.2f} %"]
    said.append(f"{mean_of(row, 'bytes'):,.0f} bytes")
    if (time := mean_of(row, "ms")) is not None:
        said.append(f"{time:.3g} ms for one image")
    return "<br>".join([*said, *row["recipe"].splitlines()[:_MOST_LINES]])


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _symbol(number: int) -> str:
    """Another one each time that the colours begin again."""
    return _SYMBOLS[number // len(COLOURS) % len(_SYMBOLS)]


def _errors(record: Record) -> tuple[str, str, Chart]:
    """A dot per variant, with the published one hollow beside it."""
    rows = record["variants"][::-1]
    spread = [deviation_of(row, "error") or 0 for row in rows]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "here",
            "x": [mean_of(row, "error") for row in rows],
            "y": [row["name"] for row in rows],
            "error_x": {"array": spread, "visible": any(spread), "color": "muted"},
            "marker": {"color": "c1", "size": 10},
            "text": [_hover(row) for row in rows],
            "hovertemplate": "%{text}<extra></extra>",
        }
    ]
    published = [row for row in rows if "error" in row["published"]]
    if published:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "published",
                "x": [row["published"]["error"] for row in published],
                "y": [row["name"] for row in published],
                "marker": {"color": "c2", "size": 10, "symbol": "circle-open"},
                "hovertemplate": "%{y}: %{x:.2f} % published<extra></extra>",
            }
        )
    layout = {
        "height": 100 + 28 * len(rows),
        "margin": {"l": 52, "r": 12, "t": 36, "b": 40},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "xaxis": {"title": {"text": "test error, %"}},
        "yaxis": {"type": "category"},
    }
    return "Test error", "of each variant", {"id": "errors", "data": data, "layout": layout}


def _against(record: Record, key: str, words: str, y: str = "error") -> Chart:
    """Test error, or another figure, against `key`, and of the networks before compression.

    The points of a sweep are joined by a line.
    """
    rows = [row for row in record["variants"] if mean_of(row, key) is not None and mean_of(row, y) is not None]
    groups: dict[str, list[Record]] = {}
    for row in rows:
        groups.setdefault(row.get("group") or row["name"], []).append(row)
    names = "markers+text" if len(rows) <= _MOST_NAMES else "markers"
    data = [
        {
            "type": "scatter",
            "mode": names if len(members) == 1 else "lines+markers",
            "name": group,
            "x": [mean_of(row, key) for row in members],
            "y": [mean_of(row, y) for row in members],
            "error_y": _spread(members, y),
            "text": [row["name"] for row in members],
            "textposition": "top center",
            "marker": {"color": _colour(number), "symbol": _symbol(number), "size": 10 if len(members) == 1 else 7},
            "line": {"color": _colour(number), "width": 1.5},
            "customdata": [_hover(row) for row in members],
            "hovertemplate": "%{customdata}<extra></extra>",
            "showlegend": len(members) > 1 or len(rows) > _MOST_NAMES,
        }
        for number, (group, members) in enumerate(groups.items())
    ]
    if y == "error":
        data += _networks_beside(rows, key)
    return {"id": f"{y}-{key}", "data": data, "layout": _layout(rows, words, y, len(data))}


def _networks_beside(rows: list[Record], key: str) -> list[Record]:
    """The points of the networks before compression."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [x for x, _ in points],
            "y": [y for _, y in points],
            "marker": {"color": "muted", "size": 9, "symbol": symbol},
            "hovertemplate": f"{name}: %{{y:.2f}} %, %{{x:,}}<extra></extra>",
        }
        for name, keys, symbol in _BESIDE[key]
        if (points := _points(rows, keys))
    ]


def _layout(rows: list[Record], words: str, y: str, names: int) -> Record:
    """Axes, and below them the legend if it has so many names that it would cover the points."""
    errors = [mean_of(row, y) or 0 for row in rows]
    far = min(errors, default=0) > 0 and max(errors) > _FAR * min(errors)
    title = "test error, %" if y == "error" else "difference of the outputs, %"
    layout: Record = {
        "height": 460,
        "xaxis": {"title": {"text": words}, "type": "log"},
        "yaxis": {"title": {"text": title}, **({"type": "log"} if far or y != "error" else {})},
    }
    if len(rows) > _MOST_NAMES:
        below = 24 * -(-names // 4)
        layout["height"] += below
        layout["legend"] = {"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"}
        layout["margin"] = {"l": 52, "r": 12, "t": 12, "b": 60 + below}
    return layout


def _points(rows: list[Record], keys: tuple[str, str]) -> list[tuple[float, float]]:
    """Two figures of the networks beside that have both, each network once."""
    return sorted({(row["beside"][keys[0]], row["beside"][keys[1]]) for row in rows if set(keys) <= set(row["beside"])})


def _bytes(record: Record) -> tuple[str, str, Chart]:
    said = "squares: the float32 networks before compression"
    if any("int8_error" in row["beside"] for row in record["variants"]):
        said += "; diamonds: these in onnxruntime's int8"
    return "Error against bytes", said, _against(record, "bytes", "bytes on disk")


def _milliseconds(record: Record) -> tuple[str, str, Chart]:
    said = "squares: the networks before compression in onnxruntime, float32"
    if any("int8_error" in row["beside"] for row in record["variants"]):
        said += "; diamonds: in int8"
    return "Error against time", said, _against(record, "ms", "milliseconds for one image, one thread")


def _spread(rows: list[Record], key: str) -> Record:
    """The deviations over seeds as bars."""
    return {"array": [deviation_of(row, key) or 0 for row in rows], "visible": len(rows[0]["seeds"]) > 1}


def _outputs(record: Record) -> tuple[str, str, Chart]:
    chart = _against(record, "bytes", "bytes on disk", "output_error")
    return "Outputs against bytes", "how far the logits of validation images are from the float network's", chart


def _curves(record: Record) -> tuple[str, str, Chart]:
    data = []
    for number, row in enumerate(record["variants"]):
        for part, dash in (("train", "dot"), ("validation", "solid")):
            errors = row["curves"][part]
            shown = {
                "legendgroup": row["name"],
                "showlegend": part == "validation",
                "line": {"dash": dash, "width": 1.8 + 2 * (number // len(COLOURS))},
                "mode": "lines+markers" if len(errors) < 3 else "lines",
                "hovertemplate": f"{row['name']}, {part}: %{{y:.2f}} % after %{{x}}<extra></extra>",
            }
            if errors:
                data.append(line(list(range(1, len(errors) + 1)), errors, row["name"], _colour(number), **shown))
    longest = max((len(row["curves"]["train"]) for row in record["variants"]), default=0)
    # Without the first tenth of each, which would press all the rest together.
    settled = [error for curve in data for error in curve["y"][len(curve["y"]) // 10 :]]
    layout = {
        "height": 460,
        "xaxis": {"title": {"text": "epoch"}, "dtick": max(1, longest // 8)},
        "yaxis": {"title": {"text": "error, %"}, "range": [0, 1.05 * max(settled, default=100)]},
        "legend": {"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"},
    }
    said = "solid: validation error, dotted: training error; a click on a name hides it, a double click shows all"
    return "Training", said, {"id": "curves", "data": data, "layout": layout}


_DRAWN = {"error": _errors, "bytes": _bytes, "ms": _milliseconds, "outputs": _outputs, "curves": _curves}
