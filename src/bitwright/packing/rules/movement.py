"""What leaves numbers as they are: shapes, types, borders, slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bitwright.packing.rules import remedy
from bitwright.packing.rules.rule import Arguments, axis_of, rule, shape_of

if TYPE_CHECKING:
    from bitwright.packing.lower import Constant, Lowering


@rule(
    "aten.clone.default",
    "aten.detach.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.dropout.default",
    "aten.lift_fresh_copy.default",
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
    "aten.unflatten.int",
)
def same_elements(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """Nothing to do: the elements stay in their order. Whoever reads the result sees to its shape."""
    if arguments.get("train"):
        lowering.fail(node, remedy(str(node.target)))
    return lowering.known(node.args[0])


@rule("aten.expand.default")
def expand(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """Nothing to do for a constant: operations broadcast."""
    if not lowering.is_constant(node.args[0]) and shape_of(node) != shape_of(node.args[0]):
        lowering.fail(node, "it repeats an activation; leave that to what reads it, such as x * scale")
    return lowering.known(node.args[0])


@rule("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device")
def convert(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """float32 to float32 is nothing."""
    if node.meta["val"].dtype != torch.float32:
        lowering.fail(node, f"it converts to {node.meta['val'].dtype}; the engine computes in float32")
    return lowering.known(node.args[0])


@rule("<built-in function getitem>")
def item(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """The first of several results."""
    if node.args[1] != 0:
        lowering.fail(node, f"only its first result is known, and {node.args[1]} was asked for")
    return lowering.known(node.args[0])


@rule("aten.pad.default", "aten.constant_pad_nd.default")
def pad(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Constant padding; ATen lists pairs from the last axis backwards."""
    if arguments.get("mode", "constant") != "constant":
        more = "use padding_mode='zeros' or F.pad with a value, or pad before the packed model"
        lowering.fail(node, f"padding mode {arguments['mode']!r} is not known, only constant padding is: {more}")
    x = lowering.value(node, arguments["self"])
    rank = len(lowering.shape(x))
    amounts = [int(n) for n in arguments["pad"]] + [0] * (2 * rank + 2 - len(arguments["pad"]))
    if min(amounts) < 0 or any(amounts[2 * rank :]):
        lowering.fail(node, f"pad={list(arguments['pad'])} cuts or reaches the batch axis; use a slice to cut")
    before, after = amounts[: 2 * rank : 2][::-1], amounts[1 : 2 * rank : 2][::-1]
    return emit_pad(lowering, node, x, before, after, float(arguments["value"] or 0.0))


def emit_pad(lowering: Lowering, node: Any, x: int, before: list[int], after: list[int], value: float) -> int:
    shape = tuple(b + n + a for b, n, a in zip(before, lowering.shape(x), after, strict=True))
    return lowering.emit(node, "pad", (x,), shape, {"before": before, "after": after, "value": value})


@rule("aten.slice.Tensor")
def slice_axis(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """x[start:stop:step] along one axis; the whole of it is nothing."""
    source, shape = arguments["self"], shape_of(node)
    if node.meta["val"].shape == source.meta["val"].shape and arguments["step"] == 1:
        return lowering.known(source)
    x = lowering.value(node, source)
    axis = axis_of(node, source, arguments["dim"])
    size = lowering.shape(x)[axis - 1]
    start, stop, step = slice(arguments["start"], arguments["end"], arguments["step"]).indices(size)
    attributes = {"axis": axis - 1, "start": start, "stop": stop, "step": step}
    return lowering.emit(node, "slice", (x,), shape, attributes)


@rule("aten.cat.default")
def concat(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Activations one behind the other along an axis other than the batch."""
    tensors = arguments["tensors"]
    if len(tensors) == 1:
        return lowering.value(node, tensors[0])
    axis = axis_of(node, tensors[0], arguments["dim"])
    inputs = tuple(lowering.value(node, tensor) for tensor in tensors)
    return lowering.emit(node, "concat", inputs, shape_of(node), {"axis": axis - 1})
