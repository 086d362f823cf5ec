"""Published results: results/NAME.json and .safetensors, results/comparisons/NAME.json, and the tables made of them.

What is published of a recipe is always the run with seed 0: its file, its figures. Runs with other seeds add a mean and
a spread, never a choice. The documents contain no number that a person typed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bitwright.compare.work import COMPARISON
from bitwright.errors import BitwrightError
from bitwright.files import write_atomic
from bitwright.report.findings import findings, tables
from bitwright.report.layers import cell, milliseconds

FORMS = ("{:.2f}", "{:.2f}", "{:,.0f}")
"""How a mean is written: of dense errors, of packed errors, of bytes."""
BATCHES = ("1", "64")
KINDS = {
    "integer": "whole numbers from input to output",
    "mixed": "quantised layers and float ones",
    "float": "float activations",
}
"""The kinds of `measure/agreement.py` in words."""
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
"""The README's lines between which `write_documents` puts the table."""


def publish_runs(folders: Iterable[str | Path], results: str | Path) -> list[Path]:
    """Copy finished runs to results/NAME.json and NAME.safetensors, one pair per recipe; returns the files written.

    Runs of the same recipe with different seeds go together. Raises BitwrightError for an unfinished run, a recipe
    without its seed 0, runs under one name whose recipes differ in more than the seed, and a file that the engine does
    not run as torch ran the model.
    """
    written = []
    for name, runs in _by_name(folders).items():
        zero = runs.get(0)
        if zero is None:
            seeds = ", ".join(map(str, sorted(runs)))
            raise BitwrightError(
                f"{name}: only seed {seeds} given; what is published is seed 0, so run and name that too"
            )
        _same_recipe(name, runs)
        for run in runs.values():
            if faults := _faults(run):
                raise BitwrightError(
                    f"{run} can't be published, as its file does not run as the torch model did: {'; '.join(faults)}",
                    kind="differs",
                )
        if "milliseconds" not in _read(zero / "measurements.json"):
            raise BitwrightError(f"{zero}: its speed was not measured; `bitwright run` with its recipe does so")
        target = Path(results) / f"{name}.safetensors"
        write_atomic(target, (zero / "packed.safetensors").read_bytes())
        write_atomic(target.with_suffix(".json"), json.dumps(_record(zero, runs), indent=1) + "\n")
        written += [target.with_suffix(".json"), target]
    return written


def publish_comparisons(folders: Iterable[str | Path], results: str | Path) -> list[Path]:
    """Copy the figures of comparisons, without their curves, to results/comparisons/NAME.json; returns those files.

    Files that the engine does not run as torch ran their models are no reason not to, as none is published: the figures
    say so. Raises BitwrightError where a run was never compared to torch.
    """
    written = []
    for folder in map(Path, folders):
        record = _read(folder / COMPARISON)
        if any("faults" not in row for row in record["variants"]):
            raise BitwrightError(f"{folder} was never compared to torch; `bitwright compare` does so", kind="no-run")
        for row in record["variants"]:
            del row["curves"]
        target = Path(results) / "comparisons" / f"{record['name']}.json"
        write_atomic(target, json.dumps(record, indent=1) + "\n")
        written.append(target)
    return written


def measure_results(results: str | Path, root: str | Path | None = None) -> list[Path]:
    """Measure the speed of every published file anew, on this machine; returns the records written.

    Nothing but the file and its recipe is needed, and the recipe's data for the sizes: `root` is where that is.
    """
    from bitwright.final import measure_speed
    from bitwright.recipe import load_recipe
    from bitwright.run import Run

    written = []
    for path in sorted(Path(results).glob("*.json")):
        record = _read(path)
        recipe = load_recipe(record["recipe"])
        data = Run(recipe, path.parent, root=root).data
        record["milliseconds"] = measure_speed(path.with_suffix(".safetensors"), recipe, data)
        write_atomic(path, json.dumps(record, indent=1) + "\n")
        written.append(path)
    return written


def write_documents(project: str | Path) -> list[Path]:
    """Write docs/results.md, and the table of README.md where its markers are; returns the files written."""
    place = Path(project)
    if not (place / "results").is_dir():
        raise BitwrightError(f"no folder {place / 'results'}; call this in the project's folder or give --project")
    page = place / "docs" / "results.md"
    write_atomic(page, results_page(place / "results"))
    written = [page]
    readme = place / "README.md"
    if readme.is_file():
        old = readme.read_text("utf-8")
        write_atomic(readme, with_table(old, results_table(place / "results")))
        written.append(readme)
    return written


def with_table(text: str, table: str) -> str:
    """`text` with `table` between its markers; text without both markers stays as it is."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{table}{end}{after}" if begin and end else text


# -- publishing --------------------------------------------------------------------------------------------------------


def _by_name(folders: Iterable[str | Path]) -> dict[str, dict[int, Path]]:
    from bitwright.final import require_finished

    found: dict[str, dict[int, Path]] = {}
    for folder in map(Path, folders):
        require_finished(folder)
        recipe = _read(folder / "result.json")["recipe"]
        runs = found.setdefault(recipe["name"], {})
        if recipe["seed"] in runs:
            raise BitwrightError(
                f"{folder} and {runs[recipe['seed']]} are both {recipe['name']} with seed {recipe['seed']}"
            )
        runs[recipe["seed"]] = folder
    return found


def _same_recipe(name: str, runs: dict[int, Path]) -> None:
    from bitwright.recipe import difference

    plain = {seed: {**_read(run / "result.json")["recipe"], "seed": 0} for seed, run in runs.items()}
    for seed, recipe in plain.items():
        if changes := difference(plain[0], recipe):
            raise BitwrightError(
                f"{name}: the run with seed {seed} has another recipe than seed 0: {'; '.join(changes[:4])}"
            )


def _faults(run: Path) -> list[str]:
    agreement = _read(run / "result.json").get("agreement")
    if agreement is None:
        raise BitwrightError(
            f"{run} was never compared to torch; `bitwright run` with its recipe does so", kind="no-run"
        )
    return list(agreement["faults"])


def _record(zero: Path, runs: dict[int, Path]) -> dict[str, Any]:
    from bitwright.folders import stored_recipe

    recipe = stored_recipe(zero)
    result, measurements = _read(zero / "result.json"), _read(zero / "measurements.json")
    return {
        "name": recipe.name,
        "description": recipe.description,
        "published": recipe.published,
        "seed": 0,
        **{key: measurements[key] for key in ("command", "date", "machine", "versions", "milliseconds", "seconds")},
        **{key: result[key] for key in ("test_images", "dense", "compressed", "packed", "agreement", "steps")},
        "findings": findings(zero, recipe.labels),
        "seeds": {str(seed): _figures(_read(runs[seed] / "result.json")) for seed in sorted(runs)},
        "recipe": result["recipe"],
    }


def _figures(result: dict[str, Any]) -> dict[str, float]:
    return {
        **({"dense_error": result["dense"]["error"]} if "error" in result["dense"] else {}),
        "error": result["packed"]["error"],
        "bytes": result["packed"]["bytes"],
    }


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


# -- documents ---------------------------------------------------------------------------------------------------------


def _records(results: Path) -> list[dict[str, Any]]:
    return [_read(path) for path in sorted(results.glob("*.json"))]


def results_table(results: str | Path) -> str:
    """The short table of the README: one row per published result, from `results`/*.json."""
    records = _records(Path(results))
    if not records:
        return "No results are published yet.\n"
    rows = [[*_size_cells(r), _milliseconds(r)] for r in records]
    head = ["recipe", "test error, dense → packed", "bytes on disk", "smaller", "ms for one image, float32 → engine"]
    note = (
        "float32 is the float network of the same architecture in onnxruntime; one thread. More: "
        "[docs/results.md](docs/results.md). Made by `bitwright results` from `results/`."
    )
    return _markdown(head, rows) + f"\n{NOTE} {note}\n"


NOTE = "In brackets what the paper reports. Seed 0. A network that was quantised from nothing has no dense error (-)."


def _size_cells(r: dict[str, Any]) -> list[str]:
    """Recipe, error, bytes, ratio."""
    paper, packed = r["published"], r["packed"]
    return [
        f"`{r['name']}`",
        _against(f"{_percent(r['dense'])} → {packed['error']:.2f} %", _published_error(paper)),
        _against(f"{packed['bytes']:,}", _number(paper.get("bytes"), "{:,}")),
        _against(f"{r['dense']['bytes'] / packed['bytes']:.1f}x", _number(paper.get("ratio"), "{:g}x")),
    ]


def results_page(results: str | Path) -> str:
    """docs/results.md: two tables, then for each result its seeds, its speed, its command and its machine."""
    records = _records(Path(results))
    columns = [f"{what}, {images}" for images in ("1 image", "64 images") for what in ("ms", "x float32", "x int8")]
    parts = [
        "# Results\n",
        "Made by `bitwright results` from `results/`; do not edit.\n",
        "## Errors and sizes\n",
        _sizes(records),
        "## Speed\n",
        "Milliseconds of the packed file in the engine on one thread, and how many times as long onnxruntime takes for "
        "the float\nnetwork of the same architecture, in float32 and in int8. Below 1x onnxruntime is faster.\n",
        _markdown(["recipe", *columns], [_speeds(r) for r in records]),
    ]
    return "\n".join([*parts, *_comparisons(Path(results) / "comparisons"), *map(_section, records)])


def _comparisons(place: Path) -> list[str]:
    """The section of the comparisons, each with its table."""
    from bitwright.compare.table import minutes, note, table

    records = [_read(path) for path in sorted(place.glob("*.json"))]
    parts = ["## Comparisons\n"] if records else []
    for record in records:
        head, rows = table(record)
        made = f"made by `{record['command']}` in {minutes(record):.1f} minutes of training on {_machine(record)}"
        parts.append(f"### {record['name']}\n\n- {record['description']}\n- {made}\n")
        parts.append(f"{_markdown(head, rows)}\n{note(record)}\n")
    return parts


def _sizes(records: Sequence[dict[str, Any]]) -> str:
    if not records:
        return "No results are published yet.\n"
    head = ["recipe", "test error, dense → packed", "bytes on disk", "smaller", "error over seeds", "bits per weight"]
    note = (
        "Bits per weight: what the file spends on the weights that it stores as codes, magnitudes and tables included."
    )
    rows = [[*_size_cells(r), _over_seeds(r), _bits(r)] for r in records]
    return _markdown(head, rows) + f"\n{NOTE} {note}\n"


def _speeds(record: dict[str, Any]) -> list[str]:
    cells = [f"`{record['name']}`"]
    for batch in BATCHES:
        times = record["milliseconds"]["batches"].get(batch)
        cells.append(cell(times["engine"]["median"]) if times else "-")
        cells += [_times_ours(times, peer) for peer in ("float32", "int8")]
    return cells


def _section(record: dict[str, Any]) -> str:
    packed, agreement = record["packed"], record["agreement"]
    seconds = sum(s["seconds"] for s in record["seconds"].values() if s)
    again = " (interrupted and resumed)" if any(s and s["resumed"] for s in record["seconds"].values()) else ""
    logits = "every logit is equal"
    if agreement["logit_difference"]:
        logits = f"largest logit difference {agreement['logit_difference']:.1e} of their range"
    facts = [
        f"- {record['description']}" if record["description"] else "",
        f"- made by `{record['command']}` in {seconds / 60:.1f} minutes{again} on {_machine(record)}",
        f"- file `results/{record['name']}.safetensors`, SHA-256 `{packed['sha256']}`",
        f"- engine against torch ({KINDS[agreement['kind']]}) on {agreement['images']:,} test images: "
        f"{agreement['labels_different']} labels differ, {logits}{_layer_by_layer(agreement)}",
        f"- published figures: {record['published']['source']}" if "source" in record["published"] else "",
        f"- speed measured on {speed}" if (speed := _machine(record["milliseconds"])) != _machine(record) else "",
    ]
    measured = [_seeds(record), _times(record)]
    found = [f"{table.said}\n\n{_markdown(table.head, table.rows)}" for table in tables(record["findings"])]
    return f"## {record['name']}\n\n" + "\n".join(f for f in facts if f) + "\n\n" + "\n".join([*measured, *found])


def _layer_by_layer(agreement: dict[str, Any]) -> str:
    seen = agreement["quantised"]
    if not seen["values"]:
        return ""
    return f"; layer by layer on a few, {seen['different']:,} of {seen['values']:,} numbers of quantised layers differ"


def _machine(facts: dict[str, Any]) -> str:
    """Processor, date and versions."""
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    return f"{facts['machine']['cpu']}, {facts['machine']['cores']} cores, {facts['date']}; {versions}"


def _seeds(record: dict[str, Any]) -> str:
    seeds = record["seeds"]
    rows = [[s, _percent(f, "dense_error", " %"), f"{f['error']:.2f} %", f"{f['bytes']:,}"] for s, f in seeds.items()]
    if len(rows) > 1:
        columns = [[f[key] for f in seeds.values() if key in f] for key in ("dense_error", "error", "bytes")]
        rows.append(["mean ± deviation", *(_mean(c, form) for c, form in zip(columns, FORMS, strict=True))])
    return _markdown(["seed", "dense test error", "packed test error", "bytes"], rows)


def _times(record: dict[str, Any]) -> str:
    """Milliseconds with their spread, per batch."""
    measured = record["milliseconds"]
    rows = [
        [
            f"{batch} image{'s' if batch != '1' else ''}",
            *(milliseconds(times.get(who)) or "-" for who in ("engine", "float32", "int8")),
        ]
        for batch, times in measured["batches"].items()
    ]
    threads = f"{measured['threads']} thread{'s' if measured['threads'] > 1 else ''}"
    return _markdown([f"ms, {threads}", "engine", "onnxruntime float32", "onnxruntime int8"], rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _against(ours: str, published: str) -> str:
    return f"{ours} ({published})" if published else ours


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _percent(figures: dict[str, Any], key: str = "error", unit: str = "") -> str:
    return f"{figures[key]:.2f}{unit}" if key in figures else "-"


def _published_error(paper: dict[str, Any]) -> str:
    if "error" not in paper:
        return ""
    before = f"{paper['dense_error']:.2f} → " if "dense_error" in paper else ""
    return f"{before}{paper['error']:.2f} %"


def _bits(record: dict[str, Any]) -> str:
    coded = record["packed"]["coded"]
    return f"{8 * coded['bytes'] / coded['weights']:.2f}" if coded["weights"] else "-"


def _over_seeds(record: dict[str, Any]) -> str:
    errors = [figures["error"] for figures in record["seeds"].values()]
    return f"{_mean(errors, FORMS[1])} ({len(errors)})" if len(errors) > 1 else "-"


def _milliseconds(record: dict[str, Any]) -> str:
    times = record["milliseconds"]["batches"]["1"]
    return f"{cell(times['float32']['median']) if 'float32' in times else '-'} → {cell(times['engine']['median'])}"


def _times_ours(times: dict[str, Any] | None, peer: str) -> str:
    """How many times as long as the engine a peer takes."""
    return f"{times[peer]['median'] / times['engine']['median']:.2f}x" if times and peer in times else "-"


def _mean(values: Sequence[float], form: str) -> str:
    return f"{form.format(statistics.mean(values))} ± {form.format(statistics.stdev(values))}" if values else "-"
