"""A whole training in twenty lines: two layers, squared loss, gradient descent (lecture 002, "Full implementation").

The rows of a batch are images, so x (N, D) stands left of the weights and one product does the whole batch:

    h = sigmoid(x w1)        y_pred = h w2        loss = sum (y_pred - y)^2
    dloss/dw2 = h^T dloss/dy_pred                 dloss/dw1 = x^T (dloss/dh * h (1 - h))

A product with the transposed batch adds up the gradients of its images.
"""

from __future__ import annotations

import numpy as np
import torch

from beside import Cases, show


def task(rng: np.random.Generator, N: int = 64, D_in: int = 1000, H: int = 100, D_out: int = 10) -> list[np.ndarray]:
    """Random x (N, D_in) and y (N, D_out) to learn by heart, and first weights w1 (D_in, H), w2 (H, D_out)."""
    return [rng.normal(size=shape) for shape in ((N, D_in), (N, D_out), (D_in, H), (H, D_out))]


def train(x, y, w1, w2, steps: int = 2000, rate: float = 1e-4) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The weights after `steps` updates of size `rate`, and the loss before each."""
    w1, w2, losses = w1.copy(), w2.copy(), []
    for _ in range(steps):
        h = 1 / (1 + np.exp(-x @ w1))
        y_pred = h @ w2
        losses.append(np.square(y_pred - y).sum())

        grad_y_pred = 2 * (y_pred - y)
        grad_w2 = h.T @ grad_y_pred
        grad_h = grad_y_pred @ w2.T
        grad_w1 = x.T @ (grad_h * h * (1 - h))

        w1 -= rate * grad_w1
        w2 -= rate * grad_w2
    return w1, w2, losses


def train_torch(x, y, w1, w2, steps: int = 2000, rate: float = 1e-4) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The same with autograd's gradients and torch's optimiser."""
    x, y = torch.tensor(x), torch.tensor(y)
    weights = [torch.tensor(w, requires_grad=True) for w in (w1, w2)]
    optimizer, losses = torch.optim.SGD(weights, lr=rate), []
    for _ in range(steps):
        loss = (torch.sigmoid(x @ weights[0]) @ weights[1] - y).square().sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return *(w.detach().numpy() for w in weights), losses


def cases(rng: np.random.Generator, steps: int = 2000, **sizes: int) -> Cases:
    """What both have learned after the same steps from the same weights."""
    given = task(rng, **sizes)
    found = [train(*given, steps=steps), train_torch(*given, steps=steps)]
    hand, torchs = ({"losses": np.array(losses), "w1": w1, "w2": w2} for w1, w2, losses in found)
    return {f"{steps} steps: the loss falls from {hand['losses'][0]:,.0f} to {hand['losses'][-1]:.3g}": (hand, torchs)}


if __name__ == "__main__":
    show(cases(np.random.default_rng(0)))
