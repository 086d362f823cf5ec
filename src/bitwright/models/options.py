"""Checks of the options that models take, and the modules that their words stand for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from bitwright.errors import BitwrightError, unknown

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "hardtanh": nn.Hardtanh,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hard-swish": nn.Hardswish,
    "identity": nn.Identity,
}


def new_activation(name: str) -> nn.Module:
    """A module that computes the activation `name`. In front of signs: hardtanh or identity, sign(relu(x)) is +1."""
    return _ACTIVATIONS[choice("activation", name, _ACTIVATIONS)]()


def choice(option: str, value: str, known: Iterable[str]) -> str:
    """`value` if it is one of `known`."""
    if value not in (words := list(known)):
        raise unknown(option, value, words)
    return value


def yes_or_no(model: str, option: str, value: object) -> bool:
    """`value` if it is true or false."""
    if not isinstance(value, bool):
        raise BitwrightError(f"model {model!r}: {option} is {value!r}; expected true or false")
    return value


def whole(model: str, option: str, value: object, least: int = 1) -> int:
    """`value` if it is a whole number >= `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BitwrightError(f"model {model!r}: {option} is {value!r}; expected a whole number >= {least}")
    return value


def widths(model: str, option: str, value: object) -> list[int]:
    """`value` if it is a list of layer widths; an empty one too."""
    if not isinstance(value, (list, tuple)):
        raise BitwrightError(
            f"model {model!r}: {option} is {value!r}; expected a list of layer widths, e.g. [300, 100]"
        )
    return [whole(model, option, units) for units in value]


def image_shape(model: str, shape: Sequence[int], least: int = 1) -> tuple[int, int, int]:
    """`shape` as (channels, height, width), with height and width >= `least`, the smallest that the net can take."""
    try:
        channels, height, width = (whole(model, "input_shape", n) for n in shape)
    except (TypeError, ValueError):
        raise BitwrightError(f"model {model!r}: input_shape is {shape!r}; expected (channels, height, width)") from None
    if min(height, width) < least:
        raise BitwrightError(
            f"model {model!r}: input_shape {(channels, height, width)} is too small; the smallest that works is "
            f"({channels}, {least}, {least})"
        )
    return channels, height, width


def smallest(size: Callable[[int], int], left: int = 1) -> int:
    """The smallest number of rows of which `size` leaves at least so many."""
    return next(rows for rows in itertools.count(1) if size(rows) >= left)


def probability(model: str, option: str, value: object) -> float:
    """`value` if it is a number with 0 <= value < 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise BitwrightError(f"model {model!r}: {option} is {value!r}; expected a number in [0, 1)")
    return float(value)


def probabilities(model: str, value: object, places: Sequence[str]) -> tuple[float, ...]:
    """A dropout option as one probability for each of `places`, of which the first may be left out.

    A number is meant for every place but the first (the input); a list gives one for each, with the first or without.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (0.0, *(probability(model, "dropout", value) for _ in places[1:]))
    if len(value) not in (len(places), len(places) - 1):
        raise BitwrightError(
            f"model {model!r}: dropout is {list(value)!r}; expected a number, or one for each of: {', '.join(places)} "
            f"(the first may be left out)"
        )
    given = tuple(probability(model, "dropout", p) for p in value)
    return given if len(given) == len(places) else (0.0, *given)
