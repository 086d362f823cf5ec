"""IDX files: MNIST and Fashion-MNIST as published, small ones of the same form, and damaged ones."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import BitwrightError, load_dataset
from bitwright.data.idx import parse_idx
from bitwright.data.place import Place

real = pytest.mark.skipif("BITWRIGHT_DATA" not in os.environ, reason="BITWRIGHT_DATA is not set")


def idx(array):
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(folder, pack=lambda data: data, suffix="", train=60, test=12):
    folder.mkdir(parents=True, exist_ok=True)
    r = np.random.default_rng(0)
    for prefix, n in (("train", train), ("t10k", test)):
        for name, array in (("images-idx3", r.integers(0, 256, (n, 5, 4))), ("labels-idx1", np.arange(n) % 10)):
            (folder / f"{prefix}-{name}-ubyte{suffix}").write_bytes(pack(idx(array)))
    return folder


@pytest.mark.parametrize(("suffix", "pack"), [("", lambda data: data), (".gz", gzip.compress)])
@pytest.mark.parametrize("below", ["mnist", "."])
def test_small_files_plain_and_packed_in_either_folder(tmp_path, suffix, pack, below):
    write(tmp_path / below, pack, suffix)
    data = load_dataset("mnist", tmp_path, verify=False)
    assert data.shape == (1, 5, 4)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 12)
    assert list(data.validation.labels) == list(range(10))  # the end of the file


@real
@pytest.mark.parametrize(
    ("name", "mean", "first"),
    [("mnist", 0.1307, [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]), ("fashion-mnist", 0.2860, [9, 0, 0, 3, 0, 2, 7, 2, 5, 5])],
)
def test_the_published_files(name, mean, first):
    data = load_dataset(name)
    assert (len(data.train), len(data.validation), len(data.test)) == (50_000, 10_000, 10_000)
    assert data.shape == (1, 28, 28)
    assert len(data.classes) == 10
    assert list(data.train.labels[:10]) == first
    assert data.preprocess.mean[0] == pytest.approx(mean, abs=0.001)
    both = np.bincount(np.concatenate([data.train.labels, data.validation.labels]))
    assert both.tolist() == (
        [6000] * 10 if name != "mnist" else [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )


def test_missing_files_name_all_places_and_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(BitwrightError) as caught:
        load_dataset("mnist", tmp_path)
    message = str(caught.value)
    for folder in (tmp_path / "mnist", tmp_path):
        for suffix in ("", ".gz"):
            assert f"{folder}/train-images-idx3-ubyte{suffix}" in message
    assert "yann.lecun.com" in message
    assert "BITWRIGHT_DATA (or root=)" in message
    monkeypatch.delenv("BITWRIGHT_DATA", raising=False)
    with pytest.raises(BitwrightError, match="no folder to look in: BITWRIGHT_DATA is not set"):
        load_dataset("mnist")


def test_a_known_file_with_another_checksum_is_refused_unless_told(tmp_path):
    write(tmp_path)
    with pytest.raises(
        BitwrightError, match=r"has MD5 [0-9a-f]{32}, expected 6bbc9ace898e44ae57da46a324031adb.*verify=False"
    ):
        load_dataset("mnist", tmp_path)


def test_truncated_gz(tmp_path):
    write(tmp_path, gzip.compress, ".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BitwrightError, match=r"t10k-images-idx3-ubyte\.gz is damaged.*ended before"):
        load_dataset("mnist", tmp_path, verify=False)


def test_label_out_of_range(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.full(12, 10)))
    with pytest.raises(BitwrightError, match=r"test: labels go from 10 to 10; expected 0\.\.9"):
        load_dataset("mnist", tmp_path, verify=False)


def test_one_class_only(tmp_path):
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.full(60, 3)))
    with pytest.raises(BitwrightError, match="every label is 3; expected at least two classes"):
        load_dataset("mnist", tmp_path, verify=False)


def test_no_images(tmp_path):
    write(tmp_path, train=0)
    with pytest.raises(BitwrightError, match=r"train: images have shape \(0, 1, 5, 4\), so there is nothing in it"):
        load_dataset("mnist", tmp_path, verify=False)


WHOLE = idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, too short for the 16 bytes of an IDX header"),
        (WHOLE[:15], "15 bytes, too short"),
        (b"\x00\x00\x0d\x03" + WHOLE[4:], "magic number 0x00000d03, expected 0x00000803"),
        (idx(np.arange(24)), "magic number 0x00000801, expected 0x00000803"),
        (WHOLE[:-1], r"39 bytes, but its header says \(2, 3, 4\), which takes 40"),
        (WHOLE + b"x", "41 bytes, but"),
        (WHOLE[:4] + b"\xff" * 12 + WHOLE[16:], "40 bytes, but its header says"),
    ],
)
def test_damaged_files_are_refused(data, message):
    with pytest.raises(BitwrightError, match=message) as caught:
        parse_idx(Place("mnist"), Path("some-file"), data, 3)
    assert caught.value.kind == "damaged-data"


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 20))
def test_any_bytes_are_an_array_or_refused(data, keep):
    data = WHOLE[:keep] + data
    try:
        array = parse_idx(Place("mnist"), Path("some-file"), data, 3)
    except BitwrightError:
        return
    assert array.ndim == 3
    assert len(data) == 16 + array.size
