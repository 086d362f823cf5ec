"""A teacher's logits for the very views that the student is trained on, and a file that keeps them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitwright.data.dataset import Dataset
from bitwright.data.preprocess import Preprocess
from bitwright.errors import BitwrightError
from bitwright.files import write_atomic
from bitwright.training.checkpoint import fingerprint, text_fingerprint
from bitwright.training.devices import Devices
from bitwright.training.evaluate import as_tensor, predict_logits
from bitwright.training.inside import Inside, hearing
from bitwright.training.losses import make_soft_loss, spread_of
from bitwright.training.settings import Distill

Targets = Callable[[Tensor, Tensor], Tensor]
"""(indices of training samples (N,), their preprocessed batch (N, C, H, W)) -> the teacher's logits (N, K), float32."""
_NAME, _KEY = "logits", "bitwright-teacher"


class Teaching:
    """What a student learns from a teacher: targets for each batch, and the loss on them.

    images      raw, of the training split, (N, C, H, W); with labels (N,) and their preprocessing
    fixed       whether the student sees these very images, so that the teacher need look at each only once

    Raises BitwrightError for a `cache` that is of something else.
    """

    def __init__(
        self,
        teacher: nn.Module,
        distill: Distill,
        images: Tensor,
        labels: Tensor,
        preprocess: Preprocess,
        devices: Devices,
        *,
        fixed: bool,
    ) -> None:
        self.weight, self.at = distill.weight, distill.at
        known = None
        if distill.at is not None:
            teacher = Inside(teacher, distill.at)
        if fixed or distill.standardise:
            known = _kept(teacher, distill, images, labels, preprocess, devices)
        spread = spread_of(distill, known).to(devices.device) if distill.standardise and known is not None else 1.0
        self.soft_loss = make_soft_loss(distill, spread)
        self.heard: list[Tensor] = []
        self.targets = (
            computed_once(known, images, devices)
            if fixed and known is not None
            else computed_each_time(teacher, images, preprocess, devices)
        )

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """While inside, forwards of the student leave behind what is compared, if it isn't the logits."""
        if self.at is None:
            yield
            return
        with hearing(model, self.at) as self.heard:
            yield

    def mixed(self, hard: Tensor, student: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        """The loss on the labels and that on the targets, by the weight of `Distill`."""
        if self.at is not None:
            student = self.heard.pop()
        return (1 - self.weight) * hard + self.weight * self.soft_loss(student, targets, labels)


def _kept(
    teacher: nn.Module, distill: Distill, images: Tensor, labels: Tensor, preprocess: Preprocess, devices: Devices
) -> Tensor:
    """The teacher's logits (N, K) for all training images, from a file if there is one for them."""

    def compute() -> Tensor:
        home = next((p.device for p in teacher.parameters()), torch.device("cpu"))
        logits = predict_logits(teacher.to(devices.device), images, preprocess)
        teacher.to(home)
        return logits

    if distill.cache is None:
        return compute()
    identity = {
        "teacher": [fingerprint(teacher.state_dict()), text_fingerprint(repr(teacher)), distill.at],
        **_seen(images, labels, preprocess),
    }
    return read_or_make(Path(distill.cache), identity, compute)


def _seen(images: Tensor, labels: Tensor, preprocess: Preprocess) -> dict[str, str]:
    """What a teacher's logits are of."""
    return {
        "data set": fingerprint({"images": images, "labels": labels}),
        "preprocessing": text_fingerprint(json.dumps(asdict(preprocess), sort_keys=True)),
    }


def read_or_make(path: Path, identity: dict[str, Any], compute: Callable[[], Tensor]) -> Tensor:
    """The logits of a file, which is made where it isn't there.

    `identity` says what they are of: a file with another is refused, as are damaged ones, and a place where none can be
    written (BitwrightError).
    """
    if not path.exists():
        _check_place(path)
        logits = compute().cpu().contiguous()
        said = {**identity, _NAME: fingerprint({_NAME: logits})}
        write_atomic(path, save({_NAME: logits}, {_KEY: json.dumps(said, sort_keys=True)}))
        return logits
    logits, stored = _stored(path)
    _check_same(path, stored, identity)
    return logits


def _check_same(path: Path, stored: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise BitwrightError where a file's logits are of something else."""
    if different := [what for what in identity if stored.get(what) != identity[what]]:
        raise BitwrightError(
            f"{path} holds logits of another {' and another '.join(different)} than this training's; give another file "
            "(distill.cache), or delete it to have them computed anew",
            kind="teacher",
        )


def check_cache(path: Path, data: Dataset) -> None:
    """Raise BitwrightError where a file for a teacher's logits is damaged or of other data, or none can be written."""
    if path.is_dir():
        raise BitwrightError(f"distill.cache: {path} is a folder; give the path of a file", kind="teacher")
    if path.exists():
        train = data.train
        _check_same(path, _stored(path)[1], _seen(as_tensor(train.images), as_tensor(train.labels), data.preprocess))
    else:
        _check_place(path)


def _stored(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """The logits of a file, and what it says that they are of."""
    try:
        with safe_open(path, framework="pt") as file:
            logits, stored = file.get_tensor(_NAME), json.loads((file.metadata() or {})[_KEY])
        if not isinstance(stored, dict) or stored.get(_NAME) != fingerprint({_NAME: logits}):
            raise ValueError("it holds others than it says")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise BitwrightError(
            f"{path} is no file of a teacher's logits ({error}); delete it to have them computed anew", kind="teacher"
        ) from None
    return logits, stored


def _check_place(path: Path) -> None:
    """Raise BitwrightError where no file can be written, before a teacher is asked for hours."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise BitwrightError(f"distill.cache: no file can be written in {path.parent}; choose another", kind="teacher")


def computed_once(logits: Tensor, images: Tensor, devices: Devices) -> Targets:
    """For a training without augmentation, where a sample's soft targets never change."""
    own = devices.keep(logits)[0].to(images.device)
    return lambda index, _: own.index_select(0, index).to(devices.device)


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
