"""The same computation in onnxruntime, float32: the peer that speed is compared with.

The peer gets every advantage of a float network: dense weights, and batch norm as such, which onnxruntime folds into
the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.runtime.graph import Graph, Node, validate
from bitwright.runtime.shapes import limits, window_count

OPSET = 17
IR_VERSION = 8
"""The first that has opset 17, so that older onnxruntimes read the model too."""

Array = np.ndarray


def to_onnx(graph: Graph, weights: Mapping[str, Array]) -> bytes:
    """`graph` as a serialised ONNX model with a free batch size.

    Inputs are float32, "input_0" and so on; one that the graph normalizes takes pixels in 0..1. Needs the package onnx.
    Raises `BitwrightError` (kind "no-peer") where ONNX has no equal operation.
    """
    from onnx import TensorProto, helper

    shapes = validate(graph, {name: array.shape for name, array in weights.items()})
    writer = _Writer(graph, shapes, weights)
    for index, node in enumerate(graph.nodes):
        writer.write(node, len(graph.inputs) + index)

    def declared(name: str, shape: tuple[int, ...]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])

    outputs = []
    for i, value in enumerate(graph.outputs):
        writer.emit("Identity", [writer.name(value)], f"output_{i}")
        outputs.append(declared(f"output_{i}", shapes[value]))
    inputs = [declared(writer.name(i), shape) for i, shape in enumerate(graph.inputs)]
    body = helper.make_graph(writer.nodes, "bitwright", inputs, outputs, list(writer.constants.values()))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def open_peer(graph: Graph, weights: Mapping[str, Array], threads: int) -> Callable[..., list[Array]]:
    """A function of the input arrays that gives the list of outputs, run by onnxruntime on `threads` threads.

    Raises ImportError if onnx or onnxruntime is not installed, `BitwrightError` (kind "no-peer") as `to_onnx` and where
    onnxruntime refuses the model.
    """
    return open_session(to_onnx(graph, weights), len(graph.inputs), threads)


def open_session(model: bytes, inputs: int, threads: int) -> Callable[..., list[Array]]:
    """A function of the arrays "input_0", ..., as `open_peer` gives one, of a serialised ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise BitwrightError(f"no peer: onnxruntime does not take the model: {error}", kind="no-peer") from error
    names = [f"input_{i}" for i in range(inputs)]
    return lambda *arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))


class _Writer:
    """The ONNX nodes and constants while they are being made."""

    def __init__(self, graph: Graph, shapes: list[tuple[int, ...]], weights: Mapping[str, Array]) -> None:
        self.inputs, self.shapes, self.weights = len(graph.inputs), shapes, weights
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def name(self, value: int) -> str:
        return f"input_{value}" if value < self.inputs else f"value_{value}"

    def write(self, node: Node, result: int) -> None:
        inputs = [self.name(value) for value in node.inputs]
        getattr(self, f"_{node.op}")(node, inputs, self.name(result), **node.arguments)

    def emit(self, op: str, inputs: list[str], result: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [result], **attributes))

    def constant(self, name: str, array: Array) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, node: Node, role: str) -> str:
        return self.constant(f"weight {node.weights[role]}", self.weights[node.weights[role]])

    def integers(self, *numbers: int) -> str:
        return self.constant(f"integers {numbers}", np.array(numbers, np.int64))

    def input_shape(self, node: Node) -> tuple[int, ...]:
        return self.shapes[node.inputs[0]]

    def _normalize(self, node: Node, inputs: list[str], result: str) -> None:
        axes = (-1,) + (1,) * (len(self.input_shape(node)) - 1)
        roles = {}
        for role in ("scale", "shift"):
            name = node.weights[role]
            roles[role] = self.constant(f"weight {name} {axes}", self.weights[name].reshape(axes))
        self.emit("Mul", [*inputs, roles["scale"]], f"{result} scaled")
        self.emit("Add", [f"{result} scaled", roles["shift"]], result)

    def _affine(self, node: Node, inputs: list[str], result: str) -> None:
        channels = self.input_shape(node)[0]
        mean = self.constant(f"zeros {channels}", np.zeros(channels, np.float32))
        variance = self.constant(f"ones {channels}", np.ones(channels, np.float32))
        roles = [self.weight(node, "scale"), self.weight(node, "shift")]
        self.emit("BatchNormalization", [*inputs, *roles, mean, variance], result, epsilon=0.0)

    def _conv2d(self, node: Node, inputs: list[str], result: str, **attributes: Any) -> None:
        roles = [self.weight(node, role) for role in ("weight", "bias") if role in node.weights]
        window = {"strides": attributes["stride"], "dilations": attributes["dilation"]}
        self.emit(
            "Conv", [*inputs, *roles], result, pads=attributes["padding"] * 2, group=attributes["groups"], **window
        )

    def _linear(self, node: Node, inputs: list[str], result: str) -> None:
        roles = [self.weight(node, role) for role in ("weight", "bias") if role in node.weights]
        self.emit("Gemm", [*inputs, *roles], result, transB=1)

    def _relu(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Relu", inputs, result)

    def _prelu(self, node: Node, inputs: list[str], result: str) -> None:
        slope = self.weights[node.weights["slope"]].reshape(-1, *(1,) * (len(self.input_shape(node)) - 1))
        self.emit("PRelu", [*inputs, self.constant(f"{result} slope", slope)], result)

    def _clamp(self, node: Node, inputs: list[str], result: str, low: float | None, high: float | None) -> None:
        bounds = [self.constant(f"number {n}", np.array(n, np.float32)) for n in limits(low, high)]
        self.emit("Clip", [*inputs, *bounds], result)

    def _abs(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Abs", inputs, result)

    def _sigmoid(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Sigmoid", inputs, result)

    def _tanh(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Tanh", inputs, result)

    def _elu(self, node: Node, inputs: list[str], result: str, alpha: float) -> None:
        self.emit("Elu", inputs, result, alpha=float(alpha))

    def _gelu(self, node: Node, inputs: list[str], result: str) -> None:
        root, one, half = (self.constant(f"number {n}", np.array(n, np.float32)) for n in (0.5**0.5, 1.0, 0.5))
        self.emit("Mul", [*inputs, root], f"{result} scaled")
        self.emit("Erf", [f"{result} scaled"], f"{result} erf")
        self.emit("Add", [f"{result} erf", one], f"{result} doubled")
        self.emit("Mul", [*inputs, f"{result} doubled"], f"{result} product")
        self.emit("Mul", [f"{result} product", half], result)

    def _sqrt(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Sqrt", inputs, result)

    def _rsqrt(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Sqrt", inputs, f"{result} root")
        self.emit("Reciprocal", [f"{result} root"], result)

    def _maxout(self, node: Node, inputs: list[str], result: str, pieces: int) -> None:
        channels, *others = self.input_shape(node)
        split = self.integers(-1, channels // pieces, pieces, *others)
        self.emit("Reshape", [*inputs, split], f"{result} split")
        self.emit("ReduceMax", [f"{result} split"], result, axes=[2], keepdims=0)

    def _response_norm(
        self, node: Node, inputs: list[str], result: str, size: int, alpha: float, beta: float, k: float
    ) -> None:
        if size % 2 == 0:
            raise BitwrightError(f"no peer: ONNX takes {size} channels from another one on", kind="no-peer")
        self.emit("LRN", inputs, result, size=size, alpha=float(alpha * size), beta=float(beta), bias=float(k))

    def _group_norm(self, node: Node, inputs: list[str], result: str, groups: int, epsilon: float) -> None:
        shape = self.input_shape(node)
        one, zero = (self.constant(f"{n} {groups}", np.full(groups, n, np.float32)) for n in (1.0, 0.0))
        self.emit("Reshape", [*inputs, self.integers(-1, groups, math.prod(shape) // groups)], f"{result} split")
        self.emit("InstanceNormalization", [f"{result} split", one, zero], f"{result} normed", epsilon=float(epsilon))
        self.emit("Reshape", [f"{result} normed", self.integers(-1, *shape)], result)

    def _concat(self, node: Node, inputs: list[str], result: str, axis: int) -> None:
        self.emit("Concat", inputs, result, axis=axis + 1)

    def _mul(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Mul", inputs, result)

    def _add(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Add", inputs, result)

    def _flatten(self, node: Node, inputs: list[str], result: str) -> None:
        self.emit("Flatten", inputs, result, axis=1)

    def _unflatten(self, node: Node, inputs: list[str], result: str, shape: list[int]) -> None:
        self.emit("Reshape", [*inputs, self.integers(-1, *shape)], result)

    def _window(self, node: Node, dilation: list[int], attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Kernel, strides and pads; the pads behind make rounding down give the count that the graph has."""
        kernel, stride, before = attributes["kernel"], attributes["stride"], attributes["padding"]
        after = []
        for size, k, s, b, d in zip(self.input_shape(node)[1:], kernel, stride, before, dilation, strict=True):
            count = window_count(size, k, s, b, d, attributes["ceil"])
            after.append(max(0, (count - 1) * s + d * (k - 1) + 1 - size - b))
        return {"kernel_shape": kernel, "strides": stride, "pads": [*before, *after]}

    def _max_pool2d(self, node: Node, inputs: list[str], result: str, **attributes: Any) -> None:
        dilation = attributes["dilation"]
        self.emit("MaxPool", inputs, result, dilations=dilation, **self._window(node, dilation, attributes))

    def _avg_pool2d(self, node: Node, inputs: list[str], result: str, **attributes: Any) -> None:
        window = self._window(node, [1, 1], attributes)
        beyond = any(a > b for a, b in zip(window["pads"][2:], attributes["padding"], strict=True))
        if beyond and attributes["count_include_pad"]:
            raise BitwrightError(
                "no peer: ONNX counts what an average pool's last window sticks out (ceil mode), torch does not",
                kind="no-peer",
            )
        self.emit("AveragePool", inputs, result, count_include_pad=int(attributes["count_include_pad"]), **window)

    def _parts(self, node: Node, size: list[int]) -> list[int]:
        """The parts of an adaptive pool, if they are equally large."""
        image = self.input_shape(node)[1:]
        if any(n % s for n, s in zip(image, size, strict=True)):
            raise BitwrightError(f"no peer: ONNX has no adaptive pool of {image} to {tuple(size)}", kind="no-peer")
        return [n // s for n, s in zip(image, size, strict=True)]

    def _adaptive_avg_pool2d(self, node: Node, inputs: list[str], result: str, size: list[int]) -> None:
        kernel = self._parts(node, size)
        if size == [1, 1]:
            self.emit("GlobalAveragePool", inputs, result)
        else:
            self.emit("AveragePool", inputs, result, kernel_shape=kernel, strides=kernel)

    def _adaptive_max_pool2d(self, node: Node, inputs: list[str], result: str, size: list[int]) -> None:
        kernel = self._parts(node, size)
        self.emit("MaxPool", inputs, result, kernel_shape=kernel, strides=kernel)

    def _pad(
        self, node: Node, inputs: list[str], result: str, before: list[int], after: list[int], value: float
    ) -> None:
        borders = [*inputs, self.integers(0, *before, 0, *after)]
        if value:  # 0 need not be said, and onnxruntime can't quantise every pad that says it
            borders.append(self.constant(f"{result} filler", np.array(value, np.float32)))
        self.emit("Pad", borders, result, mode="constant")

    def _slice(self, node: Node, inputs: list[str], result: str, axis: int, start: int, stop: int, step: int) -> None:
        bounds = [self.integers(n) for n in (start, stop, axis + 1, step)]
        self.emit("Slice", [*inputs, *bounds], result)

    def _mean(self, node: Node, inputs: list[str], result: str, axes: list[int], keepdim: bool) -> None:
        self.emit("ReduceMean", inputs, result, axes=[a + 1 for a in axes], keepdims=int(keepdim))

    def _softmax(self, node: Node, inputs: list[str], result: str, axis: int) -> None:
        self.emit("Softmax", inputs, result, axis=axis + 1)

    def _sign(self, node: Node, inputs: list[str], result: str) -> None:
        zero, one, minus = (self.constant(f"number {n}", np.array(n, np.float32)) for n in (0.0, 1.0, -1.0))
        self.emit("GreaterOrEqual", [*inputs, zero], f"{result} positive")
        self.emit("Where", [f"{result} positive", one, minus], result)

    def _quantize(self, node: Node, inputs: list[str], result: str, qmin: int, qmax: int) -> None:
        axes = (-1,) + (1,) * (len(self.input_shape(node)) - 1)
        scale, zero = (self.weights[node.weights[role]].reshape(axes) for role in ("scale", "zero_point"))
        bounds = {"reciprocal": np.float32(1) / scale, "low": qmin - zero, "high": qmax - zero, "scale": scale}
        names = {key: self.constant(f"{result} {key}", array.astype(np.float32)) for key, array in bounds.items()}
        self.emit("Mul", [*inputs, names["reciprocal"]], f"{result} divided")
        self.emit("Round", [f"{result} divided"], f"{result} rounded")
        self.emit("Max", [f"{result} rounded", names["low"]], f"{result} raised")
        self.emit("Min", [f"{result} raised", names["high"]], f"{result} clipped")
        self.emit("Mul", [f"{result} clipped", names["scale"]], result)
