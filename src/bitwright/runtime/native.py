"""A graph bound to the native kernels: the steps of a plan, prepared once when a model is loaded.

`fuse` says which nodes one kernel computes together, `kernels` which kernel, `forms` in which form every value is
wanted; here the operations are made and numbered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.runtime import floats
from bitwright.runtime.domains import SIGNS
from bitwright.runtime.forms import Choice, Forms
from bitwright.runtime.fuse import LAYERS, Chain, Coder
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.kernels import Form
from bitwright.runtime.layer import Tensor
from bitwright.runtime.shapes import limits

Array = np.ndarray
Shape = tuple[int, ...]
AS_GIVEN = "given"
Slot = tuple[int, Form | str | None]
"""A value of the graph in one of its forms, floats where that is None; graph inputs also as callers give them."""

LANES = 16
"""Kernels pack the output channels of each group in blocks of a multiple of this."""


def packed_bytes(graph: Graph, tensors: Mapping[str, Tensor]) -> int:
    """About what the weights take at most when kernels have packed them; more than decoded, where groups are narrow."""
    elements = 0
    for node in graph.nodes:
        if "weight" in node.weights:
            groups = node.attributes.get("groups", 1)
            outputs, *rest = tensors[node.weights["weight"]].shape
            elements += groups * -(-outputs // groups // LANES) * LANES * math.prod(rest)
    return 4 * elements


@dataclass(frozen=True)
class Step:
    """One operation of a plan.

    `name` is the module that it comes from, `does` the operations of the graph in it, `kernel` what computes them;
    `reads` and `makes` tell how its values lie in memory, `inputs` which of the plan they are.
    """

    name: str
    does: str
    operation: Any
    inputs: tuple[int, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    of_input: int | None = None
    """The graph input that it prepares, if it is that of `pixels`."""
    of_pixels: Any = None
    """In place of `operation`, where that input is uint8."""

    @property
    def kernel(self) -> str:
        return str(self.operation.kernel)

    @property
    def weight_bytes(self) -> int:
        return int(self.operation.weight_bytes)

    def __str__(self) -> str:
        weights = f", {self.weight_bytes:,} bytes" if self.weight_bytes else ""
        values = f"{', '.join(self.reads)} -> {', '.join(self.makes)}"
        return f"{self.name or '-'}: {self.does} [{self.kernel}{weights}] {values}"


@dataclass(frozen=True)
class Bound:
    """The steps, and which values of theirs are the outputs (channels first, as callers get them)."""

    inputs: tuple[Shape, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def plan(self, uint8: frozenset[int], pass_bytes: int) -> Any:
        """What runs them, where the graph inputs in `uint8` are pixels of one byte; the operations are shared."""
        from bitwright import _native

        sizes = [math.prod(shape) * (1 if i in uint8 else 4) for i, shape in enumerate(self.inputs)]
        steps = [(s.of_pixels if s.of_input in uint8 else s.operation, list(s.inputs)) for s in self.steps]
        return _native.Plan(sizes, steps, list(self.outputs), pass_bytes)


def bind(graph: Graph, shapes: list[Shape], tensors: Mapping[str, Tensor], preferred: Sequence[str] = ()) -> Bound:
    """The steps that compute the graph; `preferred` as `kernels.choose` takes it."""
    return _Binder(Forms(graph, shapes, tensors, preferred)).bound()


class _Binder:
    """Makes the operations of the chains that are alive, in order."""

    def __init__(self, forms: Forms) -> None:
        from bitwright import _native

        self.native: Any = _native
        self.forms, self.graph, self.shapes = forms, forms.graph, forms.shapes
        self.steps: list[Step] = []
        self.values: dict[Slot, int] = {}
        self.layouts: dict[Slot, Any] = {}
        self.made = len(self.graph.inputs)
        self._vectors: dict[str, Array] = {}

    def bound(self) -> Bound:
        for index in range(len(self.graph.inputs)):
            self._input(index)
        for chain in self.forms.chains:
            if self.forms.alive(chain):
                self._bind(chain)
        outputs = {value: self._output(value) for value in self.graph.outputs}
        return Bound(self.graph.inputs, tuple(self.steps), tuple(outputs[value] for value in self.graph.outputs))

    def _bind(self, chain: Chain) -> None:
        node, wanted = chain.node, self.forms.wanted[chain.result]
        if node.op in LAYERS:
            self._layer(chain)
            return
        if wanted.floats:
            if node.op == "normalize":
                self._normalize(chain)
            else:
                self._floats(chain)
        for form in wanted.codes:
            if (chain.result, form) not in self.values:
                self._codes(chain, form)

    # --- floats

    def _input(self, index: int) -> None:
        shape, values = self.shapes[index], index
        self.values[index, None] = self.values[index, AS_GIVEN] = values
        if not self.forms.wanted[index]:
            return
        if transpose := floats.to_last(self.native, shape):
            pixels = floats.to_last(self.native, shape, 1)[0] if index in self.graph.pixel_inputs() else None
            self._step(
                "", "transpose", transpose[0], [(index, None)], [(index, None)], index if pixels else None, pixels
            )

    def _output(self, value: int) -> int:
        found = self.values[value, None]
        for operation in floats.to_first(self.native, self.shapes[value]):
            self.steps.append(Step("", "transpose", operation, (found,), (self._describe((value, None)),), ("output",)))
            found, self.made = self.made, self.made + 1
        return found

    def _normalize(self, chain: Chain) -> None:
        node = chain.node
        source, arguments = node.inputs[0], (self.native, self.shapes[node.inputs[0]], self._weights(node))
        (operation,) = floats.normalize(*arguments)
        of_input, of_pixels = None, None
        if source in self.graph.pixel_inputs():
            of_input, (of_pixels,) = source, floats.normalize(*arguments, uint8=True)
        self._step(node.name, node.op, operation, [(source, None)], [(chain.result, None)], of_input, of_pixels)

    def _floats(self, chain: Chain) -> None:
        node, result = chain.node, (chain.result, None)
        sources: list[Slot] = [(value, None) for value in node.inputs]
        shapes = [self.shapes[i] for i in node.inputs]
        if chain.moves:
            operations = floats.moved(self.native, shapes[0], [node, *chain.moves])
        else:
            operations = floats.operations(self.native, node, self._weights(node), shapes)
        if not operations:
            self.values[result] = self.values[sources[0]]
        for operation in operations:
            self._step(node.name, " + ".join(chain.parts), operation, sources, [result])
            sources = [result]

    # --- codes

    def _codes(self, chain: Chain, form: Form) -> None:
        node, slot = chain.node, (chain.result, form)
        below = (node.inputs[0], form)
        if image := self.forms.images.get((chain.result, form)):
            self._image_codes(image, form)
        elif chain.result in self.forms.coders:
            coder = self.forms.coders[chain.result]
            operation = self.native.EncodeOp(self._encode(coder, form))
            self._step(node.name, " + ".join(coder.parts), operation, [(coder.source, None)], [slot])
        elif node.op == "flatten" and self.forms.same_codes(node):
            self.values[slot], self.layouts[slot] = self.values[below], self.layouts[below]
        elif node.op == "max_pool2d":
            size, channels = self._image(node.inputs[0]), self.shapes[chain.result][0]
            window = self._pool_window(node, size, channels)
            operation = self.native.PoolCodesOp(window, self.layouts[below], self._layout(slot))
            self._step(node.name, node.op, operation, [below], [slot])
        else:  # numbers of the domain become the codes they are
            again = Coder(Node("sign" if self.forms.domains[chain.result] == SIGNS else "quantize", ()), *slot[:1], -1)
            operation = self.native.EncodeOp(self._encode(again, form))
            self._step(node.name, "encode", operation, [(chain.result, None)], [slot])

    def _image_codes(self, coder: Coder, form: Form) -> None:
        encode, of_input, of_pixels = self._encode(coder, form), None, None
        if coder.source in self.graph.pixel_inputs():
            of_input, of_pixels = coder.source, self.native.EncodeImageOp(encode, uint8=True)
        source, result = (coder.source, AS_GIVEN), (coder.result, form)
        operation = self.native.EncodeImageOp(encode)
        self._step(coder.node.name, " + ".join(coder.parts), operation, [source], [result], of_input, of_pixels)

    def _encode(self, coder: Coder, form: Form, layout: Any = None) -> Any:
        domain = self.forms.domains[coder.result]
        assert domain is not None
        arguments: dict[str, Any] = self._weights(coder.affine) if coder.affine else {}
        if coder.node.op == "quantize":
            arguments |= {"reciprocal": np.float32(1) / domain.scale, "low": domain.low, "high": domain.high}
        return self.native.Encode(coder.node.op, layout or self._layout((coder.result, form)), **arguments)

    def _image(self, value: int) -> tuple[int, int]:
        _, *image = self.shapes[value]
        return (image[0], image[1]) if image else (1, 1)

    def _layout(self, slot: Slot) -> Any:
        value, form = slot
        assert isinstance(form, Form)
        if slot not in self.layouts:
            rows, columns = self.forms.wanted[value].codes[form]
            margins = {"top": rows, "bottom": rows, "left": columns, "right": columns}
            size = (*self._image(value), self.shapes[value][0], form.groups)
            self.layouts[slot] = self.native.CodeLayout(*size, **margins, planes=form.planes)
        return self.layouts[slot]

    def _pool_window(self, node: Node, size: tuple[int, int], channels: int) -> Any:
        """A pooling's window over codes. What sticks out of the padded image (`ceil`) never counts: cut off."""
        pairs = {key: tuple(node.attributes[key]) for key in ("kernel", "stride", "padding")}
        pairs["kernel"] = tuple(min(pairs["kernel"][a], size[a] + 2 * pairs["padding"][a]) for a in range(2))
        return self.native.Window(size, channels, channels, **pairs)

    # --- layers

    def _layer(self, chain: Chain) -> None:
        choice = self.forms.choices[chain.result]
        source, result = (choice.source, choice.form), chain.result
        sources: list[Slot] = [source] if chain.residual is None else [source, (chain.residual, None)]
        results: list[Slot] = [(result, None)] if self.forms.wanted[result].floats else []
        if chain.pool and result in self.forms.encoded and not results and self._codes_first(chain, sources):
            return
        if chain.pool and not choice.row.pools:
            self._step(chain.node.name, " + ".join(chain.parts), self._kernel(chain), sources, [(chain.pooled, None)])
            (operation,) = floats.operations(self.native, chain.pool, {}, [self.shapes[chain.pooled]])
            self._step(chain.pool.name, chain.pool.op, operation, [(chain.pooled, None)], results)
            return
        does, ends = chain.parts, {"out": self.forms.wanted[result].floats}
        if chain.pool:
            does = [*does, chain.pool.op]
        if result in self.forms.encoded:
            coder, form = self.forms.encoded[result]
            ends["encode"] = self._encode(coder, form)
            results.append((coder.result, form))
            does = [*does, *coder.parts]
        if chain.pool:
            operation = self.native.PooledOp(self._kernel(chain), **floats.window(chain.pool.attributes), **ends)
        else:
            operation = self._kernel(chain, **ends)
        self._step(chain.node.name, " + ".join(does), operation, sources, results)

    def _codes_first(self, chain: Chain, sources: list[Slot]) -> bool:
        """The codes of a layer's results, then the pool of these, if they can be pooled."""
        coder, form = self.forms.encoded[chain.result]
        if chain.pool is None or not self.forms.codes_first(chain):
            return False
        size, channels = self._image(chain.pooled), self.shapes[chain.result][0]
        layout = self.native.CodeLayout(*size, channels, form.groups, planes=form.planes)
        operation = self._kernel(chain, out=False, encode=self._encode(coder, form, layout))
        least = (self._weights(coder.affine)["scale"] < 0).tolist() if coder.affine else []
        window = self._pool_window(chain.pool, size, channels)
        made = (coder.result, form)
        pool = self.native.PoolCodesOp(window, layout, self._layout(made), least)
        self._step(
            chain.node.name, " + ".join([*chain.parts, *coder.parts]), operation, sources, [(chain.pooled, form)]
        )
        self._step(chain.pool.name, chain.pool.op, pool, [(chain.pooled, form)], [made])
        return True

    def _kernel(self, chain: Chain, **ends: Any) -> Any:
        """The operation of a layer; `ends`: what becomes of its floats, if not just an output."""
        choice = self.forms.choices[chain.result]
        finish = self.native.Finish(choice.layer.channels[1], **self._finish(chain, choice), **ends)
        return choice.row.build(self.native, choice.layer, finish, self.layouts.get((choice.source, choice.form)))

    def _finish(self, chain: Chain, choice: Choice) -> dict[str, Any]:
        layer = choice.layer
        finish: dict[str, Any] = {"residual": chain.residual is not None, **self._activation(chain)}
        if layer.domain is not None and layer.lattice is not None:
            finish["multiplier"] = layer.lattice.positive * layer.domain.scale
            if layer.lattice.two_magnitudes:
                finish["negative"] = layer.lattice.negative * layer.domain.scale
        if "bias" in chain.node.weights:
            finish["bias"] = self._vector(chain.node.weights["bias"])
        return finish | (self._weights(chain.affine) if chain.affine else {})

    def _activation(self, chain: Chain) -> dict[str, Any]:
        ops = [node.op for node in chain.activation]
        if "clamp" in ops:
            return {"limits": limits(**chain.activation[0].attributes)}
        if "prelu" not in ops:
            return {"relu": ops == ["relu"]}
        vectors: dict[str, Array] = {}
        prefix = ""
        for node in chain.activation:
            vectors |= {f"{prefix}{role}": vector for role, vector in self._weights(node).items()}
            prefix = "after_" if node.op == "prelu" else prefix
        return {"prelu": self.native.Prelu(**vectors)}

    # --- steps

    def _step(
        self,
        name: str,
        does: str,
        operation: Any,
        sources: list[Slot],
        results: list[Slot],
        of_input: int | None = None,
        of_pixels: Any = None,
    ) -> None:
        inputs = tuple(self.values[slot] for slot in sources)
        reads, makes = (tuple(map(self._describe, slots)) for slots in (sources, results))
        self.steps.append(Step(name, does, operation, inputs, reads, makes, of_input, of_pixels))
        for slot in results:
            self.values[slot], self.made = self.made, self.made + 1

    def _describe(self, slot: Slot) -> str:
        value, form = slot
        return f"{form or 'float'} {'x'.join(map(str, self.shapes[value]))}"

    def _weights(self, node: Node) -> dict[str, Array]:
        return {role: self._vector(name) for role, name in node.weights.items()}

    def _vector(self, name: str) -> Array:
        if name not in self._vectors:
            self._vectors[name] = np.ascontiguousarray(self.forms.tensors[name].dense())
        return self._vectors[name]
