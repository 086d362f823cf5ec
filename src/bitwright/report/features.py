"""What the first layer looks for: its weights as tiles of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError

TILES = 64
"""The first so many units are drawn, in rows of eight."""
PER_ROW = 8
GAP = 2
"""Empty rows or columns of pixels between tiles."""
LEAST = 5
"""Tiles of fewer pixels a side show nothing."""
_SIDE = 300
"""Pixels across that a picture has at least about, enlarged by a whole number."""
WHOLE_RANGE = 99.5
"""The percentile of the magnitudes that is darkest or brightest; the few larger ones are as well."""


def first_features(packed: Path) -> dict[str, Any] | None:
    """The first layer's weights in a packed file: {"layer", "units", "shown", "image"}; None where there is no picture.

    There is one for grey or RGB images and a linear layer on all pixels or a convolution of 5x5 or more. Where that
    lays patches out (`PatchFeatures`), the units are their centroids. `image` is uint8 (height, width, RGBA): 128 is
    a weight of zero, and between tiles nothing is opaque.
    """
    from bitwright.runtime import load

    model = load(packed)
    channels, *size = model.graph.inputs[0] if len(model.graph.inputs[0]) == 3 else (0,)
    layers = [node for node in model.graph.nodes if node.op in ("conv2d", "linear")]
    if channels not in (1, 3) or not layers:
        return None
    node, weight = layers[0], model.stored[layers[0].weights["weight"]].dense()
    if node.op == "linear" and weight.shape[1] == channels * math.prod(size):
        weight = weight.reshape(-1, channels, *size)
    elif node.op == "linear" or weight.shape[1] != channels:
        return None
    for layer in layers[1:]:
        if layer.weights["weight"].endswith(".centroids"):
            node, weight = layer, model.stored[layer.weights["weight"]].dense().reshape(-1, *weight.shape[1:])
    if min(weight.shape[2:]) < LEAST:
        return None
    return {
        "layer": node.name,
        "units": len(weight),
        "shown": min(len(weight), TILES),
        "image": tile(weight[:TILES]),
    }


def tile(weights: np.ndarray) -> np.ndarray:
    """(units, 1 or 3, height, width) beside and below one another, as `first_features` says."""
    units, _, height, width = weights.shape
    rows = math.ceil(units / PER_ROW)
    limit = float(np.percentile(np.abs(weights), WHOLE_RANGE)) or 1.0
    shades = (128 + np.rint(127 * np.clip(weights / limit, -1, 1))).astype(np.uint8).transpose(0, 2, 3, 1)
    image = np.zeros((rows * (height + GAP) - GAP, PER_ROW * (width + GAP) - GAP, 4), np.uint8)
    for i, unit in enumerate(shades):
        y, x = i // PER_ROW * (height + GAP), i % PER_ROW * (width + GAP)
        image[y : y + height, x : x + width, :3] = unit
        image[y : y + height, x : x + width, 3] = 255
    return image


def draw_features(runs: Sequence[Path], out: Path) -> None:
    """One PNG: the first layer of each finished run, side by side under the recipe's name, tiles about equally large.

    Raises BitwrightError for a run that has no such picture.
    """
    from PIL import Image, ImageDraw

    from bitwright.final import require_finished
    from bitwright.folders import stored_recipe

    pictures = []
    for folder in runs:
        require_finished(folder)
        features = first_features(folder / "packed.safetensors")
        if features is None:
            raise BitwrightError(
                f"{folder} has no picture of its first layer; it needs grey or RGB images, and a linear layer on all "
                f"of their pixels or a convolution of {LEAST}x{LEAST} or more",
                kind="no-picture",
            )
        zoom = max(2, _SIDE // features["image"].shape[1])
        picture = Image.fromarray(np.kron(features["image"], np.ones((zoom, zoom, 1), np.uint8)))
        pictures.append((stored_recipe(folder).name, picture))
    gap, caption = 16, 24
    width = sum(picture.width + gap for _, picture in pictures) + gap
    page = Image.new("RGB", (width, max(picture.height for _, picture in pictures) + caption + gap), "white")
    left = gap
    for name, picture in pictures:
        ImageDraw.Draw(page).text((left, 6), name, fill="black")
        page.paste(picture, (left, caption), picture)
        left += picture.width + gap
    page.save(out, format="PNG")
