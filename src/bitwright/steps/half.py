"""Half precision: values that float16 holds exactly."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright.errors import BitwrightError
from bitwright.exact import norm_at_inference
from bitwright.precisions import SwitchConv2d, SwitchLinear
from bitwright.steps.step import Step

if TYPE_CHECKING:
    from bitwright.context import Context

_LARGEST = 65504.0


@dataclass(frozen=True)
class Half(Step):
    """Round parameters to the nearest value that IEEE 754 float16 holds.

        q(w) = float16(w),   |q(w) - w| <= 2^-11 |w|   (2^-25 absolute below 2^-14; ties to even)

    No gradient: nothing is trained afterwards. Bits per weight: 16. The network stays float32 everywhere; only the file
    gets smaller, as the packer sees that 2 bytes per value are enough. Zeros stay zeros, shared values stay shared.

    tensors   patterns over the names in the state_dict ("*.bias", "fc1.*", "re:..."); default all.
    ignore    patterns to leave out.
    norms     batch norm is stored as scale and shift, s = gamma / sqrt(var + eps) and t = beta - mean s, so rounding
              its four vectors would save nothing. True: gamma = q(s), beta = q(t), mean = 0, var = 1 - eps, the same
              function at inference with both vectors float16. Trained on, it would normalise differently: let `half`
              be the last step.

    Weights of several precisions, which are codes, are left alone.

    Raises BitwrightError for values beyond 65504, the largest that float16 has. Record: "half" (tensors, values,
    and the largest change of any by rounding, relative to the largest value of its tensor).

    Reference: IEEE 754-2008, binary16.
    """

    name: ClassVar[str] = "half"
    keeps_precisions: ClassVar[bool] = True
    paper: ClassVar[str] = "IEEE 754-2008"

    tensors: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    norms: bool = True

    @torch.no_grad()
    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        chosen = self._chosen(model)
        if self.norms:
            _at_inference(model, chosen)
        before = {name: parameter.clone() for name, parameter in chosen.items()}
        for name, parameter in chosen.items():
            parameter.copy_(to_half(parameter, name))
        values = sum(parameter.numel() for parameter in chosen.values())
        context.record("half", {"tensors": len(chosen), "values": values, "change": _change(before, chosen)})
        return model

    def _chosen(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters to round, by their names."""
        coded = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, SwitchConv2d | SwitchLinear)}
        known = {n: p for n, p in model.named_parameters() if p.is_floating_point() and n not in coded}
        wanted = set().union(*(_matches(pattern, known) for pattern in self.tensors))
        unwanted = set().union(*(_matches(pattern, known) for pattern in self.ignore))
        return {name: p for name, p in known.items() if name in wanted - unwanted}


def to_half(tensor: Tensor, name: str) -> Tensor:
    """`tensor` rounded to float16 values, in its own type. `name` is for the error if one is too large or NaN."""
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not largest <= _LARGEST:
        raise BitwrightError(
            f"{name} holds {largest:g}, but float16 ends at {_LARGEST:g}; leave it out with `ignore` or train it with "
            "weight decay",
            kind="half-range",
        )
    return tensor.half().to(tensor.dtype)


def _matches(pattern: str, known: dict[str, nn.Parameter]) -> set[str]:
    if pattern.startswith("re:"):
        hits = {name for name in known if re.search(pattern[3:], name)}
    else:
        hits = {name for name in known if fnmatch.fnmatchcase(name, pattern)}
    if not hits and known:
        raise BitwrightError(
            f"half: pattern {pattern!r} matches nothing; the tensors are: {', '.join(known)}", kind="no-match"
        )
    return hits


def _at_inference(model: nn.Module, chosen: dict[str, nn.Parameter]) -> None:
    """Write batch norms as scale and shift where both of their parameters are chosen."""
    ours = {id(parameter) for parameter in chosen.values()}
    for module in model.modules():
        if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
            continue
        if id(module.weight) not in ours or id(module.bias) not in ours:
            continue
        mean, variance = module.running_mean, module.running_var
        scale, shift = norm_at_inference(module.weight, module.bias, mean, variance, module.eps)
        module.weight.copy_(scale)
        module.bias.copy_(shift)
        module.running_mean.zero_()
        module.running_var.fill_(1.0 - module.eps)


def _change(before: dict[str, Tensor], after: dict[str, nn.Parameter]) -> float:
    """The largest |new - old| of any value, relative to the largest value of its tensor."""
    changes = [
        float((after[name] - old).abs().max() / old.abs().max().clamp(min=1e-30))
        for name, old in before.items()
        if old.numel()
    ]
    return max(changes, default=0.0)
