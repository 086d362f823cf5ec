"""Views that move pixels by fractions: window, shift, rotation, stretch, shear and the distortion of a lens."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bitwright.training.settings import Augment

NUMBERS = 9
"""Uniform numbers per image: scale and its place, shift down and right, rotation, stretch, shear, lens."""


def wanted(settings: Augment) -> bool:
    """Whether any of these views is switched on."""
    s = settings
    return bool(s.scale or s.translate or s.rotate or s.stretch or s.shear or s.lens)


def warp(images: Tensor, settings: Augment, numbers: Tensor) -> Tensor:
    """The views of float images (N, C, H, W) that the rows of `numbers` (N, NUMBERS) decide, same shape.

    For p, a pixel's place from the centre in half sides of the image, the view shows what the image has at

        A p (1 + k |p|^2) + t,    A = window * rotation * shear * stretch

    between the four nearest pixels (bilinear); what lies outside is black. Angles are those of the pixels.
    """
    height, width = images.shape[2:]
    side, down, right, shift_y, shift_x, turn, stretch, shear, lens = numbers.to(images.dtype).unbind(1)
    size = 1 - settings.scale * side
    angle = _symmetric(turn) * math.radians(settings.rotate)
    slant = torch.tan(_symmetric(shear) * math.radians(settings.shear))
    wider = torch.exp(_symmetric(stretch) * math.log1p(settings.stretch) / 2)
    cos, sin, aspect = torch.cos(angle) * size, torch.sin(angle) * size, height / width
    # rows: x and y of the image; columns: x and y of the view
    x_by_x, x_by_y = cos / wider, (cos * slant - sin) * wider * aspect
    y_by_x, y_by_y = sin / wider / aspect, (sin * slant + cos) * wider
    t_x = _symmetric(right) * (1 - size) + 2 * settings.translate * _symmetric(shift_x)
    t_y = _symmetric(down) * (1 - size) + 2 * settings.translate * _symmetric(shift_y)
    theta = torch.stack((x_by_x, x_by_y, t_x, y_by_x, y_by_y, t_y), 1).reshape(-1, 2, 3)
    if settings.lens:
        grid = _through_lens(theta, _symmetric(lens) * settings.lens, height, width)
    else:
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _through_lens(theta: Tensor, strength: Tensor, height: int, width: int) -> Tensor:
    """The grid (N, H, W, 2) of theta's affine map after p -> p (1 + k |p|^2)."""
    identity = torch.eye(2, 3, dtype=theta.dtype, device=theta.device)[None]
    p = F.affine_grid(identity, [1, 1, height, width], align_corners=False)
    bent = p * (1 + strength.reshape(-1, 1, 1, 1) * p.square().sum(3, keepdim=True))
    flat = bent.reshape(len(theta), -1, 2) @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]
    return flat.reshape(-1, height, width, 2)


def _symmetric(uniform: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return 2 * uniform - 1
