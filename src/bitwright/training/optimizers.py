"""Every optimiser of `torch.optim`, and those of our own, by name."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from bitwright.errors import BitwrightError, unknown
from bitwright.training.penalties import decaying
from bitwright.training.rmsprop_nesterov import RMSpropNesterov
from bitwright.training.settings import Optimizer
from bitwright.training.shift_adamax import ShiftAdaMax


def list_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Every optimiser that can train an image network, by its name in `torch.optim` or here."""
    classes = [c for c in vars(torch.optim).values() if inspect.isclass(c)] + [RMSpropNesterov, ShiftAdaMax]
    base = torch.optim.Optimizer
    return {c.__name__: c for c in sorted(classes, key=lambda c: c.__name__) if issubclass(c, base) and c is not base}


def allowed_options(optimizer: type[torch.optim.Optimizer]) -> list[str]:
    """The names that `Optimizer.options` may hold; the learning rate has its own field."""
    return [n for n in inspect.signature(optimizer.__init__).parameters if n not in ("self", "params", "lr")]


def find_optimizer(settings: Optimizer) -> type[torch.optim.Optimizer]:
    """The class of that name. Raises BitwrightError for an unknown name, and for options that it doesn't have."""
    known = list_optimizers()
    if settings.name not in known:
        raise unknown("optimizer", settings.name, known)
    cls = known[settings.name]
    for option in settings.options:
        if option not in allowed_options(cls):
            raise unknown(f"option of optimizer {settings.name}", option, allowed_options(cls))
    return cls


def create_optimizer(settings: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser for the model's trainable parameters.

    A parameter may carry `lr_factor` (1.0 where it has none): its learning rate is lr * lr_factor, which is its group's
    "initial_lr". An own `weight_decay` among the options holds for the parameters that are `penalties.decaying` only.
    Raises BitwrightError for an unknown name or option, and where the optimiser can't train this model.
    """
    cls = find_optimizer(settings)
    groups = _groups(model, settings)
    try:
        return cls(groups, lr=settings.lr, **settings.options)  # type: ignore[call-arg]
    except (ValueError, TypeError, RuntimeError) as error:
        raise BitwrightError(
            f"optimizer {settings.name} refuses lr={settings.lr:g} with options {settings.options} for "
            f"{type(model).__name__}: {error}. Change them or take another optimizer, e.g. SGD",
            kind="optimizer",
        ) from None


def _groups(model: nn.Module, settings: Optimizer) -> list[dict[str, object]]:
    """The parameters by learning rate, and by whether they decay if the optimiser has a decay of its own."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise BitwrightError(
            f"{type(model).__name__} has no trainable parameter; set requires_grad on those to train",
            kind="nothing-to-train",
        )
    if settings.name == "SparseAdam":
        raise BitwrightError(
            "optimizer SparseAdam needs sparse gradients, which convolution and linear layers don't have; take Adam",
            kind="optimizer",
        )
    own_decay = settings.options.get("weight_decay")
    weights = {id(p) for p in (decaying(model) if own_decay else trainable)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for p in trainable:
        groups.setdefault((float(getattr(p, "lr_factor", 1.0)), id(p) in weights), []).append(p)
    return [_group(members, settings.lr * factor, decays) for (factor, decays), members in groups.items()]


def _group(members: list[nn.Parameter], lr: float, decays: bool) -> dict[str, object]:
    group: dict[str, object] = {"params": members, "lr": lr, "initial_lr": lr}
    return group if decays else {**group, "weight_decay": 0.0}
