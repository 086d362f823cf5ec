"""The steps of a recipe: one file per method family, found by themselves.

A step is a frozen dataclass whose fields are its hyper-parameters; `apply` takes a model and gives back a plain model
(no wrappers, no parametrizations). To add one, add a file here with a subclass of `Step` and its test.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

from bitwright.errors import BitwrightError, unknown
from bitwright.steps.step import Step

__all__ = ["Step", "get_step", "list_steps"]


@functools.cache
def _steps() -> dict[str, type[Step]]:
    found: dict[str, type[Step]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Step) and cls is not Step and cls.__module__ == module.__name__:
                if cls.name in found:
                    raise BitwrightError(f"two steps are called {cls.name!r}: {found[cls.name]} and {cls}; rename one")
                found[cls.name] = cls
    return found


def list_steps() -> dict[str, type[Step]]:
    """Every step by its name in recipes."""
    return dict(sorted(_steps().items()))


def get_step(name: str) -> type[Step]:
    """The step called `name`; an unknown name lists the known ones."""
    if name not in _steps():
        raise unknown("step", name, _steps())
    return _steps()[name]


def __getattr__(name: str) -> type[Step]:
    """`bitwright.steps.Prune` and so on, without a list to maintain."""
    for cls in _steps().values():
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
