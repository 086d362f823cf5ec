"""Which kernel computes a layer: a table of what each can do and about how long it takes.

What decides is the domain of the activations (floats, or codes of so many levels), the form of the weights (any floats,
mostly zeros, zeros in a pattern, a small codebook, whole numbers) and the shape. A row is a name, the kernel's estimate
for a layer (None where it can't compute it) and what makes the operation; the quickest row is taken. `Model(...,
kernels=[...])` prefers rows by name, wherever they can compute the layer: that is how tests run every kernel on every
layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bitwright.errors import unknown
from bitwright.runtime.domains import Domain
from bitwright.runtime.layer import LANES, MOST_SLOTS, Layer

Array = np.ndarray


@dataclass(frozen=True)
class Form:
    """How a coded value lies in memory: `planes` of bits, or bytes if 0, in so many groups of channels."""

    planes: int
    groups: int = 1

    def __str__(self) -> str:
        return f"{self.planes} bit" if self.planes else "bytes"


@dataclass(frozen=True)
class Row:
    """A row of the table: see the module's docstring.

    `nanoseconds` estimates one image; `form` is how the layer's input must lie in memory (None: floats); `encodes`
    tells whether the kernel can give the codes of its results too, `pools` whether a max pool of its results can follow
    in the same pass.
    """

    name: str
    nanoseconds: Callable[[Layer], float | None]
    build: Callable[[Any, Layer, Any, Any], Any]
    form: Callable[[Layer], Form | None] = field(default=lambda layer: None)
    encodes: bool = False
    pools: bool = False


SPEED = {
    # multiplications per nanosecond: of floats, of bit planes (one with one), of bytes
    "ref": (1.0, 8.0, 1.0),
    "avx2": (45.0, 470.0, 66.0),
    "avx512": (70.0, 530.0, 90.0),
    "avx512vnni": (70.0, 600.0, 290.0),
    "avx512vpopcntdq": (70.0, 930.0, 300.0),
    "avx512vpopcntdq amd": (115.0, 2150.0, 400.0),
    "amx": (70.0, 930.0, 1200.0),
}
"""Of 3x3 convolutions of 64 to 256 channels with the floats of the results stored, on one core of the machine that the
documentation names; only the ratios in a row matter. AMD's processors start two popcounts per cycle to Intel's one,
beside as many multiplications of bytes; theirs are of a Zen 5."""
ONE_ROW = 300.0
"""Of bytes on tiles (amx) in a linear layer: a single sample fills one row of a tile, and waits for the weights."""
ONE_SAMPLE = 80.0
"""The same where there is one sample, and weights do not stay in the first-level cache."""
FAR, FAR_SPEED = 1 << 20, 600.0
"""Bytes of weights of a convolution beyond which tiles (amx) wait for the third-level cache, in a network that uses
the second for other things: 512 channels at 7x7 take 0.16 to 0.2 ms, and 0.12 to 0.15 by popcounts of an eighth of the
bytes."""
SPARSE_SPEED = {"conv2d": 0.38, "linear": 0.2, "large linear": 0.4}
"""Products with weights that are not zero per nanosecond, as a share of the speed of dense floats; of linear layers for
batches of 1 to 256."""
LARGE = 1 << 18
"""A linear layer of so many weights waits for memory where samples are few: what is packed tighter is quicker."""
CODED_SPEED = {2: 8.0, 4: 6.0, 32: 3.5}
"""How many times quicker than dense floats a large linear layer with so many different weights is, at batch 1. From
a batch of about 16 on, where weights are expanded for the dense kernel's loop, it is about as quick or quicker."""
PRODUCT_SPEED = 7.0
"""The same for runs of columns with 16 values each."""
SPARSE_OUTPUT = 70
"""An output of a sparse convolution takes as long as so many dense products, besides its own."""
PATTERN_SPEED = {"ref": 0.3, "avx2": 0.28, "amx": 0.5}
"""Products with weights of an N:M pattern per nanosecond, as a share of the speed of dense floats; others 0.6. A
product needs a permutation: beside the multiply-adds on processors with units for both (2:4 is 1.1 to 1.25 times as
quick as dense on Zen 5), in their place on those that, as Intel's, permute with one of the units that multiply."""
PATTERN_SAMPLE = {"ref": 0.3, "avx2": 0.6}
"""The same of linear layers, which wait for weights where samples are few; others 0.9."""
BLOCKED_SPEED = {"ref": 0.3, "amx": 0.5}
"""The same for weights at the same places in 16 output channels, beside dense convolutions, some of them on tiles
(amx); others 0.73. Not of linear layers: a single sample waits for each product."""


def _speed(which: int) -> float:
    from bitwright import _native

    isa = _native.isa()
    maker = " amd" if _native.cpu_features()["amd"] else ""
    return SPEED.get(isa + maker, SPEED[isa])[which]


def _float(layer: Layer) -> float | None:
    return None if layer.domain else layer.products() / _speed(0)


def _build_float(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    weight = np.ascontiguousarray(layer.tensor.dense())
    if layer.node.op == "linear":
        return native.FloatLinearOp(layer.channels[0], weight, finish)
    return native.FloatConvOp(layer.window, weight, finish)


def _sparse(layer: Layer) -> float | None:
    if layer.domain or (sparse := layer.tensor.sparse()) is None:
        return None
    size = "large " if layer.node.op == "linear" and layer.products() >= LARGE else ""
    products = layer.pixels * len(sparse.positions) / SPARSE_SPEED[size + layer.node.op]
    outputs = layer.pixels * layer.channels[1] if layer.node.op == "conv2d" else 0
    return (products + SPARSE_OUTPUT * outputs) / _speed(0)


def _build_sparse(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    sparse = layer.tensor.sparse()
    assert sparse is not None
    values = sparse.codebook if sparse.codes is not None else sparse.values
    entries = (sparse.positions, sparse.codes, values)
    if layer.node.op == "linear":
        return native.SparseLinearOp(*layer.tensor.shape, *entries, finish)
    return native.SparseConvOp(layer.window, *entries, finish)


def _pattern(layer: Layer) -> float | None:
    if layer.domain or layer.slots > MOST_SLOTS:
        return None
    speeds, default = (PATTERN_SAMPLE, 0.9) if layer.node.op == "linear" else (PATTERN_SPEED, 0.6)
    return layer.products(LANES) * layer.slots / LANES / (_share(speeds, default) * _speed(0))


def _blocked(layer: Layer) -> float | None:
    if layer.domain or layer.node.op == "linear":
        return None
    return layer.pixels * layer.shared_taps * LANES / (_share(BLOCKED_SPEED, 0.73) * _speed(0))


def _share(shares: Mapping[str, float], default: float) -> float:
    from bitwright import _native

    return shares.get(_native.isa(), default)


def _build_pattern(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    return native.PatternConvOp(layer.window, _as_filters(layer), finish)


def _build_blocked(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    return native.BlockedConvOp(layer.window, _as_filters(layer), finish)


def _as_filters(layer: Layer) -> Array:
    """The weight, (O, C / groups, height, width)."""
    weight = layer.tensor.dense()
    return np.ascontiguousarray(weight.reshape(*weight.shape[:2], *layer.kernel))


def _coded(layer: Layer) -> float | None:
    if layer.domain or layer.node.op != "linear" or layer.products() < LARGE:
        return None
    if (sparse := layer.tensor.sparse()) is not None and len(sparse.positions) < 0.1 * layer.products():
        return None  # quicker as it is
    if layer.codes is None:
        return None
    speed = next(speed for most, speed in CODED_SPEED.items() if len(layer.codes.table) <= most)
    return layer.products() / (speed * _speed(0))


def _build_codes(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    assert layer.codes is not None
    return native.CodedLinearOp(layer.codes.codes, layer.codes.table, finish, **layer.codes.scales)


def _product(layer: Layer) -> float | None:
    if layer.domain or layer.node.op != "linear" or layer.products() < LARGE or layer.codes is not None:
        return None
    return None if layer.runs is None else layer.products() / (PRODUCT_SPEED * _speed(0))


def _build_product(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    assert layer.runs is not None
    return native.CodedLinearOp.of_runs(layer.runs.codes, layer.runs.books, layer.channels[0], finish)


def _code_bits(domain: Domain) -> int:
    return (domain.levels - 1).bit_length()


def _bits(layer: Layer) -> float | None:
    if not layer.domain or _code_bits(layer.domain) > 8 or layer.weight_planes > 4:
        return None
    return layer.products(32) * _code_bits(layer.domain) * layer.weight_planes / _speed(1)


def _bytes(layer: Layer) -> float | None:
    if not layer.domain or _code_bits(layer.domain) > 8:
        return None
    speed = _speed(2)
    if layer.node.op == "linear":
        speed = min(speed, ONE_ROW)
    elif math.prod(layer.tensor.shape) > FAR:
        speed = min(speed, FAR_SPEED)
    return layer.products(4) / speed


def _few_samples(layer: Layer) -> int:
    """Up to how many samples a linear layer of byte codes is quicker as bit planes."""
    bits = _bits(layer)
    if layer.node.op != "linear" or bits is None or layer.products() < LARGE:
        return 0
    return int(layer.products() / (ONE_SAMPLE * bits))


def _build_bytes(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    assert layer.domain is not None
    many = _build_coded(native.ByteConvOp, layer, finish, x, largest=layer.domain.levels - 1)
    if not (most := _few_samples(layer)):
        return many
    planes = native.CodeLayout(1, 1, layer.channels[0], planes=_code_bits(layer.domain))
    few = _build_bits(native, layer, finish, planes)
    return native.ByBatchOp(few, many, planes, x, most)


def _exact(layer: Layer) -> float | None:
    """Beyond all others: for codes that fit no byte."""
    return 1e6 * layer.products() if layer.domain else None


def _build_bits(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    return _build_coded(native.BitConvOp, layer, finish, x)


def _build_coded(make: Callable[..., Any], layer: Layer, finish: Any, x: Any, **more: int) -> Any:
    assert layer.domain is not None
    numbers = {"low": layer.domain.low, "step": layer.domain.step, "padding": layer.outside, **more}
    return make(layer.window, x, weights=layer.integers, finish=finish, **numbers)


def _build_exact(native: Any, layer: Layer, finish: Any, x: Any) -> Any:
    assert layer.domain is not None
    reciprocal = np.float32(1) / layer.domain.scale
    return native.ExactConvOp(layer.window, reciprocal, layer.integers, layer.outside, finish=finish)


TABLE = (
    Row("float", _float, _build_float, pools=True),
    Row("sparse", _sparse, _build_sparse),
    Row("pattern", _pattern, _build_pattern),
    Row("blocked", _blocked, _build_blocked),
    Row("coded", _coded, _build_codes),
    Row("product", _product, _build_product),
    Row(
        "bits",
        _bits,
        _build_bits,
        lambda layer: Form(_code_bits(layer.domain) if layer.domain else 1, layer.groups),
        True,
    ),
    Row("bytes", _bytes, _build_bytes, lambda layer: Form(0, layer.groups), True, True),
    Row("exact", _exact, _build_exact),
)
KERNELS = tuple(row.name for row in TABLE)


def choose(layer: Layer, preferred: Sequence[str] = ()) -> Row:
    """The first preferred row that can compute the layer, else the quickest. Raises `BitwrightError` for an unknown
    name."""
    for name in preferred:
        if name not in KERNELS:
            raise unknown("kernel", name, KERNELS)
    costs = {row: cost for row in TABLE if (cost := row.nanoseconds(layer)) is not None}
    named = {row.name: row for row in costs}
    return next((named[name] for name in preferred if name in named), None) or min(costs, key=lambda row: costs[row])
