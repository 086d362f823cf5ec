import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.training.loop import fit
from bitwright.training.schedules import factor, reductions
from bitwright.training.settings import Optimizer, Schedule, TrainSettings
from training_cases import blobs, linear_net


@pytest.mark.parametrize(
    ("schedule", "t", "expected"),
    [
        (Schedule(), 7.5, 1.0),
        (Schedule("step", gamma=0.1, milestones=(2, 4)), 1.99, 1.0),
        (Schedule("step", gamma=0.1, milestones=(2, 4)), 2.0, 0.1),
        (Schedule("step", gamma=0.1, milestones=(2, 4)), 9.0, 0.01),
        (Schedule("inverse", gamma=0.5), 4.0, 1 / 3),
        (Schedule("exponential", gamma=0.5), 4.0, math.exp(-2)),
        (Schedule("cosine"), 0.0, 1.0),
        (Schedule("cosine"), 5.0, 0.5),
        (Schedule("cosine", final=0.2), 5.0, 0.6),
        (Schedule("cosine", final=0.2), 10.0, 0.2),
        (Schedule("one-cycle"), 0.0, 1 / 25),
        (Schedule("one-cycle"), 1.5, (1 + 1 / 25) / 2),
        (Schedule("one-cycle"), 3.0, 1.0),
        (Schedule("one-cycle", final=0.01), 10.0, 0.01),
        (Schedule("cosine", warmup=2), 1.0, 0.5),
        (Schedule("cosine", warmup=2), 2.0, 1.0),
        (Schedule("cosine", warmup=2), 6.0, 0.5),
        (Schedule("inverse", gamma=1, warmup=2), 3.0, 0.5),
        (Schedule("step", warmup=1, milestones=(2,)), 2.0, 0.1),
    ],
)
def test_factor_by_hand(schedule, t, expected):
    assert factor(schedule, t, 10) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([], 2, 0),
        ([3, 2, 1], 1, 0),
        ([1, 2], 1, 1),
        ([1, 1, 1], 2, 1),
        ([1, 2, 0.5, 3, 4], 2, 1),
        ([1, 2, 2, 2, 2], 2, 2),
    ],
)
def test_plateau_reductions_by_hand(losses, patience, expected):
    assert reductions(losses, patience) == expected
    assert factor(Schedule("plateau", gamma=0.5, patience=patience), 3, 10, losses) == 0.5**expected


@given(
    name=st.sampled_from(["constant", "inverse", "exponential", "cosine", "one-cycle"]),
    t=st.floats(0, 20, exclude_max=True),
    warmup=st.floats(0, 19),
)
def test_factor_stays_between_nothing_and_one(name, t, warmup):
    assert 0 <= factor(Schedule(name, warmup=warmup), t, 20, step=0.1) <= 1


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("step", gamma=0.1, milestones=(1, 2)), [1.0, 0.1, 0.01]),
        # 3 batches an epoch: the last step of epoch e begins at e - 1/3
        (Schedule("inverse", gamma=1.0), [1 / (1 + 2 / 3), 1 / (1 + 5 / 3), 1 / (1 + 8 / 3)]),
        (Schedule("constant", warmup=2), [0.5, 1.0, 1.0]),
        (Schedule("cosine"), [(1 + math.cos(math.pi * t / 9)) / 2 for t in (2, 5, 8)]),
    ],
)
def test_training_follows_the_schedule_at_every_step(schedule, expected):
    settings = TrainSettings(epochs=3, batch_size=30, optimizer=Optimizer(lr=0.2), schedule=schedule)
    history = fit(linear_net(), blobs(), settings)
    assert [epoch.lr for epoch in history.epochs] == pytest.approx([0.2 * f for f in expected])


def test_training_obeys_the_plateau():
    settings = TrainSettings(epochs=6, optimizer=Optimizer(lr=3.0), schedule=Schedule("plateau", gamma=0.1, patience=1))
    epochs = fit(linear_net(), blobs(signal=0), settings).epochs
    losses = [epoch.validation_loss for epoch in epochs]
    assert [e.lr for e in epochs] == pytest.approx([3.0 * 0.1 ** reductions(losses[:i], 1) for i in range(6)])
    assert epochs[-1].lr < 3.0  # otherwise the case shows nothing
