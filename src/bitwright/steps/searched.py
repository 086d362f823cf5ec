"""Bits per layer found by a search, as plain values that a run keeps and its report draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitwright.measure.bit_costs import FLOAT_BITS, traffic_ratio
from bitwright.steps.bit_search import (
    BitSearch,
    Config,
    Knob,
    Limits,
    Search,
    Space,
    Tried,
    greedy,
    scan,
    sensitive,
    value_bits,
)

Answer = dict[str, Any]


def search_bits(space: Space, settings: BitSearch, limits: Limits) -> dict[str, Any]:
    """What the search found, as JSON; `configuration` reads the answer back.

    method, baseline (accuracy in percent), evaluations (of the network), values and weights (how many numbers each),
    answers (one for each tolerance: accuracy in percent, traffic and weights as shares of float32's bits, bits by value
    and by layer), answer (that of the tolerance asked for), tried (accuracy, traffic, weights of every configuration),
    scan (by value and layer: bits and accuracy), or null.
    """
    search = (greedy if settings.method == "greedy" else sensitive)(space, limits)
    evaluations = search.evaluations
    complete = max(len(tried.config) for tried in search.tried.values())
    tried = [[t.accuracy, *_shares(space, t.config)] for t in search.tried.values() if len(t.config) == complete]
    answers = [{"tolerance": t, **_answer(search, search.answer(t))} for t in _reached(search, limits.tolerances)]
    curves = scan(search, limits.most(space)) if settings.scan else None
    return {
        "method": settings.method,
        "tolerance": settings.tolerance,
        "baseline": search.baseline,
        "evaluations": evaluations,
        "values": dict(space.values),
        "weights": dict(space.weights),
        "answers": answers,
        "answer": _answer(search, search.answer(settings.tolerance)),
        "tried": tried,
        "scan": curves and {f"{knob.kind} {knob.name}": points for knob, points in curves.items()},
    }


def configuration(answer: Answer) -> Config:
    """The configuration of an answer."""
    config: Config = {Knob("weight", name): bits for name, bits in answer["weight_bits"].items()}
    for name, bits in answer["value_bits"].items():
        if isinstance(bits, int):
            config[Knob("data", name)] = bits
        else:
            config[Knob("integer", name)], config[Knob("fraction", name)] = bits
    return config


def _reached(search: Search, tolerances: Sequence[float]) -> list[float]:
    """Those for which there is an answer: greater ones, where a small one has none."""
    complete = max(len(tried.config) for tried in search.tried.values())
    best = max(tried.accuracy for tried in search.tried.values() if len(tried.config) == complete)
    return [t for t in tolerances if best >= (1 - t / 100) * search.baseline]


def _answer(search: Search, config: Config) -> Answer:
    tried: Tried = search.tried[tuple(sorted(config.items()))]
    traffic, weights = _shares(search.space, config)
    values: dict[str, int | list[int]] = {}
    for name in search.space.values:
        pair = [config.get(Knob(kind, name)) for kind in ("integer", "fraction")]
        values[name] = [b for b in pair if b is not None] if None not in pair else value_bits(config, name)
    return {
        "accuracy": tried.accuracy,
        "traffic": traffic,
        "weights": weights,
        "value_bits": values,
        "weight_bits": {name: config[Knob("weight", name)] for name in search.space.weights},
    }


def _shares(space: Space, config: Config) -> tuple[float, float]:
    """Of float32's bits: what values take, and what weights take. A single layer has no values but its image."""
    values = [value_bits(config, name) for name in space.values]
    weights = [config.get(Knob("weight", name), FLOAT_BITS) for name in space.weights]
    traffic = traffic_ratio(list(space.values.values()), values) if values else 0.0
    return traffic, traffic_ratio(list(space.weights.values()), weights)
