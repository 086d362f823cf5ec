"""Sums, products and activations, number by number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from bitwright.packing.rules.layers import emit_affine
from bitwright.packing.rules.rule import Arguments, rule

if TYPE_CHECKING:
    from bitwright.packing.lower import Constant, Lowering


@rule("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor")
def arithmetic(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Two activations added or multiplied, or an activation and a constant per channel."""
    a, b, name = arguments["self"], arguments["other"], str(node.target).split(".")[1]
    if arguments.get("alpha", 1) != 1:
        lowering.fail(node, f"its alpha is {arguments['alpha']}; expected 1")
    if name in ("add", "mul") and lowering.is_constant(a):
        a, b = b, a
    if lowering.is_constant(a):
        lowering.fail(node, "its first operand is a constant; write it with the activation first")
    x = lowering.value(node, a)
    if lowering.is_constant(b):
        return _with_constant(lowering, node, name, x, lowering.constant(node, b), len(a.users) == 1)
    y = lowering.value(node, b)
    if name == "div":
        lowering.fail(node, "an activation can only be divided by a constant per channel")
    if name == "sub":
        name, y = "add", _negated(lowering, node, y)
    shapes = lowering.shape(x), lowering.shape(y)
    if shapes[0] == (1, *shapes[1][1:]):  # the one for all channels comes last
        return lowering.emit(node, name, (y, x), shapes[1])
    if shapes[1] not in (shapes[0], (1, *shapes[0][1:])):
        lowering.fail(
            node,
            f"its operands have shapes {shapes[0]} and {shapes[1]}; expected equal ones, or (1, ...) for all channels",
        )
    return lowering.emit(node, name, (x, y), shapes[0])


def _negated(lowering: Lowering, node: Any, x: int) -> int:
    vector = torch.ones(lowering.shape(x)[0])
    return emit_affine(lowering, node, x, -vector, 0 * vector)


def _with_constant(lowering: Lowering, node: Any, name: str, x: int, constant: Constant, alone: bool) -> int:
    """x + c, x - c, x * c or x / c as an affine node, or as the bias of the linear layer that made x.

    A sum after a product is one node with it, both round anyway, if it is `alone` in reading it.
    """
    vector = channel_vector(lowering, node, lowering.shape(x), constant.tensor)
    producer = lowering.producer(x)
    if name == "add" and producer is not None and producer.op == "linear" and "bias" not in producer.weights:
        stored = producer.weights["weight"]
        weights = {
            "weight": type(constant)(torch.from_numpy(lowering.weights[stored]), stored),
            "bias": type(constant)(vector.float(), constant.origin),
        }
        return lowering.emit(node, "linear", producer.inputs, lowering.shape(x), None, weights)
    one, zero = torch.ones_like(vector), torch.zeros_like(vector)
    scale = {"mul": vector, "div": 1 / vector}.get(name, one)
    shift = {"add": vector, "sub": -vector}.get(name, zero)
    if alone and producer is not None and producer.op == "affine" and name in ("add", "sub"):
        before, added = (torch.from_numpy(lowering.weights[producer.weights[role]]) for role in ("scale", "shift"))
        if not bool(added.any()):
            return emit_affine(lowering, node, producer.inputs[0], before.double(), shift)
    return emit_affine(lowering, node, x, scale, shift)


def channel_vector(lowering: Lowering, node: Any, shape: tuple[int, ...], constant: torch.Tensor) -> torch.Tensor:
    """A constant that is broadcast over an activation as one number per channel, float64."""
    try:
        spread = torch.broadcast_to(constant.double(), (1, *shape)).reshape(shape[0], -1)
    except RuntimeError:
        lowering.fail(node, f"a constant of shape {tuple(constant.shape)} does not broadcast over {shape}")
    if not bool((spread == spread[:, :1]).all()):
        lowering.fail(node, f"its constant of shape {tuple(constant.shape)} is not one number per channel")
    return spread[:, 0]


_PLAIN = {f"aten.{op}.default": op for op in ("relu", "abs", "sigmoid", "tanh", "sqrt", "rsqrt")}


@rule(*_PLAIN)
def plain(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """An operation that the engine has under the same name."""
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, _PLAIN[str(node.target)], (x,), lowering.shape(x))


@rule("aten.elu.default")
def elu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """x where x > 0, else alpha (exp(x) - 1)."""
    if arguments["scale"] != 1 or arguments["input_scale"] != 1:
        lowering.fail(node, "it is scaled; only nn.ELU is known")
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, "elu", (x,), lowering.shape(x), {"alpha": float(arguments["alpha"])})


@rule("aten.gelu.default")
def gelu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """The exact form."""
    if arguments["approximate"] != "none":
        lowering.fail(node, f"approximate is {arguments['approximate']!r}; only 'none' is known")
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, "gelu", (x,), lowering.shape(x))


@rule("aten.silu.default")
def silu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """x times its sigmoid."""
    x = lowering.value(node, arguments["self"])
    shape = lowering.shape(x)
    return lowering.emit(node, "mul", (x, lowering.emit(node, "sigmoid", (x,), shape)), shape)


@rule("aten.hardsigmoid.default", "aten.hardswish.default")
def hard(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """x / 6 + 1 / 2 within 0 and 1; x times that."""
    x = lowering.value(node, arguments["self"])
    shape = lowering.shape(x)
    line = emit_affine(lowering, node, x, torch.full(shape[:1], 1 / 6), torch.full(shape[:1], 0.5))
    y = lowering.emit(node, "clamp", (line,), shape, {"low": 0.0, "high": 1.0})
    return y if "sigmoid" in str(node.target) else lowering.emit(node, "mul", (x, y), shape)


@rule("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """x where x >= 0, else slope * x; one slope, or one per channel."""
    x = lowering.value(node, arguments["self"])
    slope = lowering.constant(node, arguments["weight"])
    vector = slope.tensor.reshape(-1).expand(lowering.shape(x)[0])
    return _prelu(lowering, node, x, type(slope)(vector, slope.origin))


@rule("aten.leaky_relu.default")
def leaky_relu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """The same slope for all."""
    x = lowering.value(node, arguments["self"])
    slope = torch.full((lowering.shape(x)[0],), float(arguments["negative_slope"]))
    return _prelu(lowering, node, x, lowering.computed(slope))


def _prelu(lowering: Lowering, node: Any, x: int, slope: Constant) -> int:
    return lowering.emit(node, "prelu", (x,), lowering.shape(x), None, {"slope": slope})


@rule(
    "aten.clamp.default",
    "aten.clamp.Tensor",
    "aten.clamp_min.default",
    "aten.clamp_max.default",
    "aten.hardtanh.default",
    "aten.relu6.default",
)
def clamp(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """min(max(x, low), high); signs and quantisers behind it may not need it, see `_unlimited`."""
    x = lowering.value(node, arguments["self"])
    if "relu6" in str(node.target):
        arguments = {"min": 0.0, "max": 6.0}
    low, high = (_limit(lowering, node, arguments.get(key, arguments.get(f"{key}_val"))) for key in ("min", "max"))
    if low is not None and high is not None and low > high:
        lowering.fail(node, f"its limits are {low} and {high}; expected the lower one first")
    if low is None and high is None:
        return x
    if (low, high) == (0, None):
        return lowering.emit(node, "relu", (x,), lowering.shape(x))
    return lowering.emit(node, "clamp", (x,), lowering.shape(x), {"low": low, "high": high})


def _limit(lowering: Lowering, node: Any, argument: Any) -> float | None:
    """A limit of a clamp, which is one number for all; None for none."""
    if argument is None:
        return None
    numbers = lowering.constant(node, argument).tensor.float().unique().tolist()
    if len(numbers) != 1:
        lowering.fail(node, f"its limit has {len(numbers)} different numbers; expected one for all channels")
    return float(numbers[0]) if math.isfinite(numbers[0]) else None
