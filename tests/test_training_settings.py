import dataclasses
import subprocess
import sys

import pytest

from bitwright import BitwrightError
from bitwright.training.seeds import derive_seed
from bitwright.training.settings import Augment, Distill, Optimizer, Schedule, TrainSettings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainSettings(epochs=-1), r"epochs is -1; expected a whole number of at least 0"),
        (lambda: TrainSettings(epochs=2.5), r"epochs is 2\.5; expected a whole number"),
        (lambda: TrainSettings(epochs=True), r"epochs is True; expected a whole number"),
        (lambda: TrainSettings(batch_size=0), r"batch_size is 0; expected a whole number of at least 1"),
        (lambda: TrainSettings(weight_decay=-1e-4), r"weight_decay is -0\.0001; expected a number at least 0"),
        (lambda: TrainSettings(l1=float("nan")), r"l1 is nan; expected a number at least 0"),
        (lambda: TrainSettings(label_smoothing=1.5), r"label_smoothing is 1\.5; .* at least 0 and at most 1"),
        (lambda: TrainSettings(loss="hinge"), r"unknown loss 'hinge'.*squared-hinge"),
        (lambda: TrainSettings(select="first"), r"unknown select 'first'.*best, last"),
        (lambda: TrainSettings(precision="fp16"), r"unknown precision 'fp16'.*bf16, float32"),
        (lambda: TrainSettings(clip_norm=0), r"clip_norm is 0; expected a number above 0"),
        (lambda: TrainSettings(patience=0), r"patience is 0; expected a whole number of at least 1"),
        (lambda: TrainSettings(optimizer="SGD"), r"optimizer is 'SGD'; expected Optimizer"),
        (lambda: TrainSettings(schedule=None), r"schedule is None; expected Schedule"),
        (lambda: TrainSettings(distill="start"), r"distill is 'start'; expected Distill"),
        (
            lambda: TrainSettings(loss="squared-error", label_smoothing=0.1),
            r"label_smoothing is 0\.1 with loss 'squared-error'; only cross-entropy",
        ),
        (
            lambda: TrainSettings(epochs=3, schedule=Schedule(warmup=3)),
            r"warmup is 3 epochs of 3; it must end before",
        ),
        (lambda: Optimizer(lr=0), r"optimizer\.lr is 0; expected a number above 0"),
        (lambda: Optimizer(lr="fast"), r"optimizer\.lr is 'fast'; expected a number"),
        (lambda: Optimizer(options=("momentum", 0.9)), r"optimizer\.options is \('momentum', 0\.9\); give a table"),
        (lambda: Optimizer(options={"momentum": {0.9}}), r"give a table of SGD's keyword arguments with plain numbers"),
        (lambda: Schedule("linear"), r"unknown schedule 'linear'.*one-cycle"),
        (lambda: Schedule("step"), r"schedule 'step' has no milestones; give the epochs"),
        (lambda: Schedule("step", milestones="80"), r"milestones is '80'; give a list"),
        (lambda: Schedule("step", milestones=(0,)), r"schedule\.milestones is 0; expected a number above 0"),
        (lambda: Schedule(warmup=-1), r"schedule\.warmup is -1; expected a number at least 0"),
        (lambda: Schedule(gamma=-1), r"schedule\.gamma is -1"),
        (lambda: Schedule(final=-1), r"schedule\.final is -1"),
        (lambda: Schedule(patience=0), r"schedule\.patience is 0"),
        (lambda: TrainSettings(select_among=0), r"select_among is 0; expected a number above 0 and at most 1"),
        (lambda: TrainSettings(select_among=0.5, patience=2), r"select_among is 0\.5 with patience 2; .* leave one"),
        (lambda: Distill(kind="hard"), r"unknown distill\.kind 'hard'.*soft"),
        (lambda: Distill(others=-1), r"distill\.others is -1; expected a number at least 0"),
        (lambda: Distill(standardise=True), r"distill\.standardise is for regressions .* distill\.kind is soft"),
        (lambda: Distill(cache=3), r"distill\.cache is 3; expected the path of a file"),
        (lambda: Distill(temperature=0), r"distill\.temperature is 0; expected a number above 0"),
        (lambda: Distill(weight=2), r"distill\.weight is 2; expected a number at least 0 and at most 1"),
        (lambda: TrainSettings(augment="flip"), r"augment is 'flip'; expected Augment"),
        (lambda: Augment(flip=1), r"augment\.flip is 1; expected true"),
        (lambda: Augment(crop=-1), r"augment\.crop is -1; expected a whole number of at least 0"),
        (lambda: Distill(teacher=""), r"distill\.teacher is ''; give"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises(BitwrightError, match=message):
        make()


def test_milestones_from_yaml_lists_become_tuples():
    assert Schedule("step", milestones=[1, 2.5]) == Schedule("step", milestones=(1, 2.5))


def test_settings_survive_a_round_trip_through_plain_data():
    settings = TrainSettings(epochs=3, optimizer=Optimizer("Adam", 1e-3, {"betas": [0.9, 0.99]}), distill=Distill())
    plain = dataclasses.asdict(settings)
    nested = {"optimizer": Optimizer(**plain.pop("optimizer")), "schedule": Schedule(**plain.pop("schedule"))}
    assert TrainSettings(**{**plain, **nested, "distill": Distill(**plain["distill"])}) == settings


def test_importing_the_settings_imports_no_torch():
    code = "import sys, bitwright.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_derived_seeds_are_fixed_for_ever_and_differ_by_purpose():
    assert derive_seed(0, "train", 1) == 5110481859050231712
    assert len({derive_seed(*p) for p in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a1")]}) == 5
    assert 0 <= derive_seed(3, "x") < 2**63
