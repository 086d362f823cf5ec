"""Quantised inputs of layers while a method trains them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitwright import edits
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d, Quantize, QuantLinear
from bitwright.steps.dropout import dropouts_before, scaled_dropout
from bitwright.steps.latent import signs
from bitwright.training import passes

QuantLayer = QuantConv2d | QuantLinear


def quantise_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], kind: str, qmin: int = 0, qmax: int = 255
) -> dict[str, QuantLayer]:
    """Replace the layers by quantised ones, as edits that checkpoints replay: `Sign` or `Quantize` in front of each."""
    options = {} if kind == "sign" else {"qmin": qmin, "qmax": qmax}
    made = {name: edits.replace(model, name, "quantised", kind=kind, **options) for name in layers}
    return {name: layer for name, layer in made.items() if isinstance(layer, QuantConv2d | QuantLinear)}


def set_scale(layers: Iterable[nn.Module], scale: float) -> None:
    """Give the quantisers in front of the layers their scale."""
    for layer in layers:
        assert isinstance(layer.input, Quantize)
        layer.input.scale.fill_(scale)


def exact_norms(model: nn.Module) -> None:
    """Replace all batch norms, as edits that checkpoints replay, by such that compute the engine's very bits."""
    for name in [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]:
        edits.replace(model, name, "exact-norm")


@contextlib.contextmanager
def training_inputs(
    model: nn.Module, layers: Mapping[str, QuantLayer], make: Callable[[str], nn.Module | None]
) -> Iterator[None]:
    """While inside, make(path) quantises the input of each layer, or the plain quantiser where that is None.

    Afterwards all are plain again. make's modules are part of the state_dict, so learnt scales resume with everything
    else. One that has learnt something has a method settle(plain), which writes it into the plain quantiser that stays.

    Dropout that the model has in front of these layers works behind the quantisers meanwhile. Before them, a sign would
    make +1 of what it drops, and the end of a grid would cut off what it scales up.
    """
    plain = {name: layer.input for name, layer in layers.items()}
    dropped = {name: module.p for name, module in dropouts_before(model, layers).items() if module.p > 0}
    trained = {name: (make(name) or plain[name]).to(layer.weight.device) for name, layer in layers.items()}
    with scaled_dropout(model, layers) as dropout:
        dropout.scale(dict.fromkeys(layers, 0.0))
        for name, layer in layers.items():
            behind = [nn.Dropout(dropped[name])] if name in dropped else []
            layer.input = nn.Sequential(trained[name], *behind) if behind else trained[name]
        try:
            yield
        finally:
            for name, layer in layers.items():
                layer.input = plain[name]
                with torch.no_grad():
                    if callable(settle := getattr(trained[name], "settle", None)):
                        settle(plain[name])


@dataclass(frozen=True)
class Range:
    """What a layer is given: the least and the largest number, the mean magnitude, and the share of zeros."""

    low: float
    high: float
    magnitude: float
    zeros: float = 0.0


def input_ranges(model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, Range]:
    """What each layer (path -> module of `model`) is given for preprocessed images (N, C, H, W).

    Batch norms use the statistics of these images, so that networks that have not been trained yet can be asked, too;
    all else is in eval mode, and `model` stays as it is. Raises BitwrightError for a layer that the model doesn't use.
    """
    model, found = copy.deepcopy(model).eval(), {}
    for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
        norm.train()
    for name in layers:

        def look(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            x = inputs[0].detach().float()
            found[name] = Range(float(x.min()), float(x.max()), float(x.abs().mean()), float((x == 0).float().mean()))

        model.get_submodule(name).register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            model(images.to(next(model.parameters()).device))
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise BitwrightError(
            f"a {type(model).__name__} can't take {tuple(images.shape)} {images.dtype} images: {error}",
            kind="input-shape",
        ) from error
    for name in layers:
        if name not in found:
            raise BitwrightError(f"layer {name!r} sees no input: the model doesn't use it; `ignore` it", kind="unused")
    return found


class _Sign(torch.autograd.Function):
    """See `TrainingSign`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, curve: bool, binarise: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.curve, ctx.binarise = curve, binarise
        return passes.sign(x) if passes.suits(x) else signs(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (x,) = gradients, ctx.saved_tensors
        if ctx.binarise:
            largest = gradient.abs().amax(tuple(range(1, gradient.ndim)), keepdim=True)
            gradient = gradient.sign().mul_(largest)
        if passes.suits(x):
            return passes.sign_gradient(x, gradient, ctx.curve), None, None
        if not ctx.curve:
            return torch.ops.aten.hardtanh_backward(gradient, x, -1, 1), None, None
        slope = x.abs().mul_(-2).add_(2).clamp_(min=0)
        return slope.mul_(gradient), None, None


class TrainingSign(nn.Module):
    """sign(x) in front of a layer in training. The gradient g of the result becomes

        "clip"        g 1{|x| < 1}                (Hubara et al. 2016)
        "polynomial"  g max(0, 2 - 2 |x|)         (Liu et al. 2018, "Bi-Real Net", equation 6)

    With `binarise` g is first replaced by max|g| sign(g), the maximum over a sample (Rastegari et al. 2016, section
    3.2, "Binary gradient").
    """

    def __init__(self, gradient: Literal["clip", "polynomial"], binarise: bool = False) -> None:
        super().__init__()
        self.curve, self.binarise = gradient == "polynomial", binarise

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        result: Tensor = _Sign.apply(x, self.curve, self.binarise)
        return result
