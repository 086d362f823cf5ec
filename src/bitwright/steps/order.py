"""The order of layers that binary networks need: a norm behind each sum of signs, and none but +1 behind a ReLU."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from bitwright.errors import BitwrightError
from bitwright.packing.lower import lower
from bitwright.runtime.graph import Graph, Node

if TYPE_CHECKING:
    from bitwright.data.dataset import Dataset

_POOLS = frozenset(
    {"max_pool2d", "adaptive_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean", "flatten", "pad", "slice"}
)
"""Operations that change neither the scale of numbers nor that all are at least zero."""
_JOINTS = frozenset({*_POOLS, "add", "concat"})
_NORMS = ("affine", "group_norm")


def warn_of_order(model: nn.Module, binary: Collection[str], data: Dataset) -> None:
    """Warn of what `complaints` finds in the graph that `model` is for images of `data`; `binary` are layer paths.

    A network that can't be exported isn't looked at: packing it says why.
    """
    try:
        graph, _ = lower(model, (torch.zeros(1, *data.shape),), data.preprocess)
    except BitwrightError:
        return
    for complaint in complaints(graph, binary):
        warnings.warn(complaint, stacklevel=3)


def complaints(graph: Graph, binary: Collection[str]) -> Iterator[str]:
    """What is wrong with the places of binary layers and of signs, in words.

    * the sums of a binary layer reach a nonlinearity, another layer or the output without a norm: they are as large as
      the root of the fan-in
    * a sign is taken behind a ReLU: all are +1
    * a sign is taken of another layer's sums, which no norm has centred
    """
    for i, node in enumerate(graph.nodes):
        if node.name in binary and node.op in ("conv2d", "linear") and not _normed(graph, len(graph.inputs) + i):
            yield (
                f"binary layer {node.name!r} has no norm behind it, and sums of signs grow with the fan-in: put a "
                "batch norm there (in the models, norm: batch and norm_output: true), or leave it out with `ignore`"
            )
        if node.op == "sign":
            source, layer = _source(graph, node.inputs[0]), node.name.removesuffix(".input")
            if source is not None and source.op == "relu":
                yield (
                    f"layer {layer!r} takes signs behind a ReLU, so all of them are +1: put hardtanh or nothing in the "
                    "place of the ReLU (in the models, activation: hardtanh or identity)"
                )
            elif source is not None and source.op in ("conv2d", "linear"):
                yield (
                    f"layer {layer!r} takes signs of the sums of {source.name!r}, which no norm has centred: put a "
                    "batch norm between them (in the models, norm: batch)"
                )


def _normed(graph: Graph, value: int) -> bool:
    """Whether all that reads a value, behind pooling, additions and concatenations too, is a norm."""
    readers = [(len(graph.inputs) + i, node) for i, node in enumerate(graph.nodes) if value in node.inputs]
    return value not in graph.outputs and all(
        node.op in _NORMS or (node.op in _JOINTS and _normed(graph, result)) for result, node in readers
    )


def _source(graph: Graph, value: int) -> Node | None:
    """What made a value, before pooling; None for an input."""
    while value >= len(graph.inputs):
        node = graph.nodes[value - len(graph.inputs)]
        if node.op not in _POOLS:
            return node
        value = node.inputs[0]
    return None
