"""Layers with weights: convolution, linear, batch norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bitwright.exact import norm_at_inference
from bitwright.packing.rules.movement import emit_pad
from bitwright.packing.rules.rule import Arguments, rule, shape_of, two

if TYPE_CHECKING:
    from bitwright.packing.lower import Constant, Lowering


@rule("aten.conv2d.default", "aten.conv2d.padding")
def conv2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Convolution; padding may be "valid" or "same"."""
    x = lowering.value(node, arguments["input"])
    weights = {"weight": lowering.constant(node, arguments["weight"])}
    if arguments["bias"] is not None:
        weights["bias"] = lowering.constant(node, arguments["bias"])
    dilation = two(arguments["dilation"])
    kernel = weights["weight"].tensor.shape[2:]
    before, after = _borders(arguments["padding"], [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)])
    if before != after:
        x = emit_pad(lowering, node, x, [0, *before], [0, *after], 0.0)
        before = [0, 0]
    attributes = {
        "stride": two(arguments["stride"]),
        "padding": before,
        "dilation": dilation,
        "groups": arguments["groups"],
    }
    return lowering.emit(node, "conv2d", (x,), shape_of(node), attributes, weights)


def _borders(padding: Any, total: list[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each axis; "same" puts the odd one behind, as PyTorch does."""
    if padding == "valid":
        return [0, 0], [0, 0]
    if padding == "same":
        return [n // 2 for n in total], [n - n // 2 for n in total]
    return two(padding), two(padding)


@rule("aten.linear.default")
def linear(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """A fully connected layer on (N, features)."""
    weight = lowering.constant(node, arguments["weight"])
    bias = None if arguments["bias"] is None else lowering.constant(node, arguments["bias"])
    return _linear(lowering, node, arguments["input"], weight, bias)


@rule("aten.addmm.default")
def addmm(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """bias + x @ weight."""
    if arguments["beta"] != 1 or arguments["alpha"] != 1:
        lowering.fail(node, "its alpha and beta must be 1")
    bias = lowering.constant(node, arguments["self"])
    return _linear(lowering, node, arguments["mat1"], _transposed(lowering, node, arguments["mat2"]), bias)


@rule("aten.mm.default", "aten.matmul.default")
def matmul(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """x @ weight."""
    weight = _transposed(lowering, node, arguments.get("other", arguments.get("mat2")))
    return _linear(lowering, node, arguments["self"], weight, None)


def _transposed(lowering: Lowering, node: Any, argument: Any) -> Constant:
    constant = lowering.constant(node, argument)
    if constant.tensor.ndim != 2:
        lowering.fail(node, f"its weight has {constant.tensor.ndim} axes; expected 2")
    return type(constant)(constant.tensor.t(), constant.origin)


def _linear(lowering: Lowering, node: Any, argument: Any, weight: Constant, bias: Constant | None) -> int:
    x = lowering.value(node, argument)
    if len(lowering.shape(x)) != 1:
        found = ", ".join(map(str, lowering.shape(x)))
        lowering.fail(node, f"its input has the shape (N, {found}); flatten it to (N, features) first")
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return lowering.emit(node, "linear", (x,), shape_of(node), None, weights)


@rule("aten._native_batch_norm_legit_no_training.default")
def batch_norm(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Batch norm at inference: scale and shift in float64, then rounded."""
    x = lowering.value(node, arguments["input"])
    mean, var = (lowering.constant(node, arguments[f"running_{key}"]).tensor for key in ("mean", "var"))
    gamma, beta = (
        None if arguments[k] is None else lowering.constant(node, arguments[k]).tensor for k in ("weight", "bias")
    )
    scale, shift = norm_at_inference(gamma, beta, mean, var, arguments["eps"])
    return emit_affine(lowering, node, x, scale, shift)


def emit_affine(lowering: Lowering, node: Any, x: int, scale: torch.Tensor, shift: torch.Tensor) -> int:
    if bool((scale == 1).all()) and not bool(shift.any()):
        return x
    weights = {"scale": lowering.computed(scale), "shift": lowering.computed(shift)}
    return lowering.emit(node, "affine", (x,), lowering.shape(x), None, weights)
