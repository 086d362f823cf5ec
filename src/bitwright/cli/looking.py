"""Commands that look into a network: what its layers cost (`summary`), what passes through them (`probe`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from bitwright.cli import app, screen
from bitwright.cli.making import Data
from bitwright.cli.using import AsJson
from bitwright.errors import BitwrightError, unknown
from bitwright.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bitwright.measure.probe import Row
    from bitwright.measure.summary import Layer, Summary
    from bitwright.run import Run

Model = Annotated[str, typer.Argument(help="A model (see `list models`) or package.module:factory.")]
Options = Annotated[list[str], typer.Option("--option", metavar="KEY=VALUE", help="An option of the model.")]
Input = Annotated[str | None, typer.Option("--input", metavar="C,H,W", help="Another input size than the model's own.")]


@app.command()
def summary(model: Model, option: Options = [], size: Input = None, as_json: AsJson = False) -> None:  # noqa: B006
    """What each layer of a model costs: output, parameters, multiply-accumulates, activations, receptive field."""
    from bitwright.measure.summary import summarise
    from bitwright.models.registry import options_of

    options, shape = _options(model, option), _shape(size)
    if shape is not None and "input_shape" in options_of(model):
        options["input_shape"] = shape
    built = _on_meta(model, options)
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


def _on_meta(name: str, options: dict[str, Any]) -> nn.Module:
    """A model of shapes without values: nothing is allocated, and what its weights would be does not matter."""
    import torch

    from bitwright.models import create_model

    with torch.device("meta"):
        return create_model(name, **{k: v for k, v in options.items() if k not in ("weights", "fresh", "initialize")})


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


@app.command()
def probe(
    what: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="As `summary` takes it, or the folder of a run.")],
    dataset: Annotated[str | None, typer.Argument(metavar="[DATA]", help="For a MODEL \\[default: noise].")] = None,
    option: Options = [],  # noqa: B006
    step: Annotated[str | None, typer.Option(help='Of a RUN: "1-train", or "start" \\[default: the last].')] = None,
    images: Annotated[int, typer.Option(help="Training images in the batch.", min=2)] = 256,
    surface: Annotated[int, typer.Option(help="Also the loss around the weights, at so many points a side.")] = 0,
    seed: Annotated[int, typer.Option(help="Of a MODEL's weights, noise, dropout and directions.")] = 0,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("probe.html"),
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Activations and gradients of every layer for one batch, as a page: means, deviations, histograms.

    A MODEL without DATA gets standard normal numbers and random labels. --surface 21 takes 441 passes.
    """
    import torch

    from bitwright.measure.probe import probe as measure
    from bitwright.measure.surface import loss_surface
    from bitwright.report.probing import probe_page

    if dataset is None and not (Path(what) / "recipe.yaml").is_file():
        model_options = _options(what, option)
        model, (batch, labels) = _on_noise(what, model_options, images, seed)
        about = f"{_beginning(model_options, seed)}; {images} inputs of standard normal numbers, with random labels"
    else:
        run = _opened(what, dataset, option, seed, data)
        label = _step(run, step)
        model, sample = run.model(label), run.data.sample(images)
        batch, labels = run.data.preprocess.torch(torch.from_numpy(sample.images)), torch.from_numpy(sample.labels)
        about = f"weights after {label}" if label else _beginning(run.recipe.model, run.recipe.seed)
        about += f"; {len(labels)} training images of {run.data.name}"
    rows = measure(model, batch, labels, seed)
    around = loss_surface(model, batch, labels, surface, seed=seed) if surface else None
    write_atomic(out, probe_page(what, about, rows, around))
    if as_json:
        typer.echo(json.dumps({"about": about, "layers": rows, "surface": around}, indent=1))
        return
    screen().print(_probe_table(rows))
    screen().print(f"{about}\npage       {out}", highlight=False, soft_wrap=True)


def _beginning(options: Mapping[str, Any], seed: int) -> str:
    return f"weights {options['weights']}" if "weights" in options else f"first weights, seed {seed}"


def _on_noise(name: str, options: dict[str, Any], count: int, seed: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A model with its first weights, and a batch of noise that it takes."""
    import torch

    from bitwright.models import create_model

    random = torch.Generator().manual_seed(seed)
    shape = getattr(_on_meta(name, options), "input_shape", None)
    if shape is None:
        raise BitwrightError(f"model {name!r} does not say what it takes; name a data set: probe {name} digits")
    batch = torch.randn(count, *shape, generator=random)
    model = create_model(name, seed=seed, images=lambda: batch, **options)
    classes = model.eval()(batch[:1]).shape[-1]
    return model, (batch, torch.randint(classes, (count,), generator=random))


def _opened(what: str, dataset: str | None, option: list[str], seed: int, data: Path | None) -> Run:
    """The run in the folder `what`, or one without steps of that model on `dataset`."""
    from bitwright.folders import stored_recipe
    from bitwright.recipe import load_recipe
    from bitwright.run import Run

    if dataset is None:
        if option:
            raise BitwrightError(f"{what} is a run, whose recipe says all about its model; leave out --option")
        return Run(stored_recipe(what), Path(what), root=data)
    raw = {"name": "probe", "data": dataset, "model": {"name": what, **_options(what, option)}, "steps": []}
    return Run(load_recipe(raw, [f"seed={seed}"]), Path(), root=data)


def _step(run: Run, wanted: str | None) -> str | None:
    """The finished step that --step means; None for the first weights."""
    if wanted not in (None, "start", *run.done):
        raise unknown(f"finished step of {run.folder}", wanted, ["start", *run.done])
    return None if wanted == "start" or not run.done else wanted or run.done[-1]


def _probe_table(rows: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, title in enumerate(("layer", "computes", "mean", "std", "zeros, %", "gradient mean", "gradient std")):
        table.add_column(title, justify="left" if i < 2 else "right", no_wrap=i != 0, overflow="fold")
    for row in rows:
        sides = [row["activations"], row["gradients"]]
        means, stds = ([f"{side[key]:.3g}" if side else "" for side in sides] for key in ("mean", "std"))
        zeros = f"{row['activations']['zeros']:.1f}"
        table.add_row(row["layer"], row["kind"], means[0], stds[0], zeros, means[1], stds[1])
    return table
