"""From a torch module to the engine graph, through `torch.export`.

`packing/export.py` exports the module; each ATen operation is handed to its rule in `packing/rules/`. Whatever depends
on weights alone is computed here, once. Batch norm becomes an `affine` node and is never folded into weights: that
would destroy their structure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import nn

import bitwright.ops  # noqa: F401  (torch.ops.bitwright)
from bitwright.errors import BitwrightError
from bitwright.packing import rules
from bitwright.packing.export import export
from bitwright.packing.lattice import find_lattice
from bitwright.packing.rules.rule import exported_shape
from bitwright.precisions import in_use
from bitwright.runtime.domains import LAYERS, domains, integer_layer
from bitwright.runtime.graph import Graph, Node, validate


class Normalization(Protocol):
    """What `preprocess` must have: `data.preprocess.Preprocess` does."""

    @property
    def scale(self) -> np.ndarray: ...
    @property
    def shift(self) -> np.ndarray: ...


def lower(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    preprocess: Normalization | tuple[Normalization | None, ...] | None = None,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """The engine graph of `model`, and its tensors (float32) by name.

    Tensors are called as in the state_dict, nodes as the modules they come from; the scale and shift of a batch norm
    `bn` are `bn.scale` and `bn.shift`:

        scale = gamma / sqrt(var + eps),   shift = beta - mean * scale      (in float64, then rounded once)

    `example_inputs` is a tuple of float32 tensors with a batch axis, as for `torch.export`; only their shapes matter.
    `preprocess` (one for the sole input, or a tuple with one or None per input) puts the normalisation in front, so
    that the graph takes pixels: uint8, or float in 0..1. The model itself is left as it was, training mode included;
    one of several precisions is lowered as it is set (`bitwright.precisions`).

    Raises `BitwrightError`: kind "unsupported-op" for an operation that the engine lacks, "export" for a module that
    torch.export can't trace or that fixes its batch size, "dtype" for weights that are not float32, "not-finite" for
    weights with NaN or infinity, "inputs" for a model or example inputs that are not as described, "value" for a layer
    whose sums leave the accumulator that it promises (`QuantConv2d.accumulator`).
    """
    model = in_use(model)
    program, shapes = export(model, example_inputs, pixels=preprocess is not None)
    lowering = Lowering(program, shapes)
    lowering.run(_per_input(preprocess, len(shapes)))
    graph, weights = lowering.result()
    graph = _with_accumulators(graph, model)
    validate(graph, {name: array.shape for name, array in weights.items()})
    coded = domains(graph, weights)
    for node in graph.nodes:
        if "accumulator" in node.attributes:
            integer_layer(node, coded[node.inputs[0]], find_lattice(weights[node.weights["weight"]]))
    return graph, weights


def _with_accumulators(graph: Graph, model: nn.Module) -> Graph:
    """What layers promise about their sums, at their nodes."""
    promised = {name: bits for name, m in model.named_modules() if (bits := getattr(m, "accumulator", 0))}
    nodes = [
        replace(node, attributes={**node.attributes, "accumulator": promised[node.name]})
        if node.op in LAYERS and node.name in promised
        else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


def _per_input(preprocess: Any, count: int) -> tuple[Normalization | None, ...]:
    if preprocess is None:
        return (None,) * count
    entries = preprocess if isinstance(preprocess, tuple) else (preprocess,)
    if len(entries) != count:
        raise BitwrightError(
            f"preprocess has {len(entries)} entries for {count} inputs; give a tuple with one (or None) per input",
            kind="inputs",
        )
    return entries


@dataclass(frozen=True)
class Constant:
    """A tensor that depends on no input. `origin` is the state_dict name it is, or comes from."""

    tensor: torch.Tensor
    origin: str = ""


class Lowering:
    """The graph while it is being built; the rules of `packing/rules/` use its public methods."""

    def __init__(self, program: torch.export.ExportedProgram, input_shapes: list[tuple[int, ...]]) -> None:
        self.program = program
        self.inputs = input_shapes
        self.nodes: list[Node] = []
        self.outputs: list[int] = []
        self.weights: dict[str, np.ndarray] = {}
        self._shapes = list(input_shapes)
        self._known: dict[Any, int | Constant] = {}
        self._reshaped: dict[tuple[int, tuple[int, ...]], int] = {}
        self._batch = ""

    def run(self, preprocess: tuple[Normalization | None, ...]) -> None:
        """Walk the exported graph."""
        self._placeholders(preprocess)
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._outputs(node)

    def result(self) -> tuple[Graph, dict[str, np.ndarray]]:
        """The graph without what no output needs, and the tensors that are left."""
        first = len(self.inputs)
        needed = set(self.outputs)
        for index in range(len(self.nodes) - 1, -1, -1):
            if first + index in needed:
                needed.update(self.nodes[index].inputs)
        kept = [index for index in range(len(self.nodes)) if first + index in needed]
        number = {i: i for i in range(first)} | {first + index: first + i for i, index in enumerate(kept)}
        nodes = []
        for index in kept:
            node = self.nodes[index]
            inputs = tuple(number[i] for i in node.inputs)
            nodes.append(Node(node.op, inputs, node.attributes, node.weights, node.name))
        used = {name for node in nodes for name in node.weights.values()}
        graph = Graph(tuple(self.inputs), tuple(nodes), tuple(number[i] for i in self.outputs))
        return graph, {name: array for name, array in self.weights.items() if name in used}

    # What the rules call.

    def fail(self, node: Any, reason: str) -> NoReturn:
        """The error for an operation that can't be lowered: what, in which module, what to do."""
        where = module_path(node)
        place = f"module {where!r}" if where else "the model's forward"
        raise BitwrightError(f"the engine can't run {node.target} in {place}: {reason}", kind="unsupported-op")

    def is_constant(self, argument: Any) -> bool:
        """Whether an argument is a number or depends on weights alone."""
        return isinstance(argument, int | float) or isinstance(self._known.get(argument), Constant)

    def constant(self, node: Any, argument: Any) -> Constant:
        """The argument as a constant; an error if it depends on an input."""
        if isinstance(argument, int | float):
            return Constant(torch.tensor(float(argument)))
        value = self._known.get(argument)
        if not isinstance(value, Constant):
            self.fail(node, "its weight is computed from an input; only constant weights can be packed")
        return value

    def value(self, node: Any, argument: Any) -> int:
        """The number of the value that an argument of `node` is, flattened or made an image if the model did so."""
        value = self._known.get(argument)
        if not isinstance(value, int):
            self.fail(node, "one of its operands is no activation: a constant, or the batch size")
        shape = exported_shape(argument)
        if shape == self._shapes[value]:
            return value
        flat, image = shape == (math.prod(self._shapes[value]),), len(self._shapes[value]) == 1 and len(shape) == 3
        if not flat and not image:
            self.fail(
                node,
                f"its input was reshaped from {self._shapes[value]} to {shape}; only flattening, and the way from "
                "features to an image, are known",
            )
        if (value, shape) not in self._reshaped:
            while exported_shape(argument.args[0]) == shape:  # back to what reshaped it, which names the node
                argument = argument.args[0]
            attributes = {} if flat else {"shape": list(shape)}
            reshaped = self.emit(argument, "flatten" if flat else "unflatten", (value,), shape, attributes)
            self._reshaped[value, shape] = reshaped
        return self._reshaped[value, shape]

    def known(self, argument: Any) -> int | Constant:
        """What an exported node became, whatever its shape."""
        return self._known[argument]

    def computed(self, tensor: torch.Tensor) -> Constant:
        """A tensor made here, rounded to float32."""
        return Constant(tensor.float())

    def producer(self, value: int) -> Node | None:
        """The node that makes a value; None for an input."""
        return self.nodes[value - len(self.inputs)] if value >= len(self.inputs) else None

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of a value without the batch axis."""
        return self._shapes[value]

    def emit(
        self,
        node: Any,
        op: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, Constant] | None = None,
    ) -> int:
        """Add an engine node with a result of `shape`; gives the number of its value."""
        name = module_path(node)
        roles = {role: self._store(node, constant, role, name) for role, constant in (weights or {}).items()}
        self.nodes.append(Node(op, inputs, dict(attributes or {}), roles, name))
        self._shapes.append(shape)
        return len(self._shapes) - 1

    def repeat(self, value: int, source: int) -> int:
        """What the node that made `value` from one other makes from `source`, which has the same shape."""
        made = self.nodes[value - len(self.inputs)]
        self.nodes.append(replace(made, inputs=(source,)))
        self._shapes.append(self._shapes[value])
        return len(self._shapes) - 1

    # How the walk works.

    def _placeholders(self, preprocess: tuple[Normalization | None, ...]) -> None:
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        tensors = {**self.program.constants, **self.program.state_dict}
        names: dict[Any, str] = {}  # tied weights are one tensor, under its first name
        given = 0
        for node in (n for n in self.program.graph.nodes if n.op == "placeholder"):
            spec = specs[node.name]
            if spec.kind.name == "USER_INPUT":
                self._batch = str(node.meta["val"].shape[0])
                self._known[node] = self._normalize(given, preprocess[given])
                given += 1
            elif isinstance(tensors.get(spec.target), torch.Tensor):
                tensor = tensors[spec.target].detach().cpu()
                key = (tensors[spec.target].data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
                self._known[node] = Constant(tensor, names.setdefault(key, spec.target))

    def _normalize(self, index: int, preprocess: Normalization | None) -> int:
        if preprocess is None:
            return index
        roles = {}
        for role in ("scale", "shift"):
            vector = np.asarray(getattr(preprocess, role), np.float32)
            channels = self.inputs[index][0]
            if vector.shape not in ((1,), (channels,)):
                raise BitwrightError(
                    f"preprocess.{role} has shape {vector.shape} but input {index} has {channels} channels (shape "
                    f"{self.inputs[index]}); expected one number per channel, or one for all",
                    kind="inputs",
                )
            spread = torch.from_numpy(np.broadcast_to(vector, (channels,)).copy())
            roles[role] = self._store(None, Constant(spread), role, "preprocess")
        self.nodes.append(Node("normalize", (index,), {}, roles, "preprocess"))
        self._shapes.append(self.inputs[index])
        return len(self._shapes) - 1

    def _call(self, node: Any) -> None:
        operands = node.all_input_nodes
        result = node.meta.get("val")
        if not isinstance(result, torch.Tensor | tuple | list):
            return  # a size, or a check of sizes
        if all(isinstance(self._known.get(operand), Constant) for operand in operands):
            self._known[node] = self._fold(node)
            return
        rule = rules.find_rule(str(node.target))
        if rule is None:
            self.fail(node, rules.remedy(str(node.target)))
        if isinstance(result, torch.Tensor) and (result.ndim == 0 or str(result.shape[0]) != self._batch):
            self.fail(node, "it changes the batch axis; images must stay independent of each other")
        self._known[node] = rule(self, node, rules.bind(node))

    def _fold(self, node: Any) -> Constant:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            self.fail(node, "it draws random numbers; a packed model gives the same output every time")
        values = {operand: self._known[operand] for operand in node.all_input_nodes}
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n].tensor)  # type: ignore[union-attr]
        origins = [v.origin for v in values.values() if isinstance(v, Constant) and v.origin]
        return Constant(node.target(*args, **kwargs), origins[0] if origins else "")

    def _outputs(self, node: Any) -> None:
        specs = self.program.graph_signature.output_specs
        container = self.program.call_spec.out_spec.type
        results = [a for a, spec in zip(node.args[0], specs, strict=True) if spec.kind.name == "USER_OUTPUT"]
        if any(spec.kind.name == "BUFFER_MUTATION" for spec in specs):
            raise BitwrightError(
                "the model changes its own buffers while it runs; a packed model is a pure function. Do it in "
                "training only",
                kind="unsupported-op",
            )
        if container not in (None, tuple, list) or not all(isinstance(a, torch.fx.Node) for a in results):
            raise BitwrightError(
                f"the model returns a {getattr(container, '__name__', container)} or something that is no tensor; "
                "expected a tensor or a tuple of tensors",
                kind="unsupported-op",
            )
        for argument in results:
            if isinstance(self._known.get(argument), Constant):
                raise BitwrightError("an output of the model does not depend on its input", kind="unsupported-op")
        self.outputs = [self.value(argument, argument) for argument in results]

    def _store(self, node: Any, constant: Constant, role: str, module: str) -> str:
        """Keep a constant as a named float32 tensor; equal ones under one name."""
        name = constant.origin or f"{module}.{role}".lstrip(".")
        array = np.array(constant.tensor.float().numpy(), order="C")  # the model may be trained on after this
        if not np.isfinite(array).all():
            raise BitwrightError(f"{name} holds NaN or infinity; it can't be packed. Train again", kind="not-finite")
        if not self._is_original(constant, array):
            name = f"{module}.{role}".lstrip(".")
        free, count = name, 1
        while free in self.weights and not np.array_equal(self.weights[free], array):
            count += 1
            free = f"{name}_{count}"
        self.weights[free] = array
        return free

    def _is_original(self, constant: Constant, array: np.ndarray) -> bool:
        """Whether a constant is the tensor that it comes from, unchanged (a weight transposed twice is)."""
        if constant.origin in self.weights:
            return np.array_equal(self.weights[constant.origin], array)
        original = self.program.state_dict.get(constant.origin, self.program.constants.get(constant.origin))
        return isinstance(original, torch.Tensor) and torch.equal(original.detach().cpu(), constant.tensor)


def module_path(node: Any) -> str:
    """The path of the torch module in whose forward an exported node was made; "" for the model itself."""
    stack = list(((node.meta if node is not None else {}).get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""
