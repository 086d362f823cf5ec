"""Averages over views and models against the same computed by hand."""

import pytest
import torch
from torch import nn

from bitwright import BitwrightError
from bitwright.training.average import ManyViews, average_probabilities, evaluate_average
from bitwright.training.evaluate import evaluate
from training_cases import blobs, small_net


def any_size():
    """Global pooling: takes images of any size."""
    torch.manual_seed(3)
    layers = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    return nn.Sequential(*layers)


def images():
    return torch.from_numpy(blobs().test.images[:7])


def probabilities(model, x):
    with torch.no_grad():
        return model.eval()(blobs().preprocess.torch(x)).softmax(1)


def average(model, *views):
    return average_probabilities([model], images(), [blobs().preprocess], ManyViews(*views))


def test_ten_views_are_corners_and_middle_and_their_mirror_images():
    x, model = images(), small_net()
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    places = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    windows = [padded[:, :, i : i + 4, j : j + 4] for i, j in places]
    expected = sum(probabilities(model, v) for w in windows for v in (w, w.flip(3))) / 10
    torch.testing.assert_close(average(model, 10, 1), expected)
    two = (probabilities(model, x) + probabilities(model, x.flip(3))) / 2
    torch.testing.assert_close(average(model, 2), two)


def test_scales_resize_the_image():
    x, model = images().float() / 255 if images().dtype == torch.uint8 else images(), any_size()
    larger = nn.functional.interpolate(x, (6, 6), mode="bilinear", align_corners=False, antialias=True)
    expected = (probabilities(model, x) + probabilities(model, larger)) / 2
    torch.testing.assert_close(average(model, 1, 4, (1.0, 1.5)), expected)


def test_an_ensemble_is_the_mean_and_one_model_on_one_view_is_evaluated_as_ever():
    data, models = blobs(), [small_net(), any_size()]
    both = average_probabilities(models, images(), [data.preprocess] * 2, ManyViews())
    torch.testing.assert_close(both, sum(probabilities(m, images()) for m in models) / 2)
    one, plain = (
        evaluate_average(models[:1], data.test, [data.preprocess], ManyViews()),
        evaluate(models[0], data.test, data.preprocess),
    )
    assert one.error == plain.error
    assert one.loss == pytest.approx(plain.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("views", "error"),
    [
        ({"crops": 5}, "crops is 5; expected 1, 2 or 10"),
        ({"margin": -1}, "margin is -1; expected pixels"),
        ({"scales": (0.0,)}, r"scales are \(0\.0,\); expected factors above 0"),
    ],
)
def test_views_that_are_none_are_refused(views, error):
    with pytest.raises(BitwrightError, match=error):
        ManyViews(**views)


def test_models_that_do_not_fit_are_named():
    with pytest.raises(BitwrightError, match=r"Sequential can't take images of 6x6 pixels: leave scales at 1"):
        average(small_net(), 1, 4, (1.5,))
    prepare = [blobs().preprocess] * 2
    with pytest.raises(BitwrightError, match="a model gives 3 logits, the one before 4"):
        average_probabilities([small_net(classes=4), small_net()], images(), prepare, ManyViews())
    with pytest.raises(BitwrightError, match="nothing to evaluate"):
        evaluate_average([], blobs().test, [], ManyViews())
