"""`bitwright compare`: variants of a recipe, or runs, in one table and one page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bitwright.cli import app, screen
from bitwright.cli.making import Data, announce


@app.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|FILE|RECIPE|RUN...",
            help="A comparison (see `list comparisons`) or its file; or recipes and finished runs.",
        ),
    ],
    sweep: Annotated[
        list[str], typer.Option("--sweep", metavar="PATH=A,B,C", help="Values to try; several make a grid.")
    ] = [],  # noqa: B006
    charts: Annotated[
        str | None,
        typer.Option(
            "--charts", help="Those to draw: error, bytes, ms, outputs, curves \\[default: its own; bytes,ms]."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The comparison's folder \\[default: runs/NAME-comparison].")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin those runs again whose recipe is another than it was.")
    ] = False,
    data: Data = None,
) -> None:
    """Run what has not run yet, and show all in one table and one page; given again, it goes on where it was."""
    from bitwright.compare import compare as run_comparison  # typer takes the command's name from this function's
    from bitwright.compare import plan
    from bitwright.compare.plan import read_sweep
    from bitwright.training.progress import default_progress

    planned = plan(what, read_sweep(sweep), charts.split(",") if charts else None)
    shown = " ".join([*(Path(one).name for one in what), *(f"--sweep {shlex.quote(one)}" for one in sweep)])
    shown += f" --charts {charts}" if charts else ""
    place = run_comparison(
        planned,
        out,
        root=data,
        restart=restart,
        progress=default_progress(),
        command=f"bitwright compare {shown}",
        announce=announce,
    )
    _show(json.loads((place / "comparison.json").read_text("utf-8")))
    for name in ("comparison.json", "comparison.html"):
        screen().print(f"written    {place / name}", highlight=False, soft_wrap=True)


def _show(record: dict[str, Any]) -> None:
    from bitwright.compare.table import note, table

    head, rows = table(record)
    shape = Table(box=None, padding=(0, 3, 0, 0))
    for i, title in enumerate(head):
        shape.add_column(title if i else "", justify="right" if i else "left")
    for row in rows:
        shape.add_row(*map(escape, row))
    screen().print(shape)
    screen().print(note(record), style="dim", highlight=False, markup=False)
