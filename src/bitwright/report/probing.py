"""The page of `bitwright probe`: activations and gradients of every layer, and the loss around the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bitwright.report import fill
from bitwright.report.lines import Chart, line

if TYPE_CHECKING:
    from bitwright.measure.probe import Numbers, Row
    from bitwright.measure.surface import Surface

MOST_LAYERS = 40
"""Of deeper networks every k-th layer has histograms; more would make the page slow."""
FLOOR = 1e-6
"""The loss's logarithm is drawn; a smaller loss is drawn as this."""


def probe_page(name: str, about: str, rows: list[Row], surface: Surface | None) -> str:
    """The page as text. `about` says in a sentence which weights and images it shows."""
    drawn = rows[:: math.ceil(len(rows) / MOST_LAYERS)]
    charts = [activations(rows), gradients(rows)]
    for i, row in enumerate(drawn):
        charts.append(histogram(f"activations-{i}", row["activations"], "c1"))
        if row["gradients"] is not None:
            charts.append(histogram(f"gradients-{i}", row["gradients"], "c2"))
    if surface is not None:
        charts.append(contours(surface))
    facts = {"name": name, "about": about, "rows": rows, "drawn": drawn, "surface": surface}
    return fill("probing.html.jinja", facts, charts)


def activations(rows: list[Row]) -> Chart:
    """Mean and standard deviation of each layer's outputs, in order of execution."""
    names = [row["layer"] for row in rows]
    means, stds = ([row["activations"][key] for row in rows] for key in ("mean", "std"))
    return _along(
        "activations",
        [
            line(names, means, "mean", "muted", mode="lines+markers"),
            line(names, stds, "standard deviation", "c1", mode="lines+markers"),
        ],
    )


def gradients(rows: list[Row]) -> Chart:
    """Standard deviation of the loss's gradient with respect to each layer's outputs, on a logarithmic axis."""
    found = [(row["layer"], row["gradients"]["std"]) for row in rows if row["gradients"] is not None]
    names, stds = [name for name, _ in found], [std for _, std in found]
    chart = _along("gradients", [line(names, stds, "standard deviation", "c2", mode="lines+markers")])
    chart["layout"]["yaxis"] = {"type": "log", "exponentformat": "power"}
    return chart


def _along(name: str, data: list[dict[str, Any]]) -> Chart:
    """A chart whose x axis is the layers."""
    return {"id": name, "data": data, "layout": {"height": 300, "xaxis": {"type": "category", "tickangle": -60}}}


def histogram(name: str, numbers: Numbers, colour: str) -> Chart:
    """The values that are not zero."""
    bars = {"type": "bar", "x": numbers["x"], "y": numbers["y"], "marker": {"color": colour}}
    return {
        "id": name,
        "data": [{**bars, "hovertemplate": "%{x:.4g}: %{y}<extra></extra>"}],
        "layout": {
            "height": 110,
            "bargap": 0,
            "showlegend": False,
            "margin": {"l": 44, "r": 8, "t": 6, "b": 24},
            "xaxis": {"nticks": 6, "exponentformat": "power"},
            "yaxis": {"nticks": 3},
        },
    }


def contours(surface: Surface) -> Chart:
    """Lines of equal loss, spaced by its logarithm, with the network itself in the middle."""
    heights = [[None if v is None else math.log10(max(v, FLOOR)) for v in row] for row in surface["loss"]]
    known = [value for row in heights for value in row if value is not None]
    ticks = [
        (math.log10(d * 10.0**e), f"{d * 10.0**e:g}")
        for e in range(math.floor(min(known, default=0)), math.ceil(max(known, default=0)) + 1)
        for d in (1, 2, 5)
    ]
    plane = {
        "type": "contour",
        "x": surface["axis"],
        "y": surface["axis"],
        "z": heights,
        "text": [["not finite" if v is None else f"{v:.4g}" for v in row] for row in surface["loss"]],
        "hovertemplate": "a %{x:.2f}, b %{y:.2f}: loss %{text}<extra></extra>",
        "colorscale": "Viridis",
        "ncontours": 24,
        "line": {"width": 0.5},
        "colorbar": {
            "title": {"text": "loss"},
            "tickvals": [value for value, _ in ticks],
            "ticktext": [text for _, text in ticks],
        },
    }
    here = {"type": "scatter", "mode": "markers", "x": [0], "y": [0], "marker": {"color": "c6", "size": 8}}
    return {
        "id": "surface",
        "data": [plane, {**here, "hoverinfo": "skip"}],
        "layout": {
            "height": 540,
            "width": 640,
            "showlegend": False,
            "xaxis": {"title": {"text": "a"}},
            "yaxis": {"title": {"text": "b"}, "scaleanchor": "x"},
        },
    }
