"""A graph bound to the native kernels: a list of calls, prepared once when a model is loaded.

Arrays inside are channels-last and contiguous: (N, H, W, C), (N, L, C) or (N, C). What follows a convolution or linear
layer and is read by nobody else (batch norm, residual add, relu) is computed in that kernel's epilogue; kernels round
the product and the sums of an epilogue separately, so this changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bitwright.runtime import reference
from bitwright.runtime.graph import Graph, Node

if TYPE_CHECKING:
    from bitwright.packing.encodings import Sparse

Array = np.ndarray
Call = Callable[..., Array]

SPARSE_DENSITY = 0.2
"""Linear layers stored sparse run on the sparse kernel below this share of non-zeros.

Measured with AVX-512 on 100x300 to 1024x1024 at batches of 1, 64 and 256, time of the sparse kernel over that of the
dense one: 0.05 to 0.8 at a density of 0.1, 0.3 to 1.2 at 0.2, 0.3 to 1.7 at 0.3.
"""

LANES = 16
"""Kernels pack the output channels of each group in blocks of a multiple of this."""


TO_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1)}
TO_FIRST = {3: (0, 2, 1), 4: (0, 3, 1, 2)}


class Tensor(Protocol):
    """A weight as a file stores it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def dense(self) -> Array: ...
    def sparse(self) -> Sparse | None: ...


@dataclass(frozen=True)
class Step:
    """One call: which values it reads, which it makes, and which nobody needs after it."""

    run: Call
    inputs: tuple[int, ...]
    result: int
    frees: tuple[int, ...] = ()


@dataclass
class Fused:
    """A node and what its kernel's epilogue takes over: y = (node + bias) * scale + shift + residual, then relu."""

    node: Node
    result: int
    affine: Node | None = None
    residual: int | None = None
    relu: bool = False

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.node.inputs if self.residual is None else (*self.node.inputs, self.residual)


def channels_last(x: Array) -> Array:
    """(N, C, ...) to contiguous (N, ..., C)."""
    return np.ascontiguousarray(x.transpose(TO_LAST[x.ndim]) if x.ndim > 2 else x)


def channels_first(x: Array) -> Array:
    """(N, ..., C) to (N, C, ...), a view."""
    return x.transpose(TO_FIRST[x.ndim]) if x.ndim > 2 else x


def packed_bytes(graph: Graph, tensors: Mapping[str, Tensor]) -> int:
    """About what the weights take when kernels have packed them; more than decoded, where groups are narrow."""
    elements = 0
    for name, groups in {
        (n.weights["weight"], n.attributes.get("groups", 1)) for n in graph.nodes if "weight" in n.weights
    }:
        outputs, *rest = tensors[name].shape
        elements += groups * -(-outputs // groups // LANES) * LANES * math.prod(rest)
    return 4 * elements


def bind(graph: Graph, shapes: list[tuple[int, ...]], tensors: Mapping[str, Tensor], threads: int) -> list[Step]:
    """The calls that compute the graph, in order."""
    bindings = _Bindings(shapes, tensors, threads)
    steps = [Step(bindings.call(fused), fused.inputs, fused.result) for fused in fuse(graph)]
    alive = set(graph.outputs)
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        dead = {*step.inputs, step.result} - alive
        steps[index] = Step(step.run, step.inputs, step.result, tuple(sorted(dead)))
        alive.update(step.inputs)
    return steps


def fuse(graph: Graph) -> list[Fused]:
    """The nodes in order, each followed as far as its epilogue reaches; a chain stands where its last node stood.

    There, all that it reads has been computed.
    """
    first = len(graph.inputs)
    readers: dict[int, list[int]] = {value: [-1] for value in graph.outputs}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            readers.setdefault(value, []).append(index)
    absorbed: set[int] = set()
    chains: dict[int, Fused] = {}
    for index, node in enumerate(graph.nodes):
        if index in absorbed:
            continue
        chain, last = Fused(node, first + index), index
        while node.op in ("conv2d", "linear"):
            follower = readers.get(chain.result, [])
            if len(follower) != 1 or follower[0] < 0 or follower[0] in absorbed:
                break
            if not _absorb(chain, graph.nodes[follower[0]]):
                break
            last = follower[0]
            absorbed.add(last)
            chain.result = first + last
        chains[last] = chain
    return [chains[index] for index in sorted(chains)]


def _absorb(chain: Fused, node: Node) -> bool:
    """Take `node`, the only reader of the chain's result, into the epilogue if its place there is still free."""
    if chain.relu:
        return False
    if node.op == "relu":
        chain.relu = True
    elif node.op == "affine" and chain.affine is None and chain.residual is None:
        chain.affine = node
    elif node.op == "add" and chain.residual is None and chain.node.op == "conv2d":
        chain.residual = node.inputs[1] if node.inputs[0] == chain.result else node.inputs[0]
    else:
        return False
    return True


class _Bindings:
    """Makes the call of each node; a tensor that several nodes share is prepared once."""

    def __init__(self, shapes: list[tuple[int, ...]], tensors: Mapping[str, Tensor], threads: int) -> None:
        from bitwright import _native

        self.native: Any = _native
        self.shapes, self.tensors, self.threads = shapes, tensors, threads
        self._prepared: dict[tuple[Any, ...], Any] = {}

    def call(self, fused: Fused) -> Call:
        node = fused.node
        if node.op in ("conv2d", "linear"):
            return getattr(self, f"_{node.op}")(fused)
        return getattr(self, f"_{node.op}")(node, **node.attributes)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._prepared:
            self._prepared[key] = make()
        return self._prepared[key]

    def _vector(self, name: str) -> Array:
        return self._once(("vector", name), lambda: np.ascontiguousarray(self.tensors[name].dense()))

    def _epilogue(self, fused: Fused) -> dict[str, Any]:
        arguments: dict[str, Any] = {"threads": self.threads, "relu": fused.relu}
        if "bias" in fused.node.weights:
            arguments["bias"] = self._vector(fused.node.weights["bias"])
        if fused.affine is not None:
            arguments.update({role: self._vector(name) for role, name in fused.affine.weights.items()})
        return arguments

    def _conv2d(self, fused: Fused) -> Call:
        attributes, name = fused.node.attributes, fused.node.weights["weight"]
        groups = attributes["groups"]
        weights = self._once(
            ("conv2d", name, groups),
            lambda: self.native.conv2d_pack(np.ascontiguousarray(self.tensors[name].dense()), groups),
        )
        arguments = {key: tuple(attributes[key]) for key in ("stride", "padding", "dilation")}
        arguments.update(self._epilogue(fused))
        kernel = self.native.conv2d
        if fused.residual is None:
            return lambda x: kernel(_ready(x), weights, **arguments)
        return lambda x, residual: kernel(_ready(x), weights, residual=_ready(residual), **arguments)

    def _linear(self, fused: Fused) -> Call:
        name, arguments = fused.node.weights["weight"], self._epilogue(fused)
        kernel, weights = self._once(("linear", name), lambda: self._linear_weights(self.tensors[name]))
        return lambda x: kernel(_ready(x), weights, **arguments)

    def _linear_weights(self, tensor: Tensor) -> tuple[Call, Any]:
        sparse = tensor.sparse()
        rows, cols = tensor.shape
        if sparse is None or len(sparse.positions) > SPARSE_DENSITY * rows * cols:
            return self.native.linear, self.native.linear_pack(np.ascontiguousarray(tensor.dense()))
        values = sparse.codebook if sparse.codes is not None else sparse.values
        packed = self.native.sparse_linear_pack(rows, cols, sparse.positions, sparse.codes, values)
        return self.native.sparse_linear, packed

    def _affine(self, node: Node) -> Call:
        scale, shift = (self._vector(node.weights[role]) for role in ("scale", "shift"))
        kernel, threads = self.native.affine, self.threads
        return lambda x: kernel(_ready(x), scale, shift, threads)

    def _normalize(self, node: Node) -> Call:
        affine = self._affine(node)

        def run(x: Array) -> Array:
            return affine(x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x)

        return run

    def _relu(self, node: Node) -> Call:
        kernel, threads = self.native.relu, self.threads
        return lambda x: kernel(_ready(x), threads)

    def _add(self, node: Node) -> Call:
        kernel, threads = self.native.add, self.threads
        return lambda a, b: kernel(_ready(a), _ready(b), threads)

    def _max_pool2d(self, node: Node, **window: Any) -> Call:
        return self._pool(self.native.max_pool2d, window)

    def _avg_pool2d(self, node: Node, **window: Any) -> Call:
        return self._pool(self.native.avg_pool2d, window)

    def _adaptive_avg_pool2d(self, node: Node, **window: Any) -> Call:
        return self._pool(self.native.adaptive_avg_pool2d, window)

    def _pool(self, kernel: Call, window: dict[str, Any]) -> Call:
        arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in window.items()}
        threads = self.threads
        return lambda x: kernel(_ready(x), **arguments, threads=threads)

    def _flatten(self, node: Node) -> Call:
        *size, channels = self.shapes[node.inputs[0]][1:] + self.shapes[node.inputs[0]][:1] or (1,)
        count = int(np.prod(size)) * channels
        if channels == 1 or channels == count:  # the order of channels makes no difference
            return lambda x: x.reshape(len(x), count)
        return lambda x: np.ascontiguousarray(channels_first(x)).reshape(len(x), count)

    def _pad(self, node: Node, before: list[int], after: list[int], value: float) -> Call:
        shape = self.shapes[node.inputs[0]]
        spans = [slice(b, b + n) for b, n in zip(before, shape, strict=True)]
        total = [b + n + a for b, n, a in zip(before, shape, after, strict=True)]
        size, inside = (*total[1:], total[0]), (slice(None), *spans[1:], spans[0])

        def run(x: Array) -> Array:
            result = np.full((len(x), *size), value, np.float32) if value else np.zeros((len(x), *size), np.float32)
            result[inside] = x
            return result

        return run

    def _slice(self, node: Node, axis: int, start: int, stop: int, step: int) -> Call:
        index = (
            (Ellipsis, slice(start, stop, step)) if axis == 0 else (slice(None),) * axis + (slice(start, stop, step),)
        )
        return lambda x: x[index]

    def _mean(self, node: Node, axes: list[int], keepdim: bool) -> Call:
        shape = self.shapes[node.inputs[0]]
        if len(shape) == 3 and sorted(axes) == [1, 2]:  # a global average pool by another name
            kernel, threads = self.native.adaptive_avg_pool2d, self.threads
            size = (1, 1, shape[0]) if keepdim else (shape[0],)
            return lambda x: kernel(_ready(x), (1, 1), threads).reshape(len(x), *size)
        return lambda x: channels_last(reference.mean({}, channels_first(x), axes=axes, keepdim=keepdim))

    def _softmax(self, node: Node, axis: int) -> Call:
        return lambda x: channels_last(reference.softmax({}, channels_first(x), axis=axis))

    def _sign(self, node: Node) -> Call:
        return lambda x: reference.sign({}, x)

    def _quantize(self, node: Node, qmin: int, qmax: int) -> Call:
        weights = {role: self._vector(name) for role, name in node.weights.items()}
        return lambda x: channels_last(reference.quantize(weights, channels_first(x), qmin=qmin, qmax=qmax))


def _ready(x: Array) -> Array:
    """Contiguous, as kernels expect; views come from slices only."""
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)
