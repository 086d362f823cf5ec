"""In which forms the values of a graph are wanted: as floats, as codes in memory, or not at all.

Readers are asked before what they read, so the nodes are gone through from the last to the first. A coded value that
several layers read is made once where their forms agree, with margins for the widest padding. Every form can be had:
codes are made from floats where nothing makes them directly.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bitwright.packing.lattice import Lattice, find_lattice
from bitwright.runtime.checks import LARGEST_FLOAT
from bitwright.runtime.domains import SIGNS, Domain, domains, integer_layer
from bitwright.runtime.fuse import LAYERS, Chain, Coder, find_coders, fuse
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.kernels import Form, Row, choose
from bitwright.runtime.layer import Layer, Pair, Tensor

Shape = tuple[int, ...]


IMAGE_CHANNELS = 4
"""Images of at most so many channels are encoded as they come from callers, channels first."""


@dataclass
class Wanted:
    """The forms in which a value is wanted; codes with so many rows and columns around the image. Floats are those of
    operations: graph inputs are there as callers give them anyway."""

    floats: bool = False
    codes: dict[Form, Pair] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.floats or bool(self.codes)

    def want_codes(self, form: Form, margins: Pair = (0, 0)) -> None:
        has = self.codes.get(form, (0, 0))
        self.codes[form] = (max(has[0], margins[0]), max(has[1], margins[1]))


@dataclass(frozen=True)
class Choice:
    """A layer, the row of the kernel table that computes it, and the value that it reads: that of its node, or what a
    pad in front of it reads."""

    layer: Layer
    row: Row
    source: int

    @property
    def form(self) -> Form | None:
        return self.row.form(self.layer)


class Forms:
    """The analysis of a graph. `chains` are its calls; `choices` has the kernels of its layers by result, `wanted` the
    forms of every value, `encoded` which coder a layer's kernel computes besides, in which form; `images` has the
    coders that read graph inputs as callers give them, by what they make."""

    def __init__(
        self, graph: Graph, shapes: list[Shape], tensors: Mapping[str, Tensor], preferred: Sequence[str] = ()
    ) -> None:
        self.graph, self.shapes, self.tensors = graph, shapes, tensors
        self.domains = [_coding(domain) for domain in domains(graph, tensors)]
        self._lattices: dict[str, Lattice | None] = {}
        self.chains = fuse(graph, shapes, self.domains, self._integer)
        self.coders = find_coders(self.chains, self.domains)
        self._makers = {chain.result: chain.node for chain in self.chains}
        self._pads = {chain.result: chain.node for chain in self.chains if chain.node.op == "pad"}
        self.choices = {c.result: self._choose(c, preferred) for c in self.chains if c.node.op in LAYERS}
        self._layers = {chain.result: chain for chain in self.chains if chain.node.op in LAYERS}
        self.wanted: dict[int, Wanted] = defaultdict(Wanted)
        self.encoded: dict[int, tuple[Coder, Form]] = {}
        self.images: dict[tuple[int, Form], Coder] = {}
        for value in graph.outputs:
            self.wanted[value].floats = True
        for chain in reversed(self.chains):
            if self.alive(chain):
                self._ask(chain, self.wanted[chain.result])

    def alive(self, chain: Chain) -> bool:
        """Whether anybody wants what a chain computes."""
        return bool(self.wanted[chain.result]) or chain.result in self.encoded

    def same_codes(self, node: Node) -> bool:
        """Whether a flatten leaves the codes of an image as they are."""
        return all(size == 1 for size in self.shapes[node.inputs[0]][1:])

    def _ask(self, chain: Chain, wanted: Wanted) -> None:
        node = chain.node
        if node.op in LAYERS:
            self._ask_layer(chain)
        elif chain.result in self.coders:
            self._ask_coder(self.coders[chain.result], wanted)
        elif node.op == "max_pool2d" or (node.op == "flatten" and self.same_codes(node)):
            self._pass_on(node, wanted)
        else:
            wanted.floats = True
            for value in node.inputs:
                self.wanted[value].floats = True

    def _ask_layer(self, chain: Chain) -> None:
        choice = self.choices[chain.result]
        if form := choice.form:
            self.wanted[choice.source].want_codes(form, choice.layer.padding)
        else:
            self.wanted[choice.source].floats = True
        if chain.residual is not None:
            self.wanted[chain.residual].floats = True

    def _ask_coder(self, coder: Coder, wanted: Wanted) -> None:
        if wanted.floats:
            self.wanted[coder.node.inputs[0]].floats = True
        self.images |= {(coder.result, form): image for form in wanted.codes if (image := self._of_image(coder, form))}
        forms = [form for form in wanted.codes if (coder.result, form) not in self.images]
        if forms and coder.source in self.choices and self._takes(coder):
            self.encoded[coder.source] = (coder, forms.pop(0))
        if forms:
            self.wanted[coder.source].floats = True

    def _of_image(self, coder: Coder, form: Form) -> Coder | None:
        """The coder as it reads a graph input, perhaps through its normalize, if it can do so directly."""
        maker = self._makers.get(coder.source)
        if maker is not None and maker.op == "normalize" and coder.affine is None:
            coder = replace(coder, source=maker.inputs[0], affine=maker)
        shape = self.shapes[coder.source]
        image = coder.source < len(self.graph.inputs) and len(shape) == 3 and shape[0] <= IMAGE_CHANNELS
        return coder if image and form == Form(0) else None

    def _takes(self, coder: Coder) -> bool:
        """Whether the kernel that computes what is coded gives the codes, too."""
        row, chain = self.choices[coder.source].row, self._layers[coder.source]
        if chain.coder != coder:
            return False
        return row.pools or (row.encodes and self.codes_first(chain)) if chain.pool else row.encodes

    def codes_first(self, chain: Chain) -> bool:
        """Whether a layer's codes can be pooled in place of its results. Coding is monotone: the code of the largest
        number is the largest of the codes, or the least where the coder's scale is negative. A NaN must not occur."""
        coder, pool, layer = chain.coder, chain.pool, self.choices[chain.result].layer
        if coder is None or pool is None or list(pool.attributes["dilation"]) != [1, 1] or chain.residual is not None:
            return False
        if layer.domain is None or layer.lattice is None:
            return False
        largest = 2.0**32 * float(
            max(layer.lattice.positive.max(), layer.lattice.negative.max(), 1) * layer.domain.scale
        )
        for node in (chain.node, chain.affine, *chain.activation, coder.affine):
            for role, name in node.weights.items() if node else ():
                number = 1.0 if role == "weight" else float(np.abs(self.tensors[name].dense()).max())
                largest = max(largest, 1.0) * max(number, 1.0) + number
        return largest < LARGEST_FLOAT

    def _pass_on(self, node: Node, wanted: Wanted) -> None:
        below = self.wanted[node.inputs[0]]
        below.floats |= wanted.floats
        for form in wanted.codes:
            below.want_codes(form)

    def _choose(self, chain: Chain, preferred: Sequence[str]) -> Choice:
        node = chain.node
        source, name = node.inputs[0], node.weights["weight"]
        domain, lattice = (self.domains[source], self._lattice(name)) if self._integer(node) else (None, None)
        padding: Pair = tuple(node.attributes.get("padding", (0, 0)))
        outside = 0
        merged = self._merge_pad(source, padding, domain) if node.op == "conv2d" else None
        if merged is not None:
            source, padding, outside = merged
            domain = self.domains[source] if domain else None
        shape = self.shapes[source]
        image: Pair = (shape[1], shape[2]) if node.op == "conv2d" else (1, 1)
        pixels = math.prod(self.shapes[chain.pooled if chain.pool else chain.result][1:])
        layer = Layer(node, self.tensors[name], image, padding, domain, lattice, outside, pixels)
        return Choice(layer, choose(layer, preferred), source)

    def _merge_pad(self, value: int, padding: Pair, domain: Domain | None) -> tuple[int, Pair, int] | None:
        """What a pad in front of a convolution reads, the padding of both together, and the m around the image."""
        node = self._pads.get(value)
        if node is None:
            return None
        before, after, number = (node.attributes[key] for key in ("before", "after", "value"))
        if before != after or before[0] or (number != 0 and (domain is None or padding != (0, 0))):
            return None
        source = node.inputs[0]
        if domain is not None and self.domains[source] is None:
            return None
        outside = 0 if domain is None else int(np.rint(np.float64(np.float32(number)) / np.float64(domain.scale)))
        return source, (padding[0] + before[1], padding[1] + before[2]), outside

    def _integer(self, node: Node) -> bool:
        """Whether a layer is computed in integers."""
        domain = self.domains[node.inputs[0]]
        return domain is not None and integer_layer(node, domain, self._lattice(node.weights["weight"]))

    def _lattice(self, name: str) -> Lattice | None:
        if name not in self._lattices:
            self._lattices[name] = find_lattice(self.tensors[name].dense())
        return self._lattices[name]


def _coding(domain: Domain | None) -> Domain | None:
    """How codes count the numbers of a domain: by twos where it is that of a sign, one by one otherwise."""
    return domain if domain is None or domain == SIGNS else replace(domain, step=1)
