"""The patterns that name layers of a model, in steps, rates and weights alike."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bitwright.errors import BitwrightError

if TYPE_CHECKING:
    from torch import nn


def matching(pattern: str, layers: Mapping[str, nn.Module]) -> set[str]:
    """The paths of `layers` that a pattern means: a shell pattern over paths ("features.*"), a type name ("Linear"),
    "re:" and a regular expression, or "first" and "last" in the model's order."""
    if pattern in ("first", "last") and pattern not in layers:
        return set(list(layers)[:1] if pattern == "first" else list(layers)[-1:])
    if pattern.startswith("re:"):
        try:
            return {name for name in layers if re.search(pattern[3:], name)}
        except re.error as error:
            raise BitwrightError(
                f"layer pattern {pattern!r} is no regular expression: {error}", kind="no-match"
            ) from None
    return {n for n, m in layers.items() if fnmatch.fnmatchcase(n, pattern) or type(m).__name__ == pattern}


def with_parameters(model: nn.Module) -> dict[str, nn.Module]:
    """path -> module for the layers and norms of a model: the modules that have parameters of their own."""
    return {n: m for n, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None}
