"""Commands that use a packed file: inspect, predict, bench. None of them needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bitwright.cli import app, screen
from bitwright.cli.images import read_images
from bitwright.errors import BitwrightError

File = Annotated[Path, typer.Argument(metavar="FILE", help="A packed model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def inspect(file: File, as_json: AsJson = False) -> None:
    """What a packed file holds: encoding, density, bits and bytes of every tensor."""
    from bitwright.packing.inspect import inspect_file
    from bitwright.report.layers import layer_table

    report = inspect_file(file)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1))
        return
    facts = layer_table(report)
    console = screen()
    table, missing = _fitting(facts, console)
    console.print(table)
    for note in (*facts["notes"], *missing):
        console.print(note, style="dim", highlight=False)


DISPENSABLE = ("", "coders", "shape", "paper", "entropy")
"""The columns of `inspect` that a narrow terminal goes without, the least needed first."""


def _fitting(facts: dict[str, Any], console: Console) -> tuple[Table, list[str]]:
    """The table without the columns that `console` has no room for, and a note that names them."""
    from bitwright.report.layers import cell

    left_out: list[str] = []
    columns = facts["columns"]
    for key in DISPENSABLE:
        left_out += [column["title"] for column in columns if column["key"] == key]
        columns = [column for column in columns if column["key"] != key]
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column in columns:
            title = column["title"] if key == "" else column["title"].replace(" ", "\n").replace("/", "/\n")
            table.add_column(title, justify="left" if column["left"] else "right", overflow="fold")
        for row in facts["rows"]:
            table.add_row(*(escape(cell(row[column["key"]])) for column in columns))
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            break
    missing = f"No room for {', '.join(left_out)}: a wider terminal (COLUMNS=140) or --json shows them."
    return table, [missing] if left_out else []


@app.command()
def predict(
    file: File,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Pictures or .npy arrays.")],
    top: Annotated[int, typer.Option(help="How many classes to print for each image.", min=1)] = 3,
    resize: Annotated[bool, typer.Option("--resize", help="Scale pictures to the size that the model takes.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.", min=1)] = None,
    bits: Annotated[int | None, typer.Option(help="The precision to use, of a file that has several.")] = None,
) -> None:
    """Print the most likely classes of images."""
    from bitwright.runtime import load

    model = load(file, threads=threads)
    model = model if bits is None else model.at(bits)
    ways = len(model.input_shapes), len(model.output_shapes)
    if ways != (1, 1):
        raise BitwrightError(f"{file} has {ways[0]} inputs and {ways[1]} outputs; predict is for one of each")
    console = screen()
    for path in images:
        for place, image in read_images(path, model.input_shapes[0], 0 in model.graph.pixel_inputs(), resize):
            console.print(
                f"{place}  {_best(np.asarray(model(image)), model.classes, top)}", highlight=False, soft_wrap=True
            )


def _best(logits: np.ndarray, classes: Any, top: int) -> str:
    """ "7 99.8 %, 9 0.1 %": the softmax of one row, largest first."""
    row = np.asarray(logits[0], np.float64)
    share = np.exp(row - row.max())
    share /= share.sum()
    names = classes or [str(i) for i in range(len(row))]
    order = np.argsort(-share, kind="stable")[:top]
    return ", ".join(f"{names[i]} {100 * share[i]:.1f} %" for i in order)


@app.command()
def bench(
    file: File,
    vs: Annotated[
        str, typer.Option(help="Peers: onnxruntime, torch, both with a comma, or none.")
    ] = "onnxruntime,torch",
    threads: Annotated[int, typer.Option(help="Threads of every contestant.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 1,
    layers: Annotated[bool, typer.Option("--layers", help="Also a table of the layers.")] = False,
    bits: Annotated[str, typer.Option(help="Precisions to time, 1,2,3; of the highest there are peers.")] = "",
    as_json: AsJson = False,
) -> None:
    """Milliseconds of a packed file, median and spread, beside float32 and int8 peers where they are installed."""
    from bitwright.measure.latency import measure_file

    peers = [name for name in (part.strip() for part in vs.split(",")) if name not in ("", "none")]
    found = measure_file(
        file, threads=threads, batch=batch, peers=peers, layers=layers, bits=_whole_numbers("--bits", bits)
    )
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table(box=None, padding=(0, 3, 0, 0))
    for column in ("", "ms, median", "spread", "images/s", "x ours"):
        table.add_column(column, justify="right" if column else "left")
    for row in found["contestants"]:
        per_second = 1000 * batch / row["median"]
        numbers = f"{row['median']:.4f}", f"{row['spread']:.4f}", f"{per_second:,.0f}", f"{row['ratio']:.2f}"
        table.add_row(row["name"], *numbers)
    console = screen()
    console.print(table)
    if layers:
        console.print()
        console.print(_layer_table(found))
        loops = ", ".join(f"{family} {1e-9 * speed:,.0f}" for family, speed in found["peaks"].items())
        found["notes"] += [
            f"of peak: of a loop on registers here, Gop/s: {loops}",
            "counted: operations as XNOR-Net counts them (bit products in words of 64; 32 bits over bits of a weight)",
            "measured: against this engine's float32 kernel of the shape; dense float32 bytes over bytes in the file",
            *_no_faster(found["layers"]),
        ]
    for note in (*found["notes"], *_circumstances(found)):
        console.print(note, style="dim", highlight=False, markup=False)


def _whole_numbers(option: str, text: str) -> list[int]:
    """Of a list with commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise BitwrightError(f"{option} is {text!r}; expected whole numbers with commas: 1,2,3", kind="value")
    return [int(part) for part in parts]


def _no_faster(layers: list[dict[str, Any]]) -> list[str]:
    """A note, where convolutions of floats gain nothing from their weights' few bits."""
    plain = [row for row in layers if row["counted_saving"] and row["kernel"].split(" ")[0] in ("conv2d", "depthwise")]
    if not plain:
        return []
    return [
        f"no faster than float32: {len(plain)} convolutions of floats with quantised weights, which only save bytes"
    ]


def _circumstances(found: dict[str, Any]) -> list[str]:
    """What the times mean and what they were measured on."""
    names = [row["name"] for row in found["contestants"]]
    threads, machine, notes = found["threads"], found["machine"], []
    if any("int8" in name or "no quantisers" in name for name in names):
        notes.append("int8 and networks without quantisers compute something else: compared in speed only")
    notes.append(f"spread: half the distance of the quartiles, of {found['contestants'][0]['rounds']:,} calls in turns")
    used = [name for name in ("onnxruntime", "torch") if any(row.startswith(name) for row in names)]
    peers = "".join(f", {name} {found['versions'][name]}" for name in used)
    return [*notes, f"{machine['cpu']}, {found['isa']} kernels, {threads} of {machine['cores']} cores{peers}"]


LAYER_COLUMNS = {
    "layer": lambda row: row["name"] or "-",
    "computes": lambda row: row["does"],
    "kernel": lambda row: row["kernel"],
    "ms": lambda row: f"{row['ms']:.4f}",
    "time": lambda row: f"{row['share']:.1%}",
    "Gop/s": lambda row: _number(row["gops"], ",.0f"),
    "of peak": lambda row: _number(row["of_peak"], ".0%"),
    "speed-up\ncounted": lambda row: _number(row["counted_speedup"], ".0f", "x"),
    "speed-up\nmeasured": lambda row: _number(row["measured_speedup"], ".1f", "x"),
    "saving\ncounted": lambda row: _number(row["counted_saving"], ".0f", "x"),
    "saving\nmeasured": lambda row: _number(row["measured_saving"], ".1f", "x"),
}


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _layer_table(found: dict[str, Any]) -> Table:
    """The steps of the engine, in order."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, title in enumerate(LAYER_COLUMNS):
        table.add_column(title, justify="right" if i > 2 else "left", overflow="fold")
    for row in found["layers"]:
        table.add_row(*(escape(cell(row)) for cell in LAYER_COLUMNS.values()))
    return table
