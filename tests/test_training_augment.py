"""Views of images: what each is, that they follow from the seed alone, and that teachers see the student's."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.fx
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitwright import BitwrightError
from bitwright.recipe import parse
from bitwright.training import colours, warp
from bitwright.training import teacher as teacher_module
from bitwright.training.augment import Views, kinds
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
    _, height, width = image.shape
    mode = {"black": "constant", "reflect": "reflect"}[settings.border]
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (crop, crop), (crop, crop)), mode))
    if settings.flip and flip < 0.5:
        padded = padded.flip(2)
    top, left = int(row * (2 * crop + 1)), int(column * (2 * crop + 1))
    return padded[:, top : top + height, left : left + width]


@given(
    flip=st.booleans(),
    crop=st.integers(0, 4),
    border=st.sampled_from(["black", "reflect"]),
    shape=st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9)),
    seed=st.integers(0, 99),
    floats=st.booleans(),
)
def test_every_view_is_what_its_numbers_say(flip, crop, border, shape, seed, floats):
    images, settings = pictures(5, shape, seed), Augment(flip, crop, border if crop else "black")
    images = images / 255.0 if floats else images
    before, make = images.clone(), Views(settings, images)
    numbers = make.draw(5, seed)
    views = make(images, numbers)
    assert (views.shape, views.dtype) == (images.shape, images.dtype)
    expected = torch.stack([by_hand(image, settings, row) for image, row in zip(images, numbers, strict=True)])
    assert torch.equal(views, expected)
    assert torch.equal(images, before)


def test_all_views_are_as_likely():
    """Among 20,000 views of one image each of the 2 * 25 occurs about 400 times (6 standard deviations)."""
    make = Views(BOTH, pictures(1))
    views = make(pictures(1).expand(20_000, -1, -1, -1), make.draw(20_000, 3))
    _, counts = views.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 50
    assert (counts - 400).abs().max() < 120


def test_the_largest_number_stays_inside():
    numbers = torch.full((1, 3), 1 - 2.0**-24)
    for crop in range(1, 30):
        image = pictures(1, (1, 32, 32))
        view = Views(Augment(crop=crop), image)(image, numbers)
        assert torch.equal(view[0, 0, :-crop, :-crop], image[0, 0, crop:, crop:])


EVERY = Augment(True, 2, "reflect", 0.3, 0.1, 20, 10, 0.3, 0.1, 0.3, 0.3, 0.3, 0.1, 0.1)


@pytest.mark.parametrize("settings", [BOTH, EVERY])
def test_a_samples_view_depends_on_its_own_numbers_only(settings):
    images = pictures()
    make = Views(settings, images)
    numbers = make.draw(64, 1)
    whole, some = make(images, numbers), torch.tensor([40, 3, 17])
    torch.testing.assert_close(make(images[some], numbers[some]), whole[some], atol=1e-6, rtol=0)


def test_switching_one_view_on_leaves_the_numbers_of_the_others():
    few, all_ = Views(BOTH, pictures()), Views(EVERY, pictures())
    assert torch.equal(all_.draw(9, 5)[:, :3], few.draw(9, 5))


def views_of(images, numbers, **settings):
    """Views by one setting, whose uniform numbers are given by name; the others are those that change nothing."""
    columns = {
        warp: ["side", "down", "right", "shift_y", "shift_x", "turn", "stretch", "shear", "lens"],
        colours: ["brightness", "contrast", "saturation", "hue", "one", "two", "three"],
    }
    rows = {module: torch.full((len(images), len(names)), 0.5) for module, names in columns.items()}
    rows[warp][:, 0] = 0
    for name, value in numbers.items():
        module = next(m for m, names in columns.items() if name in names)
        rows[module][:, columns[module].index(name)] = value
    make = Views(Augment(**settings), images)
    return make(images, torch.cat((torch.full((len(images), 3), 0.5), rows[warp], rows[colours]), 1))


@pytest.mark.parametrize("name", [n for n in dataclasses.asdict(EVERY) if n not in ("flip", "crop", "border")])
def test_a_view_in_the_middle_of_its_range_is_the_image(name):
    images = pictures(4) / 255
    torch.testing.assert_close(views_of(images, {}, **{name: getattr(EVERY, name)}), images, atol=1e-5, rtol=0)


def test_pixels_move_as_the_settings_say():
    x = pictures(3, (3, 8, 8)) / 255
    close = {"atol": 2e-5, "rtol": 0}
    quarter = views_of(x, {"turn": 0.75}, rotate=180)
    torch.testing.assert_close(quarter, x.rot90(1, (2, 3)), **close)
    down = views_of(x, {"shift_y": 0}, translate=0.25)
    torch.testing.assert_close(down[:, :, 2:], x[:, :, :-2], **close)
    assert not down[:, :, :2].any()
    window = views_of(x, {"side": 1, "down": 0, "right": 1 - 2**-24}, scale=0.5)
    torch.testing.assert_close(window[:, :, 1:7, 1:7].mean(), x[:, :, :4, 4:].mean(), atol=0.05, rtol=0)
    middle = torch.nn.functional.interpolate(x[:, :, :4, 4:], scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(window[:, :, 1:7, 1:7], middle[:, :, 1:7, 1:7], **close)
    line = torch.zeros(1, 1, 9, 9)
    line[..., 4] = 1
    slanted = views_of(line, {"shear": 1 - 2**-24}, shear=45)[0, 0]
    torch.testing.assert_close(slanted, torch.eye(9).flip(1), **close)


def test_a_stretch_keeps_the_area_and_a_lens_the_middle():
    square = torch.zeros(1, 1, 33, 33)
    square[..., 12:21, 12:21] = 1
    wide = views_of(square, {"stretch": 1 - 2**-24}, stretch=1.25)[0, 0]
    assert wide.sum().item() == pytest.approx(81, abs=1)
    assert (wide[16].sum() / wide[:, 16].sum()).item() == pytest.approx(2.25, abs=0.05)
    x = pictures(1, (1, 33, 33)) / 255
    for number, outside in ((0, 0), (1 - 2**-24, 1)):
        bent = views_of(torch.ones_like(x), {"lens": number}, lens=0.15)[0, 0]
        assert (bent[0, 0] == 0) == outside, "a pincushion's corners come from outside of the image"
        assert views_of(x, {"lens": number}, lens=0.15)[0, 0, 16, 16].item() == pytest.approx(x[0, 0, 16, 16].item())


def test_rotation_on_a_wide_image_keeps_lengths():
    bar = torch.zeros(1, 1, 11, 41)
    bar[0, 0, 5, 16:25] = 1
    upright = views_of(bar, {"turn": 0.75}, rotate=180)[0, 0]
    torch.testing.assert_close(upright[1:10, 20], torch.ones(9), atol=1e-4, rtol=0)


def test_colours_change_as_the_settings_say():
    x = pictures(3) / 255 * 0.4 + 0.3
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(views_of(x, {"brightness": 0.25}, brightness=0.4), 0.8 * x, **close)
    torch.testing.assert_close(views_of(x, {"saturation": 0}, saturation=1), luma.expand_as(x), **close)
    mean = luma.mean((2, 3), keepdim=True)
    torch.testing.assert_close(views_of(x, {"contrast": 0.75}, contrast=0.4), mean + 1.2 * (x - mean), **close)
    half_way = views_of(x * 0.2 + 0.4, {"hue": 0.75}, hue=0.5)
    again = views_of(half_way, {"hue": 0.25}, hue=0.5)
    torch.testing.assert_close(again, x * 0.2 + 0.4, atol=1e-3, rtol=0)
    assert (half_way - x).abs().max() > 0.05
    assert views_of(x, {"brightness": 1 - 2**-24}, brightness=1).max() == 1, "clamped"


def test_lighting_follows_the_principal_colours():
    """With pixels around one line of colours the shift is along it, as strong as the variance times the setting."""
    generator = torch.Generator().manual_seed(0)
    along = torch.tensor([2.0, 1, 0]) / 5**0.5
    x = 0.4 + 0.05 * torch.randn(50, 1, 8, 8, generator=generator) * along.reshape(1, 3, 1, 1)
    make = Views(Augment(lighting=1), x)
    shift = (make(x, make.draw(50, 0)) - x).mean((2, 3))
    off = shift - (shift @ along)[:, None] * along
    assert off.abs().max() < 1e-5
    assert (shift @ along).std().item() == pytest.approx(0.05**2, rel=0.3)
    grey = Views(Augment(lighting=0.5), x[:, :1])
    assert grey(x[:, :1], grey.draw(50, 0)).shape == (50, 1, 8, 8)


def test_views_of_uint8_and_of_float_images_are_the_same():
    make = Views(EVERY, pictures())
    numbers = make.draw(64, 2)
    torch.testing.assert_close(make(pictures(), numbers), make(pictures() / 255, numbers), atol=1e-5, rtol=0)


def test_kinds_names_what_is_switched_on():
    assert kinds(BOTH) == {"flip": Augment(flip=True), "crop": Augment(crop=2)}
    assert len(kinds(EVERY)) == 13
    assert kinds(EVERY)["crop"] == Augment(crop=2, border="reflect")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"rotate": 181}, r"augment\.rotate is 181; expected a number at least 0 and at most 180"),
        ({"hue": True}, r"augment\.hue is True; expected a number"),
        ({"lens": 0.2}, r"augment\.lens is 0\.2; .*at most 0\.15"),
    ],
)
def test_changes_too_large_are_refused(settings, error):
    with pytest.raises(BitwrightError, match=error):
        Augment(**settings)


def test_colours_of_grey_images_are_refused():
    with pytest.raises(BitwrightError, match=r"augment\.hue is 0\.1 for images of 1 channels; only red"):
        Views(Augment(hue=0.1), pictures(shape=(1, 6, 6)))


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


def test_a_border_without_a_crop_is_refused():
    with pytest.raises(BitwrightError, match=r"augment\.border is 'reflect', but there is no border: crop is 0"):
        Augment(flip=True, border="reflect")


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


def test_vectors_have_no_views():
    with pytest.raises(BitwrightError, match=r"the training samples have shape \(20,\); only images"):
        Views(Augment(flip=True), torch.rand(8, 20))
