"""Dead neurons: those that nothing reads, and those that always say the same (Han et al. 2015, section 3.5).

For a neuron (or channel) c between layer A and the next one B, with nothing in between that mixes channels:

    all weights out of c are zero   nothing reads it: its incoming weights and its bias become zero
    all weights into c are zero     it always says k_c = f(b_c), f = what lies between A and B: B's bias takes over
                                    sum W_B[:, c] k_c, the weights out of c and the bias of c become zero

The network computes what it computed before, up to float32 rounding of B's bias; shapes stay, so nothing has to be
rewired, and zeros cost next to nothing in the packed file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.runtime.graph import Graph, Node

_SEPARATE = frozenset({"relu", "affine", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean", "flatten", "pad"})
"""Operations that keep channels apart; after `flatten` a channel is a run of features."""


@dataclass(frozen=True)
class _Pair:
    """Layer `first`, the operations `between`, and the only layer `second` that reads the result."""

    first: Node
    between: tuple[Node, ...]
    second: Node

    @property
    def bordered(self) -> bool:
        """Whether zeros are put around a map before `second` multiplies it: then a constant isn't one at the border."""
        padded = [n for n in (*self.between, self.second) if any(n.attributes.get("padding", ()))]
        return any(n.op != "max_pool2d" for n in padded) or any(n.op == "pad" for n in self.between)


@torch.no_grad()
def remove_dead_neurons(model: nn.Module, graph: Graph, tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Zero what is dead, in place; gives the number of dead neurons per layer path.

    `graph` and `tensors` are what `packing.lower` makes of the model; `model` must be plain. A layer that is used
    twice, feeds more than one other, or feeds an addition (a residual branch) is left alone.
    """
    pairs = _pairs(graph)
    dead: dict[str, set[int]] = {pair.first.name: set() for pair in pairs}
    for _ in range(len(pairs) + 1):  # a death may spread one layer further each time
        changed = False
        for pair in pairs:
            found = _bury(model, pair, tensors)
            changed |= bool(found)
            dead[pair.first.name] |= found
        if not changed:
            break
    return {name: len(channels) for name, channels in dead.items()}


def _pairs(graph: Graph) -> list[_Pair]:
    readers: dict[int, list[tuple[int, Node]]] = {}
    for i, node in enumerate(graph.nodes):
        for value in node.inputs:
            readers.setdefault(value, []).append((len(graph.inputs) + i, node))
    uses = Counter(node.weights["weight"] for node in graph.nodes if "weight" in node.weights)
    pairs = []
    for i, node in enumerate(graph.nodes):
        if node.op not in ("conv2d", "linear") or uses[node.weights["weight"]] > 1:
            continue
        value = len(graph.inputs) + i
        between: list[Node] = []
        while value not in graph.outputs and len(readers.get(value, ())) == 1:
            value, reader = readers[value][0]
            if reader.op in ("conv2d", "linear"):
                if reader.attributes.get("groups", 1) == 1 and uses[reader.weights["weight"]] == 1:
                    pairs.append(_Pair(node, tuple(between), reader))
                break
            if reader.op not in _SEPARATE or (reader.op == "mean" and 0 in reader.attributes["axes"]):
                break
            between.append(reader)
    return pairs


def _bury(model: nn.Module, pair: _Pair, tensors: Mapping[str, np.ndarray]) -> set[int]:
    """One pass over the neurons between two layers; gives those that it changed."""
    first, second = _layer(model, pair.first), _layer(model, pair.second)
    if first is None or second is None or second.weight.shape[1] % len(first.weight):
        return set()
    count = len(first.weight)
    outgoing = second.weight.view(len(second.weight), count, -1)  # (out, neuron, features of it x kernel)
    unread = ~(outgoing != 0).any(2).any(0)
    silent = ~(first.weight.flatten(1) != 0).any(1) & ~unread
    bias = first.bias if first.bias is not None else first.weight.new_zeros(count)
    constant = _through(bias, pair, tensors)
    if pair.bordered or second.bias is None:
        silent &= constant == 0
    changed = silent | (unread & ((first.weight.flatten(1) != 0).any(1) | (bias != 0)))
    if second.bias is not None:
        weights, constants = outgoing[:, silent].double().sum(2), constant[silent].double()
        second.bias.copy_((second.bias.double() + weights @ constants).float())
    outgoing[:, silent] = 0
    first.weight[unread] = 0
    if first.bias is not None:
        first.bias[unread | silent] = 0
    return set(changed.nonzero().flatten().tolist())


def _layer(model: nn.Module, node: Node) -> nn.Linear | nn.Conv2d | None:
    """The module behind a node, unless its tensors aren't simply its parameters."""
    path = node.weights["weight"].removesuffix(".weight")
    module = dict(model.named_modules()).get(path)
    return module if isinstance(module, nn.Linear | nn.Conv2d) else None


def _through(bias: Tensor, pair: _Pair, tensors: Mapping[str, np.ndarray]) -> Tensor:
    """What each neuron of the first layer says if it only has its bias, as the second layer reads it."""
    value = bias.detach().clone()
    for node in pair.between:
        if node.op == "relu":
            value = value.clamp(min=0)
        elif node.op == "affine":
            scale, shift = (torch.as_tensor(tensors[node.weights[role]]).to(value) for role in ("scale", "shift"))
            value = value * scale + shift
    return value
