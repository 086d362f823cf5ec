"""Before the first epoch: what is refused, and what decides the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.data.dataset import Dataset
from bitwright.errors import BitwrightError
from bitwright.training import augment, checkpoint
from bitwright.training.evaluate import as_tensor, check_classes, check_logits, eval_mode, predict_logits
from bitwright.training.inside import Inside, check_inside
from bitwright.training.rounds import Round
from bitwright.training.settings import TrainSettings
from bitwright.training.teacher import check_cache

_RULES = ("lr_factor", "decays")
"""What a parameter may say about its own training: see optimizers.py and penalties.py."""


def check(model: nn.Module, data: Dataset, settings: TrainSettings, teacher: nn.Module | None, label: str) -> None:
    """Everything that can be found wrong before the first epoch."""
    for name in ("train", "validation"):
        if not len(data.split(name)):
            raise BitwrightError(
                f"the {name} split of {data.name!r} is empty; training {label!r} needs it", kind="empty"
            )
    check_settings(settings, data, label)
    if (settings.distill is None) != (teacher is None):
        found = "no teacher" if teacher is None else "a teacher, but settings.distill is not set"
        raise BitwrightError(
            f"training {label!r} has {found}; distilling needs both: settings.distill and the teacher model",
            kind="teacher",
        )
    check_classes_alike(model, teacher, data)
    if teacher is not None and settings.distill is not None and settings.distill.at is not None:
        check_inside(model, teacher, settings.distill.at, data)
        image = data.preprocess.torch(as_tensor(data.train.images[:1]))
        with eval_mode(model):
            if not Inside(model, settings.distill.at)(image).requires_grad:
                raise BitwrightError(
                    f"distill.at is {settings.distill.at!r}, and training {label!r} changes no parameter up to there; "
                    "take a module behind the layers that are trained",
                    kind="teacher",
                )


def check_settings(settings: TrainSettings, data: Dataset, label: str) -> None:
    """What can be found wrong without a model: views of images that are too small, and a teacher's logits in a file."""
    if settings.augment is not None:
        augment.check(settings.augment, data.shape)
    if settings.distill is None or settings.distill.cache is None:
        return
    if settings.augment is not None:
        raise BitwrightError(
            f"training {label!r} keeps its teacher's logits (distill.cache), but augment shows other views in every "
            "epoch; leave one out",
            kind="teacher",
        )
    check_cache(Path(settings.distill.cache), data)


def check_classes_alike(model: nn.Module, teacher: nn.Module | None, data: Dataset) -> None:
    """Raise BitwrightError unless both take the images, and give as many logits, enough for the labels."""
    classes = _classes(model, data, "the model")
    if teacher is not None and (taught := _classes(teacher, data, "the teacher")) != classes:
        raise BitwrightError(
            f"the teacher gives {taught} logits, the model {classes}; both must know the same classes", kind="teacher"
        )


def _classes(model: nn.Module, data: Dataset, who: str) -> int:
    """The number of logits, tried on two images; the model must have one for every label."""
    images, labels = as_tensor(data.train.images[:2]), (as_tensor(data.train.labels), as_tensor(data.validation.labels))
    try:
        logits = predict_logits(model, images, data.preprocess)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise BitwrightError(
            f"{who}, a {type(model).__name__}, can't take the images of {data.name!r}, {tuple(images.shape[1:])} each, "
            f"and give one tensor of logits: {error}",
            kind="input-shape",
        ) from error
    check_logits(logits.nan_to_num(), len(images), who)  # whether the weights are finite is told apart
    check_classes(logits, torch.cat(labels), who)
    return logits.shape[1]


def identity(
    model: nn.Module,
    data: Dataset,
    settings: TrainSettings,
    seed: int,
    label: str,
    teacher: nn.Module | None,
    rounds: Sequence[Round],
) -> dict[str, Any]:
    """What decides the result; a checkpoint is only continued where all of it is equal."""
    weights = model.state_dict()
    few: dict[str, Tensor] = {}
    for part, split in (("train", data.train), ("validation", data.validation)):
        few[f"{part} labels"] = as_tensor(split.labels)
        few[f"{part} images"] = as_tensor(split.images[:: max(1, len(split) // 64)])
    return {
        "settings": asdict(settings),
        "seed": seed,
        "label": label,
        "rounds": [[one.name, one.weight, one.follows] for one in rounds],
        "data": {
            "name": data.name,
            "counts": [len(data.train), len(data.validation)],
            "fingerprint": checkpoint.fingerprint(few),
        },
        "preprocess": asdict(data.preprocess),
        "architecture": checkpoint.text_fingerprint(repr(model)),
        "parameters": {n: {k: vars(p)[k] for k in _RULES if k in vars(p)} for n, p in model.named_parameters()},
        "model": {name: [str(t.dtype), *t.shape] for name, t in weights.items()},
        "starting_weights": checkpoint.fingerprint(weights),
        "teacher": checkpoint.fingerprint(teacher.state_dict()) if teacher else None,
    }
