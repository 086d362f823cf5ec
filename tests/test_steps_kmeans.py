"""Features learned by k-means: whitening, centroids, and the classifier that is chosen."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from bitwright import BitwrightError
from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.models import create_model
from bitwright.steps.kmeans import KMeans, random_patches
from bitwright.training.settings import Augment, Distill, TrainSettings


def digits(count=300):
    return load_dataset("digits", preprocess={"mean": [0], "std": [1]}).limited(count)


def net(**options):
    return create_model("patch-features", seed=0, input_shape=(1, 8, 8), **{"centroids": 16, "patch": 4} | options)


def learned(step=None, data=None, seed=0, folder=None, **options):
    context = Context(data or digits(), seed=seed, folder=folder)
    return (step or KMeans(patches=2000)).apply(net(**options), context).eval(), context


def normalised_patches(features, data):
    patches = random_patches(data.train.images, features.patch, 5000, seed=9)
    return features.normalised(data.preprocess.torch(torch.from_numpy(patches)))


def test_patches_are_squares_of_the_images():
    images = np.arange(2 * 3 * 5 * 6, dtype=np.float32).reshape(2, 3, 5, 6)
    squares = {
        images[n, :, i : i + 4, j : j + 4].tobytes() for n in range(2) for i in range(2) for j in range(3)
    }  # fmt: skip
    found = random_patches(images, 4, 400, seed=0)
    assert found.shape == (400, 3, 4, 4)
    assert {patch.tobytes() for patch in found} == squares, "every place occurs"


def test_whitened_patches_have_the_variances_that_epsilon_leaves():
    data = digits()
    model, _ = learned(KMeans(patches=20_000, epsilon=0.1), data)
    features = model.features
    q = normalised_patches(features, data)
    x = torch.nn.functional.conv2d(q, features.whitening, features.offset).flatten(1)
    variances, axes = torch.linalg.eigh(torch.cov(q.flatten(1).T, correction=0))
    along = (x @ axes).var(0, correction=0)
    torch.testing.assert_close(along, variances / (variances + 0.1), atol=0.02, rtol=0.05)
    assert x.mean(0).abs().max() < 0.05
    assert torch.equal(features.whitening[:, :, 0, 0], features.whitening[:, :, 0, 0].T), "ZCA"


def test_without_whitening_the_patches_stay():
    features = learned(KMeans(patches=2000, whitening="none"))[0].features
    assert torch.equal(features.whitening[:, :, 0, 0], torch.eye(16))
    assert not features.offset.any()


@pytest.mark.parametrize("whitening", ["zca", "none"])
def test_centroids_are_nearer_than_patches_drawn_at_random(whitening):
    data = digits()
    model, context = learned(KMeans(patches=5000, whitening=whitening), data)
    features = model.features
    x = torch.nn.functional.conv2d(normalised_patches(features, data), features.whitening, features.offset).flatten(1)
    squared = [torch.cdist(x, c).square().amin(1).mean().item() for c in (features.centroids.flatten(1), x[:16])]
    assert squared[0] < 0.8 * squared[1]
    assert context.records["kmeans"]["distance"] == pytest.approx(squared[0], rel=0.1)


@pytest.mark.parametrize("encoding", ["triangle", "hard"])
def test_features_are_standardised_and_tell_digits_apart(encoding):
    data = digits(600)
    model, context = learned(KMeans(patches=5000, weight_decays=(1e-2,)), data, encoding=encoding, centroids=40)
    with torch.no_grad():
        y = model.features(data.preprocess.torch(torch.from_numpy(data.train.images)))
    spread = model.features.variance / (model.features.variance + model.features.epsilon)
    assert y.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(y.var(0, correction=0), spread, atol=1e-3, rtol=1e-3)
    assert context.evaluate(model).error < 8, "chance is 90"


def test_mirror_images_count_in_the_standardisation():
    data = digits()
    model, _ = learned(KMeans(patches=2000, mirror=True), data)
    with torch.no_grad():
        views = [
            data.preprocess.torch(torch.from_numpy(x.copy())) for x in (data.train.images, data.train.images[..., ::-1])
        ]
        y = torch.cat([model.features(view) for view in views])
    assert y.mean(0).abs().max() < 1e-4
    assert model.features(views[0]).mean(0).abs().max() > 1e-3


def test_a_net_of_two_layers_is_trained_by_any_settings():
    retrain = TrainSettings(epochs=8, batch_size=50)
    model, context = learned(KMeans(patches=2000, retrain=retrain), hidden=[30], dropout=0.3)
    assert context.evaluate(model).error < 25


def test_the_weight_decay_with_the_least_validation_error_stays():
    model, context = learned(KMeans(patches=2000, weight_decays=(100.0, 3e-3)))
    errors = context.records["kmeans"]["validation_error"]
    assert list(errors) == ["100", "0.003"]
    assert errors["0.003"] < errors["100"]
    assert context.evaluate(model).error == pytest.approx(errors["0.003"])


def test_the_seed_decides_every_byte_and_a_finished_training_is_loaded(tmp_path):
    states = [learned(seed=seed, folder=tmp_path / str(seed))[0].state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["features.centroids"], states[2]["features.centroids"])
    assert json.loads((tmp_path / "0" / "record.json").read_text())["kmeans"]["patches"] == 2000


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("whitening", ["zca", "none"])
def test_images_without_contrast_leave_finite_numbers(whitening):
    data = digits()
    grey = dataclasses.replace(data.train, images=np.full_like(data.train.images, 7))
    model, _ = learned(KMeans(patches=500, whitening=whitening), dataclasses.replace(data, train=grey))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"epsilon": 0}, "epsilon is 0; expected a number above 0"),
        ({"whitening": "pca"}, "unknown kmeans: whitening 'pca'"),
        ({"retrain": TrainSettings(augment=Augment(flip=True))}, "retrain has augment or distill"),
        ({"retrain": TrainSettings(distill=Distill())}, "retrain has augment or distill"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, error):
    with pytest.raises(BitwrightError, match=error):
        KMeans(**settings)


def test_more_centroids_than_patches_and_other_models_are_refused():
    with pytest.raises(BitwrightError, match="16 centroids of 15 patches; expected at least as many patches"):
        KMeans(patches=15).look_ahead(net(), digits())
    with pytest.raises(BitwrightError, match="Sequential has no PatchFeatures; take model: patch-features"):
        KMeans().apply(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Context(digits()))
