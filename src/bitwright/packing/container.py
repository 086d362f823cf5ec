"""A graph and its tensors to the bytes of one file and back (FORMAT.md 2 and 3).

Reading has three parts: parse the structure, check every size of it (`runtime.graph.validate` included), and only then
hand out tensors, which decode their record when they are asked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.packing import encodings, nested
from bitwright.packing.coders import StreamInfo
from bitwright.packing.encodings import Content, Sparse, Weight
from bitwright.packing.envelope import refuse, unwrap, wrap
from bitwright.packing.profile import Profile
from bitwright.packing.values import fits_half
from bitwright.packing.variants import MOST_BITS, Lowered, merge
from bitwright.runtime.graph import MAX_ELEMENTS, Graph, Node, validate

MAX_BYTES = 4 << 30
SMALL = 4096
"""Tensors of one dimension with fewer elements share a stream."""
_LARGEST_DIMENSION = 2**31 - 1
_MOST_DIMENSIONS = 8


class Record:
    """The bytes of one encoded tensor, or of a shared vector. Decodes on demand, and checks FORMAT.md 4 and 5."""

    def __init__(self, where: str, encoding: str, shape: tuple[int, ...], data: bytes) -> None:
        self.where, self.encoding, self.shape, self.data = where, encoding, shape, data

    def decode(self, trace: list[StreamInfo] | None = None) -> Content:
        """The content; `trace` gets what is known of each stream."""
        return encodings.decode(self.encoding, self.data, self.shape, self.where, trace)

    @cached_property
    def vector(self) -> np.ndarray:
        """The numbers of a shared vector, kept because many tensors cut their part out of it."""
        return self.decode().numbers

    @cached_property
    def streams(self) -> list[StreamInfo]:
        """What is known of its streams."""
        trace: list[StreamInfo] = []
        self.decode(trace)
        return trace


@dataclass(frozen=True)
class Cut:
    """In the place of a record: the first `bits` of the `top` bits of another tensor's codes (FORMAT.md 2.1)."""

    where: str
    base: Stored
    top: int
    bits: int
    encoding: str = "truncated"
    data: bytes = b""
    streams: tuple[StreamInfo, ...] = ()

    def decode(self) -> Content:
        """The content. Raises BitwrightError where the other tensor has no such codes."""
        numbers = nested.truncated(self.base.dense(), self.top, self.bits)
        if numbers is None:
            refuse(f"{self.where} is cut out of {self.base.name!r}, which has no codes of {self.top} bits", "tensor")
        return Content(numbers.reshape(-1))


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, still encoded.

    `nbytes` are the bytes of its record; of a shared vector, its share by number of elements. `start` is where a
    member of a shared vector begins, None for a tensor with a record of its own.
    """

    name: str
    shape: tuple[int, ...]
    nbytes: int
    record: Record | Cut
    start: int | None = None

    @property
    def encoding(self) -> str:
        """The name of the encoding."""
        return self.record.encoding

    @property
    def streams(self) -> Sequence[StreamInfo]:
        """The streams of the record (of the whole shared vector for its members)."""
        return self.record.streams

    def dense(self) -> np.ndarray:
        """The tensor, float32, read-only. Raises BitwrightError where the record breaks the format."""
        numbers = self.record.decode().numbers if self.start is None else self._part()
        result = numbers.reshape(self.shape)
        result.flags.writeable = False
        return result

    def sparse(self) -> Sparse | None:
        """The non-zeros, if the tensor is stored as such."""
        return self.record.decode().sparse if self.start is None else None

    def _part(self) -> np.ndarray:
        assert self.start is not None
        assert isinstance(self.record, Record)
        return self.record.vector[self.start : self.start + math.prod(self.shape)].copy()


@dataclass(frozen=True)
class Container:
    """What a file holds: the graph, its tensors by name, and the meta data that was packed with them.

    `variants` are the graphs of fewer bits, by bits, where the file has several precisions.
    """

    graph: Graph
    stored: dict[str, Stored]
    meta: dict[str, Any]
    variants: dict[int, Graph] = field(default_factory=dict)


def write_container(
    graph: Graph,
    tensors: Mapping[str, np.ndarray],
    meta: dict[str, Any],
    profile: Profile | None = None,
    variants: Mapping[int, Lowered] | None = None,
) -> bytes:
    """The smallest file of `graph` and `tensors` (float32 or float16) that `profile` allows.

    `variants` are the same network at fewer bits, and once more at the most, which `graph` is (see `variants.merge`).
    Equal arguments give equal bytes, whatever the order of `tensors`. The result is read back and compared bit for bit.
    Raises BitwrightError: a weight that is not finite, another dtype, a graph that is not valid, a tensor that is
    unused or missing, an encoding that cannot hold a tensor, variants that are other networks.
    """
    profile = profile or Profile()
    merged = merge(graph, tensors, variants or {})
    weights = {name: Weight.of(name, np.asarray(array)) for name, array in merged.tensors.items()}
    graphs = [graph, *merged.graphs.values()]
    _validate_all(graphs, {name: weight.shape for name, weight in weights.items()}, MAX_ELEMENTS)
    ordered = [weights[name] for name in _tensor_order(graphs)]
    entries, records = _encode_all(ordered, profile, merged.cuts)
    number = {weight.name: i for i, weight in enumerate(ordered)}
    content = {"i": graph.inputs, "n": _nodes_to_json(graph, number), "o": graph.outputs, **entries, "m": meta}
    if variants:
        lower = [[bits, _nodes_to_json(own, number), own.outputs] for bits, own in merged.graphs.items()]
        content["v"] = [merged.top, *lower]
    data = wrap(content, b"".join(records))
    _verify(data, ordered)
    return data


def read_container(data: bytes, max_bytes: int | None = None) -> Container:
    """Parse and check a file. The tensors decode when they are asked.

    `max_bytes` (default 4 GiB) caps the JSON, the decoded tensors together, and the activations of one image. Raises
    BitwrightError with the kinds of FORMAT.md 6.
    """
    limit = MAX_BYTES if max_bytes is None else max_bytes
    content, body = unwrap(bytes(data), limit)
    parts = {"i": list, "n": list, "o": list, "t": list, "s": list, "m": dict}
    parts |= {"v": list} if "v" in content else {}
    if set(content) != set(parts) or not all(isinstance(content[key], kind) for key, kind in parts.items()):
        refuse(f"the graph has the keys {sorted(content)}, {sorted(parts)} are expected", "json")
    entries = [_tensor_entry(entry, len(content["s"])) for entry in content["t"]]
    _check_cuts(entries)
    needed = 4 * sum(math.prod(entry.shape) for entry in entries)
    if needed > limit:
        refuse(f"the tensors take {needed} bytes when decoded, max_bytes is {limit}", "too-large")
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        refuse("two tensors have the same name", "tensor")
    graph = _graph_from_json(content["i"], content["n"], content["o"], names)
    top, variants = _variants_from_json(content["v"], graph, names) if "v" in content else (0, {})
    graphs = [graph, *variants.values()]
    _validate_all(graphs, {e.name: e.shape for e in entries}, min(MAX_ELEMENTS, limit // 4))
    if _tensor_order(graphs) != names:
        refuse("the tensors are not in the order in which the nodes use them", "tensor")
    stored = _divided(entries, _shared_entries(content["s"]), body)
    return Container(graph, stored, content["m"], {**variants, top: graph} if top else {})


def _validate_all(graphs: Sequence[Graph], shapes: Mapping[str, tuple[int, ...]], max_elements: int) -> None:
    """Each graph with its own tensors; what no graph uses is one too many for the first. All have equal outputs."""
    orders = [set(_tensor_order([graph])) for graph in graphs]
    unused = set(shapes).difference(*orders)
    outputs = []
    for graph, own in zip(graphs, orders, strict=True):
        wanted = own | unused
        values = validate(graph, {name: shapes[name] for name in shapes if name in wanted}, max_elements=max_elements)
        outputs.append([values[output] for output in graph.outputs])
    if any(other != outputs[0] for other in outputs):
        refuse(f"precisions give outputs of other shapes: {outputs}", "graph")


def _tensor_order(graphs: Sequence[Graph]) -> list[str]:
    """Names in the order of first use, roles of a node in alphabetical order."""
    nodes = (node for graph in graphs for node in graph.nodes)
    return list(dict.fromkeys(node.weights[role] for node in nodes for role in sorted(node.weights)))


def _nodes_to_json(graph: Graph, number: Mapping[str, int]) -> list[Any]:
    return [
        [node.op, node.inputs, node.attributes, {role: number[name] for role, name in node.weights.items()}, node.name]
        for node in graph.nodes
    ]


def _encode_all(
    weights: list[Weight], profile: Profile, cuts: Mapping[str, tuple[str, int, int]]
) -> tuple[dict[str, Any], list[bytes]]:
    """The JSON of `t` and `s`, and the records; `cuts` have none, but another tensor, its bits and theirs."""
    tensors: list[list[Any]] = []
    records: list[bytes] = []
    members: dict[bool, list[Weight]] = {}
    numbers_of = {weight.name: i for i, weight in enumerate(weights)}
    for weight in weights:
        forced = profile.encoding_of(weight.name)
        if weight.name in cuts:
            base, top, bits = cuts[weight.name]
            tensors.append([weight.name, weight.shape, numbers_of[base], top, bits])
        elif len(weight.shape) == 1 and len(weight.numbers) < SMALL and forced is None:
            half = fits_half(weight.numbers)
            group = members.setdefault(half, [])
            tensors.append([weight.name, weight.shape, list(members).index(half)])
            group.append(weight)
        else:
            encoding, record = encodings.encode(weight, profile, forced)
            tensors.append([weight.name, weight.shape, encoding, len(record)])
            records.append(record)
    shared = []
    for group in members.values():
        numbers = np.concatenate([weight.numbers for weight in group])
        encoding, record = encodings.encode(Weight("shared vector", numbers.shape, numbers), profile)
        shared.append([encoding, len(record)])
        records.append(record)
    if weights and profile.preferred not in (None, *(entry[2] for entry in tensors)):
        warnings.warn(
            f"nothing could be stored as {profile.preferred!r}, which the profile prefers; all tensors have the "
            "smallest encodings",
            stacklevel=4,
        )
    return {"t": tensors, "s": shared}, records


def _verify(data: bytes, weights: list[Weight]) -> None:
    """decode(encode(w)) == w in every bit, or the packer has a bug and nothing is written."""
    stored = read_container(data, max_bytes=max(MAX_BYTES, 8 * sum(len(w.numbers) for w in weights))).stored
    for weight in weights:
        if stored[weight.name].dense().tobytes() != weight.numbers.tobytes():
            raise AssertionError(f"{weight.name}: {stored[weight.name].encoding} does not give back what was packed")


@dataclass(frozen=True)
class _Entry:
    """A line of `t`: `shared` is the number of a shared vector, or None where encoding and size are given.

    `cut` are the number of another tensor, its bits, and the bits of this one.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    size: int
    shared: int | None
    cut: tuple[int, int, int] | None = None


def _is_size(value: Any, limit: int = _LARGEST_DIMENSION) -> bool:
    return type(value) is int and 0 <= value <= limit


def _tensor_entry(entry: Any, shared: int) -> _Entry:
    if not isinstance(entry, list) or len(entry) not in (3, 4, 5):
        refuse(f"a tensor entry {entry!r}: name, shape and where it is stored are expected", "json")
    name, shape = entry[:2]
    if not isinstance(name, str) or not isinstance(shape, list):
        refuse(f"a tensor entry {entry!r} without name or shape", "json")
    if len(shape) > _MOST_DIMENSIONS or not all(_is_size(n) for n in shape):
        refuse(f"tensor {name!r} has the impossible shape {shape}", "tensor")
    if len(entry) == 5:
        if not all(_is_size(n) for n in entry[2:]) or not 1 <= entry[4] < entry[3] <= nested.MOST_BITS:
            refuse(f"tensor {name!r} is cut out of another by {entry[2:]}: its number, bits and fewer bits", "tensor")
        return _Entry(name, tuple(shape), "", 0, None, (entry[2], entry[3], entry[4]))
    if len(entry) == 3:
        if not _is_size(entry[2], shared - 1):
            refuse(f"tensor {name!r} is part of shared vector {entry[2]!r}, there are {shared}", "tensor")
        return _Entry(name, tuple(shape), "", 0, entry[2])
    return _Entry(name, tuple(shape), *_encoding_and_size(f"tensor {name!r}", entry[2:]), None)


def _check_cuts(entries: list[_Entry]) -> None:
    for i, entry in enumerate(entries):
        if entry.cut is None:
            continue
        base = entries[entry.cut[0]] if entry.cut[0] < i else None
        if base is None or base.cut is not None or base.shape != entry.shape:
            refuse(f"tensor {entry.name!r} is cut out of number {entry.cut[0]}, none before it of its shape", "tensor")


def _shared_entries(entries: list[Any]) -> list[tuple[str, int]]:
    return [_encoding_and_size(f"shared vector {i}", entry) for i, entry in enumerate(entries)]


def _encoding_and_size(where: str, entry: Any) -> tuple[str, int]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str) or not _is_size(entry[1]):
        refuse(f"{where} is stored as {entry!r}: an encoding and a size are expected", "json")
    if entry[0] not in encodings.list_encodings():
        refuse(f"{where} has the unknown encoding {entry[0]!r}", "tensor")
    return entry[0], entry[1]


def _graph_from_json(inputs: list[Any], nodes: list[Any], outputs: list[Any], names: list[str]) -> Graph:
    """The graph, its types checked as far as needed to build it; `validate` does the rest."""
    if not all(isinstance(shape, list) for shape in inputs):
        refuse(f"inputs {inputs!r}: a list of shapes is expected", "json")
    made = tuple(_node_from_json(node, names) for node in nodes)
    return Graph(tuple(tuple(shape) for shape in inputs), made, tuple(outputs))


def _variants_from_json(content: list[Any], graph: Graph, names: list[str]) -> tuple[int, dict[int, Graph]]:
    """The bits of the graph, and the graphs of fewer."""
    last = content[0] if content else 0
    if type(last) is not int or not 1 <= last <= MOST_BITS:
        refuse(f"precisions begin with {content[:1]!r}; expected the bits of the graph, 1 to {MOST_BITS}", "json")
    graphs: dict[int, Graph] = {}
    for entry in content[1:]:
        if not isinstance(entry, list) or [type(part) for part in entry] != [int, list, list]:
            refuse("a precision that is not [bits, nodes, outputs]", "json")
        if not 1 <= entry[0] < last:
            refuse(f"a precision of {entry[0]} bits after one of {last}; fewer are expected", "json")
        last = entry[0]
        graphs[last] = _graph_from_json([list(shape) for shape in graph.inputs], entry[1], entry[2], names)
    return content[0], graphs


def _node_from_json(node: Any, names: list[str]) -> Node:
    if not isinstance(node, list) or [type(part) for part in node] != [str, list, dict, dict, str]:
        refuse("a node that is not [op, inputs, attributes, weights, name]", "json")
    op, inputs, attributes, weights, name = node
    if not all(_is_size(number, len(names) - 1) for number in weights.values()):
        refuse(f"node {name!r} has weights {weights}, there are {len(names)} tensors", "graph")
    return Node(op, tuple(inputs), attributes, {role: names[number] for role, number in weights.items()}, name)


def _divided(entries: list[_Entry], shared: list[tuple[str, int]], body: bytes) -> dict[str, Stored]:
    """Divide the data among the tensors and shared vectors."""
    total = sum(entry.size for entry in entries) + sum(size for _, size in shared)
    if total != len(body):
        refuse(f"the records have {total} bytes together, the data {len(body)}", "tensor")
    offset, stored = 0, {}
    members: dict[int, list[_Entry]] = {}
    for entry in entries:
        if entry.shared is not None:
            members.setdefault(entry.shared, []).append(entry)
        elif entry.cut is None:
            record = Record(f"tensor {entry.name!r}", entry.encoding, entry.shape, body[offset : offset + entry.size])
            stored[entry.name] = Stored(entry.name, entry.shape, entry.size, record)
            offset += entry.size
    for number, (encoding, size) in enumerate(shared):
        if number not in members:
            refuse(f"no tensor is part of shared vector {number}", "tensor")
        elements = sum(math.prod(entry.shape) for entry in members[number])
        record = Record(f"shared vector {number}", encoding, (elements,), body[offset : offset + size])
        stored.update(_members(members[number], elements, record))
        offset += size
    for entry in entries:
        if entry.cut is not None:
            base, top, bits = entry.cut
            cut = Cut(f"tensor {entry.name!r}", stored[entries[base].name], top, bits)
            stored[entry.name] = Stored(entry.name, entry.shape, 0, cut)
    return {entry.name: stored[entry.name] for entry in entries}


def _members(entries: list[_Entry], elements: int, record: Record) -> dict[str, Stored]:
    """The members of a shared vector; their shares of its bytes are whole and add up."""
    stored, start = {}, 0
    for entry in entries:
        stop = start + math.prod(entry.shape)
        share = len(record.data) * stop // max(1, elements) - len(record.data) * start // max(1, elements)
        stored[entry.name] = Stored(entry.name, entry.shape, share, record, start)
        start = stop
    return stored


__all__ = ["MAX_BYTES", "BitwrightError", "Container", "Stored", "read_container", "write_container"]
