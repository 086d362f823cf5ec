"""`bitwright search`: the hyper-parameters of a recipe, tried out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bitwright.cli import app, screen
from bitwright.cli.making import Data, Settings
from bitwright.errors import BitwrightError


@app.command()
def search(
    recipe: Annotated[str, typer.Argument(help="A named recipe (see `list recipes`) or a YAML file.")],
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary", metavar="PATH=SPACE", help="[a, b, c] or {low: 1e-4, high: 0.1, log: true}; may be repeated."
        ),
    ] = [],  # noqa: B006
    space: Annotated[Path | None, typer.Option(help="A YAML file of paths and spaces, beside --vary.")] = None,
    settings: Settings = [],  # noqa: B006
    trials: Annotated[int, typer.Option(help="Settings to try in each stage.")] = 20,
    sampler: Annotated[str, typer.Option(help="tpe, random or grid.")] = "tpe",
    stages: Annotated[int, typer.Option(help="Coarse to fine: each spans a quarter of the one before.")] = 1,
    fraction: Annotated[float, typer.Option(help="Share of the training images.")] = 1.0,
    folds: Annotated[int, typer.Option(help="k for k-fold cross-validation; 0: the validation part judges.")] = 0,
    pruner: Annotated[str, typer.Option(help="Stop bad trials early: none, median or halving.")] = "none",
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 0,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Another database; machines given the same one share the trials.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The search's folder \\[default: runs/NAME-search].")
    ] = None,
    data: Data = None,
) -> None:
    """Try settings of a recipe and keep the one with the least validation error; goes on where it was stopped."""
    from bitwright.recipe import load_recipe, read_yaml
    from bitwright.search import SearchSettings, Space
    from bitwright.search import search as run_search  # typer takes the command's name from this function's

    raw = read_yaml(space.read_text("utf-8"), str(space)) if space else {}
    if not isinstance(raw, dict):
        raise BitwrightError(f"{space}: found {type(raw).__name__}, expected paths with what may be tried there")
    how = SearchSettings(trials, sampler, stages, fraction, folds, pruner, seed)  # type: ignore[arg-type]
    start = load_recipe(recipe, settings)
    found = run_search(start, Space.of(vary, raw), how, out, storage=storage, root=data)
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    table.add_row("validation error", f"{found.error:.2f} %")
    for path, value in found.values.items():
        table.add_row(path, f"{value:.4g}" if isinstance(value, float) else str(value))
    table.add_row("trials", str(found.trials))
    screen().print(table)
    for name in ("best.yaml", "search.html"):
        screen().print(f"written    {found.folder / name}", highlight=False, soft_wrap=True)
