"""Models: plain `nn.Module`s by name.

To add one, write a function under `@register_model` in a file here, and its parameter count in the test. Every model
takes `input_shape` (C, H, W) and `num_classes`, and carries `input_shape` as an attribute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import bitwright.ops  # noqa: F401  (torch.ops.bitwright, for weights and models from elsewhere)
from bitwright.errors import BitwrightError
from bitwright.models.initialize import Initialize, initialize_
from bitwright.models.registry import build, models, register_model
from bitwright.models.weights import load_weights

__all__ = ["create_model", "list_models", "load_weights", "register_model"]


def create_model(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    fresh: Sequence[str] = (),
    initialize: str | Mapping[str, Any] | Initialize | None = None,
    images: Callable[[], Tensor] | None = None,
    seed: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build the model `name` (see `list_models`), or the one that "package.module:factory" makes.

    weights     what `load_weights` takes: a file, the folder of a run, or the name of a file under
                $BITWRIGHT_DATA/pretrained, e.g. "resnet20-12fca82f"
    fresh       patterns over the layers that keep their own first weights beside `weights`, e.g. ["last"]
    initialize  other first weights than the model's own, e.g. "orthogonal" or {"name": "xavier-uniform", "gain": 4};
                see `models.initialize`
    images      gives the batch that initialize="lsuv" measures on, (N, C, H, W) as the model takes it
    seed        initial weights that depend on nothing else; torch's global random state stays as it was.
                Default: drawn from that global state
    options     arguments of the factory: input_shape=(C, H, W), num_classes=, ...

    Raises BitwrightError for an unknown name or option, for a size that the net can't take, for both `weights` and
    `initialize`, for `fresh` without `weights`, and as `load_weights`.
    """
    if weights is not None and initialize is not None:
        raise BitwrightError(f"model {name!r}: both weights and initialize are given; leave one out")
    if fresh and weights is None:
        raise BitwrightError(f"model {name!r}: fresh is {fresh!r} without weights; all layers are new: leave it out")
    if isinstance(seed, bool) or not isinstance(seed, int | None):
        raise BitwrightError(f"model {name!r}: seed is {seed!r}; expected a whole number")
    how = None if initialize is None else Initialize.of(initialize)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:  # not torch.manual_seed, which would also reset the generators of GPUs
            torch.default_generator.manual_seed(seed)
        model = build(name, options)
        if how is not None:
            initialize_(model, how, images)
    return model if weights is None else load_weights(model, weights, fresh)


def list_models() -> dict[str, Callable[..., nn.Module]]:
    """Every registered model by name, with the function that builds it."""
    return models()
