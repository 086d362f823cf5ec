"""The shape of every value of a graph, and the only guard against hostile graphs.

`validate` trusts nothing: types, ranges, references, weights and sizes are all checked here, with Python integers that
can't overflow, before anything is allocated. What it lets through, the engines run without looking again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bitwright.runtime.checks import MAX_CODE, Check, Operation, Shape, is_int, is_shape, refuse

if TYPE_CHECKING:
    from bitwright.runtime.graph import Graph

MAX_WINDOW = 2**16
"""Of channels that a response norm adds up."""
MAX_ELEMENTS = 2**28
"""Default cap on the elements that one image needs in all values together: 1 GiB of float32."""


def validate(graph: Graph, weights: Mapping[str, tuple[int, ...]], max_elements: int | None = None) -> list[Shape]:
    """The shape (without the batch axis) of every value: the inputs, then one per node.

    `weights` gives the shape of each stored tensor; all of them must be used. `max_elements` (default `MAX_ELEMENTS`)
    caps the elements per image of all values and padded inputs together. Raises `BitwrightError` (kind "graph") that
    names the node, if the graph is not one that the engines can run.
    """
    limit = MAX_ELEMENTS if max_elements is None else max_elements
    shapes = _inputs(graph, limit)
    total = sum(math.prod(shape) for shape in shapes)
    weights = {_tensor_name(name): _weight_shape(name, shape) for name, shape in weights.items()}
    used: set[str] = set()
    for index, node in enumerate(graph.nodes):
        check = Check(index, node, shapes, weights, len(graph.inputs), limit)
        shape = check.run(OPERATIONS)
        total += math.prod(shape) + check.workspace
        if total > limit:
            check.fail(f"brings the values to {total:,} elements per image; the cap is {limit:,}")
        shapes.append(shape)
        used.update(node.weights.values())
    if unused := sorted(set(weights) - used):
        refuse(f"tensor {unused[0]!r} is used by no node of the graph ({len(unused)} such tensors)")
    _outputs(graph, len(shapes))
    return shapes


def _inputs(graph: Graph, limit: int) -> list[Shape]:
    if not graph.inputs:
        refuse("the graph has no input; it needs at least one")
    for i, shape in enumerate(graph.inputs):
        if not is_shape(shape, 1, 3):
            refuse(f"graph input {i} has shape {shape}; expected one to three positive integers")
        if math.prod(shape) > limit:
            refuse(f"graph input {i} has shape {shape}: more than the cap of {limit:,} elements per image")
    return [tuple(shape) for shape in graph.inputs]


def _outputs(graph: Graph, values: int) -> None:
    if not graph.outputs:
        refuse("the graph has no output; it needs at least one")
    for output in graph.outputs:
        if not is_int(output, 0, values - 1):
            refuse(f"graph output {output!r} is no value; values are 0 to {values - 1}")


def _tensor_name(name: object) -> str:
    if not isinstance(name, str):
        refuse(f"tensor name {name!r} is not a string")
    return name


def _weight_shape(name: str, shape: tuple[int, ...]) -> Shape:
    if not is_shape(shape, 0, 4):
        refuse(f"tensor {name!r} has shape {shape}; expected up to four positive integers")
    return tuple(shape)


def window_count(size: int, kernel: int, stride: int, before: int, dilation: int = 1, ceil: bool = False) -> int:
    """How many windows fit on an axis that has `before` padding on each side; <= 0 if none does.

        floor((size + 2 before - dilation (kernel - 1) - 1) / stride) + 1

    With `ceil` the division rounds up, so the last window may stick out (or be larger than the input), but one that
    would start in the padding behind the input is dropped, as PyTorch does.
    """
    span = size + 2 * before - dilation * (kernel - 1) - 1
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + before:
        count -= 1
    return count


def limits(low: float | None, high: float | None) -> tuple[float, float]:
    """Those of a clamp, infinite where it has none."""
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _windows(check: Check, kernel: list[int], dilation: list[int], ceil: bool) -> Shape:
    """Height and width after sliding a window over the input; counts the padded input."""
    channels, *size = check.input(rank=3)
    stride, padding = check.integers("stride", 2, 1), check.integers("padding", 2, 0)
    check.work((channels, size[0] + 2 * padding[0], size[1] + 2 * padding[1]))
    result = tuple(window_count(size[i], kernel[i], stride[i], padding[i], dilation[i], ceil) for i in range(2))
    if min(result) < 1:
        check.fail(f"the kernel {kernel} (dilation {dilation}) doesn't fit the input {tuple(size)} padded by {padding}")
    return result


def _conv2d(check: Check) -> Shape:
    channels, _, _ = check.input(rank=3)
    groups = check.integer("groups", 1)
    if channels % groups:
        check.fail(f"groups={groups} does not divide the {channels} input channels")
    outputs, _, *kernel = check.weight("weight", (None, channels // groups, None, None))
    if outputs % groups:
        check.fail(f"groups={groups} does not divide the {outputs} output channels")
    check.bias(outputs)
    _accumulator(check)
    return (outputs, *_windows(check, kernel, check.integers("dilation", 2, 1), ceil=False))


def _linear(check: Check) -> Shape:
    (features,) = check.input(rank=1)
    outputs, _ = check.weight("weight", (None, features))
    check.bias(outputs)
    _accumulator(check)
    return (outputs,)


_PROMISE = ("accumulator",)


def _accumulator(check: Check) -> None:
    if "accumulator" in check.node.attributes:
        check.integer("accumulator", 2, 32)


def _scale_and_shift(check: Check) -> Shape:
    shape = check.input()
    check.weight("scale", (shape[0],))
    check.weight("shift", (shape[0],))
    return shape


def _prelu(check: Check) -> Shape:
    shape = check.input()
    check.weight("slope", (shape[0],))
    return shape


def _clamp(check: Check) -> Shape:
    limits = [check.number(name) for name in ("low", "high") if check.node.attributes[name] is not None]
    if not limits or limits[0] > limits[-1]:
        check.fail(f"its limits are {limits}; expected one or two, low <= high")
    return _same(check)


def _normalize(check: Check) -> Shape:
    if check.node.inputs[0] >= check.graph_inputs:
        check.fail(f"reads value {check.node.inputs[0]}; it may only read a graph input")
    return _scale_and_shift(check)


def _same(check: Check) -> Shape:
    return check.shapes[check.node.inputs[0]]


def _quantize(check: Check) -> Shape:
    shape = check.input()
    sizes = {check.weight(role, (None,))[0] for role in ("scale", "zero_point")}
    if sizes not in ({1}, {shape[0]}):
        check.fail(f"scale and zero_point have sizes {sorted(sizes)}; expected both 1, or both {shape[0]}")
    low = check.integer("qmin", -MAX_CODE, MAX_CODE - 1)
    check.integer("qmax", low + 1, MAX_CODE)
    return shape


def _pool(check: Check, dilation: list[int]) -> Shape:
    kernel, padding = check.integers("kernel", 2, 1), check.integers("padding", 2, 0)
    for k, d, p in zip(kernel, dilation, padding, strict=True):
        if p > (d * (k - 1) + 1) // 2:
            check.fail(f"padding {padding} is more than half the kernel {kernel} (dilation {dilation})")
    return (check.input(rank=3)[0], *_windows(check, kernel, dilation, check.flag("ceil")))


def _max_pool2d(check: Check) -> Shape:
    return _pool(check, check.integers("dilation", 2, 1))


def _avg_pool2d(check: Check) -> Shape:
    check.flag("count_include_pad")
    return _pool(check, [1, 1])


def _adaptive_pool2d(check: Check) -> Shape:
    return (check.input(rank=3)[0], *check.integers("size", 2, 1))


def _maxout(check: Check) -> Shape:
    channels, *others = check.input()
    pieces = check.integer("pieces", 1)
    if channels % pieces:
        check.fail(f"pieces={pieces} does not divide the {channels} channels")
    return (channels // pieces, *others)


def _elu(check: Check) -> Shape:
    check.number("alpha")
    return _same(check)


def _response_norm(check: Check) -> Shape:
    check.integer("size", 1, MAX_WINDOW)
    for name in ("alpha", "beta", "k"):
        check.number(name)
    return check.input()


def _group_norm(check: Check) -> Shape:
    shape = check.input()
    groups = check.integer("groups", 1)
    if shape[0] % groups:
        check.fail(f"groups={groups} does not divide the {shape[0]} channels")
    if check.number("epsilon") < 0:
        check.fail(f"epsilon is {check.number('epsilon')}; expected a number >= 0")
    return shape


def _concat(check: Check) -> Shape:
    shapes = [check.input(which) for which in range(len(check.node.inputs))]
    axis = check.integer("axis", 0, len(shapes[0]) - 1)
    if len({(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
        found = ", ".join(map(str, shapes))
        check.fail(f"inputs have shapes {found}; expected equal ones but for axis {axis}")
    return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])


def _pair(check: Check) -> Shape:
    a, b = (check.shapes[value] for value in check.node.inputs)
    if b not in (a, (1, *a[1:])):
        check.fail(f"inputs have shapes {a} and {b}; expected the second equal to the first, or with a first axis of 1")
    return a


def _flatten(check: Check) -> Shape:
    return (math.prod(_same(check)),)


def _unflatten(check: Check) -> Shape:
    (features,) = check.input(rank=1)
    shape = tuple(check.integers("shape", 3, 1))
    if math.prod(shape) != features:
        check.fail(f"shape {list(shape)} has {math.prod(shape)} elements, the input {features}")
    return shape


def _pad(check: Check) -> Shape:
    shape = check.input()
    before, after = check.integers("before", len(shape), 0), check.integers("after", len(shape), 0)
    check.number("value")
    return tuple(b + n + a for b, n, a in zip(before, shape, after, strict=True))


def _slice(check: Check) -> Shape:
    shape = check.input()
    axis = check.integer("axis", 0, len(shape) - 1)
    start = check.integer("start", 0, shape[axis] - 1)
    stop = check.integer("stop", start + 1, shape[axis])
    step = check.integer("step", 1)
    return (*shape[:axis], len(range(start, stop, step)), *shape[axis + 1 :])


def _mean(check: Check) -> Shape:
    shape, axes = check.input(), check.node.attributes["axes"]
    count = len(axes) if isinstance(axes, list | tuple) and axes else 1
    chosen = set(check.integers("axes", count, 0, len(shape) - 1))
    if len(chosen) != count:
        check.fail(f"axes {axes!r} names an axis twice")
    if check.flag("keepdim"):
        return tuple(1 if i in chosen else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in chosen)


def _softmax(check: Check) -> Shape:
    shape = check.input()
    check.integer("axis", 0, len(shape) - 1)
    return shape


OPERATIONS: dict[str, Operation] = {
    "normalize": Operation(_normalize, weights=("scale", "shift")),
    "conv2d": Operation(
        _conv2d, ("stride", "padding", "dilation", "groups"), ("weight",), ("bias",), optional_attributes=_PROMISE
    ),
    "linear": Operation(_linear, weights=("weight",), optional=("bias",), optional_attributes=_PROMISE),
    "affine": Operation(_scale_and_shift, weights=("scale", "shift")),
    "relu": Operation(_same),
    "prelu": Operation(_prelu, weights=("slope",)),
    "clamp": Operation(_clamp, ("low", "high")),
    "abs": Operation(_same),
    "sigmoid": Operation(_same),
    "tanh": Operation(_same),
    "elu": Operation(_elu, ("alpha",)),
    "gelu": Operation(_same),
    "sqrt": Operation(_same),
    "rsqrt": Operation(_same),
    "maxout": Operation(_maxout, ("pieces",)),
    "response_norm": Operation(_response_norm, ("size", "alpha", "beta", "k")),
    "group_norm": Operation(_group_norm, ("groups", "epsilon")),
    "max_pool2d": Operation(_max_pool2d, ("kernel", "stride", "padding", "dilation", "ceil")),
    "avg_pool2d": Operation(_avg_pool2d, ("kernel", "stride", "padding", "ceil", "count_include_pad")),
    "adaptive_avg_pool2d": Operation(_adaptive_pool2d, ("size",)),
    "adaptive_max_pool2d": Operation(_adaptive_pool2d, ("size",)),
    "add": Operation(_pair, inputs=2),
    "mul": Operation(_pair, inputs=2),
    "concat": Operation(_concat, ("axis",), inputs=2, most_inputs=64),
    "flatten": Operation(_flatten),
    "unflatten": Operation(_unflatten, ("shape",)),
    "pad": Operation(_pad, ("before", "after", "value")),
    "slice": Operation(_slice, ("axis", "start", "stop", "step")),
    "mean": Operation(_mean, ("axes", "keepdim")),
    "softmax": Operation(_softmax, ("axis",)),
    "sign": Operation(_same),
    "quantize": Operation(_quantize, ("qmin", "qmax"), ("scale", "zero_point")),
}
