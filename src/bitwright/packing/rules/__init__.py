"""One rule per ATen operation: how it becomes nodes of the engine graph. A file put here is found, nothing lists it.

A rule takes the lowering, the exported node and its arguments by the names of the operator's schema, and gives the
number of the value that the node's result is. To add an operation to the engine: a row in FORMAT.md 7, a shape rule in
`runtime/shapes.py`, a function in `runtime/reference.py`, its native call in `runtime/floats.py`, its twins in
`measure/onnx_peer.py` and `measure/torch_peer.py`, and a rule here.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from bitwright.packing.rules.rule import RULES, Arguments, Rule


@functools.cache
def _rules() -> dict[str, Rule]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return RULES


def find_rule(operator: str) -> Rule | None:
    """The rule of an operator such as aten.relu.default; None where the engine has no such operation."""
    return _rules().get(operator)


def bind(node: Any) -> Arguments:
    """The arguments of an exported node by name, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # operator.getitem
        return dict(enumerate(node.args))  # type: ignore[arg-type]
    values = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    values.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    return {**values, **node.kwargs}


def remedy(operator: str) -> str:
    """Why an operation without a rule is refused, and what to do."""
    dropout = "dropout is active outside training: pass training=self.training, or use nn.Dropout"
    signs = "for signs use torch.ops.bitwright.sign(x): +1 where x >= 0, else -1"
    advice = {
        "sign": signs,
        "ge": signs,
        "gt": signs,
        "where": signs,
        "round": "to quantise activations use bitwright.ops.Quantize, or torch.ops.bitwright.quantize",
        "log_softmax": "return the logits or their softmax (the largest is the same class)",
        "dropout": dropout,
        "native_dropout": dropout,
        "native_batch_norm_legit": "batch norm without running statistics depends on the rest of the batch; "
        "use track_running_stats=True",
        "permute": "the engine keeps images in NCHW order; drop the transposition",
        "transpose": "the engine keeps images in NCHW order; drop the transposition",
    }
    if (name := _plain_name(operator)) in advice:
        return advice[name]
    known = ", ".join(sorted({_plain_name(operator) for operator in _rules() if operator.startswith("aten.")}))
    return f"it has no such operation. Replace it, or keep that part outside the packed model. Known: {known}"


def _plain_name(operator: str) -> str:
    """`aten._log_softmax.default` without what only torch cares about."""
    return operator.removeprefix("aten.").split(".")[0].lstrip("_")
