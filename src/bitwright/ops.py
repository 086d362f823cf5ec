"""Quantised activations in torch: the operators `bitwright::sign` and `bitwright::quantize`, and layers that use them.

Importing this file registers `torch.ops.bitwright.*`; importing `bitwright.models` or packing a model does so too, and
`import bitwright` alone imports no torch. The operators define inference, with the arithmetic of FORMAT.md 8.1, and an
exported graph names them. Their gradients are straight-through estimates; training methods bring their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.edits import edit
from bitwright.errors import BitwrightError, unknown
from bitwright.packing.lattice import Lattice, find_lattice
from bitwright.runtime.checks import MAX_CODE
from bitwright.runtime.domains import LARGEST_SCALE, LARGEST_ZERO_POINT, SIGNS, SMALLEST_SCALE, Domain, exact_sums

__all__ = [
    "Coded",
    "QuantConv2d",
    "QuantLinear",
    "Quantize",
    "Sign",
    "code_range",
    "quantised",
    "quantize",
    "sign",
]

_FLOAT32_SUMS = 1 << 22
"""Sums below this are exact in float32 after rounding, whatever algorithm a convolution uses."""
_BASE = 16
"""Of the digits of weights whose sums are larger."""


@torch.library.custom_op("bitwright::sign", mutates_args=(), schema="(Tensor x) -> Tensor")
def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1 (also for NaN), of any shape and floating type. Gradient: passed on where |x| <= 1.

    Raises BitwrightError for numbers that are not floating.
    """
    _check_floats("sign", x)
    one = torch.ones((), dtype=x.dtype, device=x.device)
    return torch.where(x >= 0, one, -one)


def _check_floats(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise BitwrightError(f"bitwright::{name} got {x.dtype}; expected floating numbers: x.float()", kind="value")


@sign.register_fake
def _(x: Tensor) -> Tensor:
    _check_floats("sign", x)
    return torch.empty_like(x)


def _sign_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _sign_backward(ctx: Any, gradient: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return gradient * (x.abs() <= 1)


sign.register_autograd(_sign_backward, setup_context=_sign_context)


@torch.library.custom_op(
    "bitwright::quantize",
    mutates_args=(),
    schema="(Tensor x, Tensor scale, Tensor zero_point, Tensor qmin, Tensor qmax, int axis=1) -> Tensor",
)
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, axis: int = 1) -> Tensor:
    """scale * m for the nearest whole number m from qmin - zero_point to qmax - zero_point, the lowest for NaN.

    `scale` and `zero_point` have one number, or one for each entry of `axis`, `qmin` and `qmax` have one; all but x are
    float32. It is computed in float32 whatever floating type x has. Gradient: passed on to x where x / scale is in the
    range, none to the others. Raises BitwrightError for other types and sizes; what the numbers are (a scale above
    zero, a range that is none) `Quantize` and the packer check.
    """
    _check_grid(x, scale, zero_point, qmin, qmax, axis)
    scale, low, high = _grid(x, scale, zero_point, qmin, qmax, axis)
    m = (x.float() * (1 / scale)).round_()
    if low.numel() == 1 and x.device.type == "cpu":  # all in the memory of m: training does this at every activation
        m.clamp_(float(low), float(high)).nan_to_num_(float(low))
    else:
        m = torch.where(m > low, torch.minimum(m, high), low)
    return m.add_(0.0).mul_(scale).to(x.dtype)  # -0.0 becomes 0.0


def _grid(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, lowest and highest m, shaped to broadcast along `axis` of x; to anything where there is one of each."""
    shape = [1] * x.ndim
    if scale.numel() > 1 or zero_point.numel() > 1:
        shape[axis] = -1
    zero = zero_point.reshape(shape)
    return scale.reshape(shape), qmin.reshape(()) - zero, qmax.reshape(()) - zero


def _check_grid(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, axis: int) -> None:
    _check_floats("quantize", x)
    channels = x.shape[axis] if -x.ndim <= axis < x.ndim else 1
    numbers = {"scale": scale, "zero_point": zero_point, "qmin": qmin, "qmax": qmax}
    for name, tensor in numbers.items():
        most = channels if name in ("scale", "zero_point") else 1
        if tensor.numel() != 1 and tensor.numel() != most:
            raise BitwrightError(
                f"bitwright::quantize got a {name} of shape {tuple(tensor.shape)} for x of shape {tuple(x.shape)} and "
                f"axis {axis}; expected 1 number" + (f" or {most}" if most != 1 else ""),
                kind="value",
            )


@quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, axis: int = 1) -> Tensor:
    _check_grid(x, scale, zero_point, qmin, qmax, axis)
    return torch.empty_like(x)


def _quantize_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.axis = inputs[5]


def _quantize_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, zero_point, qmin, qmax = ctx.saved_tensors
    scale, low, high = _grid(x, scale, zero_point, qmin, qmax, ctx.axis)
    m = x * (1 / scale)
    if type(m) is Tensor and m.device.type == "cpu" and low.numel() == 1:  # numbers are there; one pass instead of four
        below, above = torch.nextafter(low, low - 1), torch.nextafter(high, high + 1)  # hard tanh's ends have none
        return torch.ops.aten.hardtanh_backward(gradient, m, float(below), float(above)), None, None, None, None, None
    return torch.where((m >= low) & (m <= high), gradient, 0.0), None, None, None, None, None


quantize.register_autograd(_quantize_backward, setup_context=_quantize_context)


@torch.library.custom_op(
    "bitwright::response_norm",
    mutates_args=(),
    schema="(Tensor input, int size, float alpha=1e-4, float beta=0.75, float k=1.0) -> Tensor",
)
def response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """`F.local_response_norm` as one operation: what an exported graph names."""
    return F.local_response_norm(x, size, alpha, beta, k)


@response_norm.register_fake
def _(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    return torch.empty_like(x)


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """The lowest and the highest whole number of so many bits, in two's complement or from 0."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


class Sign(nn.Module):
    """The sign of each number: +1 or -1."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return torch.ops.bitwright.sign(x)

    def domain(self) -> Domain | None:
        """What the numbers are, as whole numbers times a scale."""
        return SIGNS


class Quantize(nn.Module):
    """Each number to the nearest of scale * (q - zero_point), q = qmin .. qmax.

    `scale` and `zero_point` are numbers, or tensors with one number per channel (axis 1). All four are float32 buffers:
    methods may set them, and a state_dict has them. Raises BitwrightError for what no file may hold.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: Tensor
    qmax: Tensor

    def __init__(self, scale: float | Tensor, zero_point: float | Tensor = 0, qmin: int = 0, qmax: int = 255) -> None:
        super().__init__()
        scales = torch.as_tensor(scale, dtype=torch.float32).reshape(-1)
        zeros = torch.as_tensor(zero_point, dtype=torch.float32).reshape(-1)
        if not bool(((scales >= SMALLEST_SCALE) & (scales <= LARGEST_SCALE)).all()):
            raise BitwrightError(f"a quantiser's scale is {scale}; expected numbers from 2^-100 to 2^100", kind="value")
        if not bool(((zeros == zeros.round()) & (zeros.abs() <= LARGEST_ZERO_POINT)).all()):
            raise BitwrightError(f"a quantiser's zero_point is {zero_point}; expected whole numbers", kind="value")
        if not -MAX_CODE <= qmin < qmax <= MAX_CODE or qmin != int(qmin) or qmax != int(qmax):
            raise BitwrightError(
                f"a quantiser's range is {qmin} to {qmax}; expected whole numbers, -65,536 <= qmin < qmax <= 65,536",
                kind="value",
            )
        if len(scales) != len(zeros) and 1 not in (len(scales), len(zeros)):
            raise BitwrightError(
                f"a quantiser has {len(scales)} scales and {len(zeros)} zero points; expected as many, or one for all",
                kind="value",
            )
        scales, zeros = (t.clone() for t in torch.broadcast_tensors(scales, zeros))
        numbers = {"scale": scales, "zero_point": zeros, "qmin": torch.tensor(qmin), "qmax": torch.tensor(qmax)}
        for name, tensor in numbers.items():
            self.register_buffer(name, tensor.float())

    def extra_repr(self) -> str:
        """Range and scale, for print(model)."""
        scale = f"{self.scale.item():.6g}" if self.scale.numel() == 1 else f"{self.scale.numel()} channels"
        return f"scale={scale}, qmin={int(self.qmin)}, qmax={int(self.qmax)}"

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return torch.ops.bitwright.quantize(x, self.scale, self.zero_point, self.qmin, self.qmax)

    def domain(self) -> Domain | None:
        """What the numbers are, as whole numbers times a scale; None where channels differ."""
        scale, zero = self.scale.cpu(), self.zero_point.cpu()
        if not bool((scale == scale[0]).all() and (zero == zero[0]).all()):
            return None
        return Domain(np.float32(scale[0].item()), int(self.qmin - zero[0]), int(self.qmax - zero[0]))


class Coded(nn.Module):
    """In front of a layer whose input `quantisers[name]`, elsewhere in the network, has coded: it passes it on."""

    def __init__(self, quantisers: nn.ModuleDict, name: str) -> None:
        super().__init__()
        self.__dict__["place"] = quantisers, name  # not a child, whose numbers a state_dict would have twice

    def forward(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def domain(self) -> Domain | None:
        """What the numbers are, as whole numbers times a scale; None while a method has its own quantiser there."""
        quantisers, name = self.__dict__["place"]
        quantiser = quantisers[name]
        return quantiser.domain() if isinstance(quantiser, Quantize) else None


class _Integers:
    """What a quantised layer remembers about its weight: the lattice of the numbers that it last saw."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None
        self.lattice: Lattice | None = None

    def of(self, weight: Tensor) -> Lattice | None:
        """The lattice of `weight`. Comparing all numbers is cheap beside the layer and can't miss a change."""
        if self.seen is None or self.seen.device != weight.device or not torch.equal(self.seen, weight):
            self.seen = weight.detach().clone()
            self.lattice = find_lattice(self.seen.cpu().float().numpy())
        return self.lattice

    def __deepcopy__(self, memo: Any) -> _Integers:
        return _Integers()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Integers, ()


def quantised_forward(
    layer: QuantConv2d | QuantLinear, x: Tensor, weight: Tensor, plain: Callable[..., Tensor]
) -> Tensor:
    """A quantised layer with a weight: exact sums, scaled and shifted, at inference; the plain layer elsewhere.

    `plain(x, weight, bias)` is the layer as torch computes it.
    """
    coded, bias = layer.input(x), layer.bias
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and (coded.requires_grad or weight.requires_grad)):
        return plain(coded, weight, bias)
    domain: Domain | None = getattr(layer.input, "domain", lambda: None)()
    lattice = None if domain is None else layer.integers.of(weight)
    if domain is None or lattice is None or not exact_sums(domain, lattice):
        return plain(coded, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        y = _integer_layer(coded.float(), domain, lattice, lambda m, k: plain(m, k, None))
        return y if bias is None else y + bias.float().reshape(-1, *(1,) * (y.ndim - 2))


def _integer_layer(x: Tensor, domain: Domain, lattice: Lattice, sums: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """FORMAT.md 8.3 without the bias. `sums(m, k)` adds the products of whole numbers."""
    span = max(abs(domain.low), abs(domain.high))
    m = torch.round(x * float(np.float32(1) / domain.scale))  # exact, as it is near a whole number of at most 18 bits

    def added(integers: np.ndarray) -> Tensor:
        """The sums of products, rounded to float32."""
        digits = _digits(integers, _FLOAT32_SUMS / span)
        if digits is None:
            return torch.round(sums(m.double(), torch.from_numpy(integers).to(x.device, torch.float64))).float()
        parts = [torch.round(sums(m, torch.from_numpy(d).to(x.device))) for d in digits]
        return parts[0] if len(parts) == 1 else (parts[0].int() + _BASE * parts[1].int()).float()

    def scaled(integers: np.ndarray, magnitude: np.ndarray) -> Tensor:
        total = added(integers) + 0.0  # -0.0 becomes 0.0
        factor = torch.from_numpy(magnitude * domain.scale).to(x.device)
        return total * factor.reshape(-1, *(1,) * (total.ndim - 2))

    if lattice.two_magnitudes:
        return scaled(lattice.integers == 1, lattice.positive) - scaled(lattice.integers == -1, lattice.negative)
    return scaled(lattice.integers, lattice.positive)


def _digits(integers: np.ndarray, limit: float) -> list[np.ndarray] | None:
    """Whole numbers as float32 digits, low + _BASE high, whose sums of magnitudes over a channel are below `limit`.

    One where one is enough, None where two aren't. A convolution of float64 takes far longer than two of float32.
    """
    high = np.rint(integers / np.float32(_BASE))
    for digits in ([integers], [integers - _BASE * high, high]):
        if all(np.abs(d).reshape(len(d), -1).sum(axis=1, dtype=np.float64).max(initial=0) < limit for d in digits):
            return [np.asarray(d, np.float32) for d in digits]
    return None


class _Quantised(nn.Module):
    """A layer with a quantiser in front, and what it remembers about its weight.

    accumulator   bits in two's complement that no partial sum of whole numbers leaves; 0: nothing is promised. A packed
                  file has the promise, and whoever reads it checks
    """

    input: nn.Module
    accumulator: int = 0

    def __init__(self, *args: Any, input: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.input = input
        self.integers = _Integers()


class QuantConv2d(_Quantised, nn.Conv2d):
    """A convolution of quantised numbers: `input` (a `Sign`, `Quantize` or `Coded`), then the convolution.

    The state_dict has the keys of nn.Conv2d and those of `input`. Without gradients, if the quantiser is per tensor and
    the weight has a lattice, it computes bit for bit what the engine does: sums of whole numbers, scaled once. With
    gradients, exported or compiled it is conv(input(x), weight, bias), the same up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        return quantised_forward(self, x, self.weight, self._conv_forward)


class QuantLinear(_Quantised, nn.Linear):
    """A linear layer of quantised numbers; see `QuantConv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return quantised_forward(self, x, self.weight, F.linear)


@edit("quantised")
def quantised(old: nn.Module, *, kind: str, qmin: int = 0, qmax: int = 255) -> QuantConv2d | QuantLinear:
    """The quantised layer that a convolution or linear layer becomes: the same parameters, and `input` in front.

    kind is "sign", or "grid": a `Quantize` from qmin to qmax, whose scale of 1 the caller sets. A quantised layer gets
    another `input`. Raises BitwrightError for other modules and kinds.
    """
    if kind not in ("sign", "grid"):
        raise unknown("kind of a quantised layer's input", kind, ("sign", "grid"))
    return quantised_like(old, Sign() if kind == "sign" else Quantize(1.0, 0, qmin, qmax))


def quantised_like(
    old: nn.Module,
    quantiser: nn.Module,
    conv: type[QuantConv2d] = QuantConv2d,
    linear: type[QuantLinear] = QuantLinear,
) -> QuantConv2d | QuantLinear:
    """A quantised layer with the sizes and the very parameters of `old`, of the class for its kind."""
    new: QuantConv2d | QuantLinear
    if isinstance(old, nn.Conv2d):
        shape = (old.in_channels, old.out_channels, old.kernel_size, old.stride)
        rest = (old.padding, old.dilation, old.groups, old.bias is not None, old.padding_mode)
        new = conv(*shape, *rest, device="meta", input=quantiser)
    elif isinstance(old, nn.Linear):
        new = linear(old.in_features, old.out_features, old.bias is not None, device="meta", input=quantiser)
    else:
        raise BitwrightError(
            f"a {type(old).__name__} can't have a quantised input, only nn.Conv2d and nn.Linear can; `ignore` it",
            kind="edit",
        )
    for name, parameter in old.named_parameters(recurse=False):
        setattr(new, name, parameter)
    return new.to(old.weight.device)
