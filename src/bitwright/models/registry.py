"""The names of the models: one file per family beside this one, found by themselves."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from bitwright.errors import BitwrightError, unknown

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_models: dict[str, Callable[..., nn.Module]] = {}


def register_model(factory: Factory) -> Factory:
    """Register a function that builds a model under its own name, with - for _; a duplicate is an error."""
    name = factory.__name__.replace("_", "-")
    if name in _models:
        raise BitwrightError(f"two models are called {name!r}: {_models[name]} and {factory}; rename one")
    _models[name] = factory
    return factory


def models() -> dict[str, Callable[..., nn.Module]]:
    """Every registered model by name."""
    _discover()
    return dict(sorted(_models.items()))


@functools.cache
def _discover() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"bitwright.models.{module.name}")


def build(name: str, options: dict[str, Any]) -> nn.Module:
    """The model called `name`, or made by "package.module:factory"."""
    if not isinstance(name, str):
        raise BitwrightError(
            f"model name is a {type(name).__name__}; expected text, e.g. 'lenet-5' or 'package.module:factory'"
        )
    factory = _imported(name) if ":" in name else models().get(name)
    if factory is None:
        raise unknown("model", name, _models)
    _check_options(name, factory, options)
    model = factory(**options)
    if not isinstance(model, nn.Module):
        raise BitwrightError(f"model {name!r} gave a {type(model).__name__}; expected a torch.nn.Module")
    return model


def options_of(name: str) -> set[str]:
    """The names of the options that the factory `name` takes; empty where it can't be found or asked."""
    try:
        factory = _imported(name) if ":" in name else models()[name]
        return set(inspect.signature(factory).parameters)
    except (BitwrightError, KeyError, TypeError, ValueError):  # `build` explains them
        return set()


def _imported(name: str) -> Callable[..., Any]:
    """The object that "package.module:factory" names."""
    path, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(path)
    except (ImportError, ValueError) as error:
        raise BitwrightError(
            f"model {name!r}: can't import module {path!r} ({error}); expected package.module:factory, with the "
            f"module on PYTHONPATH"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        callables = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise unknown(f"factory in {path!r}", attribute, callables)
    return factory


def _check_options(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    """Refuse options that the factory doesn't take, with the list of those it takes."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a builtin: let it speak for itself
        return
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for option in options:
        if option not in signature.parameters and not takes_any:
            raise unknown(f"option of model {name!r}", option, signature.parameters)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise BitwrightError(f"model {name!r}: {error}; its options are {signature}") from None
