"""scikit-learn's handwritten digits: 1,797 grey 8x8 images that come with the library, so nothing is downloaded."""

from __future__ import annotations

import numpy as np

from bitwright.data.holdout import SIXTH, hold_out
from bitwright.data.place import Place
from bitwright.data.registry import Parts, register_dataset
from bitwright.errors import BitwrightError


@register_dataset("digits", "1,797 handwritten digits, grey 8x8, from scikit-learn: needs no file")
def read(place: Place) -> Parts:
    """Values 0..16 scaled to 0..255. The set has no test part of its own: a fixed stratified sixth (299) is it."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BitwrightError(
            "dataset 'digits' is part of scikit-learn, which is not installed; pip install scikit-learn"
        ) from None
    values, labels = load_digits(return_X_y=True)
    images = np.round(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    train, test = hold_out(place.name, (images, labels.astype(np.int64)), SIXTH, "stratified")
    return Parts(train, test, [str(d) for d in range(10)])
