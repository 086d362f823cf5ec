"""Networks with fewer channels: whole filters pruned, wherever they are coupled."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.measure.parts import engine_milliseconds
from bitwright.ops import Quantize, Sign
from bitwright.steps.budget import Products, alike, cheapest, count_for
from bitwright.steps.criteria import Criterion, score
from bitwright.steps.dependencies import Group, find_groups
from bitwright.steps.layers import check_count, check_number, per_layer, plain_layers, shapes_of, weight_of
from bitwright.steps.narrow import LAYERS, Cut, narrow
from bitwright.steps.recover import output_error, recover
from bitwright.steps.step import Step
from bitwright.training.evaluate import as_tensor
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

_FASTER = 0.98
"""What is less quicker is noise."""


@dataclass(frozen=True)
class Channels(Step):
    """Remove whole channels, with the filters that make them and the weights that read them (Li et al. 2017).

        y_t = sum_s W[t, s] * x_s        without channel c: no filter W[c], no W'[:, c] in the layers that read it

    What a layer gives is normed, added to what others give, concatenated: such channels can only go together. These
    groups are torch-pruning's, and each is proved on the network before it is used (`dependencies.py`); what can't be
    proved stays whole, the residual streams of CIFAR's networks with padded shortcuts for one. The result is a smaller
    network of the same kind: it has fewer weights, products and bytes, and no kernel has to know.

    layers, ignore   whose outputs may lose channels: a group does if all its layers are chosen. What the network gives
                     in the end stays.
    fraction         the share of the network's multiply-accumulates to take away, 0 < f < 1, at least. Or a mapping
                     from layer patterns to shares of their channels, 0 <= f < 1; layers coupled in one group must have
                     the same.
    criterion        how much a channel matters: "l1", the sum of its filters' magnitudes as a share of the group's
                     mean (Li et al. 2017); "norm", the scale of its batch norm (Liu et al. 2017); "gradient", the
                     squared first-order change of the loss without it (Molchanov et al. 2019; reads labels).
    scope            where fraction is a number: "global", the blocks of channels that matter least over all groups,
                     by the mean of their scores, and by "gradient" by their sum per multiply-accumulate that goes with
                     them; "layer", the same share of the channels of each group. Within a group those of least score
                     go.
    lanes            counts that stay are multiples of it, as the engine computes so many outputs at once; below it,
                     where only the readers get faster, of an eighth of it.
    skip             "ms": a group stays whole where the engine would not be 2 % faster in its layers and their readers,
                     one image on one thread (measured: another machine may decide otherwise). Then less than
                     `fraction` goes. "never": nothing is measured.
    images           training images that "gradient" looks at.
    norm_images      batch norms follow the change, measured on so many training images (`carry_over`); 0: they stay.
    train            the training afterwards, or null for none.

    What a removed channel gave its readers on average, its shift behind the norm, is not made up for in their biases: a
    border of zeros would make that inexact, and `norm_images` does it where a batch norm follows. For gradual pruning,
    with training in between, take the step several times.

    Records: "channels" (multiply-accumulates of the network, and per group its layers, their readers, channels and the
    layers' multiply-accumulates, and if measured milliseconds of layers and readers, before and after; "whole": the
    layers whose channels can't go).

    Defaults: lanes are the floats of an AVX-512 register (docs/channels.md has milliseconds by counts); 0.4 by choice.

    References: Li, Kadav, Durdanovic, Samet, Graf, "Pruning filters for efficient ConvNets", ICLR 2017; Liu et al.,
    "Learning efficient convolutional networks through network slimming", ICCV 2017; Molchanov, Mallya, Tyree, Frosio,
    Kautz, "Importance estimation for neural network pruning", CVPR 2019; Fang et al., "DepGraph: Towards any structural
    pruning", CVPR 2023.
    """

    name: ClassVar[str] = "channels"
    changes_layers: ClassVar[bool] = True
    keeps_zeros: ClassVar[bool] = False  # they do stay, but in other places
    paper: ClassVar[str] = "Li et al., ICLR 2017"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    fraction: float | dict[str, float] = 0.4
    criterion: Criterion = "l1"
    scope: Literal["global", "layer"] = "global"
    lanes: int = 16
    skip: Literal["ms", "never"] = "never"
    images: int = 1000
    norm_images: int = 1000
    train: TrainSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("channels: lanes", self.lanes, 1)
        check_count("channels: images", self.images, 1)
        check_count("channels: norm_images", self.norm_images, 0)
        if not isinstance(self.fraction, dict):
            check_number("channels: fraction", self.fraction, lambda f: 0 < f < 1, "a number between 0 and 1")
            return
        for pattern, share in self.fraction.items():
            check_number(
                f"channels: fraction of {pattern!r}", share, lambda f: 0 <= f < 1, "a number from 0 to below 1"
            )

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse networks that can't be followed, and fractions that can't be reached."""
        self._counts(model, self._chosen(model, data), data, look=True)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        data = context.data
        groups = self._chosen(model, data)
        counts, scores, products = self._counts(model, groups, data)
        times = context.remember(
            "milliseconds", lambda: self._milliseconds(model, groups, counts, data) if self.skip == "ms" else []
        )
        slower = [bool(times) and times[g][1] > _FASTER * times[g][0] for g in range(len(groups))]
        counts = [group.channels if slower[g] else counts[g] for g, group in enumerate(groups)]
        if all(slower):
            warnings.warn("channels: no layer gets faster by it, so the network stays as it is", stacklevel=2)
        float_model = copy.deepcopy(model)
        stay = narrow(model, _cuts(groups, counts, scores))
        kept = {path: sides["outputs"] for path, sides in stay.items() if "outputs" in sides}
        recover(model, float_model, context, self.norm_images, self.train, kept)
        record = self._record(groups, counts, products, times)
        context.record("channels", record | {"output_error": output_error(model, float_model, context)})
        return model

    def _chosen(self, model: nn.Module, data: Dataset) -> list[Group]:
        """The groups that may lose channels."""
        for name, module in model.named_modules():
            if isinstance(module, Quantize | Sign):
                raise BitwrightError(
                    f"channels: {name!r} is a quantiser; take channels before the steps that quantise", kind="quantised"
                )
        selected = plain_layers(model, self.layers, self.ignore)
        for name, layer in selected.items():
            if weight_of(layer).dtype != torch.float32:
                raise BitwrightError(
                    f"channels: the weight of layer {name!r} is {weight_of(layer).dtype}; give a float32 model, "
                    "model.float()",
                    kind="dtype",
                )
        groups = [group for group in find_groups(model, _image(data)) if set(group.layers) <= set(selected)]
        if not groups:
            raise BitwrightError(
                f"channels: nothing can be cut from {', '.join(selected)}: they have one channel, give the network's "
                "outputs, or are coupled with layers that aren't chosen or by operations that need all channels; "
                "choose others",
                kind="too-small",
            )
        return groups

    def _counts(
        self, model: nn.Module, groups: Sequence[Group], data: Dataset, look: bool = False
    ) -> tuple[list[int], list[Tensor], Products]:
        """How many channels each group keeps, and how much each of them matters; `look`: without asking images."""
        layers = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
        products = Products(model, groups, shapes_of(model, layers, _image(data)))
        channels = [group.channels for group in groups]
        criterion: Criterion = "l1" if look and self.criterion == "gradient" else self.criterion
        scores = score(criterion, model, groups, data.sample(self.images), data.preprocess)
        if isinstance(self.fraction, dict):
            shares = _shares(self.fraction, groups, layers)
            counts = [count_for(size, self.lanes, share) for size, share in zip(channels, shares, strict=True)]
        elif self.scope == "global":
            counts = cheapest(scores, self.lanes, products, self.fraction, self.criterion == "gradient")
        else:
            counts = alike(channels, self.lanes, products, self.fraction)
        if counts == channels:
            raise BitwrightError(
                f"channels: no group loses a channel with lanes {self.lanes} and fraction {self.fraction}; take "
                "smaller `lanes`, or ask for more",
                kind="too-small",
            )
        return counts, scores, products

    def _milliseconds(
        self, model: nn.Module, groups: Sequence[Group], counts: Sequence[int], data: Dataset
    ) -> list[list[float]]:
        """Milliseconds in the engine of each group's layers and readers for one image, as they are and cut."""
        layers = {path: model.get_submodule(path) for group in groups for path in (*group.layers, *group.readers)}
        shapes = shapes_of(model, layers, _image(data))
        times = []
        for group, count in zip(groups, counts, strict=True):
            found = [0.0, 0.0]
            for path in dict.fromkeys((*group.layers, *group.readers)) if count < group.channels else ():
                given = shapes[path][0]
                cuts = [cut for cut in group.without(range(count, group.channels)) if cut.path == path]
                whole, thin = (nn.Sequential(copy.deepcopy(layers[path])) for _ in range(2))
                narrow(thin, [Cut("0", cut.side, cut.entries) for cut in cuts])
                each = engine_milliseconds([whole, thin], [given, _given(layers[path], given, cuts)])
                found = [total + time for total, time in zip(found, each, strict=True)]
            times.append(found)
        return times

    def _record(
        self, groups: Sequence[Group], counts: Sequence[int], products: Products, times: Sequence[Sequence[float]]
    ) -> dict[str, Any]:
        before = [group.channels for group in groups]
        rows = []
        for g, (group, count) in enumerate(zip(groups, counts, strict=True)):
            macs = [sum(products.of(path, now) for path in group.layers) for now in (before, counts)]
            row: dict[str, Any] = {"layers": list(group.layers), "readers": list(group.readers)}
            row |= {"channels": group.channels, "channels_after": count, "macs": macs[0], "macs_after": macs[1]}
            rows.append(row | ({"ms": times[g][0], "ms_after": times[g][1]} if times else {}))
        coupled = {path for group in groups for path in group.layers}
        return {
            "criterion": self.criterion,
            "groups": rows,
            "whole": [path for path in products.whole if path not in coupled],
            "macs": products.total(before),
            "macs_after": products.total(counts),
        }


def _image(data: Dataset) -> Tensor:
    image: Tensor = data.preprocess.torch(as_tensor(data.sample(1).images))
    return image


def _cuts(groups: Sequence[Group], counts: Sequence[int], scores: Sequence[Tensor]) -> Iterator[Cut]:
    """The channels of least score of each group; of equal ones the first."""
    for group, count, own in zip(groups, counts, scores, strict=True):
        yield from group.without(own.argsort(stable=True)[: group.channels - count].tolist())


def _shares(fraction: Mapping[str, float], groups: Sequence[Group], layers: Mapping[str, nn.Module]) -> list[float]:
    """The share of each group's channels. Raises BitwrightError where layers coupled in one have several."""
    own = {path: layers[path] for group in groups for path in group.layers}
    share = per_layer(fraction, own, "channels: fraction")
    for group in groups:
        for path in group.layers:
            if share[path] != share[group.layers[0]]:
                raise BitwrightError(
                    f"channels: layers {group.layers[0]!r} and {path!r} lose their channels together, and fraction is "
                    f"{share[group.layers[0]]:g} and {share[path]:g}; give them the same",
                    kind="setting",
                )
    return [share[group.layers[0]] for group in groups]


def _given(layer: nn.Module, shape: Sequence[int], cuts: Sequence[Cut]) -> list[int]:
    """What a layer is given after the cuts, of what it was given before."""
    gone = sum(len(cut.entries) for cut in cuts if cut.side == "inputs")
    given, axis = list(shape), -1 if isinstance(layer, nn.Linear) else 0
    given[axis] -= gone
    return given
