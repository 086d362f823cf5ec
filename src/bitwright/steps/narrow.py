"""Layers with fewer channels: the edit `channels`, and a whole network without some.

A cut names entries of one side of a module: a layer's outputs or inputs; the channels of a norm, or of a depthwise
convolution, are its outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import skip_init

from bitwright import edits
from bitwright.edits import edit
from bitwright.errors import BitwrightError

Side = Literal["outputs", "inputs"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (*_CONVOLUTIONS, nn.Linear)
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


@dataclass(frozen=True)
class Axis:
    """One side of the module at `path`; `owner` has for each entry the channel that it belongs to, or -1."""

    path: str
    side: Side
    owner: tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """Entries to remove from one side of the module at `path`."""

    path: str
    side: Side
    entries: tuple[int, ...]


def is_depthwise(module: nn.Module) -> bool:
    """Whether each channel is convolved by itself, to one channel."""
    return (
        isinstance(module, _CONVOLUTIONS)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def sizes_of(module: nn.Module) -> dict[Side, int]:
    """How many entries each side has that can be cut; none for a module that can't be.

    Subclasses may do anything with their channels, and the groups of a convolution would have to stay alike: neither
    can be cut. Nor can norms that look at several channels at once, which would change with them.
    """
    if isinstance(module, _CONVOLUTIONS) and type(module) in _CONVOLUTIONS:
        if is_depthwise(module):
            return {"outputs": module.out_channels}
        return {"outputs": module.out_channels, "inputs": module.in_channels} if module.groups == 1 else {}
    if type(module) is nn.Linear:
        return {"outputs": module.out_features, "inputs": module.in_features}
    if isinstance(module, _NormBase) and type(module) in _NORMS:
        return {"outputs": module.num_features}
    return {"outputs": module.num_parameters} if type(module) is nn.PReLU and module.num_parameters > 1 else {}


@edit("channels")
def channels(old: nn.Module, *, outputs: int | None = None, inputs: int | None = None) -> nn.Module:
    """The same module with so many channels, null: all, its tensors yet to be set.

    Raises BitwrightError for modules that can't be cut and for counts that they haven't got.
    """
    sizes = sizes_of(old)
    wanted: dict[Side, int | None] = {"outputs": outputs, "inputs": inputs}
    for side, count in wanted.items():
        if count is not None and not 1 <= count <= sizes.get(side, 0):
            raise BitwrightError(
                f"a {type(old).__name__} of {sizes.get(side, 'fixed')} {side} can't be made one of {count}", kind="edit"
            )
    new = _made(old, sizes["outputs"] if outputs is None else outputs, inputs)
    for parameter, before in zip(new.parameters(), old.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
    return new


def _made(old: nn.Module, outputs: int, inputs: int | None) -> nn.Module:
    given: dict[str, Any] = {}
    tensor = next((t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()), None)
    if tensor is not None:
        given = {"device": tensor.device, "dtype": tensor.dtype}
    if isinstance(old, nn.Linear):
        return skip_init(
            nn.Linear, old.in_features if inputs is None else inputs, outputs, old.bias is not None, **given
        )
    if isinstance(old, nn.PReLU):
        return skip_init(nn.PReLU, outputs, **given)
    if isinstance(old, _NormBase):
        return type(old)(outputs, old.eps, old.momentum, old.affine, old.track_running_stats, **given)
    assert isinstance(old, _CONVOLUTIONS)
    entering = outputs if is_depthwise(old) else old.in_channels if inputs is None else inputs
    window = (old.kernel_size, old.stride, old.padding, old.dilation)
    groups = outputs if is_depthwise(old) else 1
    return skip_init(type(old), entering, outputs, *window, groups, old.bias is not None, old.padding_mode, **given)


def kept(model: nn.Module, cuts: Iterable[Cut]) -> dict[str, dict[Side, Tensor]]:
    """The entries that stay, of each side of each module that loses some, in the model's order."""
    gone: dict[str, dict[Side, set[int]]] = {}
    for cut in cuts:
        if cut.entries:
            gone.setdefault(cut.path, {}).setdefault(cut.side, set()).update(cut.entries)
    return {
        path: {side: _others(sizes_of(module)[side], entries) for side, entries in gone[path].items()}
        for path, module in model.named_modules()
        if path in gone
    }


def _others(count: int, entries: set[int]) -> Tensor:
    return torch.tensor([i for i in range(count) if i not in entries], dtype=torch.long)


def narrow(model: nn.Module, cuts: Iterable[Cut]) -> dict[str, dict[Side, Tensor]]:
    """Remove the entries from the model, an edit for each module, and give those that stay (`kept`)."""
    stay = kept(model, cuts)
    for path, sides in stay.items():
        tensors = {name: _part(tensor, sides) for name, tensor in model.get_submodule(path).state_dict().items()}
        new = edits.replace(model, path, "channels", **{side: len(entries) for side, entries in sides.items()})
        new.load_state_dict(tensors)
    return stay


def _part(tensor: Tensor, sides: Mapping[Side, Tensor]) -> Tensor:
    if "outputs" in sides and tensor.ndim:
        tensor = tensor[sides["outputs"].to(tensor.device)]
    return tensor[:, sides["inputs"].to(tensor.device)] if "inputs" in sides and tensor.ndim > 1 else tensor


@torch.no_grad()
def silence(model: nn.Module, cuts: Iterable[Cut]) -> None:
    """Zero the weights by which layers read the entries: what the network without them computes, in its old shape."""
    for cut in cuts:
        if cut.side == "inputs":
            weight = model.get_submodule(cut.path).weight
            assert isinstance(weight, Tensor)
            weight[:, list(cut.entries)] = 0
