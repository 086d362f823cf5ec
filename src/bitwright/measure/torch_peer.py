"""The same computation in PyTorch, float32, eager: a peer that speed is compared with.

The peer gets every advantage of a float network that PyTorch gives without compiling: dense weights, channels-last
images, batch norm folded into the convolution before it, activations in place, `torch.inference_mode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.runtime.graph import Graph, Node

if TYPE_CHECKING:
    import torch

Array = np.ndarray


def open_torch(graph: Graph, weights: Mapping[str, Array], threads: int) -> Callable[..., list[Array]]:
    """A function of the input arrays that gives the list of outputs, run by torch on `threads` threads.

    The number of threads is a setting of the whole process, which every call makes. Raises ImportError without torch.
    """
    import torch

    steps = [(_operation(node, roles), node.inputs, result) for node, roles, result in _folded(graph, weights)]
    frees = _frees(graph, steps)

    def run(*inputs: Array) -> list[Array]:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            values: dict[int, torch.Tensor] = {i: _image(torch.from_numpy(x)) for i, x in enumerate(inputs)}
            for (function, needed, result), dead in zip(steps, frees, strict=True):
                values[result] = function(*[values[i] for i in needed])
                for i in dead:
                    del values[i]
            return [values[i].contiguous().numpy() for i in graph.outputs]

    return run


def _frees(graph: Graph, steps: list[tuple[Any, tuple[int, ...], int]]) -> list[set[int]]:
    """For every step the values that nobody needs after it."""
    needed, frees = set(graph.outputs), []
    for _, inputs, result in reversed(steps):
        frees.append({*inputs, result} - needed)
        needed.update(inputs)
    return frees[::-1]


def _folded(graph: Graph, weights: Mapping[str, Array]) -> list[tuple[Node, dict[str, Array], int]]:
    """Nodes, their weights by role, and the value they make: an affine alone behind a convolution is part of it."""
    first = len(graph.inputs)
    readers: dict[int, list[int]] = {value: [-1] for value in graph.outputs}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            readers.setdefault(value, []).append(index)
    found, gone = [], set()
    for index, node in enumerate(graph.nodes):
        if index in gone:
            continue
        roles, result = {role: weights[name] for role, name in node.weights.items()}, first + index
        follower = readers.get(result, [])
        if node.op in ("conv2d", "linear") and len(follower) == 1 and follower[0] >= 0:
            after = graph.nodes[follower[0]]
            if after.op == "affine":
                scale, shift = (weights[after.weights[role]] for role in ("scale", "shift"))
                wide = scale.reshape(-1, *(1,) * (roles["weight"].ndim - 1))
                roles = {"weight": roles["weight"] * wide, "bias": roles.get("bias", np.float32(0)) * scale + shift}
                result = first + follower[0]
                gone.add(follower[0])
        found.append((node, roles, result))
    return found


def _image(x: torch.Tensor) -> torch.Tensor:
    import torch

    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _operation(node: Node, roles: Mapping[str, Array]) -> Callable[..., torch.Tensor]:
    import torch

    tensors = {role: _image(torch.from_numpy(np.array(array))) for role, array in roles.items()}
    return OPERATIONS[node.op](tensors, node.attributes)


Weights = Mapping[str, Any]
Attributes = Mapping[str, Any]
Call = Callable[..., Any]


def _scaled(roles: Weights, attributes: Attributes) -> Call:
    def run(x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * roles["scale"].view(shape) + roles["shift"].view(shape)

    return run


def _conv2d(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    window = {key: tuple(attributes[key]) for key in ("stride", "padding", "dilation")}
    return lambda x: functional.conv2d(x, roles["weight"], roles.get("bias"), groups=attributes["groups"], **window)


def _linear(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return lambda x: functional.linear(x, roles["weight"], roles.get("bias"))


def _relu(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return functional.relu


def _prelu(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return lambda x: functional.prelu(x, roles["slope"])


def _clamp(roles: Weights, attributes: Attributes) -> Call:
    return lambda x: x.clamp(attributes["low"], attributes["high"])


def _plain(name: str) -> Callable[[Weights, Attributes], Call]:
    """An operation that torch has under this name for one tensor."""

    def make(roles: Weights, attributes: Attributes) -> Call:
        import torch

        call: Call = getattr(torch, name)
        return call

    return make


def _elu(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return lambda x: functional.elu(x, attributes["alpha"])


def _gelu(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return functional.gelu


def _maxout(roles: Weights, attributes: Attributes) -> Call:
    return lambda x: x.unflatten(1, (-1, attributes["pieces"])).amax(2)


def _response_norm(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    size, alpha, beta, k = (attributes[key] for key in ("size", "alpha", "beta", "k"))
    return lambda x: functional.local_response_norm(x, size, alpha * size, beta, k)


def _group_norm(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return lambda x: functional.group_norm(x, attributes["groups"], eps=attributes["epsilon"])


def _sign(roles: Weights, attributes: Attributes) -> Call:
    import torch

    one = torch.ones(())
    return lambda x: torch.where(x >= 0, one, -one)


def _quantize(roles: Weights, attributes: Attributes) -> Call:
    def run(x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *(1,) * (x.ndim - 2)) if roles["scale"].numel() > 1 else ()
        scale, zero = (roles[role].view(shape) for role in ("scale", "zero_point"))
        low, high = attributes["qmin"] - zero, attributes["qmax"] - zero
        return (x * (1 / scale)).round().maximum(low).minimum(high) * scale

    return run


def _max_pool2d(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    kernel, stride, padding, dilation = (tuple(attributes[key]) for key in ("kernel", "stride", "padding", "dilation"))
    return lambda x: functional.max_pool2d(x, kernel, stride, padding, dilation, attributes["ceil"])


def _avg_pool2d(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    kernel, stride, padding = (tuple(attributes[key]) for key in ("kernel", "stride", "padding"))
    ceil, count = attributes["ceil"], attributes["count_include_pad"]
    return lambda x: functional.avg_pool2d(x, kernel, stride, padding, ceil, count)


def _adaptive_avg_pool2d(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return lambda x: functional.adaptive_avg_pool2d(x, tuple(attributes["size"]))


def _adaptive_max_pool2d(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    return lambda x: functional.adaptive_max_pool2d(x, tuple(attributes["size"]))


def _concat(roles: Weights, attributes: Attributes) -> Call:
    import torch

    return lambda *inputs: torch.cat(inputs, attributes["axis"] + 1)


def _add(roles: Weights, attributes: Attributes) -> Call:
    return lambda a, b: a + b


def _mul(roles: Weights, attributes: Attributes) -> Call:
    return lambda a, b: a * b


def _flatten(roles: Weights, attributes: Attributes) -> Call:
    return lambda x: x.flatten(1)


def _unflatten(roles: Weights, attributes: Attributes) -> Call:
    return lambda x: x.unflatten(1, attributes["shape"])


def _pad(roles: Weights, attributes: Attributes) -> Call:
    from torch.nn import functional

    pairs = list(zip(attributes["before"], attributes["after"], strict=True))
    widths = [n for pair in reversed(pairs) for n in pair]
    return lambda x: functional.pad(x, widths, value=attributes["value"])


def _slice(roles: Weights, attributes: Attributes) -> Call:
    span = slice(attributes["start"], attributes["stop"], attributes["step"])
    index = (slice(None),) * (attributes["axis"] + 1) + (span,)
    return lambda x: x[index]


def _mean(roles: Weights, attributes: Attributes) -> Call:
    axes = [a + 1 for a in attributes["axes"]]
    return lambda x: x.mean(axes, keepdim=attributes["keepdim"])


def _softmax(roles: Weights, attributes: Attributes) -> Call:
    return lambda x: x.softmax(attributes["axis"] + 1)


OPERATIONS: dict[str, Callable[[Weights, Attributes], Call]] = {
    "normalize": _scaled,
    "affine": _scaled,
    "conv2d": _conv2d,
    "linear": _linear,
    "relu": _relu,
    "prelu": _prelu,
    "clamp": _clamp,
    "abs": _plain("abs"),
    "sigmoid": _plain("sigmoid"),
    "tanh": _plain("tanh"),
    "elu": _elu,
    "gelu": _gelu,
    "sqrt": _plain("sqrt"),
    "rsqrt": _plain("rsqrt"),
    "maxout": _maxout,
    "response_norm": _response_norm,
    "group_norm": _group_norm,
    "sign": _sign,
    "quantize": _quantize,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "add": _add,
    "mul": _mul,
    "concat": _concat,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "pad": _pad,
    "slice": _slice,
    "mean": _mean,
    "softmax": _softmax,
}
"""What the engine's operations are in torch, made ready from their weights by role and their attributes."""
