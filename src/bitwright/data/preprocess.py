"""The input's normalisation: the same float32 arithmetic in training, in the packed model and in FORMAT.md.

    y = x * scale[c] + shift[c],   scale = 1 / std,   shift = -mean / std,   x = pixel / 255 for uint8

Every operation rounds to float32 (no fused multiply-add), so NumPy, torch and the engine agree bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Preprocess:
    """Per-channel mean and standard deviation of pixels scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def scale(self) -> np.ndarray:
        """1 / std, float32 (C,)."""
        return (1.0 / np.asarray(self.std, np.float64)).astype(np.float32)

    @property
    def shift(self) -> np.ndarray:
        """-mean / std, float32 (C,)."""
        return (-np.asarray(self.mean, np.float64) / np.asarray(self.std, np.float64)).astype(np.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Normalise (N, C, H, W) uint8 or float 0..1 images to float32."""
        x = images.astype(np.float32)
        if images.dtype == np.uint8:
            x = x / np.float32(255)
        rest = (1,) * (images.ndim - 2)
        return x * self.scale.reshape(1, -1, *rest) + self.shift.reshape(1, -1, *rest)

    def torch(self, images: Any) -> Any:
        """The same on a torch tensor, on its device."""
        import torch

        x = images.float()
        if images.dtype == torch.uint8:
            x = x / 255.0
        rest = (1,) * (images.ndim - 2)
        scale = torch.from_numpy(self.scale).to(x.device).reshape(1, -1, *rest)
        shift = torch.from_numpy(self.shift).to(x.device).reshape(1, -1, *rest)
        return x * scale + shift
