"""Names of datasets, the embedded digits, and the options that every source takes."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bitwright import BitwrightError, load_dataset
from bitwright.cli.images import read_images
from bitwright.data import Preprocess, list_datasets, register_dataset
from bitwright.data.images import Form

NAMES = ["cifar-10", "cifar-100", "digits", "fashion-mnist", "folder", "hub:", "mnist", "svhn"]


def test_every_source_is_listed_with_a_line():
    assert list(list_datasets()) == NAMES
    assert all(line and "\n" not in line for line in list_datasets().values())


def test_digits_need_no_file():
    data = load_dataset("digits")
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (1249, 249, 299)
    assert data.train.images.max() == 255
    assert data.train.images.dtype == np.uint8
    assert set(np.unique(data.train.images)) <= {round(v * 255 / 16) for v in range(17)}
    assert min(np.bincount(data.test.labels)) >= 28


def test_common_options():
    data = load_dataset("digits", validation=100, limit=7, preprocess={"mean": [0.5], "std": [0.5]})
    assert (len(data.train), len(data.validation)) == (7, 7)
    assert data.preprocess == Preprocess((0.5,), (0.5,))
    assert len(load_dataset("digits", validation=0.5).validation) == 749


def test_fewer_training_images():
    data = load_dataset("digits", train=100, validation=100)
    assert (len(data.train), len(data.validation), len(data.test)) == (100, 100, 299)
    assert np.bincount(data.train.labels).tolist() == [10] * 10
    assert len(load_dataset("digits", train=0.5).train) == 624


def test_size_and_color_are_those_of_a_picture_that_is_predicted(tmp_path):
    plain, data = load_dataset("digits"), load_dataset("digits", size=12, color="rgb")
    assert data.shape == (3, 12, 12)
    assert data.preprocess == Preprocess.fit(data.train.images)
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(data.split(split).labels, plain.split(split).labels)
    path = tmp_path / "digit.png"
    Image.fromarray(plain.test.images[5, 0]).save(path)
    ((_, predicted),) = read_images(path, (3, 12, 12), pixels=True, resize=True)
    np.testing.assert_array_equal(predicted[0], data.test.images[5])
    assert load_dataset("digits", color="rgb", size=[4, 6]).shape == (3, 4, 6)
    np.testing.assert_array_equal(load_dataset("digits", size=8, color="grey").train.images, plain.train.images)


def test_images_that_have_no_size_or_color():
    with pytest.raises(BitwrightError, match=r"unknown color 'red'.*Known: grey, rgb"):
        load_dataset("digits", color="red")
    with pytest.raises(BitwrightError, match="size is 0; expected a number of pixels"):
        load_dataset("digits", size=0)
    for images in (np.zeros((2, 1, 4, 4), np.float32), np.zeros((2, 5, 4, 4), np.uint8), np.zeros((2, 4), np.uint8)):
        with pytest.raises(BitwrightError, match=r"which size and color can't change; they are for uint8 images"):
            Form.of(8, "rgb").arrays(images)


def test_unknown_names_and_options_list_the_known():
    with pytest.raises(BitwrightError, match=r"unknown dataset 'mnits'; did you mean 'mnist'\? Known: cifar-10, "):
        load_dataset("mnits")
    with pytest.raises(BitwrightError, match=r"unknown option of dataset 'cifar-100' 'label'; did you mean 'labels'\?"):
        load_dataset("cifar-100", label="coarse")
    with pytest.raises(BitwrightError, match="unknown dataset 'mnist:x'"):
        load_dataset("mnist:x")
    with pytest.raises(BitwrightError, match="dataset name is a int; expected text"):
        load_dataset(7)


def test_a_duplicate_name_is_refused():
    list_datasets()
    with pytest.raises(BitwrightError, match="two datasets are called 'mnist'"):
        register_dataset("mnist", "mine")(lambda place: None)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(BitwrightError, match="pip install scikit-learn"):
        load_dataset("digits")


def test_data_needs_no_torch():
    code = "import sys, bitwright; bitwright.load_dataset('digits'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
