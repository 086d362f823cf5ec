"""The input's normalisation: the same float32 arithmetic in training, in the packed model and in FORMAT.md.

    y = x * scale[c] + shift[c],   scale = 1 / std,   shift = -mean / std,   x = pixel / 255 for uint8

Every operation rounds to float32 (no fused multiply-add), so NumPy, torch and the engine agree bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError

_CHUNK = 1 << 22  # pixels turned into wider numbers at a time


@dataclass(frozen=True)
class Preprocess:
    """Per-channel mean and standard deviation of pixels scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, images: np.ndarray) -> Preprocess:
        """Mean and standard deviation of each channel of (N, C, H, W) images, to six significant digits.

        Six digits are far below the spread between two training sets, and short in recipes and files. A constant
        channel has no spread to divide by: its std is 1.
        """
        mean, std = zip(*(_moments(images[:, c]) for c in range(images.shape[1])), strict=True)
        return cls(mean, std)

    @classmethod
    def of(cls, value: Preprocess | Mapping[str, Any], channels: int) -> Preprocess:
        """`value` itself, or one made from plain {"mean": [...], "std": [...]} as in a recipe; checked for `channels`.

        Raises BitwrightError for other keys, for anything but `channels` finite numbers, and for a std <= 0.
        """
        if not isinstance(value, Preprocess):
            if not isinstance(value, Mapping) or set(value) != {"mean", "std"}:
                raise BitwrightError(f"preprocess is {value!r}; expected {{mean: [...], std: [...]}}, one per channel")
            value = cls(_numbers("mean", value["mean"]), _numbers("std", value["std"]))
        for name, numbers in (("mean", value.mean), ("std", value.std)):
            if len(numbers) != channels:
                raise BitwrightError(
                    f"preprocess has {len(numbers)} numbers in {name} {list(numbers)}, but the images have {channels} "
                    f"channels; give one number per channel"
                )
        if not all(map(math.isfinite, value.mean + value.std)) or min(value.std) <= 0:
            raise BitwrightError(f"preprocess needs finite means and std > 0; found {value.mean} and {value.std}")
        return value

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


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in value)
    except (TypeError, ValueError):
        raise BitwrightError(f"preprocess {name} is {value!r}; expected a list of numbers, one per channel") from None


def _moments(channel: np.ndarray) -> tuple[float, float]:
    """Mean and std of (N, H, W) pixels scaled to 0..1. Integer sums are exact, so every machine gets the same."""
    rows = max(1, _CHUNK // max(1, channel[0].size))
    wide = np.int64 if channel.dtype == np.uint8 else np.float64
    total = square = 0.0
    for i in range(0, len(channel), rows):
        x = channel[i : i + rows].astype(wide).ravel()
        total += float(x.sum())
        square += float((x * x).sum())
    top = 255.0 if channel.dtype == np.uint8 else 1.0
    mean = total / channel.size / top
    std = math.sqrt(max(0.0, square / channel.size / top**2 - mean**2))
    return _round(mean), _round(std) if std > 1e-6 else 1.0


def _round(x: float) -> float:
    return float(f"{x:.6g}")
