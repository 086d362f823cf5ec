"""The shape of every value of a graph, and the only guard against hostile graphs.

`validate` trusts nothing: types, ranges, references, weights and sizes are all checked here, with Python integers that
can't overflow, before anything is allocated. What it lets through, the engines run without looking again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from bitwright.errors import BitwrightError

if TYPE_CHECKING:
    from bitwright.runtime.graph import Graph, Node

Shape = tuple[int, ...]

MAX_INTEGER = 2**31 - 1
"""Sizes and attributes fit the 32-bit integers of native code."""
LARGEST_FLOAT = 3.4028234663852886e38
"""Of float32."""
MAX_CODE = 2**16
"""The range of `quantize` is within plus or minus this."""
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
        check = _Check(index, node, shapes, weights, len(graph.inputs), limit)
        shape = check.run()
        total += math.prod(shape) + check.workspace
        if total > limit:
            check.fail(f"brings the values to {total:,} elements per image; the cap is {limit:,}")
        shapes.append(shape)
        used.update(node.weights.values())
    if unused := sorted(set(weights) - used):
        _refuse(f"tensor {unused[0]!r} is used by no node of the graph ({len(unused)} such tensors)")
    _outputs(graph, len(shapes))
    return shapes


def _refuse(message: str) -> NoReturn:
    raise BitwrightError(message, kind="graph")


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high  # a bool is not a size


def _is_shape(shape: object, low: int, high: int) -> bool:
    return (
        isinstance(shape, list | tuple) and low <= len(shape) <= high and all(_is_int(n, 1, MAX_INTEGER) for n in shape)
    )


def _inputs(graph: Graph, limit: int) -> list[Shape]:
    if not graph.inputs:
        _refuse("the graph has no input; it needs at least one")
    for i, shape in enumerate(graph.inputs):
        if not _is_shape(shape, 1, 3):
            _refuse(f"graph input {i} has shape {shape}; expected one to three positive integers")
        if math.prod(shape) > limit:
            _refuse(f"graph input {i} has shape {shape}: more than the cap of {limit:,} elements per image")
    return [tuple(shape) for shape in graph.inputs]


def _outputs(graph: Graph, values: int) -> None:
    if not graph.outputs:
        _refuse("the graph has no output; it needs at least one")
    for output in graph.outputs:
        if not _is_int(output, 0, values - 1):
            _refuse(f"graph output {output!r} is no value; values are 0 to {values - 1}")


def _tensor_name(name: object) -> str:
    if not isinstance(name, str):
        _refuse(f"tensor name {name!r} is not a string")
    return name


def _weight_shape(name: str, shape: tuple[int, ...]) -> Shape:
    if not _is_shape(shape, 0, 4):
        _refuse(f"tensor {name!r} has shape {shape}; expected up to four positive integers")
    return tuple(shape)


class _Check:
    """One node under examination: reading an attribute, weight or input here also checks it."""

    def __init__(
        self, index: int, node: Node, shapes: list[Shape], weights: Mapping[str, Shape], inputs: int, limit: int
    ) -> None:
        self.index, self.node, self.shapes, self.weights = index, node, shapes, weights
        self.graph_inputs, self.limit = inputs, limit
        self.workspace = 0
        """Elements per image that the node needs besides its result (a padded input)."""

    def fail(self, found: str) -> NoReturn:
        name = f" {self.node.name!r}" if self.node.name else ""
        _refuse(f"graph node {self.index} ({self.node.op}{name}): {found}")

    def run(self) -> Shape:
        node = self.node
        if not isinstance(node.name, str) or not isinstance(node.op, str) or node.op not in OPERATIONS:
            self.fail(f"no such operation; the operations are {', '.join(sorted(OPERATIONS))}")
        operation = OPERATIONS[node.op]
        self._inputs(operation)
        self._keys("attribute", node.attributes, set(operation.attributes), set(operation.attributes))
        self._keys("weight", node.weights, set(operation.weights), {*operation.weights, *operation.optional})
        shape = operation.shape(self)
        if any(n > MAX_INTEGER for n in shape) or math.prod(shape) > self.limit:
            self.fail(f"the result {shape} has more than the cap of {self.limit:,} elements per image")
        return shape

    def _inputs(self, operation: Operation) -> None:
        found = self.node.inputs
        if len(found) != operation.inputs:
            self.fail(f"has {len(found)} inputs; expected {operation.inputs}")
        for value in found:
            if not _is_int(value, 0, len(self.shapes) - 1):
                self.fail(f"reads value {value!r}; only values 0 to {len(self.shapes) - 1} come before it")

    def _keys(self, what: str, found: Mapping[str, Any], required: set[str], allowed: set[str]) -> None:
        names = set(found)
        if missing := sorted(required - names):
            self.fail(f"{what} {missing[0]!r} is missing")
        if extra := sorted(map(str, names - allowed)):
            self.fail(f"unknown {what} {extra[0]!r}; expected {', '.join(sorted(allowed)) or 'none'}")

    def input(self, which: int = 0, rank: int | None = None) -> Shape:
        """The shape of an input, with `rank` axes if that is given, at least one axis otherwise."""
        shape = self.shapes[self.node.inputs[which]]
        if (rank is None and not shape) or (rank is not None and len(shape) != rank):
            self.fail(f"input has shape {shape}; expected {rank or 'one or more'} axes after the batch")
        return shape

    def weight(self, role: str, expected: tuple[int | None, ...]) -> Shape:
        """The shape of a weight, which must equal `expected` where that has a number."""
        name = self.node.weights[role]
        if not isinstance(name, str) or name not in self.weights:
            self.fail(f"{role} is the tensor {name!r}, which is not stored")
        shape = self.weights[name]
        if len(shape) != len(expected) or any(e is not None and e != n for e, n in zip(expected, shape, strict=True)):
            wanted = ", ".join("?" if e is None else str(e) for e in expected)
            self.fail(f"{role} {name!r} has shape {shape}; expected ({wanted})")
        return shape

    def bias(self, size: int) -> None:
        if "bias" in self.node.weights:
            self.weight("bias", (size,))

    def integer(self, name: str, low: int, high: int = MAX_INTEGER) -> int:
        value = self.node.attributes[name]
        if not _is_int(value, low, high):
            self.fail(f"{name} is {value!r}; expected an integer from {low} to {high}")
        return int(value)

    def integers(self, name: str, count: int, low: int, high: int = MAX_INTEGER) -> list[int]:
        value = self.node.attributes[name]
        if (
            not isinstance(value, list | tuple)
            or len(value) != count
            or not all(_is_int(entry, low, high) for entry in value)
        ):
            self.fail(f"{name} is {value!r}; expected {count} integers from {low} to {high}")
        return list(value)

    def number(self, name: str) -> float:
        value = self.node.attributes[name]
        if type(value) not in (int, float) or not abs(value) <= LARGEST_FLOAT:
            self.fail(f"{name} is {value!r}; expected a finite float32 number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.node.attributes[name]
        if not isinstance(value, bool):
            self.fail(f"{name} is {value!r}; expected true or false")
        return value

    def work(self, shape: Shape) -> None:
        """Count a temporary of this shape."""
        self.workspace = math.prod(shape)
        if self.workspace > self.limit:
            self.fail(f"needs a padded input {shape} of more than the cap of {self.limit:,} elements per image")


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


def _windows(check: _Check, kernel: list[int], dilation: list[int], ceil: bool) -> Shape:
    """Height and width after sliding a window over the input; counts the padded input."""
    channels, *size = check.input(rank=3)
    stride, padding = check.integers("stride", 2, 1), check.integers("padding", 2, 0)
    check.work((channels, size[0] + 2 * padding[0], size[1] + 2 * padding[1]))
    result = tuple(window_count(size[i], kernel[i], stride[i], padding[i], dilation[i], ceil) for i in range(2))
    if min(result) < 1:
        check.fail(f"the kernel {kernel} (dilation {dilation}) doesn't fit the input {tuple(size)} padded by {padding}")
    return result


def _conv2d(check: _Check) -> Shape:
    channels, _, _ = check.input(rank=3)
    groups = check.integer("groups", 1)
    if channels % groups:
        check.fail(f"groups={groups} does not divide the {channels} input channels")
    outputs, _, *kernel = check.weight("weight", (None, channels // groups, None, None))
    if outputs % groups:
        check.fail(f"groups={groups} does not divide the {outputs} output channels")
    check.bias(outputs)
    return (outputs, *_windows(check, kernel, check.integers("dilation", 2, 1), ceil=False))


def _linear(check: _Check) -> Shape:
    (features,) = check.input(rank=1)
    outputs, _ = check.weight("weight", (None, features))
    check.bias(outputs)
    return (outputs,)


def _scale_and_shift(check: _Check) -> Shape:
    shape = check.input()
    check.weight("scale", (shape[0],))
    check.weight("shift", (shape[0],))
    return shape


def _prelu(check: _Check) -> Shape:
    shape = check.input()
    check.weight("slope", (shape[0],))
    return shape


def _clamp(check: _Check) -> Shape:
    limits = [check.number(name) for name in ("low", "high") if check.node.attributes[name] is not None]
    if not limits or limits[0] > limits[-1]:
        check.fail(f"its limits are {limits}; expected one or two, low <= high")
    return _same(check)


def _normalize(check: _Check) -> Shape:
    if check.node.inputs[0] >= check.graph_inputs:
        check.fail(f"reads value {check.node.inputs[0]}; it may only read a graph input")
    return _scale_and_shift(check)


def _same(check: _Check) -> Shape:
    return check.shapes[check.node.inputs[0]]


def _quantize(check: _Check) -> Shape:
    shape = check.input()
    sizes = {check.weight(role, (None,))[0] for role in ("scale", "zero_point")}
    if sizes not in ({1}, {shape[0]}):
        check.fail(f"scale and zero_point have sizes {sorted(sizes)}; expected both 1, or both {shape[0]}")
    low = check.integer("qmin", -MAX_CODE, MAX_CODE - 1)
    check.integer("qmax", low + 1, MAX_CODE)
    return shape


def _pool(check: _Check, dilation: list[int]) -> Shape:
    kernel, padding = check.integers("kernel", 2, 1), check.integers("padding", 2, 0)
    for k, d, p in zip(kernel, dilation, padding, strict=True):
        if p > (d * (k - 1) + 1) // 2:
            check.fail(f"padding {padding} is more than half the kernel {kernel} (dilation {dilation})")
    return (check.input(rank=3)[0], *_windows(check, kernel, dilation, check.flag("ceil")))


def _max_pool2d(check: _Check) -> Shape:
    return _pool(check, check.integers("dilation", 2, 1))


def _avg_pool2d(check: _Check) -> Shape:
    check.flag("count_include_pad")
    return _pool(check, [1, 1])


def _adaptive_avg_pool2d(check: _Check) -> Shape:
    return (check.input(rank=3)[0], *check.integers("size", 2, 1))


def _add(check: _Check) -> Shape:
    a, b = (check.shapes[value] for value in check.node.inputs)
    if a != b:
        check.fail(f"inputs have shapes {a} and {b}; expected equal ones")
    return a


def _mul(check: _Check) -> Shape:
    a, b = (check.shapes[value] for value in check.node.inputs)
    if b not in (a, (1, *a[1:])):
        check.fail(f"inputs have shapes {a} and {b}; expected the second equal to the first, or with a first axis of 1")
    return a


def _flatten(check: _Check) -> Shape:
    return (math.prod(_same(check)),)


def _pad(check: _Check) -> Shape:
    shape = check.input()
    before, after = check.integers("before", len(shape), 0), check.integers("after", len(shape), 0)
    check.number("value")
    return tuple(b + n + a for b, n, a in zip(before, shape, after, strict=True))


def _slice(check: _Check) -> Shape:
    shape = check.input()
    axis = check.integer("axis", 0, len(shape) - 1)
    start = check.integer("start", 0, shape[axis] - 1)
    stop = check.integer("stop", start + 1, shape[axis])
    step = check.integer("step", 1)
    return (*shape[:axis], len(range(start, stop, step)), *shape[axis + 1 :])


def _mean(check: _Check) -> Shape:
    shape, axes = check.input(), check.node.attributes["axes"]
    count = len(axes) if isinstance(axes, list | tuple) and axes else 1
    chosen = set(check.integers("axes", count, 0, len(shape) - 1))
    if len(chosen) != count:
        check.fail(f"axes {axes!r} names an axis twice")
    if check.flag("keepdim"):
        return tuple(1 if i in chosen else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in chosen)


def _softmax(check: _Check) -> Shape:
    shape = check.input()
    check.integer("axis", 0, len(shape) - 1)
    return shape


@dataclass(frozen=True)
class Operation:
    """A row of the table in FORMAT.md, section 7, and the function that checks a node and gives its shape."""

    shape: Callable[[_Check], Shape]
    attributes: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    inputs: int = 1


OPERATIONS: dict[str, Operation] = {
    "normalize": Operation(_normalize, weights=("scale", "shift")),
    "conv2d": Operation(_conv2d, ("stride", "padding", "dilation", "groups"), ("weight",), ("bias",)),
    "linear": Operation(_linear, weights=("weight",), optional=("bias",)),
    "affine": Operation(_scale_and_shift, weights=("scale", "shift")),
    "relu": Operation(_same),
    "prelu": Operation(_prelu, weights=("slope",)),
    "clamp": Operation(_clamp, ("low", "high")),
    "abs": Operation(_same),
    "max_pool2d": Operation(_max_pool2d, ("kernel", "stride", "padding", "dilation", "ceil")),
    "avg_pool2d": Operation(_avg_pool2d, ("kernel", "stride", "padding", "ceil", "count_include_pad")),
    "adaptive_avg_pool2d": Operation(_adaptive_avg_pool2d, ("size",)),
    "add": Operation(_add, inputs=2),
    "mul": Operation(_mul, inputs=2),
    "flatten": Operation(_flatten),
    "pad": Operation(_pad, ("before", "after", "value")),
    "slice": Operation(_slice, ("axis", "start", "stop", "step")),
    "mean": Operation(_mean, ("axes", "keepdim")),
    "softmax": Operation(_softmax, ("axis",)),
    "sign": Operation(_same),
    "quantize": Operation(_quantize, ("qmin", "qmax"), ("scale", "zero_point")),
}
