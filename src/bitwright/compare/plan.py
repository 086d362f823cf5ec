"""What is compared: a YAML file, or recipes and runs, perhaps with values to try; checked before anything runs.

    name: dropout
    description: one line for `bitwright list comparisons`
    source: where the published figures are from
    recipe: two-layer-cifar              # a registry name, a file, or the recipe itself
    charts: [error, curves]              # error, bytes, ms, outputs, curves; speed is measured where ms is among them
    seeds: [0, 1, 2]                     # the recipe's own if left out
    variants:
      no dropout: {set: {model.dropout: 0}, published: {error: 48}}
      dropout:                           # the recipe as it is
    sweep: {model.hidden: [[200], [500]]}     # every variant with each of these, or the recipe where there are none

Paths are those of --set. A variant may have a `recipe` of its own, and a `sweep` in place of that of all.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from bitwright.errors import BitwrightError
from bitwright.folders import identity, stored_recipe
from bitwright.recipe import Recipe, list_recipes, load_recipe, read_recipe, read_yaml
from bitwright.search.space import settings
from bitwright.validate import checked

Chart = Literal["error", "bytes", "ms", "outputs", "curves"]
DEFAULT_CHARTS: tuple[Chart, ...] = ("bytes", "ms")
_LONGEST = 80
"""Characters of a name that folders are called by."""


@dataclass(frozen=True)
class Published:
    """What the source reports, in percent: of the test images, of validation images, of training images."""

    error: float | None = None
    validation_error: float | None = None
    train_error: float | None = None


@dataclass(frozen=True)
class Variant:
    """One row. `runs` has a folder and a recipe for each seed; relative folders lie in the comparison's.

    Rows of the same `group` are one method at several points of a sweep.
    """

    name: str
    runs: tuple[tuple[Path, Recipe], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    published: Published = Published()
    group: str = ""
    taken: bool = False
    """Whether the runs were there before and are not touched."""


@dataclass(frozen=True)
class Comparison:
    """A checked comparison. `starts` are runs whose finished steps variants may begin from."""

    name: str
    variants: tuple[Variant, ...]
    description: str = ""
    source: str = ""
    charts: tuple[Chart, ...] = DEFAULT_CHARTS
    starts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Variant:
    """One value of `variants`."""

    recipe: str | dict[str, Any] | None = None
    set: dict[str, Any] = field(default_factory=dict)
    published: Published = Published()
    sweep: dict[str, list[Any]] | None = None


@dataclass(frozen=True)
class _Outline:
    """The keys of the file."""

    name: str
    recipe: str | dict[str, Any] | None = None
    description: str = ""
    source: str = ""
    charts: tuple[Chart, ...] = DEFAULT_CHARTS
    seeds: tuple[int, ...] | None = None
    """None: the recipe's own."""
    variants: dict[str, _Variant | None] = field(default_factory=dict)
    sweep: dict[str, list[Any]] = field(default_factory=dict)


# -- from arguments ----------------------------------------------------------------------------------------------------


def plan(
    what: Sequence[str | Path],
    sweep: Mapping[str, Sequence[Any]] | None = None,
    charts: Sequence[str] | None = None,
) -> Comparison:
    """The comparison that `what` means: the name or file of one; or recipes and folders of runs, any number.

    `charts` are drawn in place of its own, or of bytes and ms. With a `sweep` each recipe gets all its values, and so
    does a run's, which begins with the run's finished steps. Without one a run is taken as it is. Raises BitwrightError
    for what is none of these, for paths and values that a recipe can't take, for no variants, for two variants that are
    the same, and for unknown charts.
    """
    found = _meant(what, {path: list(values) for path, values in (sweep or {}).items()})
    if charts is None:
        return found
    known: dict[str, Chart] = {name: name for name in get_args(Chart)}
    if unknown := [one for one in charts if one not in known]:
        raise BitwrightError(f"--charts {unknown[0]}: expected some of {', '.join(known)}", kind="setting")
    return replace(found, charts=tuple(known[one] for one in charts))


def _meant(what: Sequence[str | Path], tried: dict[str, list[Any]]) -> Comparison:
    folders = [Path(one) for one in what if (Path(one) / "recipe.yaml").is_file()]
    if folders and len(folders) == len(what) and not tried:
        return Comparison("runs", _distinct(_of_runs(folders), "runs"))
    raws = [stored_recipe(one).to_dict() if Path(one) in folders else _read(str(one)) for one in what]
    if len(raws) == 1 and "steps" not in raws[0]:
        return _planned(_with_sweep(raws[0], tried))
    if len(raws) == 1 and not tried:
        raise BitwrightError(f"{what[0]}: no variants of this recipe; give --sweep, or more recipes and runs")
    recipes: dict[str, Any] = {}
    for one, raw in zip(what, raws, strict=True):
        if "steps" not in raw:
            raise BitwrightError(f"{one} is a comparison; give it by itself, or recipes and runs")
        if Path(one) in folders and not tried:
            continue
        if str(raw["name"]) in recipes:
            raise BitwrightError(f"{one}: another recipe has the name {raw['name']!r}, too; give it another")
        recipes[str(raw["name"])] = {"recipe": raw}
    name = "-".join(str(raw["name"]) for raw in raws)[:_LONGEST]
    outline = {
        "name": name,
        "variants": recipes if len(raws) > 1 else {"": next(iter(recipes.values()))},
        "sweep": tried,
    }
    starts = tuple(folder.resolve() for folder in folders) if tried else ()
    return _planned(outline, starts, _of_runs(folders) if folders and not tried else [])


def list_comparisons() -> dict[str, str]:
    """The comparisons that ship with the package: name -> description."""
    return {
        name: str(read_yaml(file.read_text("utf-8"), name).get("description", ""))
        for name, file in sorted(_named().items())
    }


def _named() -> dict[str, Any]:
    folder = importlib.resources.files("bitwright") / "comparisons"
    return {f.name.removesuffix(".yaml"): f for f in folder.iterdir() if f.name.endswith(".yaml")}


def _read(name: str) -> dict[str, Any]:
    """The mapping of a comparison or a recipe."""
    if name in _named():
        return dict(read_yaml(_named()[name].read_text("utf-8"), name))
    if not Path(name).is_file() and name not in list_recipes():
        raise BitwrightError(
            f"{name!r} is no comparison, recipe, file or finished run; `bitwright list comparisons` and `list recipes` "
            "show the named ones",
            kind="unknown-name",
        )
    return read_recipe(name)


def _with_sweep(raw: dict[str, Any], sweep: dict[str, list[Any]]) -> dict[str, Any]:
    return {**raw, "sweep": {**(raw.get("sweep") or {}), **sweep}} if sweep else raw


def read_sweep(texts: Iterable[str]) -> dict[str, list[Any]]:
    """{"path": [values]} from "path=a,b,c" texts; values are YAML, so [300, 100],[500] are two."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        path, equals, values = text.partition("=")
        if not equals or not path.strip() or not values.strip():
            raise BitwrightError(f"--sweep {text}: expected path=a,b,c, for example share.bits=2,3,4")
        if path.strip() in found:
            raise BitwrightError(
                f"--sweep {path.strip()} is given twice; give all its values at once: {path.strip()}=a,b,c"
            )
        found[path.strip()] = read_yaml(f"[{values}]", f"--sweep {text}")
    return found


# -- from a mapping ----------------------------------------------------------------------------------------------------


def _planned(raw: dict[str, Any], starts: tuple[Path, ...] = (), taken: Sequence[Variant] = ()) -> Comparison:
    name = str(raw.get("name"))
    try:
        outline = checked(_Outline, raw, "")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
            raise BitwrightError(f"name is {name!r}; it names a folder: letters, digits, '.', '-' and '_' only")
        if outline.seeds is not None and len(set(outline.seeds)) != max(len(outline.seeds), 1):
            raise BitwrightError(f"seeds are {list(outline.seeds)}; expected at least one, each once")
        variants = _distinct([*_variants(outline), *taken], name)
    except BitwrightError as error:
        raise BitwrightError(f"{name}: {str(error).removeprefix(f'{name}: ')}", kind=error.kind) from None
    return Comparison(name, variants, outline.description, outline.source, outline.charts, starts)


def _variants(outline: _Outline) -> Iterator[Variant]:
    listed = outline.variants or ({"": None} if outline.sweep else {})
    slugs: set[str] = set()
    for name, variant in listed.items():
        given = variant or _Variant()
        sweep = outline.sweep if given.sweep is None else given.sweep
        if empty := [path for path, values in sweep.items() if not values]:
            raise BitwrightError(f"sweep.{empty[0]} has no values; expected a list of those to try")
        for point in itertools.product(*sweep.values()):
            swept = dict(zip(sweep, point, strict=True))
            whole = " ".join(part for part in (name, _words(swept)) if part)
            slug = _slug(whole, slugs)
            slugs.add(slug)
            yield _variant(outline, whole, slug, given, {**given.set, **swept}, (name or outline.name) * bool(swept))


def _slug(name: str, used: Collection[str]) -> str:
    """A folder for a variant, none of those used; where its name is too long or like another's, with a hash of it."""
    slug = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.=_") or "variant"
    if len(slug) <= _LONGEST and slug.casefold() not in {one.casefold() for one in used}:
        return slug
    return f"{slug[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _variant(outline: _Outline, name: str, slug: str, given: _Variant, changes: dict[str, Any], group: str) -> Variant:
    base = given.recipe if given.recipe is not None else outline.recipe
    if base is None:
        raise BitwrightError(f"variant {name!r} has no recipe; give it one, or one for all: recipe: NAME")
    own = f"{outline.name}-{slug}".replace("=", "-")
    try:
        raw = {**_base(base), "name": own}
        seeds = outline.seeds or (raw["seed"],)
        recipes = [load_recipe({**raw, "seed": seed}, settings(changes)) for seed in seeds]
    except BitwrightError as error:
        said = str(error).removeprefix(f"{own}: ").removeprefix("--set ")
        raise BitwrightError(f"variant {name!r}: {said}", kind=error.kind) from None
    runs = [(Path(slug + (f"-seed{one.seed}" if one.seed else "")), one) for one in recipes]
    return Variant(name, tuple(runs), changes, given.published, group)


def _base(recipe: str | dict[str, Any]) -> dict[str, Any]:
    """The mapping of a recipe without the figures of its paper, which are of that recipe alone."""
    raw = {"seed": 0, **(recipe if isinstance(recipe, dict) else read_recipe(recipe))}
    return {key: value for key, value in raw.items() if key not in ("published", "description")}


def _words(values: Mapping[str, Any]) -> str:
    """hidden=[300] lr=0.1: the last keys of the paths, or as much of them as tells them apart."""
    paths = [path.split(".") for path in values]
    shown = []
    for path, value in zip(paths, values.values(), strict=True):
        same = (sum(other[-keys:] == path[-keys:] for other in paths) > 1 for keys in itertools.count(1))
        keys = 1 + next(i for i, again in enumerate(same) if not again)
        shown.append(f"{'.'.join(path[-keys:])}={value if isinstance(value, str) else json.dumps(value)}")
    return " ".join(shown)


def _distinct(variants: Sequence[Variant], name: str) -> tuple[Variant, ...]:
    """`variants`, none of them twice."""
    if not variants:
        raise BitwrightError(f"{name}: no variants; give `variants`, a `sweep`, or runs")
    seen: dict[str, str] = {}
    for variant in variants:
        for key in {_essence(variant.runs[0][1]), *(str(folder) for folder, _ in variant.runs)}:
            if key in seen:
                raise BitwrightError(
                    f"variants {seen[key]!r} and {variant.name!r} are the same; leave one of them out", kind="twice"
                )
            seen[key] = variant.name
    return tuple(variants)


def _essence(recipe: Recipe) -> str:
    """What decides the result, whatever it is called and drawn from."""
    return json.dumps({**identity(recipe), "name": "", "seed": 0}, sort_keys=True)


def _of_runs(folders: Sequence[Path]) -> list[Variant]:
    """Runs as they are: those that differ in nothing but the seed are one variant."""
    grouped: dict[str, list[tuple[Path, Recipe]]] = {}
    for folder in folders:
        recipe = stored_recipe(folder)
        runs = grouped.setdefault(_essence(recipe), [])
        twice = [str(other) for other, one in runs if one.seed == recipe.seed]
        if twice:
            raise BitwrightError(f"{folder} and {twice[0]} are the same run; leave one of them out", kind="twice")
        runs.append((folder.resolve(), recipe))
    names = [runs[0][1].name for runs in grouped.values()]
    return [
        Variant(name if names.count(name) == 1 else runs[0][0].name, tuple(runs), taken=True)
        for name, runs in zip(names, grouped.values(), strict=True)
    ]
