"""From finished runs and comparisons to results/ and the tables in the documents (`results`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bitwright.cli import app
from bitwright.errors import BitwrightError


@app.command()
def results(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Finished runs, one per seed, and comparisons.")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Copy the figures and files of RUN... to results/.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the speed of everything in results/ anew, on this machine.")
    ] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Where the data is \\[default: $BITWRIGHT_DATA].")] = None,
    project: Annotated[Path, typer.Option(help="The project's folder, with results/, docs/ and README.md.")] = Path(),
) -> None:
    """Publish runs, then write docs/results.md and the README's table from everything in results/."""
    from bitwright.compare.work import COMPARISON
    from bitwright.results import measure_results, publish_comparisons, publish_runs, write_documents

    console = Console()
    if publish != bool(runs):
        raise BitwrightError("--publish and the folders of runs belong together: bitwright results --publish RUN...")
    if runs:
        compared = [folder for folder in runs if (folder / COMPARISON).is_file()]
        alone = [folder for folder in runs if folder not in compared]
        results = project / "results"
        for path in [*publish_runs(alone, results), *publish_comparisons(compared, results)]:
            console.print(f"published  {path}", highlight=False, soft_wrap=True)
    if measure:
        for path in measure_results(project / "results", data):
            console.print(f"measured   {path}", highlight=False, soft_wrap=True)
    for path in write_documents(project):
        console.print(f"written    {path}", highlight=False, soft_wrap=True)
