"""A teacher's logits for the very views that the student is trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitwright.data.preprocess import Preprocess
from bitwright.training.devices import Devices
from bitwright.training.evaluate import predict_logits

Targets = Callable[[Tensor, Tensor], Tensor]
"""(indices of training samples (N,), their preprocessed batch (N, C, H, W)) -> the teacher's logits (N, K), float32."""


def computed_once(teacher: nn.Module, images: Tensor, preprocess: Preprocess, devices: Devices) -> Targets:
    """For a training without augmentation, where a sample's soft targets never change."""
    home = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    logits = predict_logits(teacher.to(devices.device), images, preprocess)
    teacher.to(home)
    logits = devices.keep(logits)[0].to(images.device)
    return lambda index, _: logits.index_select(0, index).to(devices.device)


def computed_each_time(teacher: nn.Module, images: Tensor, preprocess: Preprocess, devices: Devices) -> Targets:
    """For augmented batches: a forward pass a step, in eval mode, with the student's precision and layout."""
    model = _fused(devices.adopt(teacher), preprocess.torch(images[:2].to(devices.device)))

    def targets(_: Tensor, batch: Tensor) -> Tensor:
        with torch.inference_mode(), devices.autocast(), parametrize.cached():
            logits = model(batch)
        return logits.float().clone()  # made outside inference mode, so that a loss may keep it for its backward pass

    return targets


@torch.no_grad()
def _fused(model: nn.Module, sample: Tensor) -> nn.Module:
    """The model with batch norms folded into the convolutions before them, where torch can follow its forward.

    That is 40 % of a ResNet-56's time. Wrong paths through an unusual forward show in the logits of the sample.
    """
    from torch.fx.experimental.optimization import fuse  # not for everybody: it imports what torch has deprecated

    logits = model(sample)
    try:
        fused: nn.Module = fuse(model)
        same = torch.allclose(fused(sample), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):  # a forward that symbols can't take
        return model
    return fused if same else model
