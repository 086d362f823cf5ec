"""Whether the engine computes what torch does: layer by layer from the same numbers, and end to end.

How equal they must be depends on the network (DESIGN: FORMAT.md 8 fixes the arithmetic of integer layers, not of float
ones, whose sums any library adds in its own order):

    integer  every layer adds whole numbers, from the pixels to the logits: every logit is equal
    mixed    some are quantised: `LABELS` percent of the labels, the accuracy within `ACCURACY`, and every quantised
             layer, given the same input, is equal but where a number lies within `NEAR` of a threshold
    float    none is: labels and accuracy as before, and logits within `LOGITS` of their range
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.measure.peers import QUANTIZERS, has_quantizers
from bitwright.packing.lattice import find_lattice
from bitwright.runtime.domains import Domain, domains, integer_layer
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.reference import OPERATIONS, prepare

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = np.ndarray
LABELS = 99.9
"""Percent of the images that must get the same label."""
ACCURACY = 0.05
"""Points by which the accuracies may differ."""
LOGITS = 1e-4
"""Largest difference of a logit, as a share of the range of all logits, where nothing is quantised."""
NEAR = 1e-5
"""A number this near to a threshold, as a share of the largest magnitude in its layer, may fall on either side: float32
sums in another order differ by some 1e-7 to 1e-6 of it."""
LAYERS = ("conv2d", "linear")
MEANS = ("avg_pool2d", "adaptive_avg_pool2d", "mean")
"""Operations whose sums are exact where what they add is coded (FORMAT.md 8.4)."""
SUMS = ("softmax", "response_norm", "group_norm")
"""Others that add, and so round in an order of their own."""
CURVES = ("sigmoid", "tanh", "elu", "gelu", "rsqrt")
"""Operations that every library approximates in its own way."""


def kind_of_network(graph: Graph, weights: Mapping[str, Array]) -> str:
    """ "integer", "mixed" or "float", see above."""
    coded = domains(graph, weights)
    layers = [_is_integer(node, coded, weights) for node in graph.nodes if node.op in LAYERS]
    free = [n for n in graph.nodes if n.op in SUMS + CURVES or (n.op in MEANS and coded[n.inputs[0]] is None)]
    if layers and all(layers) and not free:
        return "integer"
    return "mixed" if has_quantizers(graph) else "float"


def _is_integer(node: Node, coded: list[Domain | None], weights: Mapping[str, Array]) -> bool:
    domain = coded[node.inputs[0]]
    return domain is not None and integer_layer(node, domain, find_lattice(weights[node.weights["weight"]]))


@dataclass(frozen=True)
class LayerAgreement:
    """A sign, a quantiser or a quantised layer of torch's, and the engine's from the same numbers.

    Of `values` numbers `different` differ; `wrong` of those by more than the side of a threshold that they are near to.
    """

    name: str
    operation: str
    values: int
    different: int
    wrong: int


def compare_layers(
    model: nn.Module, given: Tensor, graph: Graph, weights: Mapping[str, Array], inputs: Array
) -> list[LayerAgreement]:
    """Run a torch model on `given` and the reference engine on `inputs`, the same images, layer by layer.

    Both run the whole network, but after each sign, quantiser and quantised layer the engine goes on with torch's
    numbers, so that what follows has the same input in both. Gives a row per sign and quantiser, in order, and per
    layer of `bitwright.ops` that is called once. `graph` and `weights` are what the packer made of the model. Raises
    `BitwrightError` (kind "differs") if the two don't take signs and quantise in the same order.
    """
    codes, outputs = _watch(model, given)
    order = [node.op for node in graph.nodes if node.op in QUANTIZERS]
    if order != [op for op, _ in codes]:
        raise BitwrightError(
            f"torch quantises {len(codes)} times and the packed graph {len(order)} times, or in another order; they "
            "are not the same network",
            kind="differs",
        )
    coded = domains(graph, weights)
    last = {node.name: index for index, node in enumerate(graph.nodes)}
    given_codes = iter(codes)
    rows: list[LayerAgreement] = []

    def see(index: int, inputs: list[Array], value: Array) -> Array:
        node = graph.nodes[index]
        if node.op in QUANTIZERS:
            theirs = next(given_codes)[1]
            rows.append(_beside_threshold(node, weights, inputs[0], value, theirs))
            return theirs
        if node.name in outputs and last[node.name] == index and value.shape == outputs[node.name].shape:
            exact = node.op in LAYERS and _is_integer(node, coded, weights)
            theirs = outputs[node.name]
            rows.append(_beside(node, value, theirs, 0.0 if exact else NEAR))
            return theirs
        return value

    prepare(graph, weights, see)(inputs)
    return rows


def _beside_threshold(node: Node, weights: Mapping[str, Array], x: Array, ours: Array, theirs: Array) -> LayerAgreement:
    """Signs and quantisers are monotone: from a number within `reach` of x one gets what lies between the two ends."""
    code = partial(OPERATIONS[node.op], {role: weights[name] for role, name in node.weights.items()}, **node.arguments)
    reach = np.float32(NEAR) * np.abs(x).max(initial=0)
    wrong = (theirs < code(x - reach)) | (theirs > code(x + reach))
    return _row(node, ours, theirs, wrong)


def _beside(node: Node, ours: Array, theirs: Array, tolerance: float) -> LayerAgreement:
    wrong = ~(np.abs(theirs - ours) <= tolerance * np.abs(ours).max(initial=0))
    return _row(node, ours, theirs, wrong)


def _row(node: Node, ours: Array, theirs: Array, wrong: Array) -> LayerAgreement:
    return LayerAgreement(node.name, node.op, ours.size, int((ours != theirs).sum()), int(wrong.sum()))


def _watch(model: nn.Module, given: Tensor) -> tuple[list[tuple[str, Array]], dict[str, Array]]:
    """What torch's signs and quantisers gave, in order, and what its quantised layers did, by path."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from bitwright.ops import QuantConv2d, QuantLinear

    operators = {getattr(torch.ops.bitwright, name).default: name for name in QUANTIZERS}
    codes: list[tuple[str, Array]] = []
    outputs: dict[str, list[Array]] = defaultdict(list)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if function in operators:
                codes.append((operators[function], result.numpy().copy()))
            return result

    def remember(name: str) -> Any:
        return lambda module, inputs, output: outputs[name].append(output.numpy().copy())

    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear)}
    handles = [layer.register_forward_hook(remember(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), Watch():
            model.eval()(given)
    finally:
        for handle in handles:
            handle.remove()
    return codes, {name: calls[0] for name, calls in outputs.items() if len(calls) == 1}


def judge(kind: str, facts: Mapping[str, Any]) -> list[str]:
    """What is not as equal as a network of this kind must be, in sentences; none is good.

    `facts`: "labels_different" of "images", "accuracy_difference" (points), "logit_difference" (share of the range),
    and "quantised": {"values", "wrong"} of `compare_layers`.
    """
    found = []
    same = 100 * (1 - facts["labels_different"] / facts["images"])
    if kind == "integer" and facts["logit_difference"] != 0:
        found.append(f"logits differ by {facts['logit_difference']:.1e} of their range; expected none to differ")
    if kind == "float" and not facts["logit_difference"] <= LOGITS:
        found.append(f"logits differ by {facts['logit_difference']:.1e} of their range; expected {LOGITS:.0e} at most")
    if same < LABELS:
        found.append(f"{same:.2f} % of the labels are torch's; expected {LABELS} %")
    if not facts["accuracy_difference"] <= ACCURACY + 1e-9:
        found.append(f"the accuracies differ by {facts['accuracy_difference']:.2f} points; expected {ACCURACY} at most")
    if wrong := facts["quantised"]["wrong"]:
        of = f"{wrong:,} of {facts['quantised']['values']:,} numbers"
        found.append(f"{of} of quantised layers differ, given the same input and not near a threshold")
    return found
