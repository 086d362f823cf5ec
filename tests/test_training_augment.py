"""Views of images: what each is, that they follow from the seed alone, and that teachers see the student's."""

import dataclasses
from typing import ClassVar

import pytest
import torch
import torch.fx
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitwright import BitwrightError
from bitwright.recipe import parse
from bitwright.training import teacher as teacher_module
from bitwright.training.augment import augment, draw
from bitwright.training.batchnorm import reestimate
from bitwright.training.devices import Devices
from bitwright.training.loop import fit
from bitwright.training.settings import Augment, Distill, Optimizer, TrainSettings
from training_cases import blobs, equal, linear_net, small_net, weights

BOTH = Augment(flip=True, crop=2)
CIFAR = {"name": "r", "data": "digits", "model": "mlp"}


def pictures(count=64, shape=(3, 6, 7), seed=0):
    return torch.randint(1, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def by_hand(image, settings, numbers):
    """The view's definition: pad, mirror, cut."""
    flip, row, column = numbers.tolist()
    crop = settings.crop
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * crop, width + 2 * crop, dtype=image.dtype)
    padded[:, crop : crop + height, crop : crop + width] = image
    if settings.flip and flip < 0.5:
        padded = padded.flip(2)
    top, left = int(row * (2 * crop + 1)), int(column * (2 * crop + 1))
    return padded[:, top : top + height, left : left + width]


@given(
    flip=st.booleans(),
    crop=st.integers(0, 4),
    shape=st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9)),
    seed=st.integers(0, 99),
    floats=st.booleans(),
)
def test_every_view_is_what_its_numbers_say(flip, crop, shape, seed, floats):
    images, settings = pictures(5, shape, seed), Augment(flip, crop)
    images = images / 255.0 if floats else images
    before, numbers = images.clone(), draw(5, seed)
    views = augment(images, settings, numbers)
    assert (views.shape, views.dtype) == (images.shape, images.dtype)
    expected = torch.stack([by_hand(image, settings, row) for image, row in zip(images, numbers, strict=True)])
    assert torch.equal(views, expected)
    assert torch.equal(images, before)


def test_all_views_are_as_likely():
    """Among 20,000 views of one image each of the 2 * 25 occurs about 400 times (6 standard deviations)."""
    views = augment(pictures(1).expand(20_000, -1, -1, -1), BOTH, draw(20_000, 3))
    _, counts = views.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 50
    assert (counts - 400).abs().max() < 120


def test_the_largest_number_stays_inside():
    numbers = torch.full((1, 3), 1 - 2.0**-24)
    for crop in range(1, 30):
        image = pictures(1, (1, 32, 32))
        assert torch.equal(augment(image, Augment(crop=crop), numbers)[0, 0, :-crop, :-crop], image[0, 0, crop:, crop:])


def test_a_samples_view_depends_on_its_own_numbers_only():
    images, numbers = pictures(), draw(64, 1)
    whole, some = augment(images, BOTH, numbers), torch.tensor([40, 3, 17])
    assert torch.equal(augment(images[some], BOTH, numbers[some]), whole[some])


class Seen(nn.Module):
    """A linear layer that keeps what it is shown while training, and in eval mode what it answers."""

    def __init__(self):
        super().__init__()
        self.net, self.shown = linear_net(), []

    def forward(self, x):
        if self.training:
            self.shown.append(x.detach().clone())
        return self.net(x)


def shown(settings, **arguments):
    net = Seen()
    fit(net, blobs(), settings, **arguments)
    return torch.cat(net.shown)


ONE = TrainSettings(epochs=1, batch_size=30, augment=Augment(flip=True, crop=1))


def test_each_epoch_and_each_label_has_its_own_views_and_a_seed_repeats_them():
    two = dataclasses.replace(ONE, epochs=2)
    first, again = shown(two, seed=4), shown(two, seed=4)
    assert torch.equal(first, again)

    def set_of(images):
        return {image.numpy().tobytes() for image in images}

    plain = set_of(shown(dataclasses.replace(ONE, augment=None)))
    assert len(set_of(first[:90]) - plain) > 45
    assert len(set_of(first[:90]) - set_of(first[90:])) > 45
    assert set_of(shown(ONE, seed=4)) == set_of(first[:90]) != set_of(shown(ONE, seed=5))
    assert set_of(shown(ONE, label="a")) != set_of(shown(ONE, label="b"))


def test_views_do_not_depend_on_the_batch_size():
    def rows(images):
        return sorted(image.numpy().tobytes() for image in images)

    assert rows(shown(ONE)) == rows(shown(dataclasses.replace(ONE, batch_size=7)))


def test_validation_images_stay_as_they_are():
    still = dataclasses.replace(ONE, optimizer=Optimizer("SGD", 1e-12, {}))
    plain = dataclasses.replace(still, augment=None)
    one, other = (fit(linear_net(), blobs(), settings).epochs[0] for settings in (still, plain))
    assert one.validation_loss == other.validation_loss
    assert one.train_loss != other.train_loss


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(BitwrightError, match=r"augment\.crop is 4 for images of 4x4 pixels.*below 4"):
        fit(linear_net(), blobs(), dataclasses.replace(ONE, augment=Augment(crop=4)))


class Taught(nn.Module):
    """A teacher with dropout that keeps what it was asked and how. Symbols can't take its forward."""

    asked: ClassVar[list] = []
    modes: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self.net = small_net(dropout=0.5)

    def forward(self, x):
        if x.isfinite().all():
            self.asked.append(x.clone())
        self.modes.append((self.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return self.net(x)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_teacher_sees_the_students_views(precision):
    settings = dataclasses.replace(ONE, distill=Distill(), precision=precision)
    Taught.asked.clear(), Taught.modes.clear()
    student, teacher = Seen(), Taught()
    start = weights(teacher)
    fit(student, blobs(), settings, teacher=teacher)
    assert torch.equal(torch.cat(Taught.asked[-3:]), torch.cat(student.shown))
    assert set(Taught.modes[-3:]) == {(False, False, precision == "bf16")}
    assert equal(weights(teacher), start)
    assert all(p.grad is None for p in teacher.parameters())


class Odd(nn.Module):
    """Another function of symbols than of numbers."""

    def __init__(self):
        super().__init__()
        self.net = settled_net()

    def forward(self, x):
        return self.net(x) * (1 + isinstance(x, torch.fx.Proxy))


def settled_net():
    """With a norm that does something."""
    net = small_net()
    reestimate(net, torch.from_numpy(blobs().train.images), blobs().preprocess)
    return net


@pytest.mark.parametrize(("make", "norms"), [(settled_net, 0), (Odd, 1)])
def test_a_teachers_norms_are_folded_where_that_changes_nothing(make, norms):
    teacher, data = make(), blobs()
    images = torch.from_numpy(data.train.images)
    fused = teacher_module._fused(teacher.eval(), data.preprocess.torch(images[:2]))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fused.modules()) == norms
    targets = teacher_module.computed_each_time(teacher, images, data.preprocess, Devices("float32", None))
    x = data.preprocess.torch(images)
    torch.testing.assert_close(targets(torch.arange(90), x), teacher(x).detach(), atol=1e-4, rtol=1e-4)
    assert any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules()), "the teacher itself stays as it is"


@pytest.mark.parametrize("kind", ["soft", "logits"])
def test_views_that_change_nothing_teach_what_is_computed_once(kind):
    settings = dataclasses.replace(ONE, epochs=3, distill=Distill(kind=kind, weight=0.7))
    nets = [small_net(), small_net()]
    for net, views in zip(nets, (None, Augment()), strict=True):
        fit(net, blobs(), dataclasses.replace(settings, augment=views), teacher=small_net(classes=3))
    for name, tensor in weights(nets[0]).items():
        torch.testing.assert_close(weights(nets[1])[name], tensor, atol=1e-5, rtol=1e-5)


def test_recipes_name_views():
    steps = [{"train": {"epochs": 1, "augment": {"flip": True, "crop": 4}}}]
    assert parse({**CIFAR, "steps": steps}).steps[0].augment == Augment(flip=True, crop=4)
    with pytest.raises(BitwrightError, match=r"unknown key steps\[0\]\.train\.augment\.flop; did you mean 'flip'"):
        parse({**CIFAR, "steps": [{"train": {"augment": {"flop": True}}}]})
