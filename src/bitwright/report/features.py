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
WHOLE_RANGE = 99.5
"""The percentile of the magnitudes that is black or white; the few larger ones are as well."""


def first_features(packed: Path) -> dict[str, Any] | None:
    """The first layer's weights in a packed file: {"layer", "units", "shown", "image"}; None where there is no picture.

    There is one for grey images and a linear layer on all pixels or a convolution of 5x5 or more. `image` is int16
    (height, width) from -127 to 127, -128 between tiles.
    """
    from bitwright.runtime import load

    model = load(packed)
    channels, *size = model.graph.inputs[0] if len(model.graph.inputs[0]) == 3 else (0,)
    node = next((n for n in model.graph.nodes if n.op in ("conv2d", "linear")), None)
    if channels != 1 or node is None:
        return None
    weight = model.stored[node.weights["weight"]].dense()
    if node.op == "linear" and weight.shape[1] == math.prod(size):
        weight = weight.reshape(-1, *size)
    elif node.op == "conv2d" and weight.shape[1] == 1:
        weight = weight[:, 0]
    else:
        return None
    if min(weight.shape[1:]) < LEAST:
        return None
    return {
        "layer": node.name,
        "units": len(weight),
        "shown": min(len(weight), TILES),
        "image": tile(weight[:TILES]),
    }


def tile(weights: np.ndarray) -> np.ndarray:
    """(units, height, width) beside and below one another, as `first_features` says."""
    units, height, width = weights.shape
    rows = math.ceil(units / PER_ROW)
    limit = float(np.percentile(np.abs(weights), WHOLE_RANGE)) or 1.0
    image = np.full((rows * (height + GAP) - GAP, PER_ROW * (width + GAP) - GAP), -128, np.int16)
    for i, unit in enumerate(weights):
        y, x = i // PER_ROW * (height + GAP), i % PER_ROW * (width + GAP)
        image[y : y + height, x : x + width] = np.rint(127 * np.clip(unit / limit, -1, 1))
    return image


def draw_features(runs: Sequence[Path], out: Path, zoom: int = 2) -> None:
    """One PNG: the first layer of each finished run, side by side under the recipe's name.

    Raises BitwrightError for a run that has no such picture.
    """
    from PIL import Image, ImageDraw

    from bitwright.final import require_finished
    from bitwright.run import stored_recipe

    pictures = []
    for folder in runs:
        require_finished(folder)
        features = first_features(folder / "packed.safetensors")
        if features is None:
            raise BitwrightError(
                f"{folder} has no picture of its first layer; it needs grey images, and a linear layer on all of their "
                f"pixels or a convolution of {LEAST}x{LEAST} or more",
                kind="no-picture",
            )
        shades = np.where(features["image"] < -127, 255, features["image"] + 128).astype(np.uint8)
        pictures.append((stored_recipe(folder).name, np.kron(shades, np.ones((zoom, zoom), np.uint8))))
    gap, caption = 16, 24
    width = sum(shades.shape[1] + gap for _, shades in pictures) + gap
    page = Image.new("L", (width, max(shades.shape[0] for _, shades in pictures) + caption + gap), 255)
    left = gap
    for name, shades in pictures:
        ImageDraw.Draw(page).text((left, 6), name, fill=0)
        page.paste(Image.fromarray(shades), (left, caption))
        left += shades.shape[1] + gap
    page.save(out, format="PNG")
