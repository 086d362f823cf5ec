"""The one exception that leaves bitwright."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BitwrightError(Exception):
    """Something a user can cause or mend.

    The message says what was found, what was expected, where, and what to do. `kind` is a short, stable word for
    programs (the refusals of FORMAT.md use it, e.g. "truncated"); empty where nobody needs to tell kinds apart.
    """

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


def unknown(what: str, name: object, known: Iterable[object]) -> BitwrightError:
    """The error for a name that isn't in a registry: it lists the names that are."""
    names = sorted(str(k) for k in known)
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1)
    hint = f"; did you mean {folded[close[0]]!r}?" if close else "."
    return BitwrightError(f"unknown {what} {name!r}{hint} Known: {', '.join(names) or 'none'}", kind="unknown-name")
