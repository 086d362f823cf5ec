import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import BitwrightError
from bitwright.context import Context, compress
from bitwright.steps import Step, get_step
from bitwright.steps.train import Train
from bitwright.training.loop import fit
from bitwright.training.settings import Distill, Optimizer, TrainSettings
from training_cases import KillAt, Killed, blobs, equal, linear_net, small_net, weights

SHORT = TrainSettings(epochs=2, batch_size=30)


class TestTrain:
    def test_calls_are_numbered_and_see_different_orders(self, tmp_path):
        context = Context(blobs(), seed=3, folder=tmp_path, label="2-prune")
        one, two = linear_net(), linear_net()
        context.train(one, SHORT)
        context.train(two, SHORT)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["train-1", "train-2"]
        assert not equal(weights(one), weights(two))
        expected = linear_net()
        fit(expected, blobs(), SHORT, seed=3, label="2-prune/train-2")
        assert equal(weights(two), weights(expected))

    def test_the_folder_changes_no_result(self, tmp_path):
        one, two = linear_net(), linear_net()
        Context(blobs(), folder=tmp_path).train(one, SHORT)
        Context(blobs()).train(two, SHORT)
        assert equal(weights(one), weights(two))

    def test_a_step_that_is_run_again_goes_on(self, tmp_path):
        def step(progress=None):
            context, net = Context(blobs(), folder=tmp_path, label="s", progress=progress), linear_net()
            context.train(net, SHORT)
            with torch.no_grad():
                net[1].weight *= net[1].weight.abs() > 0.05
            context.train(net, dataclasses.replace(SHORT, epochs=3))
            return weights(net)

        class SecondTraining(KillAt):
            def start(self, label, total, done=0):
                self.batches = 7 if label == "s/train-2" else 10**9

        with pytest.raises(Killed):
            step(SecondTraining(0))
        resumed = step()
        whole = Context(blobs(), label="s")
        net = linear_net()
        whole.train(net, SHORT)
        with torch.no_grad():
            net[1].weight *= net[1].weight.abs() > 0.05
        whole.train(net, dataclasses.replace(SHORT, epochs=3))
        assert equal(resumed, weights(net))


class TestTeachers:
    def test_start_is_the_model_as_the_step_found_it(self):
        context, net = Context(blobs(), label="s"), linear_net()
        teacher = copy.deepcopy(net)
        context.begin(net)
        nn.init.zeros_(net[1].weight)
        twin = copy.deepcopy(net)
        settings = dataclasses.replace(SHORT, distill=Distill("start"))
        context.train(net, settings)
        fit(twin, blobs(), settings, teacher=teacher, label="s/train-1")
        assert equal(weights(net), weights(twin))

    def test_others_come_from_whoever_made_the_context(self):
        asked = []

        def find(name):
            asked.append(name)
            return linear_net()

        Context(blobs(), find_teacher=find).train(linear_net(), dataclasses.replace(SHORT, distill=Distill("1-train")))
        assert asked == ["1-train"]

    def test_no_beginning(self):
        with pytest.raises(BitwrightError, match=r"'step' wants teacher \"start\", but nobody called context\.begin"):
            Context(blobs()).train(linear_net(), dataclasses.replace(SHORT, distill=Distill()))

    def test_no_earlier_steps(self):
        with pytest.raises(BitwrightError, match="'step' wants teacher '1-train', but there are no earlier steps"):
            Context(blobs()).train(linear_net(), dataclasses.replace(SHORT, distill=Distill("1-train")))


class TestLooking:
    def test_evaluate_takes_the_named_split(self):
        context = Context(blobs(train=60, validation=30))
        assert context.evaluate(linear_net()).count == 30
        assert context.evaluate(linear_net(), "train").count == 60

    def test_calibration_is_a_fixed_shuffle(self):
        data = blobs()
        found = Context(data, seed=0).calibration(20)
        assert found.shape == (20, 1, 4, 4)
        assert found.dtype == torch.float32
        assert torch.equal(found, Context(data, seed=9).calibration(20))
        assert torch.equal(found[:5], Context(data).calibration(5))
        everything = Context(data).calibration(10**6)
        expected = data.preprocess(data.train.images)
        assert len(everything) == 90
        assert not np.array_equal(everything.numpy(), expected)  # shuffled
        np.testing.assert_array_equal(np.sort(everything.numpy(), axis=0), np.sort(expected, axis=0))

    def test_calibration_of_nothing(self):
        with pytest.raises(BitwrightError, match=r"0 training images wanted in 'step'; ask for at least one"):
            Context(blobs()).calibration(0)


class TestRemember:
    def test_computes_once_per_folder(self, tmp_path):
        calls = []

        def compute():
            calls.append(1)
            return {"scan": (1, 2.5), "none": None}

        expected = {"scan": [1, 2.5], "none": None}
        context = Context(blobs(), folder=tmp_path)
        assert context.remember("scan", compute) == context.remember("scan", compute) == expected
        assert Context(blobs(), folder=tmp_path).remember("scan", compute) == expected
        assert len(calls) == 1
        assert json.loads((tmp_path / "scan.json").read_text()) == expected

    def test_without_a_folder_it_lasts_as_long_as_the_context(self):
        calls = []
        context = Context(blobs())
        assert context.remember("x", lambda: calls.append(1) or (1,)) == [1]
        assert context.remember("x", lambda: calls.append(1) or (1,)) == [1]
        assert len(calls) == 1

    def test_what_comes_back_may_be_changed(self):
        context = Context(blobs())
        context.remember("x", lambda: [1]).append(2)
        assert context.remember("x", lambda: []) == [1]

    @pytest.mark.parametrize("name", ["../up", "", "a/b", "record", ".hidden"])
    def test_names_that_are_no_file(self, tmp_path, name):
        with pytest.raises(BitwrightError, match="'step' cannot remember under"):
            Context(blobs(), folder=tmp_path).remember(name, dict)

    def test_what_is_not_json(self):
        with pytest.raises(BitwrightError, match=r"'x' of 'step' is not JSON: .*give numbers, texts"):
            Context(blobs()).remember("x", lambda: np.zeros(2))
        with pytest.raises(BitwrightError, match="'y' of 'step' is not JSON"):
            Context(blobs()).record("y", {1, 2})


def test_records_are_kept_and_written(tmp_path):
    context = Context(blobs(), folder=tmp_path)
    context.record("density", {"fc1": 0.08})
    context.record("rounds", (1, 2))
    assert context.records == {"density": {"fc1": 0.08}, "rounds": [1, 2]}
    assert json.loads((tmp_path / "record.json").read_text()) == context.records


@dataclasses.dataclass(frozen=True)
class Scale(Step):
    """Multiplies every weight; tells what it saw."""

    name = "scale"
    by: float = 0.5
    settings: TrainSettings | None = None

    def apply(self, model, context):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= self.by
        if self.settings:
            context.train(model, self.settings)
        context.record("label", context.label)
        return model


class TestCompress:
    def test_steps_come_one_after_another(self, tmp_path):
        net = linear_net()
        start = weights(net)
        found = compress(net, [Scale(), Scale(by=3.0)], blobs(), folder=tmp_path)
        torch.testing.assert_close(found[1].weight, start["1.weight"] * 1.5)
        assert json.loads((tmp_path / "1-scale" / "record.json").read_text()) == {"label": "1-scale"}
        assert json.loads((tmp_path / "2-scale" / "record.json").read_text()) == {"label": "2-scale"}

    def test_is_the_packages_compress(self):
        assert bw.compress is compress

    def test_killed_and_called_again(self, tmp_path, monkeypatch):
        steps = [Train(epochs=2), Scale(settings=SHORT), Train(epochs=2)]
        final = weights(compress(linear_net(), steps, blobs(), seed=1))
        real, calls = Context.train, []

        def train(self, model, settings):
            calls.append(self.label)
            if len(calls) == 3:
                raise Killed
            return real(self, model, settings)

        monkeypatch.setattr(Context, "train", train)
        with pytest.raises(Killed):
            compress(linear_net(), steps, blobs(), seed=1, folder=tmp_path)
        assert calls == ["1-train", "2-scale", "3-train"]
        assert equal(weights(compress(linear_net(), steps, blobs(), seed=1, folder=tmp_path)), final)

    def test_an_earlier_step_teaches(self):
        distill = dataclasses.replace(SHORT, distill=Distill("1-train"))
        steps = [Train(epochs=2), Scale(by=0.0), Scale(settings=distill)]
        found = compress(linear_net(), steps, blobs())
        teacher = linear_net()
        fit(teacher, blobs(), TrainSettings(epochs=2), label="1-train/train-1")
        expected = linear_net()
        for parameter in expected.parameters():
            nn.init.zeros_(parameter)
        fit(expected, blobs(), distill, teacher=teacher, label="3-scale/train-1")
        assert equal(weights(found), weights(expected))

    def test_a_teacher_that_is_no_earlier_step(self):
        with pytest.raises(BitwrightError, match="teacher '2-scale' is no earlier step; known: \"start\" '1-train'"):
            compress(linear_net(), [Train(epochs=1, distill=Distill("2-scale")), Scale()], blobs())


class TestTrainStep:
    def test_is_found_by_name_and_takes_the_settings(self):
        assert get_step("train") is Train
        assert bw.steps.Train is Train
        known = {f.name for f in dataclasses.fields(TrainSettings)}
        assert {f.name for f in dataclasses.fields(Train)} == known | {"rates"}
        assert not Train.keeps_zeros

    def test_trains_like_fit_and_leaves_a_plain_model(self):
        step = Train(epochs=2, optimizer=Optimizer(lr=0.05))
        net, expected = small_net(), small_net()
        found = step.apply(net, Context(blobs(), label="1-train"))
        fit(expected, blobs(), TrainSettings(epochs=2, optimizer=Optimizer(lr=0.05)), label="1-train/train-1")
        assert equal(weights(found), weights(expected))
        assert set(vars(found)) == set(vars(small_net()))

    def test_wrong_values_are_named(self):
        with pytest.raises(BitwrightError, match="epochs is 'many'"):
            Train(epochs="many")
