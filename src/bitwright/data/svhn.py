"""Street View House Numbers, format 2: digits cropped to 32x32, in MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitwright.data.holdout import Part
from bitwright.data.place import Place, known
from bitwright.data.registry import Parts, register_dataset
from bitwright.errors import BitwrightError

_HOME = "http://ufldl.stanford.edu/housenumbers"
_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


@register_dataset("svhn", "99,289 house number digits, colour 32x32 (Netzer et al.); the extra set is not read")
def read(place: Place) -> Parts:
    """73,257 training images, a stratified sixth of them for validation, and 26,032 test images."""
    return Parts(_part(place, "train"), _part(place, "test"), [str(d) for d in range(10)])


def _part(place: Place, part: str) -> Part:
    path = place.find(f"{part}_32x32.mat", home=_HOME)
    images, labels = parse_mat(place, path)
    place.check_md5(path, path.read_bytes(), known(_MD5, path))
    return images, labels


def parse_mat(place: Place, path: Path) -> Part:
    """X (32, 32, 3, N) and y (N, 1) with 10 for the digit 0, as (N, 3, 32, 32) and (N,) with 0..9."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise BitwrightError("dataset 'svhn' needs scipy to read .mat files; pip install scipy") from None
    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # scipy's reader fails in many ways on bytes that are no MATLAB file
        raise place.damaged(path, str(error) or type(error).__name__) from None
    images, labels = content.get("X"), content.get("y")
    if images is None or labels is None:
        raise place.damaged(path, "it has no variables X and y")
    if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or labels.size != images.shape[-1]:
        raise place.damaged(
            path, f"X is {images.dtype} {images.shape} and y {labels.shape}; expected uint8 (32, 32, 3, N) and (N, 1)"
        )
    labels = labels.ravel().astype(np.int64)
    if labels.size and not 1 <= labels.min() <= labels.max() <= 10:
        raise place.damaged(path, f"labels go from {labels.min()} to {labels.max()}; expected 1..10")
    return images.transpose(3, 2, 0, 1), labels % 10
