"""Running statistics measured anew."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.context import Context
from bitwright.training.augment import Views
from bitwright.training.batchnorm import carry_over, reestimate
from bitwright.training.evaluate import as_tensor
from bitwright.training.loop import fit
from bitwright.training.rounds import Round
from bitwright.training.seeds import derive_seed
from bitwright.training.settings import Augment, TrainSettings
from training_cases import blobs, equal, linear_net, small_net, weights


def measure(net, images=5_000):
    """On so many training images of a fixed shuffle."""
    reestimate(net, as_tensor(blobs().sample(images).images), blobs().preprocess)


def deep_net():
    """Two norms, dropout between them."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 5, 2), nn.BatchNorm2d(5), nn.Flatten()
    )


def batch_statistics(net, batch):
    """Mean and unbiased variance in front of both norms, by hand."""
    with torch.no_grad():
        first = net[0](batch)
        mean, var = first.mean((0, 2, 3)), first.var((0, 2, 3), correction=0)
        shape = (1, -1, 1, 1)
        normed = (first - mean.view(shape)) / (var.view(shape) + net[1].eps).sqrt()
        second = net[3](normed * net[1].weight.view(shape) + net[1].bias.view(shape))
        return [(x.mean((0, 2, 3)), x.var((0, 2, 3))) for x in (first, second)]


def test_the_average_over_batches():
    data, net = blobs(), deep_net()
    images = as_tensor(data.train.images)
    reestimate(net, images, data.preprocess, batch_size=30)
    batches = data.preprocess.torch(images).split(30)
    found = [batch_statistics(net, batch) for batch in batches]
    for place, norm in enumerate((net[1], net[4])):
        mean = torch.stack([f[place][0] for f in found]).mean(0)
        var = torch.stack([f[place][1] for f in found]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, var, atol=1e-5, rtol=1e-4)


def test_statistics_of_training_follow_a_change():
    data, before = blobs(), deep_net()
    images = as_tensor(data.train.images)
    for norm in (before[1], before[4]):  # as if trained on other images than these
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    same, doubled = copy.deepcopy(before), copy.deepcopy(before)
    carry_over(same, before, images, data.preprocess)
    with torch.no_grad():
        doubled[0].weight.mul_(2)
        doubled[0].bias.mul_(2)
    carry_over(doubled, before, images, data.preprocess)
    close = {"atol": 1e-4, "rtol": 1e-3}
    for place in (1, 4):
        torch.testing.assert_close(same[place].running_mean, before[place].running_mean, **close)
        torch.testing.assert_close(same[place].running_var, before[place].running_var, **close)
    torch.testing.assert_close(doubled[1].running_mean, 2 * before[1].running_mean, **close)
    torch.testing.assert_close(doubled[1].running_var, 4 * before[1].running_var, **close)
    x = data.preprocess.torch(images[:50])
    torch.testing.assert_close(doubled.eval()(x), before.eval()(x), **close)


def test_nothing_else_changes():
    net = small_net(dropout=0.5)
    net[1].eval()  # an unusual mix of modes
    net[1].momentum = 0.25
    before, modes, random = weights(net), [m.training for m in net.modules()], torch.get_rng_state()
    measure(net, 50)
    after = weights(net)
    for name in ("1.running_mean", "1.running_var"):
        assert not torch.equal(before.pop(name), after.pop(name))
    assert int(before.pop("1.num_batches_tracked")) == 0
    assert int(after.pop("1.num_batches_tracked")) == 1
    assert equal(before, after)
    assert [m.training for m in net.modules()] == modes
    assert net[1].momentum == 0.25
    assert torch.equal(random, torch.get_rng_state())


def test_norms_that_only_run_in_training_keep_their_statistics():
    class Headed(nn.Sequential):
        def forward(self, x):
            x = self[1](self[0](x))
            return self[2](x) if self.training else x

    net = Headed(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    net(torch.randn(5, 1, 4, 4))  # statistics of both
    before = weights(net)
    reestimate(net, as_tensor(blobs().train.images), blobs().preprocess)
    after = weights(net)
    assert not torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("2."))


def test_it_forgets_what_was_there_and_repeats_itself():
    net = small_net()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[1].running_mean.fill_(1e6)
    for each in (net, other):
        measure(each)
    assert equal(weights(net), weights(other))


@pytest.mark.parametrize("count", [1, 99, 101, 250])
def test_no_batch_is_left_with_a_single_image(count):
    data, sizes = blobs(train=count if count > 1 else 2), []
    net = small_net()
    net.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    reestimate(net, as_tensor(data.train.images), data.preprocess)
    assert sum(sizes) == len(data.train)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 100


def test_a_model_without_norms_is_not_even_run():
    net = linear_net()
    net.register_forward_pre_hook(lambda *_: pytest.fail("run for nothing"))
    measure(net)


def test_an_average_repairs_broken_statistics():
    data, net = blobs(), small_net()
    with torch.no_grad():
        net[1].running_var.fill_(1e-8)
    context = Context(data)
    broken = context.evaluate(net).loss
    measure(net, 90)
    assert np.isfinite(broken)
    assert context.evaluate(net).loss < broken / 10


class Factor(nn.Module):
    factor = 1.0

    def forward(self, x):
        return self.factor * x


def test_a_norm_that_several_rounds_reach_takes_the_average_of_all():
    images, net = as_tensor(blobs().sample(90).images), nn.Sequential(Factor(), nn.BatchNorm2d(1), nn.Flatten())
    rounds = [Round(partial(setattr, net[0], "factor", factor), "") for factor in (1.0, 3.0)]
    reestimate(net, images, blobs().preprocess, rounds=rounds)
    x = blobs().preprocess.torch(images)
    assert torch.allclose(net[1].running_mean, 2 * x.mean())
    assert net[1].running_var > 4 * x.var()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("select", ["best", "last"])
def test_a_training_ends_with_norms_measured_anew(select, precision, tmp_path):
    """As if `reestimate` were called after it; the weights are the same, also where the finished training is loaded."""
    settings = TrainSettings(epochs=2, batch_size=30, select=select, precision=precision)
    again = dataclasses.replace(settings, norm_images=40)
    plain, nets = small_net(), [small_net(), small_net()]
    fit(plain, blobs(), settings)
    reestimate(plain, as_tensor(blobs().sample(40).images), blobs().preprocess)
    for net in nets:
        fit(net, blobs(), again, folder=tmp_path)
    assert all(equal(weights(net), weights(plain)) for net in nets)
    untrained = small_net()
    fit(untrained, blobs(), dataclasses.replace(again, epochs=0))
    assert not equal(weights(untrained), weights(small_net()))


def test_norms_are_measured_on_views_as_the_network_was_trained_on():
    """Crops of a padded image have another mean than the image."""
    settings = TrainSettings(epochs=0, augment=Augment(crop=3), norm_images=90)
    net, plain, task = small_net(), small_net(), blobs()
    fit(net, task, settings, seed=3)
    views = Views(settings.augment, as_tensor(task.train.images))
    images = as_tensor(task.sample(90).images)
    cropped = views(images, views.draw(90, derive_seed(3, "train", "norms")))
    reestimate(plain, cropped, task.preprocess)
    assert equal(weights(net), weights(plain))
    reestimate(plain, images, task.preprocess)
    assert not equal(weights(net), weights(plain))
