"""Every optimiser of `torch.optim`, by name."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from bitwright.errors import BitwrightError, unknown
from bitwright.training.penalties import free_parameters, weight_layers
from bitwright.training.settings import Optimizer


def list_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Every optimiser that can train an image network, by its name in `torch.optim`."""
    classes = {n: c for n, c in vars(torch.optim).items() if inspect.isclass(c)}
    base = torch.optim.Optimizer
    return {n: c for n, c in sorted(classes.items()) if issubclass(c, base) and c is not base}


def allowed_options(optimizer: type[torch.optim.Optimizer]) -> list[str]:
    """The names that `Optimizer.options` may hold; the learning rate has its own field."""
    return [n for n in inspect.signature(optimizer.__init__).parameters if n not in ("self", "params", "lr")]


def create_optimizer(settings: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser for the model's trainable parameters.

    An own `weight_decay` among the options holds for the weights of convolution and linear layers only. Raises
    BitwrightError for an unknown name or option, and where the optimiser can't train this model.
    """
    known = list_optimizers()
    if settings.name not in known:
        raise unknown("optimizer", settings.name, known)
    cls = known[settings.name]
    for option in settings.options:
        if option not in allowed_options(cls):
            raise unknown(f"option of optimizer {settings.name}", option, allowed_options(cls))
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
    """One group of parameters, or two if the optimiser has a decay of its own."""
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
    if not settings.options.get("weight_decay"):
        return [{"params": trainable}]
    weights = {id(p) for layer in weight_layers(model) for p in free_parameters(layer)}
    others = [p for p in trainable if id(p) not in weights]
    groups: list[dict[str, object]] = [{"params": [p for p in trainable if id(p) in weights]}]
    return [*groups, {"params": others, "weight_decay": 0.0}] if others else groups
