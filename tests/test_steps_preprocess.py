"""Images preprocessed by what all training images have in common, in torch and in the engine."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import BitwrightError, edits
from bitwright.context import Context
from bitwright.data.dataset import Dataset
from bitwright.packing import pack
from bitwright.steps.preprocess import Preprocess, first_module


def data(channels=2):
    """Images of 24 or 12 numbers that go together."""
    random = np.random.default_rng(0)
    mix = random.standard_normal((12 * channels, 12 * channels)) / 12 + np.eye(12 * channels)
    images = 0.5 + 0.05 * random.standard_normal((400, 12 * channels)) @ mix
    images = images.clip(0, 1).astype(np.float32).reshape(-1, channels, 3, 4)
    labels = (images.mean((1, 2, 3)) > 0.5).astype(int)
    plain = {"mean": [0.0] * channels, "std": [1.0] * channels}
    return Dataset.from_arrays("d", (images, labels), (images[:9], labels[:9]), preprocess=plain)


def conv_net(channels=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))


def transformed(step):
    """The training images as the network's first layer sees them, flat, and the context."""
    task = data()
    model, context = conv_net(), Context(task)
    step.apply(model, context)
    x = context.calibration(10_000)
    seen = []
    model[0][1].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    model(x)
    return x.flatten(1), seen[0].detach().flatten(1), context


def test_the_mean_image_is_gone():
    x, y, _ = transformed(Preprocess(kind="mean-image"))
    torch.testing.assert_close(y, x - x.mean(0), atol=1e-6, rtol=0)


def test_contrast_is_normalised_image_by_image():
    x, y, _ = transformed(Preprocess(kind=None, contrast=0.001))
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 0.001).sqrt()
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_decorrelated_images_keep_their_variance_and_the_strongest_component_is_first():
    x, y, context = transformed(Preprocess(kind="decorrelate"))
    covariance = torch.cov(y.T, correction=0)
    variances = covariance.diag()
    assert (covariance - variances.diag()).abs().max() < 1e-6
    torch.testing.assert_close(variances.sum(), x.var(0, correction=0).sum(), rtol=1e-4, atol=0)
    assert (variances.diff() < 1e-7).all()
    held = context.records["preprocess"]["variance"]
    assert held["10"] == pytest.approx(100 * float(variances[:10].sum() / variances.sum()), abs=0.02)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_whitened_images_have_no_correlation(kind):
    x, y, _ = transformed(Preprocess(kind=kind, epsilon=1e-9))
    torch.testing.assert_close(torch.cov(y.T, correction=0), torch.eye(24), atol=2e-3, rtol=0)
    if kind == "zca":  # the matrix is symmetric, so each number is most like the one it was
        correlation = torch.corrcoef(torch.cat((x, y), 1).T)[:24, 24:]
        assert (correlation.diag() > 0).all()


def test_epsilon_damps_weak_components():
    _, y, _ = transformed(Preprocess(kind="pca", epsilon=1e-4))
    _, plain, _ = transformed(Preprocess(kind="decorrelate"))
    variances = plain.var(0, correction=0)
    torch.testing.assert_close(y.var(0, correction=0), variances / (variances + 1e-4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["mean-image", "decorrelate", "pca", "zca", None])
@pytest.mark.parametrize("contrast", [None, 0.01])
def test_the_packed_model_preprocesses_too(kind, contrast, tmp_path):
    if kind is None and contrast is None:
        return
    task = data()
    model = Preprocess(contrast=contrast, kind=kind).apply(conv_net(), Context(task)).eval()
    path = tmp_path / "m.safetensors"
    pack(model, (torch.zeros(1, 2, 3, 4),), preprocess=task.preprocess).save(path)
    with torch.no_grad():
        expected = model(task.preprocess.torch(torch.from_numpy(task.test.images))).numpy()
    for engine in ("native", "reference"):
        np.testing.assert_allclose(bw.load(path, engine=engine)(task.test.images), expected, atol=2e-4, rtol=1e-4)


def test_a_checkpoint_makes_it_again():
    model = Preprocess(kind="zca").apply(conv_net(), Context(data()))
    other = conv_net()
    edits.replay(other, edits.edits_of(model))
    other.load_state_dict(model.state_dict())
    x = torch.rand(3, 2, 3, 4)
    torch.testing.assert_close(other(x), model(x), atol=0, rtol=0)
    assert not any(p is model[0][0].matrix for p in model.parameters()), "nothing of it is trained"


def test_the_first_layer_is_found_by_what_it_is_given():
    class Twice(nn.Module):
        def __init__(self, both):
            super().__init__()
            self.a, self.b, self.both = nn.Flatten(), nn.Linear(24, 2), both

        def forward(self, x):
            return self.b(self.a(x)) + (self.b(self.a(x * 2)) if not self.both else self.b(x.flatten(1)))

    assert first_module(Twice(False), torch.zeros(1, 2, 3, 4)) == "a"
    assert first_module(nn.Sequential(nn.Sequential(nn.Flatten()), nn.Linear(24, 2)), torch.zeros(1, 2, 3, 4)) == "0.0"

    class Function(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2]

    with pytest.raises(BitwrightError, match="0 modules of Function are given the images"):
        first_module(Function(), torch.zeros(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"kind": None}, "neither kind nor contrast is set"),
        ({"kind": "whiten"}, "unknown preprocess: kind 'whiten'"),
        ({"epsilon": 0}, "epsilon is 0; expected a number above 0"),
        ({"contrast": -1.0}, r"contrast is -1\.0; expected a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, error):
    with pytest.raises(BitwrightError, match=error):
        Preprocess(**settings)


def test_images_too_large_for_a_covariance_are_refused():
    task = data()
    large = dataclasses.replace(task.train, images=np.zeros((2, 3, 128, 128), np.uint8), labels=np.arange(2))
    with pytest.raises(BitwrightError, match=r"49,152 numbers have a covariance"):
        Preprocess().look_ahead(conv_net(), dataclasses.replace(task, train=large))
