"""Batch norm's running mean and variance, measured anew for weights that are final."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from bitwright.data.preprocess import Preprocess
from bitwright.errors import BitwrightError
from bitwright.training.evaluate import eval_mode
from bitwright.training.rounds import ONE, Round

_FROZEN = "bitwright_frozen"
"""An attribute of norms."""


def reestimate(
    model: nn.Module, images: Tensor, preprocess: Preprocess, batch_size: int = 100, rounds: Sequence[Round] = ONE
) -> None:
    """Replace every batch norm's running statistics by their plain average over batches of raw images (N, C, H, W).

    Each layer sees what the layers before it make of the batch's own statistics, as in training; everything else,
    dropout for one, works as in eval mode. Batches have equal size but for one image. Other parts of the model, and its
    modes, stay as they are, as do norms that only run in training (those of auxiliary heads); nothing happens where
    there is no batch norm with running statistics. With `rounds` the images go through the model in each of these ways;
    a norm that several of them reach takes the average over all.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    device = next((p.device for p in model.parameters()), images.device)
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    with eval_mode(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for the average over all batches since the reset
            norm.train()
        try:
            for one in rounds:
                one.begin()
                with parametrize.cached():
                    for batch in images.tensor_split(math.ceil(len(images) / batch_size)):
                        model(preprocess.torch(batch.to(device)))
        finally:
            for norm, momentum, buffers in zip(norms, momenta, before, strict=True):
                norm.momentum = momentum
                if not norm.num_batches_tracked:  # nothing reached it
                    for name, buffer in norm.named_buffers():
                        buffer.copy_(buffers[name])


def carry_over(
    model: nn.Module,
    before: nn.Module,
    images: Tensor,
    preprocess: Preprocess,
    batch_size: int = 100,
    kept: Mapping[str, Tensor] | None = None,
) -> None:
    """Give the batch norms of a changed model the statistics of training, changed as the model has changed them.

        mean <- mean_c + (mean_t - mean_b) sqrt(var_c / var_b),     var <- var_t var_c / var_b

    t: what `before` holds, from its training; b, c: measured on `images` (N, C, H, W) in `before` and in `model`. Where
    the training saw other images than these, with black borders or other colours, measuring alone would lose that
    (LOG.md: two points of a ResNet-20). Norms of `model` that `before` has not, by name, are those of `images`. `kept`:
    path -> which of the channels that it has in `before` a norm still has; all where it isn't there.
    """
    measured = copy.deepcopy(before)
    reestimate(measured, images, preprocess, batch_size)
    reestimate(model, images, preprocess, batch_size)
    trained, own = (dict(m.named_modules()) for m in (before, measured))
    for name, norm in model.named_modules():
        if not isinstance(norm, _BatchNorm) or not norm.track_running_stats or name not in own:
            continue
        t, b = trained[name], own[name]
        stay = (kept or {}).get(name, slice(None))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        ratio = (norm.running_var + norm.eps) / (b.running_var[stay] + norm.eps)
        norm.running_mean.add_((t.running_mean - b.running_mean)[stay] * ratio.sqrt())
        norm.running_var.copy_(t.running_var[stay] * ratio)


def frozen_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms none of whose parameters is trained: they are to stay in eval mode in training.

    Otherwise the running statistics of a frozen network would follow the new data, and it would not be frozen. Norms
    without parameters are frozen inside `freezing` alone.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and (m.affine or hasattr(m, _FROZEN))]
    return [m for m in norms if not any(p.requires_grad for p in m.parameters())]


@contextlib.contextmanager
def freezing(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While inside, the parameters of these modules themselves, and statistics of norms, are not trained."""
    own = list(modules)
    parameters = [p for module in own for p in module.parameters(recurse=False) if p.requires_grad]
    norms = [module for module in own if isinstance(module, _BatchNorm)]
    for parameter in parameters:
        parameter.requires_grad_(False)
    for norm in norms:
        setattr(norm, _FROZEN, True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for norm in norms:
            delattr(norm, _FROZEN)


@contextlib.contextmanager
def telling_of_single_samples(batch_size: int) -> Iterator[None]:
    """Say it in the recipe's words when batch norm refuses a batch of one number per channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BitwrightError(
            f"batch norm can't train on one sample at a time: the batch size is {batch_size}; take 2 or more, and as "
            "many training images",
            kind="batch-size",
        ) from None
