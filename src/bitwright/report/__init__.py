"""Pages: HTML files that open without a network. That of a run is made from the run's folder alone.

`gather` reads the folder into plain values, `charts` turns them into plotly figures, `page.html.jinja` lays them out.
None of it imports torch, and nothing is computed here that is not already in the folder. `probing` makes another page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitwright.files import write_atomic
from bitwright.report.findings import accumulator, together
from bitwright.report.gather import before_after, gather
from bitwright.report.layers import cell

__all__ = ["before_after", "gather", "render", "write_report"]


def write_report(folder: str | Path) -> Path:
    """Write FOLDER/report.html for a finished run and return its path."""
    path = Path(folder) / "report.html"
    write_atomic(path, render(folder))
    return path


def render(folder: str | Path) -> str:
    """The page of a run as text."""
    from bitwright.report.charts import all_charts

    facts = gather(Path(folder))
    return fill("page.html.jinja", facts, all_charts(facts))


def fill(template: str, facts: dict[str, Any], charts: list[dict[str, Any]]) -> str:
    """One of the templates here as text, plotly's JavaScript inside."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bitwright.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(thousands=_thousands, cell=cell, accumulator=accumulator, together=together)
    # "</" may not stand inside a script element, whatever a layer or class is called.
    as_json = json.dumps(charts).replace("</", "<\\/")
    return environment.get_template(template).render(**facts, charts_json=as_json, plotly=get_plotlyjs())


def _thousands(number: float) -> str:
    return f"{number:,}"
