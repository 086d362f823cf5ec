"""Residual blocks in every order: the stated formula, the public weights, and the engine with signs in front."""

import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bitwright
from bitwright import BitwrightError, create_model
from bitwright.models.blocks import RPReLU, Shift
from bitwright.models.resnet import ResNet
from bitwright.ops import QuantConv2d, Sign
from bitwright.packing.lower import lower
from bitwright.runtime.reference import run_reference

ORDERS = {"basic": "relu", "pre-activation": "relu", "bireal": "identity", "react": "identity"}
SHAPES = [(16, 16, 1), (16, 32, 2)]
"""Channels before and after, and the stride."""


def net(block, downsample="pad", activation=None, depth=14):
    """A small one, for images of odd sizes, with random norms and shifts."""
    torch.manual_seed(0)
    model = ResNet(depth, (3, 9, 5), 10, block, downsample, activation or ORDERS.get(block, "relu")).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, Shift | RPReLU):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def parts(block, stride):
    """The layers of a block as functions of its state_dict."""
    s = block.state_dict()

    def conv(i, x):
        return F.conv2d(x, s[f"conv{i}.weight"], stride=stride if i == 1 else 1, padding=1)

    def bn(i, x):
        mean, var, gamma, beta = (s[f"bn{i}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        columns = [t.reshape(-1, 1, 1) for t in (mean, (var + 1e-5).sqrt(), gamma, beta)]
        return (x - columns[0]) / columns[1] * columns[2] + columns[3]

    def shift(i, x):
        return x - s[f"shift{i}.threshold"].reshape(-1, 1, 1)

    def rprelu(i, x):
        b, a, c = (s[f"act{i}.{key}"].reshape(-1, 1, 1) for key in ("before", "slope", "after"))
        return torch.where(x > b, x - b + c, a * (x - b) + c)

    return conv, bn, shift, rprelu


def padded(x, channels, stride, pool):
    """Option A on every second pixel, or on the mean of 2x2 (of what there is of them at the border)."""
    if stride == 2:
        x = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)(x) if pool else x[:, :, ::2, ::2]
    out = torch.zeros(len(x), channels, *x.shape[2:])
    first = (channels - x.shape[1]) // 2
    out[:, first : first + x.shape[1]] = x
    return out


@pytest.mark.parametrize("order", [*ORDERS, "plain"])
@pytest.mark.parametrize(("channels_in", "channels", "stride"), SHAPES)
def test_each_order_computes_its_formula(order, channels_in, channels, stride):
    model = net(order)
    block = model.layer2[0] if stride == 2 else model.layer1[1]
    conv, bn, shift, rprelu = parts(block, stride)
    x = torch.randn(2, channels_in, 5, 6)
    short = padded(x, channels, stride, pool=order in ("bireal", "react"))
    if order == "basic":
        expected = F.relu(bn(2, conv(2, F.relu(bn(1, conv(1, x))))) + short)
    elif order == "plain":
        expected = F.relu(bn(2, conv(2, F.relu(bn(1, conv(1, x))))))
    elif order == "pre-activation":
        expected = conv(2, F.relu(bn(2, conv(1, F.relu(bn(1, x)))))) + short
    elif order == "bireal":
        y = bn(1, conv(1, x)) + short
        expected = bn(2, conv(2, y)) + y
    else:
        y = rprelu(1, bn(1, conv(1, shift(1, x))) + short)
        expected = rprelu(2, bn(2, conv(2, shift(2, y))) + y)
    with torch.no_grad():
        found = block(x)
    assert found.shape == (2, channels, -(-5 // stride), -(-6 // stride))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_projected_shortcuts_where_the_shape_changes_alone(order):
    model = net(order, "conv")
    names = [name for name in model.state_dict() if "downsample" in name and name.endswith("weight")]
    assert {name.split(".downsample")[0] for name in names} == {"layer2.0", "layer3.0"}
    convolution = next(m for m in model.layer2[0].downsample if isinstance(m, nn.Conv2d))
    assert convolution.weight.shape == (32, 16, 1, 1)
    assert model(torch.zeros(2, 3, 9, 5)).shape == (2, 10)


def test_pre_activation_has_one_norm_and_activation_before_each_convolution():
    """He et al. 2016: the stem's is also the first block's, and one follows the last block."""
    model = net("pre-activation")
    seen = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(torch.zeros(1, 3, 9, 5))
    assert seen[:6] == ["conv1", "bn1", "relu", "layer1.0.conv1", "layer1.0.bn2", "layer1.0.relu2"]
    assert seen[-6:] == [*(f"layer3.1.{part}" for part in ("conv1", "bn2", "relu2", "conv2")), "last.0", "last.1"]


def signs(model):
    """The model with a sign before each 3x3 convolution of its blocks, as the steps for binary activations make it."""
    for block in [*model.layer1, *model.layer2, *model.layer3]:
        for name in ("conv1", "conv2"):
            plain = getattr(block, name)
            coded = QuantConv2d(
                plain.in_channels, plain.out_channels, 3, plain.stride, padding=1, bias=False, input=Sign()
            )
            with torch.no_grad():
                coded.weight.copy_(torch.where(plain.weight >= 0, 1.0, -1.0))
            setattr(block, name, coded)
    return model.eval()


@pytest.mark.parametrize(
    ("order", "downsample", "binary"),
    [
        ("basic", "conv", False),
        ("basic", "pad", True),
        ("pre-activation", "pad", False),
        ("pre-activation", "conv", True),
        ("bireal", "conv", False),
        ("bireal", "pad", True),
        ("react", "pad", False),
        ("react", "conv", True),
    ],
)
def test_every_order_packs_and_runs(order, downsample, binary, tmp_path):
    model = net(order, downsample, "identity" if binary else None, depth=8)
    if binary:
        signs(model)
    x = torch.randn(4, 3, 9, 5)
    bitwright.pack(model, (x[:1],)).save(tmp_path / "net.safetensors")
    with torch.no_grad():
        expected = model(x).numpy()
    graph, tensors = lower(model, (x[:1],))
    for found in (
        bitwright.load(tmp_path / "net.safetensors")(x.numpy()),
        run_reference(graph, tensors, (x.numpy(),))[0],
    ):
        assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)


@pytest.mark.parametrize("order", ["pre-activation", "bireal", "react"])
def test_signs_see_both_sides_of_zero(order):
    model = signs(net(order, activation="identity"))
    shares = []
    for module in model.modules():
        if isinstance(module, Sign):
            module.register_forward_hook(lambda _, __, y: shares.append(float((y > 0).float().mean())))
    model(torch.randn(8, 3, 9, 5))
    assert len(shares) == 12
    assert all(0.02 < share < 0.98 for share in shares), shares


@pytest.mark.skipif("BITWRIGHT_DATA" not in os.environ, reason="BITWRIGHT_DATA is not set")
@pytest.mark.parametrize("order", ["basic", "bireal"])
def test_the_public_weights_load(order):
    create_model("resnet-20", block=order, weights="resnet20-12fca82f")


def test_every_order_names_its_layers_alike():
    """So public weights fit all of an order's tensors but the norms that come before a convolution that widens."""
    basic = {name: tensor.shape for name, tensor in create_model("resnet-20").state_dict().items()}
    moved = {"last.0", "layer2.0.bn1", "layer3.0.bn1", "layer1.0.bn1"}
    for order in ORDERS:
        other = {n: t.shape for n, t in create_model("resnet-20", block=order).state_dict().items()}
        differing = {n.rsplit(".", 1)[0] for n in basic.keys() | other.keys() if basic.get(n) != other.get(n)}
        if order == "react":
            differing = {name for name in differing if not name.endswith(("shift1", "shift2", "act1", "act2"))}
        assert differing == (moved if order == "pre-activation" else set())


def test_words_that_no_block_knows():
    def refused(message, **options):
        with pytest.raises(BitwrightError, match=message):
            create_model("resnet-20", **options)

    refused("unknown block of model 'resnet-20' 'bi-real'; did you mean 'bireal'", block="bi-real")
    refused("unknown downsample of model 'resnet-20' 'pool'. Known: conv, pad", downsample="pool")
    refused("unknown activation 'rulu'; did you mean 'relu'", activation="rulu")
    refused("block 'react' learns its activation; leave out activation='relu'", block="react", activation="relu")
    refused("block 'plain' has no shortcuts; leave out downsample='conv'", block="plain", downsample="conv")
