"""Networks of one and two layers, with the squared loss and with softmax (lecture 002).

A layer is a score and an activation, s = W x + b and p = f(s). Backward, in the other direction:

    squared loss     L = |z - p|^2      dL/dp = -2 (z - p)
    sigmoid          p = 1 / (1 + e^-s) dL/ds = p (1 - p) * dL/dp              (element by element)
    softmax          p = e^s / sum e^s  dL/ds = D dL/dp,  D_ab = p_a ([a = b] - p_b)
    log likelihood   L = -log p_y       dL/dp = -1 / p_y in row y, else 0;  together  dL/ds = p - e_y
    score            s = W x + b        dL/dW = dL/ds x^T,  dL/db = dL/ds,  dL/dx = W^T dL/ds
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from beside import Cases, Found, autograd, show


def sigmoid(s: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-s)."""
    return 1 / (1 + np.exp(-s))


def softmax(s: np.ndarray) -> np.ndarray:
    """e^s / sum e^s; the largest score is subtracted first, which changes nothing but keeps e^s finite."""
    e = np.exp(s - s.max())
    return e / e.sum()


def score_backward(W: np.ndarray, x: np.ndarray, dL_ds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dL/dW, dL/db, dL/dx) of s = W x + b."""
    return np.outer(dL_ds, x), dL_ds, W.T @ dL_ds


def sigmoid_squared(s: np.ndarray, z: np.ndarray) -> tuple[float, np.ndarray]:
    """The output layer for regression: L = |z - sigmoid(s)|^2 and dL/ds."""
    p = sigmoid(s)
    dL_dp = -2 * (z - p)
    return np.square(z - p).sum(), p * (1 - p) * dL_dp


def softmax_log(s: np.ndarray, y: int) -> tuple[float, np.ndarray]:
    """The output layer for classes: L = -log softmax(s)_y and dL/ds, through D rather than straight to p - e_y."""
    p = softmax(s)
    dL_dp = np.zeros_like(p)
    dL_dp[y] = -1 / p[y]
    D = np.diag(p) - np.outer(p, p)
    return -np.log(p[y]), D @ dL_dp


def one_layer(output, target, x: np.ndarray, W: np.ndarray, b: np.ndarray) -> Found:
    """x -> s -> loss, `output` being one of the two output layers."""
    loss, dL_ds = output(W @ x + b, target)
    dL_dW, dL_db, dL_dx = score_backward(W, x, dL_ds)
    return {"loss": loss, "dL/dx": dL_dx, "dL/dW": dL_dW, "dL/db": dL_db}


def two_layers(output, target, x: np.ndarray, W1: np.ndarray, b1: np.ndarray, W2: np.ndarray, b2: np.ndarray) -> Found:
    """x -> s1 -> p1 = sigmoid(s1) -> s2 -> loss."""
    p1 = sigmoid(W1 @ x + b1)
    loss, dL_ds2 = output(W2 @ p1 + b2, target)
    dL_dW2, dL_db2, dL_dp1 = score_backward(W2, p1, dL_ds2)
    dL_ds1 = p1 * (1 - p1) * dL_dp1
    dL_dW1, dL_db1, dL_dx = score_backward(W1, x, dL_ds1)
    return {"loss": loss, "dL/dx": dL_dx, "dL/dW1": dL_dW1, "dL/db1": dL_db1, "dL/dW2": dL_dW2, "dL/db2": dL_db2}


def cases(rng: np.random.Generator) -> Cases:
    """5 inputs, 4 hidden units, 3 outputs; both depths with both losses."""
    x, z, y = rng.normal(size=5), rng.random(3), int(rng.integers(3))
    one = {"x": x, "W": rng.normal(size=(3, 5)), "b": rng.normal(size=3)}
    two = {"x": x, "W1": rng.normal(size=(4, 5)), "b1": rng.normal(size=4)}
    two |= {"W2": rng.normal(size=(3, 4)), "b2": rng.normal(size=3)}
    losses = {
        "squared loss": (sigmoid_squared, z, lambda s: (torch.tensor(z) - s.sigmoid()).square().sum()),
        "softmax": (softmax_log, y, lambda s: F.cross_entropy(s, torch.tensor(y))),
    }
    found: Cases = {}
    for name, (output, target, torch_loss) in losses.items():
        found[f"one layer, {name}"] = (
            one_layer(output, target, **one),
            autograd(lambda x, W, b, loss=torch_loss: loss(W @ x + b), **one),
        )
        found[f"two layers, {name}"] = (
            two_layers(output, target, **two),
            autograd(lambda x, W1, b1, W2, b2, loss=torch_loss: loss(W2 @ (W1 @ x + b1).sigmoid() + b2), **two),
        )
    return found


if __name__ == "__main__":
    show(cases(np.random.default_rng(0)))
