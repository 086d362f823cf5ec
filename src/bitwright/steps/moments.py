"""Second moments of a layer's input and of what it should give: all that a least-squares fit of its weight needs.

With x the numbers under a window (a row of the layer's matrix wide) and y the wanted outputs, over all windows of all
images:

    gram = sum (x - mean x) (x - mean x)^T,    cross = sum (y - mean y) (x - mean x)^T

so the squared error of a weight W with the best bias is tr(W gram W^T) - 2 tr(W cross^T) + a constant. They are added
up image by image: memory does not grow with the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Moments:
    """Sums over windows, per group g of a layer with O outputs: float64.

    count      windows
    x, y       sums of x (g, K) and of y (g, O / g)
    xx, yx     sums of x x^T (g, K, K) and of y x^T (g, O / g, K)
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    yx: Tensor

    @classmethod
    def empty(cls, layer: nn.Conv2d | nn.Linear) -> Moments:
        """Of no window of a layer."""
        groups = getattr(layer, "groups", 1)
        outputs, inputs = layer.weight.shape[0] // groups, layer.weight[0].numel()
        zeros = (torch.zeros(groups, *shape, dtype=torch.float64) for shape in ((inputs,), (outputs,)))
        x, y = zeros
        xx, yx = x.new_zeros(groups, inputs, inputs), x.new_zeros(groups, outputs, inputs)
        return cls(0, x, y, xx, yx)

    def add(self, layer: nn.Conv2d | nn.Linear, given: Tensor, wanted: Tensor) -> None:
        """The windows of a batch: what the layer is given, (N, C, H, W) or (N, ..., I), and what it should give."""
        self.add_windows(windows(layer, given), outputs(layer, wanted))

    def add_windows(self, x: Tensor, y: Tensor) -> None:
        """Windows as columns: (groups K, windows) and (O, windows), float32."""
        x = x.view(len(self.x), -1, x.shape[1])  # (g, K, windows)
        y = y.view(len(self.y), -1, y.shape[1])
        self.count += x.shape[2]
        self.x += x.sum(2, dtype=torch.float64)
        self.y += y.sum(2, dtype=torch.float64)
        self.xx += x @ x.mT
        self.yx += y @ x.mT

    def centred_(self) -> tuple[Tensor, Tensor]:
        """`gram` and `cross` in the memory of the sums, which are used up: wide layers have gigabytes of them."""
        for xx, yx, x, y in zip(self.xx, self.yx, self.x, self.y, strict=True):
            xx.addr_(x, x, alpha=-1 / self.count)
            yx.addr_(y, x, alpha=-1 / self.count)
        return self.xx, self.yx

    @property
    def gram(self) -> Tensor:
        """Of x around its mean, (g, K, K)."""
        return self.xx - self.x[:, :, None] * self.x[:, None, :] / self.count

    @property
    def cross(self) -> Tensor:
        """Of y and x around their means, (g, O / g, K)."""
        return self.yx - self.y[:, :, None] * self.x[:, None, :] / self.count

    def bias(self, weight: Tensor) -> Tensor:
        """The best bias of a weight (O, ...): mean y - W mean x, (O,)."""
        groups, outputs = self.y.shape
        rows = weight.double().reshape(groups, outputs, -1)
        return ((self.y - (rows @ self.x[:, :, None])[:, :, 0]) / self.count).flatten()


def windows(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """The numbers under each window as columns, float32: (groups K, windows)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).float().T.contiguous()
    assert not isinstance(layer.padding, str)
    columns = F.unfold(x.float(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
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
    moments = Moments.empty(layer)
    for batch in images.split(batch_size):
        moments.add(layer, *both_at(model, float_model, name, batch))
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
        with torch.no_grad():
            model.eval()(batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]
