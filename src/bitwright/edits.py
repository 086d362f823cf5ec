"""Structural changes of a model, recorded so that they can be made again on a newly built one.

A step that changes more than values (a layer with a sign in front of it, factors instead of a matrix) replaces
modules by `replace`, one at a time, and the model remembers how. A checkpoint keeps that list beside the weights;
`replay` makes the same changes on the model that the recipe's constructor built, which then has the right tensors.

    @edit("quantised")
    def quantised(old: nn.Module, *, kind: str) -> nn.Module: ...

    replace(model, "layer1.0.conv1", "quantised", kind="sign")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError, unknown

if TYPE_CHECKING:
    from torch import nn

Edit = dict[str, Any]
"""{"path": of a module, "" for the model, "edit": name of what replaces it, and the options}: plain JSON."""

_MAKERS: dict[str, Callable[..., nn.Module]] = {}


def edit(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register what makes a module from the one it replaces: (old, **options) -> new. Options are plain JSON."""

    def register(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in _MAKERS:
            raise BitwrightError(f"two edits are called {name!r}: {_MAKERS[name]} and {make}; rename one")
        _MAKERS[name] = make
        return make

    return register


def replace(model: nn.Module, path: str, name: str, **options: Any) -> nn.Module:
    """Put the module that edit `name` makes in the place of the one at `path`, and record it in the model.

    The new module is in the mode of the old one. The path "" means the model itself: go on with the result, `model` is
    used up. Raises BitwrightError for a path or an edit that doesn't exist.
    """
    if name not in _MAKERS:
        import bitwright.steps  # steps bring their own edits

        bitwright.steps.list_steps()
        if name not in _MAKERS:
            raise unknown("edit", name, _MAKERS)
    try:
        old = model.get_submodule(path)
    except AttributeError:
        raise BitwrightError(
            f"edit {name!r}: {type(model).__name__} has no module {path!r}; the checkpoint is of another architecture",
            kind="edit",
        ) from None
    try:
        new = _MAKERS[name](old, **options).train(old.training)
    except BitwrightError as error:
        raise BitwrightError(f"layer {path!r}: {error}" if path else str(error), kind=error.kind) from None
    done = [*edits_of(model), {"path": path, "edit": name, **options}]
    if path:
        model.set_submodule(path, new)
    (model if path else new).__dict__["bitwright_edits"] = done
    return new


def edits_of(model: nn.Module) -> list[Edit]:
    """The changes that were made by `replace`, in their order."""
    return list(model.__dict__.get("bitwright_edits", []))


def replay(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """Make recorded changes on a model as its constructor built it, and give the model with them."""
    for change in edits:
        options = {k: v for k, v in change.items() if k not in ("path", "edit")}
        new = replace(model, change["path"], change["edit"], **options)
        model = model if change["path"] else new
    return model


def to_json(model: nn.Module) -> str:
    """The model's edits as text for a checkpoint."""
    return json.dumps(edits_of(model))


def from_json(text: str) -> list[Edit]:
    """What `to_json` wrote. Raises BitwrightError for anything else."""
    try:
        edits = json.loads(text)
        if all(isinstance(e["path"], str) and isinstance(e["edit"], str) for e in edits):
            return list(edits)
    except (ValueError, TypeError, KeyError):
        pass
    raise BitwrightError(f"the checkpoint's edits are {text[:80]!r}; expected a JSON list of edits", kind="checkpoint")
