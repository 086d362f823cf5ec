"""Where the time of a network goes: a row for every step of the engine's plan, beside what the literature counts.

The literature's columns count operations, they do not measure. XNOR-Net's speed-up of a layer, whose outputs each sum n
products, is 64 n / (a w n + 64) for activations of a bits and weights of w bits: 64 one-bit products in an instruction
against one float product, and one float operation per output (58x and the like for a = w = 1). Its saving of memory is
32 / w. The measured columns beside them are the time of the same layer on this engine's float32 kernels over its time
here (where another kernel runs), and the bytes of the dense float32 weight over those in the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bitwright.measure.peers import without_quantizers
from bitwright.packing.inspect import inspect_file
from bitwright.packing.lattice import find_lattice
from bitwright.runtime.domains import LAYERS, domains
from bitwright.runtime.engine import Model
from bitwright.runtime.graph import Graph, Node, validate

Array = np.ndarray
FAMILIES = {"bits": "popcount", "bytes": "int8", "conv2d": "float32", "linear": "float32", "depthwise": "float32"}
"""The first word of a kernel's name, and the peak that it could at best reach; others, sparse ones, have no such. On
tiles (amx) bits are multiplied as bytes."""


@dataclass(frozen=True)
class LayerTime:
    """One step. `gops`: two operations per multiply-accumulate of the dense layer; `bytes`: of the weights in memory
    and of the values read and written. None where it does not apply."""

    name: str
    does: str
    kernel: str
    ms: float
    share: float
    bytes: int
    gops: float | None = None
    of_peak: float | None = None
    counted_speedup: float | None = None
    measured_speedup: float | None = None
    counted_saving: float | None = None
    measured_saving: float | None = None


@dataclass(frozen=True)
class _Layer:
    """A convolution or linear node: dense operations per image, products per output, bits of both sides (or None)."""

    node: Node
    operations: float
    products: int
    activation_bits: int | None
    weight_bits: int | None


def peaks(threads: int = 1) -> dict[str, float]:
    """Operations per second of loops on registers alone at the current level, times the threads, by family."""
    from bitwright import _native

    many = 0.01 / _native.fma_seconds(1e6) * 1e6  # about 10 ms
    return {
        "float32": threads * many / min(_native.fma_seconds(many) for _ in range(7)),
        "int8": threads * _native.byte_peak(),
        "popcount": threads * _native.popcount_peak(),
    }


def layer_times(path: str | os.PathLike[str], model: Model, inputs: tuple[Array, ...]) -> dict[str, Any]:
    """{"layers": rows, `LayerTime` as dicts, "peaks": operations per second by family}; `model` is one of the file."""
    seconds = model.time_steps(*inputs, repeats=30)
    limits, batch, total = peaks(model.threads), len(inputs[0]), sum(seconds)
    layers = _layers(model.graph, model.stored)
    floats = _float_seconds(model, inputs)
    stored = {row["layer"]: row["nbytes"] for row in inspect_file(path).as_dict()["rows"] if row["role"] == "weight"}
    rows = []
    for step, used in zip(model.plan, seconds, strict=True):
        row: dict[str, Any] = {"name": step.name, "does": step.does, "kernel": step.kernel}
        operation = step.operation
        moved = operation.weight_bytes + batch * (sum(operation.input_bytes) + sum(operation.output_bytes))
        row |= {"ms": 1e3 * used, "share": used / total, "bytes": moved}
        key = step.name, step.does.split(" ")[0]
        if layer := layers.get(key):
            row |= _judged(layer, step.kernel, used / batch, limits)
            twin = floats.get(key)
            if twin is not None and twin[0] != step.kernel:
                row["measured_speedup"] = twin[1] / used
            if nbytes := stored.get(step.name):
                row["measured_saving"] = 4 * math.prod(model.stored[layer.node.weights["weight"]].shape) / nbytes
        rows.append(asdict(LayerTime(**row)))
    return {"layers": rows, "peaks": limits}


def _judged(layer: _Layer, kernel: str, seconds: float, limits: Mapping[str, float]) -> dict[str, float | None]:
    """Speed, share of the peak and the literature's count."""
    found: dict[str, float | None] = {"gops": layer.operations / seconds / 1e9}
    a, w = layer.activation_bits, layer.weight_bits
    first, *_, last = kernel.split(" ")
    if family := "int8" if (first, last) == ("bits", "amx") else FAMILIES.get(first):
        planes = a * w if family == "popcount" and a and w else 1
        found["of_peak"] = planes * layer.operations / seconds / limits[family]
    if a and w:
        found["counted_speedup"] = 64 * layer.products / (a * w * layer.products + 64)
    if w:
        found["counted_saving"] = 32 / w
    return found


def _layers(graph: Graph, tensors: Mapping[str, Any]) -> dict[tuple[str, str], _Layer]:
    """Convolutions and linear layers by name and operation; where a module is used twice, neither."""
    dense = {name: tensor.dense() for name, tensor in tensors.items()}
    shapes = validate(graph, {name: array.shape for name, array in dense.items()})
    known, first = domains(graph, dense), len(graph.inputs)
    found: dict[tuple[str, str], _Layer] = {}
    twice = set()
    for index, node in enumerate(graph.nodes):
        if node.op not in LAYERS:
            continue
        key, weight = (node.name, node.op), dense[node.weights["weight"]]
        if key in found:
            twice.add(key)
        products = weight[0].size
        domain = known[node.inputs[0]]
        bits = None if domain is None else (domain.levels - 1).bit_length()
        operations = 2.0 * math.prod(shapes[first + index]) * products
        found[key] = _Layer(node, operations, products, bits, _weight_bits(weight))
    return {key: layer for key, layer in found.items() if key not in twice}


def _weight_bits(weight: Array) -> int | None:
    """Planes of bits of the whole numbers of the lattice; None for floats."""
    lattice = find_lattice(weight)
    if lattice is None:
        return None
    most = int(np.abs(lattice.integers).max(initial=1))
    return most.bit_length() + (0 if bool((lattice.integers & 1).all()) else 1)


def _float_seconds(model: Model, inputs: tuple[Array, ...]) -> dict[tuple[str, str], tuple[str, float]]:
    """Kernel and seconds of every layer of the same network without quantisers and with random float weights."""
    random = np.random.default_rng(0)
    graph, kept = without_quantizers(model.graph, model.stored)
    weights = {name: random.standard_normal(tensor.shape).astype(np.float32) for name, tensor in kept.items()}
    twin = Model(graph, weights, threads=model.threads)
    seconds = twin.time_steps(*inputs, repeats=10)
    return {(s.name, s.does.split(" ")[0]): (s.kernel, used) for s, used in zip(twin.plan, seconds, strict=True)}
