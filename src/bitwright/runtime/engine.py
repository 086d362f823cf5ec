"""Running packed models: `load` a file, call the `Model`."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.runtime.graph import Graph, validate
from bitwright.runtime.layer import Tensor
from bitwright.runtime.native import Step, bind, packed_bytes
from bitwright.runtime.reference import prepare

if TYPE_CHECKING:
    from bitwright.packing.encodings import Sparse

Array = np.ndarray
UINT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)
ENGINES = ("native", "reference")
SMALL_WEIGHTS = 1 << 20
"""Weights up to this size may be padded beyond `max_bytes`: a tight cap should not refuse a tiny layer."""
CHUNK_BYTES = 4 << 20
"""A batch is worked through in chunks whose live activations take about this much memory, to stay in the cache:
ResNet-20 and LeNet-5 ran as fast or faster with 2 to 8 MiB than with 0.5 or 64."""


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    max_bytes: int | None = None,
    engine: str = "native",
    kernels: str | Sequence[str] = (),
) -> Model:
    """The model in a packed file, ready to be called on NumPy arrays. Needs no torch.

    `threads` per call: default all the CPUs that this process may use. `max_bytes` caps, each for itself, the file,
    the tensors that it decodes to, and the activations of one image; default 4 GiB. While a tensor decodes, up to ten
    times its own size is in use. `engine`: "native", or "reference" (plain NumPy, slow, needs no native extension).
    `kernels`: the name or names of kernels ("bits", "bytes", "float", ...) to prefer where they can compute a layer.
    Raises `BitwrightError` for a file that is missing, damaged or too large.
    """
    from bitwright.packing.container import MAX_BYTES, read_container

    limit = MAX_BYTES if max_bytes is None else max_bytes
    if type(limit) is not int or limit < 1:
        raise BitwrightError(f"max_bytes is {max_bytes!r}; expected a positive integer, or None", kind="value")
    try:
        size = os.path.getsize(path)
        if size > limit:
            raise BitwrightError(
                f"{path} has {size:,} bytes; max_bytes is {limit:,}. Raise max_bytes if you trust the file",
                kind="too-large",
            )
        data = Path(path).read_bytes()
    except OSError as error:
        raise BitwrightError(f"can't read the packed file {path}: {error.strerror or error}", kind="file") from error
    container = read_container(data, limit)
    graphs = container.variants.values() or [container.graph]
    if (packed := sum(packed_bytes(graph, container.stored) for graph in graphs)) > max(limit, SMALL_WEIGHTS):
        raise BitwrightError(
            f"{path} needs {packed:,} bytes for its weights when they are laid out for the kernels; max_bytes is "
            f"{limit:,}",
            kind="too-large",
        )
    return Model(
        container.graph,
        container.stored,
        meta=container.meta,
        threads=threads,
        engine=engine,
        kernels=kernels,
        variants=container.variants,
    )


@dataclass(frozen=True)
class Loose:
    """An array in the place of a stored tensor."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def dense(self) -> Array:
        return self.array

    def sparse(self) -> Sparse | None:
        return None


class Model:
    """A graph with its weights, callable.

    `model(x)` takes one array per graph input, (N, *input_shape) float32, any N, and returns one array per output: the
    array itself if there is one, else a tuple. An input that the graph normalizes first also takes uint8 pixels, and
    its float32 pixels are meant to be in 0..1. Other types are refused, float64 too: nothing is rounded in silence.
    NaN in, NaN out, except through signs and quantisers, which give NaN their lowest number. Large batches are worked
    through in chunks, so memory stays bounded. Calls from several threads are safe and run side by side. The number of
    threads changes no bit of a result, the size of the batch may change the last ones of float layers.

    Attributes: `graph`; `stored`, its tensors by name as they lie in the file; `classes`, names of the outputs or None;
    `input_shapes`, `output_shapes` without the batch axis; `engine`, "native" or "reference"; `threads`; `plan`, the
    steps of the native engine, whose text says what each computes, how and on what; `bits`, the precisions of a file
    that has several, ascending, () of any other: `model(x, bits=2)`, `model.at(2)` is the model of one of them.

    `kernels` names a row, or rows, of the kernel table (`runtime/kernels.py`) to prefer where they can compute a layer.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, Tensor] | Mapping[str, Array],
        *,
        meta: Mapping[str, Any] | None = None,
        threads: int | None = None,
        engine: str = "native",
        kernels: str | Sequence[str] = (),
        variants: Mapping[int, Graph] | None = None,
    ) -> None:
        stored = {n: Loose(np.asarray(t, np.float32)) if isinstance(t, Array) else t for n, t in tensors.items()}
        others = {bits: other for bits, other in (variants or {}).items() if other is not graph}
        used = {name for node in graph.nodes for name in node.weights.values()} if others else set(stored)
        own = {name: tensor for name, tensor in stored.items() if name in used}
        shapes = validate(graph, {name: tuple(tensor.shape) for name, tensor in own.items()})
        self.graph, self.stored, self.engine = graph, own, _engine_name(engine)
        self.bits = tuple(sorted(variants or {}))
        self._others: dict[int, Model] = {}
        self._lock = threading.Lock()
        self._make = lambda bits: Model(
            others[bits],
            {node.weights[role]: stored[node.weights[role]] for node in others[bits].nodes for role in node.weights},
            meta=meta,
            threads=threads,
            engine=engine,
            kernels=kernels,
        )
        self.threads = _thread_count(threads)
        self.input_shapes = graph.inputs
        self.output_shapes = tuple(shapes[i] for i in graph.outputs)
        self.classes = class_names((meta or {}).get("classes"), self.output_shapes[0])
        self._pixels = graph.pixel_inputs()
        self.plan: tuple[Step, ...] = ()
        self._plans: dict[frozenset[int], Any] = {}
        self._pass_bytes = CHUNK_BYTES
        if engine == "native":
            self._bound = bind(graph, shapes, own, [kernels] if isinstance(kernels, str) else kernels)
            self.plan = self._bound.steps
            self._prepare(frozenset())
            self._run = self._run_native
        else:
            self._run = self._run_reference
            self._reference = prepare(graph, {name: tensor.dense() for name, tensor in own.items()})
            self._chunk = max(1, CHUNK_BYTES // (4 * sum(math.prod(shape) for shape in shapes)))

    def __repr__(self) -> str:
        shapes = ", ".join(map(str, self.input_shapes))
        return f"Model({shapes} -> {', '.join(map(str, self.output_shapes))}, engine={self.engine!r})"

    def __reduce__(self) -> NoReturn:
        raise BitwrightError(
            "a loaded model can't be pickled or copied; expected one per process: call load in each process, and share "
            "the model among the threads of one",
            kind="engine",
        )

    def at(self, bits: int) -> Model:
        """The model of one of the precisions that the file has; made when it is first asked for."""
        if isinstance(bits, bool | float) or bits not in self.bits:
            known = "the file has one precision only, leave bits out"
            if self.bits:
                known = f"the file has {', '.join(map(str, self.bits))}, choose one of these"
            raise BitwrightError(f"a precision of {bits!r} bits; {known}", kind="bits")
        if bits == self.bits[-1]:
            return self
        with self._lock:
            if bits not in self._others:
                self._others[bits] = self._make(bits)
            return self._others[bits]

    def __call__(self, *inputs: Any, bits: int | None = None) -> Array | tuple[Array, ...]:
        """The outputs for a batch, of a precision if the file has several (the highest); see the class."""
        if bits is not None and (model := self.at(bits)) is not self:
            return model(*inputs)
        arrays = self._check(inputs)
        count = len(arrays[0])
        outputs = [np.empty((count, *shape), FLOAT32) for shape in self.output_shapes]
        self._run(arrays, outputs, count)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def time_steps(self, *inputs: Any, repeats: int = 10) -> list[float]:
        """Seconds that each step of `plan` takes for a batch, medians of `repeats` calls. Native engine only."""
        arrays = [np.ascontiguousarray(x) for x in self._check(inputs)]
        outputs = [np.empty((len(arrays[0]), *shape), FLOAT32) for shape in self.output_shapes]
        plan = self._prepare(_bytes_among(arrays))
        return list(plan.time(arrays, outputs, len(arrays[0]), self.threads, repeats))

    def _run_native(self, arrays: list[Array], outputs: list[Array], count: int) -> None:
        plan = self._prepare(_bytes_among(arrays))
        plan.run([np.ascontiguousarray(x) for x in arrays], outputs, count, self.threads)

    def _prepare(self, uint8: frozenset[int]) -> Any:
        """The plan for these inputs as pixels of one byte."""
        if uint8 not in self._plans:
            self._plans[uint8] = self._bound.plan(uint8, self._pass_bytes)
        return self._plans[uint8]

    def _run_reference(self, arrays: list[Array], outputs: list[Array], count: int) -> None:
        for start in range(0, count, self._chunk):
            part = slice(start, start + self._chunk)
            for output, value in zip(outputs, self._reference(*[x[part] for x in arrays]), strict=True):
                output[part] = value

    def _check(self, inputs: tuple[Any, ...]) -> list[Array]:
        if len(inputs) != len(self.input_shapes):
            _refuse(f"the model got {len(inputs)} inputs; expected {len(self.input_shapes)}")
        arrays = [self._check_input(i, _as_array(i, x)) for i, x in enumerate(inputs)]
        if len(arrays) > 1 and len({len(x) for x in arrays}) > 1:
            _refuse(f"the inputs have batches of {', '.join(str(len(x)) for x in arrays)}; expected equal ones")
        return arrays

    def _check_input(self, index: int, x: Array) -> Array:
        shape = self.input_shapes[index]
        if x.shape[1:] != shape or x.ndim == 0:
            wanted = ", ".join(map(str, shape))
            hint = ": add the batch axis, x[None]" if x.shape == shape else ""
            _refuse(f"input {index} has shape {x.shape}; expected (N, {wanted}){hint}")
        if x.dtype == FLOAT32:
            return x
        if x.dtype == UINT8 and index not in self._pixels:
            _refuse(
                f"input {index} is uint8, but this model has no preprocessing in it: prepare the pixels as in training "
                "and pass float32, or pack the model with preprocess="
            )
        if x.dtype != UINT8:
            pixels = " or uint8 pixels" if index in self._pixels else ""
            _refuse(f"input {index} is {x.dtype}; expected float32{pixels}: convert it with x.astype(numpy.float32)")
        return x


def _refuse(message: str) -> NoReturn:
    raise BitwrightError(message, kind="input")


def _as_array(index: int, x: Any) -> Array:
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; a torch tensor on a GPU or with a gradient
        _refuse(f"input {index} is a {type(x).__name__} that is no array ({error}); expected a NumPy array")


def _bytes_among(arrays: list[Array]) -> frozenset[int]:
    return frozenset([i for i, x in enumerate(arrays) if x.dtype == UINT8])


def _engine_name(engine: str) -> str:
    if engine not in ENGINES:
        raise BitwrightError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}", kind="unknown-name")
    if engine == "native":
        try:
            from bitwright import _native

            _native.isa()
        except (ImportError, AttributeError) as error:
            raise BitwrightError(
                f"the native engine is not available ({error}); build it by installing bitwright for this Python, or "
                'load the model with engine="reference" (slow)',
                kind="engine",
            ) from error
        except ValueError as error:
            raise BitwrightError(str(error), kind="engine") from error
    return engine


def _thread_count(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if type(threads) is not int or not 1 <= threads <= 1024:
        raise BitwrightError(f"threads is {threads!r}; expected an integer from 1 to 1024, or None", kind="value")
    return threads


def class_names(classes: object, output: tuple[int, ...]) -> tuple[str, ...] | None:
    """The names, one for each entry of the first axis of a model's first output, which has the shape `output`."""
    if classes is None:
        return None
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise BitwrightError(f"the classes are {classes!r}; expected a list of names", kind="json")
    if output[:1] != (len(classes),):
        raise BitwrightError(
            f"there are {len(classes)} classes for an output of shape {output}; expected one name for each entry of "
            "its first axis",
            kind="json",
        )
    return tuple(classes)
