"""Batch normalisation: forward and backward in training, and what replaces the batch at test time (lecture 004).

For each of the D features of a batch x (N, D):

    mu = 1/N sum x_i                         var = 1/N sum (x_i - mu)^2
    xhat_i = (x_i - mu) / sqrt(var + eps)    y_i = gamma xhat_i + beta

Backward (Ioffe and Szegedy 2015, section 3), every image reaches the loss by three ways: itself, var and mu.

    dL/dgamma = sum dL/dy_i xhat_i      dL/dbeta = sum dL/dy_i      dL/dxhat_i = gamma dL/dy_i
    dL/dvar   = sum dL/dxhat_i (x_i - mu) * -1/2 (var + eps)^-3/2
    dL/dmu    = sum dL/dxhat_i * -1 / sqrt(var + eps)               (through var it is 0, as sum (x_i - mu) = 0)
    dL/dx_i   = dL/dxhat_i / sqrt(var + eps) + dL/dvar 2 (x_i - mu) / N + dL/dmu / N
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from beside import Cases, Found, autograd, show

EPS = 1e-5


def forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y (N, D), and the batch's mu and var (D,)."""
    mu, var = x.mean(axis=0), x.var(axis=0)
    return gamma * (x - mu) / np.sqrt(var + EPS) + beta, mu, var


def backward(x: np.ndarray, gamma: np.ndarray, dL_dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dL/dx, dL/dgamma, dL/dbeta)."""
    centred, std = x - x.mean(axis=0), np.sqrt(x.var(axis=0) + EPS)
    dL_dgamma = (dL_dy * centred / std).sum(axis=0)
    dL_dbeta = dL_dy.sum(axis=0)
    dL_dxhat = gamma * dL_dy
    dL_dvar = (dL_dxhat * centred).sum(axis=0) * -0.5 * std**-3
    dL_dmu = (-dL_dxhat / std).sum(axis=0)
    return dL_dxhat / std + (dL_dvar * 2 * centred + dL_dmu) / len(x), dL_dgamma, dL_dbeta


def forward_test(x, gamma, beta, running_mu, running_var) -> np.ndarray:
    """At test time the running averages take the place of the batch: each image gives the same y in any batch."""
    return gamma * (x - running_mu) / np.sqrt(running_var + EPS) + beta


def running(average: np.ndarray, seen: np.ndarray, momentum: float = 0.1) -> np.ndarray:
    """What a running average becomes after a batch: (1 - momentum) average + momentum seen.

    torch averages mu and N / (N - 1) var, which estimates the variance of all data from a batch without bias.
    """
    return (1 - momentum) * average + momentum * seen


def by_hand(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, wanted: np.ndarray) -> Found:
    """The loss sum (y - wanted)^2 / 2, whose dL/dy is y - wanted, and its gradients."""
    y, _, _ = forward(x, gamma, beta)
    dL_dx, dL_dgamma, dL_dbeta = backward(x, gamma, y - wanted)
    return {"loss": np.square(y - wanted).sum() / 2, "dL/dx": dL_dx, "dL/dgamma": dL_dgamma, "dL/dbeta": dL_dbeta}


def cases(rng: np.random.Generator, N: int = 8, D: int = 5) -> Cases:
    """A batch in training; then, at test time, other images after three batches have been averaged."""
    given = {"x": rng.normal(3, 2, size=(N, D)), "gamma": rng.normal(size=D), "beta": rng.normal(size=D)}
    wanted = rng.normal(size=(N, D))

    def loss(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS)
        return (y - torch.tensor(wanted)).square().sum() / 2

    return {
        "a batch in training": (by_hand(**given, wanted=wanted), autograd(loss, **given)),
        "at test time": test_time(rng, N, D),
    }


def test_time(rng: np.random.Generator, N: int, D: int) -> tuple[Found, Found]:
    """Averages of three batches and y of new images, by hand and by torch's module."""
    module, mu, var = torch.nn.BatchNorm1d(D, eps=EPS, dtype=torch.float64), np.zeros(D), np.ones(D)
    for _ in range(3):
        batch = rng.normal(3, 2, size=(N, D))
        _, batch_mu, batch_var = forward(batch, np.ones(D), np.zeros(D))
        mu, var = running(mu, batch_mu), running(var, batch_var * N / (N - 1))
        module(torch.tensor(batch))
    x = rng.normal(3, 2, size=(2, D))
    by_torch = {"running mu": module.running_mean.numpy(), "running var": module.running_var.numpy()}
    by_torch["y"] = module.eval()(torch.tensor(x)).detach().numpy()
    return {"running mu": mu, "running var": var, "y": forward_test(x, np.ones(D), np.zeros(D), mu, var)}, by_torch


if __name__ == "__main__":
    show(cases(np.random.default_rng(0)))
