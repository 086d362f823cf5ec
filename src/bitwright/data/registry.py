"""The names of the data sources: one file per family beside this one, found by themselves."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitwright.data.holdout import SIXTH, Part
from bitwright.errors import BitwrightError, unknown


@dataclass(frozen=True)
class Parts:
    """What a source reads: its own parts, and what to hold out for validation where it has no such part."""

    train: Part
    test: Part
    classes: Sequence[str]
    validation: Part | None = None
    share: float = SIXTH
    holdout: Literal["stratified", "last"] = "stratified"


Reader = Callable[..., Parts]  # (place, **options) -> Parts
_sources: dict[str, tuple[Reader, str]] = {}


def register_dataset(name: str, description: str) -> Callable[[Reader], Reader]:
    """Give a reader its name in `load_dataset`; a duplicate is an error. A name "x:" takes what follows as `of`."""

    def register(reader: Reader) -> Reader:
        if name in _sources:
            raise BitwrightError(f"two datasets are called {name!r}: {_sources[name][0]} and {reader}; rename one")
        _sources[name] = (reader, description)
        return reader

    return register


@functools.cache
def _discover() -> None:
    package = Path(__file__).parent
    for module in pkgutil.iter_modules([str(package)]):
        importlib.import_module(f"bitwright.data.{module.name}")


def sources() -> dict[str, str]:
    """Every dataset name with one line about it."""
    _discover()
    return {name: line for name, (_, line) in sorted(_sources.items())}


def reader_of(name: str, options: dict[str, Any], form: dict[str, Any]) -> Callable[..., Parts]:
    """The reader of dataset `name` with its options bound; an unknown name or option lists the known ones.

    `form` (size and color) goes to readers that have to know it, because their pictures differ.
    """
    _discover()
    if not isinstance(name, str):
        raise BitwrightError(f"dataset name is a {type(name).__name__}; expected text, e.g. 'mnist'")
    family, colon, rest = name.partition(":")
    key = family + colon
    if key not in _sources:
        raise unknown("dataset", name, _sources)
    reader = _sources[key][0]
    allowed = set(inspect.signature(reader).parameters) - {"place", "of"}
    for option in options:
        if option not in allowed:
            raise unknown(f"option of dataset {name!r}", option, allowed | COMMON_OPTIONS)
    options = {**options, **{key: value for key, value in form.items() if key in allowed}}
    if colon:
        return functools.partial(reader, of=rest, **options)
    return functools.partial(reader, **options)


COMMON_OPTIONS = {"color", "limit", "preprocess", "root", "size", "train", "validation", "verify"}
