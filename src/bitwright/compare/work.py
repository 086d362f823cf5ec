"""Runs what a comparison has not run yet, one run after another, and gathers what they gave in comparison.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.compare.beside import beside
from bitwright.compare.plan import Comparison, Variant
from bitwright.errors import BitwrightError
from bitwright.files import write_atomic
from bitwright.folders import identity, refuse_another, stored_recipe
from bitwright.recipe import Recipe, is_recipe, load_recipe
from bitwright.run import Run, run_recipe
from bitwright.steps.step import teachers

if TYPE_CHECKING:
    from bitwright.data import Dataset

COMPARISON, PAGE = "comparison.json", "comparison.html"


def compare(
    comparison: Comparison,
    folder: str | Path | None = None,
    *,
    root: str | Path | None = None,
    restart: bool = False,
    progress: Any = None,
    command: str = "",
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Run every variant that is not finished and write comparison.json and comparison.html; returns their folder.

    Each variant has its run in a folder of its own within `folder` (default runs/NAME-comparison). Steps that several
    variants begin with are computed once. Called again, an interrupted comparison goes on. `restart` begins those runs
    again whose recipe is another than it was. The other arguments are `run_recipe`'s.

    Raises BitwrightError, before the first run, for a variant that can't run, and for runs in the folder of another
    recipe; and the error of a variant that fails, with its name.
    """
    place = Path(folder) if folder is not None else Path("runs") / f"{comparison.name}-comparison"
    say = announce or (lambda line: None)
    _check(comparison, place, root, restart)
    for variant, run, recipe in _runs(comparison, place):
        if variant.taken:
            continue
        try:
            _adopt(run, recipe, [*(other for _, other, _ in _runs(comparison, place)), *comparison.starts])
            run_recipe(
                recipe,
                run,
                root=root,
                restart=restart and _changed(run, recipe) is not None,
                progress=progress,
                command=command,
                announce=lambda line, name=run.name: say(f"{name}: {line}"),  # type: ignore[misc]
                speed="ms" in comparison.charts,
            )
        except BitwrightError as error:
            raise _named(variant, error) from None
    record = _gathered(comparison, place, root, command)
    write_atomic(place / COMPARISON, json.dumps(record, indent=1) + "\n")
    from bitwright.compare.page import render

    write_atomic(place / PAGE, render(record))
    return place


def _runs(comparison: Comparison, place: Path) -> Iterator[tuple[Variant, Path, Recipe]]:
    for variant in comparison.variants:
        for folder, recipe in variant.runs:
            yield variant, place / folder, recipe


def _named(variant: Variant, error: BitwrightError) -> BitwrightError:
    return BitwrightError(f"variant {variant.name!r}: {error}", kind=error.kind)


# -- before the first run ----------------------------------------------------------------------------------------------


def _check(comparison: Comparison, place: Path, root: str | Path | None, restart: bool) -> None:
    """Refuse what a variant would be refused for when its turn comes."""
    from bitwright.final import require_finished

    data: dict[str, Dataset] = {}
    for variant, folder, recipe in _runs(comparison, place):
        try:
            if variant.taken:
                require_finished(folder)
                continue
            if not restart and (error := _changed(folder, recipe)) is not None:
                raise error
            if not (folder / "result.json").is_file():
                run = Run(recipe, folder, root=root, data=data.get(json.dumps(recipe.data)))
                data[json.dumps(recipe.data)] = run.data
                run.look_ahead()
        except BitwrightError as error:
            raise _named(variant, error) from None


def _changed(folder: Path, recipe: Recipe) -> BitwrightError | None:
    """The refusal of a folder whose run is of another recipe."""
    try:
        refuse_another(folder, recipe)
    except BitwrightError as error:
        return error
    return None


# -- steps that variants have in common --------------------------------------------------------------------------------


def _adopt(folder: Path, recipe: Recipe, others: list[Path]) -> None:
    """Copy the finished steps that another run began with in the same way, and its teachers, into an empty folder.

    What a step computes follows from the data, the model, the seed, the threads and the steps up to it.
    """
    if (folder / "recipe.yaml").is_file():
        return
    others = [other for other in others if other != folder and (other / "recipe.yaml").is_file()]
    counts = {other: _shared(recipe, other) for other in others}
    source = max(counts, key=counts.__getitem__, default=folder)
    copied = {folder / label: source / label for label in recipe.labels[: counts.get(source, 0)]}
    taught = _teachers(recipe, others)
    for wanted, run in taught:
        place = folder / "teachers" / wanted.name
        copied |= {place / label: run / label for label in wanted.labels}
    if not copied:
        return
    for whose, place in ((recipe, folder), *((wanted, folder / "teachers" / wanted.name) for wanted, _ in taught)):
        write_atomic(place / "recipe.yaml", whose.to_yaml())  # first, so that a kill costs nothing but the copies
    for place, child in copied.items():
        half = place.parent / f".{place.name}"
        shutil.copytree(child, half)
        half.rename(place)


def _teachers(recipe: Recipe, others: list[Path]) -> list[tuple[Recipe, Path]]:
    """Recipes that this one would train as its teachers, with its seed and threads, and a run that finished each."""
    names = {name for step in recipe.steps for name in teachers(step)}
    found = []
    for name in sorted(filter(is_recipe, names)):
        wanted = load_recipe(name, [f"seed={recipe.seed}", f"threads={recipe.threads}"])
        places = [place for other in others for place in (other, other / "teachers" / wanted.name) if wanted.steps]
        for place in places:
            if (place / "recipe.yaml").is_file() and _shared(wanted, place) == len(wanted.steps):
                found.append((wanted, place))
                break
    return found


def _shared(recipe: Recipe, folder: Path) -> int:
    """How many finished steps of the run in `folder` are this recipe's first ones."""
    mine, theirs = identity(recipe), identity(stored_recipe(folder))
    if any(mine[key] != theirs[key] for key in ("data", "model", "seed", "threads")):
        return 0
    count = 0
    for label, one, other in zip(recipe.labels, mine["steps"], theirs["steps"], strict=False):
        if one != other or not (folder / label / "step.json").is_file():
            break
        count += 1
    return count


# -- what came out -----------------------------------------------------------------------------------------------------


def _gathered(comparison: Comparison, place: Path, root: str | Path | None, command: str) -> dict[str, Any]:
    """The comparison's figures as comparison.json holds them.

    For each variant and seed the errors in percent (of the training as its last epoch saw it, of the last step on the
    validation images, of the packed file on the test images), bytes, seconds, and where speed was measured
    milliseconds; for each variant `faults`, what the engine computes otherwise than torch did; for seed 0, or the
    first, the recipe, the curves of all its trainings and the networks beside it.
    """
    rows = []
    each = [[(place / folder, recipe) for folder, recipe in variant.runs] for variant in comparison.variants]
    dense = beside([runs[0] for runs in each], place, root)
    for variant, runs, network in zip(comparison.variants, each, dense, strict=True):
        rows.append(
            {
                "name": variant.name,
                "group": variant.group,
                "recipe": runs[0][1].outline(),
                "published": {k: v for k, v in vars(variant.published).items() if v is not None},
                "faults": list(dict.fromkeys(fault for folder, _ in runs for fault in _faults(folder))),
                "seeds": {str(recipe.seed): _figures(folder, recipe) for folder, recipe in runs},
                "curves": _curves(*runs[0]),
                "beside": network,
            }
        )
    measurements = _json(place / comparison.variants[-1].runs[-1][0] / "measurements.json")
    return {
        "name": comparison.name,
        "description": comparison.description,
        "source": comparison.source,
        "command": command,
        "charts": list(comparison.charts),
        **{key: measurements[key] for key in ("date", "machine", "versions")},
        "variants": rows,
    }


def _faults(folder: Path) -> list[str]:
    found: list[str] = _json(folder / "result.json")["agreement"]["faults"]
    return found


def _figures(folder: Path, recipe: Recipe) -> dict[str, float]:
    result, measurements = _json(folder / "result.json"), _json(folder / "measurements.json")
    figures = {"error": result["packed"]["error"], "bytes": result["packed"]["bytes"]}
    curves = _curves(folder, recipe)
    if curves["train"]:
        figures["train_error"] = curves["train"][-1]
    figures |= _recorded(folder, recipe)
    figures |= {f"error_{bits}": found["error"] for bits, found in result.get("precisions", {}).items()}
    if recipe.last:
        figures["validation_error"] = result["steps"][recipe.last]["error"]
    times = (measurements.get("milliseconds") or {}).get("batches", {}).get("1")
    if times:
        figures["ms"] = times["engine"]["median"]
    figures["seconds"] = sum(step["seconds"] for step in measurements["seconds"].values() if step)
    return {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in figures.items()}


def _recorded(folder: Path, recipe: Recipe) -> dict[str, float]:
    """What the last steps that record something a table shows recorded."""
    records: dict[str, Any] = {}
    for label in recipe.labels:
        records |= _json(folder / label / "step.json")["records"]
    found: dict[str, float] = {}
    if low_rank := records.get("low_rank"):
        found["output_error"] = 100 * low_rank.get("output_error_joint", low_rank["output_error"])
        if counted := [row for row in low_rank["layers"] if "macs" in row]:
            found["products"] = 100 * sum(row["macs_after"] for row in counted) / sum(row["macs"] for row in counted)
    if channels := records.get("channels"):
        found["products"] = 100 * channels["macs_after"] / channels["macs"]
    if balance := records.get("balance"):
        for key, kind in (("busy", "balanced"), ("busy_without", "unbalanced")):
            loads = [row[kind]["entries"] for row in balance["layers"]]
            found[key] = 100 * sum(map(sum, loads)) / (balance["elements"] * sum(map(max, loads)))
    if search := records.get("bit_search"):
        found["evaluations"] = search["evaluations"]
        found["traffic"] = 100 * search["answer"]["traffic"]
        found["weight_bits"] = 100 * search["answer"]["weights"]
    return found


def _curves(folder: Path, recipe: Recipe) -> dict[str, list[float]]:
    """Errors in percent after each epoch of all trainings of a run, one after another."""
    from bitwright.report.gather import curves_of

    rows = [row for label in recipe.labels for training in curves_of(folder / label) for row in training["rows"]]
    return {part: [round(row[f"{part}_error"], 3) for row in rows] for part in ("train", "validation")}


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found
