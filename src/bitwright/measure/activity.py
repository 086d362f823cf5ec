"""How busy a network is: the non-zero share of weights and activations per layer, and the operations they leave.

Han et al. 2015, tables 3 and 4: a layer's FLOP share is the share of its weights that are not zero times the share of
its input activations that are not zero; the activation share printed beside a layer is that of its output, as the next
layer sees it. One multiplication and one addition per weight and position: 2 FLOP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn

from bitwright.training.evaluate import eval_mode


class Row(TypedDict):
    """One line of the table; shares in percent."""

    layer: str
    weights: int
    flop: int
    activations: float
    kept: float
    flop_share: float


@dataclass
class _Seen:
    inputs: int = 0
    nonzero: int = 0
    outputs: int = 0


@torch.no_grad()
def measure_activity(
    model: nn.Module, images: Tensor, layers: Mapping[str, nn.Module], batch_size: int = 250
) -> list[Row]:
    """The table's rows, in order of execution, and a last one called "total".

    `images` (N, C, H, W) are what the model takes, preprocessed; a thousand of the training set are enough. The last
    layer's output counts as fully active.
    """
    seen: dict[str, _Seen] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entry = seen.setdefault(name, _Seen())
            entry.inputs += inputs[0].numel()
            entry.nonzero += int((inputs[0] != 0).sum())
            entry.outputs = output[0].numel()

        return layers[name].register_forward_hook(after)

    handles = [watch(name) for name in layers]
    try:
        with eval_mode(model):
            for batch in images.split(batch_size):
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return _rows(layers, seen)


def _rows(layers: Mapping[str, nn.Module], seen: Mapping[str, _Seen]) -> list[Row]:
    density = {name: entry.nonzero / entry.inputs for name, entry in seen.items()}
    after = [*list(density.values())[1:], 1.0]
    rows: list[Row] = []
    for (name, entry), output in zip(seen.items(), after, strict=True):
        weight = layers[name].weight
        assert isinstance(weight, Tensor)
        kept = float((weight != 0).double().mean())
        flop = 2 * weight.numel() * entry.outputs // len(weight)
        rows.append(_row(name, weight.numel(), flop, output, kept, kept * density[name]))
    return [*rows, _total(rows, [entry.outputs for entry in seen.values()])] if rows else []


def _row(layer: str, weights: int, flop: int, activations: float, kept: float, flop_share: float) -> Row:
    shares = [round(100 * share, 3) for share in (activations, kept, flop_share)]
    return {
        "layer": layer,
        "weights": weights,
        "flop": flop,
        "activations": shares[0],
        "kept": shares[1],
        "flop_share": shares[2],
    }


def _total(rows: list[Row], outputs: list[int]) -> Row:
    """Activations weighted by the layers' outputs, weights by weights, work by work."""
    weights, flop = sum(r["weights"] for r in rows), sum(r["flop"] for r in rows)
    kept = sum(r["kept"] * r["weights"] for r in rows) / weights / 100
    work = sum(r["flop_share"] * r["flop"] for r in rows) / flop / 100
    active = sum(r["activations"] * n for r, n in zip(rows, outputs, strict=True)) / sum(outputs) / 100
    return _row("total", weights, flop, active, kept, work)
