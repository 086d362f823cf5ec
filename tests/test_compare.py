"""Comparisons: what a file means, that what is there is not run again, and what the table, page and documents say."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.cli import main
from bitwright.compare import compare, list_comparisons, page, plan, work
from bitwright.compare.plan import read_sweep
from bitwright.compare.table import note, table
from bitwright.results import publish_comparisons, results_page, write_documents

RECIPE = {
    "name": "tiny",
    "data": {"name": "digits", "limit": 300},
    "model": {"name": "mlp", "hidden": [16]},
    "steps": [{"train": {"epochs": 2, "batch_size": 10}}, {"share": {"bits": 3, "retrain": {"epochs": 1}}}],
}
CHANGES = {"share.bits": st.integers(1, 8), "train.optimizer.lr": st.floats(1e-5, 1), "seed": st.integers(0, 9)}


def write(place: Path, file: str = "c.yaml", **changes: object) -> str:
    path = place / file
    path.write_text(json.dumps({"name": "c", "recipe": RECIPE, "charts": ["error", "curves"], **changes}))
    return str(path)


def record_of(place: Path) -> dict:
    return json.loads((place / "comparison.json").read_text())


@settings(max_examples=20)
@given(
    grid=st.fixed_dictionaries(
        {}, optional={path: st.lists(one, min_size=1, max_size=3, unique=True) for path, one in CHANGES.items()}
    ),
    names=st.lists(st.sampled_from(["a", "b", "c d"]), unique=True, max_size=3),
)
def test_a_sweep_is_every_variant_with_every_point_of_the_grid(grid, names, tmp_path_factory):
    grid = {path: values for path, values in grid.items() if path != "seed"}  # the seeds are the comparison's
    sizes = {name: {"set": {"model.hidden": [4 + i]}} for i, name in enumerate(names)}
    file = write(tmp_path_factory.mktemp("c"), variants=sizes, sweep=grid)
    points = list(itertools.product(*grid.values()))
    if not names and not grid:
        with pytest.raises(BitwrightError, match="no variants"):
            plan([file])
        return
    found = plan([file]).variants
    assert len(found) == max(1, len(names)) * len(points)
    assert len({variant.name for variant in found}) == len({variant.runs[0][0] for variant in found}) == len(found)
    for variant in found:
        ((_, recipe),) = variant.runs
        bits, lr = recipe.steps[1].bits, recipe.steps[0].optimizer.lr
        assert bits == variant.settings.get("share.bits", 3)
        assert lr == variant.settings.get("train.optimizer.lr", 0.01)


def test_values_of_a_sweep_are_yaml():
    assert read_sweep(["share.bits=2,3", "model.hidden=[300, 100],[50]"]) == {
        "share.bits": [2, 3],
        "model.hidden": [[300, 100], [50]],
    }
    codebooks = read_sweep(['share.bits={"conv*": 8, "fc*": 5},{"conv*": 4, "fc*": 2}'])
    assert codebooks["share.bits"][1] == {"conv*": 4, "fc*": 2}


def test_every_packaged_comparison_can_run_and_has_figures_to_compare_with():
    named = list_comparisons()
    assert {"optimizers", "two-layer", "initialization", "depth", "whitening"} <= set(named)
    for name, description in named.items():
        found = plan([name])
        assert found.name == name
        assert description
        assert found.source
        assert len(found.variants) > 1


def test_runs_resume_share_their_first_steps_and_are_not_run_twice(tmp_path, monkeypatch):
    planned = plan([write(tmp_path, sweep={"share.bits": [1, 2]})])
    applied = []
    real = work.run_recipe

    def stopping(recipe, folder, **more):
        applied.append(folder.name)
        if len(applied) == 2:
            raise KeyboardInterrupt
        return real(recipe, folder, **more)

    with monkeypatch.context() as patch:
        patch.setattr(work, "run_recipe", stopping)
        with pytest.raises(KeyboardInterrupt):
            compare(planned, tmp_path / "out")
    said = []
    compare(planned, tmp_path / "out", announce=said.append)
    assert said == ["bits=2: 2-share"], "the first step was bits=1's"
    trained = {(tmp_path / "out" / f"bits={b}" / "1-train" / "model.safetensors").read_bytes() for b in (1, 2)}
    assert len(trained) == 1
    before = record_of(tmp_path / "out")
    said.clear()
    compare(planned, tmp_path / "out", announce=said.append)
    assert said == []
    assert record_of(tmp_path / "out") == before
    alone = compare(plan([write(tmp_path, sweep={"share.bits": [2]})]), tmp_path / "alone")
    packed = [place / "bits=2" / "packed.safetensors" for place in (alone, tmp_path / "out")]
    assert packed[0].read_bytes() == packed[1].read_bytes(), "a shared step is the step that would have been computed"


def test_a_variant_that_another_is_taught_by_is_not_trained_again(tmp_path):
    """Nor is a teacher that another variant has trained already."""
    teacher = tmp_path / "wide.yaml"
    teacher.write_text(json.dumps(RECIPE | {"name": "wide", "steps": RECIPE["steps"][:1]}))
    taught = {"set": {"train.distill": {"teacher": str(teacher)}, "share.bits": 2}}
    first = {"wide": {"recipe": str(teacher)}, "taught": taught}
    told = []
    compare(plan([write(tmp_path, variants=first)]), tmp_path / "c", announce=told.append)
    assert told == ["wide: 1-train", "taught: 1-train", "taught: 2-share"]
    again = {"taught": taught, "again": {"set": {**taught["set"], "train.epochs": 3}}}
    told.clear()
    compare(plan([write(tmp_path, variants=again)]), tmp_path / "d", announce=told.append)
    assert [line for line in told if "teacher" in line] == ["taught: teacher wide: 1-train"]


def test_curves_of_short_trainings_stay_on_the_chart(tmp_path):
    sweep = {"train.epochs": [10, 40]}
    record = record_of(compare(plan([write(tmp_path, sweep=sweep)]), tmp_path / "c"))
    chart = next(chart for _, _, chart in page.charts(record) if chart["id"] == "curves")
    last = [curve["y"][-1] for curve in chart["data"]]
    assert max(last) <= chart["layout"]["yaxis"]["range"][1]
    assert max(curve["y"][0] for curve in chart["data"]) > chart["layout"]["yaxis"]["range"][1]


def test_table_page_and_documents_say_what_the_runs_found(tmp_path):
    variants = {"narrow": {"published": {"error": 12.5}}, "wide": {"set": {"model.hidden": [32]}}}
    file = write(tmp_path, variants=variants, seeds=[0, 1], charts=["error", "bytes", "curves"], source="a paper")
    place = compare(plan([file]), tmp_path / "out", command="bitwright compare c")
    record = record_of(place)
    head, rows = table(record)
    assert head == ["variant", "training error", "validation error", "test error", "bytes"]
    results = [json.loads((place / name / "result.json").read_text()) for name in ("narrow", "narrow-seed1")]
    errors = [result["packed"]["error"] for result in results]
    assert rows[0][3] == f"{sum(errors) / 2:.2f} ± {abs(errors[0] - errors[1]) / 2**0.5:.2f} (12.5)"
    assert "(" not in rows[1][3]
    assert len(record["variants"][0]["curves"]["train"]) == 3, "two epochs of training, one of sharing"
    page = (place / "comparison.html").read_text()
    assert re.findall(r'class="chart" id="([\w-]+)"', page) == ["errors", "error-bytes", "curves"]
    assert "hidden:<br>  - 32" in page
    (published,) = publish_comparisons([place], tmp_path / "results")
    assert "curves" not in json.loads(published.read_text())["variants"][0]
    write_documents(tmp_path)
    text = (tmp_path / "docs" / "results.md").read_text()
    assert text == results_page(tmp_path / "results")
    assert f"| narrow | {' | '.join(rows[0][1:])} |" in text
    assert "`bitwright compare c`" in text
    record = json.loads((place / "comparison.json").read_text())
    del record["variants"][0]["faults"]
    (place / "comparison.json").write_text(json.dumps(record))
    with pytest.raises(BitwrightError, match="was never compared to torch; `bitwright compare` does so"):
        publish_comparisons([place], tmp_path / "results")


def test_runs_are_taken_as_they_are_and_a_run_can_be_what_a_sweep_starts_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(json.dumps(RECIPE))
    for seed in ("0", "1"):
        assert main(["run", "tiny.yaml", "--seed", seed]) == 0
    assert main(["compare", "runs/tiny", "--sweep", "share.bits=1,2", "--charts", "error,bytes"]) == 0
    assert "1-train" not in capsys.readouterr().err.partition("bits=1")[2], "it begins from the run's own"
    runs = ["runs/tiny", "runs/tiny-seed1", "runs/tiny-comparison/bits=1"]
    stamps = [(Path(run) / "result.json").stat().st_mtime_ns for run in runs]
    assert main(["compare", *runs]) == 0
    printed = capsys.readouterr().out
    assert "tiny-bits-1" in printed
    assert "ms for one image" in printed
    record = record_of(Path("runs/runs-comparison"))
    assert [list(row["seeds"]) for row in record["variants"]] == [["0", "1"], ["0"]]
    assert stamps == [(Path(run) / "result.json").stat().st_mtime_ns for run in runs]


def test_a_folder_with_runs_of_an_older_recipe_is_refused_before_anything_runs(tmp_path):
    compare(plan([write(tmp_path, variants={"a": {}})]), tmp_path / "out")
    longer = write(tmp_path, variants={"new": {"set": {"model.hidden": [4]}}, "a": {"set": {"train.epochs": 1}}})
    with pytest.raises(BitwrightError, match=r"variant 'a': .*another recipe:\n  steps\[0\]\.train\.epochs: 2 -> 1"):
        compare(plan([longer]), tmp_path / "out")
    assert not (tmp_path / "out" / "new").exists()
    place = compare(plan([longer]), tmp_path / "out", restart=True)
    assert len(record_of(place)["variants"][1]["curves"]["train"]) == 2


def test_a_variant_that_fails_says_its_name(tmp_path):
    bad = {"a": {}, "b": {"set": {"share.layers": ["nothing"]}}}
    with pytest.raises(BitwrightError, match=r"variant 'b': steps\[1\]\.share: layer pattern 'nothing' matches"):
        compare(plan([write(tmp_path, variants=bad)]), tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()
    hot = plan([write(tmp_path, variants={"hot": {"set": {"train.optimizer.lr": 1e30}}})])
    with pytest.raises(BitwrightError, match="variant 'hot': ") as error:
        compare(hot, tmp_path / "out")
    assert error.value.kind == "diverged"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "c: no variants"),
        ({"variants": {"a": {"set": {"share.bitz": 2}}}}, "c: variant 'a': unknown key steps[1].share.bitz; did you"),
        ({"variants": {"a": {"set": {"share.bits": "two"}}}}, "c: variant 'a': steps[1].share.bits is \"two\""),
        ({"variants": {"a": {}, "b": {"set": {"share.bits": 3}}}}, "c: variants 'a' and 'b' are the same"),
        ({"variants": {"a": {"sett": {}}}}, "c: unknown key variants.a.sett; did you mean 'set'?"),
        ({"variants": {"a": {"published": {"eror": 3}}}}, "c: unknown key variants.a.published.eror"),
        ({"variants": {"a": {}}, "recipe": "nope"}, "c: variant 'a': unknown recipe 'nope'"),
        ({"variants": {"a": {}}, "recipe": None}, "c: variant 'a' has no recipe"),
        ({"variants": {"a": {}}, "charts": ["size"]}, 'c: charts[0] is "size"; expected one of'),
        ({"variants": {"a": {}}, "seeds": [1, 1]}, "c: seeds are [1, 1]"),
        ({"sweep": {"share.bits": []}}, "c: sweep.share.bits has no values"),
        ({"variants": {"a": {}}, "name": "a/b"}, "a/b: name is 'a/b'; it names a folder"),
    ],
)
def test_mistakes_in_a_file(changes, message, tmp_path):
    with pytest.raises(BitwrightError) as error:
        plan([write(tmp_path, **changes)])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "error: 'nope' is no comparison, recipe, file or finished run"),
        (["demo", "--sweep", "share.bits"], "error: --sweep share.bits: expected path=a,b,c"),
        (["demo", "low-rank"], "error: low-rank is a comparison; give it by itself"),
        (["demo", "demo"], "error: demo: another recipe has the name 'demo', too"),
        (
            ["demo", "lenet-5", "--sweep", "share.bits=1,2"],
            "error: demo-lenet-5: variant 'lenet-5 bits=1': share.bits=1: unknown key",
        ),
        (["demo"], "error: demo: no variants of this recipe; give --sweep"),
        (
            ["demo", "--sweep", "share.bits=2,3", "--charts", "bytes,size"],
            "error: --charts size: expected some of error",
        ),
        (["demo", "--sweep", "share.bits=3,3"], "error: demo: variants 'bits=3' and 'bits=3' are the same"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(message), printed
    assert "Traceback" not in printed


def test_methods_share_a_sweep_and_a_line(tmp_path):
    """Rates of steps of different names, by the place of the step."""
    recipe = {
        "name": "tiny",
        "data": "digits",
        "model": {"name": "mlp", "hidden": [32]},
        "steps": [{"train": {"epochs": 1, "batch_size": 100}}, {"svd": {"images": 200}}],
    }
    variants = {"SVD": None, "GER": {"set": {"steps.1": {"ger": {"joint": None, "images": 200}}}}}
    file = tmp_path / "rates.yaml"
    outline = {"name": "rates", "recipe": recipe, "variants": variants, "charts": ["outputs", "bytes"]}
    swept = {**outline, "sweep": {"steps.1.*.ranks.value": [2, 4]}}
    file.write_text(yaml.safe_dump(swept, sort_keys=False))
    place = compare(plan([file]), tmp_path / "out")
    record = json.loads((place / "comparison.json").read_text())
    assert [row["group"] for row in record["variants"]] == ["SVD", "SVD", "GER", "GER"]
    outputs = [row["seeds"]["0"]["output_error"] for row in record["variants"]]
    assert outputs[0] < outputs[1]
    assert outputs[2] < outputs[3] < outputs[1]
    page = (place / "comparison.html").read_text()
    assert "output_error-bytes" in page
    assert '"lines+markers"' in page


def test_busy_elements_have_a_column(tmp_path):
    variants = {"alone": None, "four": {"set": {"prune.elements": 4}}}
    steps = [{"prune": {"fraction": 0.5, "retrain": None, "dead_neurons": False}}]
    recipe = {"name": "c", "data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [16, 12]}, "steps": steps}
    file = write(tmp_path, recipe=recipe, variants=variants, charts=["error"])
    record = record_of(compare(plan([file]), tmp_path / "out"))
    alone, four = (row["seeds"]["0"] for row in record["variants"])
    assert "busy" not in alone
    assert four["busy_without"] < four["busy"]
    assert four["busy"] > 95, "all but fillers, and the last layer's ten rows"
    head, rows = table(record)
    assert rows[0][head.index("busy, %")] == "-"
    assert "Busy: the share of cycles" in note(record)
    row = record["variants"][1]
    assert row["faults"] == []
    row["faults"] = ["98.22 % of the labels are torch's; expected 99.9 %"]
    assert "not run the file of four as torch ran the model: 98.22 % of" in note(record)


def test_a_variant_may_have_a_sweep_of_its_own(tmp_path):
    variants = {
        "SVD": None,
        "narrow": {"set": {"steps.1": {"half": {}}}, "sweep": {"model.hidden": [[8], [4]]}},
        "half": {"set": {"steps.1": {"half": {}}}, "sweep": {}},
    }
    recipe = {"name": "t", "data": "digits", "model": {"name": "mlp", "hidden": [32]}, "steps": ["train", "svd"]}
    outline = {"name": "own", "recipe": recipe, "variants": variants, "sweep": {"svd.ranks.value": [2, 4]}}
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(outline, sort_keys=False))
    assert [(one.name, one.group) for one in plan([file]).variants] == [
        ("SVD value=2", "SVD"),
        ("SVD value=4", "SVD"),
        ("narrow hidden=[8]", "narrow"),
        ("narrow hidden=[4]", "narrow"),
        ("half", ""),
    ]


def test_recipes_and_runs_go_together_and_a_sweep_is_for_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(json.dumps({**RECIPE, "seed": 3}))
    Path("wide.yaml").write_text(json.dumps({**RECIPE, "name": "wide", "model": {"name": "mlp", "hidden": [32]}}))
    assert main(["run", "tiny.yaml"]) == 0
    capsys.readouterr()
    assert main(["compare", "runs/tiny-seed3", "wide.yaml"]) == 0
    rows = record_of(Path("runs/tiny-wide-comparison"))["variants"]
    assert [(row["name"], list(row["seeds"])) for row in rows] == [("wide", ["0"]), ("tiny", ["3"])]
    assert main(["compare", "runs/tiny-seed3", "wide.yaml", "--sweep", "share.bits=1,2"]) == 0
    record = record_of(Path("runs/tiny-wide-comparison"))
    assert [row["name"] for row in record["variants"]] == [
        f"{name} bits={b}" for name in ("tiny", "wide") for b in (1, 2)
    ]
    assert [row["group"] for row in record["variants"]] == ["tiny", "tiny", "wide", "wide"]
    assert "1-train" not in capsys.readouterr().err.partition("tiny-bits=1")[2].partition("wide")[0], "the run's own"
    head, body = table(record)
    assert [row[0] for row in body[4:]] == ["float32, onnxruntime", "int8, onnxruntime"] * 2
    errors = [float(row[head.index("test error")]) for row in body[4:]]
    assert all(abs(errors[i] - errors[i + 1]) < 3 for i in (0, 2)), "plain int8 costs little"
    page = Path("runs/tiny-wide-comparison/comparison.html").read_text()
    assert len(re.findall('"symbol": ?"diamond-open"', page)) == 2
    assert len(re.findall(r'"mode": ?"lines\+markers"', page)) == 4
    assert "share:<br>    bits: 1" in page, "hovering shows the recipe"


def test_names_that_make_the_same_folder_or_a_long_one_get_their_own(tmp_path):
    long = "x" * 300
    variants = {"a b": {}, "a-b": {"set": {"share.bits": 4}}, long: {"set": {"share.bits": 2}}}
    folders = [str(variant.runs[0][0]) for variant in plan([write(tmp_path, variants=variants)]).variants]
    assert folders[0] == "a-b"
    assert len({folder.lower() for folder in folders}) == 3
    assert max(map(len, folders)) < 100
