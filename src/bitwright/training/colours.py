"""Views of other brightness, contrast and colour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitwright.training.settings import Augment

NUMBERS = 7
"""Uniform numbers per image: brightness, contrast, saturation, hue and three for the lighting."""

_LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue are (ITU-R BT.601); other numbers of channels count alike."""

_CHUNK = 1 << 20


def wanted(settings: Augment) -> bool:
    """Whether any of these views is switched on."""
    s = settings
    return bool(s.brightness or s.contrast or s.saturation or s.hue or s.lighting)


def change(images: Tensor, settings: Augment, numbers: Tensor, lighting: Tensor | None) -> Tensor:
    """The views of float images in 0..1 (N, C, H, W) that the rows of `numbers` (N, NUMBERS) decide, same shape.

    In this order, clamped to 0..1 at the end; f = 1 + s u for the setting s and u uniform in [-1, 1):

        lighting     x + sum_i p_i lambda_i a_i,   a_i normal with deviation `lighting`
        hue          the plane of colours without luma (YIQ) turned by u * hue of a circle
        saturation   luma + f (x - luma)
        contrast     m + f (x - m),   m the image's mean luma
        brightness   f x
    """
    x, u = images, numbers.to(images.dtype)
    if settings.lighting and lighting is not None:
        normal = math.sqrt(2) * torch.erfinv((2 * u[:, 4:] - 1).clamp(-1 + 2**-23, 1 - 2**-23))
        normal = normal[:, : lighting.shape[1]]
        x = x + settings.lighting * (normal @ lighting.to(x).T)[:, :, None, None]
    if settings.hue:
        x = torch.einsum("nij,njhw->nihw", _turns((2 * u[:, 3] - 1) * settings.hue), x)
    if settings.saturation:
        luma = _luma(x)
        x = luma + _factor(u[:, 2], settings.saturation) * (x - luma)
    if settings.contrast:
        mean = _luma(x).mean((2, 3), keepdim=True)
        x = mean + _factor(u[:, 1], settings.contrast) * (x - mean)
    if settings.brightness:
        x = _factor(u[:, 0], settings.brightness) * x
    return x.clamp(0, 1)


def principal(images: Tensor) -> Tensor:
    """The eigenvectors of the covariance of all pixels' colours, times their eigenvalues: columns of (C, C), C <= 3.

    Pixels are in 0..1, as in "PCA colour augmentation" (Krizhevsky et al. 2012, section 4.1). More channels than three
    have their three strongest.
    """
    channels = images.shape[1]
    total, products, count = torch.zeros(channels).double(), torch.zeros(channels, channels).double(), 0
    for part in images.split(max(1, _CHUNK // images[0].numel())):
        pixels = part.transpose(0, 1).reshape(channels, -1).double()
        if images.dtype == torch.uint8:
            pixels = pixels / 255
        total += pixels.sum(1)
        products += pixels @ pixels.T
        count += pixels.shape[1]
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - mean[:, None] * mean)
    strongest = (vectors * values.clamp(min=0)).flip(1)[:, :3]
    return strongest.float()


def _factor(uniform: Tensor, most: float) -> Tensor:
    return (1 + most * (2 * uniform - 1)).reshape(-1, 1, 1, 1)


def _luma(x: Tensor) -> Tensor:
    """(N, 1, H, W)."""
    channels = x.shape[1]
    shares = x.new_tensor(_LUMA) if channels == 3 else x.new_full((channels,), 1 / channels)
    return (x * shares.reshape(1, -1, 1, 1)).sum(1, keepdim=True)


def _turns(circles: Tensor) -> Tensor:
    """Matrices (N, 3, 3) on red, green, blue that turn the I and Q of YIQ by so many circles."""
    to_yiq = circles.new_tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    angle = 2 * math.pi * circles
    cos, sin, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack((one, zero, zero, zero, cos, -sin, zero, sin, cos), 1).reshape(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq
