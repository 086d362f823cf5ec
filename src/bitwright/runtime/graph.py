"""The engine graph: what a packed model computes, free of torch.

A graph is a list of nodes over numbered values. Values 0 .. len(inputs)-1 are the inputs, node i makes value
len(inputs)+i. Every value has a batch axis first, which no shape here mentions. Shapes are logical NCHW (channels,
height, width) or (features,); how an engine lays them out in memory is its own business.

FORMAT.md, section 7, has the table of operations; `runtime/shapes.py` checks its rules, one function per operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bitwright.runtime.shapes import MAX_ELEMENTS, validate

__all__ = ["MAX_ELEMENTS", "Graph", "Node", "validate"]


@dataclass(frozen=True)
class Node:
    """One operation.

    `weights` maps a role of the operation to the name of a tensor; `name` is the path of the torch module that it
    came from.
    """

    op: str
    inputs: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    name: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The attributes that its operation computes with: all but the promise about its sums."""
        return {key: value for key, value in self.attributes.items() if key != "accumulator"}


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each one's inputs come before it. `inputs` are shapes without the batch axis."""

    inputs: tuple[tuple[int, ...], ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    def pixel_inputs(self) -> frozenset[int]:
        """The inputs that may be uint8: those that only `normalize` reads."""
        normalized = {i for node in self.nodes if node.op == "normalize" for i in node.inputs}
        plain = {i for node in self.nodes if node.op != "normalize" for i in node.inputs} | set(self.outputs)
        return frozenset(normalized - plain)
