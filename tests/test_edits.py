"""Structural changes come back on a newly built model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright import edits
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d, Quantize, Sign
from bitwright.rebuild import load_checkpoint, save_checkpoint


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(64, 5))


def test_an_edited_model_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    model = build()
    edits.replace(model, "0", "quantised", kind="grid", qmin=-2, qmax=1)
    edits.replace(model, "2", "quantised", kind="sign")
    assert isinstance(model[0], QuantConv2d)
    assert isinstance(model[0].input, Quantize)
    model[0].input.scale.fill_(0.25)
    save_checkpoint(model, tmp_path / "model.safetensors", "step")
    again = build()
    load_checkpoint(again, tmp_path / "model.safetensors")
    assert repr(again) == repr(model)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert edits.edits_of(again) == edits.edits_of(model) == edits.edits_of(copy.deepcopy(model))


def test_a_quantised_layer_keeps_its_parameters_and_mode() -> None:
    model = build().eval()
    weight, bias = model[2].weight, model[2].bias
    new = edits.replace(model, "2", "quantised", kind="sign")
    assert new.weight is weight
    assert new.bias is bias
    assert not new.training
    assert isinstance(new.input, Sign)
    again = edits.replace(model, "2", "quantised", kind="grid", qmax=3)
    assert again.weight is weight
    assert isinstance(again.input, Quantize)
    assert int(again.input.qmax) == 3


@pytest.mark.parametrize(
    ("path", "name", "options", "message"),
    [
        ("9", "quantised", {"kind": "sign"}, "no module '9'"),
        ("", "quantised", {"kind": "sign"}, "Sequential can't have"),
        ("0", "quantized", {"kind": "sign"}, "quantised"),
        ("0", "quantised", {"kind": "signs"}, "sign"),
        ("1", "quantised", {"kind": "sign"}, "Flatten"),
    ],
)
def test_bad_edits_are_refused(path: str, name: str, options: dict[str, str], message: str) -> None:
    model = build()
    with pytest.raises(BitwrightError, match=message):
        edits.replace(model, path, name, **options)
    assert not edits.edits_of(model)


def test_an_edit_of_the_whole_model_gives_another_one_that_a_checkpoint_makes_again(tmp_path: Path) -> None:
    new = edits.replace(build(), "", "quantised-graph", points={"_2": [0, 3]}, layers={})
    assert [change["path"] for change in edits.edits_of(new)] == [""]
    save_checkpoint(new, tmp_path / "model.safetensors", "1-x")
    again = load_checkpoint(build(), tmp_path / "model.safetensors")
    assert edits.edits_of(again) == edits.edits_of(new)
    assert again.state_dict().keys() == new.state_dict().keys()


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[{"path": 1, "edit": "a"}]', "null"])
def test_a_checkpoint_with_broken_edits_is_refused(text: str) -> None:
    with pytest.raises(BitwrightError, match="edits"):
        edits.from_json(text)
