"""The summary says what the published tables say, and its receptive fields are those that gradients show."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.cli import main
from bitwright.errors import BitwrightError
from bitwright.measure.summary import summarise
from bitwright.models import create_model, list_models


def on_meta(build):
    with torch.device("meta"):
        return build()


def test_vgg_16_is_the_table_of_lecture_002():
    found = summarise(on_meta(lambda: create_model("vgg-16")), (3, 224, 224))
    rows = [(layer.kind, layer.output, layer.activations) for layer in found.layers]
    assert len(rows) == 1 + 13 + 5 + 3  # input, convolutions, pools, linear layers
    assert rows[:4] == [
        ("", (3, 224, 224), 150_528),
        ("Conv2d", (64, 224, 224), 3_211_264),
        ("Conv2d", (64, 224, 224), 3_211_264),
        ("MaxPool2d", (64, 112, 112), 802_816),
    ]
    weights = [layer.parameters - layer.output[0] for layer in found.layers if layer.parameters]
    assert weights[:4] == [1_728, 36_864, 73_728, 147_456]
    assert weights[-3:] == [102_760_448, 16_777_216, 4_096_000]
    assert found.parameters == 138_357_544
    assert round(found.activations / 1e6, 1) == 15.2
    assert round(4 * found.activations / 1e6) == 61
    assert found.macs == 15_470_264_320
    assert {layer.receptive_field for layer in found.layers if layer.kind == "MaxPool2d"} == {
        (n, n) for n in (6, 16, 44, 100, 212)
    }


def test_alexnet_has_the_sizes_of_lecture_002():
    found = summarise(on_meta(lambda: create_model("alexnet-227")), (3, 227, 227))
    assert [(layer.kind, "x".join(map(str, layer.output))) for layer in found.layers] == [
        ("", "3x227x227"),
        ("Conv2d", "96x55x55"),
        ("MaxPool2d", "96x27x27"),
        ("LocalResponseNorm", "96x27x27"),
        ("Conv2d", "256x27x27"),
        ("MaxPool2d", "256x13x13"),
        ("LocalResponseNorm", "256x13x13"),
        ("Conv2d", "384x13x13"),
        ("Conv2d", "384x13x13"),
        ("Conv2d", "256x13x13"),
        ("MaxPool2d", "256x6x6"),
        ("Linear", "4096"),
        ("Linear", "4096"),
        ("Linear", "1000"),
    ]
    assert found.layers[1].parameters == 11 * 11 * 3 * 96 + 96
    assert found.parameters == 62_378_344


def test_receptive_fields_of_residual_networks():
    (fc,) = [r for r in summarise(create_model("resnet-18"), (3, 224, 224)).layers if r.name == "layer4.1"]
    assert (fc.kind, fc.receptive_field) == ("add", (435, 435))
    assert summarise(create_model("resnet-20"), (3, 32, 32)).macs == 40_551_040


windows = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.booleans())


@settings(max_examples=25)
@given(st.lists(windows, min_size=1, max_size=4))
def test_a_receptive_field_is_what_the_gradient_of_one_value_reaches(shapes):
    layers = [
        nn.AvgPool2d(size, stride) if pool else nn.Conv2d(1, 1, size, stride, dilation=dilation, bias=False)
        for size, stride, dilation, pool in shapes
    ]
    net = nn.Sequential(*layers)
    for p in net.parameters():
        nn.init.ones_(p)
    image = torch.zeros(1, 1, 300, 301, requires_grad=True)
    y = net(image)
    y[0, 0, y.shape[2] // 2, y.shape[3] // 2].backward()
    reached = image.grad[0, 0].nonzero()
    extent = tuple((reached.amax(0) - reached.amin(0) + 1).tolist())
    assert summarise(net, (1, 300, 301)).layers[-1].receptive_field == extent


class Branches(nn.Module):
    """A wide and a narrow branch side by side, one layer twice, a head for training, and a function with parameters."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(2, 3, 5, padding=2), nn.Conv2d(2, 3, 1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x):
        x = torch.cat([self.wide(x), self.narrow(x)], 1)
        x = self.twice(self.twice(x)).relu()
        if self.training:
            x = x + self.head(x.mean((2, 3)))[0, 0]
        return (x * self.scale).flatten(1)


def test_branches_shared_layers_and_parts_that_do_not_run():
    found = summarise(Branches(), (2, 8, 9))
    assert [(r.name, r.kind, r.receptive_field) for r in found.layers] == [
        ("input", "", (1, 1)),
        ("wide", "Conv2d", (5, 5)),
        ("narrow", "Conv2d", (1, 1)),
        ("", "cat", (5, 5)),
        ("twice", "Conv2d", (7, 7)),
        ("twice", "Conv2d", (9, 9)),
        ("", "mul", (9, 9)),
    ]
    assert [r.parameters for r in found.layers] == [0, 153, 9, 0, 168, 0, 6]
    assert [r.macs for r in found.layers] == [0, 72 * 150, 72 * 6, 0, 72 * 162, 72 * 162, 0]
    assert found.unused == 35
    assert found.parameters == 153 + 9 + 6 + 168 + 35


@pytest.mark.parametrize("name", sorted(list_models()))
def test_every_model_has_a_summary_without_any_memory(name):
    model = on_meta(lambda: create_model(name))
    found = summarise(model, model.input_shape)
    assert all(p.is_meta for p in model.parameters())
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.macs > 0
    assert 0 <= found.unused < found.parameters
    assert found.layers[-1].receptive_field >= model.input_shape[1:]
    assert not model._forward_hooks


def test_inputs_that_are_no_images_have_no_receptive_field():
    found = summarise(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), [4])
    assert [(r.output, r.receptive_field) for r in found.layers] == [((4,), None), ((3,), None), ((2,), None)]


def test_an_input_that_does_not_fit_is_named():
    with pytest.raises(BitwrightError, match=r"Sequential cannot take an input of 3x9x9: RuntimeError: .* --input"):
        summarise(nn.Sequential(nn.Conv2d(1, 1, 3)), (3, 9, 9))


def test_the_command_prints_a_table_and_json(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert (
        main(["summary", "lenet-5", "--input", "1,32,32", "--option", "num_classes=3", "--option", "initialize=lsuv"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "20x28x28" in printed
    assert re.search(r"total +652,573 +3,518,500 +27,377 *$", printed, re.MULTILINE)
    assert main(["summary", "lenet-5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["total"]["parameters"] == 431_080
    assert said["layers"][1]["output"] == [20, 24, 24]


def test_the_command_refuses_what_it_cannot_read(capsys):
    for arguments, message in {
        ("lenet-5", "--input", "1,a"): "--input is '1,a'",
        ("torch.nn:Identity",): "give --input",
        ("lenet-5", "--option", "chanels=3"): "unknown option of model 'lenet-5'",
        ("lenet-5", "--option", "dropout"): "expected path=value",
    }.items():
        assert main(["summary", *arguments]) == 1
        assert message in capsys.readouterr().err
