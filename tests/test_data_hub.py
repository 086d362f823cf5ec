"""Sets of the hub, through a stand-in for the datasets library with the same surface."""

import sys
import types

import numpy as np
import pytest
from PIL import Image as Pillow

from bitwright import BitwrightError, load_dataset


class Image:
    """Stands for datasets.Image."""


class ClassLabel:
    """Stands for datasets.ClassLabel."""

    def __init__(self, names):
        self.names = names


class Value:
    """Stands for datasets.Value."""


class Rows(list):
    features = None


FEATURES = {"img": Image(), "id": Value(), "label": ClassLabel(["cat", "dog"])}


def rows(n, features=FEATURES):
    made = Rows(
        {"img": Pillow.new("RGB", (6, 4), (i, 5, 7)), "id": i, "label": int(i >= n // 2), "other": i} for i in range(n)
    )
    made.features = features
    return made


@pytest.fixture
def hub(monkeypatch):
    """Puts the stand-in into sys.modules; `hub.parts` is what it loads, `hub.calls` what it was asked."""
    library = types.ModuleType("datasets")
    library.calls, library.parts = [], {"train": rows(24), "test": rows(6)}

    def load(*args, **kwargs):
        library.calls.append((args, kwargs))
        if isinstance(library.parts, Exception):
            raise library.parts
        return library.parts

    library.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


def refused(message, name="hub:own/pets", **options):
    with pytest.raises(BitwrightError, match=message):
        load_dataset(name, **options)


def test_columns_are_found_and_pictures_read(hub):
    data = load_dataset("hub:own/pets", config="small", revision="abc", limit=10)
    assert hub.calls == [(("own/pets", "small"), {"revision": "abc", "cache_dir": None})]
    assert data.name == "hub:own/pets"
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 4, 6)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 4, 6)
    assert set(data.train.labels.tolist()) == {0, 1}  # the rows are sorted by label, the parts are not
    np.testing.assert_array_equal(data.train.images[:, 0, 0, 0] >= 12, data.train.labels == 1)


def test_own_validation_and_held_out_test(hub):
    hub.parts = {"train": rows(24), "valid": rows(8)}
    data = load_dataset("hub:own/pets", size=5, color="grey")
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 8, 4)
    assert data.shape == (1, 5, 5)


def test_named_columns(hub):
    features = {**FEATURES, "thumb": Image(), "kind": ClassLabel(["x"])}
    hub.parts = {"train": rows(24, features), "test": rows(6, features)}
    refused(r"columns of type Image are \['img', 'thumb'\] .* name one with image=")
    refused(r"columns of type ClassLabel are \['label', 'kind'\] .* name one with label=", image="img")
    assert len(load_dataset("hub:own/pets", image="img", label="label").test) == 6
    refused("unknown column of 'hub:own/pets' 'lable'; did you mean 'label'", image="img", label="lable")
    refused("column 'id' is not a ClassLabel", image="img", label="id")


def test_what_the_hub_can_lack(hub):
    hub.parts = {"all": rows(4)}
    refused(r"has the parts \['all'\]; expected one called 'train'")
    hub.parts = {"train": rows(0), "test": rows(4)}
    refused("has no training images")
    hub.parts = ConnectionError("offline")
    refused("can't be loaded from the hub: ConnectionError: offline; check the name")
    hub.parts = rows(4)
    refused("gave Rows; expected parts by name")
    refused("lacks a name; expected hub:NAME", name="hub:")


def test_a_row_without_a_picture_is_named(hub):
    hub.parts["test"][2]["img"] = None
    refused("can't use row 2")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(r"needs the library 'datasets', which is not installed; pip install 'bitwright\[hub\]'")
