"""Where a network's quantisers stand: found in the graph of its operations, and put there.

A value is stored where a layer, a mean or an addition reads it, so there it is quantised, once, however many read it,
and before what only moves or selects numbers (flatten, slices, zeros around, maxima), which keeps them whole. What a
layer adds to is not stored: of the two branches of an addition, one that a layer ends and nobody else reads stays as it
is. Branches are concatenated before they are quantised, with one scale for all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright.edits import edit
from bitwright.errors import BitwrightError
from bitwright.exact import ExactMean
from bitwright.ops import Coded, Quantize, Sign, quantised_like
from bitwright.training.evaluate import eval_mode

Layer = nn.Conv2d | nn.Linear

_LAYERS = (nn.Conv2d, nn.Linear)
_MEANS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_MEAN_FUNCTIONS = {F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, torch._C._nn.avg_pool2d}
_KEEPING = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d)
_KEEPING_FUNCTIONS = {torch.flatten, F.dropout, F.dropout2d, operator.getitem}
_KEEPING_METHODS = {"flatten", "view", "reshape", "contiguous"}
_ADDITIONS: set[Any] = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass(frozen=True)
class Point:
    """A value that is to be quantised: the name of what computes it in the graph, and the layers that read it."""

    name: str
    layers: tuple[str, ...]


class _Tracer(fx.Tracer):
    """Modules without children are one operation, whatever they do inside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        childless = not isinstance(m, nn.Sequential) and not any(True for _ in m.children())
        return childless or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The model as a graph of its operations, of the very modules it has, for inference.

    Raises BitwrightError where its forward depends on the values of tensors, or has quantisers already.
    """
    for name, module in model.named_modules():
        if isinstance(module, Quantize | Sign):
            raise BitwrightError(
                f"{name!r} is a quantiser: the model is quantised already; start from the float model", kind="quantised"
            )
    tracer = _Tracer()
    try:
        with eval_mode(model):
            graph = tracer.trace(model)
    except Exception as error:  # a user's forward may raise anything
        raise BitwrightError(
            f"the operations of {type(model).__name__} can't be followed: {error}; its forward must not depend on the "
            "values or shapes of tensors, or a module that does must have no layers in it",
            kind="trace",
        ) from None
    if len(inputs := [node.name for node in graph.nodes if node.op == "placeholder"]) != 1:
        raise BitwrightError(
            f"{type(model).__name__} takes {len(inputs)} inputs ({', '.join(inputs)}), optional ones included; "
            "expected one, the image: put it into a module whose forward takes nothing else",
            kind="trace",
        )
    traced = fx.GraphModule(tracer.root, graph, type(model).__name__)
    if (shape := getattr(model, "input_shape", None)) is not None:
        traced.input_shape = shape
    return traced


def points(traced: fx.GraphModule, layers: Mapping[str, nn.Module]) -> list[Point]:
    """The values to quantise so that `layers` (path -> module), means and additions get coded ones.

    Raises BitwrightError for a layer that the graph calls twice or never.
    """
    modules = dict(traced.named_modules())
    check_calls(traced, layers)
    found: dict[fx.Node, list[str]] = {}
    for node in traced.graph.nodes:
        for value in _wanted(node, modules, layers):
            source = _source(value, modules)
            readers = found.setdefault(source, [])
            if node.op == "call_module" and node.target in layers:
                readers.append(str(node.target))
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    return [Point(node.name, tuple(found[node])) for node in sorted(found, key=order.__getitem__)]


def check_calls(traced: fx.GraphModule, layers: Iterable[str]) -> None:
    """Raise BitwrightError for a layer that the graph calls twice, or never."""
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    for name in layers:
        if (count := calls.count(name)) != 1:
            times = f"{count} times" if count else "never, or its weights are used without it"
            raise BitwrightError(
                f"layer {name!r} is called {times}; only one that is called once can be changed by itself, `ignore` it",
                kind="placement",
            )


def _wanted(node: fx.Node, modules: Mapping[str, nn.Module], layers: Mapping[str, nn.Module]) -> Iterator[fx.Node]:
    """The values that must be coded because `node` reads them."""
    if (node.op == "call_module" and node.target in layers) or _is_mean(node, modules):
        yield node.all_input_nodes[0]
    elif node.op in ("call_function", "call_method") and node.target in _ADDITIONS:
        operands = node.all_input_nodes
        free = [value for value in operands if _ends_layer(value, modules, layers)]
        yield from (value for value in operands if value is not (free[-1] if free else None))


def _is_mean(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _MEANS)
    return node.target in _MEAN_FUNCTIONS if node.op == "call_function" else node.target == "mean"


def _ends_layer(value: fx.Node, modules: Mapping[str, nn.Module], layers: Mapping[str, nn.Module]) -> bool:
    """Whether a layer, perhaps with a batch norm behind it, computes what one alone reads."""
    if value.op != "call_module" or len(value.users) > 1:
        return False
    if value.target in layers:
        return True
    return isinstance(modules[str(value.target)], _BatchNorm) and _ends_layer(value.all_input_nodes[0], modules, layers)


def _source(value: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node:
    """What computed the numbers that `value` has, moved or selected."""
    while _keeps(value, modules):
        value = value.all_input_nodes[0]
    return value


def _keeps(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return isinstance(module, _KEEPING) or (isinstance(module, nn.MaxPool2d) and module.dilation in (1, (1, 1)))
    if node.op == "call_method":
        return node.target in _KEEPING_METHODS
    if node.op != "call_function" or len(node.all_input_nodes) != 1:
        return False
    if node.target is F.pad:
        return not (node.args[3] if len(node.args) > 3 else node.kwargs.get("value"))
    if node.target in (F.max_pool2d, torch.max_pool2d):
        return node.kwargs.get("dilation", 1) in (1, (1, 1)) and len(node.args) < 5
    return node.target in _KEEPING_FUNCTIONS


@edit("quantised-graph")
def quantised_graph(
    model: nn.Module, *, points: Mapping[str, Sequence[int]], layers: Mapping[str, str], accumulator: int = 0
) -> nn.Module:
    """The graph of the model with a `Quantize` behind each of `points`, name -> (qmin, qmax), at quantisers.NAME.

    The scales are 1: the caller sets them. `layers`, path -> point, become quantised layers of what their point has
    coded, which promise an accumulator of so many bits, means `ExactMean`. Raises BitwrightError for a point that the
    graph doesn't have: it is of another model.
    """
    traced = trace(model)
    modules = dict(traced.named_modules())
    nodes = {node.name: node for node in traced.graph.nodes}
    if missing := [name for name in points if name not in nodes]:
        raise BitwrightError(f"the graph of {type(model).__name__} has no {missing[0]!r}; is it another architecture?")
    made = nn.ModuleDict({name: Quantize(1.0, 0, limits[0], limits[1]) for name, limits in points.items()})
    traced.add_submodule("quantisers", made)
    for node in [node for node in traced.graph.nodes if _is_mean(node, modules)]:
        _exact_mean(traced, node, modules)
    for name in points:
        _insert(traced, nodes[name])
    for path, name in layers.items():
        layer = quantised_like(modules[path], Coded(made, name))
        layer.accumulator = accumulator
        traced.set_submodule(path, layer)
    traced.graph.lint()
    traced.recompile()
    return traced.to(next(model.parameters()).device)


def _insert(traced: fx.GraphModule, node: fx.Node) -> None:
    """Put the quantiser behind a node, for all who read it but the caller."""
    with traced.graph.inserting_after(node):
        new = traced.graph.call_module(f"quantisers.{node.name}", (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new and user.op != "output")


def _exact_mean(traced: fx.GraphModule, node: fx.Node, modules: Mapping[str, nn.Module]) -> None:
    if node.op == "call_module":
        traced.set_submodule(str(node.target), ExactMean(modules[str(node.target)]))
        return
    mean: Callable[..., Any] = torch.mean if node.op == "call_method" else node.target  # type: ignore[assignment]
    traced.add_submodule(f"means.{node.name}", ExactMean(partial(_mean, mean, node.args[1:], dict(node.kwargs))))
    node.op, node.target, node.args, node.kwargs = "call_module", f"means.{node.name}", node.args[:1], {}


def _mean(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], x: torch.Tensor) -> Any:
    return function(x, *args, **kwargs)
