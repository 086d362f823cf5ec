"""Published results: seed 0 is what is published, and the documents follow from the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitwright import BitwrightError, run_recipe
from bitwright.results import (
    BEGIN,
    END,
    measure_results,
    publish_runs,
    results_page,
    results_table,
    with_table,
    write_documents,
)

PROJECT = Path(__file__).parents[1]


def recipe(**changes: Any) -> dict[str, Any]:
    steps = [{"train": {"epochs": 1}}, "half"]
    return {"name": "tiny", "data": "digits", "model": {"name": "mlp", "hidden": [4]}, "steps": steps, **changes}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    place = tmp_path_factory.mktemp("runs")
    published = {"dense_error": 1.64, "error": 1.58, "bytes": 27000, "ratio": 40, "source": "a paper"}
    found = {}
    for seed in (0, 1):
        shown = f"bitwright run tiny --set seed={seed}"
        run = run_recipe(recipe(seed=seed, published=published), place / str(seed), command=shown)
        found[seed] = run.folder
    return found


def test_seed_zero_is_published_whatever_the_order(runs: dict[int, Path], tmp_path: Path) -> None:
    publish_runs([runs[1], runs[0]], tmp_path)
    record = json.loads((tmp_path / "tiny.json").read_text())
    zero = json.loads((runs[0] / "result.json").read_text())
    assert (tmp_path / "tiny.safetensors").read_bytes() == (runs[0] / "packed.safetensors").read_bytes()
    assert record["packed"] == zero["packed"]
    assert record["recipe"]["seed"] == record["seed"] == 0
    assert record["command"].endswith("seed=0")
    assert list(record["seeds"]) == ["0", "1"]
    assert record["seeds"]["1"]["bytes"] == (runs[1] / "packed.safetensors").stat().st_size


def test_what_cannot_be_published(runs: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(BitwrightError, match=r"tiny: only seed 1 given; what is published is seed 0"):
        publish_runs([runs[1]], tmp_path)
    with pytest.raises(BitwrightError, match=r"are both tiny with seed 0"):
        publish_runs([runs[0], runs[0]], tmp_path)
    with pytest.raises(BitwrightError, match=r"not a finished run"):
        publish_runs([tmp_path], tmp_path)
    other = run_recipe(recipe(seed=2, model={"name": "mlp", "hidden": [5]}), tmp_path / "other").folder
    with pytest.raises(BitwrightError, match=r"seed 2 has another recipe than seed 0: model\.hidden\[0\]: 4 -> 5"):
        publish_runs([runs[0], other], tmp_path)


def test_the_documents_are_made_of_the_files(runs: dict[int, Path], tmp_path: Path) -> None:
    publish_runs(runs.values(), tmp_path / "results")
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_documents(tmp_path)
    readme = (tmp_path / "README.md").read_text()
    page = (tmp_path / "docs" / "results.md").read_text()
    size = (runs[0] / "packed.safetensors").stat().st_size
    assert readme.startswith(f"before\n{BEGIN}\n|")
    assert readme.endswith(f"{END}\nafter\n")
    assert "old" not in readme
    for text in (f"{size:,} (27,000)", "(1.64 → 1.58 %)", "(40x)", "`tiny`"):
        assert text in readme
        assert text in page
    assert "| mean ± deviation |" in page
    assert "`bitwright run tiny --set seed=0`" in page
    write_documents(tmp_path)
    assert (tmp_path / "README.md").read_text() == readme, "writing twice changes nothing"


def test_what_the_engine_does_not_run_as_torch_did_is_not_published(runs: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    result = json.loads(path.read_text())
    result["agreement"]["faults"] = ["99.80 % of the labels are torch's"]
    path.write_text(json.dumps(result))
    with pytest.raises(BitwrightError, match=r"can't be published, as .*: 99\.80 % of the labels"):
        publish_runs([tmp_path / "run"], tmp_path)
    path.write_text(json.dumps({key: value for key, value in result.items() if key != "agreement"}))
    with pytest.raises(BitwrightError, match=r"was never compared to torch; `bitwright run`"):
        publish_runs([tmp_path / "run"], tmp_path)
    assert not list(tmp_path.glob("tiny.*"))


def test_speed_is_measured_anew_from_the_published_files_alone(runs: dict[int, Path], tmp_path: Path) -> None:
    publish_runs([runs[0]], tmp_path)
    path = tmp_path / "tiny.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "milliseconds": None}))
    assert measure_results(tmp_path) == [path]
    after = json.loads(path.read_text())
    assert list(after["milliseconds"]["batches"]) == ["1", "64"]
    assert after["milliseconds"]["threads"] == before["milliseconds"]["threads"]
    assert {**after, "milliseconds": None} == {**before, "milliseconds": None}


def test_a_network_quantised_from_nothing_has_no_dense_error(tmp_path: Path) -> None:
    run = run_recipe(recipe(steps=[{"twn": {"train": {"epochs": 1}}}]), tmp_path / "run")
    publish_runs([run.folder], tmp_path)
    packed = json.loads((tmp_path / "tiny.json").read_text())["packed"]
    assert packed["coded"]["weights"] == 64 * 4 + 4 * 10
    for text in (f"| - → {packed['error']:.2f} % |", f"{8 * packed['coded']['bytes'] / 296:.2f} |", "| 0 | - |"):
        assert text in results_page(tmp_path)


def test_the_page_shows_speed_beside_both_peers(runs: dict[int, Path], tmp_path: Path) -> None:
    publish_runs([runs[0]], tmp_path)
    path = tmp_path / "tiny.json"
    record = json.loads(path.read_text())
    times = {who: {"median": ms, "spread": 0.1} for who, ms in (("engine", 2.0), ("float32", 5.0), ("int8", 1.0))}
    record["milliseconds"]["batches"] = {"1": times, "64": {"engine": {"median": 80.0, "spread": 1.0}}}
    path.write_text(json.dumps(record))
    page = results_page(tmp_path)
    assert "| `tiny` | 2 | 2.50x | 0.50x | 80 | - | - |" in page
    assert "| 1 image | 2 ± 0.1 | 5 ± 0.1 | 1 ± 0.1 |\n| 64 images | 80 ± 1 | - | - |" in page
    assert "| 5 → 2 |" in results_table(tmp_path)


def test_a_readme_without_markers_is_left_alone() -> None:
    assert with_table("plain", "table") == "plain"
    assert with_table(f"only {BEGIN}", "table") == f"only {BEGIN}"


def test_documents_are_written_in_a_project_only(tmp_path: Path) -> None:
    with pytest.raises(BitwrightError, match=r"no folder .*results; call this in the project's folder"):
        write_documents(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_results_is_said(tmp_path: Path) -> None:
    assert results_table(tmp_path) == "No results are published yet.\n"


def test_the_committed_documents_are_those_of_the_committed_results() -> None:
    results = PROJECT / "results"
    assert (PROJECT / "docs" / "results.md").read_text("utf-8") == results_page(results), "run `bitwright results`"
    readme = (PROJECT / "README.md").read_text("utf-8")
    assert with_table(readme, results_table(results)) == readme, "run `bitwright results`"


@pytest.mark.parametrize("path", sorted((PROJECT / "results").glob("*.json")), ids=lambda p: p.stem)
def test_a_published_file_is_the_one_its_record_describes(path: Path) -> None:
    import hashlib

    record, data = json.loads(path.read_text("utf-8")), path.with_suffix(".safetensors").read_bytes()
    assert record["packed"]["bytes"] == len(data)
    assert record["packed"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert record["seed"] == 0
