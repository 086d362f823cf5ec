"""How much a channel matters: sums of weights, scales of batch norms, first-order changes of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright.data.preprocess import Preprocess
from bitwright.errors import BitwrightError
from bitwright.steps.dependencies import Group
from bitwright.steps.layers import weight_of
from bitwright.steps.narrow import Axis
from bitwright.training.evaluate import as_tensor, eval_mode

if TYPE_CHECKING:
    from bitwright.data.dataset import Split

Criterion = Literal["l1", "norm", "gradient"]
_BATCH = 100


def score(
    criterion: Criterion, model: nn.Module, groups: Sequence[Group], images: Split, preprocess: Preprocess
) -> list[Tensor]:
    """How much each channel of each group matters, (C,) float64; `images` with labels are for "gradient" alone.

    Raises BitwrightError for "norm" where a group has no batch norm with scales.
    """
    if criterion == "gradient":
        return by_gradient(model, groups, images, preprocess)
    make = by_weights if criterion == "l1" else by_norm
    return [make(model, group) for group in groups]


@torch.no_grad()
def by_weights(model: nn.Module, group: Group) -> Tensor:
    """s_c = sum |w| over the filters of channel c, as a share of the mean over the group's channels.

    Li et al. 2017, section 3.1; the share makes layers of different sizes comparable.
    """
    found = torch.zeros(group.channels, dtype=torch.float64)
    for axis in _given(group):
        found += _by_channel(axis, weight_of(model.get_submodule(axis.path)).abs().double().flatten(1).sum(1), group)
    return found / found.mean().clamp(min=1e-300)


@torch.no_grad()
def by_norm(model: nn.Module, group: Group) -> Tensor:
    """s_c = |gamma_c| of the batch norm, the mean where a group has several (Liu et al. 2017, section 3)."""
    norms = [(axis, model.get_submodule(axis.path)) for axis in group.axes]
    scales = [(axis, m.weight) for axis, m in norms if isinstance(m, _BatchNorm) and m.affine]
    if not scales:
        raise BitwrightError(
            f"channels: no batch norm with scales is behind layer {group.layers[0]!r}; take criterion l1, or `ignore` "
            "the layer",
            kind="setting",
        )
    found = torch.stack([_by_channel(axis, scale.detach().abs().double(), group) for axis, scale in scales])
    return found.mean(0)


def by_gradient(model: nn.Module, groups: Sequence[Group], images: Split, preprocess: Preprocess) -> list[Tensor]:
    """s_c = mean over images of (dL/dg_c)^2, g_c = 1 a gate that multiplies channel c wherever it is read.

        dL/dg_c = sum over readers and pixels of x_c dL/dx_c

    is the first-order change of an image's loss when nobody reads the channel any more (Molchanov et al. 2019,
    equation 8, with gates as in section 4.2).
    """
    gates: dict[str, Tensor] = {}
    readers = {path for group in groups for path in group.readers}
    handles = [model.get_submodule(path).register_forward_pre_hook(_gate(gates, path)) for path in sorted(readers)]
    sums = [torch.zeros(group.channels, dtype=torch.float64) for group in groups]
    device = next(model.parameters()).device
    try:
        with eval_mode(model), torch.enable_grad():
            pairs = zip(as_tensor(images.images).split(_BATCH), as_tensor(images.labels).split(_BATCH), strict=True)
            for batch, labels in pairs:
                logits = model(preprocess.torch(batch.to(device)))
                loss = F.cross_entropy(logits, labels.to(device), reduction="sum")
                found = dict(zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True))
                for total, group in zip(sums, groups, strict=True):
                    total += _changes(group, found).square().sum(0)
    finally:
        for handle in handles:
            handle.remove()
    return [total / len(images) for total in sums]


def _gate(gates: dict[str, Tensor], path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that multiplies what a layer reads by gates of 1, a number per image and channel."""

    def multiply(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        shape = [1] * x.ndim
        axis = x.ndim - 1 if isinstance(layer, nn.Linear) else 1
        shape[0], shape[axis] = x.shape[0], x.shape[axis]
        gates[path] = torch.ones(shape, device=x.device, requires_grad=True)
        return (x * gates[path], *inputs[1:])

    return multiply


def _changes(group: Group, found: dict[str, Tensor]) -> Tensor:
    """dL/dg, (N, C), of a batch."""
    total: Tensor | None = None
    for axis in group.axes:
        if axis.side == "inputs":
            own = _by_channel(axis, found[axis.path].flatten(1).double().mT, group).mT
            total = own if total is None else total + own
    assert total is not None
    return total


def _given(group: Group) -> list[Axis]:
    """What the group's layers give."""
    return [axis for axis in group.axes if axis.side == "outputs" and axis.path in group.layers]


def _by_channel(axis: Axis, values: Tensor, group: Group) -> Tensor:
    """Sums of the values (entries, ...) of each channel's entries, (C, ...)."""
    owner = torch.tensor(axis.owner)
    own = owner >= 0
    sums = torch.zeros(group.channels, *values.shape[1:], dtype=torch.float64)
    return sums.index_add_(0, owner[own], values.cpu()[own])
