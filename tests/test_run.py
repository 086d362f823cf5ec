"""Runs: what is in the folder, and that it is the same however often the run was interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn.utils import parametrize

from bitwright import BitwrightError, run_recipe
from bitwright.final import has_baseline
from bitwright.folders import identity, stored_recipe
from bitwright.rebuild import load_checkpoint, save_checkpoint
from bitwright.recipe import load_recipe, make_step
from bitwright.report.gather import gather
from bitwright.run import Run, extend_run
from bitwright.runtime import Model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STEPS = [
    {"train": {"epochs": 3, "optimizer": {"name": "Adam", "lr": 0.01, "options": {}}}},
    {"prune": {"fraction": 0.5, "rounds": 2, "retrain": {"epochs": 2}}},
    {"share": {"bits": 4, "retrain": {"epochs": 1, "distill": {"teacher": "1-train"}}}},
]


def recipe(**changes: Any) -> dict[str, Any]:
    return {"name": "tiny", "data": "digits", "model": {"name": "mlp", "hidden": [16]}, "steps": STEPS, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    run_recipe(recipe(), folder, command="bitwright run tiny")
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text("utf-8"))


def test_the_folder_holds_what_the_docstring_says(finished: Path) -> None:
    for label in ("1-train", "2-prune", "3-share"):
        assert (finished / label / "model.safetensors").is_file()
        assert set(read(finished / label, "step.json")) == {"step", "validation", "records"}
    for name in ("recipe.yaml", "packed.safetensors", "result.json", "measurements.json", "report.html"):
        assert (finished / name).is_file()
    assert not list(finished.rglob(".*.safetensors*")), "no temporary file is left"


def test_the_figures_are_those_of_the_files(finished: Path) -> None:
    result, measured = read(finished, "result.json"), read(finished, "measurements.json")
    assert result["packed"]["bytes"] == os.path.getsize(finished / "packed.safetensors")
    assert result["dense"]["bytes"] == os.path.getsize(finished / "1-train" / "model.safetensors")
    assert result["dense"]["step"] == "1-train"
    assert result["agreement"]["labels_different"] == 0
    assert result["agreement"]["logit_difference"] < 1e-4
    assert result["agreement"]["kind"] == "float"
    assert result["agreement"]["faults"] == []
    assert result["packed"]["error"] == pytest.approx(result["compressed"]["error"])
    assert result["dense"]["accuracy"] > 80, "three epochs are enough for digits"
    assert measured["command"] == "bitwright run tiny"
    batches = measured["milliseconds"]["batches"]
    assert list(batches) == ["1", "64"]
    assert all(times["engine"]["median"] > 0 for times in batches.values())
    assert "node" not in json.dumps(measured), "nothing names the machine"


def test_a_finished_run_is_not_done_again(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.*") if p.name not in ("recipe.yaml", ".lock")}
    again = run_recipe(recipe(published={"error": 1}), finished)
    assert again.result == read(finished, "result.json")
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.parametrize("writes", [1, 4, 14, 20, 26, 28])
def test_a_run_that_dies_between_two_writes_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    done = 0

    def dying_replace(source: Any, target: Any) -> None:
        nonlocal done
        if done == writes:
            raise KeyboardInterrupt
        done += 1
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", dying_replace)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(), tmp_path)
    monkeypatch.setattr(os, "replace", rename)
    run_recipe(recipe(), tmp_path)
    for name in ("packed.safetensors", "result.json"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
def test_kill_dash_nine() -> None:
    short = ("train.epochs=3", "prune.retrain.epochs=3", "share.retrain.epochs=2")
    changes = [part for setting in short for part in ("--set", setting)]
    script = [sys.executable, str(BENCHMARKS / "kill_resume.py"), "2", "demo", *changes]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 runs ended with the bytes" in done.stdout


def test_a_damaged_packed_file_is_made_again(finished: Path, tmp_path: Path) -> None:
    run_recipe(recipe(), tmp_path)
    (tmp_path / "packed.safetensors").write_bytes(b"damaged")
    run_recipe(recipe(), tmp_path)
    assert (tmp_path / "packed.safetensors").read_bytes() == (finished / "packed.safetensors").read_bytes()


def test_a_folder_belongs_to_one_recipe(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(BitwrightError, match=r"(?s)run of another recipe:\n  seed: 0 -> 1\n.*--out.*--restart"):
        run_recipe(recipe(seed=1), finished)
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(BitwrightError, match=r"holds thesis\.doc but no run; choose an empty folder with --out"):
        run_recipe(recipe(), tmp_path)


def test_a_recipe_that_came_to_nothing_can_be_mended_in_place(tmp_path: Path) -> None:
    with pytest.raises(BitwrightError, match=r"unknown dataset 'digts'"):
        run_recipe(recipe(data="digts"), tmp_path)
    run_recipe(recipe(steps=["half"]), tmp_path)


def test_restart_clears_the_run_and_nothing_else(tmp_path: Path) -> None:
    short = recipe(steps=[{"train": {"epochs": 1}}, "half"])
    run_recipe(short, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    other = run_recipe(recipe(steps=["half"], seed=3), tmp_path, restart=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "1-train").exists()
    assert other.result["recipe"]["seed"] == 3


def test_without_training_only_the_size_of_the_starting_model_is_a_figure(tmp_path: Path) -> None:
    run = run_recipe(recipe(steps=["half"]), tmp_path)
    assert run.result["dense"]["step"] == "0-start"
    assert set(run.result["dense"]) == {"step", "weights", "bytes"}
    assert run.result["dense"]["bytes"] == os.path.getsize(tmp_path / "0-start" / "model.safetensors")


def test_an_engine_that_differs_from_torch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Model.__call__
    monkeypatch.setattr(Model, "__call__", lambda self, x: np.roll(call(self, x), 1, axis=1))
    with pytest.warns(UserWarning, match=r"the engine does not compute what torch does.*of the labels are torch's"):
        run = run_recipe(recipe(steps=[{"train": {"epochs": 1}}]), tmp_path)
    assert len(run.result["agreement"]["faults"]) >= 2
    assert "The engine does not compute what torch does: logits differ" in run.report.read_text("utf-8")


@pytest.mark.parametrize(
    ("model", "steps", "trained"),
    [
        ("mlp", [], False),
        ("mlp", [{"twn": {"train": {"epochs": 1}}}], False),
        ("mlp", ["half", {"train": {"epochs": 1}}], False),
        ("mlp", [{"train": {"epochs": 1}}, "half"], True),
        ({"name": "resnet-20", "weights": "resnet20-12fca82f"}, ["half"], True),
        ({"name": "resnet-20", "weights": None}, ["half"], False),
        ("package.module:factory", ["half"], True),
    ],
)
def test_a_dense_figure_is_that_of_a_trained_network(model: Any, steps: list[Any], trained: bool) -> None:
    assert has_baseline(load_recipe(recipe(model=model, steps=steps))) == trained


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with open(tmp_path / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BitwrightError, match=r"another process is running in .*--out"):
            run_recipe(recipe(), tmp_path)


def test_a_launcher_of_many_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BitwrightError, match=r"a run is one process, and 2 were launched; .*bw\.train under it"):
        run_recipe(recipe(), tmp_path)


def test_a_step_can_be_appended(tmp_path: Path) -> None:
    run_recipe(recipe(steps=[{"train": {"epochs": 1}}]), tmp_path)
    before = read(tmp_path, "result.json")["packed"]["bytes"]
    checkpoint = (tmp_path / "1-train" / "model.safetensors").stat().st_mtime_ns
    prune = make_step("prune", ["fraction=0.9", "retrain=null"])
    longer = extend_run(tmp_path, prune)
    assert extend_run(tmp_path, prune) == longer, "given again after an interruption"
    run = run_recipe(longer, tmp_path)
    assert [next(iter(step)) for step in run.result["recipe"]["steps"]] == ["train", "prune"]
    assert run.result["packed"]["bytes"] < before / 2
    assert (tmp_path / "1-train" / "model.safetensors").stat().st_mtime_ns == checkpoint
    assert len(extend_run(tmp_path, prune).steps) == 3, "given again after the end"
    with pytest.raises(BitwrightError, match=r"nowhere is no run: it has no recipe\.yaml"):
        extend_run(tmp_path / "nowhere", make_step("half"))
    assert not (tmp_path / "nowhere").exists()


def test_an_unfinished_step_is_not_built_upon_but_may_be_replaced(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "3-share" / "step.json").unlink()
    half = make_step("half")
    with pytest.raises(BitwrightError, match=r"step 3-share of .* is not finished: .*--instead"):
        extend_run(folder, half)
    assert [step.name for step in extend_run(folder, half, instead=True).steps] == ["train", "prune", "half"]
    assert not (folder / "3-share").exists()


def test_a_run_without_steps_can_be_extended(tmp_path: Path) -> None:
    run_recipe(recipe(steps=[]), tmp_path)
    assert [step.name for step in extend_run(tmp_path, make_step("half")).steps] == ["half"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"prune": {"layers": ["fc9"]}}, r"steps\[1\]\.prune: layer pattern 'fc9' matches nothing"),
        ({"prune": {"retrain": {"optimizer": {"name": "Adm"}}}}, r"steps\[1\]\.prune: unknown optimizer 'Adm'"),
        ({"train": {"distill": {"teacher": "me"}}}, r"steps\[1\]\.train: teacher 'me' is no earlier step"),
        (
            {"prune": {"fraction": {"fc9": 0.3, "*": 0.7}}},
            r"steps\[1\]\.prune: fraction: pattern 'fc9' matches nothing",
        ),
        ({"share": {"bits": {"fc1": 4}}}, r"steps\[1\]\.share: bits: no number for layer 'fc2'"),
        ({"fixed": {"weight_bits": {"fc9": 4}}}, r"steps\[1\]\.fixed: weight_bits: pattern 'fc9' matches nothing"),
        ({"lsq": {"ignore": [], "activation_bits": {"fc9": 4}}}, r"steps\[1\]\.lsq: activation_bits: pattern"),
        ({"product": {"centroids": {"fc9": 4}}}, r"steps\[1\]\.product: centroids: pattern 'fc9' matches nothing"),
        ({"train": {"rates": {"fc9": 0}}}, r"steps\[1\]\.train: rates: pattern 'fc9' matches nothing"),
        (
            {"ger": {"joint": {"distill": {"kind": "logits", "weight": 1, "at": "nowhere"}}}},
            r"steps\[1\]\.ger: distill\.at is 'nowhere', and the model calls no module",
        ),
    ],
)
def test_what_would_stop_a_later_step_is_refused_at_once(step: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BitwrightError, match=message):
        run_recipe(recipe(steps=[{"train": {"epochs": 1}}, step]), tmp_path)
    assert not (tmp_path / "1-train").exists()


def test_layers_that_an_earlier_step_makes_are_no_mistake(tmp_path: Path) -> None:
    thin = {"svd": {"layers": ["fc1"], "ranks": {"by": "count", "value": 4}, "train": None}}
    prune = {"prune": {"layers": ["fc1.core"], "retrain": {"epochs": 1}}}
    run_recipe(recipe(steps=[thin, prune]), tmp_path)
    pruned = read(tmp_path / "2-prune", "step.json")["records"]["pruning"]["layers"]
    assert [layer["layer"] for layer in pruned] == ["fc1.core"]
    extend_run(tmp_path, make_step("prune", ["layers=[fc1.last]"]))
    with pytest.raises(BitwrightError, match=r"'fc1' matches nothing; the layers are: fc1\.core, fc1\.last"):
        extend_run(tmp_path, make_step("prune", ["layers=[fc1]"]), instead=True)


def test_steps_behind_changed_layers_are_looked_at_behind_them(tmp_path: Path) -> None:
    narrow = {"channels": {"fraction": {"*": 0.5}, "lanes": 4, "train": {"epochs": 1}}}
    wide = recipe(model={"name": "mlp", "hidden": [30, 18]})  # no input of 30 has its pattern, one of 16 does
    steps = [narrow, {"prune": {"pattern": [2, 4], "layers": ["fc2"], "retrain": None}}]
    run_recipe({**wide, "steps": steps}, tmp_path / "fits", speed=False)
    steps = [narrow, {"train": {"epochs": 1}}, {"prune": {"fraction": 0.5, "elements": 18}}]
    with pytest.raises(BitwrightError, match=r"steps\[2\]\.prune: .*18"):
        run_recipe({**wide, "steps": steps}, tmp_path / "late")
    assert (tmp_path / "late" / "1-channels").exists()
    assert not (tmp_path / "late" / "2-train").exists()


def test_what_the_engine_lacks_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_nets.py").write_text(
        "from torch import nn\n"
        "class Sine(nn.Linear):\n"
        "    def __init__(self): super().__init__(64, 10)\n"
        "    def forward(self, x): return super().forward(x.flatten(1)).sin()\n"
        "class Broken(Sine):\n"
        "    def forward(self, x): return {}['x']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, message in (("Sine", r"engine can't run aten\.sin"), ("Broken", r"no tensor of logits .*KeyError: 'x'")):
        with pytest.raises(BitwrightError, match=message):
            run_recipe(recipe(model=f"odd_nets:{name}"), tmp_path / name)
        assert not (tmp_path / name / "1-train").exists()


def test_the_model_is_sized_for_the_data_or_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BitwrightError, match=r"model mlp gives 7 outputs, but digits has 10 classes; set model\.num_cl"
    ):
        run_recipe(recipe(model={"name": "mlp", "num_classes": 7}), tmp_path / "a")
    with pytest.raises(BitwrightError, match=r"cannot take the 1x8x8 images of digits"):
        run_recipe(recipe(model={"name": "mlp", "input_shape": [1, 9, 9]}), tmp_path / "b")


def test_models_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def small(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = run_recipe(recipe(model="my_nets:small", steps=[{"train": {"epochs": 1}}]), tmp_path / "run")
    assert run.result["dense"]["weights"] == 650


@pytest.mark.parametrize(
    ("logits", "classes", "message"),
    [
        (12, "0123456789", "the teacher gives 12 logits, the model 10"),
        (10, "abcdefghij", r"teacher .* knows the classes of letters \(a, b, c, \.\.\.\), not those of digits \(0, 1"),
    ],
)
def test_a_teacher_of_other_classes_is_refused_before_the_first_step(
    logits: int, classes: str, message: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [{"train": {"epochs": 1}}, {"train": {"epochs": 1, "distill": {"teacher": str(finished)}}}]
    other = SimpleNamespace(
        recipe=SimpleNamespace(last=None),
        model=lambda label: nn.Sequential(nn.Flatten(), nn.Linear(64, logits)),
        data=SimpleNamespace(name="letters", classes=tuple(classes)),
    )
    monkeypatch.setattr(Run, "_finished", lambda run, folder: other)
    with pytest.raises(BitwrightError, match=rf"steps\[1\]\.train: {message}"):
        run_recipe(recipe(steps=steps), tmp_path)
    assert not (tmp_path / "1-train").exists()


def test_teachers(finished: Path, tmp_path: Path) -> None:
    def distilling(teacher: str) -> dict[str, Any]:
        step = {"train": {"epochs": 1, "distill": {"teacher": teacher}}}
        return recipe(steps=[step, {"train": {"epochs": 1}}])

    run_recipe(distilling(str(finished)), tmp_path / "folder")
    with pytest.raises(BitwrightError, match=r"'2-train' is no earlier step \(start\), no folder"):
        run_recipe(distilling("2-train"), tmp_path / "later")
    with pytest.raises(
        BitwrightError, match=r"'nobody' is no earlier step \(start\), no folder of a run and no recipe \(.*demo, "
    ):
        run_recipe(distilling("nobody"), tmp_path / "nobody")
    (tmp_path / "folder" / "2-train" / "step.json").unlink()
    with pytest.raises(BitwrightError, match=r"is an unfinished run; finish it first"):
        run_recipe(distilling(str(tmp_path / "folder")), tmp_path / "unfinished")


def test_without_steps_the_model_is_packed_as_it_is(finished: Path, tmp_path: Path) -> None:
    weights = str(finished / "3-share" / "model.safetensors")
    run = run_recipe(recipe(model={"name": "mlp", "hidden": [16], "weights": weights}, steps=[]), tmp_path / "run")
    assert run.packed.read_bytes() == (finished / "packed.safetensors").read_bytes()
    assert (
        run.result["dense"]["error"]
        == run.result["packed"]["error"]
        == read(finished, "result.json")["packed"]["error"]
    )


def test_a_teacher_that_is_a_recipe_is_trained_first(tmp_path: Path) -> None:
    taught = tmp_path / "wide.yaml"
    taught.write_text(yaml.safe_dump(recipe(name="wide", model={"name": "mlp", "hidden": [32]}, steps=STEPS[:1])))
    step = {"train": {"epochs": 1, "distill": {"teacher": str(taught)}}}
    run_recipe(recipe(steps=[step], seed=5), tmp_path / "run")
    teacher = stored_recipe(tmp_path / "run" / "teachers" / "wide")
    assert (teacher.seed, teacher.model["hidden"]) == (5, [32])
    weights = tmp_path / "run" / "teachers" / "wide" / "1-train" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (tmp_path / "run" / "1-train" / "step.json").unlink()
    run_recipe(recipe(steps=[step], seed=5), tmp_path / "run")
    assert weights.stat().st_mtime_ns == before, "a finished teacher is not trained again"
    run_recipe(recipe(), tmp_path / "run", restart=True)
    assert not (tmp_path / "run" / "teachers").exists()


def test_teachers_are_looked_at_before_the_first_step(tmp_path: Path) -> None:
    def written(place: str, **changes: Any) -> str:
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(recipe(**{"name": "wide", "steps": STEPS[:1], **changes})))
        return str(path)

    damaged = tmp_path / "logits.safetensors"
    damaged.write_bytes(b"none")
    others = tmp_path / "others.safetensors"
    cached = {"epochs": 1, "distill": {"cache": str(others)}}
    run_recipe(recipe(data={"name": "digits", "train": 500}, steps=[{"train": cached}]), tmp_path / "part", speed=False)
    circle = written("circle.yaml", steps=[{"train": {"distill": {"teacher": str(tmp_path / "circle.yaml")}}}])
    one, other = written("a/one.yaml"), written("b/other.yaml", model={"name": "mlp", "hidden": [8]})
    for message, *seconds in (
        (r"^steps\[1\]\.train: no recipe file missing\.yaml", {"distill": {"teacher": "missing.yaml"}}),
        (
            r"^steps\[1\]\.train: .*hiden",
            {"distill": {"teacher": written("c.yaml", model={"name": "mlp", "hiden": [8]})}},
        ),
        (r"is one of 4 that are taught by each other", {"distill": {"teacher": circle}}),
        (r"distill\.cache\), but augment shows", {"distill": {"cache": "new"}, "augment": {"crop": 1}}),
        (r"logits\.safetensors is no file of a teacher's logits", {"distill": {"cache": str(damaged)}}),
        (r"others\.safetensors holds logits of another data set", {"distill": {"cache": str(others)}}),
        (rf"{tmp_path.name} is a folder; give the path of a file", {"distill": {"cache": str(tmp_path)}}),
        (r"^steps\[1\]\.train: augment", {"augment": {"crop": 99}}),
        (r"has the name of another one, 'wide'", {"distill": {"teacher": one}}, {"distill": {"teacher": other}}),
    ):
        steps = [STEPS[0], *({"train": {"epochs": 1, **second}} for second in seconds)]
        with pytest.raises(BitwrightError, match=message):
            run_recipe(recipe(steps=steps), tmp_path / "run")
        assert not (tmp_path / "run" / "1-train").exists()


def test_a_finished_step_needs_its_teacher_no_more(finished: Path, tmp_path: Path) -> None:
    """Neither to go on behind it nor for the page, which then has no curve of it."""
    teacher, place = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(finished, teacher)
    step = {"train": {"epochs": 1, "distill": {"teacher": str(teacher)}}}
    run_recipe(recipe(steps=[step]), place)
    assert gather(place)["steps"][0]["teacher"] is not None
    shutil.rmtree(teacher)
    assert gather(place)["steps"][0]["teacher"] is None
    extend_run(place, make_step("half"))
    assert run_recipe(stored_recipe(place), place).result["packed"]["bytes"] > 0


def test_what_may_not_become_a_checkpoint(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    parametrize.register_parametrization(model, "weight", nn.Identity())
    with pytest.raises(BitwrightError, match=r"step 2-x left parametrizations on .*steps? "):
        save_checkpoint(nn.Sequential(model), tmp_path / "m", "2-x")
    broken = nn.Linear(2, 2)
    broken.weight.data[0, 0] = torch.nan
    with pytest.raises(BitwrightError, match=r"step 2-x left NaN or infinite values in weight"):
        save_checkpoint(broken, tmp_path / "m", "2-x")
    (tmp_path / "m").write_bytes(b"1234567890")
    with pytest.raises(BitwrightError, match=r"cannot load the checkpoint .*m: "):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "m")


def test_a_checkpoint_of_another_architecture_is_refused_by_what_differs(tmp_path: Path) -> None:
    save_checkpoint(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), tmp_path / "m", "2-x")
    model = nn.Sequential(nn.Linear(2, 4))
    with pytest.raises(
        BitwrightError, match=r"another architecture than Sequential; 4 tensors differ:\n  0\.weight: model"
    ):
        load_checkpoint(model, tmp_path / "m")
    save_checkpoint(nn.Sequential(*(nn.Linear(1, 1) for _ in range(9))), tmp_path / "m", "2-x")
    with pytest.raises(BitwrightError, match=r"\n  \.\.\.\nIt fits the model that the recipe"):
        load_checkpoint(nn.Sequential(), tmp_path / "m")


def test_the_stored_recipe_is_the_resolved_one(finished: Path) -> None:
    assert identity(stored_recipe(finished)) == identity(load_recipe(recipe()))
    assert "batch_size: 64" in (finished / "recipe.yaml").read_text()
