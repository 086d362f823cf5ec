"""MNIST and Fashion-MNIST in their original IDX files, plain or .gz.

An IDX file is big-endian: two zero bytes, the element type (8 = uint8), the number of axes, the length of each axis as
32 bits, then the elements.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from bitwright.data.holdout import Part
from bitwright.data.place import Place, known
from bitwright.data.registry import Parts, register_dataset

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# MD5 of the unpacked files, so that it doesn't matter who packed them
_MNIST = dict(
    zip(
        _FILES,
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        strict=True,
    )
)
_FASHION = dict(
    zip(
        _FILES,
        (
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        strict=True,
    )
)
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@register_dataset("mnist", "70,000 handwritten digits, grey 28x28 (LeCun, Cortes, Burges)")
def read_mnist(place: Place) -> Parts:
    """Validation is the last sixth of the training file: 10,000 of MNIST's 60,000."""
    return _read(place, _MNIST, "http://yann.lecun.com/exdb/mnist", [str(d) for d in range(10)])


@register_dataset("fashion-mnist", "70,000 pieces of clothing, grey 28x28 (Zalando): MNIST's format, harder")
def read_fashion(place: Place) -> Parts:
    """Validation is the last sixth of the training file: 10,000 of 60,000."""
    return _read(place, _FASHION, "https://github.com/zalandoresearch/fashion-mnist", list(_CLOTHES))


def _read(place: Place, checksums: dict[str, str], home: str, classes: list[str]) -> Parts:
    def array(file: str, axes: int) -> np.ndarray:
        path = place.find(file, f"{file}.gz", home=home)
        data = place.read(path)
        parsed = parse_idx(place, path, data, axes)
        place.check_md5(path, data, known(checksums, path))
        return parsed

    def part(prefix: str) -> Part:
        images, labels = array(f"{prefix}-images-idx3-ubyte", 3), array(f"{prefix}-labels-idx1-ubyte", 1)
        return images[:, None], labels.astype(np.int64)

    return Parts(part("train"), part("t10k"), classes, holdout="last")


def parse_idx(place: Place, path: Path, data: bytes, axes: int) -> np.ndarray:
    """The uint8 array of `axes` axes in the bytes of an IDX file; anything else is an error about `path`."""
    head = 4 + 4 * axes
    if len(data) < head:
        raise place.damaged(path, f"{len(data)} bytes, too short for the {head} bytes of an IDX header")
    magic = struct.unpack(">I", data[:4])[0]
    if magic != 0x800 + axes:
        raise place.damaged(path, f"begins with magic number 0x{magic:08x}, expected 0x{0x800 + axes:08x}")
    shape = struct.unpack(f">{axes}I", data[4:head])
    expected = head + math.prod(shape)
    if len(data) != expected:
        raise place.damaged(path, f"{len(data)} bytes, but its header says {shape}, which takes {expected}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
