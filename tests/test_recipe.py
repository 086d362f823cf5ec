"""Recipes: what is accepted means what it says, and every refusal names path, finding and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.packing.profile import Profile
from bitwright.recipe import (
    difference,
    list_recipes,
    load_recipe,
    make_profile,
    make_step,
    override,
    parse,
    read_yaml,
)

TEXT = """
name: tiny
data: digits
model: {name: mlp, hidden: [8]}
steps:
  - train: {epochs: 2, optimizer: {lr: 1e-3}}
  - prune: {quality: {fc1: 1, "*": 0.5}, rounds: 2, retrain: {epochs: 1}}
  - half
"""


def raw(text: str = TEXT) -> dict[str, Any]:
    return read_yaml(text, "test.yaml")


def test_a_recipe_becomes_step_objects() -> None:
    recipe = parse(raw())
    assert recipe.data == {"name": "digits"}
    assert recipe.labels == ("1-train", "2-prune", "3-half")
    train, prune, _ = recipe.steps
    assert (train.epochs, train.optimizer.lr, train.optimizer.name) == (2, 0.001, "SGD")
    assert prune.quality == {"fc1": 1.0, "*": 0.5}
    assert prune.retrain.epochs == 1


def test_the_resolved_recipe_reads_back_as_itself() -> None:
    recipe = parse(raw())
    assert parse(read_yaml(recipe.to_yaml(), "again")) == recipe
    assert difference(recipe.to_dict(), parse(recipe.to_dict()).to_dict()) == []


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_every_shipped_recipe_is_valid_and_described(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name, "a recipe is called as its file"
    assert recipe.description
    assert recipe.seed == 0, "what is published is seed 0"
    assert parse(recipe.to_dict()) == recipe


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_way_python_prints_a_float_is_a_number(value: float) -> None:
    assert read_yaml(f"x: {value!r}", "t")["x"] == value


def test_words_are_words() -> None:
    text = "{a: off, b: yes, c: true, d: False, e: null, f: 2026-01-02, g: 1e3, h: 10, i: -1.5, j: .5, k: n}"
    expected = ["off", "yes", True, False, None, "2026-01-02", 1000.0, 10, -1.5, 0.5, "n"]
    assert list(read_yaml(text, "t").values()) == expected


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("steps.1.*.rounds=5", "steps[1].prune.rounds: 2 -> 5"),
        ("steps.1.prune.rounds=5", "steps[1].prune.rounds: 2 -> 5"),
        ("prune.rounds=[0.5, 1]", "steps[1].prune.rounds: 2 -> (nothing)"),
        ("prune.retrain=null", "steps[1].prune.retrain: (nothing) -> null"),
        ("train.optimizer.lr=2e-2", "steps[0].train.optimizer.lr: 0.001 -> 0.02"),
        ("half.ignore=[fc1]", 'steps[2].half.ignore[0]: (nothing) -> "fc1"'),
        ("seed=7", "seed: 0 -> 7"),
        ("data.limit=100", "data.limit: (nothing) -> 100"),
        ("model.hidden=[8, 4]", "model.hidden[1]: (nothing) -> 4"),
        ("pack.profile=paper", 'pack.profile: (nothing) -> "paper"'),
        ("name=other", 'name: "tiny" -> "other"'),
    ],
)
def test_a_setting_changes_what_it_names(setting: str, changed: str) -> None:
    before, after = parse(raw()), parse(override(raw(), [setting]))
    assert changed in difference(before.to_dict(), after.to_dict())


def test_settings_leave_the_original_alone() -> None:
    original = raw()
    override(original, ["prune.rounds=9", "data.limit=3"])
    assert original == raw()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "prune.qualty=1",
            r"recipe: unknown key steps\[1\]\.prune\.qualty; did you mean 'quality'\? Allowed here: .*ramp",
        ),
        ("train.optimizer.rl=1", r"unknown key steps\[0\]\.train\.optimizer\.rl; .*Allowed here: lr, name, options"),
        ("prune.retrain.epoch=1", r"unknown key steps\[1\]\.prune\.retrain\.epoch; did you mean 'epochs'"),
        ("train.epochs=two", r'steps\[0\]\.train\.epochs is "two"; expected a whole number'),
        ("train.epochs=1.5", r"steps\[0\]\.train\.epochs is 1\.5; expected a whole number"),
        ("train.epochs=true", r"steps\[0\]\.train\.epochs is true; expected a whole number"),
        ("train.epochs=", r"steps\[0\]\.train\.epochs is null; expected a whole number"),
        ("train.optimizer.lr=fast", r'optimizer\.lr is "fast"; expected a number'),
        ("train.optimizer=Adam", r'steps\[0\]\.train\.optimizer is "Adam"; expected a mapping of its fields'),
        ("train.loss=hinge", r"train\.loss is \"hinge\"; expected one of 'cross-entropy', 'squared-error' or"),
        ("prune.layers=fc1", r'prune\.layers is "fc1"; expected a list'),
        ("prune.pattern=[2,4,1]", r"prune\.pattern is \[2, 4, 1\]; expected a list of 2"),
        ("prune.local=1", r"prune\.local is 1; expected true or false"),
        ("prune.quality=-1", r"steps\[1\]\.prune: quality is -1\.0; expected a number of at least 0"),
        ("prune=3", r"steps\[1\]\.prune is 3; expected a mapping of its fields"),
        ("steps=[bake]", r"steps\[0\]: unknown step 'bake'.*Known: .*prune"),
        ("steps=[[1]]", r"steps\[0\]: found \[1\], expected one step as"),
        ("steps=3", r"steps is 3; expected a list"),
        ("seed=1.5", r"seed is 1\.5; expected a whole number"),
        ("seed=-1", r"seed is -1; expected a whole number from 0"),
        ("published.eror=1", r"unknown key published\.eror; did you mean 'error'"),
        ("published.bytes=many", r'published\.bytes is "many"; expected a whole number'),
        ("threads=0", r"threads is 0; expected 1 or more"),
        ("name=a/b", r"name is 'a/b'; it names a folder"),
        ("data={limit: 3}", r"data\.name is missing"),
        ("data=3", r"data is 3; expected a mapping"),
        ("pack.size=3", r"unknown key of pack 'size'"),
        ("pack.profile=small", r"unknown pack\.profile 'small'"),
        ("pack.profile={coder: raw}", r"unknown key pack\.profile\.coder; did you mean 'coders'"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(setting: str, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        parse(override(raw(), [setting]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prune.rounds", r"--set prune\.rounds: expected path=value"),
        ("prun.rounds=3", r"--set prun\.rounds=3: unknown key 'prun'; did you mean 'prune'\?.*train"),
        ("steps.7.prune.rounds=3", r"'7' is no position in a list of 3"),
        ("seed.x=1", r"seed is \{.*expected a whole number"),
        ("model.hidden.x=1", r"'x' is no position in a list of 1"),
        ("train.epochs.x=1", r"epochs is 2, which has no 'x' inside"),
        ("seed=[", r"--set seed=\[ line 1, column 2: not valid YAML"),
    ],
)
def test_a_wrong_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        parse(override(raw(), [setting]))


def test_a_step_name_that_occurs_twice_is_ambiguous() -> None:
    twice = {**raw(), "steps": [{"train": {}}, {"train": {}}]}
    with pytest.raises(
        BitwrightError, match=r"2 steps are called 'train'; say steps\.0\.train\.epochs or steps\.1\.tr"
    ):
        override(twice, ["train.epochs=1"])


def test_all_mistakes_of_a_step_are_listed_at_once() -> None:
    with pytest.raises(BitwrightError) as caught:
        parse(override(raw(), ["train.epochs=x", "train.los=1", "train.optimizer.lr=y"]))
    assert all(word in str(caught.value) for word in ("train.los", "train.epochs", "optimizer.lr"))


def test_missing_parts_are_named() -> None:
    with pytest.raises(BitwrightError, match=r"model is missing"):
        parse({k: v for k, v in raw().items() if k != "model"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\n  b: [\n", r"test\.yaml line 2, column 4: not valid YAML"),
        ("name: a\nname: b\n", r"test\.yaml line 2, column 1: not valid YAML: key 'name' twice"),
        ("x: !!python/object/apply:os.getcwd []", r"could not determine a constructor"),
    ],
)
def test_yaml_that_is_none_names_its_line(text: str, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        raw(text)


def test_finding_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(BitwrightError, match=r"unknown recipe 'dmo'; did you mean 'demo'"):
        load_recipe("dmo")
    with pytest.raises(BitwrightError, match=r"no recipe file .*none\.yaml; `bitwright list recipes`"):
        load_recipe(tmp_path / "none.yaml")
    listing = tmp_path / "list.yaml"
    listing.write_text("- a\n")
    with pytest.raises(BitwrightError, match=r"found list, expected a mapping with name, data, model and steps"):
        load_recipe(listing)
    listing.write_bytes(b"name: \xff")
    with pytest.raises(BitwrightError, match=r"cannot read the recipe"):
        load_recipe(listing)
    listing.write_text(TEXT)
    assert load_recipe(listing, ["seed=3"]).seed == 3


def test_one_step_from_the_command_line() -> None:
    assert make_step("prune", ["rounds=4"]) == make_step("prune", ["prune.rounds=4"])
    with pytest.raises(BitwrightError, match=r"unknown key prune\.round; did you mean 'rounds'"):
        make_step("prune", ["round=4"])


def test_profiles() -> None:
    assert make_profile({}) == Profile()
    assert make_profile({"profile": "paper"}) == Profile.paper()
    assert make_profile({"profile": "ese"}) == Profile.ese()
    assert make_profile({"profile": {"coders": ["huffman"]}}) == Profile(coders=("huffman",))
    with pytest.raises(BitwrightError, match=r"pack\.profile: unknown coder 'zip'"):
        make_profile({"profile": {"coders": ["zip"]}})
