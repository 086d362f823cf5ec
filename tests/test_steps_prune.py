"""The pruning step as a whole: goals, rounds, schedules, retraining, resuming, refusals."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.steps.prune import Prune
from bitwright.training.progress import Progress
from bitwright.training.settings import Optimizer, TrainSettings
from training_cases import Killed, blobs, equal, small_net, weights

FEW = TrainSettings(epochs=2, batch_size=16, optimizer=Optimizer("Adam", 1e-2, {}))
ONE = dataclasses.replace(FEW, epochs=1)


def prune(model: nn.Module, step: Prune, folder: Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    context = Context(blobs(), folder=folder)
    return step.apply(model, context), context.records


class KillAtUpdate(Progress):
    """Ends everything at the n-th sign of life."""

    def __init__(self, count: int) -> None:
        self.left = count

    def update(self, done: int, text: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def density(layer: nn.Module) -> float:
    return float((layer.weight != 0).float().mean())


def test_naive_cut_changes_nothing_but_small_weights():
    before, model = small_net(), small_net()
    model, records = prune(model, Prune(quality=1.0, retrain=None, dead_neurons=False))
    for old, new in ((before[0], model[0]), (before[5], model[5])):
        cut = old.weight.abs() < old.weight.std(unbiased=False)
        assert torch.equal(new.weight, torch.where(cut, 0.0, old.weight))
    assert torch.equal(model[5].bias, before[5].bias)
    assert torch.equal(model[1].weight, before[1].weight)
    rows = records["pruning"]["layers"]
    assert [row["layer"] for row in rows] == ["0", "5"]
    assert rows[1] == {
        "layer": "5",
        "quality": 1.0,
        "weights": 192,
        "kept": int((model[5].weight != 0).sum()),
        "dead_neurons": 0,
    }


def test_layers_get_their_own_numbers_and_others_stay():
    before = small_net()
    model, _ = prune(small_net(), Prune(fraction={"Conv2d": 0.25, "*": 0.9}, retrain=None, dead_neurons=False))
    assert density(model[0]) == pytest.approx(0.75, abs=0.02)
    assert density(model[5]) == pytest.approx(0.1, abs=0.01)
    model, _ = prune(small_net(), Prune(layers=("Linear",), threshold=0.05, retrain=None, dead_neurons=False))
    assert torch.equal(model[0].weight, before[0].weight)
    assert model[5].weight[model[5].weight != 0].abs().min() >= 0.05


@pytest.mark.parametrize(
    "step",
    [
        Prune(fraction=0.8, rounds=3, retrain=ONE, final=FEW),
        Prune(fraction=0.8, scope="global", rounds=(0.5, 1.0), retrain=ONE, dead_neurons=False),
        Prune(quality=0.7, rounds=(1.0, 1.0), retrain=ONE, local=True, dead_neurons=False),
        Prune(fraction=0.8, schedule="gradual", every=2, retrain=FEW, final=ONE),
        Prune(fraction=0.8, schedule="gradual", every=4, ramp=1.0, retrain=FEW, dead_neurons=False),
        Prune(fraction=0.8, regrow=True, every=2, retrain=FEW, dead_neurons=False),
        Prune(fraction=0.8, regrow=True, schedule="gradual", every=3, retrain=FEW, final=ONE),
    ],
)
def test_every_way_ends_sparse_trained_and_plain(step: Prune):
    before = small_net(dropout=0.5)
    model, records = prune(small_net(dropout=0.5), step)
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert not model._forward_pre_hooks
    assert model[4].p == 0.5
    assert all(p.requires_grad for p in model.parameters())
    assert set(model.state_dict()) == set(before.state_dict())
    total = sum(m.weight.numel() for m in (model[0], model[5]))
    kept = sum(int((m.weight != 0).sum()) for m in (model[0], model[5]))
    goal = 0.8 if step.fraction else 0.5
    assert kept / total <= 1 - goal + 0.02
    survivors = model[5].weight != 0
    assert not torch.equal(model[5].weight[survivors], before[5].weight[survivors]), "they were retrained"
    assert records["pruning"]["rounds"][-1]["factor"] == 1.0
    assert [row["layer"] for row in records["activity"]] == ["0", "5", "total"]


def test_rounds_grow_on_the_cubic_schedule():
    _, records = prune(small_net(), Prune(layers=("5",), fraction=0.8, rounds=4, retrain=None, dead_neurons=False))
    kept = [r["kept"]["5"] for r in records["pruning"]["rounds"]]
    assert kept == pytest.approx([1 - 0.8 * (1 - (1 - t / 4) ** 3) for t in (1, 2, 3, 4)], abs=0.003)


def test_repeating_one_quality_prunes_more_each_time():
    _, records = prune(
        small_net(), Prune(layers=("5",), quality=0.5, rounds=(1, 1, 1), retrain=None, dead_neurons=False)
    )
    first, second, third = (r["kept"]["5"] for r in records["pruning"]["rounds"])
    assert first > second > third
    _, records = prune(
        small_net(), Prune(layers=("5",), quality=0.5, rounds=(1, 1), std_of="all", retrain=None, dead_neurons=False)
    )
    first, second = (r["kept"]["5"] for r in records["pruning"]["rounds"])
    assert first == second, "the zeros bring the deviation down"


def test_zeros_of_earlier_steps_stay_in_all_layers():
    model = small_net()
    with torch.no_grad():
        model[0].weight[:, :, 0] = 0
        model[5].weight[:, :10] = 0
    for step in (
        Prune(layers=("5",), fraction=0.5, retrain=FEW, dead_neurons=False),
        Prune(fraction=0.5, regrow=True, every=2, retrain=FEW, dead_neurons=False),
    ):
        model, _ = prune(model, step)
        assert torch.all(model[0].weight[:, :, 0] == 0)
        assert torch.all(model[5].weight[:, :10] == 0)


def test_local_retraining_freezes_in_turn(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def train(self: Context, model: nn.Module, settings: TrainSettings) -> None:
        seen.append({n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad})

    monkeypatch.setattr(Context, "train", train)
    prune(small_net(), Prune(fraction=0.5, local=True, retrain=ONE, dead_neurons=False))
    assert seen == [{"5"}, {"0", "1"}]


def test_dropout_shrinks_with_the_square_root_of_connections(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(Context, "train", lambda self, model, settings: seen.append(model[4].p))
    prune(
        small_net(dropout=0.5), Prune(layers=("5",), fraction=0.91, rounds=(0.5, 1.0), retrain=ONE, dead_neurons=False)
    )
    assert seen == pytest.approx([0.5 * 0.545**0.5, 0.15], abs=2e-3)  # 9 % kept, D_o = .5 -> .15
    seen.clear()
    prune(small_net(dropout=0.5), Prune(fraction=0.91, retrain=ONE, dropout="keep", dead_neurons=False))
    prune(small_net(dropout=0.5), Prune(fraction=0.91, retrain=ONE, dropout="off", dead_neurons=False))
    assert seen == [0.5, 0.0]


def test_gradual_training_moves_masks_and_dropout_every_few_steps(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def train(self: Context, model: nn.Module, settings: TrainSettings) -> None:
        assert settings.select == "last"
        for _ in range(12):
            model.train()
            model(torch.zeros(2, 1, 4, 4))
            seen.append((round(density(model[5]), 3), round(model[4].p, 3)))

    monkeypatch.setattr(Context, "train", train)
    step = Prune(layers=("5",), fraction=0.96, schedule="gradual", every=3, ramp=0.5, retrain=FEW)
    prune(small_net(dropout=0.5), step)  # 2 epochs of ceil(90 / 16) = 6 steps, so the goal is reached after 6
    goal = [1 - 0.96 * (1 - (1 - t / 6) ** 3) for t in (0, 3, 6)]
    assert [d for d, _ in seen] == pytest.approx([g for g in goal for _ in range(3)] + [goal[-1]] * 3, abs=0.003)
    assert [p for _, p in seen] == pytest.approx([0.5 * d**0.5 for d, _ in seen], abs=2e-3)


@pytest.mark.parametrize(
    "step",
    [
        Prune(quality="auto", tolerance=30.0, rounds=2, retrain=FEW),
        Prune(fraction=0.8, schedule="gradual", every=2, retrain=FEW, final=FEW),
        Prune(fraction=0.6, regrow=True, every=2, retrain=FEW, dead_neurons=False),
    ],
)
def test_a_killed_pruning_goes_on_with_equal_bits(step: Prune, tmp_path: Path):
    undisturbed, _ = prune(small_net(dropout=0.3), step, tmp_path / "a")
    for updates in (2, 3, 4):  # the loop reports the first batch of each epoch and its end
        folder = tmp_path / f"b{updates}"
        with pytest.raises(Killed):
            step.apply(small_net(dropout=0.3), Context(blobs(), folder=folder, progress=KillAtUpdate(updates)))
        again, _ = prune(small_net(dropout=0.3), step, folder)
        assert equal(weights(again), weights(undisturbed))


def test_auto_takes_what_the_scan_allows_and_records_its_curves():
    model = small_net()
    Context(blobs()).train(model, dataclasses.replace(FEW, epochs=6))
    before = weights(model)
    context = Context(blobs())
    step = Prune(fraction="auto", tolerance=5.0, retrain=None, dead_neurons=False)
    rule = step._rule(model, {"0": model[0], "5": model[5]}, context)
    assert equal(weights(model), before), "a scan leaves the model as it was"
    record = context.records["sensitivity"]
    assert record["proposal"] == dict(rule.amounts)
    assert [p["amount"] for p in record["layers"]["5"]] == sorted(p["amount"] for p in record["layers"]["5"])
    for name, amount in rule.amounts.items():
        errors = {p["amount"]: p["error"] for p in record["layers"][name]}
        assert amount == 0 or errors[amount] <= record["baseline"] + 5.0


def test_dead_neurons_are_buried_without_changing_the_function():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[1].weight[0] *= 1e-6  # says relu(bias) once it has lost its weights
        model[3].weight[:, 1] *= 1e-6  # is read by nobody
        model[1].bias[0] = 0.7
    x = torch.randn(20, 16)
    step = Prune(threshold=1e-4, retrain=None, dead_neurons=False)
    model, _ = prune(model, step)
    expected = model(x)
    model, records = prune(model, dataclasses.replace(step, dead_neurons=True))
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert torch.all(model[3].weight[:, :2] == 0)
    assert torch.all(model[1].weight[:2] == 0)
    assert torch.all(model[1].bias[:2] == 0)
    assert [row["dead_neurons"] for row in records["pruning"]["layers"]] == [2, 0]


def test_a_model_the_engine_cannot_run_keeps_its_dead_neurons():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(self.fc(x.flatten(1)))

    _, records = prune(Odd(), Prune(quality=0.5, retrain=None))
    assert "dead neurons were left" in records["pruning"]["note"]


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_names_the_layer_that_is_not_finite(name: str):
    model = small_net()
    with torch.no_grad():
        getattr(model[5], name).view(-1)[1] = float("nan")
    with pytest.raises(BitwrightError, match=rf"layer '5': 1 of \d+ values of its {name} are NaN"):
        prune(model, Prune())


def test_refuses_to_empty_a_layer():
    with pytest.raises(BitwrightError, match=r"layer '0': quality 9 removes all 36 weights it has left.*ignore"):
        prune(small_net(), Prune(quality={"0": 9.0, "*": 0.5}, retrain=None))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quality": 1.0, "fraction": 0.5}, "quality and fraction are given"),
        ({"fraction": 1.0}, r"fraction is 1.0; expected a number from 0 to below 1"),
        ({"fraction": {"*": -0.1}}, "fraction is -0.1"),
        ({"quality": -1}, "quality is -1; expected a number of at least 0"),
        ({"quality": True}, "quality is True"),
        ({"fraction": {"*": 0.5}, "scope": "global"}, 'one number where scope is "global"'),
        ({"fraction": "auto", "scope": "global"}, 'one number where scope is "global"'),
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": (0.5, 0.2)}, "rounds is .*rising"),
        ({"every": 0}, "every, ramp"),
        ({"ramp": 0.0}, "every, ramp"),
        ({"schedule": "gradual", "retrain": None}, "retrain is None"),
        ({"regrow": True, "retrain": None}, "masks that move need a training"),
        ({"schedule": "gradual", "local": True}, "local is True"),
        ({"schedule": "gradually"}, "unknown prune: schedule 'gradually'; did you mean 'gradual'"),
        ({"tolerance": -1.0}, r"tolerance is -1\.0; expected points of validation error"),
    ],
)
def test_refuses_wrong_settings(fields: dict[str, Any], message: str):
    with pytest.raises(BitwrightError, match=message):
        Prune(**fields)


def test_number_per_layer_refusals():
    with pytest.raises(BitwrightError, match=r"fraction: pattern 'conv9' matches nothing; the layers are: 0, 5"):
        prune(small_net(), Prune(fraction={"conv9": 0.5, "*": 0.1}))
    with pytest.raises(BitwrightError, match="fraction: no number for layer '0', only for 'Linear'"):
        prune(small_net(), Prune(fraction={"Linear": 0.5}))


@pytest.mark.parametrize(
    ("normed", "message"),
    [
        (nn.utils.parametrizations.weight_norm, "layer '1': its weight is computed from other tensors"),
        (nn.utils.parametrizations.spectral_norm, "make it plain with torch"),
    ],
)
def test_refuses_a_weight_that_is_no_parameter(normed: Callable[[nn.Module], nn.Module], message: str):
    with pytest.raises(BitwrightError, match=message):
        prune(nn.Sequential(nn.Flatten(), normed(nn.Linear(16, 3))), Prune())


def test_layers_that_share_a_weight_go_on_sharing_it():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))
    model[3].weight = model[1].weight
    prune(model, Prune(fraction=0.5, retrain=FEW))
    assert model[3].weight is model[1].weight
    assert int((model[1].weight != 0).sum()) == 128


@pytest.mark.parametrize(("among", "kept"), [(0.5, "best"), (0.6, "last")])
def test_a_gradual_pruning_selects_only_among_sparse_epochs(monkeypatch: Any, among: float, kept: str):
    seen: list[TrainSettings] = []
    train = Context.train
    monkeypatch.setattr(Context, "train", lambda *given: seen.append(given[2]) or train(*given))
    settings = dataclasses.replace(FEW, epochs=4, select_among=among)
    step = Prune(fraction=0.75, schedule="gradual", every=1, ramp=0.5, retrain=settings, dead_neurons=False)
    model, _ = prune(small_net(), step)
    assert [s.select for s in seen] == [kept]
    assert (int((model[0].weight != 0).sum()), int((model[5].weight != 0).sum())) == (9, 48)
