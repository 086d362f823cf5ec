"""Folders of pictures: layouts, colours, sizes, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from bitwright import BitwrightError, load_dataset

SHADES = {"cat": 40, "dog": 200}


def write(top, n=12, size=(6, 4), classes=SHADES, mode="RGB"):
    """n pictures of width 6 and height 4 per class; the red of number i is the class's shade + i."""
    for name, shade in classes.items():
        (top / name).mkdir(parents=True)
        for i in range(n):
            color = (shade + i, 10, 20) if mode == "RGB" else shade + i
            Image.new(mode, size, color).save(top / name / f"{i:02d}.png")


def test_classes_right_under_root(tmp_path):
    write(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    data = load_dataset("folder", tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 4, 6)
    assert (len(data.train), len(data.validation), len(data.test)) == (17, 3, 4)
    for split in (data.train, data.validation, data.test):
        red = split.images[:, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(red >= 200, split.labels == 1)
        assert set(np.unique(split.labels)) == {0, 1}
    everything = np.concatenate([s.images[:, 0, 0, 0] for s in (data.train, data.validation, data.test)])
    assert sorted(everything) == [*range(40, 52), *range(200, 212)]  # each picture in exactly one part


def test_own_parts_and_a_limit_that_mixes_classes(tmp_path):
    for part, n in (("train", 10), ("val", 3), ("test", 4)):
        write(tmp_path / part, n)
    data = load_dataset("folder", tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 6, 8)
    few = load_dataset("folder", tmp_path, limit=6)
    assert set(few.train.labels.tolist()) == {0, 1}
    with pytest.raises(BitwrightError, match="has a validation part of its own; leave validation=3 out"):
        load_dataset("folder", tmp_path, validation=3)


def test_grey_and_resized(tmp_path):
    write(tmp_path, mode="L")
    assert load_dataset("folder", tmp_path, color="grey").shape == (1, 4, 6)
    assert load_dataset("folder", tmp_path, color="rgb").shape == (3, 4, 6)
    assert load_dataset("folder", tmp_path, size=8).shape == (3, 8, 8)
    data = load_dataset("folder", tmp_path, size=[5, 7], color="grey")
    assert data.shape == (1, 5, 7)
    assert set(np.unique(data.test.images[data.test.labels == 0])) <= set(range(40, 52))  # flat stays flat


def test_a_picture_turned_by_its_exif_data_is_upright(tmp_path):
    write(tmp_path, size=(4, 6))
    turned = Image.new("RGB", (6, 4), (40, 10, 20))
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    turned.save(tmp_path / "cat" / "00.png", exif=exif)
    assert load_dataset("folder", tmp_path).shape == (3, 6, 4)


def refused(root, message, **options):
    with pytest.raises(BitwrightError, match=message):
        load_dataset("folder", root, **options)


def test_root_that_is_missing_or_empty(tmp_path, monkeypatch):
    monkeypatch.delenv("BITWRIGHT_DATA", raising=False)
    refused(None, "needs root=")
    refused(tmp_path / "nowhere", "nowhere is not a folder; expected one that holds a folder per class")
    refused(tmp_path, "holds no folders; expected a folder of images per class")


def test_one_class_and_empty_class(tmp_path):
    write(tmp_path, classes={"cat": 40})
    refused(tmp_path, "every label is 0; expected at least two classes")
    (tmp_path / "dog").mkdir()
    refused(tmp_path, "dog holds no images; expected files ending in .bmp")


def test_pictures_of_different_size(tmp_path):
    write(tmp_path)
    Image.new("RGB", (5, 5)).save(tmp_path / "dog" / "00.png")
    refused(tmp_path, r"dog/00\.png is \(5, 5\) pixels but .*cat/00\.png is \(4, 6\); give size=")


def test_unreadable_pictures(tmp_path):
    write(tmp_path)
    path = tmp_path / "dog" / "03.png"
    path.write_bytes(path.read_bytes()[:50])
    refused(tmp_path, r"can't read image .*dog/03\.png")
    path.write_bytes(b"")
    refused(tmp_path, r"can't read image .*dog/03\.png")
    Image.fromarray(np.full((4, 6), 60_000, np.uint16)).save(path)
    refused(tmp_path, "more than 8 bits per channel")


def test_a_test_class_that_training_lacks(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "test", classes={"cat": 40, "dog": 200, "emu": 100})
    refused(tmp_path, r"has the classes \['emu'\], which the training folder lacks")


@pytest.mark.parametrize("size", [0, "big", [4], [4, -1], [4.5, 3]])
def test_bad_options(tmp_path, size):
    refused(tmp_path, "size is .*; expected a number of pixels or", size=size)
    refused(tmp_path, "unknown color 'blue'. Known: grey, rgb", color="blue")


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    write(tmp_path)
    (tmp_path / "cat" / "._00.png").write_bytes(b"not a picture")
    (tmp_path / "dog" / ".thumbnails").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "dog" / ".thumbnails" / "00.png")
    (tmp_path / "dog" / "more").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "dog" / "more" / "00.png")
    data = load_dataset("folder", tmp_path)
    assert len(data.train) + len(data.validation) + len(data.test) == 25


def test_a_part_without_some_class_or_any(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "test", n=3, classes={"dog": 200})
    assert load_dataset("folder", tmp_path).test.labels.tolist() == [1, 1, 1]
    (tmp_path / "val").mkdir()
    refused(tmp_path, "val holds no images; expected some in a folder per class, or no val/")
