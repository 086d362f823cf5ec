"""What follows layers in the graph of a model's operations: a batch norm, a ReLU, or something else."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright.steps.placement import check_calls

_KEEPING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_KEEPING_FUNCTIONS: set[Any] = {F.dropout, F.dropout1d, F.dropout2d}
_RELU_FUNCTIONS: set[Any] = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}


class Behind(NamedTuple):
    """The path of the batch norm that alone reads a layer's outputs, if there is one, and whether a ReLU is next."""

    norm: str | None
    rectified: bool


def following(traced: fx.GraphModule, names: Collection[str]) -> dict[str, Behind]:
    """What is behind each layer; dropout counts for nothing. Raises BitwrightError for a layer that is called twice."""
    check_calls(traced, names)
    modules = dict(traced.named_modules())
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    shared = {name for name, nodes in calls.items() if len(nodes) > 1}
    return {name: _behind(calls[name][0], modules, shared) for name in names}


def _behind(node: fx.Node, modules: dict[str, nn.Module], shared: Collection[str]) -> Behind:
    norm: str | None = None
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, nn.ReLU) or (module is None and node.target in _RELU_FUNCTIONS):
            return Behind(norm, True)
        own = node.target not in shared  # a norm of several layers can't be changed for one
        if isinstance(module, _BatchNorm) and own and norm is None and module.running_mean is not None:
            norm = str(node.target)
        elif not isinstance(module, _KEEPING) and node.target not in _KEEPING_FUNCTIONS:
            break
    return Behind(norm, False)
