"""Which nodes one kernel computes together: a convolution or linear layer, and what follows it.

A chain is y = (node + bias) * scale + shift + residual, then an activation (relu, clamp, or prelu with an affine before
and one behind it), then max pooling, and perhaps a second result besides: the codes of sign(y) or quantize(y), or of
these after one more affine. Every part rounds by itself, in kernels as in separate nodes, so fusing changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitwright.runtime.domains import Domain
from bitwright.runtime.graph import Graph, Node

Shape = tuple[int, ...]

LAYERS = ("conv2d", "linear")
ACTIVATIONS = ("relu", "clamp", "prelu")
CODERS = ("sign", "quantize")


@dataclass(frozen=True)
class Coder:
    """A sign or quantize of `source`, which makes the coded value `result`; perhaps with an affine, or the normalize of
    pixels, between."""

    node: Node
    result: int
    source: int
    affine: Node | None = None

    @property
    def parts(self) -> list[str]:
        """The operations in order."""
        return [*([self.affine.op] if self.affine else []), self.node.op]


@dataclass
class Chain:
    """A node and what its kernel takes over; `result` is the value y, `pooled` what the `pool` reads. Layers take over,
    and a slice: `moves` are those of other axes behind it, and a pad of channels."""

    node: Node
    result: int
    affine: Node | None = None
    residual: int | None = None
    activation: tuple[Node, ...] = ()
    pool: Node | None = None
    pooled: int = -1
    coder: Coder | None = None
    moves: tuple[Node, ...] = ()

    @property
    def parts(self) -> list[str]:
        """The operations in order, up to the pool."""
        if self.moves:
            return [self.node.op, *(node.op for node in self.moves)]
        flags = (self.affine, "affine"), (self.residual is not None, "add")
        return [self.node.op, *(name for has, name in flags if has), *(node.op for node in self.activation)]


def fuse(
    graph: Graph, shapes: Sequence[Shape], coded: Sequence[Domain | None], integer: Callable[[Node], bool]
) -> list[Chain]:
    """The nodes in order, each followed as far as its kernel reaches. `shapes` and `coded` are those of the values;
    `integer` says which layers add up whole numbers: they end in any activation, others in a relu only.

    A chain stands where its last node stood: there, all that it reads has been computed. Signs and quantisers stay in
    the list, since their values may be wanted in other forms than their chain can give.
    """
    chains = _chains(graph, shapes, integer)
    makers = {chain.result: chain for chain in chains if chain.node.op in LAYERS}
    for coder in find_coders(chains, coded).values():
        if (maker := makers.get(coder.source)) is not None and maker.coder is None:
            maker.coder = coder
    return chains


def find_coders(chains: Sequence[Chain], coded: Sequence[Domain | None]) -> dict[int, Coder]:
    """By coded value, what makes it from a float value: a sign or quantize, perhaps of an affine."""
    makers = {chain.result: chain.node for chain in chains}
    coders = {}
    for chain in chains:
        if chain.node.op in CODERS and coded[chain.result] is not None:
            source = chain.node.inputs[0]
            maker = makers.get(source)
            if maker is not None and maker.op == "affine":
                coders[chain.result] = Coder(chain.node, chain.result, maker.inputs[0], maker)
            else:
                coders[chain.result] = Coder(chain.node, chain.result, source)
    return coders


def _chains(graph: Graph, shapes: Sequence[Shape], integer: Callable[[Node], bool]) -> list[Chain]:
    first = len(graph.inputs)
    readers = _readers(graph)
    absorbed: set[int] = set()
    chains: dict[int, Chain] = {}
    for index, node in enumerate(graph.nodes):
        if index in absorbed:
            continue
        chain, last = Chain(node, first + index), index
        activations = ACTIVATIONS if node.op in LAYERS and integer(node) else ACTIVATIONS[:1]
        while node.op in (*LAYERS, "slice"):
            followers = _followers(graph, readers, chain.result, absorbed)
            taken = _absorb(chain, [graph.nodes[i] for i in followers], activations, shapes)
            if not taken:
                break
            absorbed.update(followers[:taken])
            last = followers[taken - 1]
            chain.result = first + last
        chains[last] = chain
    return [chains[index] for index in sorted(chains)]


def _followers(graph: Graph, readers: dict[int, list[int]], value: int, absorbed: set[int]) -> list[int]:
    """The node that alone reads a value, and the one that alone reads its result, as far as there are such."""
    found: list[int] = []
    while len(found) < 2 and len(follower := readers.get(value, [])) == 1 and follower[0] not in (-1, *absorbed):
        found += follower
        value = len(graph.inputs) + follower[0]
    return found


def _readers(graph: Graph) -> dict[int, list[int]]:
    """The nodes that read each value; -1 stands for the caller."""
    readers: dict[int, list[int]] = {value: [-1] for value in graph.outputs}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            readers.setdefault(value, []).append(index)
    return readers


def _absorb(chain: Chain, nodes: Sequence[Node], activations: Sequence[str], shapes: Sequence[Shape]) -> int:
    """How many of `nodes`, which follow the chain one by one, it takes over where their places in it are still free."""
    ops = [node.op for node in nodes]
    if not nodes or chain.pool is not None:
        return 0
    if chain.node.op == "slice":
        return _absorb_move(chain, nodes[0])
    node, done = nodes[0], [node.op for node in chain.activation]
    if node.op == "max_pool2d":
        chain.pool, chain.pooled = node, chain.result
    elif done:
        if done[-1] != "prelu" or node.op != "affine":
            return 0
        chain.activation += (node,)
    elif node.op in activations:
        chain.activation = (node,)
    elif node.op == "affine" and chain.affine is None and chain.residual is None:
        chain.affine = node
    elif node.op == "add" and chain.residual is None and len({shapes[value] for value in node.inputs}) == 1:
        chain.residual = node.inputs[1] if node.inputs[0] == chain.result else node.inputs[0]
    elif ops == ["affine", "prelu"] and "prelu" in activations:
        chain.activation = tuple(nodes)
        return 2
    else:
        return 0
    return 1


def _absorb_move(chain: Chain, node: Node) -> int:
    """The same for a chain that begins with a slice."""
    before = [chain.node, *chain.moves]
    cut = [move.attributes["axis"] for move in before if move.op == "slice"]
    if before[-1].op == "pad" or node.op not in ("slice", "pad"):
        return 0
    if node.op == "slice" and node.attributes["axis"] in cut:
        return 0
    if node.op == "pad" and any(node.attributes["before"][1:] + node.attributes["after"][1:]):
        return 0  # a convolution behind it takes that one over
    chain.moves += (node,)
    return 1
