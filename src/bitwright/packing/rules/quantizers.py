"""Signs and quantisers, which may not need the clamp in front of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from bitwright.packing.rules.elementwise import clamp
from bitwright.packing.rules.movement import item, same_elements
from bitwright.packing.rules.reductions import max_pool2d
from bitwright.packing.rules.rule import RULES, Arguments, axis_of, rule
from bitwright.runtime.shapes import limits

if TYPE_CHECKING:
    from bitwright.packing.lower import Constant, Lowering


@rule("bitwright.sign.default")
def sign(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """+1 or -1."""
    x = lowering.value(node, arguments["x"])
    if not _read_by_others(arguments["x"]):
        x = _unlimited(lowering, node, x, lambda low, high: low < 0 <= high)
    return lowering.emit(node, "sign", (x,), lowering.shape(x))


@rule("bitwright.quantize.default")
def quantize(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Whole numbers times a scale, one for all or one per channel."""
    x = lowering.value(node, arguments["x"])
    constants = {role: lowering.constant(node, arguments[role]) for role in ("scale", "zero_point")}
    size = max(constant.tensor.numel() for constant in constants.values())
    if size > 1 and axis_of(node, arguments["x"], arguments["axis"]) != 1:
        lowering.fail(node, f"its axis is {arguments['axis']}; only channels, axis 1, may have scales of their own")
    weights = {role: _vector(constant, size) for role, constant in constants.items()}
    attributes = {name: _whole(lowering, node, arguments, name) for name in ("qmin", "qmax")}

    def enough(low: float, high: float) -> bool:
        """Rounding is monotone: it is enough that the limits reach the ends of the range."""
        scale, zero = (constants[role].tensor.float() for role in ("scale", "zero_point"))
        first, last = (torch.round(torch.tensor(limit) * (1 / scale)) + zero for limit in (low, high))
        return bool((first <= attributes["qmin"]).all() and (last >= attributes["qmax"]).all())

    if not _read_by_others(arguments["x"]):
        x = _unlimited(lowering, node, x, enough)
    return lowering.emit(node, "quantize", (x,), lowering.shape(x), attributes, weights)


def _whole(lowering: Lowering, node: Any, arguments: Arguments, name: str) -> int:
    """An argument that is one whole number."""
    numbers = lowering.constant(node, arguments[name]).tensor.unique().tolist()
    if len(numbers) != 1 or numbers[0] != int(numbers[0]):
        lowering.fail(node, f"its {name} is {numbers}; expected one whole number for all channels")
    return int(numbers[0])


def _vector(constant: Constant, size: int) -> Constant:
    """The constant with `size` entries on one axis."""
    return type(constant)(constant.tensor.reshape(-1).expand(size), constant.origin)


def _read_by_others(argument: Any) -> bool:
    """Whether not only signs and quantisers read a clamp in front of them: then it is computed anyway."""

    def rule_of(node: Any) -> Any:
        return RULES.get(str(node.target))

    while rule_of(argument) in (clamp, same_elements, max_pool2d, item):
        if len(argument.users) > 1 and not all(rule_of(user) in (sign, quantize) for user in argument.users):
            return True
        argument = argument.args[0]
    return False


def _unlimited(lowering: Lowering, node: Any, x: int, enough: Callable[[float, float], bool]) -> int:
    """x without a clamp before it that changes nothing, its limits being `enough`.

    Networks are trained so, for the gradient: a hard tanh before each sign, a clamp to 0..1 before each quantiser. Both
    are monotone, so that a maximum between them changes nothing either.
    """
    maker = lowering.producer(x)
    if maker is not None and maker.op == "clamp" and enough(*limits(**maker.attributes)):
        return _unlimited(lowering, node, maker.inputs[0], enough)
    if maker is not None and maker.op in ("max_pool2d", "flatten"):
        source = _unlimited(lowering, node, maker.inputs[0], enough)
        return x if source == maker.inputs[0] else lowering.repeat(x, source)
    return x
