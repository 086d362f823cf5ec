"""Norms by name: a switch of the networks that have some."""

from __future__ import annotations

import math

from torch import nn

from bitwright.models.options import choice

IMAGE_NORMS = ("batch", "layer", "instance", "group", "local-response")
FEATURE_NORMS = ("batch", "layer", "group")
_GROUPS = 32  # Wu and He 2018, "Group normalization", section 3.1
_SCALED = ("batch", "layer", "instance", "group")


def check_norm(model: str, norm: str | None, known: tuple[str, ...] = IMAGE_NORMS) -> str | None:
    """`norm` if it is one of `known`, or None: no norm."""
    return None if norm is None else choice(f"norm of model {model!r}", norm, known)


def wants_bias(norm: str | None) -> bool:
    """Whether the layer in front of a norm needs a bias: those with a learned shift would take it out again."""
    return norm not in _SCALED


def least_rows(norm: str | None) -> int:
    """Of the images that a norm takes: the only pixel of a channel has no variance of its own."""
    return 2 if norm == "instance" else 1


def new_norm(norm: str | None, channels: int, eps: float = 1e-5) -> nn.Module:
    """A norm of images (N, C, H, W).

        batch           per channel, over the batch (Ioffe and Szegedy 2015)
        layer           per image, over channels and pixels, scale and shift per channel (Ba et al. 2016)
        instance        per image and channel, over pixels (Ulyanov et al. 2016)
        group           per image and group of 32 channels (or the largest divisor in common), over pixels
        local-response  x_i / (2 + 1e-4 sum of x_j^2, j = i-2 .. i+2)^0.75 (Krizhevsky et al. 2012, section 3.3)

    None: nothing. `eps` is added to variances.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=eps)
    if norm == "layer":
        return nn.GroupNorm(1, channels, eps=eps)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, eps=eps, affine=True)
    if norm == "group":
        return nn.GroupNorm(math.gcd(_GROUPS, channels), channels, eps=eps)
    if norm == "local-response":
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # torch divides alpha by the size
    return nn.Identity()


def new_feature_norm(norm: str, features: int) -> nn.Module:
    """The same of vectors (N, features): batch, layer or group."""
    if norm == "batch":
        return nn.BatchNorm1d(features)
    if norm == "layer":
        return nn.LayerNorm(features)
    return nn.GroupNorm(math.gcd(_GROUPS, features), features)
