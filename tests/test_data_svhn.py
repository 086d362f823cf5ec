"""SVHN's MATLAB files, on small generated ones of the same form."""

import sys

import numpy as np
import pytest
from scipy.io import savemat

from bitwright import BitwrightError, load_dataset


def write(folder, part, n=60, **change):
    x = np.zeros((32, 32, 3, n), np.uint8)
    x[1, 2, :, :] = np.arange(n)  # row 1, column 2
    x[1, 2, 2, :] += 100
    variables = {"X": x, "y": (np.arange(n) % 10 + 1).astype(np.uint8)[:, None], **change}
    savemat(folder / f"{part}_32x32.mat", {k: v for k, v in variables.items() if v is not None}, do_compression=True)


def test_axes_and_the_label_ten_that_means_zero(tmp_path):
    write(tmp_path, "train")
    write(tmp_path, "test", 20)
    data = load_dataset("svhn", tmp_path, verify=False)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 20)
    assert data.shape == (3, 32, 32)
    assert data.test.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.test.images[7, :, 1, 2].tolist() == [7, 7, 107]
    assert np.bincount(data.validation.labels).tolist() == [1] * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "it has no variables X and y"),
        ({"X": np.zeros((32, 32, 3, 60))}, r"X is float64 \(32, 32, 3, 60\)"),
        ({"X": np.zeros((3, 32, 32, 60), np.uint8)}, r"expected uint8 \(32, 32, 3, N\)"),
        ({"y": np.ones((59, 1))}, r"y \(59, 1\)"),
        ({"y": np.arange(60)[:, None]}, r"labels go from 0 to 59; expected 1\.\.10"),
    ],
)
def test_wrong_content_is_refused(tmp_path, change, message):
    write(tmp_path, "train", **change)
    write(tmp_path, "test")
    with pytest.raises(BitwrightError, match=rf"train_32x32\.mat is damaged.*{message}"):
        load_dataset("svhn", tmp_path, verify=False)


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"no matlab" * 50])
def test_damaged_files_are_refused(tmp_path, damage):
    write(tmp_path, "train")
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BitwrightError, match=r"train_32x32\.mat is damaged"):
        load_dataset("svhn", tmp_path, verify=False)


def test_without_scipy(tmp_path, monkeypatch):
    write(tmp_path, "train")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(BitwrightError, match=r"needs scipy to read \.mat files; pip install scipy"):
        load_dataset("svhn", tmp_path)


def test_known_checksum_and_missing_file(tmp_path):
    with pytest.raises(BitwrightError, match=r"found no train_32x32\.mat.*ufldl\.stanford\.edu"):
        load_dataset("svhn", tmp_path)
    write(tmp_path, "train")
    with pytest.raises(BitwrightError, match="expected e26dedcc434d2e4c54c9b2d4a06d8373"):
        load_dataset("svhn", tmp_path)
