"""The perceptron: a weighted sum, a threshold, and a rule that learns any line between two classes.

    y = sign(w . x + b)                      (lecture 001, "Perceptron")
    where t (w . x + b) <= 0:  w <- w + t x,  b <- b + t        t is the wanted sign

The rule is gradient descent with step 1 on the loss  max(0, -t (w . x + b)),  one point at a time: its gradient is -t x
for a point on the wrong side, and 0 for one on the right side. So autograd, given that loss, takes the same steps.
"""

from __future__ import annotations

import numpy as np
import torch

from beside import Cases, show


def learn(x: np.ndarray, t: np.ndarray, epochs: int = 100) -> tuple[np.ndarray, float, int]:
    """Weights (D,), bias and the number of mistakes made on points `x` (N, D) with signs `t` (N,).

    Ends after an epoch without a mistake, which comes if a line separates the classes (Novikoff 1962).
    """
    w, b, mistakes = np.zeros(x.shape[1]), 0.0, 0
    for _ in range(epochs):
        before = mistakes
        for point, sign in zip(x, t, strict=True):
            if sign * (w @ point + b) <= 0:
                w, b, mistakes = w + sign * point, b + sign, mistakes + 1
        if mistakes == before:
            break
    return w, b, mistakes


def descend(x: np.ndarray, t: np.ndarray, epochs: int = 100) -> tuple[np.ndarray, float]:
    """The same by autograd: plain gradient descent with step 1 on the perceptron's loss."""
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(epochs):
        for point, sign in zip(torch.tensor(x), t, strict=True):
            margin = float(sign) * (w @ point + b)
            loss = torch.where(margin <= 0, -margin, 0 * margin)
            for variable, gradient in zip((w, b), torch.autograd.grad(loss, (w, b)), strict=True):
                variable.data -= gradient
    return w.detach().numpy(), b.item()


def separable(rng: np.random.Generator, points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Points of a plane on both sides of the line x0 + x1 = 0, none nearer to it than 0.14."""
    x = rng.normal(size=(points, 2))
    t = np.where(x.sum(1) > 0, 1, -1)
    return x + 0.1 * t[:, None], t


def cases(rng: np.random.Generator) -> Cases:
    """The weights that both learn for AND, OR and a cloud of points."""
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    tasks = {
        "AND": (corners, np.array([-1, -1, -1, 1])),
        "OR": (corners, np.array([-1, 1, 1, 1])),
        "a cloud of points": separable(rng),
    }
    found: Cases = {}
    for name, (x, t) in tasks.items():
        w, b, mistakes = learn(x, t)
        torch_w, torch_b = descend(x, t)
        title = f"{name}: separated after {mistakes} mistakes; what was learned"
        found[title] = {"w": w, "b": np.array(b)}, {"w": torch_w, "b": np.array(torch_b)}
    return found


if __name__ == "__main__":
    show(cases(np.random.default_rng(0)))
