"""What all charts are made of.

Colours are names ("line", "c1" .. "c8", "muted"), which the page replaces by those of the light or dark theme.
"""

from __future__ import annotations

from typing import Any

Chart = dict[str, Any]
COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")


def line(x: list[Any], y: list[Any], name: str, colour: str, **more: Any) -> dict[str, Any]:
    """A line through points, in one of the colours above; `more` are fields of plotly's scatter."""
    style = {"color": colour, "width": 2, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": style, **more}
