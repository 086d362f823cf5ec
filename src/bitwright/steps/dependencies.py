"""Which channels go together: layers coupled by norms, additions and concatenations, found by torch-pruning.

What a layer gives is read by others, normed, added to what other layers give, concatenated, flattened. A channel can
only be removed everywhere at once. torch-pruning (Fang et al. 2023, "DepGraph") follows that through autograd's graph;
it takes operations that it doesn't know for element-wise ones, and numbers of channels in a module's code, like those
of the padded shortcuts of CIFAR's residual networks, it can't see. So every group is proved before it is used: with
random weights, in float64, the network without half of the channels must give what the whole one gives when nobody
reads them.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bitwright.errors import BitwrightError
from bitwright.steps.narrow import LAYERS, Axis, Cut, Side, is_depthwise, narrow, silence, sizes_of
from bitwright.training.evaluate import eval_mode

_ROUNDING = 1e-9
"""Largest difference of an output, as a share of the largest one, that is float64's rounding."""


@dataclass(frozen=True)
class Group:
    """Channels that `layers` give together and `readers` read; `axes` are all places where they are."""

    channels: int
    axes: tuple[Axis, ...]
    layers: tuple[str, ...]
    readers: tuple[str, ...]

    def without(self, removed: Iterable[int]) -> list[Cut]:
        """What is cut where these channels go."""
        gone = set(removed)
        return [
            Cut(axis.path, axis.side, tuple(i for i, c in enumerate(axis.owner) if c in gone)) for axis in self.axes
        ]


def find_groups(model: nn.Module, image: Tensor) -> list[Group]:
    """The groups of channels that can be removed from the model, in the order of inference; it stays as it is.

    `image` is one preprocessed image. What the model gives in the end belongs to no group. Raises BitwrightError for a
    model that can't be traced.
    """
    trial = copy.deepcopy(model).cpu()
    image = image.detach().cpu()
    calls = _calls(trial, image)
    groups = [group for group in _traced(trial, image) if _sound(group, trial, calls)]
    order = {path: place for place, path in enumerate(calls)}
    groups.sort(key=lambda group: min(order[path] for path in group.layers))
    return _proved(trial, groups, image)


def _calls(model: nn.Module, image: Tensor) -> Counter[str]:
    """How often inference calls each module that has no children, in the order of their first calls."""
    calls: Counter[str] = Counter()

    def see(name: str) -> Callable[..., None]:
        return lambda *_: calls.update([name])

    handles = [m.register_forward_hook(see(n)) for n, m in model.named_modules() if not any(True for _ in m.children())]
    try:
        with eval_mode(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _traced(model: nn.Module, image: Tensor) -> list[Group]:
    """Every group that torch-pruning finds. Leaves the model in eval mode."""
    import torch_pruning

    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the graph is autograd's
    paths = {module: path for path, module in model.named_modules()}
    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(model, (image,), verbose=False)
            return [made for found in graph.get_all_groups() if (made := _group(graph, found, paths)) is not None]
    except Exception as error:  # a user's forward may raise anything, and so may tracing it
        raise BitwrightError(
            f"torch-pruning can't follow what {type(model).__name__} computes: {type(error).__name__}: {error}; prune "
            "weights with `prune`, or write the forward in plain torch operations",
            kind="trace",
        ) from None


def _group(graph: Any, found: Any, paths: dict[nn.Module, str]) -> Group | None:
    """A group in our words; None where it has places that are no modules we can cut."""
    axes: list[Axis] = []
    channels = len(found[0].idxs)
    for item in found:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return None
        if module not in paths or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            continue  # an operation, or one that has the same number for all channels
        sizes = sizes_of(module)
        side: Side = "outputs" if graph.is_out_channel_pruning_fn(item.dep.handler) else "inputs"
        if side not in sizes or max(item.idxs) >= sizes[side]:
            return None
        owner = [-1] * sizes[side]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            owner[index] = root
        axes.append(Axis(paths[module], side, tuple(owner)))
    given = {axis.path for axis in axes if axis.side == "outputs"}
    layers = tuple(p for m, p in paths.items() if p in given and isinstance(m, LAYERS) and not is_depthwise(m))
    return Group(channels, tuple(axes), layers, tuple(axis.path for axis in axes if axis.side == "inputs"))


def _sound(group: Group, model: nn.Module, calls: Counter[str]) -> bool:
    """Whether it is more than one channel, all of what its layers give, somebody reads it, and all happens once."""
    whole = all(-1 not in axis.owner for axis in group.axes if axis.side == "outputs" and axis.path in group.layers)
    once = all(calls[axis.path] == 1 for axis in group.axes)
    return group.channels > 1 and whole and once and bool(group.layers) and bool(group.readers)


def _proved(model: nn.Module, groups: Sequence[Group], image: Tensor) -> list[Group]:
    """Those that can be cut, one by one and all together."""
    trial, images = _randomised(copy.deepcopy(model).double()), torch.cat([image, image.flip(-1)]).double()
    generator = torch.Generator().manual_seed(0)
    images = images + torch.randn(images.shape, generator=generator, dtype=torch.float64)
    if not groups or _holds(trial, groups, images):
        return list(groups)
    found = [group for group in groups if _holds(trial, [group], images)]
    if found and not _holds(trial, found, images):
        raise BitwrightError(
            f"the channels of {type(model).__name__} can be removed one group at a time but not together; choose "
            "`layers`",
            kind="trace",
        )
    return found


def _holds(model: nn.Module, groups: Sequence[Group], images: Tensor) -> bool:
    """Whether the model without half of the groups' channels is the one in which nobody reads them."""
    generator = torch.Generator().manual_seed(0)
    cuts: list[Cut] = []
    for group in groups:
        removed = torch.randperm(group.channels, generator=generator)[: group.channels // 2]
        cuts += group.without(removed.tolist())
    narrowed, silenced = copy.deepcopy(model), copy.deepcopy(model)
    silence(silenced, cuts)
    try:
        narrow(narrowed, cuts)
        with eval_mode(narrowed), eval_mode(silenced), torch.no_grad():
            found, wanted = narrowed(images), silenced(images)
    except Exception:  # shapes that no longer fit, as torch or the user's code says it
        return False
    same = isinstance(found, Tensor) and found.shape == wanted.shape and bool(torch.isfinite(wanted).all())
    return same and float((found - wanted).abs().max()) <= _ROUNDING * max(float(wanted.abs().max()), 1e-30)


@torch.no_grad()
def _randomised(model: nn.Module) -> nn.Module:
    """The model with weights that hide nothing: trained ones may be zero, or all alike."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            module.reset_running_stats()
        for parameter in module.parameters(recurse=False):
            random = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            fan_in = math.prod(parameter.shape[1:])
            parameter.copy_(random * math.sqrt(2 / fan_in) if parameter.ndim > 1 else 1 + random / 4)
    return model
