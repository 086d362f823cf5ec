"""The engine graph: what a packed model computes, free of torch.

A graph is a list of nodes over numbered values. Values 0 .. len(inputs)-1 are the inputs, node i makes value
len(inputs)+i. Every value has a batch axis first, which no shape here mentions. Shapes are logical NCHW (channels,
height, width) or (features,); how an engine lays them out in memory is its own business.

| op                  | inputs | weights          | attributes                                                    |
|---------------------|--------|------------------|---------------------------------------------------------------|
| normalize           | 1      | scale, shift [C] | - ; a graph input: uint8 (divided by 255 first) or 0..1       |
| conv2d              | 1      | weight[, bias]   | stride [2], padding [2], dilation [2], groups                 |
| linear              | 1      | weight[, bias]   | - ; one feature axis                                          |
| affine              | 1      | scale, shift [C] | - ; batch norm at inference                                   |
| relu                | 1      | -                | -                                                             |
| max_pool2d          | 1      | -                | kernel [2], stride [2], padding [2], dilation [2], ceil       |
| avg_pool2d          | 1      | -                | kernel [2], stride [2], padding [2], ceil, count_include_pad  |
| adaptive_avg_pool2d | 1      | -                | size [2]                                                      |
| add                 | 2      | -                | - ; equal shapes                                              |
| flatten             | 1      | -                | - ; everything but the batch axis, in NCHW order              |
| pad                 | 1      | -                | before [rank], after [rank], value                            |
| slice               | 1      | -                | axis, start, stop, step (axis 0 is the first after the batch) |
| mean                | 1      | -                | axes [..], keepdim                                            |
| softmax             | 1      | -                | axis                                                          |

Every attribute of an op is required, none other is allowed. Channels are the first axis after the batch. An input has
one to three axes; a `mean` without `keepdim` may leave none. `runtime/shapes.py` has the exact rules, one function
per operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bitwright.runtime.shapes import MAX_ELEMENTS, validate

__all__ = ["MAX_ELEMENTS", "Graph", "Node", "validate"]


@dataclass(frozen=True)
class Node:
    """One operation.

    `weights` maps a role of the table above to the name of a tensor; `name` is the path of the torch module that it
    came from.
    """

    op: str
    inputs: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    name: str = ""


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
