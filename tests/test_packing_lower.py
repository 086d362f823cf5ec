"""Every module of the supported kind becomes a graph that computes the same; the others are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitwright import BitwrightError
from bitwright.data.preprocess import Preprocess
from bitwright.packing import pack
from bitwright.packing.container import read_container
from bitwright.packing.lower import lower
from bitwright.runtime.reference import run_reference

TOLERANCE = 1e-5
"""Of the output's range: float32 sums of a few hundred terms in another order."""


class Call(nn.Module):
    """A module from a function of its submodules and its input."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


def quantized(x: torch.Tensor, scale: float, qmax: float = 3.0) -> torch.Tensor:
    numbers = (torch.tensor(n) for n in (scale, 0.0, 0.0, qmax))
    return torch.ops.bitwright.quantize(x, *numbers)


def images(*shape: int, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(7))


def busy(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm


def check(model: nn.Module, *inputs: torch.Tensor, names: tuple[str, ...] = ()) -> tuple[Any, dict[str, np.ndarray]]:
    """Lower, run by the reference engine, compare with torch; the graph and its weights."""
    graph, weights = lower(model, inputs)
    model.eval()
    with torch.no_grad():
        expected = model(*(x.clone() for x in inputs))
    outputs = run_reference(graph, weights, tuple(x.numpy() for x in inputs))
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(outputs) == len(expected)
    for i, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
        assert ours.shape == tuple(theirs.shape), names[i:]
        assert ours.dtype == np.float32, names[i:]
        atol = TOLERANCE * float(theirs.abs().max())
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=atol, err_msg=f"{names[i:]}")
    return graph, weights


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(3, 5, 3), (3, 9, 8)),
    "conv-stride": (nn.Conv2d(3, 5, (3, 2), stride=(2, 3), padding=(1, 2), bias=False), (3, 9, 8)),
    "conv-dilation": (nn.Conv2d(3, 5, 3, dilation=(2, 1), padding=4), (3, 9, 8)),
    "conv-groups": (nn.Conv2d(4, 6, 3, groups=2), (4, 9, 8)),
    "conv-depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 9, 8)),
    "conv-same": (nn.Conv2d(3, 5, 3, padding="same"), (3, 9, 8)),
    "conv-same-even": (nn.Conv2d(3, 5, (4, 2), padding="same", dilation=(1, 3)), (3, 9, 8)),
    "conv-valid": (nn.Conv2d(3, 5, 3, padding="valid"), (3, 9, 8)),
    "conv-far-padding": (nn.Conv2d(2, 3, 1, padding=5, stride=100), (2, 3, 3)),
    "linear": (nn.Linear(6, 4), (6,)),
    "linear-no-bias": (nn.Linear(6, 4, bias=False), (6,)),
    "batch-norm": (busy(nn.BatchNorm2d(4)), (4, 5, 5)),
    "batch-norm-1d": (busy(nn.BatchNorm1d(4)), (4,)),
    "batch-norm-plain": (busy(nn.BatchNorm2d(4, affine=False)), (4, 5, 5)),
    "group-norm": (busy(nn.GroupNorm(2, 4)), (4, 5, 5)),
    "group-norm-plain": (nn.GroupNorm(3, 6, affine=False), (6, 5)),
    "group-norm-features": (busy(nn.GroupNorm(3, 6)), (6,)),
    "layer-norm": (busy(nn.LayerNorm(6)), (6,)),
    "layer-norm-image": (nn.LayerNorm([4, 3, 5]), (4, 3, 5)),
    "instance-norm": (busy(nn.InstanceNorm2d(4, affine=True)), (4, 5, 6)),
    "instance-norm-plain": (nn.InstanceNorm2d(4), (4, 5, 6)),
    "instance-norm-tracked": (busy(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), (4, 5, 6)),
    "response-norm": (nn.LocalResponseNorm(5, 5e-2, 0.75, 2.0), (8, 5, 6)),
    "response-norm-even": (nn.LocalResponseNorm(4, 0.5, 0.3), (7, 5, 6)),
    "response-norm-wide": (nn.LocalResponseNorm(9), (3, 5, 6)),
    "sigmoid": (nn.Sigmoid(), (4, 5)),
    "tanh": (nn.Tanh(), (4, 5)),
    "elu": (nn.ELU(0.5), (4, 5)),
    "gelu": (nn.GELU(), (4, 5)),
    "silu": (nn.SiLU(), (4, 5)),
    "hard-sigmoid": (nn.Hardsigmoid(), (4, 5)),
    "hard-swish": (nn.Hardswish(), (4, 5)),
    "leaky-relu": (nn.LeakyReLU(0.2), (4, 5)),
    "adaptive-max": (nn.AdaptiveMaxPool2d((3, 2)), (3, 8, 9)),
    "relu": (nn.ReLU(), (4, 5)),
    "relu-in-place": (nn.ReLU(inplace=True), (4,)),
    "max-pool": (nn.MaxPool2d(2), (3, 7, 8)),
    "max-pool-ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (3, 8, 7)),
    "max-pool-dilated": (nn.MaxPool2d((2, 3), (1, 2), dilation=(3, 2)), (3, 8, 9)),
    "max-pool-larger": (nn.MaxPool2d(3, 2, ceil_mode=True), (3, 2, 2)),
    "avg-pool-larger": (nn.AvgPool2d(4, 3, 1, ceil_mode=True), (3, 2, 1)),
    "avg-pool": (nn.AvgPool2d(2), (3, 7, 8)),
    "avg-pool-ceil": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (3, 8, 7)),
    "avg-pool-inside": (nn.AvgPool2d((3, 2), (2, 3), 1, ceil_mode=True, count_include_pad=False), (3, 8, 9)),
    "adaptive": (nn.AdaptiveAvgPool2d((3, None)), (3, 8, 9)),
    "adaptive-one": (nn.AdaptiveAvgPool2d(1), (3, 8, 9)),
    "adaptive-larger": (nn.AdaptiveAvgPool2d((5, 7)), (3, 3, 4)),
    "flatten": (nn.Flatten(), (3, 2, 4)),
    "unflatten": (nn.Sequential(nn.Linear(6, 24), nn.Unflatten(1, (4, 2, 3)), nn.Conv2d(4, 5, 2), nn.ReLU()), (6,)),
    "unflatten-input": (nn.Sequential(nn.Unflatten(1, (2, 3, 4)), nn.Conv2d(2, 5, 2)), (24,)),
    "dropout": (nn.Dropout(0.9), (5,)),
    "identity": (nn.Sequential(nn.Identity(), nn.ReLU()), (5,)),
    "softmax": (nn.Softmax(dim=1), (5,)),
    "softmax-last": (nn.Softmax(dim=-1), (3, 4, 5)),
    "prelu": (nn.PReLU(), (3, 4, 5)),
    "prelu-channels": (nn.PReLU(3), (3, 4, 5)),
    "prelu-features": (nn.PReLU(5), (5,)),
    "hardtanh": (nn.Hardtanh(-0.5, 1), (5,)),
    "zero-pad": (nn.ZeroPad2d((1, 0, 2, 3)), (3, 4, 5)),
}


def test_layers():
    """All of them side by side in one module, because an export takes a while."""
    layers = nn.ModuleList([layer for layer, _ in LAYERS.values()])
    model = Call(lambda m, *inputs: tuple(layer(x) for layer, x in zip(m.layers, inputs, strict=True)), layers=layers)
    check(model, *(images(*shape) for _, shape in LAYERS.values()), names=tuple(LAYERS))


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "shortcut": (lambda m, x: F.pad(x[:, :, ::2, 1::2], (0, 0, 0, 0, 2, 2)), (3, 8, 8)),
    "slices": (lambda m, x: x[:, 1:, -5:-1, :6:4], (3, 8, 8)),
    "pad-value": (lambda m, x: F.pad(x, (1, 2), value=-1.5), (3, 4, 5)),
    "mean": (lambda m, x: x.mean((2, 3)), (3, 4, 5)),
    "mean-keep": (lambda m, x: x.mean(dim=(-1, -2), keepdim=True), (3, 4, 5)),
    "mean-all": (lambda m, x: x.mean(dim=(1, 2, 3)), (3, 4, 5)),
    "view": (lambda m, x: x.view(x.size(0), -1) + x.reshape(-1, 60), (3, 4, 5)),
    "squeeze": (lambda m, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), (3, 4, 5)),
    "there-and-back": (lambda m, x: x.flatten(1).unflatten(1, (3, 4, 5)).relu(), (3, 4, 5)),
    "in-place": (lambda m, x: _in_place(x), (3, 4, 5)),
    "add-itself": (lambda m, x: x + x.relu() + x, (3, 4, 5)),
    "per-channel": (lambda m, x: (x - torch.ones(3, 1, 1)) / torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1), (3, 4, 5)),
    "scalars": (lambda m, x: 2 * (1 + x * 0.5) - 3, (3, 4, 5)),
    "concat": (lambda m, x: torch.cat([x, x.relu(), x[:, :1]], 1), (3, 4, 5)),
    "concat-rows": (lambda m, x: torch.cat([x, x[:, :, :2]], -2), (3, 4, 5)),
    "concat-flat": (lambda m, x: torch.cat([x.flatten(1), x.mean((2, 3))], 1), (3, 4, 5)),
    "concat-one": (lambda m, x: torch.cat([x], 1).relu(), (3, 4, 5)),
    "maxout": (lambda m, x: x.unflatten(1, (2, 3)).amax(2), (6, 4, 5)),
    "maxout-features": (lambda m, x: x.view(-1, 2, 3).max(2).values + x.unflatten(1, (-1, 3)).amax(-1), (6,)),
    "leaky": (lambda m, x: F.leaky_relu(x, 0.1), (3, 4, 5)),
    "limits": (
        lambda m, x: F.relu6(3 * x) + F.hardtanh(x) + x.clamp(-0.5, 2) + x.clamp(max=1) + x.clamp(min=0),
        (3, 4),
    ),
    "tensor-limits": (lambda m, x: x.clamp(torch.tensor(-0.5), torch.tensor(0.5)), (3, 4, 5)),
    "product": (lambda m, x: x * x.relu(), (3, 4, 5)),
    "channel-mean": (lambda m, x: x * F.avg_pool2d(x.abs().mean(1, keepdim=True), 3, 1, 1), (3, 4, 5)),
    "roots": (lambda m, x: (x * x).sqrt() + (x * x + 1).rsqrt(), (3, 4, 5)),
    "difference": (lambda m, x: x.relu() - x, (3, 4, 5)),
    "difference-of-mean": (lambda m, x: x.mean(1, keepdim=True) - x, (3, 4, 5)),
    "difference-from-mean": (lambda m, x: x - x.mean(1, keepdim=True), (3, 4, 5)),
    "channel-mean-first": (lambda m, x: x.abs().mean(1, keepdim=True) * x, (3, 4, 5)),
    "learned-shift": (
        lambda m, x: x + torch.ones(1, 3, 1, 1).expand_as(x) - torch.arange(3.0).view(3, 1, 1),
        (3, 4, 5),
    ),
    "scale-then-shift": (lambda m, x: x * torch.arange(3.0).view(3, 1, 1) + torch.ones(3, 1, 1), (3, 4, 5)),
    "casts": (lambda m, x: x.float().contiguous().to(torch.float32).clone().detach().relu(), (3, 4, 5)),
}


def _in_place(x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    z = y.relu_()
    y += x
    return z + y  # z is y, with x added


def test_functions():
    functions = [function for function, _ in FUNCTIONS.values()]
    model = Call(lambda m, *inputs: tuple(f(m, x) for f, x in zip(functions, inputs, strict=True)))
    check(model, *(images(*shape) for _, shape in FUNCTIONS.values()), names=tuple(FUNCTIONS))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.ops.bitwright.sign(F.hardtanh(x)),
        lambda m, x: torch.ops.bitwright.sign(x.clamp(min=-0.5)),
        lambda m, x: quantized(x.clamp(0, 1), 1 / 3),
        lambda m, x: quantized(F.relu6(x), 2.0),
        lambda m, x: quantized(x.clamp(max=1), 0.25),
        lambda m, x: torch.ops.bitwright.sign(F.dropout(F.hardtanh(F.hardtanh(x, -2, 1)), training=False).flatten(1)),
        lambda m, x: torch.ops.bitwright.sign(F.max_pool2d(F.hardtanh(x), 2)),
        lambda m, x: quantized(F.max_pool2d(x.clamp(0, 1), 2).flatten(1), 1 / 3),
    ],
)
def test_limits_in_front_of_quantisers_are_nothing(function):
    model, x = Call(function), 3 * images(3, 4, 4)
    graph, weights = lower(model, (x,))
    assert {node.op for node in graph.nodes} <= {"sign", "quantize", "max_pool2d", "flatten"}
    assert torch.equal(torch.from_numpy(run_reference(graph, weights, (x.numpy(),))[0]), model(x))


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        (lambda m, x: torch.ops.bitwright.sign(x.clamp(0, 1)), ["clamp", "sign"]),
        (lambda m, x: torch.ops.bitwright.sign(x.clamp(max=-0.25)), ["clamp", "sign"]),
        (lambda m, x: quantized(x.clamp(0, 1), 0.5), ["clamp", "quantize"]),
        (lambda m, x: quantized(F.max_pool2d(F.hardtanh(x), 2), 0.5), ["clamp", "max_pool2d", "quantize"]),
        (lambda m, x: (y := F.hardtanh(x)) + torch.ops.bitwright.sign(y), ["clamp", "sign", "add"]),
    ],
)
def test_limits_that_count_stay(function, ops):
    model, x = Call(function), 3 * images(3, 4, 4)
    graph, weights = lower(model, (x,))
    assert [node.op for node in graph.nodes] == ops
    assert torch.equal(torch.from_numpy(run_reference(graph, weights, (x.numpy(),))[0]), model(x))


def test_several_outputs():
    check(Call(lambda m, x: (x.relu(), x.mean((2, 3)), x)), images(3, 4, 5))


def test_matrix_products_are_linear_layers():
    layer, other = nn.Linear(6, 4), nn.Parameter(torch.randn(6, 4))
    model = Call(
        lambda m, x: (x @ m.fc.weight.t() + m.fc.bias, torch.mm(x, m.other), torch.addmm(m.fc.bias, x, m.other)),
        fc=layer,
        other=other,
    )
    graph, weights = check(model, images(6))
    assert [node.op for node in graph.nodes] == ["linear"] * 3
    assert graph.nodes[0].weights == {"weight": "fc.weight", "bias": "fc.bias"}
    assert set(weights) == {"fc.weight", "fc.bias", "weight"}  # the transposed one is not a tensor of the state_dict


class Net(nn.Module):
    """Both shortcuts, two heads, everything that LeNet and the CIFAR ResNets have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), busy(nn.BatchNorm2d(8)), nn.ReLU(inplace=True)
        )
        self.conv = nn.Conv2d(8, 16, 3, 2, 1)
        self.head = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.conv(x)
        y += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(F.relu(y))


def test_names_follow_the_module():
    model = Net()
    graph, weights = check(model, images(3, 7, 7))
    assert [(node.op, node.name) for node in graph.nodes] == [
        ("conv2d", "stem.0"),
        ("affine", "stem.1"),
        ("relu", "stem.2"),
        ("conv2d", "conv"),
        ("slice", ""),
        ("slice", ""),
        ("pad", ""),
        ("add", ""),
        ("relu", ""),
        ("max_pool2d", "head.0"),
        ("flatten", "head.1"),
        ("linear", "head.3"),
    ]
    names = [
        "stem.0.weight",
        "stem.1.scale",
        "stem.1.shift",
        "conv.weight",
        "conv.bias",
        "head.3.weight",
        "head.3.bias",
    ]
    assert list(weights) == names
    for name in set(names) & set(model.state_dict()):
        assert np.array_equal(weights[name], model.state_dict()[name].numpy())


def test_batch_norm_is_computed_in_double_and_rounded_once():
    model = busy(nn.BatchNorm2d(4)).eval()
    _, weights = lower(model, (images(4, 2, 2),))
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    scale = state["weight"] / np.sqrt(state["running_var"] + model.eps)
    assert np.array_equal(weights["scale"], scale.astype(np.float32))
    shift = state["bias"] - state["running_mean"] * scale
    assert np.array_equal(weights["shift"], shift.astype(np.float32))


def test_shared_modules_and_tied_weights_are_stored_once():
    layer, tied, norm = nn.Linear(4, 4), nn.Linear(4, 4), busy(nn.BatchNorm1d(4))
    tied.weight = layer.weight
    model = Call(lambda m, x: m.n(m.c(m.b(m.n(m.a(x))))), a=layer, b=layer, c=tied, n=norm)
    graph, weights = check(model, images(4))
    assert set(weights) == {"a.weight", "a.bias", "c.bias", "n.scale", "n.shift"}
    assert [node.op for node in graph.nodes] == ["linear", "affine", "linear", "linear", "affine"]


def test_what_no_output_needs_is_left_out():
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        m.unused(x)
        return m.used(x)

    graph, weights = check(Call(forward, used=nn.Linear(4, 2), unused=nn.Linear(4, 3)), images(4))
    assert [node.name for node in graph.nodes] == ["used"]
    assert set(weights) == {"used.weight", "used.bias"}


def test_several_inputs_even_if_they_are_one_tensor():
    x = images(3, 4, 4)
    graph, _ = check(Call(lambda m, a, b: a + b.relu()), x, x)
    assert graph.inputs == ((3, 4, 4), (3, 4, 4))
    assert [node.inputs for node in graph.nodes] == [(1,), (0, 2)]


def test_the_model_is_left_as_it_was():
    model = Net().train()
    model.head.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, weights = lower(model, (images(3, 7, 7),))
    assert model.training
    assert not model.head[2].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    weights["conv.weight"][:] = 0  # a copy
    assert torch.equal(before["conv.weight"], model.conv.weight)


def test_any_batch_size_of_examples_gives_the_same_graph():
    model = Net()
    graphs = [lower(model, (images(3, 7, 7, batch=n),))[0] for n in (1, 2, 5)]
    assert graphs[0] == graphs[1] == graphs[2]
    assert lower(model, (images(3, 7, 7).numpy(),))[0] == graphs[0]


PREPROCESS = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_preprocess_takes_pixels():
    model = Net().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 7, 7), dtype=np.uint8)
    graph, weights = lower(model, (torch.from_numpy(pixels),), PREPROCESS)
    assert graph.nodes[0].op == "normalize"
    assert graph.pixel_inputs() == {0}
    assert np.array_equal(weights["preprocess.scale"], PREPROCESS.scale)
    (ours,) = run_reference(graph, weights, (pixels,))
    (again,) = run_reference(graph, weights, (pixels.astype(np.float32) / np.float32(255),))
    assert np.array_equal(ours, again)
    with torch.no_grad():
        theirs = model(PREPROCESS.torch(torch.from_numpy(pixels))).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def test_preprocess_of_some_inputs_and_of_features():
    model = Call(lambda m, a, b: a + b)
    x = images(3)
    graph, weights = lower(model, (x, x), (None, Preprocess((0.5,), (0.25,))))
    assert [node.inputs for node in graph.nodes] == [(1,), (0, 2)]
    assert weights["preprocess.scale"].tolist() == [4.0] * 3
    assert weights["preprocess.shift"].tolist() == [-2.0] * 3


@pytest.mark.parametrize(
    ("inputs", "preprocess", "message"),
    [
        (images(3, 7, 7), None, "example_inputs is a Tensor; expected a tuple"),
        ((), None, "example_inputs is a tuple; expected a tuple with one tensor"),
        (([1.0],), None, "example input 0 is list; expected a tensor"),
        ((torch.zeros(3),), None, r"example input 0 is \(3,\); expected a tensor with a batch"),
        ((torch.zeros(0, 3, 7, 7),), None, "batch of at least one"),
        ((images(3, 7, 7).double(),), None, "example input 0 is torch.float64; expected torch.float32"),
        ((torch.zeros(1, 3, 7, 7, dtype=torch.uint8),), None, "example input 0 is torch.uint8"),
        ((images(3, 7, 7),), (PREPROCESS, PREPROCESS), "preprocess has 2 entries for 1 inputs"),
        (
            (images(3, 7, 7),),
            Preprocess((0.5, 0.5), (1.0, 1.0)),
            r"preprocess.scale has shape \(2,\) but input 0 has 3",
        ),
    ],
)
def test_inputs_that_are_refused(inputs, preprocess, message):
    with pytest.raises(BitwrightError, match=message) as caught:
        lower(Net(), inputs, preprocess)
    assert caught.value.kind == "inputs"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda m, x: F.celu(m.conv(x)),
            r"can't run aten.celu.default in the model's forward: it has no such operation",
        ),
        (lambda m, x: m.celu(m.conv(x)), r"can't run aten.celu.default in module 'celu'.*Known: .*conv2d.*relu"),
        (lambda m, x: F.log_softmax(x, 1), "return the logits or their softmax"),
        (lambda m, x: F.dropout(x), "dropout is active outside training"),
        (lambda m, x: m.free(x), "use track_running_stats=True"),
        (lambda m, x: x.transpose(2, 3), "keeps images in NCHW order"),
        (
            lambda m, x: x.view(x.size(0), 3, 16).relu(),
            r"reshaped from \(3, 4, 4\) to \(3, 16\); only flattening",
        ),
        (lambda m, x: x.view(-1, 4, 4).relu(), "changes the batch axis"),
        (lambda m, x: x.mean(0, keepdim=True), "changes the batch axis"),
        (lambda m, x: F.softmax(x, 0), "runs over the batch axis; give dim=1"),
        (
            lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
            "mode 'reflect' is not known.*: use padding_mode='zeros'",
        ),
        (lambda m, x: F.pad(x, (-1, 1)), "cuts or reaches the batch axis"),
        (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "divisor_override is not known"),
        (lambda m, x: torch.add(x, x, alpha=2), "its alpha is 2; expected 1"),
        (lambda m, x: x + x.mean((2, 3), keepdim=True), r"shapes \(3, 4, 4\) and \(3, 1, 1\); expected equal ones"),
        (lambda m, x: x / x, "an activation can only be divided by a constant per channel"),
        (lambda m, x: x * x.mean((2, 3), keepdim=True), r"expected equal ones, or \(1, ...\) for all channels"),
        (lambda m, x: 1 - x, "rsub.*no such operation"),
        (lambda m, x: torch.ones(3, 1, 1) - x, "its first operand is a constant; write it with the activation first"),
        (lambda m, x: x.mean(1, keepdim=True) + torch.ones(3, 1, 1), r"shape \(3, 1, 1\) does not broadcast over"),
        (lambda m, x: x / x.size(0), "one of its operands is no activation"),
        (lambda m, x: x[:1], "changes the batch axis"),
        (lambda m, x: torch.ops.aten.dropout.default(x, 0.5, True), "dropout is active outside training"),
        (lambda m, x: x + torch.arange(4.0), "is not one number per channel"),
        (lambda m, x: F.conv2d(x, x), "its weight is computed from an input"),
        (lambda m, x: m.linear(x), r"its input has the shape \(N, 3, 4, 4\); flatten it"),
        (lambda m, x: F.conv_transpose2d(x, torch.ones(3, 2, 1, 1)), "conv_transpose2d.*it has no such operation"),
        (lambda m, x: x + torch.rand(3, 1, 1), "draws random numbers"),
        (lambda m, x: x.double(), "converts to torch.float64"),
        (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[1].float(), "only its first result is known"),
        (lambda m, x: {"y": x}, "returns a dict"),
        (lambda m, x: torch.ones(3), "an output of the model does not depend on its input"),
        (lambda m, x: torch.addmm(m.linear.bias, x.flatten(1), m.linear.weight.new_ones(48, 2), beta=2), "must be 1"),
        (lambda m, x: x.flatten(1) @ torch.ones(48), "its weight has 1 axes; expected 2"),
        (lambda m, x: torch.sign(x), "for signs use torch.ops.bitwright.sign"),
        (lambda m, x: torch.where(x >= 0, 1.0, -1.0), "for signs use torch.ops.bitwright.sign"),
        (lambda m, x: x.clamp(torch.tensor([[0.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])), "has 4 different numbers"),
        (lambda m, x: x.clamp(2, 1), "limits are 2.* and 1.*; expected the lower one first"),
        (lambda m, x: x.mean(1, keepdim=True).expand_as(x).relu(), "it repeats an activation"),
        (lambda m, x: F.gelu(x, approximate="tanh"), "approximate is 'tanh'; only 'none' is known"),
        (lambda m, x: F.selu(x), "selu.*it has no such operation"),
        (lambda m, x: F.layer_norm(x, (4, 4)), r"normalises over \(4, 4\) of \(3, 4, 4\); only all axes"),
        (lambda m, x: x.amax(2), "a maximum is only known over pieces of channels"),
        (lambda m, x: x.unflatten(2, (2, 2)).amax(3), "a maximum is only known over pieces of channels"),
        (lambda m, x: torch.cat([x, x], 0), "changes the batch axis"),
        (lambda m, x: quantized(x, 0.5, qmax=2.5), r"its qmax is \[2.5\]; expected one whole number"),
    ],
)
def test_what_the_engine_lacks(function, message):
    parts = {
        "conv": nn.Conv2d(3, 2, 1),
        "celu": nn.CELU(),
        "free": nn.BatchNorm2d(3, track_running_stats=False),
        "linear": nn.Linear(4, 2),
    }
    with pytest.raises(BitwrightError, match=message) as caught:
        lower(Call(function, **parts), (images(3, 4, 4),))
    assert caught.value.kind == "unsupported-op"


def test_a_module_that_changes_itself_is_refused():
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        m.norm.running_mean += 1
        return m.norm(x)

    with pytest.raises(BitwrightError, match="changes its own buffers while it runs"):
        lower(Call(forward, norm=nn.BatchNorm2d(3)), (images(3, 4, 4),))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: x[1:], "works for one batch size only"),
        (lambda m, x: x.view(2, -1), "works for one batch size only, but a packed model takes any"),
        (lambda m, x: x + 1 if x.sum() > 0 else x, "torch.export can't trace Call"),
        (lambda m, x: F.conv2d(x, torch.ones(1, 5, 1, 1)), "torch.export can't trace Call.*expected input"),
    ],
)
def test_what_can_not_be_exported(function, message):
    with pytest.raises(BitwrightError, match=message) as caught:
        lower(Call(function), (images(3, 4, 4),))
    assert caught.value.kind == "export"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_that_are_not_float32(dtype):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2).to(dtype))
    with pytest.raises(BitwrightError, match=rf"1\.weight is {dtype}; .*call model.float\(\) first") as caught:
        lower(model, (images(3, 2, 2),))
    assert caught.value.kind == "dtype"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    model = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[1, 2] = value
    with pytest.raises(BitwrightError, match=r"0\.weight holds NaN or infinity") as caught:
        lower(model, (images(4),))
    assert caught.value.kind == "not-finite"


def test_what_is_no_module_is_refused():
    with pytest.raises(BitwrightError, match=r"the model is a OrderedDict; expected a torch\.nn\.Module") as caught:
        lower(nn.Linear(4, 2).state_dict(), (torch.zeros(1, 4),))
    assert caught.value.kind == "inputs"


@pytest.mark.parametrize("classes", [["a"], "ab", ["a", 1]])
def test_classes_must_fit_the_output(classes):
    model, inputs = nn.Linear(4, 2), (torch.zeros(1, 4),)
    with pytest.raises(BitwrightError, match="classes"):
        pack(model, inputs, classes=classes)
    names = read_container(pack(model, inputs, classes=("a", "b")).data).meta
    assert names == {"classes": ["a", "b"]}
