"""The order of layers that few-bit networks need: signs that differ, norms behind sums, shortcuts over signs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.packing.lower import lower
from bitwright.runtime.graph import Graph, Node
from bitwright.steps.activations import input_ranges

if TYPE_CHECKING:
    from bitwright.data.dataset import Dataset

_POOLS = frozenset(
    {"max_pool2d", "adaptive_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean", "flatten", "pad", "slice"}
)
"""Operations that don't change the scale of numbers."""
_JOINTS = frozenset({*_POOLS, "add", "concat", "mul"})
"""What a norm may be behind: also two values that meet, and the product with XNOR-Net's map K."""
_NORMS = ("affine", "group_norm")


def check_signs(model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> None:
    """Raise BitwrightError, naming the layer, where the sign of an input would be the same for all of these images."""
    for name, numbers in input_ranges(model, layers, images).items():
        if numbers.low >= 0 or numbers.high < 0:
            behind = " (a ReLU in front of it?)" if numbers.low == 0 else ""
            raise BitwrightError(
                f"layer {name!r}: its input is from {numbers.low:g} to {numbers.high:g}{behind}, so all of its signs "
                "are equal; put a batch norm in front of it and no activation: in the models, block: bireal, or "
                "react, or pre-activation and activation: identity",
                kind="constant-sign",
            )


def warn_of_order(model: nn.Module, layers: Collection[str], data: Dataset, shortcuts: bool = False) -> None:
    """Warn of what `complaints` finds in the graph that `model` is for images of `data`; `layers` are paths.

    A network that can't be exported isn't looked at: packing it says why.
    """
    try:
        graph, _ = lower(model, (torch.zeros(1, *data.shape),), data.preprocess)
    except BitwrightError:
        return
    for complaint in complaints(graph, layers, shortcuts):
        warnings.warn(complaint, stacklevel=3)


def complaints(graph: Graph, layers: Collection[str], shortcuts: bool = False) -> Iterator[str]:
    """What is wrong with the places of quantised layers and of signs, in words.

    * the sums of a layer reach a nonlinearity, another layer or the output without a norm: they are as large as the
      root of the fan-in
    * a sign is taken of another layer's sums, which no norm has centred
    * with `shortcuts`: the sums of a layer are added to nothing that went past it
    """
    numbered = [(len(graph.inputs) + i, node) for i, node in enumerate(graph.nodes)]
    sums = [(value, node.name) for value, node in numbered if node.name in layers and node.op in ("conv2d", "linear")]
    for name in (name for value, name in sums if not _normed(graph, value)):
        yield (
            f"layer {name!r} has no norm behind it, and its sums grow with the fan-in: put a batch norm there (in the "
            "models, norm: batch and norm_output: true), or leave it out with `ignore`"
        )
    for node in (node for node in graph.nodes if node.op == "sign"):
        source, layer = _source(graph, node.inputs[0]), node.name.removesuffix(".input")
        if source is not None and source.op in ("conv2d", "linear"):
            yield (
                f"layer {layer!r} takes signs of the sums of {source.name!r}, which no norm has centred: put a batch "
                "norm between them (in the models, norm: batch)"
            )
    bare = [name for value, name in sums if not _added(graph, value)]
    if shortcuts and bare:
        yield (
            f"no shortcut goes past {', '.join(map(repr, bare))}, so only signs reach the next layer: take a network "
            "with one over every binary layer (in the models, block: bireal or react)"
        )


def _normed(graph: Graph, value: int) -> bool:
    """Whether all that reads a value, behind joints too, is a norm."""
    return value not in graph.outputs and all(
        node.op in _NORMS or (node.op in _JOINTS and _normed(graph, result)) for result, node in _readers(graph, value)
    )


def _added(graph: Graph, value: int) -> bool:
    """Whether a value, behind norms and pooling too, is added to another, or kept beside it."""
    return any(
        node.op in ("add", "concat") or (node.op in (*_NORMS, *_JOINTS) and _added(graph, result))
        for result, node in _readers(graph, value)
    )


def _readers(graph: Graph, value: int) -> list[tuple[int, Node]]:
    """What reads a value: the numbers of the results, and the nodes."""
    return [(len(graph.inputs) + i, node) for i, node in enumerate(graph.nodes) if value in node.inputs]


def _source(graph: Graph, value: int) -> Node | None:
    """What made a value, before pooling and activations that keep signs; None for an input."""
    while value >= len(graph.inputs):
        node = graph.nodes[value - len(graph.inputs)]
        if node.op not in (*_POOLS, "clamp", "prelu"):
            return node
        value = node.inputs[0]
    return None
