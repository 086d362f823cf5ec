"""Pooling, means and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitwright.packing.rules.rule import Arguments, axis_of, exported_shape, rule, shape_of, two

if TYPE_CHECKING:
    from bitwright.packing.lower import Lowering


@rule("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default")
def max_pool2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Max pooling."""
    attributes = {**_window(arguments), "dilation": two(arguments["dilation"]), "ceil": arguments["ceil_mode"]}
    return lowering.emit(node, "max_pool2d", (lowering.value(node, arguments["self"]),), shape_of(node), attributes)


@rule("aten.avg_pool2d.default")
def avg_pool2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Average pooling."""
    if arguments["divisor_override"] is not None:
        lowering.fail(node, "divisor_override is not known; leave it out")
    attributes = {
        **_window(arguments),
        "ceil": arguments["ceil_mode"],
        "count_include_pad": arguments["count_include_pad"],
    }
    return lowering.emit(node, "avg_pool2d", (lowering.value(node, arguments["self"]),), shape_of(node), attributes)


def _window(arguments: Arguments) -> dict[str, list[int]]:
    kernel = two(arguments["kernel_size"])
    stride = two(arguments["stride"]) if arguments["stride"] else kernel
    return {"kernel": kernel, "stride": stride, "padding": two(arguments["padding"])}


@rule("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default", "aten.adaptive_max_pool2d.default")
def adaptive_pool2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Pooling to a given size."""
    shape, op = shape_of(node), "adaptive_max_pool2d" if "max" in str(node.target) else "adaptive_avg_pool2d"
    return lowering.emit(node, op, (lowering.value(node, arguments["self"]),), shape, {"size": list(shape[1:])})


@rule("aten.amax.default", "aten.max.dim")
def maxout(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """The largest of neighbouring channels, which a reshape has split: (N, C, ...) as (N, C / pieces, pieces, ...)."""
    source, x = arguments["self"], lowering.known(arguments["self"])
    axes = arguments["dim"] if isinstance(arguments["dim"], list) else [arguments["dim"]]
    split = exported_shape(source)
    if isinstance(x, int) and len(split) > 1 and [axis_of(node, source, axis) for axis in axes] == [2]:
        shape = lowering.shape(x)
        if shape == (split[0] * split[1], *split[2:]) and not arguments["keepdim"]:
            return lowering.emit(node, "maxout", (x,), shape_of(node), {"pieces": split[1]})
    lowering.fail(node, "a maximum is only known over pieces of channels: x.unflatten(1, (-1, pieces)).amax(2)")


@rule("aten.mean.dim")
def mean(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """The mean over axes other than the batch."""
    source = arguments["self"]
    axes = sorted(axis_of(node, source, axis) for axis in arguments["dim"] or range(source.meta["val"].ndim))
    x = lowering.value(node, source)
    attributes = {"axes": [axis - 1 for axis in axes], "keepdim": arguments["keepdim"]}
    return lowering.emit(node, "mean", (x,), shape_of(node), attributes)


@rule("aten.softmax.int", "aten._softmax.default")
def softmax(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Softmax over an axis other than the batch."""
    axis = axis_of(node, arguments["self"], arguments["dim"])
    if axis == 0:
        lowering.fail(node, "it runs over the batch axis; give dim=1")
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, "softmax", (x,), lowering.shape(x), {"axis": axis - 1})
