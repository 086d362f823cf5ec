"""Han's table on a network whose activations are known, and the published totals from published rows."""

import pytest
import torch
from torch import nn

from bitwright.measure.activity import _row, _total, measure_activity


def test_counts_weights_operations_and_active_inputs():
    conv, fc = nn.Conv2d(1, 2, 3, bias=False), nn.Linear(2 * 4, 5)
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), fc)
    with torch.no_grad():
        conv.weight[0] = 1.0  # positive on positive images: always active
        conv.weight[1] = -1.0  # never
        conv.weight[:, :, 0] = 0
        fc.weight[:4] = 0
    images = torch.rand(7, 1, 6, 6) + 0.1
    images[:, :, :3] = 0
    rows = measure_activity(model, images, {"0": conv, "4": fc}, batch_size=3)
    assert [r["layer"] for r in rows] == ["0", "4", "total"]
    assert rows[0] == {
        "layer": "0",
        "weights": 18,
        "flop": 2 * 18 * 16,
        "activations": 50.0,  # one of two channels
        "kept": pytest.approx(66.667),
        "flop_share": pytest.approx(66.667 * 0.5, abs=1e-3),  # half of the pixels are zero
    }
    assert rows[1]["flop"] == 2 * 40
    assert rows[1]["activations"] == 100.0
    assert rows[1]["flop_share"] == pytest.approx(20 * 0.5)


def test_leaves_no_hook_and_the_mode():
    model = nn.Sequential(nn.Linear(3, 2)).train()
    measure_activity(model, torch.ones(2, 3), {"0": model[0]})
    assert model.training
    assert not model[0]._forward_hooks


def test_totals_of_the_papers_table():
    """LeNet-300-100 of Han et al. 2015, table 3: activations weighted by neurons, work by work."""
    rows = [
        _row("fc1", 235200, 470400, 0.38, 0.08, 0.08),
        _row("fc2", 30000, 60000, 0.65, 0.09, 0.09 * 0.38),
        _row("fc3", 1000, 2000, 1.0, 0.26, 0.26 * 0.65),
    ]
    total = _total(rows, [300, 100, 10])
    assert (total["weights"], total["flop"]) == (266200, 532400)
    assert round(total["activations"]) == 46
    assert round(total["kept"]) == 8
    assert round(total["flop_share"]) == 8


def test_a_linear_layer_on_tokens_works_once_per_token():
    layer = nn.Linear(3, 2)
    assert measure_activity(layer, torch.ones(4, 5, 3), {"fc": layer})[0]["flop"] == 2 * 6 * 5


def test_every_module_keeps_its_own_mode():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
    model[1].eval()
    measure_activity(model, torch.ones(2, 3), {"0": model[0]})
    assert [m.training for m in model.modules()] == [True, True, False]
