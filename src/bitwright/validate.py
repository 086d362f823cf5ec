"""Checking plain values (from YAML or the command line) against a dataclass, with messages that name the place.

pydantic does the checking, strictly: "3" is not a number, 1.5 no whole number, and a key that is no field is refused.
This module's own part is the wording: path of the value, what was found, what was expected, the closest allowed key.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from bitwright.errors import BitwrightError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping of its fields",
    "dataclass_exact_type": "a mapping of its fields",
    "none_required": "null",
}


def checked(cls: type[T], value: Any, path: str) -> T:
    """An instance of the dataclass `cls` from a mapping of plain values that was found at `path` (may be "").

    Raises BitwrightError (kind "unknown-name", "missing" or "wrong-value") that lists every mistake, one per line.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if not isinstance(value, Mapping):
        raise BitwrightError(
            f"{path or 'here'} is {_show(value)}; expected a mapping of its fields", kind="wrong-value"
        )
    # A list of one, because pydantic takes a configuration for anything but a bare dataclass, and hands it down.
    adapter = TypeAdapter(list[cls], config=ConfigDict(extra="forbid", strict=True))  # type: ignore[valid-type]
    try:
        # JSON mode, because there a list may become a tuple although everything else stays strict.
        return adapter.validate_json(json.dumps([value], default=str))[0]
    except ValidationError as error:
        raise _explain(error.errors(include_url=False), cls, value, path) from None
    except BitwrightError as error:
        said = str(error).removeprefix(f"{path.rpartition('.')[2]}: ")  # a step that already says its name
        raise BitwrightError(f"{path}: {said}" if path else said, kind=error.kind) from None


def _explain(errors: list[ErrorDetails], cls: type, value: Any, path: str) -> BitwrightError:
    """One line per place; alternatives of a union that failed at the same place are joined by "or"."""
    unknown_keys: list[str] = []
    wrong: dict[str, tuple[Any, list[str]]] = {}
    for error in errors:
        keys = _real_keys(error["loc"][1:], value)
        place = _join(path, keys)
        if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            unknown_keys.append(_unknown_key(place, str(keys[-1]), _allowed(cls, keys[:-1])))
        elif error["type"] in ("missing", "missing_argument"):
            place = _join(path, [*keys, error["loc"][-1]])
            wrong[place] = (None, [])
        else:
            wrong.setdefault(place, (error["input"], []))[1].append(_expected(error))
    lines = unknown_keys + [
        f"{place} is {_show(found)}; expected {' or '.join(dict.fromkeys(expected))}"
        if expected
        else f"{place} is missing"
        for place, (found, expected) in wrong.items()
    ]
    kind = "unknown-name" if unknown_keys else "missing" if any(not e for _, e in wrong.values()) else "wrong-value"
    return BitwrightError("\n  ".join(lines), kind=kind)


def _real_keys(location: tuple[int | str, ...], value: Any) -> list[int | str]:
    """The part of pydantic's location that exists in the data; it also names the members of unions, which we skip."""
    keys: list[int | str] = []
    for key in location:
        inside = isinstance(value, dict) and key in value
        if inside or (isinstance(value, list) and isinstance(key, int) and key < len(value)):
            keys.append(key)
            value = value[key]
    return keys


def _join(path: str, keys: list[int | str]) -> str:
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
    return path


def _show(value: Any) -> str:
    return "null" if value is None else json.dumps(value, default=str)


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        return f"one of {error['ctx']['expected']}"
    if error["type"] == "value_error":
        return f"a value that fits ({error['ctx']['error']})"
    if error["type"] in ("too_long", "too_short"):
        size = error["ctx"].get("max_length", error["ctx"].get("min_length"))
        return f"a list of {size}"
    return _EXPECTED.get(error["type"], error["msg"].removeprefix("Input should be "))


def _unknown_key(place: str, key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"unknown key {place}{hint} Allowed here: {', '.join(allowed) or 'none'}"


def _allowed(cls: Any, keys: list[int | str]) -> list[str]:
    """The field names of the dataclass found by following `keys` from `cls`."""
    for key in keys:
        hints = [typing.get_type_hints(c) for c in _dataclasses(cls)]
        found = [h[str(key)] for h in hints if str(key) in h]
        # A list or mapping of dataclasses: positions and free keys lead to its members, which `_dataclasses` unwraps.
        cls = found[0] if found else cls
    return sorted({f.name for c in _dataclasses(cls) for f in dataclasses.fields(c)})


def _dataclasses(annotation: Any) -> list[Any]:
    if dataclasses.is_dataclass(annotation):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return [c for argument in typing.get_args(annotation) for c in _dataclasses(argument)]
    return []
