"""Commands that make files: run, train, compress, pack, demo. All but their options is `bitwright.run`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from bitwright.cli import app, screen
from bitwright.errors import BitwrightError

if TYPE_CHECKING:
    from bitwright.recipe import Recipe
    from bitwright.run import RunResult

Settings = Annotated[list[str], typer.Option("--set", metavar="PATH=VALUE", help="Change one value; may be repeated.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder \\[default: runs/NAME].")]
Seed = Annotated[int | None, typer.Option("--seed", help="Another seed than the recipe's.")]
Restart = Annotated[bool, typer.Option("--restart", help="Clear the folder's run and begin again.")]
Data = Annotated[Path | None, typer.Option("--data", help="Where the data is \\[default: $BITWRIGHT_DATA].")]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A named recipe (see `list recipes`) or a YAML file.")],
    settings: Settings = [],  # noqa: B006  (typer reads it, nobody changes it)
    out: Out = None,
    seed: Seed = None,
    restart: Restart = False,
    data: Data = None,
) -> None:
    """Run a recipe; given again after an interruption, it goes on where it was."""
    from bitwright.recipe import load_recipe

    changes = [*settings, *([f"seed={seed}"] if seed is not None else [])]
    _run(load_recipe(recipe, changes), out, restart, data, _command("run", Path(recipe).name, changes))


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="A model (see `list models`) or package.module:factory.")],
    dataset: Annotated[str, typer.Argument(metavar="DATA", help="A data set (see `list data`).")],
    epochs: Annotated[int, typer.Option(help="How often every training image is seen.")] = 20,
    lr: Annotated[float | None, typer.Option(help="The optimiser's learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Any of torch.optim, for example AdamW.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per update.")] = None,
    settings: Settings = [],  # noqa: B006
    out: Out = None,
    seed: Seed = None,
    restart: Restart = False,
    data: Data = None,
) -> None:
    """Train a network; `compress` goes on from its run folder.

    Every other setting of the training is reached by --set, for example --set train.weight_decay=0.001.
    """
    from bitwright.recipe import load_recipe

    fields: dict[str, Any] = {"epochs": epochs}
    chosen: dict[str, Any] = {
        "lr": lr,
        "name": optimizer,
        **({"options": {}} if optimizer not in (None, "SGD") else {}),
    }
    fields["optimizer"] = {key: value for key, value in chosen.items() if value is not None}
    if batch_size is not None:
        fields["batch_size"] = batch_size
    name = f"{model.rpartition(':')[2]}-{dataset.replace(':', '-').replace('/', '-')}"
    raw = {"name": name, "data": dataset, "model": model, "seed": seed or 0, "steps": [{"train": fields}]}
    shown = [f"train.epochs={epochs}", *(f"train.optimizer.{k}={v}" for k, v in fields["optimizer"].items())]
    shown += [f"train.batch_size={batch_size}"] * (batch_size is not None) + [f"seed={seed}"] * bool(seed)
    _run(load_recipe(raw, settings), out, restart, data, _command("train", f"{model} {dataset}", [*shown, *settings]))


@app.command()
def compress(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    step: Annotated[str, typer.Argument(help="A step (see `list steps`).")],
    settings: Settings = [],  # noqa: B006
    instead: Annotated[bool, typer.Option("--instead", help="Put it in the place of the last step.")] = False,
    data: Data = None,
) -> None:
    """Append a step to a run and continue it: compress runs/x prune --set rounds=5."""
    from bitwright.recipe import make_step
    from bitwright.run import extend_run

    recipe = extend_run(folder, make_step(step, settings), instead=instead, root=data)
    _run(recipe, folder, False, data, _command("compress", f"RUN {step}", settings))


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")] = Path("model.safetensors"),
    profile: Annotated[
        str | None, typer.Option(help='"paper", or fields as YAML, instead of the recipe\'s own.')
    ] = None,
    data: Data = None,
) -> None:
    """Write the packed file of a run, finished or not: the last finished step's model."""
    from bitwright.final import pack_model
    from bitwright.folders import stored_recipe
    from bitwright.recipe import read_yaml
    from bitwright.run import Run

    one = Run(stored_recipe(folder), folder, root=data)
    if not one.done and one.recipe.steps:
        raise BitwrightError(f"{folder} has no finished step to pack; finish it with `bitwright run`")
    last = one.done[-1] if one.done else None
    how = one.recipe.pack if profile is None else {"profile": read_yaml(profile, "--profile")}
    pack_model(one, one.model(last), how).save(out)
    source = f"step {last}" if last else "the model as it is built"
    screen().print(f"{out}: {out.stat().st_size:,} bytes, from {source}", highlight=False, soft_wrap=True)


@app.command()
def demo(out: Out = None, restart: Restart = False) -> None:
    """Train, compress, pack and run a small network on bundled data, in under a minute."""
    from bitwright.recipe import load_recipe

    finished = _run(load_recipe("demo"), out, restart, None, "bitwright demo")
    _sample_predictions(finished)


def _run(recipe: Recipe, out: Path | None, restart: bool, data: Path | None, command: str) -> RunResult:
    from bitwright.report import before_after
    from bitwright.report.findings import precisions
    from bitwright.run import run_recipe
    from bitwright.training.progress import default_progress

    finished = run_recipe(
        recipe, out, root=data, restart=restart, progress=default_progress(), command=command, announce=announce
    )
    rows = before_after(finished.result, finished.measurements, recipe.published)
    for one in precisions(finished.result, finished.measurements):
        quantity = f"test error, {one['bits']} bit{'s' * (one['bits'] > 1)}"
        rows.append({"quantity": quantity, "dense": "", "packed": f"{one['error']:.2f} %", "published": ""})
    _print_table(rows)
    screen().print(f"packed file  {finished.packed}\nreport       {finished.report}", highlight=False, soft_wrap=True)
    return finished


def announce(line: str) -> None:
    """Say on stderr what begins."""
    Console(stderr=True).print(line, style="dim", markup=False, highlight=False)


def _command(name: str, what: str, settings: list[str]) -> str:
    """The command as it may be published: without folders of this machine."""
    return " ".join(["bitwright", name, what, *(f"--set {shlex.quote(s)}" for s in settings)])


def _print_table(rows: list[dict[str, str]]) -> None:
    table = Table(box=None, padding=(0, 3, 0, 0))
    columns = ["quantity", "dense", "packed", *(["published"] if any(row["published"] for row in rows) else [])]
    for column in columns:
        title = {"quantity": "", "dense": "float32"}.get(column, column)
        table.add_column(title, justify="left" if column == "quantity" else "right")
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    screen().print(table)


def _sample_predictions(finished: RunResult, count: int = 5) -> None:
    """What the packed file says to the first test images."""
    from bitwright.folders import stored_recipe
    from bitwright.run import Run
    from bitwright.runtime import load

    data = Run(stored_recipe(finished.folder), finished.folder).data
    answers = np.argmax(load(finished.packed)(data.test.images[:count]), axis=1)
    said = ", ".join(
        f"{data.classes[int(label)]} as {data.classes[int(answer)]}"
        for label, answer in zip(data.test.labels[:count], answers, strict=True)
    )
    screen().print(f"test images  {said}", highlight=False)
