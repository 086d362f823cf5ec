"""Commands that look at a model before anything is compressed: summary."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from bitwright.cli import app, screen
from bitwright.cli.using import AsJson
from bitwright.errors import BitwrightError

if TYPE_CHECKING:
    from bitwright.measure.summary import Layer, Summary

Model = Annotated[str, typer.Argument(help="A model (see `list models`) or package.module:factory.")]
Options = Annotated[list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the model.")]
Input = Annotated[str | None, typer.Option("--input", metavar="C,H,W", help="Another input size than the model's own.")]


@app.command()
def summary(model: Model, option: Options = [], size: Input = None, as_json: AsJson = False) -> None:  # noqa: B006
    """What each layer of a model costs: output, parameters, multiply-accumulates, activations, receptive field."""
    import torch

    from bitwright.measure.summary import summarise
    from bitwright.models import create_model
    from bitwright.models.registry import options_of

    options, shape = _options(model, option), _shape(size)
    if shape is not None and "input_shape" in options_of(model):
        options["input_shape"] = shape
    with torch.device("meta"):  # shapes without values: nothing is allocated
        built = create_model(model, **options)
    shape = shape or getattr(built, "input_shape", None)
    if shape is None:
        raise BitwrightError(f"model {model!r} does not say what it takes; give --input, for example --input 3,224,224")
    found = summarise(built, shape)
    if as_json:
        typer.echo(json.dumps({"model": model, **found.as_dict()}, indent=1))
        return
    console = screen()
    console.print(_table(found))
    for note in _notes(found):
        console.print(note, style="dim", highlight=False)


def _options(model: str, settings: list[str]) -> dict[str, Any]:
    """The --option values as a recipe would read them."""
    from bitwright.recipe import override

    chosen = override({"model": {"name": model}}, [f"model.{setting}" for setting in settings])["model"]
    return {key: value for key, value in chosen.items() if key != "name"}


def _shape(text: str | None) -> list[int] | None:
    """ "3,224,224" as numbers."""
    if text is None:
        return None
    try:
        shape = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise BitwrightError(f"--input is {text!r}; expected whole numbers with commas, for example 3,224,224")
    return shape


def _table(found: Summary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("computes", overflow="ellipsis", no_wrap=True)
    for title in ("output", "parameters", "MACs", "activations", "receptive\nfield"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(*_row(layer))
    table.add_row(
        "total", "", "", f"{found.parameters:,}", f"{found.macs:,}", f"{found.activations:,}", "", style="bold"
    )
    return table


def _row(layer: Layer) -> tuple[str, ...]:
    counts = (f"{count:,}" if count else "" for count in (layer.parameters, layer.macs, layer.activations))
    return layer.name, layer.kind, _by(layer.output), *counts, _by(layer.receptive_field or ())


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _notes(found: Summary) -> list[str]:
    memory = f"{4e-6 * found.parameters:,.1f} MB of parameters and {4e-6 * found.activations:,.1f} MB of activations"
    notes = [f"{memory} for one image, as float32; functions of single values work in place"]
    if found.unused:
        notes.append(f"{found.unused:,} parameters are in parts that do not run for a prediction")
    return notes
