"""Published results: results/NAME.json and .safetensors, and the tables made of them.

What is published of a recipe is always the run with seed 0: its file, its figures. Runs with other seeds add a mean and
a spread, never a choice. The documents contain no number that a person typed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bitwright.errors import BitwrightError
from bitwright.files import write_atomic

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
"""The README's lines between which `write_documents` puts the table."""


def publish_runs(folders: Iterable[str | Path], results: str | Path) -> list[Path]:
    """Copy finished runs to results/NAME.json and NAME.safetensors, one pair per recipe; returns the files written.

    Runs of the same recipe with different seeds go together. Raises BitwrightError for an unfinished run, a recipe
    without its seed 0, and runs under one name whose recipes differ in more than the seed.
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
        target = Path(results) / f"{name}.safetensors"
        write_atomic(target, (zero / "packed.safetensors").read_bytes())
        write_atomic(target.with_suffix(".json"), json.dumps(_record(zero, runs), indent=1) + "\n")
        written += [target.with_suffix(".json"), target]
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


def _record(zero: Path, runs: dict[int, Path]) -> dict[str, Any]:
    from bitwright.run import stored_recipe

    recipe = stored_recipe(zero)
    result, measurements = _read(zero / "result.json"), _read(zero / "measurements.json")
    return {
        "name": recipe.name,
        "description": recipe.description,
        "published": recipe.published,
        "seed": 0,
        **{key: measurements[key] for key in ("command", "date", "machine", "versions", "milliseconds", "seconds")},
        **{key: result[key] for key in ("test_images", "dense", "compressed", "packed", "steps")},
        "seeds": {str(seed): _figures(_read(runs[seed] / "result.json")) for seed in sorted(runs)},
        "recipe": result["recipe"],
    }


def _figures(result: dict[str, Any]) -> dict[str, float]:
    return {
        "dense_error": result["dense"]["error"],
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
    rows = [
        [
            f"`{r['name']}`",
            _against(f"{r['dense']['error']:.2f} → {r['packed']['error']:.2f} %", _published_error(r)),
            _against(f"{r['packed']['bytes']:,}", _number(r["published"].get("bytes"), "{:,}")),
            _against(
                f"{r['dense']['bytes'] / r['packed']['bytes']:.1f}x", _number(r["published"].get("ratio"), "{:g}x")
            ),
            _milliseconds(r),
        ]
        for r in _records(Path(results))
    ]
    if not rows:
        return "No results are published yet.\n"
    head = ["recipe", "test error, dense → packed", "bytes on disk", "smaller", "ms for one image, float32 → engine"]
    note = (
        "In brackets what the paper reports. Seed 0. float32 is the dense network in onnxruntime (in torch where that "
        "is not installed), with the same threads. Made by `bitwright results` from `results/`."
    )
    return _markdown(head, rows) + f"\n{note}\n"


def results_page(results: str | Path) -> str:
    """docs/results.md: the table, then for each result its seeds, its command and its machine."""
    parts = ["# Results\n", "Made by `bitwright results` from `results/`; do not edit.\n", results_table(results)]
    return "\n".join([*parts, *(_section(r) for r in _records(Path(results)))])


FORMS = ("{:.2f}", "{:.2f}", "{:,.0f}")


def _section(record: dict[str, Any]) -> str:
    seeds = record["seeds"]
    rows = [[s, f"{f['dense_error']:.2f} %", f"{f['error']:.2f} %", f"{f['bytes']:,}"] for s, f in seeds.items()]
    if len(rows) > 1:
        columns = [[f[key] for f in seeds.values()] for key in ("dense_error", "error", "bytes")]
        rows.append(["mean ± deviation", *(_mean(c, form) for c, form in zip(columns, FORMS, strict=True))])
    machine, packed = record["machine"], record["packed"]
    seconds = sum(s["seconds"] for s in record["seconds"].values() if s)
    again = " (interrupted and resumed)" if any(s and s["resumed"] for s in record["seconds"].values()) else ""
    facts = [
        f"- {record['description']}" if record["description"] else "",
        f"- made by `{record['command']}` in {seconds / 60:.1f} minutes{again}",
        f"- {machine['cpu']}, {machine['cores']} cores, {record['date']}; "
        + ", ".join(f"{package} {version}" for package, version in record["versions"].items()),
        f"- file `results/{record['name']}.safetensors`, SHA-256 `{packed['sha256']}`",
        f"- engine against torch on {record['test_images']:,} test images: {packed['labels_different']} labels differ, "
        f"largest logit difference {packed['logit_difference']:.1e} of their range",
        f"- published figures: {record['published']['source']}" if "source" in record["published"] else "",
    ]
    table = _markdown(["seed", "dense test error", "packed test error", "bytes"], rows)
    return f"## {record['name']}\n\n" + "\n".join(f for f in facts if f) + f"\n\n{table}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _against(ours: str, published: str) -> str:
    return f"{ours} ({published})" if published else ours


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _published_error(record: dict[str, Any]) -> str:
    paper = record["published"]
    if "error" not in paper:
        return ""
    before = f"{paper['dense_error']:.2f} → " if "dense_error" in paper else ""
    return f"{before}{paper['error']:.2f} %"


def _milliseconds(record: dict[str, Any]) -> str:
    times = record["milliseconds"]
    return f"{times['dense']['median']:.3f} → {times['packed']['median']:.3f}"


def _mean(values: Sequence[float], form: str) -> str:
    return f"{form.format(statistics.mean(values))} ± {form.format(statistics.stdev(values))}"
