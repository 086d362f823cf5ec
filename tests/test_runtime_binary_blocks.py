"""The blocks that binary networks are built of, from torch to a plan: few steps, and the same numbers everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitwright import _native
from bitwright.ops import QuantConv2d, Quantize, QuantLinear, Sign
from bitwright.packing.lower import lower
from bitwright.runtime import Model
from bitwright.runtime.reference import run_reference

CHANNELS = 32


class Shift(nn.Module):
    """x + b per channel, as ReActNet writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias.expand_as(x)


class BinaryConv(nn.Module):
    """alpha sign(w) on the signs of x, with the K map of XNOR-Net if asked for."""

    def __init__(self, channels: int, outputs: int, stride: int = 1, kernel: int = 3, k_map: bool = False) -> None:
        super().__init__()
        self.conv = QuantConv2d(channels, outputs, kernel, stride, padding=kernel // 2, bias=False, input=Sign())
        weight = torch.randn_like(self.conv.weight)
        self.conv.weight.data = torch.where(weight >= 0, 1.0, -1.0) * (torch.rand(outputs, 1, 1, 1) + 0.5)
        self.window = (kernel, stride, kernel // 2)
        self.k_map = k_map

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y * F.avg_pool2d(x.abs().mean(1, keepdim=True), *self.window) if self.k_map else y


def norm(channels: int) -> nn.BatchNorm2d:
    """With scales of either sign."""
    bn = nn.BatchNorm2d(channels)
    for tensor in (bn.weight.data, bn.bias.data, bn.running_mean):
        tensor.copy_(torch.randn(channels))
    bn.running_var.copy_(torch.rand(channels) * 100 + 50)
    return bn


class Residual(nn.Module):
    """y = bn(conv(shift(x))) + shortcut(x), then an activation."""

    def __init__(
        self, activation: nn.Module, shortcut: nn.Module | None = None, stride: int = 1, outputs: int = CHANNELS
    ) -> None:
        super().__init__()
        self.shift, self.conv, self.bn = Shift(CHANNELS), BinaryConv(CHANNELS, outputs, stride), norm(outputs)
        self.activation, self.shortcut = activation, shortcut or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.bn(self.conv(self.shift(x))) + self.shortcut(x))


class OptionA(nn.Module):
    """Every second pixel, with zeros for the new channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, CHANNELS // 2, CHANNELS // 2))


def rprelu() -> nn.Module:
    return nn.Sequential(Shift(CHANNELS), nn.PReLU(CHANNELS), Shift(CHANNELS))


def steps(model: Model) -> list[str]:
    return [step.does for step in model.plan if step.does != "transpose"]


def compare(
    model: nn.Module, shape: tuple[int, ...] = (CHANNELS, 9, 9), kernels: tuple[str, ...] = ("bits", "bytes", "exact")
) -> Model:
    """Lower it; the engines give one result, torch's but for signs that rounding turned. Gives the engine on bits."""
    torch.manual_seed(0)
    model.eval()
    x = torch.randn(3, *shape)
    graph, weights = lower(model, (x,))
    (expected,) = run_reference(graph, weights, (x.numpy(),))
    with torch.no_grad():
        theirs = model(x).numpy()
    far = np.abs(expected - theirs) > 1e-4 * np.abs(theirs).max()
    assert far.mean() < 0.01
    for isa in _native.isa_names():
        _native.set_isa(isa)
        try:
            for kernel in kernels:
                np.testing.assert_allclose(
                    Model(graph, weights, kernels=[kernel])(x.numpy()), expected, rtol=1e-5, atol=1e-5
                )
        finally:
            _native.set_isa(None)
    return Model(graph, weights, kernels=kernels)


@pytest.mark.parametrize(
    ("activation", "does"),
    [
        (rprelu, "conv2d + affine + add + affine + prelu + affine"),
        (nn.Hardtanh, "conv2d + affine + add + clamp"),
        (nn.PReLU, "conv2d + affine + add + prelu"),
        (nn.Identity, "conv2d + affine + add"),
    ],
)
def test_a_residual_block_is_one_step_per_convolution(activation, does):
    """RSign and RPReLU (ReActNet), a hard tanh (IR-Net), nothing (Bi-Real)."""
    model = compare(nn.Sequential(*(Residual(activation()) for _ in range(3))))
    assert steps(model) == ["affine + sign", f"{does} + affine + sign", f"{does} + affine + sign", does]
    convolution = model.plan[2]
    assert convolution.makes == ("float 32x9x9", "1 bit 32x9x9")


def test_a_clamp_that_a_shortcut_reads_too_is_part_of_the_step():
    blocks = [Residual(nn.Hardtanh()) for _ in range(2)]
    for block in blocks:
        block.shift = nn.Identity()
    model = compare(nn.Sequential(*blocks))
    assert steps(model) == ["sign", "conv2d + affine + add + clamp + sign", "conv2d + affine + add + clamp"]


def test_shortcuts_are_steps_of_their_own():
    model = compare(nn.Sequential(Residual(rprelu()), Residual(nn.Identity(), OptionA(), 2, 2 * CHANNELS)))
    fused = "conv2d + affine + add + affine + prelu + affine + affine + sign"
    assert steps(model) == ["affine + sign", fused, "slice + slice + pad", "conv2d + affine + add"]


def test_an_average_pool_before_a_binary_shortcut():
    shortcut = nn.Sequential(nn.AvgPool2d(2), BinaryConv(CHANNELS, 2 * CHANNELS, kernel=1), norm(2 * CHANNELS))
    model = compare(Residual(nn.Identity(), shortcut, 2, 2 * CHANNELS), (CHANNELS, 8, 8))
    assert sorted(steps(model)) == sorted(
        ["affine + sign", "conv2d + affine", "avg_pool2d", "sign", "conv2d + affine + add"]
    )


@pytest.mark.parametrize("pool", [(2, 2, 0), (3, 2, 1)])
@pytest.mark.parametrize("order", ["pool first", "norm first", "no norm"])
def test_a_pool_between_a_convolution_and_its_sign_runs_on_bits(pool, order):
    """BNN: conv, pool, norm, hard tanh, sign. XNOR: the norm and sign belong to the next block."""
    middle = {"pool first": [nn.MaxPool2d(*pool), norm(CHANNELS)], "norm first": [norm(CHANNELS), nn.MaxPool2d(*pool)]}
    layers = [*middle.get(order, [nn.MaxPool2d(*pool)]), nn.Hardtanh()]
    model = compare(nn.Sequential(BinaryConv(CHANNELS, CHANNELS), *layers, BinaryConv(CHANNELS, 8)))
    assert [step.makes[0].split(" ")[:2] for step in model.plan if step.does != "transpose"][:3] == [["1", "bit"]] * 3
    assert len(steps(model)) == 4
    assert steps(model)[2:] == ["max_pool2d", "conv2d"]


def test_norms_of_powers_of_two_are_thresholds():
    """Shift-based batch norm is (x - mean) * a * b + beta."""

    class ShiftNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean, scale = torch.linspace(-9, 9, CHANNELS), 2 ** (torch.arange(CHANNELS) % 5 - 2.0)
            shape = (1, CHANNELS, 1, 1)
            return (x - mean.view(shape)) * (0.25 * scale.view(shape)) + 0.5

    model = compare(nn.Sequential(BinaryConv(CHANNELS, CHANNELS), ShiftNorm(), BinaryConv(CHANNELS, 8)))
    assert steps(model) == ["sign", "conv2d + affine + affine + sign", "conv2d"]


def test_the_k_map_is_a_mean_a_box_filter_and_a_product():
    block = nn.Sequential(norm(CHANNELS), BinaryConv(CHANNELS, 48, stride=2, k_map=True), nn.MaxPool2d(2))
    model = compare(block)
    assert sorted(steps(model)) == sorted(
        ["affine", "affine + sign", "conv2d", "abs", "mean", "avg_pool2d", "mul", "max_pool2d"]
    )


def quant_linear(inputs: int, outputs: int, quantizer: nn.Module) -> nn.Module:
    layer = QuantLinear(inputs, outputs, bias=False, input=quantizer)
    layer.weight.data = torch.where(torch.randn(outputs, inputs) >= 0, 1.0, -1.0)
    bn = nn.BatchNorm1d(outputs)
    bn.load_state_dict(norm(outputs).state_dict())
    return nn.Sequential(layer, bn)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("ending", ["sums", "norm"])
def test_an_mlp_of_bits_is_integer_from_input_to_output(batch, ending):
    """Pixels in 256 levels, sign weights everywhere (BNN): every sum is equal, and each layer is one step."""
    torch.manual_seed(0)
    first = quant_linear(784, 512, Quantize(1 / 255, 0, 0, 255))
    last = quant_linear(192, 10, Sign())
    layers = [nn.Flatten(), first, nn.Hardtanh(), quant_linear(512, 192, Sign()), nn.Hardtanh()]
    model = nn.Sequential(*layers, last if ending == "norm" else last[0]).eval()
    x = torch.randint(0, 256, (batch, 1, 28, 28)).float() / 255
    graph, weights = lower(model, (x,))
    with torch.no_grad():
        theirs = model(x).numpy()
    (expected,) = run_reference(graph, weights, (x.numpy(),))
    if ending == "sums":
        assert np.array_equal(expected, theirs)
    else:  # torch rounds within its batch norm as it likes
        np.testing.assert_allclose(expected, theirs, rtol=1e-5, atol=1e-5)
    for isa in _native.isa_names():
        _native.set_isa(isa)
        try:
            engine = Model(graph, weights)
            assert np.array_equal(engine(x.numpy()), expected)
        finally:
            _native.set_isa(None)
    tail = "linear + affine" if ending == "norm" else "linear"
    assert steps(engine) == ["quantize", "linear + affine + sign", "linear + affine + sign", tail]
