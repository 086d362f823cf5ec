"""Your own pictures: one folder per class, with or without folders train, validation (or val, valid) and test above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitwright.data.holdout import Part
from bitwright.data.images import Form, complete, read_image, stack
from bitwright.data.place import Place
from bitwright.data.registry import Parts, register_dataset
from bitwright.errors import BitwrightError

_PARTS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@register_dataset("folder", "your own pictures: root/CLASS/*.png or root/train/CLASS/*.png; options size, color")
def read(place: Place, size: int | Sequence[int] | None = None, color: str = "rgb") -> Parts:
    """Pictures under `root`, in memory as uint8.

    size   one number or [height, width] that all are resized to; default: they must be equal
    color  "rgb" or "grey"

    Class names are the folders' names, sorted. Without a test folder a stratified sixth is the test part; without a
    validation folder `load_dataset` holds out a sixth of the rest.
    """
    form = Form.of(size, color)
    if place.root is None:
        raise BitwrightError("dataset 'folder' needs root=, the folder that holds a folder of images per class")
    root = Path(place.root).expanduser()
    if not root.is_dir():
        raise BitwrightError(f"dataset 'folder': {root} is not a folder; expected one that holds a folder per class")
    tops = _tops(root)
    classes = sorted(entry.name for entry in _folders(tops["train"]))
    if not classes:
        raise BitwrightError(
            f"dataset 'folder': {tops['train']} holds no folders; expected a folder of images per class"
        )
    return complete(place, {part: _part(place, top, classes, form) for part, top in tops.items()}, classes)


def _tops(root: Path) -> dict[str, Path]:
    """The folder of each part that is there; all classes right under `root` are the training part."""
    tops = {part: root / n for part, names in _PARTS.items() for n in names if (root / n).is_dir()}
    return tops if "train" in tops else {"train": root}


def _part(place: Place, top: Path, classes: list[str], form: Form) -> Part | None:
    strange = sorted({entry.name for entry in _folders(top)} - set(classes))
    if strange:
        raise BitwrightError(f"dataset 'folder': {top} has the classes {strange}, which the training folder lacks")
    pictures = []
    for label, name in enumerate(classes):
        files = _pictures(top / name)
        if not files and (top / name).is_dir():
            raise BitwrightError(
                f"dataset 'folder': {top / name} holds no images; expected files ending in "
                f"{', '.join(sorted(_SUFFIXES))}, or no such folder"
            )
        pictures += [(str(p), read_image(p, form), label) for p in files]
    if not pictures:
        raise BitwrightError(
            f"dataset 'folder': {top} holds no images; expected some in a folder per class, or no {top.name}/"
        )
    return stack(place, pictures)


def _pictures(folder: Path) -> list[Path]:
    """The image files in it, however deep; what is hidden (thumbnails, the "._" files of a Mac) is passed over."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _folders(top: Path) -> list[Path]:
    return [entry for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
