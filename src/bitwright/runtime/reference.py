"""The reference engine: every operation in plain NumPy, laid out NCHW, written to be read. It is the oracle.

Values are float32. Sums (convolution, linear, means) are accumulated in float64 and rounded to float32 once at the end,
so a result is the correctly rounded one for all but a vanishing share of inputs, and a fast engine can be measured
against it. Integer layers (FORMAT.md 8) are exact up to the sum; they and the elementwise operations round after each
step, as FORMAT.md fixes it. NaN goes in and comes out as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from bitwright.packing.lattice import Lattice, find_lattice
from bitwright.runtime.domains import Domain, domains, integer_layer
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.shapes import limits, window_count

Array = np.ndarray
Weights = Mapping[str, Array]
See = Callable[[int, list[Array], Array], Array]


def run_reference(graph: Graph, weights: Mapping[str, Array], inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """The graph's outputs for inputs (N, *shape), float32 or, for `graph.pixel_inputs()`, uint8.

    `weights` maps tensor names to float32 arrays. The graph must have passed `validate`. Raises `BitwrightError` as
    `domains` does.
    """
    return prepare(graph, weights)(*inputs)


def prepare(graph: Graph, weights: Mapping[str, Array], see: See | None = None) -> Callable[..., tuple[Array, ...]]:
    """`run_reference` as a function of the inputs, with what depends on the weights alone computed once.

    `see(index, inputs, value)` is shown what node `index` made of its inputs and gives what its readers are to have.
    """
    coded = domains(graph, weights)
    lattices = {name: find_lattice(weights[name]) for name in sorted(_coded_weights(graph, coded))}
    calls = [_call(node, coded[node.inputs[0]], weights, lattices) for node in graph.nodes]

    def run(*inputs: Array) -> tuple[Array, ...]:
        values = list(inputs)
        with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN are values like others
            for index, (node, call) in enumerate(zip(graph.nodes, calls, strict=True)):
                given = [values[i] for i in node.inputs]
                value = call(*given)
                values.append(value if see is None else see(index, given, value))
        return tuple(values[i] for i in graph.outputs)

    return run


def _coded_weights(graph: Graph, coded: list[Domain | None]) -> set[str]:
    """The weights of the layers that read coded values."""
    return {n.weights["weight"] for n in graph.nodes if n.op in SUMS and coded[n.inputs[0]] is not None}


def _call(
    node: Node, domain: Domain | None, weights: Mapping[str, Array], lattices: Mapping[str, Lattice | None]
) -> Callable[..., Array]:
    """A node as a function of its inputs."""
    roles = {role: weights[name] for role, name in node.weights.items()}
    lattice = lattices.get(node.weights.get("weight", ""))
    if integer_layer(node, domain, lattice) and domain is not None and lattice is not None:
        return partial(_integer_sums, node, domain, lattice, roles.get("bias"))
    return partial(OPERATIONS[node.op], roles, **node.arguments)


def per_channel(vector: Array, rank: int) -> Array:
    """A vector [C] shaped so that it broadcasts along the channels of (N, C, ...), `rank` axes in all."""
    return vector.reshape(1, -1, *(1,) * (rank - 2))


def normalize(weights: Weights, x: Array) -> Array:
    """x * scale + shift, x = pixel / 255 for uint8; every operation rounds to float32."""
    pixels = x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x
    return pixels * per_channel(weights["scale"], x.ndim) + per_channel(weights["shift"], x.ndim)


def affine(weights: Weights, x: Array) -> Array:
    """x * scale + shift per channel, rounded after the product and after the sum."""
    return x * per_channel(weights["scale"], x.ndim) + per_channel(weights["shift"], x.ndim)


def _extend(x: Array, size: list[int], before: list[int], value: float) -> Array:
    """x (N, C, H, W) with `before` rows and columns of `value` in front, and cut or filled behind to `size`."""
    extended = np.full((*x.shape[:2], *size), value, x.dtype)
    h, w = (max(0, min(size[i] - before[i], x.shape[2 + i])) for i in range(2))
    extended[:, :, before[0] : before[0] + h, before[1] : before[1] + w] = x[:, :, :h, :w]
    return extended


def _taps(
    x: Array,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    fill: float = 0.0,
    ceil: bool = False,
) -> Iterator[tuple[int, int, Array]]:
    """For each kernel position (i, j): the input element under it for every window, (N, C, Ho, Wo)."""
    count = [window_count(x.shape[2 + a], kernel[a], stride[a], padding[a], dilation[a], ceil) for a in range(2)]
    size = [(count[a] - 1) * stride[a] + (kernel[a] - 1) * dilation[a] + 1 for a in range(2)]
    extended = _extend(x, size, padding, fill)
    span = [(count[a] - 1) * stride[a] + 1 for a in range(2)]
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield i, j, extended[:, :, top : top + span[0] : stride[0], left : left + span[1] : stride[1]]


def convolve(
    weight: Array, x: Array, *, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Array:
    """Cross-correlation of x (N, C, H, W) with weight (O, C/groups, kh, kw), sums in float64."""
    outputs, inputs, *kernel = weight.shape
    filters = weight.astype(np.float64).reshape(groups, outputs // groups, inputs, *kernel)
    total: Any = 0.0
    for i, j, tap in _taps(x, kernel, stride, padding, dilation):
        n, _, h, w = tap.shape
        columns = tap.astype(np.float64).reshape(n, groups, inputs, h * w)
        total = total + (filters[..., i, j] @ columns).reshape(n, outputs, h, w)
    return np.asarray(total)


def multiply(weight: Array, x: Array) -> Array:
    """x (N, I) times the transpose of weight (O, I), sums in float64."""
    return np.asarray(x.astype(np.float64) @ weight.astype(np.float64).T)


SUMS: dict[str, Callable[..., Array]] = {"conv2d": convolve, "linear": multiply}


def conv2d(weights: Weights, x: Array, **window: Any) -> Array:
    """Cross-correlation plus bias, rounded once."""
    return _plus_bias(convolve(weights["weight"], x, **window), weights)


def linear(weights: Weights, x: Array) -> Array:
    """Matrix product plus bias, rounded once."""
    return _plus_bias(multiply(weights["weight"], x), weights)


def _plus_bias(total: Array, weights: Weights) -> Array:
    if "bias" in weights:
        total = total + per_channel(weights["bias"], total.ndim)
    return total.astype(np.float32)


def _integer_sums(node: Node, domain: Domain, lattice: Lattice, bias: Array | None, x: Array) -> Array:
    """An integer layer: exact sums of m * k, then float32(sum) * float32(magnitude * scale), then the bias.

    With two magnitudes that is done for k = 1 and for k = -1 (as a positive sum) apart, and the second subtracted.
    """
    m = np.rint(x.astype(np.float64) / np.float64(domain.scale))

    def scaled(integers: Array, magnitude: Array) -> Array:
        total = SUMS[node.op](integers, m, **node.arguments)  # whole numbers below 2^31: exact in float64
        return (total + 0.0).astype(np.float32) * per_channel(magnitude * domain.scale, total.ndim)  # without -0.0

    if lattice.two_magnitudes:
        y = scaled(lattice.integers == 1, lattice.positive) - scaled(lattice.integers == -1, lattice.negative)
    else:
        y = scaled(lattice.integers, lattice.positive)
    return y if bias is None else y + per_channel(bias, y.ndim)


def sign(weights: Weights, x: Array) -> Array:
    """+1 where x >= 0, else -1; -1 for NaN."""
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def quantize(weights: Weights, x: Array, *, qmin: int, qmax: int) -> Array:
    """The nearest scale * m, qmin - zero_point <= m <= qmax - zero_point; the lowest for NaN."""
    scale, zero = (per_channel(weights[role], x.ndim) for role in ("scale", "zero_point"))
    low, high = np.float32(qmin) - zero, np.float32(qmax) - zero
    m = np.rint(x * (np.float32(1) / scale))
    m = np.where(m > low, np.minimum(m, high), low) + np.float32(0)  # -0.0 becomes 0.0: m is a whole number
    return np.asarray(m * scale, np.float32)


def relu(weights: Weights, x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, np.float32(0))


def prelu(weights: Weights, x: Array) -> Array:
    """x where x >= 0, else slope * x per channel."""
    return np.where(x >= 0, x, x * per_channel(weights["slope"], x.ndim))


def clamp(weights: Weights, x: Array, *, low: float | None, high: float | None) -> Array:
    """min(max(x, low), high)."""
    low, high = limits(low, high)
    return np.minimum(np.maximum(x, np.float32(low)), np.float32(high))


def absolute(weights: Weights, x: Array) -> Array:
    """|x|."""
    return np.abs(x)


def sigmoid(weights: Weights, x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def tanh(weights: Weights, x: Array) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(x.astype(np.float64)).astype(np.float32)


def elu(weights: Weights, x: Array, *, alpha: float) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(x.astype(np.float64))).astype(np.float32)


def gelu(weights: Weights, x: Array) -> Array:
    """x / 2 * erfc(-x / sqrt(2)): x times the normal distribution's probability of less."""
    return np.asarray(x / 2 * _erfc(x.astype(np.float64) / -math.sqrt(2)), np.float32)


def sqrt(weights: Weights, x: Array) -> Array:
    """The square root."""
    return np.sqrt(x)


def rsqrt(weights: Weights, x: Array) -> Array:
    """1 / sqrt(x)."""
    with np.errstate(divide="ignore"):
        return (1 / np.sqrt(x.astype(np.float64))).astype(np.float32)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def maxout(weights: Weights, x: Array, *, pieces: int) -> Array:
    """The largest of each `pieces` neighbouring channels."""
    return x.reshape(len(x), x.shape[1] // pieces, pieces, *x.shape[2:]).max(axis=2)


def response_norm(weights: Weights, x: Array, *, size: int, alpha: float, beta: float, k: float) -> Array:
    """x / (k + alpha * the squares of `size` channels around, added up)^beta."""
    squares = np.zeros((len(x), x.shape[1] + size - 1, *x.shape[2:]))
    squares[:, size // 2 : size // 2 + x.shape[1]] = x.astype(np.float64) ** 2
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    return np.asarray(x / (k + alpha * sums) ** beta, np.float32)


def group_norm(weights: Weights, x: Array, *, groups: int, epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon), of the numbers of each group of neighbouring channels."""
    grouped = x.reshape(len(x), groups, math.prod(x.shape[1:]) // groups).astype(np.float64)
    centred = grouped - grouped.mean(axis=2, keepdims=True)
    variance = (centred**2).mean(axis=2, keepdims=True)
    return (centred / np.sqrt(variance + epsilon)).reshape(x.shape).astype(np.float32)


def max_pool2d(
    weights: Weights,
    x: Array,
    *,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil: bool,
) -> Array:
    """The largest element of each window; padding never wins, and a NaN in the window does."""
    result: Any = np.float32(-np.inf)
    for _, _, tap in _taps(x, kernel, stride, padding, dilation, -np.inf, ceil):
        result = np.maximum(result, tap)
    return np.asarray(result)


def avg_pool2d(
    weights: Weights,
    x: Array,
    *,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil: bool,
    count_include_pad: bool,
) -> Array:
    """The mean of each window, over the whole of it or (count_include_pad false) its part inside the image.

    What a window sticks out beyond the padding (`ceil`) never counts.
    """
    total = sum(tap.astype(np.float64) for _, _, tap in _taps(x, kernel, stride, padding, [1, 1], ceil=ceil))
    height, width = np.shape(total)[2:]
    size = [(height - 1) * stride[0] + kernel[0], (width - 1) * stride[1] + kernel[1]]
    border = [2 * p if count_include_pad else 0 for p in padding]
    counted = np.ones((1, 1, x.shape[2] + border[0], x.shape[3] + border[1]))
    marks = _extend(counted, size, [0, 0] if count_include_pad else padding, 0.0)
    count = sum(tap for _, _, tap in _taps(marks, kernel, stride, [0, 0], [1, 1]))
    return np.asarray(total / count, np.float32)


def adaptive_avg_pool2d(weights: Weights, x: Array, *, size: list[int]) -> Array:
    """Means of size[0] x size[1] regions; region i of n goes from floor(i H / n) to ceil((i + 1) H / n)."""
    return _of_regions(x, size, lambda region: region.mean(axis=(2, 3), dtype=np.float64))


def adaptive_max_pool2d(weights: Weights, x: Array, *, size: list[int]) -> Array:
    """The largest elements of the same regions."""
    return _of_regions(x, size, lambda region: region.max(axis=(2, 3)))


def _of_regions(x: Array, size: list[int], reduce: Callable[[Array], Array]) -> Array:
    result = np.empty((*x.shape[:2], *size), np.float32)
    rows, columns = (_regions(x.shape[2 + a], size[a]) for a in range(2))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            result[:, :, i, j] = reduce(x[:, :, row, column])
    return result


def _regions(size: int, count: int) -> list[slice]:
    return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def add(weights: Weights, a: Array, b: Array) -> Array:
    """The sum of two values; the second may have one channel, for all of the first's."""
    return a + b


def mul(weights: Weights, x: Array, y: Array) -> Array:
    """The product, likewise."""
    return x * y


def concat(weights: Weights, *inputs: Array, axis: int) -> Array:
    """The inputs one behind the other."""
    return np.concatenate(inputs, axis=axis + 1)


def flatten(weights: Weights, x: Array) -> Array:
    """All axes but the first in one."""
    return x.reshape(len(x), int(np.prod(x.shape[1:])))


def unflatten(weights: Weights, x: Array, *, shape: list[int]) -> Array:
    """Features as an image (C, H, W), whose elements they are in that order."""
    return x.reshape(len(x), *shape)


def pad(weights: Weights, x: Array, *, before: list[int], after: list[int], value: float) -> Array:
    """A border of `value`, `before` and `after` each axis behind the batch."""
    return np.pad(x, [(0, 0), *zip(before, after, strict=True)], constant_values=np.float32(value))


def slice_axis(weights: Weights, x: Array, *, axis: int, start: int, stop: int, step: int) -> Array:
    """Every step-th element from start to before stop of one axis."""
    return x[(slice(None),) * (axis + 1) + (slice(start, stop, step),)]


def mean(weights: Weights, x: Array, *, axes: list[int], keepdim: bool) -> Array:
    """The mean over some axes."""
    return x.mean(axis=tuple(a + 1 for a in axes), keepdims=keepdim, dtype=np.float64).astype(np.float32)


def softmax(weights: Weights, x: Array, *, axis: int) -> Array:
    """exp(x) / sum(exp(x)) along an axis."""
    powers = np.exp(x.astype(np.float64) - x.max(axis=axis + 1, keepdims=True, initial=-np.inf))
    return (powers / powers.sum(axis=axis + 1, keepdims=True)).astype(np.float32)


OPERATIONS: dict[str, Callable[..., Array]] = {
    "normalize": normalize,
    "conv2d": conv2d,
    "linear": linear,
    "affine": affine,
    "relu": relu,
    "prelu": prelu,
    "clamp": clamp,
    "abs": absolute,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "elu": elu,
    "gelu": gelu,
    "sqrt": sqrt,
    "rsqrt": rsqrt,
    "maxout": maxout,
    "response_norm": response_norm,
    "group_norm": group_norm,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "adaptive_max_pool2d": adaptive_max_pool2d,
    "add": add,
    "mul": mul,
    "concat": concat,
    "flatten": flatten,
    "unflatten": unflatten,
    "pad": pad,
    "slice": slice_axis,
    "mean": mean,
    "softmax": softmax,
    "sign": sign,
    "quantize": quantize,
}
