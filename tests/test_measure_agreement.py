"""Engine against torch: what is found equal is, and what is not is told apart from rounding near a threshold."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from bitwright import BitwrightError
from bitwright.exact import ExactNorm
from bitwright.measure.agreement import compare_layers, judge, kind_of_network
from bitwright.ops import QuantConv2d, Quantize, QuantLinear, Sign
from bitwright.packing.lower import lower
from bitwright.steps.xnor import ScaledConv2d
from low_bits import small_resnet


def signed(layer: nn.Module) -> nn.Module:
    layer.weight.data = torch.where(layer.weight >= 0, 0.5, -0.5)
    return layer


def mixed_net(conv: type[QuantConv2d] = QuantConv2d) -> nn.Module:
    """A float convolution, a convolution of signs, a linear layer of four levels."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    binary = signed(conv(8, 16, 3, padding=1, input=Sign()))
    last = signed(QuantLinear(16 * 36, 10, input=Quantize(0.7, 0, 0, 3)))
    return nn.Sequential(nn.Conv2d(1, 8, 3), binary, norm, nn.ReLU(), nn.Flatten(), last).eval()


def integer_net(norm: type[nn.Module] = ExactNorm) -> nn.Module:
    torch.manual_seed(0)
    first = signed(QuantLinear(64, 32, input=Quantize(1 / 255, 0, 0, 255)))
    return nn.Sequential(nn.Flatten(), first, norm(32), signed(QuantLinear(32, 10, input=Sign()))).eval()


X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def compared(model: nn.Module, other: nn.Module | None = None) -> list[dict[str, object]]:
    """The rows for `model` in torch beside the graph of `other` (default: its own)."""
    graph, weights = lower(other or model, (X,))
    return [asdict(row) for row in compare_layers(model, X, graph, weights, X.numpy())]


def test_the_kinds_of_networks() -> None:
    float_net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    pooled = nn.Sequential(Quantize(1 / 255), nn.AdaptiveAvgPool2d(8), integer_net())
    unpooled = nn.Sequential(nn.AdaptiveAvgPool2d(8), integer_net())
    curved = nn.Sequential(integer_net(), nn.Tanh())
    models = (float_net, mixed_net(), integer_net(), pooled, unpooled, curved)
    kinds = ["float", "mixed", "integer", "integer", "mixed", "mixed"]
    assert [kind_of_network(*lower(model, (X,))) for model in models] == kinds


@pytest.mark.parametrize("model", [mixed_net(), integer_net(), mixed_net(ScaledConv2d), small_resnet("basic")])
def test_a_network_agrees_with_its_own_graph(model: nn.Module) -> None:
    rows = compared(model.eval())
    assert not any(row["wrong"] for row in rows)
    assert not any(row["different"] for row in rows if row["operation"] in ("conv2d", "linear"))
    assert len(rows) == 2 * sum(isinstance(m, QuantConv2d | QuantLinear) for m in model.modules())


def test_every_number_is_counted() -> None:
    rows = compared(mixed_net())
    assert [(row["name"], row["operation"]) for row in rows] == [
        ("1.input", "sign"),
        ("1", "conv2d"),
        ("5.input", "quantize"),
        ("5", "linear"),
    ]
    assert [row["values"] for row in rows] == [8 * 8 * 36, 8 * 16 * 36, 8 * 16 * 36, 80]


def test_a_layer_that_differs_is_named_and_those_behind_it_are_not() -> None:
    other = mixed_net()
    other[1].weight.data[3] *= -1
    wrong = {row["name"]: row["wrong"] for row in compared(mixed_net(), other)}
    assert 200 < wrong.pop("1") <= 8 * 36, "one channel, but where its sum is 0"
    assert not any(wrong.values()), "they go on with torch's numbers"


def test_only_numbers_near_a_threshold_may_fall_on_the_other_side() -> None:
    for shift, wrong in ((1e-7, False), (1e-2, True)):
        other = mixed_net()
        other[0].bias.data += shift * float(other[0](X).detach().abs().max())
        signs = compared(mixed_net(), other)[0]
        assert (signs["wrong"] > 0) == wrong
        assert signs["wrong"] <= signs["different"] < signs["values"]


def test_a_number_on_the_threshold_may_fall_on_either_side() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8, bias=False), signed(QuantLinear(8, 4, input=Sign())))
    model[1].weight.data.normal_()
    model[1].weight.data[0] = 0
    other = nn.Sequential(model[0], nn.Linear(64, 8), model[2])
    other[1].weight.data = model[1].weight.data
    other[1].bias.data = torch.tensor([-1e-9, 0, 0, 0, 0, 0, 0, 0])
    signs, layer = compared(model, other)
    assert (signs["different"], signs["wrong"]) == (8, 0)
    assert layer["different"] == 0


def test_another_network_is_refused() -> None:
    with pytest.raises(BitwrightError, match=r"torch quantises 2 times and the packed graph 0 times"):
        compared(mixed_net(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


GOOD = {
    "images": 10_000,
    "labels_different": 0,
    "accuracy_difference": 0.0,
    "logit_difference": 0.0,
    "quantised": {"values": 9, "different": 3, "wrong": 0},
}


@pytest.mark.parametrize(
    ("kind", "facts", "fault"),
    [
        ("integer", {}, ""),
        ("integer", {"logit_difference": 1e-9}, "logits differ by 1.0e-09 of their range; expected none"),
        ("mixed", {"logit_difference": 0.3, "labels_different": 10, "accuracy_difference": 0.05}, ""),
        ("mixed", {"labels_different": 11}, "99.89 % of the labels"),
        ("mixed", {"accuracy_difference": 0.06}, "the accuracies differ by 0.06 points"),
        ("mixed", {"accuracy_difference": np.nan}, "the accuracies differ"),
        ("mixed", {"quantised": {"values": 9, "wrong": 1}}, "1 of 9 numbers of quantised layers differ"),
        ("float", {"logit_difference": 1e-4}, ""),
        ("float", {"logit_difference": 2e-4}, "logits differ by 2.0e-04"),
        ("float", {"logit_difference": np.nan}, "logits differ"),
    ],
)
def test_what_must_be_equal(kind: str, facts: dict[str, object], fault: str) -> None:
    found = judge(kind, {**GOOD, **facts})
    assert [fault in line for line in found] == ([True] if fault else [])
