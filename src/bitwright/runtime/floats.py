"""The native operations of the nodes that read and write floats, one function per operation of the graph.

Values lie channels last: a logical (C, H, W) is (H, W, C) in memory, (C, L) is (L, C). An operation of the graph may
take several native ones, each reading what the one before it wrote; none at all where only the view changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bitwright.runtime.graph import Node
from bitwright.runtime.shapes import limits

Array = np.ndarray
Shape = tuple[int, ...]
Weights = Mapping[str, Array]


def to_last(native: Any, shape: Shape, element_bytes: int = 4) -> list[Any]:
    """From channels first, as callers have it, to channels last."""
    channels, others = shape[0], math.prod(shape[1:])
    return [] if channels == 1 or others == 1 else [native.TransposeOp(channels, others, element_bytes)]


def to_first(native: Any, shape: Shape) -> list[Any]:
    """The way back; `shape` is the logical one."""
    channels, others = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    return [] if channels == 1 or others == 1 else [native.TransposeOp(others, channels)]


def memory(shape: Shape) -> list[int]:
    """The axes in the order of the memory."""
    return [*shape[1:], *shape[:1]] or [1]


def memory_axis(shape: Shape, axis: int) -> int:
    """Where a logical axis is in memory."""
    return axis - 1 if axis else len(shape) - 1


def operations(native: Any, node: Node, weights: Weights, inputs: Sequence[Shape]) -> list[Any]:
    """What computes a node whose inputs have the logical shapes `inputs`."""
    if node.op in ("add", "mul"):
        make = native.AddOp if node.op == "add" else native.MulOp
        return [make(math.prod(inputs[0]), math.prod(inputs[0]) // math.prod(inputs[1]))]
    if node.op == "concat":
        return concat(native, inputs, node.attributes["axis"])
    return OPERATIONS[node.op](native, inputs[0], weights, **node.arguments)


def affine(native: Any, shape: Shape, weights: Weights) -> list[Any]:
    return [native.AffineOp(math.prod(shape[1:]), weights["scale"], weights["shift"])]


def normalize(native: Any, shape: Shape, weights: Weights, uint8: bool = False) -> list[Any]:
    return [native.NormalizeOp(math.prod(shape[1:]), weights["scale"], weights["shift"], uint8)]


def relu(native: Any, shape: Shape, weights: Weights) -> list[Any]:
    return [native.ReluOp(math.prod(shape))]


def prelu(native: Any, shape: Shape, weights: Weights) -> list[Any]:
    return [native.PreluOp(math.prod(shape[1:]), native.Prelu(**weights))]


def clamp(native: Any, shape: Shape, weights: Weights, low: float | None, high: float | None) -> list[Any]:
    return [native.ClampOp(math.prod(shape), *limits(low, high))]


def absolute(native: Any, shape: Shape, weights: Weights) -> list[Any]:
    return [native.AbsOp(math.prod(shape))]


def _curve(name: str) -> Callable[..., list[Any]]:
    def curve(native: Any, shape: Shape, weights: Weights, **attributes: float) -> list[Any]:
        return [native.CurveOp(name, math.prod(shape), **attributes)]

    return curve


def maxout(native: Any, shape: Shape, weights: Weights, pieces: int) -> list[Any]:
    return [native.MaxoutOp(math.prod(shape) // pieces, pieces)]


def response_norm(
    native: Any, shape: Shape, weights: Weights, size: int, alpha: float, beta: float, k: float
) -> list[Any]:
    return [native.ResponseNormOp(math.prod(shape[1:]), shape[0], size, alpha, beta, k)]


def group_norm(native: Any, shape: Shape, weights: Weights, groups: int, epsilon: float) -> list[Any]:
    return [native.GroupNormOp(math.prod(shape[1:]), shape[0], groups, epsilon)]


def concat(native: Any, inputs: Sequence[Shape], axis: int) -> list[Any]:
    """In memory it is rows, of which every input has a part."""
    where = memory_axis(inputs[0], axis)
    outer = math.prod(memory(inputs[0])[:where])
    return [native.ConcatOp(outer, [math.prod(shape) // outer for shape in inputs])]


def sign(native: Any, shape: Shape, weights: Weights) -> list[Any]:
    return [native.SignOp(math.prod(shape))]


def quantize(native: Any, shape: Shape, weights: Weights, qmin: int, qmax: int) -> list[Any]:
    scale, zero = (np.broadcast_to(weights[role], shape[:1]) for role in ("scale", "zero_point"))
    bounds = (scale, np.float32(1) / scale, np.float32(qmin) - zero, np.float32(qmax) - zero)
    return [native.QuantizeOp(math.prod(shape[1:]), *(np.ascontiguousarray(b, np.float32) for b in bounds))]


def window(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a pooling as native operations take them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}


def _pool(name: str) -> Callable[..., list[Any]]:
    def pool(native: Any, shape: Shape, weights: Weights, **attributes: Any) -> list[Any]:
        channels, *image = shape
        return [getattr(native, name)(tuple(image), channels, **window(attributes))]

    return pool


def flatten(native: Any, shape: Shape, weights: Weights) -> list[Any]:
    return to_first(native, shape)


def unflatten(native: Any, features: Shape, weights: Weights, shape: list[int]) -> list[Any]:
    return to_last(native, tuple(shape))


def pad(native: Any, shape: Shape, weights: Weights, before: list[int], after: list[int], value: float) -> list[Any]:
    return [native.PadOp(memory(shape), memory(tuple(before)), memory(tuple(after)), value)]


def slice_axis(native: Any, shape: Shape, weights: Weights, axis: int, start: int, stop: int, step: int) -> list[Any]:
    return [native.SliceOp(memory(shape), memory_axis(shape, axis), start, stop, min(step, shape[axis]))]


def moved(native: Any, shape: Shape, nodes: Sequence[Node]) -> list[Any]:
    """Slices of different axes, perhaps a pad behind them, at once."""
    starts, steps, counts = [0] * len(shape), [1] * len(shape), list(shape)
    before, after, value = [0] * len(shape), [0] * len(shape), 0.0
    for node in nodes:
        given = node.attributes
        if node.op == "pad":
            before, after, value = given["before"], given["after"], given["value"]
            continue
        axis, kept = given["axis"], range(given["start"], given["stop"], given["step"])
        starts[axis], steps[axis], counts[axis] = kept.start, kept.step, len(kept)
    lists = [memory(tuple(numbers)) for numbers in (shape, before, after, starts, steps, counts)]
    return [native.PadOp(*lists[:3], value, *lists[3:])]


def mean(native: Any, shape: Shape, weights: Weights, axes: list[int], keepdim: bool) -> list[Any]:
    if len(shape) == 3 and sorted(axes) == [1, 2]:  # a global average pool by another name
        return [native.AdaptiveAvgPoolOp(shape[1:], shape[0], (1, 1))]
    found = [native.MeanOp(memory(shape), [memory_axis(shape, axis) for axis in axes])]
    left = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    if 0 in axes and not keepdim:  # what was the height is the first axis now, and belongs last in memory
        found += to_last(native, left) if left else []
    return found


def softmax(native: Any, shape: Shape, weights: Weights, axis: int) -> list[Any]:
    return [native.SoftmaxOp(memory(shape), memory_axis(shape, axis))]


OPERATIONS: dict[str, Callable[..., list[Any]]] = {
    "normalize": normalize,
    "affine": affine,
    "relu": relu,
    "prelu": prelu,
    "clamp": clamp,
    "abs": absolute,
    "sigmoid": _curve("sigmoid"),
    "tanh": _curve("tanh"),
    "elu": _curve("elu"),
    "gelu": _curve("gelu"),
    "sqrt": _curve("sqrt"),
    "rsqrt": _curve("rsqrt"),
    "maxout": maxout,
    "response_norm": response_norm,
    "group_norm": group_norm,
    "max_pool2d": _pool("MaxPoolOp"),
    "avg_pool2d": _pool("AvgPoolOp"),
    "adaptive_avg_pool2d": _pool("AdaptiveAvgPoolOp"),
    "adaptive_max_pool2d": _pool("AdaptiveMaxPoolOp"),
    "flatten": flatten,
    "unflatten": unflatten,
    "pad": pad,
    "slice": slice_axis,
    "mean": mean,
    "softmax": softmax,
    "sign": sign,
    "quantize": quantize,
}
