"""Search: what a space means, that studies find what is there, resume, share and refuse."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright import BitwrightError, load_dataset
from bitwright.cli import main
from bitwright.data.holdout import fold_of
from bitwright.recipe import load_recipe
from bitwright.search import SearchSettings, Space, search, trial
from bitwright.search.space import Range

RECIPE = {
    "name": "tiny",
    "data": {"name": "digits", "limit": 300},
    "model": {"name": "mlp", "hidden": [16]},
    "steps": [{"train": {"epochs": 2, "batch_size": 10}}],
}
LR = {"train.optimizer.lr": {"low": 1e-5, "high": 0.3, "log": True}}


def recipe(**changes):
    return load_recipe({**RECIPE, **changes})


@given(
    low=st.floats(1e-6, 10),
    factor=st.floats(1.01, 1e4),
    log=st.booleans(),
    points=st.integers(2, 9),
    best=st.floats(0, 1),
)
def test_a_range_narrows_to_a_quarter_inside_of_itself(low, factor, log, points, best):
    wide = Range(low, low * factor, log, points)
    chosen = low * factor**best if log else low + best * (wide.high - low)
    fine = wide.around(chosen)
    assert wide.low <= fine.low <= fine.high <= wide.high
    span = math.log(fine.high / fine.low) / math.log(factor) if log else (fine.high - fine.low) / (wide.high - wide.low)
    assert 0.12 < span < 0.26
    grid = wide.grid()
    assert len(grid) == points
    assert (grid[0], grid[-1]) == (wide.low, wide.high)
    assert grid == sorted(grid)


def test_whole_numbers_stay_whole():
    layers = Range(1, 64, log=True)
    assert layers.grid() == [1, 3, 8, 23, 64]
    assert layers.around(8) == Range(4, 14, log=True)
    assert Range(0, 2, points=9).grid() == [0, 1, 2]


def test_a_search_finds_the_learning_rate_that_learns(tmp_path):
    """In the coarse range most trials learn nothing; the finer stage lies around the best of them."""
    how = SearchSettings(trials=6, stages=2, sampler="random")
    found = search(recipe(), Space(LR), how, tmp_path / "s")
    assert found.trials == 12
    plain = trial.run_trial(
        recipe(steps=[{"train": {"epochs": 2, "batch_size": 10, "optimizer": {"lr": 1e-5}}}]),
        trial.parts_of(load_dataset("digits", limit=300), 1, 0),
        tmp_path / "one",
        lambda epochs, error: None,
    )
    assert found.error < plain / 2
    again = load_recipe(tmp_path / "s" / "best.yaml")
    assert again.steps[0].optimizer.lr == found.values["train.optimizer.lr"]
    studies = [
        optuna.load_study(study_name=f"tiny stage {i}", storage=f"sqlite:///{tmp_path}/s/search.sqlite") for i in (1, 2)
    ]
    coarse, fine = ([t.params["train.optimizer.lr"] for t in study.trials] for study in studies)
    assert max(fine) / min(fine) <= (0.3 / 1e-5) ** 0.25 * 1.001 < max(coarse) / min(coarse)
    page = (tmp_path / "s" / "search.html").read_text()
    assert len(re.findall(r'class="chart" id="chart-\d+"', page)) >= 6
    assert f"--set train.optimizer.lr={found.values['train.optimizer.lr']}" in page
    assert not list((tmp_path / "s" / "trials").iterdir()), "what trials trained is not kept"


def test_the_same_seed_tries_the_same_settings_and_a_grid_tries_all(tmp_path):
    space = Space({"model.hidden": [[4], [4, 4]], "train.batch_size": {"low": 50, "high": 100, "points": 2}})
    how = SearchSettings(trials=9, sampler="grid")
    one, two = (search(recipe(), space, how, tmp_path / name) for name in ("a", "b"))
    assert one.trials == two.trials == 4
    assert (one.values, one.error) == (two.values, two.error)
    stored = optuna.load_study(study_name="tiny stage 1", storage=f"sqlite:///{tmp_path}/a/search.sqlite")
    tried = {(t.params["model.hidden"], t.params["train.batch_size"]) for t in stored.trials}
    assert tried == {(hidden, size) for hidden in ("[4]", "[4, 4]") for size in (50, 100)}


def test_an_interrupted_search_goes_on_with_the_interrupted_trial(tmp_path, monkeypatch):
    space, how, real = Space(LR), SearchSettings(trials=3, sampler="random"), trial.Run.run_steps
    calls = []

    def stopping(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(trial.Run, "run_steps", stopping)
        with pytest.raises(KeyboardInterrupt):
            search(recipe(), space, how, tmp_path)
    found = search(recipe(), space, how, tmp_path)
    stored = optuna.load_study(study_name="tiny stage 1", storage=f"sqlite:///{tmp_path}/search.sqlite")
    states = [t.state.name for t in stored.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert stored.trials[2].params == stored.trials[1].params
    assert search(recipe(), space, how, tmp_path).error == found.error, "nothing is left to do"
    assert len(stored.trials) == found.trials == 4
    with pytest.raises(BitwrightError, match=r"holds another search.*recipe, space or settings differ"):
        search(recipe(seed=3), space, how, tmp_path)


def test_bad_trials_are_pruned_and_diverged_ones_counted_as_such(tmp_path):
    steps = [{"train": {"epochs": 6, "batch_size": 50, "optimizer": {"name": "SGD", "options": {}}}}]
    space = Space({"train.optimizer.lr": [0.2, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6, 1e30]})
    how = SearchSettings(trials=8, sampler="grid", pruner="halving")
    found = search(recipe(steps=steps), space, how, tmp_path)
    assert found.values == {"train.optimizer.lr": 0.2}
    stored = optuna.load_study(study_name="tiny stage 1", storage=f"sqlite:///{tmp_path}/search.sqlite")
    pruned = [t for t in stored.trials if t.state.name == "PRUNED" and "diverged" not in t.user_attrs]
    assert pruned
    assert all(len(t.intermediate_values) < 6 for t in pruned)
    assert sum("diverged" in t.user_attrs for t in stored.trials) == 1


@given(seed=st.integers(0, 99), classes=st.integers(1, 5), folds=st.integers(2, 7), count=st.integers(7, 60))
def test_folds_are_equal_shares_of_every_class(seed, classes, folds, count):
    labels = np.random.default_rng(seed).integers(0, classes, count)
    fold = fold_of(labels, folds)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for c in np.unique(labels):
        per_fold = np.bincount(fold[labels == c], minlength=folds)
        assert abs(per_fold - (labels == c).sum() / folds).max() < 2


def test_cross_validation_uses_every_image_once_and_a_fraction_keeps_the_classes():
    data = load_dataset("digits", limit=300)
    parts = trial.parts_of(data, 1, 3)
    together = sorted(x.tobytes() for part in parts for x in part.validation.images)
    known = sorted(x.tobytes() for split in (data.train, data.validation) for x in split.images)
    assert together == known
    for part in parts:
        assert len(part.train) + len(part.validation) == len(known)
        assert part.test is data.test
    (tenth,) = trial.parts_of(data, 0.1, 0)
    assert len(tenth.train) == len(data.train) // 10
    assert set(tenth.train.labels) == set(data.train.labels)
    assert tenth.validation is data.validation


def test_the_error_of_a_trial_is_the_mean_over_the_folds(tmp_path):
    parts = trial.parts_of(load_dataset("digits", limit=300), 1, 2)
    reported = []
    both = trial.run_trial(recipe(), parts, tmp_path, lambda epochs, error: reported.append((epochs, error)))
    alone = [trial.run_trial(recipe(), [part], tmp_path, lambda epochs, error: None) for part in parts]
    assert both == pytest.approx(sum(alone) / 2)
    assert [epochs for epochs, _ in reported] == [1, 2], "one report an epoch, of the first fold"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: nothing may vary"),
        (
            ["--vary", "train.optimizer.lrr=[1, 2]"],
            "error: --vary train.optimizer.lrr: with 1: unknown key steps[0]",
        ),
        (["--vary", "train.epochs=[1, two]"], "error: --vary train.epochs: with 'two': steps[0].train.epochs"),
        (["--vary", "train.epochs=[1]"], "error: --vary train.epochs: [1] leaves no choice"),
        (["--vary", "train.epochs={low: 3, high: 1}"], "error: --vary train.epochs: low 3 and high 1 are no range"),
        (
            ["--vary", "train.l1={low: 0, high: 1, log: true}"],
            "error: --vary train.l1: low is 0, which has no log",
        ),
        (
            ["--vary", "train.optimizer.name=[SGD, Adm]"],
            "error: --vary train.optimizer.name: with 'Adm': unknown optimizer 'Adm'; did you mean 'Adam'",
        ),
        (["--vary", "train.l1={lo: 0, high: 1}"], "error: --vary train.l1: unknown key lo; did you mean 'low'"),
        (["--vary", "train.l1=3"], "error: --vary train.l1: found 3; expected a list of choices"),
        (["--vary", "train.l1"], "error: --vary train.l1: expected path="),
        (["--vary", "seed=[1, 2]", "--sampler", "bayes"], "error: unknown sampler 'bayes'"),
        (["--vary", "seed=[1, 2]", "--folds", "1"], "error: folds is 1; expected 0, or at least 2"),
        (["--vary", "seed=[1, 2]", "--storage", "nonsense"], "error: cannot open the storage nonsense"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(json.dumps(RECIPE))
    assert main(["search", "tiny.yaml", *arguments]) == 1
    printed = capsys.readouterr().err
    assert any(line.startswith(message) for line in printed.splitlines()), printed
    assert "Traceback" not in printed


def test_the_command_prints_what_it_found(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(json.dumps(RECIPE))
    Path("space.yaml").write_text("train.batch_size: [25, 50]\n")
    assert main(["search", "tiny.yaml", "--space", "space.yaml", "--trials", "2", "--fraction", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "train.batch_size" in printed
    assert "runs/tiny-search/search.html" in printed
