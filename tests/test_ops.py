"""Sign and quantize in torch: the arithmetic of FORMAT.md 8, gradients, export, and layers equal to the engine."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright
from bitwright import BitwrightError
from bitwright.ops import QuantConv2d, Quantize, QuantLinear, Sign, quantize, sign
from bitwright.packing.container import read_container
from bitwright.packing.lower import lower
from bitwright.runtime import Model
from bitwright.runtime.domains import SIGNS, Domain
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.reference import run_reference

ODD = [float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 1e-45, -1e-45, 3e38, 0.25, 0.75, -0.25]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.floats(width=32), st.sampled_from(ODD)), min_size=1, max_size=20),
    st.floats(2.0**-100, 2.0**100, width=32),
    st.integers(-20, 20),
    st.integers(-130, 0),
    st.integers(1, 130),
)
def test_the_operators_equal_the_reference_engine_bit_for_bit(numbers, scale, zero, qmin, qmax):
    x = np.array([numbers], np.float32)
    nodes = (
        Node("sign", (0,)),
        Node("quantize", (0,), {"qmin": qmin, "qmax": qmax}, {"scale": "s", "zero_point": "z"}),
    )
    tensors = {"s": np.array([scale], np.float32), "z": np.array([zero], np.float32)}
    signs, codes = run_reference(Graph((x.shape[1:],), nodes, (1, 2)), tensors, (x,))
    assert sign(torch.from_numpy(x)).numpy().tobytes() == signs.tobytes()
    assert Quantize(scale, zero, qmin, qmax)(torch.from_numpy(x)).numpy().tobytes() == codes.tobytes()


def test_scales_per_channel():
    quantizer = Quantize(torch.tensor([1.0, 0.5, 0.25]), torch.tensor([0, 1, -2]), -2, 3)
    x = torch.linspace(-3, 3, 2 * 3 * 4).reshape(2, 3, 4)
    for channel, (scale, zero) in enumerate([(1.0, 0), (0.5, 1), (0.25, -2)]):
        assert torch.equal(quantizer(x)[:, channel], Quantize(scale, zero, -2, 3)(x[:, channel]))
    assert quantizer.domain() is None
    assert quantizer.scale.shape == quantizer.zero_point.shape == (3,)
    other = quantize(x, *(b for b in quantizer.buffers()), axis=1)
    assert torch.equal(other, quantizer(x))
    assert Quantize(0.5, 3, 0, 15).domain() == Domain(np.float32(0.5), -3, 12)
    assert Sign().domain() == SIGNS
    assert repr(Quantize(0.5)) == "Quantize(scale=0.5, qmin=0, qmax=255)"
    assert "3 channels" in repr(quantizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "scale is 0.0; expected numbers from"),
        ((float("nan"),), "scale is nan"),
        ((1.0, 0.5), "zero_point is 0.5; expected whole"),
        ((1.0, 1e6), "zero_point is 1000000.0"),
        ((1.0, 0, 3, 3), "range is 3 to 3"),
        ((1.0, 0, 0, 1 << 17), "range is 0 to 131072"),
        ((1.0, 0, 0, 3.5), "range is 0 to 3.5; expected whole numbers"),
        ((torch.ones(3), torch.zeros(2)), "3 scales and 2 zero points; expected as many"),
    ],
)
def test_quantisers_that_no_file_may_hold_are_refused(arguments, message):
    with pytest.raises(BitwrightError, match=message) as caught:
        Quantize(*arguments)
    assert caught.value.kind == "value"


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: sign(x.int()), "bitwright::sign got torch.int32; expected floating numbers"),
        (lambda x: quantized(x.bool()), "bitwright::quantize got torch.bool"),
        (lambda x: quantized(x, scale=torch.ones(5)), r"scale of shape \(5,\) .* axis 1; expected 1 number or 3"),
        (lambda x: quantized(x, zero_point=torch.ones(2)), r"zero_point of shape \(2,\)"),
        (lambda x: quantized(x, qmax=torch.ones(3)), "qmax of shape .* expected 1 number"),
        (lambda x: quantized(x, scale=torch.ones(3), axis=7), "axis 7; expected 1 number"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message, device):
    with pytest.raises(BitwrightError, match=message) as caught:
        call(torch.zeros(2, 3, 4, device=device))
    assert caught.value.kind == "value"


def quantized(x, axis=1, **changed):
    numbers = {"scale": torch.ones(1), "zero_point": torch.zeros(1), "qmin": torch.zeros(1), "qmax": torch.ones(1)}
    return quantize(x, *(numbers | changed).values(), axis=axis)


def test_single_numbers_suit_values_of_any_shape():
    for shape in ((), (4,), (2, 3)):
        x = torch.randn(shape)
        assert torch.equal(quantized(x), (x > 0.5).float())


def test_gradients_pass_straight_through_inside_the_range():
    x = torch.tensor([[-2.0, -1.0, -0.5, 0.0, 1.0, 1.5]], requires_grad=True)
    sign(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 1, 1, 0]]
    x.grad = None
    (Quantize(0.5, 1, 0, 3)(x) * 3).sum().backward()  # from -0.5 to 1
    assert x.grad.tolist() == [[0, 0, 3, 3, 3, 0]]


@pytest.mark.parametrize("operator", ["sign", "quantize"])
def test_torch_checks_the_registrations(operator):
    x = torch.randn(2, 3, 4, requires_grad=True)
    arguments = (x,) if operator == "sign" else (x, *Quantize(0.3, 2, 0, 7).buffers())
    torch.library.opcheck(getattr(torch.ops.bitwright, operator).default, arguments)


def test_half_precision_stays_what_it_was():
    x = torch.randn(2, 3).bfloat16()
    assert sign(x).dtype == Quantize(0.5)(x).dtype == torch.bfloat16


def test_the_operators_are_there_when_models_are_and_torch_only_then():
    script = """
import sys, bitwright
assert "torch" not in sys.modules
import bitwright.{room}, torch
torch.ops.bitwright.sign(torch.zeros(1))
"""
    for room in ("ops", "models", "packing.lower"):
        subprocess.run([sys.executable, "-c", script.replace("{room}", room)], check=True)


# --- layers


def binary(weight, alpha):
    with torch.no_grad():
        weight.copy_(torch.where(weight >= 0, 1.0, -1.0) * alpha)


class Net(nn.Module):
    """Quantised first layer, signs, a ternary layer of two magnitudes, batch norms between them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = QuantConv2d(2, 8, 3, padding=1, bias=False, input=Quantize(1 / 255, 0, 0, 255))
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = QuantConv2d(8, 8, 3, padding=1, groups=2, input=Sign())
        self.pool = nn.MaxPool2d(2)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = QuantLinear(8 * 16, 5, input=Quantize(0.3, 3, 0, 7))
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.weight, -1, 2)
            nn.init.normal_(norm.bias)
        binary(self.conv1.weight, torch.rand(8, 1, 1, 1) + 0.1)
        binary(self.conv2.weight, 0.3)
        with torch.no_grad():
            w = self.fc.weight
            w.copy_(torch.where(w > 0.03, 0.7, torch.where(w < -0.03, -0.2, 0.0)))

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        x = self.bn2(self.pool(self.conv2(x)))
        return self.fc(x.flatten(1))


@pytest.fixture(scope="module")
def net():
    return Net().eval()


def test_the_state_dict_has_the_keys_of_torchs_layers_and_the_quantisers(net):
    keys = set(net.state_dict())
    assert {"conv1.weight", "conv1.input.scale", "conv2.bias", "fc.weight", "fc.input.qmax"} <= keys
    assert not {k for k in keys if k.startswith("conv2.input")}
    again = Net()
    again.load_state_dict(copy.deepcopy(net).state_dict())


def test_a_quantised_network_is_equal_to_the_engine_in_every_bit(net):
    """Eager torch computes the integer sequence; batch norm alone is another formula in torch."""
    x = torch.rand(3, 2, 8, 8)
    with torch.no_grad():
        hidden = {}
        for name, module in net.named_modules():
            module.register_forward_hook(lambda m, i, o, n=name: hidden.__setitem__(n, (i[0], o)))
        net(x)
    for name in ("conv1", "conv2", "fc"):
        layer = getattr(net, name)
        given, expected = hidden[name]
        graph, tensors = lower(layer, (given,))
        (found,) = run_reference(graph, tensors, (given.numpy(),))
        assert found.tobytes() == expected.numpy().tobytes(), name


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_network_of_integer_layers_is_equal_in_every_bit_from_end_to_end(engine):
    torch.manual_seed(1)
    layers = [
        QuantConv2d(3, 16, 3, stride=2, padding=1, input=Quantize(1 / 255, 0, 0, 255)),
        QuantConv2d(16, 24, 3, padding=1, groups=2, bias=False, input=Sign()),
        nn.ReLU(),
        QuantConv2d(24, 8, 3, padding=2, dilation=2, input=Quantize(0.7, 0, 0, 3)),
        nn.Flatten(),
        QuantLinear(8 * 36, 10, input=Quantize(0.05, 8, 0, 15)),
    ]
    net = nn.Sequential(*layers).eval()
    with torch.no_grad():
        binary(net[0].weight, torch.rand(16, 1, 1, 1) + 0.1)
        binary(net[1].weight, torch.rand(24, 1, 1, 1) + 0.1)
        weight = net[3].weight
        weight.copy_(torch.where(weight > 0.02, 0.31, torch.where(weight < -0.02, -0.17, 0.0)))
        net[5].weight.copy_((net[5].weight * 1000).round() * 0.003)
        x = torch.rand(4, 3, 12, 12)
        expected = net(x).numpy()
    container = read_container(bitwright.pack(net, (x,)).data)
    assert [s.encoding for s in container.stored.values() if len(s.shape) > 1] == ["signs", "signs", "ternary", "fixed"]
    found = Model(container.graph, container.stored, engine=engine)(x.numpy())
    assert found.tobytes() == expected.tobytes()
    assert len(np.unique(found)) > 20


def test_a_quantised_network_packs_and_runs(net, tmp_path):
    x = torch.rand(16, 2, 8, 8)
    packed = bitwright.pack(net, (x,))
    container = read_container(packed.data)
    ops = [node.op for node in container.graph.nodes]
    assert ops == [
        "quantize",
        "conv2d",
        "affine",
        "sign",
        "conv2d",
        "max_pool2d",
        "affine",
        "flatten",
        "quantize",
        "linear",
    ]
    stored = {name: tensor.encoding for name, tensor in container.stored.items()}
    assert stored["conv1.weight"] == stored["conv2.weight"] == "signs"
    assert container.graph.nodes[0].attributes == {"qmin": 0, "qmax": 255}
    packed.save(tmp_path / "net.safetensors")
    model = bitwright.load(tmp_path / "net.safetensors", engine="reference")
    with torch.no_grad():
        expected = net(x).numpy()
    agree = np.isclose(model(x.numpy()), expected, rtol=0, atol=1e-4 * np.ptp(expected))
    assert agree.all(axis=1).mean() >= 0.9  # a rounding of the batch norm may flip a code now and then


def test_the_layer_follows_its_weight_and_quantiser(net):
    layer = copy.deepcopy(net.conv2)
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        for change in (
            lambda: layer.weight.data.neg_(),
            lambda: layer.weight.data.mul_(2),
            lambda: binary(layer.weight, 1),
        ):
            before = layer(x)
            change()
            assert not torch.equal(layer(x), before)
            assert torch.allclose(layer(x), layer._conv_forward(sign(x), layer.weight, layer.bias), atol=1e-4)
        layer.weight.normal_()  # no lattice: the plain layer
        assert torch.equal(layer(x), layer._conv_forward(sign(x), layer.weight, layer.bias))


def test_with_gradients_it_is_the_plain_layer(net):
    layer = copy.deepcopy(net.conv2)
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, layer._conv_forward(sign(x), layer.weight, layer.bias))
    y.sum().backward()
    assert layer.weight.grad is not None
    assert x.grad is not None


def test_large_sums_are_exact_too():
    layer = QuantLinear(5000, 2, bias=False, input=Quantize(1.0, 0, 0, 65535))
    k = torch.randint(-127, 128, (2, 5000))
    with torch.no_grad():
        layer.weight.copy_(k * 1.0)
        x = torch.randint(0, 256, (3, 5000)).float()
        expected = (x.long() @ k.T.long()).float()
        assert torch.equal(layer(x), expected)


def test_a_plain_module_with_the_operator_packs_and_runs():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(16, 32, 3, padding=1)
            binary(self.conv.weight, torch.rand(32, 1, 1, 1) + 0.1)

        def forward(self, x):
            return self.conv(torch.ops.bitwright.sign(x))

    torch.manual_seed(0)
    net, x = Plain().eval(), torch.randn(3, 16, 9, 9)
    packed = bitwright.pack(net, (x,))
    container = read_container(packed.data)
    assert container.stored["conv.weight"].encoding == "signs"
    assert len(packed.data) < 32 * 16 * 9 / 8 + 32 * 8 + 700
    tensors = {name: stored.dense() for name, stored in container.stored.items()}
    with torch.no_grad():
        expected = net(x).numpy()
    for engine in ("reference", "native"):
        found = Model(container.graph, tensors, engine=engine)(x.numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_quantisers_of_channels_and_constants_lower():
    class Plain(nn.Module):
        def forward(self, x):
            scale, zero = torch.full((4,), 0.5), torch.zeros(1)
            return torch.ops.bitwright.quantize(x, scale, zero, torch.tensor(0.0), torch.tensor(3.0))

    x = torch.randn(2, 4, 3, 3)
    graph, tensors = lower(Plain(), (x,))
    assert sorted(array.shape for array in tensors.values()) == [(4,), (4,)]
    assert torch.equal(torch.from_numpy(run_reference(graph, tensors, (x.numpy(),))[0]), Plain()(x))

    class OtherAxis(nn.Module):
        def forward(self, x):
            scale = torch.linspace(0.5, 1, 3)
            return torch.ops.bitwright.quantize(x, scale, torch.zeros(3), torch.zeros(()), torch.ones(()), axis=2)

    with pytest.raises(BitwrightError, match="its axis is 2; only channels"):
        lower(OtherAxis(), (x,))


@pytest.mark.parametrize("largest", [1, 15, 127])
@pytest.mark.parametrize("qmax", [1, 255, 65535])
def test_large_sums_of_a_quantised_layer_are_exact(largest: int, qmax: int) -> None:
    """Beyond what one convolution of float32 adds exactly, digits of the weights or float64 do."""
    random = np.random.default_rng(qmax + largest)
    codes, k = random.integers(0, qmax + 1, (3, 240)), random.integers(-largest, largest + 1, (4, 240))
    k[:, 0] = largest
    layer = QuantLinear(240, 4, bias=False, input=Quantize(0.5, 0, 0, qmax))
    layer.weight.data = torch.from_numpy(k * 0.25).float()
    with torch.no_grad():
        y = layer(torch.from_numpy(codes * 0.5).float())
    exact = (codes @ k.T).astype(np.float32) * np.float32(0.125)
    assert np.array_equal(y.numpy(), exact)
