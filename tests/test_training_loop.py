import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

import bitwright
from bitwright import BitwrightError
from bitwright.data.dataset import Split
from bitwright.training import train
from bitwright.training.history import Epoch, best_epoch
from bitwright.training.loop import batch_bounds, fit
from bitwright.training.losses import soft_targets
from bitwright.training.progress import Progress, RichProgress, default_progress
from bitwright.training.settings import Augment, Distill, Optimizer, Schedule, TrainSettings
from training_cases import blobs, equal, linear_net, small_net, weights

PLAIN = Optimizer("SGD", 0.5, {})


def test_learns_the_digits():
    data = bitwright.load_dataset("digits")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    history = fit(net, data, TrainSettings(epochs=5, optimizer=Optimizer(lr=0.05)))
    assert history.epochs[-1].validation_error <= 5
    assert bitwright.training.evaluate.evaluate(net, data.test, data.preprocess).error <= 6


def test_one_step_is_gradient_descent_on_the_mean_loss():
    net, data = linear_net(), blobs()
    start = weights(net)
    fit(net, data, TrainSettings(epochs=1, batch_size=90, optimizer=PLAIN, weight_decay=0, select="last"))
    x = data.preprocess(data.train.images).reshape(90, 16).astype(np.float64)
    w, b = start["1.weight"].double().numpy(), start["1.bias"].double().numpy()
    z = x @ w.T + b
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    difference = (p - np.eye(3)[data.train.labels]) / 90
    np.testing.assert_allclose(net[1].weight.detach(), w - 0.5 * difference.T @ x, atol=1e-6)
    np.testing.assert_allclose(net[1].bias.detach(), b - 0.5 * difference.sum(0), atol=1e-6)


@pytest.mark.parametrize("single", [{"batch_size": 1}, {"batch_size": 8, "images": 1}])
def test_batch_norm_on_one_sample_is_refused_in_words(single):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(BitwrightError, match="can't train on one sample at a time"):
        fit(net, blobs(single.get("images", 9)), TrainSettings(epochs=1, batch_size=single["batch_size"]))


def test_clipping_limits_the_norm_of_the_whole_gradient():
    nets = [linear_net(), linear_net()]
    start = weights(nets[0])
    moves = []
    for net, clip in zip(nets, (None, 0.01), strict=True):
        settings = TrainSettings(epochs=1, batch_size=90, optimizer=PLAIN, clip_norm=clip, weight_decay=0.5)
        fit(net, blobs(), settings)
        moves.append(torch.cat([(start[n] - t).flatten() for n, t in weights(net).items()]) / 0.5)
    assert moves[0].norm() > 0.1
    assert moves[1].norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(moves[1] / moves[1].norm(), moves[0] / moves[0].norm(), atol=1e-3, rtol=0)


def test_seed_and_label_decide_everything():
    def result(seed, label, noise):
        torch.manual_seed(noise)  # what the caller's generator holds must not matter
        net = small_net(dropout=0.3)
        fit(net, blobs(), TrainSettings(epochs=2), seed=seed, label=label)
        return weights(net)

    first = result(0, "train", 1)
    assert equal(first, result(0, "train", 2))
    assert not equal(first, result(1, "train", 1))
    assert not equal(first, result(0, "other", 1))


def test_the_callers_randomness_and_model_are_left_alone():
    net = small_net(dropout=0.3)
    net[1].eval()
    attributes, modes = set(vars(net)), [m.training for m in net]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    fit(net, blobs(), TrainSettings(epochs=1, precision="bf16"))
    assert torch.equal(torch.get_rng_state(), state)
    assert set(vars(net)) == attributes
    assert [m.training for m in net] == modes
    assert all(p.is_contiguous() for p in net.parameters())


@given(count=st.integers(1, 300), size=st.integers(1, 70))
def test_batches_cover_everything_once_and_leave_no_single_sample(count, size):
    bounds = batch_bounds(count, size)
    assert [i for first, last in bounds for i in range(first, last)] == list(range(count))
    assert all(last - first <= size + 1 for first, last in bounds)
    if count > 1 and size > 1:
        assert min(last - first for first, last in bounds) > 1


def test_batch_norm_survives_a_single_left_over_sample():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    assert len(fit(net, blobs(train=91), TrainSettings(epochs=1, batch_size=30)).epochs) == 1


@pytest.mark.parametrize("loss", ["cross-entropy", "squared-error", "squared-hinge"])
def test_every_loss_learns(loss):
    settings = TrainSettings(epochs=10, optimizer=Optimizer(lr=0.05), loss=loss)
    epochs = fit(linear_net(), blobs(), settings).epochs
    assert epochs[-1].train_loss < 0.7 * epochs[0].train_loss
    assert epochs[-1].validation_error < 20


def test_label_smoothing_lowers_confidence():
    def confidence(smoothing):
        net, data = linear_net(), blobs()
        fit(net, data, TrainSettings(epochs=20, optimizer=Optimizer(lr=0.1), label_smoothing=smoothing))
        x = data.preprocess.torch(torch.from_numpy(data.train.images))
        return net(x).softmax(1).max(1).values.mean().item()

    assert confidence(0.3) < confidence(0.0) - 0.1


def test_bf16_computes_in_bf16_and_keeps_float32_weights():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    net = nn.Sequential(nn.Flatten(), Spy(16, 3))
    for _ in range(2):  # the second training of the same model, too
        seen.clear()
        fit(net, blobs(), TrainSettings(epochs=1, precision="bf16"))
        assert torch.bfloat16 in seen
    seen.clear()
    fit(net, blobs(), TrainSettings(epochs=1))
    assert set(seen) == {torch.float32}
    assert net[1].weight.dtype == torch.float32


def errors(*values):
    return [Epoch(i, 0.0, 0.0, 0.0, v, 0.1, 0.0) for i, v in enumerate(values, 1)]


def test_best_epoch_is_the_earliest_of_equals():
    assert best_epoch(errors(5, 3, 4, 3)) == 2
    assert best_epoch([]) == 0


def snapshots(settings, seed=0):
    """A training and the weights after each of its epochs."""
    net, after = linear_net(), []

    class Watch(Progress):
        def update(self, done, text=""):
            if text:
                after.append(weights(net))

    history = fit(net, blobs(signal=25), settings, seed=seed, progress=Watch())
    return net, history, after


def test_select_best_and_last():
    settings = TrainSettings(epochs=6, optimizer=Optimizer(lr=1.0))
    net, history, after = snapshots(settings)
    found = [epoch.validation_error for epoch in history.epochs]
    assert history.selected == found.index(min(found)) + 1 < 6  # otherwise best and last are the same
    assert equal(weights(net), after[history.selected - 1])
    net, history, after = snapshots(dataclasses.replace(settings, select="last"))
    assert history.selected == 6
    assert equal(weights(net), after[-1])


def test_select_among_the_last_epochs():
    settings = TrainSettings(epochs=6, optimizer=Optimizer(lr=1.0), select_among=0.5)
    net, history, after = snapshots(settings)
    found = [epoch.validation_error for epoch in history.epochs]
    assert min(found[:3]) < min(found[3:])  # otherwise all epochs and the last three have the same best
    assert history.selected == found.index(min(found[3:]), 3) + 1
    assert equal(weights(net), after[history.selected - 1])
    tiny = dataclasses.replace(settings, select_among=1e-9)
    assert snapshots(tiny)[1].selected == 6


def test_layers_of_every_dimension_train_and_keep_their_layout():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.deep = nn.Conv2d(1, 3, 3), nn.Conv3d(1, 2, 2)
            self.up, self.line = nn.ConvTranspose2d(2, 2, 2), nn.Conv1d(2, 3, 8)

        def forward(self, x):
            x = self.up(self.deep(self.flat(x)[:, None]).amax(2))
            return self.line(nn.functional.pad(x.flatten(2), (0, 4))).squeeze(2)

    net = Net()
    epochs = fit(net, blobs(), TrainSettings(epochs=8, optimizer=Optimizer("Adam", 0.02, {}))).epochs
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert all(p.is_contiguous() for p in net.parameters())


def test_equal_threads_give_equal_bits():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        nets = [nn.Sequential(nn.Conv2d(1, 32, 3), nn.Flatten(), nn.Linear(128, 3)) for _ in range(2)]
        nets[1].load_state_dict(nets[0].state_dict())
        for net in nets:
            fit(net, blobs(train=600), TrainSettings(epochs=1, batch_size=200))
    finally:
        torch.set_num_threads(threads)
    assert equal(weights(nets[0]), weights(nets[1]))


def test_patience_stops_early():
    settings = TrainSettings(epochs=30, optimizer=Optimizer(lr=1.0), patience=3)
    _, history, _ = snapshots(settings)
    found = [epoch.validation_error for epoch in history.epochs]
    assert len(found) == best_epoch(history.epochs) + 3 < 30


def test_no_epochs_change_nothing(tmp_path):
    net = small_net()
    start = weights(net)
    assert fit(net, blobs(), TrainSettings(epochs=0), folder=tmp_path).epochs == ()
    assert equal(weights(net), start)


def test_training_figures_are_means_over_the_samples():
    net, data = linear_net(), blobs()
    settings = TrainSettings(epochs=1, batch_size=40, optimizer=Optimizer("SGD", 1e-12, {}), weight_decay=0)
    epoch = fit(net, data, settings).epochs[0]  # weights that stand still: figures of all 90 by hand
    z = net(data.preprocess.torch(torch.from_numpy(data.train.images)))
    y = torch.from_numpy(data.train.labels)
    assert epoch.train_loss == pytest.approx(nn.functional.cross_entropy(z, y).item(), rel=1e-5)
    assert epoch.train_error == pytest.approx(100 * (z.argmax(1) != y).float().mean().item())


class TestDistillation:
    def test_weight_one_forgets_the_labels(self):
        data = blobs()
        lying = dataclasses.replace(data, train=Split(data.train.images, (data.train.labels + 1) % 3))
        teacher = linear_net()
        fit(teacher, data, TrainSettings(epochs=20, optimizer=Optimizer(lr=0.1)))
        for kind in ("soft", "logits", "centred", "log-probabilities"):
            student = linear_net()
            settings = TrainSettings(
                epochs=30, optimizer=Optimizer(lr=0.05), distill=Distill(kind=kind, weight=1.0), select="last"
            )
            assert fit(student, lying, settings, teacher=teacher).epochs[-1].validation_error < 10

    def test_the_objective_mixes_both_losses(self):
        student, teacher, data = linear_net(), small_net(dropout=0.5), blobs()
        settings = TrainSettings(
            epochs=1, batch_size=90, optimizer=Optimizer("SGD", 1e-12, {}), distill=Distill(weight=0.25, temperature=3)
        )
        found = fit(student, data, settings, teacher=teacher).epochs[0].train_loss
        x, y = data.preprocess.torch(torch.from_numpy(data.train.images)), torch.from_numpy(data.train.labels)
        zs, zt = student(x), teacher.eval()(x)
        expected = 0.75 * nn.functional.cross_entropy(zs, y) + 0.25 * soft_targets(zs, zt, 3)
        assert found == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize(
        ("at", "inplace", "views"), [("2", False, None), ("2", False, Augment()), ("1", True, None)]
    )
    def test_outputs_inside_are_compared_in_place_of_logits(self, at, inplace, views):
        """Those of a layer as well, whose activation works in place."""
        data = blobs()
        torch.manual_seed(0)
        student, teacher = (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace), nn.Linear(8, 3)) for _ in "st"
        )
        settings = TrainSettings(
            epochs=1,
            batch_size=90,
            augment=views,
            weight_decay=0,
            optimizer=Optimizer("SGD", 1e-12, {}),
            distill=Distill(kind="logits", at=at, weight=1.0),
        )
        found = fit(student, data, settings, teacher=teacher).epochs[0].train_loss
        x = data.preprocess.torch(torch.from_numpy(data.train.images))
        difference = student[: int(at) + 1](x) - teacher[: int(at) + 1](x)
        assert found == pytest.approx(difference.square().sum(1).mean().item() / 2, rel=1e-5)
        settings = dataclasses.replace(settings, epochs=30, optimizer=Optimizer("SGD", 0.05, {}))
        last = weights(student)["3.weight"]
        assert fit(student, data, settings, teacher=teacher).epochs[-1].train_loss < 0.7 * found
        assert torch.equal(weights(student)["3.weight"], last), "what lies behind gets no gradient"
        assert not any(module._forward_hooks for one in (student, teacher) for module in one)

    def test_a_module_that_is_not_in_both_is_refused(self):
        def fails(match, student, **kind):
            with pytest.raises(BitwrightError, match=match):
                fit(student, blobs(), TrainSettings(epochs=1, distill=Distill(**kind)), teacher=small_net())

        fails("distill.at is 'relu', and the model calls no module", small_net(), kind="logits", at="relu")
        fails("'1' gives 3 numbers in the model and", linear_net(), kind="logits", at="1")
        frozen = small_net()
        frozen[0].requires_grad_(False)
        fails("distill.at is '0', and training 'train' changes no parameter", frozen, kind="logits", at="0")
        with pytest.raises(BitwrightError, match=r"distill\.at compares numbers as they are"):
            Distill(at="1")
        with pytest.raises(BitwrightError, match=r"distill\.at is 3; expected the name"):
            Distill(kind="logits", at=3)

    def test_a_file_keeps_the_teachers_logits(self, tmp_path, monkeypatch):
        data, teacher, path = blobs(), small_net(), tmp_path / "logits.safetensors"
        plain, cached = (TrainSettings(epochs=2, distill=Distill(cache=cache)) for cache in (None, str(path)))
        students = [linear_net() for _ in range(3)]
        fit(students[0], data, plain, teacher=teacher)
        fit(students[1], data, cached, teacher=teacher)
        monkeypatch.setattr("bitwright.training.teacher.predict_logits", None)  # nobody asks the teacher again
        fit(students[2], data, cached, teacher=teacher)
        assert equal(weights(students[0]), weights(students[1]))
        assert equal(weights(students[0]), weights(students[2]))

    @pytest.mark.parametrize("what", ["teacher", "kind of teacher", "data set", "preprocessing"])
    def test_a_file_of_other_logits_is_refused(self, what, tmp_path):
        data, teacher, path = blobs(), small_net(), tmp_path / "logits.safetensors"
        settings = TrainSettings(epochs=1, distill=Distill(cache=str(path)))
        fit(linear_net(), data, settings, teacher=teacher)
        if what == "teacher":
            teacher = small_net(dropout=0.1)
            teacher[0].weight.data.mul_(2)
        elif what == "kind of teacher":
            what, teacher = "teacher", nn.Sequential(*teacher, nn.Tanh())
        elif what == "preprocessing":
            data = dataclasses.replace(data, preprocess=dataclasses.replace(data.preprocess, mean=(0.1,), std=(1.0,)))
        else:
            images = data.train.images.copy()
            images[1] += 1
            data = dataclasses.replace(data, train=Split(images, data.train.labels))
        with pytest.raises(BitwrightError, match=f"holds logits of another {what} than this training's"):
            fit(linear_net(), data, settings, teacher=teacher)

    def test_a_file_that_is_damaged_and_a_place_for_none_are_refused(self, tmp_path):
        path = tmp_path / "logits.safetensors"

        def fails(match, place=path):
            with pytest.raises(BitwrightError, match=match):
                fit(
                    linear_net(),
                    blobs(),
                    TrainSettings(epochs=1, distill=Distill(cache=str(place))),
                    teacher=small_net(),
                )

        fit(linear_net(), blobs(), TrainSettings(epochs=1, distill=Distill(cache=str(path))), teacher=small_net())
        with safe_open(path, framework="pt") as file:
            logits, said = file.get_tensor("logits"), file.metadata()
        for changed in (logits[:-1], logits[:, :-1], logits * torch.nan):
            path.write_bytes(save({"logits": changed.contiguous()}, said))
            fails("no file of a teacher's logits .it holds others than it says")
        path.write_bytes(save({"logits": logits}, {"bitwright-teacher": "[]"}))
        fails("no file of a teacher's logits .it holds others than it says")
        path.write_bytes(b"nothing")
        fails("no file of a teacher's logits")
        fails("no file can be written", path / "inside")

    def test_views_and_a_file_exclude_each_other(self, tmp_path):
        distill = Distill(cache=str(tmp_path / "x"))
        settings = TrainSettings(epochs=1, distill=distill, augment=Augment(flip=True))
        with pytest.raises(BitwrightError, match=r"distill\.cache\), but augment shows other views"):
            fit(linear_net(), blobs(), settings, teacher=small_net())

    def test_the_teacher_is_not_changed(self):
        teacher = small_net(dropout=0.5)
        start = weights(teacher)
        fit(linear_net(), blobs(), TrainSettings(epochs=1, distill=Distill()), teacher=teacher)
        assert equal(weights(teacher), start)
        assert teacher.training
        assert all(p.grad is None for p in teacher.parameters())

    def test_settings_and_teacher_belong_together(self):
        with pytest.raises(BitwrightError, match="'train' has no teacher; distilling needs both"):
            fit(linear_net(), blobs(), TrainSettings(epochs=1, distill=Distill()))
        with pytest.raises(BitwrightError, match=r"has a teacher, but settings\.distill is not set"):
            fit(linear_net(), blobs(), TrainSettings(epochs=1), teacher=linear_net())
        with pytest.raises(BitwrightError, match="the teacher gives 4 logits, the model 3"):
            fit(linear_net(), blobs(), TrainSettings(epochs=1, distill=Distill()), teacher=linear_net(4))


class TestBadInput:
    def test_divergence_names_label_epoch_and_remedy(self):
        settings = TrainSettings(epochs=5, optimizer=Optimizer(lr=1e30))
        message = (
            r"the loss is (nan|inf) in epoch \d of '2-share/train-1': .*lr=1e\+29 instead of 1e\+30.*clip_norm=1\.0"
        )
        with pytest.raises(BitwrightError, match=message):
            fit(small_net(), blobs(), settings, label="2-share/train-1")

    def test_clipping_is_told_to_be_tighter(self):
        settings = TrainSettings(epochs=5, optimizer=Optimizer(lr=1e38), clip_norm=5)
        with pytest.raises(BitwrightError, match="or a clip_norm below 5"):
            fit(linear_net(), blobs(), settings)

    def test_weights_that_diverge_in_the_last_step(self):
        settings = TrainSettings(epochs=1, batch_size=90, optimizer=Optimizer(lr=3e38), weight_decay=1e3)
        with pytest.raises(BitwrightError, match=r"1\.weight holds (-?inf|nan) in epoch 1 of 'train'; try a smaller"):
            fit(linear_net(), blobs(), settings)

    def test_weights_that_come_broken(self):
        net = linear_net()
        with torch.no_grad():
            net[1].weight[0, 0] = math.nan
        with pytest.raises(BitwrightError, match=r"1\.weight holds nan before 'train'; start from weights"):
            fit(net, blobs(), TrainSettings(epochs=1))

    def test_validation_that_diverges(self):
        data = blobs()
        images = data.validation.images.astype(np.float32)
        images[0] = np.nan
        broken = dataclasses.replace(data, validation=Split(images, data.validation.labels))
        with pytest.raises(BitwrightError, match="the validation loss is nan in epoch 1 of 'train'"):
            fit(linear_net(), broken, TrainSettings(epochs=1))

    @pytest.mark.parametrize("name", ["train", "validation"])
    def test_empty_splits(self, name):
        data = blobs()
        empty = Split(data.train.images[:0], data.train.labels[:0])
        with pytest.raises(BitwrightError, match=f"the {name} split of 'blobs' is empty; training 'train' needs it"):
            fit(linear_net(), dataclasses.replace(data, **{name: empty}), TrainSettings(epochs=1))

    @pytest.mark.parametrize(
        ("net", "message"),
        [
            (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), r"the model, a Sequential, can't take .*\(1, 4, 4\) each"),
            (linear_net(classes=2), "the model gives 2 logits, but there is a label 2; create it with num_classes=3"),
            (nn.Conv2d(1, 3, 3), r"the model gives \(2, 3, 2, 2\) for 2 images; expected \(2, classes\)"),
            (nn.MaxPool2d(2, return_indices=True), "the model, a MaxPool2d, can't .* one tensor of logits: 'tuple'"),
        ],
    )
    def test_models_that_do_not_fit_the_data(self, net, message):
        with pytest.raises(BitwrightError, match=message):
            fit(net, blobs(), TrainSettings(epochs=1))

    def test_a_class_that_only_validation_has(self):
        data = blobs()
        more = dataclasses.replace(data, validation=Split(data.validation.images, data.validation.labels + 1))
        with pytest.raises(BitwrightError, match="gives 3 logits, but there is a label 3"):
            fit(linear_net(), more, TrainSettings(epochs=1))


class TestFolder:
    def test_metrics_are_one_json_object_per_line(self, tmp_path):
        history = fit(small_net(), blobs(), TrainSettings(epochs=3), folder=tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert lines == [dataclasses.asdict(epoch) for epoch in history.epochs]
        assert [line["epoch"] for line in lines] == [1, 2, 3]

    def test_tensorboard_gets_every_epoch(self, tmp_path):
        from tensorboardX.proto.event_pb2 import Event

        history = fit(small_net(), blobs(), TrainSettings(epochs=3), folder=tmp_path)
        (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
        data, found = file.read_bytes(), {}
        while data:  # a record: length, its checksum, the event, its checksum
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
        expected = {epoch.epoch: pytest.approx(epoch.validation_error, rel=1e-6) for epoch in history.epochs}
        assert found["error/validation"] == expected
        assert set(found) >= {"loss/train", "loss/validation", "error/train", "lr"}

    def test_a_folder_changes_no_result(self, tmp_path):
        with_folder, without = small_net(0.3), small_net(0.3)
        fit(with_folder, blobs(), TrainSettings(epochs=2), folder=tmp_path)
        fit(without, blobs(), TrainSettings(epochs=2))
        assert equal(weights(with_folder), weights(without))


class TestProgress:
    def test_counts_batches_from_start_to_end(self):
        calls = []

        class Log(Progress):
            def start(self, label, total, done=0):
                calls.append(("start", label, total, done))

            def update(self, done, text=""):
                calls.append(("update", done, text))

            def finish(self):
                calls.append(("finish",))

        fit(linear_net(), blobs(), TrainSettings(epochs=2, batch_size=30), progress=Log(), label="1-train")
        assert calls[0] == ("start", "1-train", 6, 0)
        assert calls[-1] == ("finish",)
        assert calls[-2][1] == 6
        assert calls[-2][2].startswith("validation error ")

    def test_finishes_after_an_error(self):
        calls = []

        class Log(Progress):
            def finish(self):
                calls.append("finish")

        with pytest.raises(BitwrightError):
            fit(linear_net(), blobs(), TrainSettings(optimizer=Optimizer(lr=1e38)), progress=Log())
        assert calls == ["finish"]

    def test_a_bar_only_where_somebody_watches(self, monkeypatch, capsys):
        monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
        assert type(default_progress()) is Progress
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        assert type(default_progress()) is RichProgress
        monkeypatch.setenv("FORCE_COLOR", "1")
        fit(linear_net(), blobs(), TrainSettings(epochs=2), progress=RichProgress(), label="1-train")
        out, err = capsys.readouterr()
        assert "1-train" in err
        assert out == ""


class TestTrainFunction:
    def test_names_stand_for_settings(self):
        ours, long = small_net(), small_net()
        assert train(ours, blobs(), epochs=2, seed=3, optimizer="AdamW", lr=0.003, schedule="cosine") is ours
        settings = TrainSettings(
            epochs=2, optimizer=Optimizer("AdamW", 0.003, {}), schedule=Schedule("cosine"), weight_decay=5e-4
        )
        fit(long, blobs(), settings, seed=3)
        assert equal(weights(ours), weights(long))

    def test_sgd_keeps_its_momentum(self):
        ours, long = linear_net(), linear_net()
        train(ours, blobs(), epochs=2, optimizer="SGD")
        fit(long, blobs(), TrainSettings(epochs=2))
        assert equal(weights(ours), weights(long))

    def test_a_teacher_is_enough_to_distil(self):
        ours, long = linear_net(), linear_net()
        train(ours, blobs(), epochs=1, teacher=small_net())
        fit(long, blobs(), TrainSettings(epochs=1, distill=Distill()), teacher=small_net())
        assert equal(weights(ours), weights(long))

    def test_unknown_settings_list_the_known(self):
        with pytest.raises(BitwrightError, match=r"unknown training setting 'learning_rate'.*batch_size.*lr"):
            train(linear_net(), blobs(), learning_rate=0.1)

    def test_is_the_packages_train(self):
        assert bitwright.train is train
