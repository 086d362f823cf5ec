"""What the formats of a quantised network are, as its record has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bitwright.measure.bit_costs import Work, stripes_speedup
from bitwright.ops import QuantConv2d, Quantize, QuantLinear
from bitwright.packing.lattice import find_lattice
from bitwright.steps.layers import Shapes, shapes_of, weight_of
from bitwright.steps.placement import Point

_FINEST = 2.0**-30


def formats_of(model: nn.Module, places: Sequence[Point], bits: Mapping[str, int], image: Tensor) -> dict[str, Any]:
    """Of a model with quantisers at `places` and weights of `bits` by layer; `image` is preprocessed, (1, C, H, W).

    points    name, the layers that read it, bits, scale, zero point, low, high
    layers    name, bits, scale, low, high, the share of zeros
    stripes   the ideal speed-up of a machine that takes the layers' values bit by bit, over one with 16, by both
              weightings of `stripes_speedup`
    """
    rows = [_point(model, place) for place in places]
    layers = {name: model.get_submodule(name) for name in bits}
    read = {layer: row["bits"] for row in rows for layer in row["layers"]}
    work = {name: _work(layers[name], shape) for name, shape in shapes_of(model, layers, image).items()}
    called, widths = list(work.values()), [read[name] for name in work]
    return {
        "points": rows,
        "layers": [_weights(layer, name, bits[name]) for name, layer in layers.items()],
        "stripes": {"cycles": stripes_speedup(called, widths), "macs": stripes_speedup(called, widths, "macs")},
    }


def _point(model: nn.Module, place: Point) -> dict[str, Any]:
    q = model.get_submodule(f"quantisers.{place.name}")
    assert isinstance(q, Quantize)
    scale, zero, low, high = (float(t) for t in (q.scale, q.zero_point, q.qmin, q.qmax))
    row = {"name": place.name, "layers": list(place.layers), "bits": int(high - low).bit_length(), "scale": scale}
    return row | {"zero_point": int(zero), "low": (low - zero) * scale, "high": (high - zero) * scale}


def _weights(layer: nn.Module, name: str, bits: int) -> dict[str, Any]:
    """What they are now; the scale is the finest of all channels', of which their weights are multiples."""
    weight = weight_of(layer).detach()
    lattice = find_lattice(weight.cpu().numpy(), (1 << bits - 1) - 1)
    low, high = (float(t) for t in weight.aminmax())
    used = weight.flatten(1).any(1).cpu().numpy()
    scale = float(lattice.positive[used].min()) if lattice is not None and used.any() else _FINEST
    zeros = float((weight == 0).float().mean())
    return {"layer": name, "weight_bits": bits, "scale": scale, "low": low, "high": high, "zeros": zeros}


def _work(layer: nn.Module, shapes: Shapes) -> Work:
    if isinstance(layer, QuantConv2d):
        height, width = shapes[1][1:]
        kernel = (layer.kernel_size[0], layer.kernel_size[1])
        return Work(layer.in_channels, layer.out_channels, kernel, (height, width), layer.groups)
    assert isinstance(layer, QuantLinear)
    return Work(layer.in_features, layer.out_features, (1, 1), (1, 1))
