"""Image sets of the Hugging Face hub, through its own library `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitwright.data.holdout import Part
from bitwright.data.images import Form, complete, stack
from bitwright.data.place import Place
from bitwright.data.registry import Parts, register_dataset
from bitwright.errors import BitwrightError, unknown

_PARTS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


@register_dataset("hub:", "hub:NAME is the image set NAME of the Hugging Face hub; needs the datasets library")
def read(
    place: Place,
    of: str,
    config: str | None = None,
    revision: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | Sequence[int] | None = None,
    color: str = "rgb",
) -> Parts:
    """The hub's set `of`, in memory as uint8.

    config    which configuration of the set, where it has several
    revision  commit or tag to stay with, so that a later change of the set changes nothing here
    image     name of the column of images; default the only one of type Image
    label     name of the column of labels; default the only one of type ClassLabel
    size, color   as for "folder"

    `root`, where given, is where the library keeps its downloads. A missing test or validation part is held out of the
    training part as for "folder".
    """
    form = Form.of(size, color)
    splits = _load(place, of, config, revision)
    names = {part: next((n for n in known if n in splits), None) for part, known in _PARTS.items()}
    if names["train"] is None:
        raise BitwrightError(f"dataset {place.name!r} has the parts {sorted(splits)}; expected one called 'train'")
    features = splits[names["train"]].features
    columns = _column(place, features, image, "Image"), _column(place, features, label, "ClassLabel")
    classes = getattr(features[columns[1]], "names", None)
    if not classes:
        raise BitwrightError(f"dataset {place.name!r}: column {columns[1]!r} is not a ClassLabel with names of classes")
    found = {part: _part(place, splits[n], columns, form) if n else None for part, n in names.items()}
    return complete(place, found, list(classes))


def _load(place: Place, name: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    if not name:
        raise BitwrightError("dataset 'hub:' lacks a name; expected hub:NAME, e.g. hub:ylecun/mnist")
    try:
        import datasets
    except ImportError:
        raise BitwrightError(
            f"dataset {place.name!r} needs the library 'datasets', which is not installed; pip install 'bitwright[hub]'"
        ) from None
    try:
        found = datasets.load_dataset(name, config, revision=revision, cache_dir=place.root)
    except Exception as error:  # network, unknown name, unknown configuration: the library's own words say which
        raise BitwrightError(
            f"dataset {place.name!r} can't be loaded from the hub: {type(error).__name__}: {error}; check the name, "
            f"config= and the network"
        ) from error
    if not isinstance(found, Mapping):
        raise BitwrightError(f"dataset {place.name!r} gave {type(found).__name__}; expected parts by name")
    return found


def _column(place: Place, features: Mapping[str, Any], wanted: str | None, kind: str) -> str:
    option = "image" if kind == "Image" else "label"
    if wanted is not None:
        if wanted not in features:
            raise unknown(f"column of {place.name!r}", wanted, features)
        return wanted
    fitting = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(fitting) != 1:
        raise BitwrightError(
            f"dataset {place.name!r}: the columns of type {kind} are {fitting} among {list(features)}; name one with "
            f"{option}="
        )
    return fitting[0]


def _part(place: Place, rows: Any, columns: tuple[str, str], form: Form) -> Part | None:
    image, label = columns
    pictures = []
    for i, row in enumerate(rows):
        try:
            pictures.append((f"row {i}", form.array(row[image]), int(row[label])))
        except Exception as error:  # whatever Pillow finds wrong with a picture
            raise BitwrightError(f"dataset {place.name!r}: can't use row {i}: {error}", kind="damaged-data") from None
    return stack(place, pictures)
