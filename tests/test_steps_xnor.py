"""BWN and XNOR-Net: the best alpha by brute force, gradients, the map K against a convolution, the results."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import bitwright as bw
from bitwright import edits
from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d
from bitwright.packing.lattice import find_lattice
from bitwright.steps.step import select_layers
from bitwright.steps.xnor import BWN, XNOR, FilterSigns
from bitwright.training.settings import TrainSettings
from low_bits import check_packed, small_resnet

SHORT = TrainSettings(epochs=1, batch_size=100)


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_alpha_and_signs_are_the_best_of_all(seed: int, n: int) -> None:
    """Of all signs B, each with its best alpha = W.B / n (section 3.1, equation 2)."""
    weight = np.random.default_rng(seed).standard_normal(n)
    all_signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    alphas = np.maximum(all_signs @ weight / n, 0)
    best = min(((weight - a * b) ** 2).sum() for a, b in zip(alphas, all_signs, strict=True))
    got = FilterSigns("paper").quantise(torch.from_numpy(weight)[None])[0].numpy()
    assert ((weight - got) ** 2).sum() == pytest.approx(best, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("centre", [False, True])
def test_gradients(centre: bool) -> None:
    """The paper's, times n, is that of alpha sign(W) with sign'(W) = 1 near the diagonal, summed in its way."""
    torch.manual_seed(0)
    weight = torch.rand(3, 4, 2, 2, requires_grad=True)
    outer = torch.randn(3, 4, 2, 2)
    FilterSigns("paper", centre).quantise(weight).backward(outer)
    alpha = weight.detach().abs().mean((1, 2, 3), keepdim=True)
    assert torch.allclose(weight.grad, outer * 16 * (1 / 16 + alpha) * (0.75 if centre else 1))  # type: ignore[arg-type]
    for gradient, slope in (("straight", torch.ones(1)), ("magnitude", alpha)):
        weight.grad = None
        FilterSigns(gradient).quantise(weight).backward(outer)  # type: ignore[arg-type]
        assert torch.allclose(weight.grad, outer * slope)  # type: ignore[arg-type]


def test_latent_weights_are_centred_and_clamped_for_good() -> None:
    latent = torch.randn(5, 3, 2, 2) * 3
    expected = (latent - latent.mean(1, keepdim=True)).clamp(-1, 1)
    FilterSigns("paper", centre=True).train()(latent)
    assert torch.equal(latent, expected)
    assert float(latent.abs().max()) == 1
    depthwise = torch.full((2, 1, 3, 3), 0.5)
    FilterSigns("paper", centre=True).train()(depthwise)
    assert torch.equal(depthwise, torch.full((2, 1, 3, 3), 0.5))


def k_map(conv: nn.Conv2d, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(conv)
    edits.replace(model, "0", "scaled-signs")
    return model, torch.randn(2, conv.in_channels, 7, 9)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), ((3, 5), (2, 1), (1, 2)), (4, 3, 0)]
)
def test_k_is_the_mean_magnitude_filtered_by_a_box(size: object, stride: object, padding: object) -> None:
    model, x = k_map(nn.Conv2d(6, 4, size, stride, padding, bias=False))  # type: ignore[arg-type]
    conv = model.get_submodule("0")
    assert isinstance(conv, nn.Conv2d)
    box = torch.full((1, 1, *conv.kernel_size), 1 / np.prod(conv.kernel_size))
    k = F.conv2d(x.abs().mean(1, keepdim=True), box, stride=conv.stride, padding=conv.padding)
    signs = torch.where(x >= 0, 1.0, -1.0)
    assert torch.allclose(model(x), F.conv2d(signs, conv.weight, None, conv.stride, conv.padding) * k, atol=1e-5)


def test_k_takes_no_part_in_back_propagation() -> None:
    model, x = k_map(nn.Conv2d(2, 1, 1, bias=False))
    x.requires_grad_()
    model(x).sum().backward()
    conv = model.get_submodule("0")
    slope = conv.weight.detach() * x.detach().abs().mean(1, keepdim=True) * (x.detach().abs() <= 1)  # type: ignore[operator]
    assert torch.allclose(x.grad, slope)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, bias=False, groups=2),
        nn.Conv2d(4, 4, 3, bias=False, dilation=2),
        nn.Conv2d(4, 4, 3, bias=False, padding=2),
        nn.Conv2d(4, 4, 3, bias=False, padding="same"),
        nn.Conv2d(4, 4, 3, bias=False, padding=1, padding_mode="reflect"),
        nn.Linear(4, 4),
    ],
)
def test_layers_that_k_does_not_suit(conv: nn.Module) -> None:
    with pytest.raises(BitwrightError, match="use_k"):
        edits.replace(nn.Sequential(conv), "0", "scaled-signs")


def test_bwn_ends_in_signs_per_filter(tmp_path: Path) -> None:
    data = bw.load_dataset("digits")
    model = BWN(train=SHORT).apply(small_resnet("basic"), Context(data))
    layers = select_layers(model, ("*",), ("first", "last"))
    assert len(layers) == 6
    for layer in layers.values():
        weight = layer.weight.detach()  # type: ignore[union-attr,operator]
        lattice = find_lattice(weight.numpy())
        assert lattice is not None
        assert set(np.unique(lattice.integers)) == {-1, 1}
        assert not lattice.two_magnitudes
    check_packed(model, data, 1, tmp_path)


@pytest.mark.parametrize("options", [{}, {"use_k": True}, {"binarise_gradients": True}])
def test_xnor_runs_packed(options: dict[str, bool], tmp_path: Path) -> None:
    data = bw.load_dataset("digits")
    model = XNOR(train=SHORT, **options).apply(small_resnet("pre-activation", signs=True), Context(data))  # type: ignore[arg-type]
    assert sum(isinstance(m, QuantConv2d) for m in model.modules()) == 6
    again = small_resnet("pre-activation", signs=True)
    edits.replay(again, edits.from_json(edits.to_json(model)))
    again.load_state_dict(model.state_dict())
    check_packed(again, data, 1, tmp_path)


def test_a_relu_in_front_of_signs_is_refused() -> None:
    with pytest.raises(BitwrightError, match=r"'layer1.0.conv1'.*signs"):
        XNOR(train=SHORT).apply(small_resnet("basic"), Context(bw.load_dataset("digits")))
