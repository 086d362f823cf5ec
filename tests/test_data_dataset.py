"""Datasets from arrays: what is held out, how the input is normalised, and every refusal."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import BitwrightError
from bitwright.data import Dataset, Preprocess
from bitwright.data.holdout import choose, hold_out


def part(n=60, classes=3, shape=(1, 4, 5), seed=0):
    r = np.random.default_rng(seed)
    return r.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % classes


def test_parts_shapes_types_and_default_class_names():
    data = Dataset.from_arrays("own", part(60), part(12, seed=1))
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 12)
    assert data.classes == ("0", "1", "2")
    assert data.shape == (1, 4, 5)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert data.split("validation") is data.validation
    assert data.preprocess == Preprocess.fit(data.train.images)


def test_own_validation_part_and_class_names():
    data = Dataset.from_arrays("own", part(9), part(3), validation=part(6), classes=["a", "b", "c", "d"])
    assert (len(data.train), len(data.validation)) == (9, 6)
    assert data.classes == ("a", "b", "c", "d")


def test_last_holds_out_the_end_in_order():
    images, labels = part(20)
    data = Dataset.from_arrays("own", (images, labels), part(3), validation=5, holdout="last")
    np.testing.assert_array_equal(data.validation.images, images[15:])
    np.testing.assert_array_equal(data.train.labels, labels[:15])


def test_float_images_become_float32():
    images, labels = part()
    data = Dataset.from_arrays("own", (images / 255, labels), (images / 255, labels))
    assert data.train.images.dtype == np.float32


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
def test_stratified_holds_out_the_exact_number_with_each_class_its_share(labels, data):
    labels = np.array(labels)
    count = data.draw(st.integers(1, len(labels) - 1))
    ids = np.arange(len(labels))
    (left, left_y), (held, held_y) = hold_out("own", (ids, labels), count, "stratified")
    assert len(held) == count
    assert sorted([*left, *held]) == list(ids)
    np.testing.assert_array_equal(labels[held], held_y)
    np.testing.assert_array_equal(labels[left], left_y)
    for c in np.unique(labels):
        share = (labels == c).sum() * count / len(labels)
        assert abs((held_y == c).sum() - share) <= 2.5


def test_the_held_out_images_never_change():
    _, (held, _) = hold_out("own", (np.arange(24), np.arange(24) % 2), 6, "stratified")
    assert list(held) == [1, 10, 11, 13, 14, 22]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
def test_fewer_training_images_keep_their_order_and_their_shares_of_classes(labels, data):
    labels = np.array(labels)
    count = data.draw(st.integers(1, len(labels)))
    ids, chosen = choose("own", (np.arange(len(labels)), labels), count)
    assert len(ids) == count
    assert all(np.diff(ids) > 0)
    np.testing.assert_array_equal(chosen, labels[ids])
    for c in np.unique(labels):
        assert abs((chosen == c).sum() - (labels == c).sum() * count / len(labels)) <= 2.5


def test_the_input_is_normalised_for_the_images_that_are_trained_on():
    images, labels = part(60)
    few = Dataset.from_arrays("own", (images, labels), part(3), 10, training=9)
    assert (len(few.train), len(few.validation)) == (9, 10)
    assert np.bincount(few.train.labels).tolist() == [3, 3, 3]
    assert few.preprocess == Preprocess.fit(few.train.images)
    whole = Dataset.from_arrays("own", (images, labels), part(3), 10)
    np.testing.assert_array_equal(few.validation.images, whole.validation.images)
    assert len(Dataset.from_arrays("own", (images, labels), part(3), 10, training=1.0).train) == 50


@pytest.mark.parametrize("training", [0, -1, 51, 0.0, float("nan"), True, "9"])
def test_a_number_of_training_images_that_there_is_not(training):
    with pytest.raises(
        BitwrightError, match=r"train(=| is ).*expected (at least 1 and at most|a number or a fraction)"
    ):
        Dataset.from_arrays("own", (X, Y), (X, Y), 10, training=training)


def test_fit_equals_plain_numpy_and_survives_a_constant_channel():
    images, _ = part(40, shape=(2, 4, 5))
    images[:, 1] = 7
    fitted = Preprocess.fit(images)
    x = images.astype(np.float64) / 255
    np.testing.assert_allclose(fitted.mean, x.mean((0, 2, 3)), rtol=1e-5)
    assert fitted.std == (pytest.approx(x[:, 0].std(), rel=1e-5), 1.0)


def test_preprocess_from_plain_values_and_from_itself():
    plain = {"mean": [0.5], "std": [0.25]}
    for value in (plain, Preprocess((0.5,), (0.25,))):
        assert Dataset.from_arrays("own", part(), part(), preprocess=value).preprocess == Preprocess((0.5,), (0.25,))


def test_preprocess_is_the_same_in_numpy_and_torch():
    torch = pytest.importorskip("torch")
    images, _ = part(8, shape=(3, 4, 5))
    normal = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_array_equal(normal(images), normal.torch(torch.from_numpy(images)).numpy())
    np.testing.assert_allclose(normal(images)[0, 1, 2, 3], (images[0, 1, 2, 3] / 255 - 0.456) / 0.224, rtol=1e-5)


def test_limited_takes_the_first_of_each_part():
    data = Dataset.from_arrays("own", part(60), part(12))
    few = data.limited(4)
    assert (len(few.train), len(few.validation), len(few.test)) == (4, 4, 4)
    np.testing.assert_array_equal(few.train.images, data.train.images[:4])
    assert few.preprocess == data.preprocess
    with pytest.raises(BitwrightError, match="limit is 0; expected a whole number >= 1"):
        data.limited(0)


def test_dataset_is_frozen_and_its_parts_have_names():
    data = Dataset.from_arrays("own", part(), part())
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"
    with pytest.raises(BitwrightError, match=r"unknown part of a dataset 'tset'; did you mean 'test'\?"):
        data.split("tset")


X, Y = part()
NAN = np.where(np.arange(20).reshape(1, 1, 4, 5) == 3, np.nan, X / 255)
BAD = {
    "no tuple": (X, "expected a tuple"),
    "no channel axis": ((X[:, 0], Y), r"\(60, 4, 5\); expected \(N, channels.*images\[:, None\]"),
    "channels last": ((np.zeros((60, 8, 8, 3), np.uint8), Y), "channels last.*transpose"),
    "empty": ((X[:0], Y[:0]), "nothing in it; expected >= 1 image"),
    "wrong image type": ((X.astype(np.int32), Y), "images are int32; expected uint8 in 0..255 or float"),
    "out of range": ((X.astype(np.float32), Y), "pixels go from .* to .*; expected no NaN and 0..1"),
    "nan": ((NAN, Y), "pixels go from nan to nan; expected no NaN"),
    "float labels": ((X, Y.astype(float)), r"labels are float64 \(60,\); expected whole numbers"),
    "one-hot labels": ((X, np.eye(3, dtype=int)[Y]), r"labels are int64 \(60, 3\)"),
    "too few labels": ((X, Y[:-1]), "60 images but 59 labels"),
    "one class": ((X, Y * 0), "every label is 0; expected at least two classes"),
    "negative label": ((X, Y - 1), r"labels go from -1 to 1; expected 0\.\.1 for 2 classes"),
}


@pytest.mark.parametrize(("train", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arrays_are_refused(train, message):
    with pytest.raises(BitwrightError, match=message):
        Dataset.from_arrays("own", train, (X / 255, Y) if X is not train and train[0].dtype.kind == "f" else (X, Y % 2))


def test_parts_that_do_not_fit_together_are_refused():
    with pytest.raises(BitwrightError, match=r"test: images are uint8 \(1, 8, 8\), but train has uint8 \(1, 4, 5\)"):
        Dataset.from_arrays("own", (X, Y), part(shape=(1, 8, 8)))
    with pytest.raises(BitwrightError, match=r"test: labels go from 0 to 2; expected 0\.\.1 for 2 classes"):
        Dataset.from_arrays("own", (X, Y % 2), (X, Y), classes=["a", "b"])
    with pytest.raises(BitwrightError, match=r"class names \['a'\] appear twice"):
        Dataset.from_arrays("own", (X, Y), (X, Y), classes=["a", "b", "a"])


@pytest.mark.parametrize("validation", [0, 60, 1.0, 1e-9, float("nan")])
def test_a_validation_part_that_leaves_nothing_is_refused(validation):
    with pytest.raises(BitwrightError, match=r"validation.*at least 1 image on either side"):
        Dataset.from_arrays("own", (X, Y), (X, Y), validation)


def test_a_validation_that_is_no_number_is_refused():
    with pytest.raises(BitwrightError, match="validation is True; expected a number or a fraction"):
        Dataset.from_arrays("own", (X, Y), (X, Y), True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"mean": [0.5]}, r"expected \{mean: \[\.\.\.\], std: \[\.\.\.\]\}"),
        ({"mean": 0.5, "std": [1]}, "mean is 0.5; expected a list of numbers"),
        ({"mean": [0.5, 0.5], "std": [1, 1]}, "2 numbers in mean .* images have 1 channels"),
        ({"mean": [0.5], "std": [0]}, "finite means and std > 0"),
        ({"mean": [float("nan")], "std": [1]}, "finite means and std > 0"),
    ],
)
def test_bad_preprocess_is_refused(value, message):
    with pytest.raises(BitwrightError, match=message):
        Dataset.from_arrays("own", (X, Y), (X, Y), preprocess=value)
