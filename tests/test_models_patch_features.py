"""Features of patches: the formulas patch by patch, and the same in the engine."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bitwright as bw
from bitwright import BitwrightError
from bitwright.models import create_model
from bitwright.packing import pack


def model(shape=(3, 9, 8), **options):
    """One whose buffers are all of some use."""
    net = create_model("patch-features", seed=0, input_shape=shape, **{"centroids": 7, "patch": 4} | options).eval()
    random = torch.Generator().manual_seed(1)
    features = net.features
    features.whitening.normal_(generator=random)
    features.offset.normal_(generator=random)
    features.centroids.mul_(8)
    features.mean.normal_(generator=random)
    features.variance.uniform_(0.5, 2, generator=random)
    return net


def by_hand(features, image):
    """The docstring of PatchFeatures in float64, one patch after the other."""
    size, values = features.patch, {name: b.double().numpy() for name, b in features.named_buffers()}
    whitening, centroids = values["whitening"][:, :, 0, 0], values["centroids"][:, :, 0, 0]
    rows, columns = (side - size + 1 for side in image.shape[1:])
    sums = np.zeros((len(centroids), 2, 2))
    counts = np.zeros((2, 2))
    for i in range(rows):
        for j in range(columns):
            p = image[:, i : i + size, j : j + size].astype(np.float64).ravel()
            q = (p - p.mean()) / np.sqrt(p.var() + features.contrast)
            z = np.linalg.norm(whitening @ q + values["offset"] - centroids, axis=1)
            f = np.maximum(0, z.mean() - z) if features.encoding == "triangle" else z == z.min()
            quadrant = int(i >= (rows + 1) // 2), int(j >= (columns + 1) // 2)
            sums[:, *quadrant] += f
            counts[quadrant] += 1
    y = (sums / counts).ravel()
    return (y - values["mean"]) / np.sqrt(values["variance"] + features.epsilon)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 3]), st.integers(0, 4), st.integers(0, 4), st.integers(2, 4), st.booleans())
def test_features_are_those_of_the_paper(channels, height, width, patch, hard):
    shape = (channels, patch + 1 + height, patch + 1 + width)
    features = model(shape, patch=patch, encoding="hard" if hard else "triangle").features
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(height))
    found = features(images)
    for image, y in zip(images, found, strict=True):
        np.testing.assert_allclose(y, by_hand(features, image.numpy()), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("encoding", ["triangle", "hard"])
@pytest.mark.parametrize("options", [{}, {"hidden": [6], "dropout": 0.3}])
@pytest.mark.parametrize("shape", [(3, 9, 8), (1, 6, 5)])
def test_the_engine_computes_the_same(encoding, options, shape, tmp_path):
    net, path = model(shape, encoding=encoding, **options), tmp_path / "net.safetensors"
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    x[0] = 0.25  # patches without contrast
    pack(net, (x[:1],)).save(path)
    with torch.no_grad():
        expected = net(x).numpy()
    assert np.isfinite(expected).all()
    for engine in ("native", "reference"):
        np.testing.assert_allclose(bw.load(path, engine=engine)(x.numpy()), expected, atol=1e-4 * np.ptp(expected))


def test_centroids_are_packed_under_their_name(tmp_path):
    net, path = model(), tmp_path / "net.safetensors"
    pack(net, (torch.zeros(1, 3, 9, 8),)).save(path)
    stored = bw.load(path).stored
    assert np.array_equal(stored["features.centroids"].dense(), net.features.centroids)


def test_its_shapes_are_known_without_numbers():
    with torch.device("meta"):
        found = create_model("patch-features")(torch.zeros(2, 3, 32, 32))
    assert found.shape == (2, 10)


def test_nothing_of_the_features_is_trained():
    net = model()
    assert [name for name, _ in net.named_parameters()] == ["classifier.fc1.weight", "classifier.fc1.bias"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"patch": 8}, r"patch is 8, but the images are 9x8; expected less than the shorter side, at most 7"),
        ({"patch": 1}, "patch is 1; expected a whole number >= 2"),
        ({"centroids": 1}, "centroids is 1; expected a whole number >= 2"),
        ({"encoding": "soft"}, "unknown encoding 'soft'"),
        ({"contrast": 0}, "contrast is 0; expected a number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error):
    with pytest.raises(BitwrightError, match=error):
        model(**options)
