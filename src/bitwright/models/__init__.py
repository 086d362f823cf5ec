"""Models: plain `nn.Module`s by name.

To add one, write a function under `@register_model` in a file here, and its parameter count in the test. Every model
takes `input_shape` (C, H, W) and `num_classes`, and carries `input_shape` as an attribute.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import bitwright.ops  # noqa: F401  (torch.ops.bitwright, for weights and models from elsewhere)
from bitwright.errors import BitwrightError
from bitwright.models.registry import build, models, register_model
from bitwright.models.weights import load_weights

__all__ = ["create_model", "list_models", "load_weights", "register_model"]


def create_model(
    name: str, *, weights: str | os.PathLike[str] | None = None, seed: int | None = None, **options: Any
) -> nn.Module:
    """Build the model `name` (see `list_models`), or the one that "package.module:factory" makes.

    weights  a file for `load_weights`, or the name of one under $BITWRIGHT_DATA/pretrained, e.g. "resnet20-12fca82f"
    seed     initial weights that depend on nothing else; torch's global random state stays as it was.
             Default: drawn from that global state
    options  arguments of the factory: input_shape=(C, H, W), num_classes=, ...

    Raises BitwrightError for an unknown name or option, for a size that the net can't take, and as `load_weights`.
    """
    if seed is None:
        model = build(name, options)
    else:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise BitwrightError(f"model {name!r}: seed is {seed!r}; expected a whole number")
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which would also reset the generators of GPUs
            torch.default_generator.manual_seed(seed)
            model = build(name, options)
    return model if weights is None else load_weights(model, weights)


def list_models() -> dict[str, Callable[..., nn.Module]]:
    """Every registered model by name, with the function that builds it."""
    return models()
