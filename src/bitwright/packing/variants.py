"""One network at several precisions in one file: what their tensors have in common is there once (FORMAT.md 2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.packing import nested
from bitwright.runtime.graph import Graph, validate

MOST_BITS = 32
Lowered = tuple[Graph, Mapping[str, np.ndarray]]
"""A network as `lower` gives it."""


@dataclass(frozen=True)
class Merged:
    """All tensors of a file by name; the graphs of fewer bits than `top`, by bits, the most first; and `cuts`.

    A cut tensor needs no record: it is (name of another, its bits, and its own bits).
    """

    tensors: dict[str, np.ndarray]
    graphs: dict[int, Graph]
    top: int
    cuts: dict[str, tuple[str, int, int]]


def check_variants(variants: Any, model: Any) -> None:
    """Raise BitwrightError unless `variants` are networks by their bits, `model` the one of the most."""
    if not isinstance(variants, Mapping):
        raise BitwrightError(f"variants are {variants!r}; expected networks by bits, {{1: one, 3: net}}", kind="value")
    for bits in variants:
        if type(bits) is not int or not 1 <= bits <= MOST_BITS:
            raise BitwrightError(f"a variant of {bits!r} bits; expected 1 to {MOST_BITS}", kind="value")
    if variants[max(variants)] is not model:
        raise BitwrightError(
            f"variants have at most {max(variants)} bits, and that one is not the model; give the model itself as the "
            "variant of the most bits",
            kind="variants",
        )


def merge(graph: Graph, tensors: Mapping[str, np.ndarray], variants: Mapping[int, Lowered]) -> Merged:
    """`graph` is the variant of the most bits. What others have that is equal is shared, what can be cut is cut out.

    Raises BitwrightError for networks with other inputs or outputs of other shapes.
    """
    merged = Merged(dict(tensors), {}, max(variants, default=0), {})
    sides = graph.inputs, _outputs(graph, tensors)
    for bits in sorted(variants, reverse=True)[1:]:
        own, numbers = variants[bits]
        if (others := (own.inputs, _outputs(own, numbers))) != sides:
            raise BitwrightError(
                f"the variant of {merged.top} bits has inputs {sides[0]} and outputs {sides[1]}, the one of {bits} "
                f"bits {others[0]} and {others[1]}; pack networks that do the same",
                kind="variants",
            )
        names = {name: _place(name, array, bits, tensors, merged) for name, array in numbers.items()}
        nodes = (replace(n, weights={role: names[name] for role, name in n.weights.items()}) for n in own.nodes)
        merged.graphs[bits] = replace(own, nodes=tuple(nodes))
    return merged


def _outputs(graph: Graph, tensors: Mapping[str, np.ndarray]) -> list[tuple[int, ...]]:
    """Their shapes for one example."""
    shapes = validate(graph, {name: array.shape for name, array in tensors.items()})
    return [shapes[output] for output in graph.outputs]


def _place(name: str, array: np.ndarray, bits: int, top: Mapping[str, np.ndarray], merged: Merged) -> str:
    """The name in the file of a tensor that is called `name` in its network, as another may be in the highest one."""
    base = top.get(name)
    if base is not None and np.array_equal(base, array):
        return name
    own = f"{name}@{bits}"
    while own in merged.tensors:
        own += "'"
    merged.tensors[own] = array
    if base is not None and array.ndim > 1 and merged.top <= nested.MOST_BITS and base.shape == array.shape:
        cut = nested.truncated(base, merged.top, bits)
        if cut is not None and np.array_equal(cut, array):
            merged.cuts[own] = name, merged.top, bits
    return own
