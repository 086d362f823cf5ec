"""Registered models: published sizes, reproducible weights and options."""

import os
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import bitwright
from bitwright import BitwrightError, create_model
from bitwright.models import list_models, register_model
from bitwright.models.vgg import VGG
from bitwright.ops import QuantConv2d, QuantLinear, Sign
from bitwright.packing.lower import lower
from bitwright.runtime.reference import run_reference

real = pytest.mark.skipif("BITWRIGHT_DATA" not in os.environ, reason="BITWRIGHT_DATA is not set")

PARAMETERS = {
    "mlp": 266_610,
    "lenet-300-100": 266_610,  # 266,200 weights + 410 biases, METHODS 0
    "lenet-5": 431_080,  # 430,500 weights + 580 biases, METHODS 0
    "lenet-5-bn": 582_634,
    "convnet": 145_578,
    "alexnet-32": 7_506_762,
    "vgg-small": 14_029_716,  # 14.02 M weights, METHODS 0
    "vgg-7": 12_979_082,
    "resnet-14": 172_506,
    "resnet-20": 269_722,  # the public weight files
    "resnet-32": 464_154,
    "resnet-44": 658_586,
    "resnet-56": 853_018,
    "resnet-110": 1_727_962,  # 1.7 M in the paper
}


def test_every_model_has_its_published_size():
    assert {name: sum(p.numel() for p in create_model(name).parameters()) for name in PARAMETERS} == PARAMETERS


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_every_model_maps_its_input_shape_to_classes_and_learns(name):
    model = create_model(name, num_classes=7, seed=0)
    assert model.input_shape in ((1, 28, 28), (3, 32, 32))
    out = model(torch.randn(2, *model.input_shape))
    assert out.shape == (2, 7)
    out.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (1, 8, 8)),
        ("lenet-300-100", (1, 8, 8)),
        ("lenet-5", (3, 16, 20)),
        ("lenet-5-bn", (3, 16, 20)),
        ("convnet", (1, 9, 14)),
        ("alexnet-32", (1, 8, 11)),
        ("vgg-7", (1, 8, 17)),
        ("resnet-20", (1, 9, 5)),
        ("resnet-18", (1, 33, 47)),
    ],
)
def test_other_input_shapes(name, shape):
    model = create_model(name, input_shape=list(shape))
    assert model.input_shape == shape
    assert model(torch.zeros(2, *shape)).shape == (2, model.fc.out_features if name == "resnet-18" else 10)


def test_lenet_5_is_caffes_net_without_relu_after_convolutions():
    model = create_model("lenet-5", dropout=0.5).eval()
    kinds = [type(m).__name__ for m in model if not isinstance(m, nn.Dropout)]
    assert kinds == ["Conv2d", "MaxPool2d", "Conv2d", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    assert dropouts(model) == [0, 0, 0.5]
    assert model(torch.zeros(1, 1, 28, 28)).tolist() == [[0.0] * 10]  # biases begin at 0


def test_lenet_5_bn_is_the_net_of_ternary_weight_networks():
    model = create_model("lenet-5-bn")
    names = "conv1 norm1 act1 pool1 conv2 norm2 act2 pool2 flatten fc1 norm3 act3 fc2"
    assert [name for name, _ in model.named_children()] == names.split()
    assert isinstance(model.act3, nn.ReLU)
    narrow = create_model("lenet-5-bn", channels=[3, 4], hidden=5, activation="identity")
    assert [m.weight.shape[0] for m in (narrow.conv1, narrow.conv2, narrow.fc1)] == [3, 4, 5]


def test_vgg_pools_before_it_normalises():
    model = create_model("vgg-small", hidden=[], activation="hardtanh", norm_output=False)
    names = [name.rstrip("0123456789") for name, _ in model.named_children()]
    single, last = ["conv", "norm", "act"], ["conv", "pool", "norm", "act"]
    assert names == [*(single + last) * 3, "flatten", "fc"]
    assert [m.out_channels for m in model if isinstance(m, nn.Conv2d)] == [128, 128, 256, 256, 512, 512]
    assert [m.padding for m in model if isinstance(m, nn.Conv2d)] == [(1, 1)] * 6
    assert model.fc7.weight.shape == (10, 8192)


def test_mlp_layers_follow_its_options():
    model = create_model("mlp", hidden=(30, 20), dropout=0.25, activation="tanh", input_shape=(1, 4, 4))
    assert [tuple(m.weight.shape) for m in model if isinstance(m, nn.Linear)] == [(30, 16), (20, 30), (10, 20)]
    assert dropouts(model) == [0, 0.25, 0.25]
    assert sum(isinstance(m, nn.Tanh) for m in model) == 2
    assert [type(m).__name__ for m in create_model("mlp", hidden=())] == ["Flatten", "Dropout", "Linear"]


def test_mlp_with_norms_has_the_order_that_binary_layers_need():
    model = create_model(
        "mlp", hidden=(9, 8), dropout=[0.2, 0.5, 0.5], activation="hardtanh", norm="batch", norm_output=True
    )
    assert list(dict(model.named_children())) == (
        ["flatten", "dropout0", "fc1", "norm1", "act1", "dropout1", "fc2", "norm2", "act2", "dropout2", "fc3", "norm3"]
    )
    assert isinstance(model.act2, nn.Hardtanh)
    assert model.fc1.bias is model.fc3.bias is None
    inner = create_model("mlp", hidden=(9,), norm="batch", activation="identity")
    assert [type(m).__name__ for m in inner][2:4] == ["Linear", "BatchNorm1d"]
    assert not hasattr(inner, "norm2")
    assert inner.fc2.bias is not None


@pytest.mark.parametrize(("width", "parameters"), [(1024, 2_916_372), (2048, 10_027_028)])
def test_mlps_of_binary_connect_and_bnn_have_the_sizes_of_their_docstring(width, parameters):
    model = create_model("mlp", hidden=[width] * 3, norm="batch", norm_output=True)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert f"{parameters:,}" in list_models()["mlp"].__doc__
    assert model.fc2.weight.abs().max() <= 1


def test_mlp_with_norms_and_signs_runs_in_the_engine(tmp_path):
    """BNN's MLP: signs in front of all layers but the first."""
    torch.manual_seed(0)
    model = create_model(
        "mlp", input_shape=(1, 5, 5), hidden=(40, 30), activation="hardtanh", norm="batch", norm_output=True
    )
    for name in ("fc2", "fc3"):
        plain = getattr(model, name)
        setattr(model, name, QuantLinear(plain.in_features, plain.out_features, bias=False, input=Sign()))
    model(torch.randn(50, 1, 5, 5))  # statistics
    check_engine(model.eval(), torch.randn(20, 1, 5, 5), tmp_path)


def check_engine(model, x, tmp_path):
    bitwright.pack(model, (x[:1],)).save(tmp_path / "net.safetensors")
    with torch.no_grad():
        expected = model(x).numpy()
    found = bitwright.load(tmp_path / "net.safetensors")(x.numpy())
    assert abs(found - expected).max() <= 1e-4 * np.ptp(expected)


def test_vgg_with_signs_runs_in_the_engine(tmp_path):
    """BNN's order: signs in front of all layers but the first; pooled sums go through norms to signs."""
    torch.manual_seed(0)
    model = VGG(((8, 9), (10, 11)), (12,), (3, 9, 13), 5, "hardtanh", True)
    for name, plain in list(model.named_children()):
        if isinstance(plain, nn.Conv2d) and name != "conv1":
            sizes = plain.in_channels, plain.out_channels
            setattr(model, name, QuantConv2d(*sizes, 3, padding=1, bias=False, input=Sign()))
        elif isinstance(plain, nn.Linear):
            setattr(model, name, QuantLinear(plain.in_features, plain.out_features, bias=False, input=Sign()))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, QuantConv2d | QuantLinear):
                layer.weight.copy_(torch.where(layer.weight >= 0, 1.0, -1.0))
    model(torch.randn(50, 3, 9, 13))  # statistics
    check_engine(model.eval(), torch.randn(20, 3, 9, 13), tmp_path)


def test_resnet_18_has_torchvisions_names_and_first_weights():
    model = create_model("resnet-18", seed=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == 122
    assert model.input_shape == (3, 224, 224)
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer4.1.bn2.running_var"] == (512,)
    assert shapes["fc.bias"] == (1000,)
    assert not [name for name in shapes if "layer1" in name and "downsample" in name]
    weight = model.layer2[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)  # fan_out, not fan_in


def test_resnet_18_exports_and_computes_the_same():
    model = create_model("resnet-18", seed=0, num_classes=10, input_shape=(3, 33, 40)).eval()
    x = torch.randn(1, 3, 33, 40)
    graph, tensors = lower(model, (x,))
    assert sum(node.op == "conv2d" for node in graph.nodes) == 20
    assert sum(node.op == "add" for node in graph.nodes) == 8
    with torch.no_grad():
        expected = model(x).numpy()
    found = run_reference(graph, tensors, (x.numpy(),))[0]
    assert abs(found - expected).max() < 1e-4 * abs(expected).max()


def dropouts(model):
    return [m.p for m in model if isinstance(m, nn.Dropout)]


def test_dropout_may_differ_from_place_to_place():
    assert dropouts(create_model("lenet-300-100", dropout=[0.2, 0.3, 0.1])) == [0.2, 0.3, 0.1]
    assert dropouts(create_model("lenet-300-100", dropout=[0.3, 0.1])) == [0, 0.3, 0.1]
    assert dropouts(create_model("lenet-5", dropout=[0.1, 0.3, 0.5])) == [0.1, 0.3, 0.5]


def test_resnet_shortcut_takes_every_second_pixel_between_zero_channels():
    block = create_model("resnet-20").layer2[0]
    x = torch.randn(2, 16, 6, 6)
    short = block.shortcut(x)
    assert short.shape == (2, 32, 3, 3)
    assert torch.equal(short[:, 8:24], x[:, :, ::2, ::2])
    assert short[:, :8].abs().max() == short[:, 24:].abs().max() == 0


def test_first_weights_have_the_variance_that_their_source_says():
    he = create_model("resnet-20", seed=0).layer3[1].conv1.weight  # 36,864 values
    assert he.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    glorot = create_model("vgg-7", seed=0, activation="hardtanh").conv6.weight
    assert glorot.std().item() == pytest.approx((2 / (9 * 1024)) ** 0.5, rel=0.01)
    assert glorot.abs().max().item() <= (6 / (9 * 1024)) ** 0.5
    xavier = create_model("lenet-5", seed=0).fc1.weight  # 400,000 values
    assert xavier.std().item() == pytest.approx((1 / 800) ** 0.5, rel=0.01)
    assert xavier.abs().max().item() <= (3 / 800) ** 0.5


@pytest.mark.parametrize("name", ["lenet-300-100", "resnet-20"])
def test_a_seed_fixes_the_weights_and_leaves_the_global_state(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (create_model(name, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[k], b[k]) for k in a)
    first = next(k for k in a if k.endswith("1.weight"))
    assert not torch.equal(a[first], c[first])


def refused(message, name, **options):
    with pytest.raises(BitwrightError, match=message):
        create_model(name, **options)


def test_wrong_names_and_options_are_refused():
    refused(r"unknown model 'lenet5'; did you mean 'lenet-5'\? Known: alexnet, alexnet-227", "lenet5")
    refused("unknown option of model 'lenet-5' 'classes'; did you mean 'num_classes'", "lenet-5", classes=10)
    refused("'resnet-20': num_classes is 1; expected a whole number >= 2", "resnet-20", num_classes=1)
    refused("'mlp': hidden is 2.5; expected a whole number >= 1", "mlp", hidden=[2.5])
    refused("'mlp': hidden is 'wide'; expected a list", "mlp", hidden="wide")
    refused(r"dropout is 1.0; expected a number in \[0, 1\)", "lenet-300-100", dropout=1.0)
    refused("expected a number, or one for each of: the input, hidden layer 1", "lenet-300-100", dropout=[0.1])
    refused(r"dropout is 'much'; expected a number", "lenet-5", dropout=[0.1, 0.1, "much"])
    refused("unknown activation 'rleu'; did you mean 'relu'", "mlp", activation="rleu")
    refused(r"'lenet-5-bn': channels is \[32\]; expected two numbers", "lenet-5-bn", channels=[32])
    refused(r"too small; the smallest that works is \(3, 8, 8\)", "vgg-7", input_shape=(3, 7, 9))
    refused("unknown norm of model 'mlp' 'instance'. Known: batch, group, layer", "mlp", norm="instance")
    refused("'mlp': norm_output without a norm; set norm to 'batch'", "mlp", norm_output=True)
    refused("'mlp': norm_output is 1; expected true or false", "mlp", norm="batch", norm_output=1)
    refused(r"input_shape is \(28, 28\); expected \(channels, height, width\)", "lenet-5", input_shape=(28, 28))
    refused(r"input_shape is 28; expected \(channels, height, width\)", "lenet-5", input_shape=28)
    refused(r"\(1, 8, 8\) is too small; the smallest that works is \(1, 16, 16\)", "lenet-5", input_shape=(1, 8, 8))
    refused("model name is a Identity; expected text", nn.Identity())
    refused("seed is 'x'; expected a whole number", "mlp", seed="x")


def test_a_duplicate_name_is_refused():
    list_models()

    def lenet_5():
        return nn.Identity()

    with pytest.raises(BitwrightError, match="two models are called 'lenet-5'"):
        register_model(lenet_5)


@pytest.fixture
def zoo(monkeypatch):
    module = types.ModuleType("own_zoo")
    module.net = lambda width=3: nn.Linear(width, 2)
    module.number = lambda: 7
    module.hungry = lambda food: nn.Identity()
    module.anything = lambda **options: nn.Linear(**options)
    monkeypatch.setitem(sys.modules, "own_zoo", module)


def test_factories_of_others_by_import_path(zoo):
    assert create_model("own_zoo:net", width=5, seed=0).weight.shape == (2, 5)
    assert create_model("own_zoo:anything", in_features=4, out_features=1).weight.shape == (1, 4)
    assert isinstance(create_model("torch.nn:Identity"), nn.Identity)


def test_import_paths_that_lead_nowhere(zoo):
    refused(r"can't import module 'no_such_zoo' \(No module named 'no_such_zoo'\).*PYTHONPATH", "no_such_zoo:net")
    refused(r"can't import module ''", ":net")
    refused("unknown factory in 'own_zoo' 'nett'; did you mean 'net'", "own_zoo:nett")
    refused("'own_zoo:number' gave a int; expected a torch.nn.Module", "own_zoo:number")
    refused("unknown option of model 'own_zoo:net' 'wide'", "own_zoo:net", wide=3)
    refused("missing a required argument: 'food'", "own_zoo:hungry")
