"""Max pooling: the largest value of every block, and a gradient that flows back to where that value came from.

    y = max over the block       dL/dx = dL/dy at the place of the maximum, 0 elsewhere      (lectures 001 and 002)

Each channel by itself; no parameters. Where blocks overlap, as in AlexNet (3x3, stride 2), one value may be the maximum
of several, and their gradients add up. Of equal values the first counts, as in torch.
"""

from __future__ import annotations

import numpy as np
from torch.nn import functional as F

from beside import Cases, Found, autograd, show


def forward(x: np.ndarray, size: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """x (C, H, W) -> the pooled values (C, rows, columns), and where in x[c].ravel() each one stood."""
    channels, height, width = x.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    y, places = np.empty((channels, rows, columns)), np.empty((channels, rows, columns), int)
    for c, i, j in np.ndindex(channels, rows, columns):
        top, left = i * stride, j * stride
        block = x[c, top : top + size, left : left + size]
        down, right = np.unravel_index(block.argmax(), block.shape)
        y[c, i, j] = block[down, right]
        places[c, i, j] = (top + down) * width + left + right
    return y, places


def backward(dL_dy: np.ndarray, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """dL/dx, in the shape of x."""
    dL_dx = np.zeros(shape)
    for channel, place, gradient in zip(dL_dx, places, dL_dy, strict=True):
        np.add.at(channel.reshape(-1), place.ravel(), gradient.ravel())
    return dL_dx


def by_hand(x: np.ndarray, size: int, stride: int) -> Found:
    """The loss sum y^2 / 2, chosen because dL/dy = y, and its gradient."""
    y, places = forward(x, size, stride)
    return {"loss": np.square(y).sum() / 2, "dL/dx": backward(y, places, x.shape)}


def case(x: np.ndarray, size: int, stride: int) -> tuple[Found, Found]:
    """By hand and by torch."""
    return by_hand(x, size, stride), autograd(lambda x: F.max_pool2d(x, size, stride).square().sum() / 2, x=x)


def cases(rng: np.random.Generator) -> Cases:
    """The lecture's example, overlapping blocks, and blocks full of equal values."""
    lecture = np.array([[[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]])
    return {
        "the lecture's 4x4: 2x2, stride 2": case(lecture, 2, 2),
        "3x3, stride 2, overlapping": case(rng.normal(size=(3, 9, 8)), 3, 2),
        "many equal values": case(rng.integers(0, 2, size=(2, 6, 6)).astype(float), 3, 1),
    }


if __name__ == "__main__":
    show(cases(np.random.default_rng(0)))
