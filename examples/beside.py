"""Prints gradients derived by hand beside those of torch's autograd.

Every script here has functions that compute a loss and its gradients in NumPy, and `cases`, which gives for each title
what they found and what autograd finds: {"loss": value, "dL/dW": gradient, ...}, twice. L is the loss.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Found = dict[str, np.ndarray]
"""Name -> value: the loss and its gradients, each of its variable's shape; elsewhere, what was learned."""
Cases = dict[str, tuple[Found, Found]]
"""Title -> (by hand, by autograd)."""


def autograd(loss: Callable[..., Tensor], **variables: np.ndarray) -> Found:
    """`loss(**variables)` and its gradients, by torch, in float64."""
    tensors = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in variables.items()}
    value = loss(**tensors)
    gradients = torch.autograd.grad(value, list(tensors.values()))
    return {"loss": value.detach().numpy(), **{f"dL/d{n}": g.numpy() for n, g in zip(tensors, gradients, strict=True)}}


def show(cases: Cases) -> None:
    """One line for each value: its name and shape, the first numbers of both, and how far they are apart at most."""
    for title, (hand, torchs) in cases.items():
        print(f"\n{title}")
        for name, value in hand.items():
            apart = np.abs(value - torchs[name]).max()
            shape = "x".join(map(str, np.shape(value))) or "number"
            print(f"  {name:<14}{shape:<12}{_first(value)}  autograd {_first(torchs[name])}  apart {apart:.0e}")


def _first(value: np.ndarray, count: int = 3) -> str:
    numbers = np.ravel(value)
    return f"{' '.join(f'{n:9.4f}' for n in numbers[:count])}{' ..' if numbers.size > count else '   ':<3}"
