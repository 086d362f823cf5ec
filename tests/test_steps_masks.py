"""Masks: what they keep, what they do to gradients and optimisers, and the schedule that moves them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bitwright.errors import BitwrightError
from bitwright.steps.masks import Mask, Masks, Rule, attached, deviation, holding_zeros, keep_largest


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def layers_of(model: nn.Sequential) -> dict[str, nn.Module]:
    return {"0": model[0], "2": model[2]}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(-1, 45))
@settings(max_examples=100, deadline=None)
def test_keep_largest_keeps_exactly_so_many(scores: list[int], count: int):
    tensor = torch.tensor(scores, dtype=torch.float32)
    mask = keep_largest(tensor, count)
    assert int(mask.sum()) == max(0, min(count, sum(s > 0 for s in scores)))
    if mask.any() and (~mask).any():
        assert tensor[mask].min() >= tensor[~mask].max()


def test_keep_largest_takes_the_first_of_equals():
    assert keep_largest(torch.tensor([[1.0, 2.0], [1.0, 1.0]]), 2).tolist() == [[True, True], [False, False]]


def test_deviation_of_surviving_and_of_all():
    w = torch.tensor([0.0, 0.0, 1.0, -1.0])
    assert deviation(w, "surviving") == 1.0
    assert deviation(w, "all") == pytest.approx(math.sqrt(0.5))
    assert deviation(torch.zeros(3), "surviving") == 0.0


def rule_on(weights: dict[str, Tensor], rule: Rule, factor: float = 1.0) -> dict[str, Tensor]:
    rule.measure(weights)
    return rule.select({n: w.abs() for n, w in weights.items()}, factor)


def test_quality_compares_with_the_standard_deviation():
    w = {"a": torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])}
    assert rule_on(w, Rule("quality", {"a": 1.0}))["a"].tolist() == [True, False, False, False, True]
    assert rule_on(w, Rule("quality", {"a": 1.0}), 0.4)["a"].tolist() == [True, True, False, True, True]
    # sqrt(20 / 4) = 2.24 of the surviving, sqrt(20 / 5) = 2 of all; an edge case belongs to those that stay
    edge = {"a": torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0, 2.1])}
    surviving, everything = (rule_on(edge, Rule("quality", {"a": 1.1}, std_of=of))["a"] for of in ("surviving", "all"))
    assert int(everything.sum()) > int(surviving.sum())


def test_fractions_count_zeros_that_were_there():
    w = {"a": torch.cat([torch.zeros(50), torch.arange(1, 51).float()])}
    rule = Rule("fraction", {"a": 0.9})
    assert int(rule_on(w, rule)["a"].sum()) == 10
    assert int(rule_on(w, rule, 0.5)["a"].sum()) == 30  # half of the way from 50 % to 90 %
    assert int(rule_on(w, Rule("fraction", {"a": 0.2}))["a"].sum()) == 50


def test_global_fraction_ranks_all_layers_together():
    w = {"a": torch.full((10,), 0.1), "b": torch.arange(1.0, 11.0)}
    w["a"][0] = 20.0
    masks = rule_on(w, Rule("fraction", {"a": 0.75, "b": 0.75}, "global"))
    assert int(masks["a"].sum()) == 1
    assert int(masks["b"].sum()) == 4


def test_global_quality_uses_one_standard_deviation():
    w = {"a": torch.tensor([-1.0, 1.0, 1.0, -1.0]), "b": torch.tensor([-9.0, 9.0, 9.0, -9.0])}
    rule = Rule("quality", {"a": 0.5, "b": 0.5}, "global")
    with pytest.raises(BitwrightError, match=r"layer 'a': quality 0.5 removes all 4 weights.*threshold is 3.2"):
        rule_on(w, rule)


def test_threshold_is_absolute():
    w = {"a": torch.tensor([0.1, -0.5, 0.3])}
    assert rule_on(w, Rule("threshold", {"a": 0.3}))["a"].tolist() == [False, True, True]


@pytest.mark.parametrize("w", [torch.zeros(4), torch.full((4,), -0.2), torch.tensor([3.0])])
@pytest.mark.parametrize("rule", [Rule("quality", {"a": 1.0}), Rule("fraction", {"a": 0.5})])
def test_degenerate_layers_survive(w: Tensor, rule: Rule):
    kept = int(rule_on({"a": w}, Rule(rule.by, rule.amounts))["a"].sum())
    assert kept == 0 if not w.any() else kept > 0


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimiser_revives_a_weight(name: str):
    model = net()
    x, y = torch.randn(32, 12), torch.randint(0, 4, (32,))
    with Masks(layers_of(model), Rule("fraction", {"0": 0.7, "2": 0.5})) as masks:
        masks.update(1.0)
        before = {n: m.weight.detach().clone() for n, m in layers_of(model).items()}
        optimizer = OPTIMIZERS[name](model.parameters())
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        for layer in layers_of(model).values():
            mask, free = attached(layer, "weight")
            assert isinstance(mask, Mask)
            assert torch.all(free.grad[~mask.mask] == 0)
            assert torch.all(free[~mask.mask] == 0)
            for state in optimizer.state[free].values():
                assert state.ndim == 0 or torch.all(state[~mask.mask] == 0)
    for n, layer in layers_of(model).items():
        assert torch.equal(layer.weight != 0, before[n] != 0)
        assert not torch.equal(layer.weight, before[n]), "survivors are trained"
        assert not parametrize.is_parametrized(layer)
        assert isinstance(layer.weight, nn.Parameter)
    assert not torch.any(torch.signbit(model[0].weight) & (model[0].weight == 0)), "no -0.0 is left"


def test_gradient_against_its_formula():
    w, target = torch.randn(5, 7), torch.randn(5, 7)
    layer = nn.Linear(7, 5)
    layer.weight.data = w.clone()
    with Masks({"a": layer}, Rule("fraction", {"a": 0.6})) as masks:
        masks.update(1.0)
        (layer.weight * target).sum().backward()
        mask, free = attached(layer, "weight")
        assert torch.equal(free.grad, target * mask.mask)
    with Masks({"a": layer}, Rule("fraction", {"a": 0.6}), regrow=True) as masks:
        masks.update(1.0)
        (layer.weight * target).sum().backward()
        assert torch.equal(attached(layer, "weight")[1].grad, target), "straight through"


def test_earlier_zeros_stay_even_where_weights_regrow():
    layer = nn.Linear(10, 10)
    with torch.no_grad():
        layer.weight[:, :5] = 0
    with Masks({"a": layer}, Rule("fraction", {"a": 0.6}), regrow=True) as masks:
        with torch.no_grad():
            attached(layer, "weight")[1].add_(torch.randn(10, 10) * 10)
        masks.update(1.0)
        assert float(masks.kept()["a"]) == pytest.approx(0.4)
    assert torch.all(layer.weight[:, :5] == 0)


def test_removed_weights_may_regrow_and_those_on_the_edge_do_not_flicker():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.99, 0.5, 0.1]])
    with Masks({"a": layer}, Rule("fraction", {"a": 0.5}), regrow=True) as masks:
        masks.update(1.0)
        free = attached(layer, "weight")[1]
        with torch.no_grad():
            free.copy_(torch.tensor([[1.0, 0.99, 1.1, 0.1]]))  # within the margin of 10 % on both sides
        masks.update(1.0)
        assert layer.weight.tolist() == [[1.0, pytest.approx(0.99), 0.0, 0.0]]
        with torch.no_grad():
            free[0, 2] = 1.3
        masks.update(1.0)
        assert layer.weight.tolist() == [[1.0, 0.0, pytest.approx(1.3), 0.0]]
        masks.fix()
        assert torch.all(free[~attached(layer, "weight")[0].mask] == 0)


def test_moving_masks_follow_the_schedule_and_resume_in_it():
    def run(stops: int) -> tuple[list[float], Tensor]:
        model, seen = net(), []
        rule = Rule("fraction", {"0": 0.75, "2": 0.5})
        with (
            Masks(layers_of(model), rule) as masks,
            masks.moving(model, 2, 6, lambda t: t, lambda k: seen.append(k["0"])),
        ):
            state = {}
            for step in range(10):
                if step == stops:
                    state = {k: v.clone() for k, v in model.state_dict().items()}
                model(torch.ones(2, 12))
            if stops:  # as after a kill: a new process loads the checkpoint and goes on
                model.load_state_dict(state)
                seen.clear()
                for _ in range(stops, 10):
                    model(torch.ones(2, 12))
            model.eval()
            model(torch.ones(2, 12))
            assert int(masks.steps) == 10, "evaluation doesn't count"
        return seen, model[0].weight

    seen, weight = run(0)
    assert seen == [1.0, 0.75, 0.5, 0.25]
    again, resumed = run(5)
    assert again == [0.25]
    assert torch.equal(weight, resumed)


def test_a_mask_that_moves_within_a_step_does_not_break_its_backward_pass():
    """The training loop may have computed the weights already when the model's hook moves the masks."""
    model = net()
    with Masks(layers_of(model), Rule("fraction", {"0": 0.75, "2": 0.5})) as masks:
        with masks.moving(model, 1, 1, lambda t: 1.0), parametrize.cached():
            assert model[0].weight.requires_grad
            model(torch.ones(2, 12)).sum().backward()
        assert masks.kept() == {"0": 0.25, "2": 0.5}


def test_holding_zeros_masks_only_sparse_layers():
    model = net()
    with torch.no_grad():
        model[0].weight[0] = 0
    with holding_zeros(layers_of(model)):
        assert parametrize.is_parametrized(model[0])
        assert not parametrize.is_parametrized(model[2])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        model(torch.randn(8, 12)).square().sum().backward()
        optimizer.step()
    assert torch.all(model[0].weight[0] == 0)
    assert not parametrize.is_parametrized(model[0])
