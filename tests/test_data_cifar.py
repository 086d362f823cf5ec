"""CIFAR-10 as published, both sets as small generated files of the same form, and the cache of unpacked archives."""

import io
import os
import tarfile

import numpy as np
import pytest

from bitwright import BitwrightError, load_dataset
from bitwright.data import cache, cifar

real = pytest.mark.skipif("BITWRIGHT_DATA" not in os.environ, reason="BITWRIGHT_DATA is not set")
N = 20  # records per file


def records(name, n=N):
    """Record i of CIFAR-10 has label i % 10 and the red, green and blue planes painted with i, i + 1, i + 2."""
    i = np.arange(n)
    labels = [i % 20, i % 100] if "100" in name else [i % 10]
    planes = [np.repeat((i[:, None] + c) % 256, 1024, 1) for c in range(3)]
    return np.concatenate([np.stack(labels, 1), *planes], 1).astype(np.uint8).tobytes()


def files(name):
    if name == "cifar-10":
        return {f"{b}.bin": records(name) for b in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]}
    return {"train.bin": records(name, 5 * N), "test.bin": records(name)}


def layout(name):
    return ("cifar-10-binary", "cifar-10-batches-bin") if name == "cifar-10" else ("cifar-100-binary",) * 2


def write(root, name, form, content=None):
    archive, folder = layout(name)
    content = files(name) if content is None else content
    if form == "folder":
        (root / folder).mkdir(parents=True)
        for file, data in content.items():
            (root / folder / file).write_bytes(data)
        return root / folder
    path = root / f"{archive}.{form}"
    with tarfile.open(path, f"w:{form.partition('.')[2]}") as tar:
        for file, data in {"readme.html": b"hello", **content}.items():
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def cached(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("BITWRIGHT_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
@pytest.mark.parametrize("form", ["folder", "tar.gz", "tar.xz", "tar"])
def test_every_form_gives_the_same_images(tmp_path, cached, name, form):
    write(tmp_path, name, form)
    data = load_dataset(name, tmp_path, verify=False)
    assert data.shape == (3, 32, 32)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert data.test.images[7, :, 31, 31].tolist() == [7, 8, 9]
    assert data.test.labels[13] == (3 if name == "cifar-10" else 13)
    expected = np.arange(10, 20) % 10 if name == "cifar-10" else np.arange(90, 100)
    np.testing.assert_array_equal(data.validation.labels, expected)  # the end of the training files


def test_cifar_100_has_fine_and_coarse_labels(tmp_path):
    write(tmp_path, "cifar-100", "folder")
    fine = load_dataset("cifar-100", tmp_path)
    coarse = load_dataset("cifar-100", tmp_path, labels="coarse")
    assert (len(fine.classes), len(coarse.classes)) == (100, 20)
    assert fine.classes[::33] == ("apple", "forest", "raccoon", "worm")
    assert coarse.classes[-1] == "vehicles_2"
    assert (fine.train.labels[35], coarse.train.labels[35]) == (35, 15)
    with pytest.raises(BitwrightError, match=r"unknown labels of cifar-100 'rough'. Known: coarse, fine"):
        load_dataset("cifar-100", tmp_path, labels="rough")


@real
def test_the_published_cifar_10():
    data = load_dataset("cifar-10")  # verified by the checksums of the files in the archive
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    np.testing.assert_allclose(data.preprocess.mean, [0.4914, 0.4822, 0.4465], atol=0.001)
    np.testing.assert_allclose(data.preprocess.std, [0.2470, 0.2435, 0.2616], atol=0.001)


def test_an_archive_is_unpacked_once(tmp_path, cached, monkeypatch):
    path = write(tmp_path, "cifar-10", "tar.gz")
    first = load_dataset("cifar-10", tmp_path, verify=False)
    assert len(list(cached.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(cifar, "_from_archive", lambda *a: pytest.fail("unpacked again"))
        again = load_dataset("cifar-10", tmp_path, verify=False)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    path.unlink()  # another archive of the same name: the cache must not answer for it
    changed = {**files("cifar-10"), "test_batch.bin": records("cifar-10", 10)}
    write(tmp_path, "cifar-10", "tar.gz", changed)
    assert len(load_dataset("cifar-10", tmp_path, verify=False).test) == 10


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-100], lambda d: d[:9000] + bytes([d[9000] ^ 1]) + d[9001:], lambda d: b""]
)
def test_a_damaged_cache_is_made_again(tmp_path, cached, damage):
    write(tmp_path, "cifar-10", "tar")
    first = load_dataset("cifar-10", tmp_path, verify=False)
    (file,) = cached.iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    again = load_dataset("cifar-10", tmp_path, verify=False)
    np.testing.assert_array_equal(first.train.images, again.train.images)
    assert file.read_bytes() == good


def test_no_place_for_a_cache_is_no_error(tmp_path, monkeypatch):
    write(tmp_path, "cifar-10", "tar")
    (tmp_path / "file").touch()
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path / "file" / "below"))
    assert len(load_dataset("cifar-10", tmp_path, verify=False).test) == 20
    monkeypatch.delenv("BITWRIGHT_CACHE")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", homeless)
    assert len(load_dataset("cifar-10", tmp_path, verify=False).test) == 20


def test_known_files_with_another_checksum_are_refused(tmp_path, cached):
    write(tmp_path / "a", "cifar-10", "folder")
    with pytest.raises(BitwrightError, match=r"data_batch_1\.bin.*MD5 \w+, expected 5dd7e06a14cb22eb9f671a540d1b7c25"):
        load_dataset("cifar-10", tmp_path / "a")
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", "cifar-10", "tar.xz")
    for _ in range(2):  # also when the unpacked files come from the cache
        with pytest.raises(BitwrightError, match=r"data_batch_1\.bin.*MD5"):
            load_dataset("cifar-10", tmp_path / "b")
    write(tmp_path / "b", "cifar-100", "tar.gz")
    with pytest.raises(BitwrightError, match=r"cifar-100-binary\.tar\.gz.*expected 03b5dce01913d631647c71ecec9e9cb8"):
        load_dataset("cifar-100", tmp_path / "b")


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "tar"])
def test_truncated_archive(tmp_path, cached, form):
    path = write(tmp_path, "cifar-10", form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BitwrightError, match=rf"cifar-10-binary\.{form} is damaged or not what its name says"):
        load_dataset("cifar-10", tmp_path, verify=False)
    assert not cached.exists()


def test_something_else_under_the_name_of_an_archive(tmp_path, cached):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(BitwrightError, match=r"cifar-10-binary\.tar\.gz is damaged"):
        load_dataset("cifar-10", tmp_path)


def test_incomplete_archive_and_folder(tmp_path, cached):
    content = files("cifar-10")
    del content["data_batch_4.bin"]
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", "cifar-10", "tar", content)
    write(tmp_path / "b", "cifar-10", "folder", content)
    for root in ("a", "b"):
        with pytest.raises(BitwrightError, match=r"it lacks data_batch_4\.bin"):
            load_dataset("cifar-10", tmp_path / root, verify=False)


def test_a_member_that_claims_to_be_huge_is_not_read(tmp_path, cached, monkeypatch):
    monkeypatch.setattr(cifar, "_LARGEST", 1000)
    write(tmp_path, "cifar-10", "tar")
    with pytest.raises(BitwrightError, match=r"data_batch_1\.bin in it has 61460 bytes, expected at most 1000"):
        load_dataset("cifar-10", tmp_path, verify=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes, expected a multiple of 3073"),
        (records("cifar-10")[:-1], "61459 bytes, expected a multiple of 3073"),
        (records("cifar-10", 5) + bytes([10]) + bytes(3072), r"record 5 has label 10, expected 0\.\.9"),
    ],
)
def test_damaged_records(tmp_path, data, message):
    write(tmp_path, "cifar-10", "folder", {**files("cifar-10"), "test_batch.bin": data})
    with pytest.raises(BitwrightError, match=rf"test_batch\.bin is damaged.*{message}"):
        load_dataset("cifar-10", tmp_path, verify=False)


def test_missing_files_name_folder_and_archives(tmp_path):
    with pytest.raises(BitwrightError, match=r"cifar-10-batches-bin/data_batch_1\.bin.*tar\.gz.*tar\.xz.*cifar\.html"):
        load_dataset("cifar-10", tmp_path)
