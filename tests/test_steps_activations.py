"""What layers are given, signs that say nothing, and the gradients of signs in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.errors import BitwrightError
from bitwright.ops import sign
from bitwright.steps.activations import Range, TrainingSign, input_ranges
from bitwright.steps.order import check_signs
from low_bits import small_resnet
from training_cases import equal, weights


def test_ranges_are_those_of_batch_statistics_and_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1), nn.Dropout(0.9), nn.Linear(1, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(2.0)
            layer.bias.fill_(5.0)
    before = weights(model.train())
    images = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    found = input_ranges(model, {"0": model[0], "2": model[2]}, images)
    assert found["0"] == Range(1.0, 4.0, 2.5)
    assert found["2"].low == pytest.approx(-1.5 / 1.25**0.5, rel=1e-4)
    assert found["2"].magnitude == pytest.approx(1 / 1.25**0.5, rel=1e-4)
    assert equal(before, weights(model))
    assert model.training
    assert not model[0]._forward_pre_hooks


def test_a_layer_that_is_not_used() -> None:
    model = nn.Module()
    model.used, model.unused = nn.Linear(1, 1), nn.Linear(1, 1)
    model.forward = lambda x: model.used(x)  # type: ignore[method-assign]
    with pytest.raises(BitwrightError, match="'unused' sees no input"):
        input_ranges(model, {"unused": model.unused}, torch.ones(2, 1))


def test_images_that_do_not_fit() -> None:
    with pytest.raises(BitwrightError, match=r"a Sequential can't take \(2, 3\) torch.float32 images"):
        input_ranges(model := nn.Sequential(nn.Linear(4, 1)), {"0": model[0]}, torch.ones(2, 3))


def test_signs_behind_a_relu_are_refused() -> None:
    x = torch.rand(8, 1, 8, 8)
    model = small_resnet("basic")
    with pytest.raises(BitwrightError, match=r"'layer1.0.conv2': its input is from 0 to .* \(a ReLU"):
        check_signs(model, {"layer1.0.conv2": model.get_submodule("layer1.0.conv2")}, x)
    for block in ("bireal", "react"):
        model = small_resnet(block, signs=True)
        check_signs(model, {n: m for n, m in model.named_modules() if n.endswith("conv2")}, x)


X = torch.tensor([[-1.5, -1.0, -0.75, -0.0, 0.0, 0.25, 1.0, 2.0]])


@pytest.mark.parametrize(
    ("kind", "slope"),
    [("clip", [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]), ("polynomial", [0.0, 0.0, 0.5, 2.0, 2.0, 1.5, 0.0, 0.0])],
)
def test_gradients_of_signs(kind: str, slope: list[float]) -> None:
    x = X.clone().requires_grad_()
    y = TrainingSign(kind)(x)  # type: ignore[arg-type]
    assert torch.equal(y, sign(X))
    y.backward(torch.full_like(X, 3.0))
    assert torch.equal(x.grad, 3 * torch.tensor([slope]))  # type: ignore[arg-type]


def test_binarised_gradients_have_a_size_for_each_sample() -> None:
    x = torch.zeros(2, 3, 1, 1, requires_grad=True)
    gradient = torch.tensor([[1.0, -4.0, 0.0], [0.5, 0.25, -0.1]]).reshape(2, 3, 1, 1)
    TrainingSign("clip", binarise=True)(x).backward(gradient)
    assert x.grad.flatten().tolist() == [4, -4, 0, 0.5, 0.5, -0.5]  # type: ignore[union-attr]
