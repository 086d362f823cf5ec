"""What a network needs after its structure has changed, and how far its outputs have moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.training.batchnorm import carry_over
from bitwright.training.evaluate import as_tensor, eval_mode
from bitwright.training.settings import TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context

_JUDGING, _BATCH = 5000, 250  # images


def recover(
    model: nn.Module,
    float_model: nn.Module,
    context: Context,
    norm_images: int,
    train: TrainSettings | None,
    kept: Mapping[str, Tensor] | None = None,
) -> None:
    """Batch norms that follow the change, and training. `kept`: the channels that norms still have, of those that lost
    some."""
    if norm_images:
        images = as_tensor(context.data.sample(norm_images).images)
        carry_over(model, float_model, images, context.data.preprocess, kept=kept)
    if train is not None:
        context.train(model, train)


def output_error(model: nn.Module, float_model: nn.Module, context: Context) -> float:
    """`distance` on validation images; without such, on training images."""
    split = context.data.validation if len(context.data.validation.labels) else context.data.sample(_JUDGING)
    return distance(model, float_model, context.data.preprocess.torch(as_tensor(split.images[:_JUDGING])))


@torch.no_grad()
def distance(model: nn.Module, float_model: nn.Module, images: Tensor) -> float:
    """How far the network's outputs are from the float network's for preprocessed images: |x~ - x|^2 / |x|^2."""
    wrong, whole = 0.0, 0.0
    with eval_mode(model), eval_mode(float_model):
        for batch in images.split(_BATCH):
            found, wanted = model(batch), float_model(batch)
            wrong += float((found - wanted).square().sum(dtype=torch.float64))
            whole += float(wanted.square().sum(dtype=torch.float64))
    if not math.isfinite(wrong + whole):
        raise BitwrightError(
            "the network's outputs are NaN, infinite or too large for some image; look at the images and the weights",
            kind="not-finite",
        )
    return wrong / max(whole, 1e-300)
