"""What the compression steps ask of layers: a number for each, and weights that are numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.patterns import matching
from bitwright.steps.step import select_layers
from bitwright.training.evaluate import eval_mode

Number = TypeVar("Number", int, float)
_TYPES = frozenset({"Conv1d", "Conv2d", "Conv3d", "Linear"})


def _rank(pattern: str, layers: Mapping[str, nn.Module]) -> int:
    return 0 if pattern in layers else 2 if pattern == "*" else 1


def per_layer(value: Number | Mapping[str, Number], layers: Mapping[str, nn.Module], what: str) -> dict[str, Number]:
    """The number of each of `layers` (path -> module), from one number for all or from a mapping pattern -> number.

    Patterns are those of `select_layers`: a shell pattern over paths, a type name, "re:" and a regular expression. A
    layer's own path goes before any pattern, "*" comes last, and between the others the first that matches counts.
    `what` names the field in errors.

    Raises BitwrightError for a pattern that matches nothing (a type name may: `{Conv2d: 8, Linear: 5}` suits networks
    without convolutions) and for a layer without a number.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(layers, value)
    found: dict[str, Number] = {}
    for pattern in sorted(value, key=lambda p: _rank(p, layers)):
        hits = matching(pattern, layers)
        if not hits and pattern not in _TYPES:
            raise BitwrightError(
                f"{what}: pattern {pattern!r} matches nothing; the layers are: {', '.join(layers)}", kind="no-match"
            )
        for name in hits:
            found.setdefault(name, value[pattern])
    missing = [name for name in layers if name not in found]
    if missing:
        known = ", ".join(map(repr, value)) or "none"
        raise BitwrightError(
            f'{what}: no number for layer {missing[0]!r}, only for {known}; add the layer or "*", or leave it out with '
            "`ignore`",
            kind="no-match",
        )
    return {name: found[name] for name in layers}


def weight_of(layer: nn.Module) -> Tensor:
    """The layer's weight as it is used now."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def plain_layers(model: nn.Module, layers: tuple[str, ...], ignore: tuple[str, ...]) -> dict[str, nn.Module]:
    """What `select_layers` finds, if each can be quantised by itself: `check_layers` and `check_untied` hold."""
    found = select_layers(model, layers, ignore)
    check_layers(found)
    check_untied(model, found)
    return found


def check_layers(layers: Mapping[str, nn.Module]) -> None:
    """Raise BitwrightError, naming the layer, where a weight is NaN or infinite, or not simply a parameter."""
    for name, layer in layers.items():
        if "weight" not in dict(layer.named_parameters(recurse=False)):
            raise BitwrightError(
                f"layer {name!r}: its weight is computed from other tensors (weight norm, spectral norm, ...); make it "
                "plain with torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.remove_weight_norm",
                kind="not-plain",
            )
        for role, tensor in layer.named_parameters(recurse=False):
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise BitwrightError(
                    f"layer {name!r}: {bad} of {tensor.numel()} values of its {role} are NaN or infinite; "
                    "train it again, with a smaller learning rate or `clip_norm`",
                    kind="not-finite",
                )


def check_untied(model: nn.Module, layers: Iterable[str]) -> None:
    """Raise BitwrightError where a weight or bias of one of the layers is also a parameter of another module."""
    modules = dict(model.named_modules())
    owners = Counter(id(p) for module in modules.values() for p in module.parameters(recurse=False))
    for name in layers:
        for role, tensor in modules[name].named_parameters(recurse=False):
            if owners[id(tensor)] > 1:
                raise BitwrightError(
                    f"layer {name!r}: another layer uses its {role}, too, so it can't be changed by itself; give "
                    f"each its own: layer.{role} = torch.nn.Parameter(layer.{role}.detach().clone())",
                    kind="tied",
                )


Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of what a layer is given and gives for one image: (C, H, W) or (..., I), and the same of its outputs."""


def shapes_of(model: nn.Module, layers: Mapping[str, nn.Module], image: Tensor) -> dict[str, Shapes]:
    """The `Shapes` of layers, in the order of their first call.

    Layers that inference never calls, of auxiliary heads for one, are left out.
    """
    return {name: shapes[0] for name, shapes in _calls(model, layers, image).items()}


def check_calls_of(model: nn.Module, layers: Mapping[str, nn.Module], image: Tensor) -> None:
    """Raise BitwrightError for a layer that inference calls more than once, or where it calls none of them."""
    calls = _calls(model, layers, image)
    if not calls:
        raise BitwrightError(f"inference calls none of the layers {', '.join(layers)}; choose others", kind="no-layers")
    for name, shapes in calls.items():
        if len(shapes) > 1:
            raise BitwrightError(
                f"layer {name!r} is called {len(shapes)} times; only one that is called once can be changed by itself, "
                "`ignore` it",
                kind="placement",
            )


def _calls(model: nn.Module, layers: Mapping[str, nn.Module], image: Tensor) -> dict[str, list[Shapes]]:
    """The `Shapes` of every call of layers in inference on one preprocessed image, in the order of their first call."""
    calls: dict[str, list[Shapes]] = {}

    def see(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls.setdefault(name, []).append((tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))

        return note

    handles = [layer.register_forward_hook(see(name)) for name, layer in layers.items()]
    device = next((p.device for p in model.parameters()), image.device)
    try:
        with eval_mode(model), torch.no_grad():
            model(image.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def check_count(what: str, value: object, least: int) -> None:
    """Raise BitwrightError unless it is a whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BitwrightError(f"{what} is {value!r}; expected a whole number from {least}", kind="setting")


def check_number(what: str, value: object, holds: Callable[[float], bool], expected: str) -> None:
    """Raise BitwrightError unless it is a number for which `holds` is true; `expected` says so in words."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        raise BitwrightError(f"{what} is {value!r}; expected {expected}", kind="setting")


def check_bits(what: str, bits: object, least: int, most: int) -> None:
    """Raise BitwrightError unless it is a whole number of bits from `least` to `most`, or a mapping to such."""
    for number in bits.values() if isinstance(bits, Mapping) else [bits]:
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise BitwrightError(
                f"{what} is {number!r}; expected a whole number of bits from {least} to {most}", kind="setting"
            )
