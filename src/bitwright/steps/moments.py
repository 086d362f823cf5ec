"""Second moments of a layer's input and of what it should give: all that a least-squares fit of its weight needs.

With x the numbers under a window (a row of the layer's matrix wide) and y the wanted outputs, over all windows of all
images:

    gram = sum (x - mean x) (x - mean x)^T,    cross = sum (y - mean y) (x - mean x)^T

so the squared error of a weight W with the best bias is tr(W gram W^T) - 2 tr(W cross^T) + a constant. They are added
up image by image: memory does not grow with the number of images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.errors import BitwrightError
from bitwright.training.evaluate import eval_mode

_COLUMNS = 2048
"""Windows whose products are made at once: the sums of a wide layer are gigabytes, too many to go through for few."""
_BLOCK = 2048
"""Rows of a Gram matrix that are computed at once, up to the diagonal; above it are the same numbers."""


class Moments:
    """Sums over windows, per group g of a layer with O outputs and matrices K wide: float64.

    Products are made in float32, of what is left when the means of the first windows are taken away: numbers far from
    zero would lose the digits that tell them apart.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        """Of no window of a layer."""
        groups = getattr(layer, "groups", 1)
        outputs, inputs = layer.weight.shape[0] // groups, layer.weight[0].numel()
        self.count = 0
        self._shift_x, self._shift_y = (torch.zeros(groups, size, dtype=torch.float64) for size in (inputs, outputs))
        self._x, self._y = torch.zeros_like(self._shift_x), torch.zeros_like(self._shift_y)
        self._xx, self._yx = self._x.new_zeros(groups, inputs, inputs), self._x.new_zeros(groups, outputs, inputs)
        self._waiting: list[tuple[Tensor, Tensor]] = []  # windows that no sum has yet
        self._halved = False  # whether the Gram matrix is known below its diagonal alone

    def add(self, layer: nn.Conv2d | nn.Linear, given: Tensor, wanted: Tensor) -> None:
        """The windows of a batch: what the layer is given, (N, C, H, W) or (N, ..., I), and what it should give."""
        self.add_windows(windows(layer, given), outputs(layer, wanted))

    def add_windows(self, x: Tensor, y: Tensor) -> None:
        """Windows as columns: (groups K, windows) and (O, windows), float32."""
        x = x.view(len(self._x), -1, x.shape[1])  # (g, K, windows)
        y = y.view(len(self._y), -1, y.shape[1])
        if not self.count:
            self._shift_x, self._shift_y = (t.mean(2, dtype=torch.float64) for t in (x, y))
        self.count += x.shape[2]
        self._waiting.append((x - self._shift_x.float()[:, :, None], y - self._shift_y.float()[:, :, None]))
        if sum(part.shape[2] for part, _ in self._waiting) >= _COLUMNS:
            self._sum_up()

    def _sum_up(self) -> None:
        x, y = (parts[0] if len(parts) == 1 else torch.cat(parts, 2) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self._halved = True
        self._x += x.sum(2, dtype=torch.float64)
        self._y += y.sum(2, dtype=torch.float64)
        self._yx += y @ x.mT
        for rows in _blocks(x.shape[1]):
            self._xx[:, rows, : rows.stop] += x[:, rows] @ x[:, : rows.stop].mT

    def _settle(self) -> None:
        """All windows into the sums, and the Gram matrix above its diagonal."""
        if self._waiting:
            self._sum_up()
        if not self._halved:
            return
        self._halved = False
        for rows in _blocks(self._xx.shape[1]):
            self._xx[:, : rows.start, rows] = self._xx[:, rows, : rows.start].mT

    def check(self, name: str) -> None:
        """Raise BitwrightError, naming the layer, where a sum is not finite; warn of fewer windows than inputs."""
        self._settle()
        if self.count < self._xx.shape[1]:
            warnings.warn(
                f"layer {name!r} has {self._xx.shape[1]:,} inputs and is fitted to {self.count:,} samples of them, so "
                "its outputs on other images may be far off; take more images",
                stacklevel=3,
            )
        for what, sums in (("is given", (self._x, self._xx)), ("gives", (self._y, self._yx))):
            if not all(finite(t) for t in sums):
                raise BitwrightError(
                    f"layer {name!r}: what it {what} for training images is NaN, infinite or too large for float32; "
                    "look at the images and at the weights up to this layer",
                    kind="not-finite",
                )

    def centred_(self) -> tuple[Tensor, Tensor]:
        """`gram` and `cross` in the memory of the sums, which are used up: wide layers have gigabytes of them."""
        self._settle()
        for xx, yx, x, y in zip(self._xx, self._yx, self._x, self._y, strict=True):
            xx.addr_(x, x, alpha=-1 / self.count)
            yx.addr_(y, x, alpha=-1 / self.count)
        return self._xx, self._yx

    def around_zero_(self) -> tuple[Tensor, Tensor]:
        """sum x x^T and sum y x^T, for layers without a bias, in the memory of the sums as well."""
        self._settle()
        shifts = self._shift_x.float().double(), self._shift_y.float().double()
        for xx, yx, x, y, at_x, at_y in zip(self._xx, self._yx, self._x, self._y, *shifts, strict=True):
            xx.addr_(at_x, x).addr_(x, at_x).addr_(at_x, at_x, alpha=self.count)
            yx.addr_(at_y, x).addr_(y, at_x).addr_(at_y, at_x, alpha=self.count)
        return self._xx, self._yx

    @property
    def mean_x(self) -> Tensor:
        """(g, K)."""
        self._settle()
        return self._shift_x.float().double() + self._x / self.count

    @property
    def mean_y(self) -> Tensor:
        """(g, O / g)."""
        self._settle()
        return self._shift_y.float().double() + self._y / self.count

    @property
    def gram(self) -> Tensor:
        """Of x around its mean, (g, K, K)."""
        self._settle()
        return self._xx - _outer(self._x, self._x) / self.count

    @property
    def cross(self) -> Tensor:
        """Of y and x around their means, (g, O / g, K)."""
        self._settle()
        return self._yx - _outer(self._y, self._x) / self.count

    def bias(self, weight: Tensor) -> Tensor:
        """The best bias of a weight (O, ...): mean y - W mean x, (O,)."""
        groups, outputs = self._y.shape
        rows = weight.double().reshape(groups, outputs, -1)
        return (self.mean_y - (rows @ self.mean_x[:, :, None])[:, :, 0]).flatten()


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))


def finite(numbers: Tensor) -> bool:
    """Whether all are, without a copy of them: NaN and infinity stay in a sum."""
    return bool(torch.isfinite(numbers.sum()))


def noised_(gram: Tensor, cross: Tensor, rows: Tensor, share: float) -> None:
    """Add white noise of a share of the inputs' mean power, for which the layer should give what `rows` (O, K) give.

    Directions that few windows, or none, tell anything about then keep the weights that they have. In place, (g, K, K)
    and (g, O / g, K).
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    power = diagonal.mean(1)
    noise = torch.where(power > 0, share * power, 1.0)
    diagonal.add_(noise[:, None])
    cross.add_(noise[:, None, None] * rows.to(cross.dtype).view_as(cross))


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """(g, A), (g, B) -> (g, A, B)."""
    return left[:, :, None] * right[:, None, :]


def windows(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """The numbers under each window as columns, float32: (groups K, windows)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).float().T.contiguous()
    around = layer._reversed_padding_repeated_twice  # what torch itself pads by, "same" and "valid" as well
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    columns = F.unfold(F.pad(x.float(), around, mode), layer.kernel_size, layer.dilation, 0, layer.stride)
    return columns.permute(1, 0, 2).reshape(columns.shape[1], -1)


def outputs(layer: nn.Conv2d | nn.Linear, y: Tensor) -> Tensor:
    """The same for outputs: (O, windows)."""
    if isinstance(layer, nn.Linear):
        return y.reshape(-1, y.shape[-1]).float().T.contiguous()
    return y.float().permute(1, 0, 2, 3).reshape(y.shape[1], -1)


class _Reached(Exception):
    """The layer has been called; what follows need not be computed."""


def gather(model: nn.Module, float_model: nn.Module, name: str, images: Tensor, batch_size: int = 100) -> Moments:
    """The second moments of what the layer `name` is given in `model` and of what it gives in `float_model`."""
    layer = float_model.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    moments = Moments(layer)
    for batch in images.split(batch_size):
        moments.add(layer, *both_at(model, float_model, name, batch))
    moments.check(name)
    return moments


def both_at(model: nn.Module, float_model: nn.Module, name: str, batch: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer `name` is given in `model`, and what it gives in `float_model`, for preprocessed images."""
    given = _at(model, name, batch, lambda inputs, output: inputs[0])
    return given, _at(float_model, name, batch, lambda inputs, output: output)


def _at(model: nn.Module, name: str, batch: Tensor, choose: Any) -> Tensor:
    """What `choose` takes of a layer's inputs and output for preprocessed images, in eval mode."""
    found: list[Tensor] = []

    def stop(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(choose(inputs, output))
        raise _Reached

    handle = model.get_submodule(name).register_forward_hook(stop)
    try:
        with torch.no_grad(), eval_mode(model):
            model(batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]
