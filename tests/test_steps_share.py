"""The sharing step: few values, their gradients, and what must stay as it was."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.steps.codebook import Codebook, sums_by_counting, sums_by_sorting
from bitwright.steps.masks import attach, attached, detach
from bitwright.steps.share import Share
from bitwright.training.settings import Optimizer, TrainSettings
from training_cases import blobs, equal, small_net, weights

FEW = TrainSettings(epochs=2, batch_size=16, optimizer=Optimizer("Adam", 1e-2, {}))


def share(model: nn.Module, step: Share, folder: Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    context = Context(blobs(), folder=folder)
    return step.apply(model, context), context.records


def values(tensor: torch.Tensor) -> int:
    found = torch.unique(tensor)
    return int((found != 0).sum())


def sparse_net() -> nn.Module:
    model = small_net(dropout=0.4)
    with torch.no_grad():
        model[0].weight[:, :, 0] = 0
        model[5].weight[model[5].weight.abs() < 0.05] = 0
    return model


@pytest.mark.parametrize(
    "step",
    [
        Share(bits=3, retrain=None),
        Share(bits={"Conv2d": 2, "Linear": 3}, retrain=FEW),
        Share(clusters=5, retrain=FEW, gradient="mean", half_codebook=True, initial="density"),
        Share(bits=4, retrain=FEW, entropy=0.05, bias_bits=1, initial="random"),
    ],
)
def test_every_way_leaves_few_values_and_a_plain_model(step: Share):
    before = sparse_net()
    model, records = share(sparse_net(), step)
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert set(model.state_dict()) == set(before.state_dict())
    assert model[4].p == 0.4
    for name, old, new in (("0", before[0], model[0]), ("5", before[5], model[5])):
        assert isinstance(new.weight, nn.Parameter)
        assert new.weight.shape == old.weight.shape
        assert torch.equal(new.weight == 0, old.weight == 0), "zeros apart"
        most = step.clusters or 1 << (step.bits if isinstance(step.bits, int) else step.bits[type(new).__name__])
        assert values(new.weight) <= most
        row = next(r for r in records["sharing"] if r["layer"] == name)
        assert row["kept"] == int((old.weight != 0).sum())
        assert row["values"] == len(row["codebook"]) <= most
        assert np.allclose(np.unique(np.float32(row["trained"])), torch.unique(new.weight[new.weight != 0]).detach())
        assert 0 < row["distortion"] < 0.5
        if step.retrain:
            assert row["trained"] != row["codebook"], "the report shows both"
        if step.half_codebook:
            assert torch.equal(new.weight.half().float(), new.weight)
        if step.bias_bits:
            assert values(new.bias) <= 2


def test_assignments_are_fixed_while_values_are_trained():
    plain, _ = share(sparse_net(), Share(bits=2, retrain=None))
    trained, _ = share(sparse_net(), Share(bits=2, retrain=FEW))
    a, b = plain[5].weight.flatten(), trained[5].weight.flatten()
    assert not torch.equal(a, b)
    for value in torch.unique(a):
        assert values(b[a == value]) == (value != 0)


def test_gradient_is_the_sum_over_the_cluster_or_its_mean():
    """Against an independent formula, with zeros, a cluster nobody uses and more dimensions than one."""
    torch.manual_seed(0)
    codes = torch.randint(0, 5, (6, 2, 3, 3))
    codes[codes == 2] = 1
    target = torch.randn(6, 2, 3, 3)
    for mean in (False, True):
        layer = nn.Conv2d(2, 6, 3)
        attach(layer, "weight", Codebook(torch.tensor([0.5, -1.0, 2.0, 3.0]), codes, mean=mean))
        (layer.weight * target).sum().backward()
        free = attached(layer, "weight")[1]
        expected = torch.zeros(4)
        for k in range(4):
            hit = target[codes == k + 1]
            expected[k] = 0.0 if not len(hit) else hit.mean() if mean else hit.sum()
        assert torch.allclose(free.grad, expected, atol=1e-5)
        with torch.no_grad():
            free.sub_(free.grad)
        detach(layer, "weight")
        book = torch.cat([torch.zeros(1), torch.tensor([0.5, -1.0, 2.0, 3.0]) - expected])
        assert torch.allclose(layer.weight, book[codes], atol=1e-5)
        assert layer.weight.shape == (6, 2, 3, 3)
        assert layer.weight.grad is None


@pytest.mark.parametrize("sums", [sums_by_counting, sums_by_sorting])
def test_both_ways_to_sum_a_cluster(sums: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]):
    codes = torch.randint(0, 7, (1000,), dtype=torch.int32)
    numbers = torch.randn(1000, dtype=torch.float64)
    expected = [float(numbers[codes == k].sum()) for k in range(9)]  # 7 and 8 are empty
    assert sums(numbers, codes, 9).tolist() == pytest.approx(expected)


def test_degenerate_layers_survive_with_training():
    model = small_net()
    with torch.no_grad():
        model[0].weight.zero_()
        model[5].weight.fill_(-0.25)
    model, _ = share(model, Share(bits=4, bias_bits=4, retrain=FEW))
    assert not model[0].weight.any()
    assert values(model[5].weight) == 1


def test_layers_left_out_keep_their_zeros_but_are_trained():
    before = sparse_net()
    model, records = share(sparse_net(), Share(ignore=("Conv2d",), bits=3, retrain=FEW))
    assert [row["layer"] for row in records["sharing"]] == ["5"]
    assert torch.equal(model[0].weight == 0, before[0].weight == 0)
    assert not torch.equal(model[0].weight, before[0].weight)


def test_without_training_only_shared_tensors_change():
    before = weights(sparse_net())
    model, _ = share(sparse_net(), Share(layers=("5",), bits=3, retrain=None))
    after = weights(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"5.weight"}


def test_dropout_is_scaled_by_what_pruning_left(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(Context, "train", lambda self, model, settings: seen.append(model[4].p))
    model = small_net(dropout=0.5)
    with torch.no_grad():
        model[5].weight[:, 16:] = 0
    share(model, Share(bits=3))
    share(model, Share(bits=3, dropout="keep"))
    share(model, Share(bits=3, dropout="off"))
    assert seen == [0.25, 0.5, 0.0]


def test_seed_decides_and_folder_resumes(tmp_path: Path):
    step = Share(bits=3, initial="random", retrain=FEW)
    first, _ = share(sparse_net(), step, tmp_path)
    again, _ = share(sparse_net(), step, tmp_path)
    alone, _ = share(sparse_net(), step)
    assert equal(weights(first), weights(again))
    assert equal(weights(first), weights(alone))


def test_sharing_twice_changes_nothing():
    model, _ = share(sparse_net(), Share(bits=3, retrain=None))
    before = weights(model)
    model, _ = share(model, Share(bits=3, retrain=None))
    assert equal(weights(model), before)


def test_half_codebook_refuses_what_float16_has_not():
    model = small_net()
    with torch.no_grad():
        model[5].weight[0, 0] = 1e6
    with pytest.raises(BitwrightError, match=r"a codebook of .*Linear holds 1e\+06, but float16 ends at 65504"):
        share(model, Share(bits=4, retrain=None, half_codebook=True))


def test_names_the_layer_that_is_not_finite():
    model = small_net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(BitwrightError, match=r"layer '0': 1 of 36 values of its weight are NaN or infinite"):
        share(model, Share())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 16}, "bits is 16; expected a whole number from 0 to 15"),
        ({"bits": {"Linear": 2.5}}, "bits is 2.5"),
        ({"bias_bits": -1}, "bits is -1"),
        ({"clusters": 0}, "clusters is 0; expected a whole number from 1"),
        ({"entropy": -0.1}, "entropy is -0.1"),
        ({"gradient": "average"}, "unknown share: gradient 'average'. Known: mean, sum"),
    ],
)
def test_refuses_wrong_settings(fields: dict[str, Any], message: str):
    with pytest.raises(BitwrightError, match=message):
        Share(**fields)


def test_default_suits_networks_with_and_without_convolutions():
    step = dataclasses.replace(Share(), retrain=None)
    _, records = share(small_net(), step)
    assert [row["values"] for row in records["sharing"]] == [36, 32]
    _, records = share(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), step)
    assert 16 < records["sharing"][0]["values"] <= 32


def test_refuses_layers_that_share_a_weight():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
    model[2].weight = model[1].weight
    with pytest.raises(BitwrightError, match=r"layer '1': another layer uses its weight, too.*torch\.nn\.Parameter"):
        share(model, Share())
    model[2].weight = nn.Parameter(model[1].weight.detach().clone())
    model.alias = model[2]  # one module under two names is no tie
    assert share(model, Share(bits=2, retrain=None))[1]["sharing"][1]["values"] == 4


def test_all_zero_tensors_train_resumably(tmp_path: Path):
    """Their codebooks are empty."""
    model = small_net()
    with torch.no_grad():
        model[0].weight.zero_()
        model[5].bias.zero_()
    share(model, Share(bits=2, bias_bits=2, retrain=FEW), tmp_path)
    assert not model[0].weight.any()
    assert not model[5].bias.any()
