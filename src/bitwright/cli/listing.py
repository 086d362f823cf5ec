"""`bitwright list`: the names that recipes and commands take, with a line about each."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bitwright.cli import app, screen


class Kind(enum.StrEnum):
    """What can be listed."""

    STEPS = "steps"
    MODELS = "models"
    DATA = "data"
    RECIPES = "recipes"
    COMPARISONS = "comparisons"


@app.command("list")
def list_names(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """The [bold]steps[/], [bold]models[/], [bold]data[/] sets, [bold]recipes[/] or [bold]comparisons[/] with a name."""
    table = Table.grid(padding=(0, 3))
    for name, line in names(kind).items():
        table.add_row(name, escape(line))
    screen().print(table)


def names(kind: Kind) -> dict[str, str]:
    """Name -> one line, for everything of a kind."""
    if kind is Kind.STEPS:
        from bitwright.steps import list_steps

        return _first_lines(list_steps())
    if kind is Kind.MODELS:
        from bitwright.models import list_models

        return _first_lines(list_models())
    if kind is Kind.DATA:
        from bitwright.data import list_datasets

        return list_datasets()
    if kind is Kind.COMPARISONS:
        from bitwright.compare import list_comparisons

        return list_comparisons()
    from bitwright.recipe import list_recipes

    return list_recipes()


def _first_lines(things: Mapping[str, Any]) -> dict[str, str]:
    return {name: (inspect.getdoc(thing) or "").partition("\n")[0] for name, thing in things.items()}
