"""Norms that depend on the image itself: layer, instance, group and local response norm.

The first three are `group_norm` nodes, with the learned scale and shift as an `affine` node behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bitwright.packing.rules.elementwise import channel_vector
from bitwright.packing.rules.layers import batch_norm, emit_affine
from bitwright.packing.rules.rule import Arguments, rule

if TYPE_CHECKING:
    from bitwright.packing.lower import Constant, Lowering


@rule("aten.group_norm.default")
def group_norm(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Groups of neighbouring channels."""
    x = lowering.value(node, arguments["input"])
    return _grouped(lowering, node, x, arguments["num_groups"], arguments)


@rule("aten.instance_norm.default")
def instance_norm(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """Every channel by itself; with statistics of training it is a batch norm."""
    if not arguments["use_input_stats"]:
        return batch_norm(lowering, node, arguments)
    x = lowering.value(node, arguments["input"])
    return _grouped(lowering, node, x, lowering.shape(x)[0], arguments)


@rule("aten.layer_norm.default")
def layer_norm(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """All channels together."""
    x = lowering.value(node, arguments["input"])
    normed, shape = tuple(arguments["normalized_shape"]), lowering.shape(x)
    if normed != shape:
        lowering.fail(node, f"it normalises over {normed} of {shape}; only all axes behind the batch are known")
    return _grouped(lowering, node, x, 1, arguments)


def _grouped(lowering: Lowering, node: Any, x: int, groups: int, arguments: Arguments) -> int:
    shape = lowering.shape(x)
    normed = lowering.emit(node, "group_norm", (x,), shape, {"groups": groups, "epsilon": float(arguments["eps"])})
    scale, shift = (_learned(lowering, node, shape, arguments[role], default)
                    for role, default in (("weight", 1.0), ("bias", 0.0)))  # fmt: skip
    return emit_affine(lowering, node, normed, scale, shift)


def _learned(lowering: Lowering, node: Any, shape: tuple[int, ...], argument: Any, default: float) -> torch.Tensor:
    """A learned vector, of which there is one number per channel; `default` where there is none."""
    tensor = torch.tensor(default) if argument is None else lowering.constant(node, argument).tensor
    if tensor.ndim == 1:
        tensor = tensor.reshape(-1, *(1,) * (len(shape) - 1))
    return channel_vector(lowering, node, shape, tensor)


@rule("bitwright.response_norm.default")
def response_norm(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """The formula of AlexNet; torch divides its alpha by the size."""
    x = lowering.value(node, arguments["input"])
    attributes = {role: arguments[role] for role in ("size", "beta", "k")}
    attributes["alpha"] = arguments["alpha"] / arguments["size"]
    return lowering.emit(node, "response_norm", (x,), lowering.shape(x), attributes)
