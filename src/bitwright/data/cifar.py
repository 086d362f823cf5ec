"""CIFAR-10 and CIFAR-100 in their binary version: the unpacked folder, or the archive as .tar.gz, .tar.xz or .tar.

A record is one label byte (CIFAR-100: coarse, then fine), then 1,024 red, 1,024 green and 1,024 blue bytes, row by row.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bitwright.data.cache import Arrays, unpacked
from bitwright.data.holdout import Part
from bitwright.data.place import Place
from bitwright.data.registry import Parts, register_dataset
from bitwright.errors import unknown

_PIXELS = 3 * 32 * 32
_LARGEST = 60_000 * (_PIXELS + 2)  # bytes that a member of the archive can have
_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class _Layout:
    """How one of the two sets is stored."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: tuple[int, ...]  # number of classes of each label byte
    md5: dict[str, str] = field(default_factory=dict)  # published checksums of archives and members


_CIFAR10 = _Layout(
    "cifar-10-binary",
    "cifar-10-batches-bin",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test_batch.bin",
    (10,),
    {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)
# The published checksum is that of the archive; none was found for the files in it.
_CIFAR100 = _Layout(
    "cifar-100-binary",
    "cifar-100-binary",
    ("train.bin",),
    "test.bin",
    (20, 100),
    {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
)

_CLASSES10 = "airplane automobile bird cat deer dog frog horse ship truck"
_COARSE = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
    vehicles_1 vehicles_2
"""
_FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@register_dataset("cifar-10", "60,000 colour photos 32x32 of 10 kinds of things (Krizhevsky)")
def read_cifar10(place: Place) -> Parts:
    """Validation is the last tenth of the training images: 5,000 of 50,000."""
    return _read(place, _CIFAR10, _CLASSES10, 0)


@register_dataset("cifar-100", '60,000 colour photos 32x32; 100 classes, or 20 with labels="coarse" (Krizhevsky)')
def read_cifar100(place: Place, labels: Literal["fine", "coarse"] = "fine") -> Parts:
    """labels: "fine" (100 classes) or "coarse" (20). Validation is the last tenth of the training images."""
    if labels not in ("fine", "coarse"):
        raise unknown("labels of cifar-100", labels, ("fine", "coarse"))
    return _read(place, _CIFAR100, _FINE if labels == "fine" else _COARSE, 1 if labels == "fine" else 0)


def _read(place: Place, layout: _Layout, classes: str, byte: int) -> Parts:
    archives = [layout.archive + suffix for suffix in (".tar.gz", ".tar.xz", ".tar")]
    first = layout.train[0]
    path = place.find(f"{layout.folder}/{first}", first, *archives, home=_HOME)
    if path.name == first:
        path, files = path.parent, _from_folder(place, layout, path.parent)
    else:
        if layout.md5.get(path.name):
            place.check_md5(path, path.read_bytes(), layout.md5[path.name])
        files = unpacked(path, lambda: _from_archive(place, layout, path))
    parts = {name: _parse(place, layout, path / name, files[name], byte) for name in (*layout.train, layout.test)}
    images, labels = zip(*(parts[name] for name in layout.train), strict=True)
    return Parts(
        (np.concatenate(images), np.concatenate(labels)), parts[layout.test], classes.split(), None, 0.1, "last"
    )


def _from_folder(place: Place, layout: _Layout, folder: Path) -> Arrays:
    names = (*layout.train, layout.test)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise place.damaged(folder, f"it lacks {', '.join(missing)} of {', '.join(names)}")
    return {name: np.frombuffer(place.read(folder / name), np.uint8) for name in names}


def _from_archive(place: Place, layout: _Layout, path: Path) -> Arrays:
    """The record files in the archive, by name; nothing is written to disk, and other members are passed over."""
    wanted, found = {*layout.train, layout.test}, {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name not in wanted or not member.isfile():
                    continue
                if member.size > _LARGEST:
                    raise place.damaged(path, f"{name} in it has {member.size} bytes, expected at most {_LARGEST}")
                stream = archive.extractfile(member)
                found[name] = np.frombuffer(stream.read() if stream else b"", np.uint8)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise place.damaged(path, str(error) or type(error).__name__) from None
    if wanted - set(found):
        raise place.damaged(path, f"it lacks {', '.join(sorted(wanted - set(found)))}")
    return found


def _parse(place: Place, layout: _Layout, path: Path, data: np.ndarray, byte: int) -> Part:
    """Images (N, 3, 32, 32) and labels (N,) of one record file; `byte` is which label byte counts."""
    head = len(layout.labels)
    if len(data) == 0 or len(data) % (head + _PIXELS):
        raise place.damaged(path, f"{len(data)} bytes, expected a multiple of {head + _PIXELS}")
    records = data.reshape(-1, head + _PIXELS)
    for i, classes in enumerate(layout.labels):
        if records[:, i].max() >= classes:
            record = int(np.argmax(records[:, i] >= classes))
            raise place.damaged(path, f"record {record} has label {records[record, i]}, expected 0..{classes - 1}")
    place.check_md5(path, data.data, layout.md5.get(path.name))
    return records[:, head:].reshape(-1, 3, 32, 32), records[:, byte].astype(np.int64)
