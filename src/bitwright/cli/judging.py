"""`bitwright evaluate`: finished runs on the test images, each alone and all together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bitwright.cli import app, screen
from bitwright.cli.making import Data
from bitwright.cli.using import AsJson
from bitwright.errors import BitwrightError


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs on the same data.")],
    crops: Annotated[int, typer.Option(help="Views of an image: 1, 2 (mirrored) or 10 (corners and middle).")] = 1,
    margin: Annotated[int, typer.Option(help="Pixels that the ten views move by.")] = 4,
    scales: Annotated[str, typer.Option(help="Factors on the size, for networks that take any: 0.9,1,1.1.")] = "1",
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """The error of trained networks on views of the test images, and of their ensemble: the mean of their answers."""
    from bitwright.final import require_finished
    from bitwright.folders import stored_recipe
    from bitwright.run import Run
    from bitwright.training.average import ManyViews, evaluate_average

    try:
        views = ManyViews(crops, margin, tuple(float(scale) for scale in scales.split(",")))
    except ValueError:
        raise BitwrightError(f"--scales is {scales!r}; expected numbers with commas between, as 0.9,1,1.1") from None
    opened = []
    for folder in runs:
        require_finished(folder)
        opened.append(Run(stored_recipe(folder), folder, root=data))
    for one in opened[1:]:
        if (one.data.name, one.data.classes) != (opened[0].data.name, opened[0].data.classes):
            raise BitwrightError(
                f"{one.folder} learned {one.data.name}, {opened[0].folder} {opened[0].data.name}; an ensemble needs "
                "runs on the same data",
                kind="data",
            )
    models = [one.model(one.recipe.last) for one in opened]
    prepare, images = [one.data.preprocess for one in opened], opened[0].data.split(split)
    rows = {
        f"{one.folder}": evaluate_average([model], images, [how], views)
        for one, model, how in zip(opened, models, prepare, strict=True)
    }
    if len(models) > 1:
        rows["all together"] = evaluate_average(models, images, prepare, views)
    if as_json:
        typer.echo(json.dumps({name: {"error": r.error, "loss": r.loss} for name, r in rows.items()}, indent=1))
        return
    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("", f"{split} error", "loss"):
        table.add_column(title, justify="right" if title else "left")
    for name, result in rows.items():
        table.add_row(name, f"{result.error:.2f} %", f"{result.loss:.4f}")
    screen().print(table)
