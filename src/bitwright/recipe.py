"""Recipes: a whole experiment as a short YAML file, checked before anything runs.

    name: tiny
    description: one line for `bitwright list recipes`
    data: {name: digits}                 # or just `data: digits`; further keys are options of the source
    model: {name: mlp, hidden: [64]}     # a registry name or package.module:factory; further keys are its options
    seed: 0
    threads: 1                           # fixed, because the order of float additions depends on it
    steps:
      - train: {epochs: 20}
      - prune: {rounds: 3}
    pack: {}                             # the smallest file; {profile: paper} for the container of the paper
    published: {error: 1.58, bytes: 27000}

Reading has three stages, each usable alone: text -> plain mapping (`read_yaml`), mapping -> mapping (`override`),
mapping -> `Recipe` (`parse`). Every refusal names the full path of the value, such as steps[1].prune.qualty.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.resources
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError, unknown
from bitwright.steps import get_step
from bitwright.validate import checked

if TYPE_CHECKING:
    import yaml

    from bitwright.packing.profile import Profile
    from bitwright.steps import Step


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `data` and `model` hold "name" and options; `steps` are the step objects themselves.

    `pack` says how the file is written (see `make_profile`). `published` holds the
    figures of the paper that the recipe reproduces, for the tables: any of "error", "dense_error" (percent), "bytes",
    "ratio" and "source".
    """

    name: str
    data: dict[str, Any]
    model: dict[str, Any]
    steps: tuple[Step, ...]
    description: str = ""
    seed: int = 0
    threads: int = 1
    pack: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The recipe with every default filled in, as plain lists, mappings and scalars."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "steps"}
        plain["steps"] = [{step.name: dataclasses.asdict(step)} for step in self.steps]
        return json.loads(json.dumps(plain))

    def to_yaml(self) -> str:
        """`to_dict` as YAML, in the order of the module's example."""
        import yaml

        plain = self.to_dict()
        order = ("name", "description", "data", "model", "seed", "threads", "steps", "pack", "published")
        return yaml.safe_dump({k: plain[k] for k in order}, sort_keys=False, width=100, allow_unicode=True)

    def outline(self) -> str:
        """Model and steps as YAML, with nothing that is as by default: what a reader needs to tell recipes apart."""
        import yaml

        steps = [{step.name: _chosen(step)} for step in self.steps]
        shown = {"model": self.model, "steps": [entry if any(entry.values()) else next(iter(entry)) for entry in steps]}
        return yaml.safe_dump(json.loads(json.dumps(shown)), sort_keys=False, width=100, allow_unicode=True).rstrip()

    @property
    def labels(self) -> tuple[str, ...]:
        """The folder name of each step: "1-train", "2-prune", ..."""
        return tuple(f"{i}-{step.name}" for i, step in enumerate(self.steps, 1))

    @property
    def last(self) -> str | None:
        """The label of the last step; None without steps, which means the model as it was built."""
        return self.labels[-1] if self.steps else None


def _chosen(part: Any) -> dict[str, Any]:
    """The fields of settings that are not as by default."""
    found = {}
    for one in dataclasses.fields(part):
        value = getattr(part, one.name)
        default = one.default_factory() if callable(one.default_factory) else one.default
        if value != default:
            found[one.name] = _chosen(value) if dataclasses.is_dataclass(value) else value
    return found


@dataclass(frozen=True)
class _Published:
    """The keys of `published`."""

    error: float | None = None
    dense_error: float | None = None
    bytes: int | None = None
    ratio: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class _Outline:
    """The top level of the file; the steps are checked one by one afterwards, each against its own class."""

    name: str
    data: dict[str, Any]
    model: dict[str, Any]
    steps: list[Any]
    description: str = ""
    seed: int = 0
    threads: int = 1
    pack: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)


# -- text to mapping ---------------------------------------------------------------------------------------------------


def _loader() -> type[yaml.SafeLoader]:
    """YAML's safe loader without the traps of YAML 1.1: 1e-3 is a number, off and dates are text, keys are unique."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":bool", ":float", ":timestamp"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = re.compile(r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?:true|True|false|False)$"), list("tTfF"))
    return Loader


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML; a syntax error names `where` and the line."""
    import yaml

    try:
        return yaml.load(text, Loader=_loader())  # a subclass of SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise BitwrightError(f"{where}{place}: not valid YAML: {problem}", kind="yaml") from None


def _named() -> dict[str, Any]:
    folder = importlib.resources.files("bitwright") / "recipes"
    return {f.name.removesuffix(".yaml"): f for f in folder.iterdir() if f.name.endswith(".yaml")}


def list_recipes() -> dict[str, str]:
    """The recipes that ship with the package: name -> description."""
    found = {}
    for name, file in sorted(_named().items()):
        found[name] = str(read_yaml(file.read_text("utf-8"), name).get("description", ""))
    return found


def is_recipe(name: str) -> bool:
    """Whether `name` is one of the package's recipes, or a file's."""
    return name in _named() or name.endswith((".yaml", ".yml"))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file, unchecked. `recipe` is the name of a shipped recipe or the path of a file."""
    name, path = str(recipe), Path(recipe)
    looks_like_path = path.suffix in (".yaml", ".yml") or "/" in name
    if path.is_file():
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BitwrightError(f"cannot read the recipe {name}: {error}") from None
    elif looks_like_path:
        raise BitwrightError(f"no recipe file {name}; `bitwright list recipes` shows the named ones", kind="no-file")
    elif name in _named():
        text = _named()[name].read_text("utf-8")
    else:
        raise unknown("recipe", name, _named())
    raw = read_yaml(text, name)
    if not isinstance(raw, dict):
        raise BitwrightError(f"{name}: found {type(raw).__name__}, expected a mapping with name, data, model and steps")
    return raw


# -- mapping to mapping ------------------------------------------------------------------------------------------------


def override(raw: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Apply "path=value" settings to an unchecked recipe; values are YAML.

    A path is keys and step numbers joined by dots (steps.1.prune.rounds, from 0; steps.1.*.rounds, whatever step it
    is), or a step's name and its field (prune.rounds) where the name occurs once. Whether the key exists is checked
    later, by `parse`.
    """
    result = copy.deepcopy(dict(raw))
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path.strip():
            raise BitwrightError(f"--set {setting}: expected path=value, for example prune.rounds=3 or seed=1")
        _assign(result, path.strip().split("."), read_yaml(value, f"--set {setting}"), setting)
    return result


def _assign(raw: dict[str, Any], keys: list[str], value: Any, setting: str) -> None:
    if keys[0] not in {f.name for f in dataclasses.fields(_Outline)}:
        keys = _step_path(raw, keys, setting)
    if len(keys) > 1 and keys[0] in ("data", "model"):
        raw[keys[0]] = _with_name(raw.get(keys[0]))
    target: Any = raw
    for here, following in itertools.pairwise(keys):
        if isinstance(target, list):
            index = _index(here, target, setting)
            if isinstance(target[index], str):
                target[index] = {target[index]: {}}
            target = target[index]
        else:
            if here == "*" and len(target) == 1:
                (here,) = target
            if target.get(here) is None:
                target[here] = {}
            target = target[here]
        if not isinstance(target, dict | list):
            raise BitwrightError(f"--set {setting}: {here} is {target!r}, which has no {following!r} inside")
    if isinstance(target, list):
        target[_index(keys[-1], target, setting)] = value
    else:
        target[keys[-1]] = value


def _index(key: str, target: list[Any], setting: str) -> int:
    if not key.isdigit() or int(key) >= len(target):
        raise BitwrightError(f"--set {setting}: {key!r} is no position in a list of {len(target)}, counted from 0")
    return int(key)


def _step_path(raw: Mapping[str, Any], keys: list[str], setting: str) -> list[str]:
    """prune.rounds -> steps.1.prune.rounds."""
    names = [_step_entry(entry)[0] for entry in raw.get("steps") or [] if isinstance(entry, str | dict) and entry]
    places = [i for i, name in enumerate(names) if name == keys[0]]
    if not places:
        known = [f.name for f in dataclasses.fields(_Outline)] + names
        raise BitwrightError(f"--set {setting}: {unknown('key', keys[0], set(known))}", kind="unknown-name")
    if len(places) > 1:
        ways = " or ".join(".".join(["steps", str(i), *keys]) for i in places)
        raise BitwrightError(f"--set {setting}: {len(places)} steps are called {keys[0]!r}; say {ways}")
    return ["steps", str(places[0]), *keys]


# -- mapping to recipe -------------------------------------------------------------------------------------------------


def _with_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _step_entry(entry: Any) -> tuple[str, Any]:
    """(name, fields) of one entry of `steps`: "half", {half: null} or {half: {...}}."""
    if isinstance(entry, str):
        return entry, {}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise BitwrightError(f"found {entry!r}, expected one step as `- name: {{field: value}}`")
    name, fields = next(iter(entry.items()))
    return str(name), {} if fields is None else fields


def _step(entry: Any, place: str) -> Step:
    try:
        name, fields = _step_entry(entry)
        cls = get_step(name)
    except BitwrightError as error:
        raise BitwrightError(f"{place}: {error}", kind=error.kind) from None
    return checked(cls, fields, f"{place}.{name}")


def make_profile(pack: Mapping[str, Any]) -> Profile:
    """The packer's profile from a recipe's `pack`: {} (the smallest file), {profile: paper} or ese, or
    {profile: {fields}}."""
    from bitwright.packing.profile import Profile

    unexpected = sorted(set(pack) - {"profile"})
    if unexpected:
        raise unknown("key of pack", unexpected[0], ["profile"])
    chosen = pack.get("profile")
    if chosen is None:
        return Profile()
    if isinstance(chosen, str):
        named = {"ese": Profile.ese(), "paper": Profile.paper()}
        if chosen not in named:
            raise unknown("pack.profile", chosen, named)
        return named[chosen]
    return checked(Profile, chosen, "pack.profile")


def make_step(name: str, settings: Sequence[str] = ()) -> Step:
    """The step `name` with "field=value" settings, checked as in a recipe. `train.epochs=3` is `epochs=3`."""
    full = [s if s.startswith(f"{name}.") else f"{name}.{s}" for s in settings]
    raw = override({"steps": [{name: {}}]}, full)
    return checked(get_step(name), raw["steps"][0][name], name)


def parse(raw: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a mapping and make the recipe; unknown keys, wrong types and unknown step names are errors with a path."""
    filled = {key: _with_name(value) if key in ("data", "model") else value for key, value in raw.items()}
    try:
        outline = checked(_Outline, filled, "")
        for part in ("data", "model"):
            if not isinstance(getattr(outline, part).get("name"), str):
                raise BitwrightError(f"{part}.name is missing; say {part}: {{name: ...}}", kind="missing")
        if outline.threads < 1:
            raise BitwrightError(f"threads is {outline.threads}; expected 1 or more")
        if not 0 <= outline.seed < 1 << 63:
            raise BitwrightError(f"seed is {outline.seed}; expected a whole number from 0 to below 2^63")
        checked(_Published, outline.published, "published")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", outline.name) is None:
            raise BitwrightError(f"name is {outline.name!r}; it names a folder: letters, digits, '.', '-' and '_' only")
        make_profile(outline.pack)
        steps = tuple(_step(entry, f"steps[{i}]") for i, entry in enumerate(outline.steps))
    except BitwrightError as error:
        raise BitwrightError(f"{where}: {error}", kind=error.kind) from None
    return Recipe(**{**vars(outline), "steps": steps})


def load_recipe(recipe: str | Path | Recipe | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Read, override and check a recipe: the name of a shipped one, a path, a mapping, or one already checked."""
    if isinstance(recipe, Recipe):
        raw, where = recipe.to_dict(), recipe.name
    elif isinstance(recipe, Mapping):
        raw, where = dict(recipe), str(recipe.get("name", "recipe"))
    else:
        raw, where = read_recipe(recipe), str(recipe)
    return parse(override(raw, overrides), where)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Where two resolved recipes differ, one line per value: "steps[1].prune.rounds: 3 -> 5"."""
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    nothing = "(nothing)"
    paths = [*old, *(path for path in new if path not in old)]
    return [f"{p}: {old.get(p, nothing)} -> {new.get(p, nothing)}" for p in paths if old.get(p) != new.get(p)]


def _leaves(value: Any, path: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, json.dumps(value)
