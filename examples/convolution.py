"""Convolution as one product of matrices, and its three gradients.

Lecture 002, "Implementation as Matrix Multiplication" and "Backpropagation of Convolution Layer". im2col writes
the F x F x C block under each position of the filter as a column. With P output positions and K filters:

    S = W_row X_col + b 1^T          W_row (K, C F F),  X_col (C F F, P)
    dL/dX_col = W_row^T dL/dS        then laid back over the image (col2im): where blocks overlap, gradients add up
    dL/dW_row = dL/dS X_col^T        every position uses the same filter, so its gradient is a sum over positions
    dL/db     = dL/dS 1
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from beside import Cases, Found, autograd, show


def output_size(size: int, filter_size: int, stride: int, padding: int) -> int:
    """(W - F + 2 P) / S + 1, rounded down: how often the filter fits."""
    return (size - filter_size + 2 * padding) // stride + 1


def im2col(x: np.ndarray, size: int, stride: int = 1, padding: int = 0) -> np.ndarray:
    """x (C, H, W) -> (C * size * size, rows * columns), a column for every position of the filter."""
    rows, columns = (output_size(n, size, stride, padding) for n in x.shape[1:])
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    blocks = [
        padded[:, i * stride : i * stride + size, j * stride : j * stride + size].ravel()
        for i in range(rows)
        for j in range(columns)
    ]
    return np.stack(blocks, axis=1)


def col2im(columns: np.ndarray, shape: tuple[int, ...], size: int, stride: int = 1, padding: int = 0) -> np.ndarray:
    """The other way, (C * size * size, P) -> `shape` (C, H, W): each column added to where it was read."""
    channels, height, width = shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding))
    per_row = output_size(width, size, stride, padding)
    for p, column in enumerate(columns.T):
        i, j = stride * (p // per_row), stride * (p % per_row)
        padded[:, i : i + size, j : j + size] += column.reshape(channels, size, size)
    return padded[:, padding : padding + height, padding : padding + width]


def forward(x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """x (C, H, W), W (K, C, F, F), b (K,) -> (K, rows, columns)."""
    filters, _, size, _ = W.shape
    rows, columns = (output_size(n, size, stride, padding) for n in x.shape[1:])
    S = W.reshape(filters, -1) @ im2col(x, size, stride, padding) + b[:, None]
    return S.reshape(filters, rows, columns)


def backward(
    x: np.ndarray, W: np.ndarray, dL_dS: np.ndarray, stride: int = 1, padding: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dL/dx, dL/dW, dL/db), given dL/dS in the shape of the output."""
    filters, _, size, _ = W.shape
    dL_dS = dL_dS.reshape(filters, -1)
    dL_dX_col = W.reshape(filters, -1).T @ dL_dS
    dL_dW_row = dL_dS @ im2col(x, size, stride, padding).T
    dL_dx = col2im(dL_dX_col, x.shape, size, stride, padding)
    return dL_dx, dL_dW_row.reshape(W.shape), dL_dS.sum(axis=1)


def by_hand(x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int, padding: int) -> Found:
    """The loss sum S^2 / 2, chosen because dL/dS = S, and its gradients."""
    S = forward(x, W, b, stride, padding)
    dL_dx, dL_dW, dL_db = backward(x, W, S, stride, padding)
    return {"loss": np.square(S).sum() / 2, "dL/dx": dL_dx, "dL/dW": dL_dW, "dL/db": dL_db}


def case(
    rng: np.random.Generator, shape: tuple[int, int, int], filters: int, size: int, stride: int, padding: int
) -> tuple[Found, Found]:
    """Random image, filters and biases, by hand and by torch."""
    given = {"x": rng.normal(size=shape), "W": rng.normal(size=(filters, shape[0], size, size))}
    given["b"] = rng.normal(size=filters)

    def loss(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, W, b, stride, padding).square().sum() / 2

    return by_hand(**given, stride=stride, padding=padding), autograd(loss, **given)


def cases(rng: np.random.Generator) -> Cases:
    """The first layer of AlexNet as the lecture has it, and layers with padding and with strides that leave a rest."""
    return {
        "96 filters of 11x11x3, stride 4, on 227x227x3": case(rng, (3, 227, 227), 96, 11, 4, 0),
        "3x3, padding 1: the size stays": case(rng, (4, 7, 7), 5, 3, 1, 1),
        "2x2, stride 3, padding 1, on 9x8": case(rng, (2, 9, 8), 3, 2, 3, 1),
    }


if __name__ == "__main__":
    show(cases(np.random.default_rng(0)))
