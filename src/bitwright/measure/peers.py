"""Who else could run a model: onnxruntime in float32 and int8, torch in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.measure.int8_peer import quantized
from bitwright.measure.onnx_peer import open_peer, open_session, to_onnx
from bitwright.measure.torch_peer import open_torch
from bitwright.runtime.graph import Graph, Node

Array = np.ndarray
Weights = Mapping[str, Array]
PEERS = ("onnxruntime", "torch")
QUANTIZERS = ("sign", "quantize")


@dataclass(frozen=True)
class Peer:
    """A contestant. `same`: it computes what the model computes, so that its outputs can be compared.

    Of the peers with one `rival` name only the fastest counts.
    """

    name: str
    run: Callable[..., list[Array]]
    same: bool = True
    rival: str = ""


def find_peers(
    graph: Graph, weights: Weights, inputs: Sequence[tuple[Array, ...]], threads: int, wanted: Sequence[str] = PEERS
) -> tuple[list[Peer], list[str]]:
    """The peers that can be had, and a note for each that can't. `inputs` calibrate int8.

    Of a network with quantisers of activations there is also the float32 network without them: what a float network of
    this architecture takes. int8 is made from that one. Raises `BitwrightError` (kind "value") for an unknown name.
    """
    if unknown := sorted(set(wanted) - set(PEERS)):
        raise BitwrightError(f"unknown peer {unknown[0]!r}; known: {', '.join(PEERS)}", kind="value")
    coded = has_quantizers(graph)
    plain, plain_weights = without_quantizers(graph, weights)
    made: list[tuple[str, Callable[[], list[Peer]]]] = []
    if "onnxruntime" in wanted:
        name = "onnxruntime float32"
        made.append(("float32", lambda: [Peer(name, open_peer(graph, weights, threads))]))
        if coded:
            made.append(("float32", lambda: [_plain(name, open_peer(plain, plain_weights, threads))]))
        made.append(("int8", lambda: _int8(plain, plain_weights, inputs, threads)))
    if "torch" in wanted:
        made.append(("torch", lambda: [Peer("torch float32", open_torch(graph, weights, threads))]))
        if coded:
            made.append(("torch", lambda: [_plain("torch float32", open_torch(plain, plain_weights, threads))]))
    peers: list[Peer] = []
    notes: list[str] = []
    for what, make in made:
        try:
            peers += make()
        except ImportError as error:
            extra = "train" if what == "torch" else "bench"
            notes.append(f"{error.name} is not installed; `pip install bitwright[{extra}]` brings the {what} peer")
        except BitwrightError as error:
            if error.kind != "no-peer":
                raise
            notes.append(str(error))
    return peers, list(dict.fromkeys(notes))


def _plain(name: str, run: Callable[..., list[Array]]) -> Peer:
    return Peer(f"{name}, no quantisers", run, same=False)


def _int8(graph: Graph, weights: Weights, inputs: Sequence[tuple[Array, ...]], threads: int) -> list[Peer]:
    feeds = [{f"input_{i}": x for i, x in enumerate(arrays)} for arrays in inputs]
    models = quantized(to_onnx(graph, weights), feeds)
    return [
        Peer(f"onnxruntime int8 {form}", open_session(model, len(graph.inputs), threads), False, "onnxruntime int8")
        for form, model in models.items()
    ]


def has_quantizers(graph: Graph) -> bool:
    return any(node.op in QUANTIZERS for node in graph.nodes)


def without_quantizers(graph: Graph, weights: Mapping[str, Any]) -> tuple[Graph, dict[str, Any]]:
    """The graph whose readers of a sign or quantised value read what it was made from, and the weights still used."""
    first = len(graph.inputs)
    stands_for = list(range(first))
    """The new value of every old one."""
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(stands_for[value] for value in node.inputs)
        if node.op in QUANTIZERS:
            stands_for.append(inputs[0])
        else:
            stands_for.append(first + len(nodes))
            nodes.append(replace(node, inputs=inputs))
    used = {name for node in nodes for name in node.weights.values()}
    outputs = tuple(stands_for[value] for value in graph.outputs)
    return Graph(graph.inputs, tuple(nodes), outputs), {name: weights[name] for name in sorted(used)}
