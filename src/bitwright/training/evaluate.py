"""Accuracy and loss of a model on one split."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from bitwright.data.dataset import Split
from bitwright.data.preprocess import Preprocess
from bitwright.errors import BitwrightError
from bitwright.training.losses import Loss


@dataclass(frozen=True)
class Evaluation:
    """What a model does on `count` images: accuracy and error in percent, mean loss, predicted classes (count,)."""

    accuracy: float
    error: float
    loss: float
    count: int
    predictions: np.ndarray


def evaluate(
    model: nn.Module, split: Split, preprocess: Preprocess, batch_size: int = 1000, *, loss: Loss = F.cross_entropy
) -> Evaluation:
    """Run the model in eval mode, on its own device, and leave it in the mode it was in.

    Raises BitwrightError for an empty split and for logits that are not finite or not (N, classes).
    """
    if not len(split):
        raise BitwrightError("the split to evaluate on has no images; give it at least one", kind="empty")
    logits = predict_logits(model, as_tensor(split.images), preprocess, batch_size)
    return evaluate_logits(logits, split, type(model).__name__, loss=loss)


def evaluate_logits(logits: Tensor, split: Split, who: str, *, loss: Loss = F.cross_entropy) -> Evaluation:
    """The same of logits that `predict_logits` gave; `who` is called in errors."""
    labels = as_tensor(split.labels)
    check_logits(logits, len(labels), who)
    check_classes(logits, labels, who)
    predictions = logits.argmax(1)
    wrong = int((predictions != labels).sum())
    error = 100.0 * wrong / len(labels)
    mean = float(loss(logits, labels))
    return Evaluation(100.0 - error, error, mean, len(labels), predictions.numpy())


def predict_logits(model: nn.Module, images: Tensor, preprocess: Preprocess, batch_size: int = 1000) -> Tensor:
    """Logits (N, classes), float32 on the CPU, of raw images (N, C, H, W)."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with eval_mode(model), torch.no_grad(), parametrize.cached():
        return torch.cat([model(preprocess.torch(x.to(device))).float().cpu() for x in images.split(batch_size)])


def check_logits(logits: Tensor, count: int, who: str) -> None:
    """Raise BitwrightError unless the logits are finite and one row for each of `count` images."""
    if logits.ndim != 2 or len(logits) != count:
        raise BitwrightError(
            f"{who} gives {tuple(logits.shape)} for {count} images; expected ({count}, classes): end it with a linear "
            f"layer, or with global pooling and a flatten",
            kind="logits-shape",
        )
    finite = logits.isfinite()
    if not finite.all():
        bad = logits[~finite][0].item()
        raise BitwrightError(
            f"{who} gives logits that hold {bad} for {int((~finite).any(1).sum())} of {count} images; its weights or "
            f"the input's normalisation are broken",
            kind="not-finite",
        )


def check_classes(logits: Tensor, labels: Tensor, who: str) -> None:
    """Raise BitwrightError unless there is a logit for every label that occurs."""
    needed = int(labels.max()) + 1
    if needed > logits.shape[1]:
        raise BitwrightError(
            f"{who} gives {logits.shape[1]} logits, but there is a label {needed - 1}; create it with "
            f"num_classes={needed} or more",
            kind="classes",
        )


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards in the mode it had before."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def as_tensor(array: np.ndarray) -> Tensor:
    """The array's memory as a tensor, also where it is read-only (nobody writes to it)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))
