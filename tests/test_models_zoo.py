"""The ImageNet models, all-conv and maxout: sizes, names, and that the engine computes what torch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import bitwright
from bitwright import BitwrightError, create_model, load_weights
from bitwright.measure.probe import probe
from bitwright.models.googlenet import GoogLeNet
from bitwright.packing.lower import lower
from bitwright.training.loop import fit
from bitwright.training.settings import Optimizer, TrainSettings
from training_cases import blobs

PARAMETERS = {
    "alexnet": 61_100_840,  # torchvision's documentation, as all but those with another note
    "alexnet-caffe": 60_965_224,  # the papers on compression: 61 M
    "alexnet-227": 62_378_344,
    "zfnet": 62_357_608,
    "vgg-11": 132_863_336,
    "vgg-13": 133_047_848,
    "vgg-16": 138_357_544,
    "vgg-19": 143_667_240,
    "googlenet": 6_624_904,
    "resnet-18": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
    "resnet-152": 60_192_808,
    "all-conv": 1_369_738,  # 1.37 M
    "maxout-mlp": 1_233_610,
}
SMALLEST = {"alexnet": 63, "alexnet-caffe": 39, "alexnet-227": 39, "zfnet": 47, "vgg-11": 32, "googlenet": 15}


def meta(name: str, **options: Any) -> nn.Module:
    """A model without numbers: its shapes are all there."""
    with torch.device("meta"):
        return create_model(name, **options)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_model_has_its_published_size():
    assert {name: size(meta(name)) for name in PARAMETERS} == PARAMETERS
    assert size(meta("googlenet", auxiliary=True)) == 13_004_888
    assert size(meta("vgg-16", norm="batch")) == 138_365_992  # torchvision's vgg16_bn


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_model_maps_its_input_shape_to_classes(name):
    model = meta(name, num_classes=7)
    assert model(torch.zeros(2, *model.input_shape, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_image_works_and_smaller_ones_are_refused(name, monkeypatch):
    least = SMALLEST[name]
    model = meta(name, input_shape=(3, least, least + 1), num_classes=3).eval()
    assert model(torch.zeros(1, 3, least, least + 1, device="meta")).shape == (1, 3)
    for shape in ((1, least - 1, 300), (1, 300, least - 1)):
        with pytest.raises(BitwrightError, match=rf"too small; the smallest that works is \(1, {least}, {least}\)"):
            create_model(name, input_shape=shape)
        with pytest.raises((RuntimeError, ValueError)):  # it is the smallest indeed
            model(torch.zeros(1, 3, *shape[1:], device="meta"))


NAMES = {
    "alexnet": ["features.0", "features.3", "features.10", "classifier.1", "classifier.6"],
    "vgg-16": ["features.0", "features.28", "classifier.0", "classifier.3", "classifier.6"],
    "googlenet": ["conv1.conv", "inception3a.branch2.0.conv", "inception5b.branch4.1.conv", "fc"],
    "resnet-152": ["conv1", "layer1.0.downsample.0", "layer3.35.conv3", "layer4.2.bn3", "fc"],
    "alexnet-caffe": ["conv1", "conv5", "fc6", "fc7", "fc8"],
}


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_named_as_in_the_source(name):
    tensors = meta(name).state_dict()
    assert {f"{layer}.weight" for layer in NAMES[name]} <= set(tensors)
    if name == "alexnet":
        assert {layer.split(".")[1] for layer in tensors if "features" in layer} == {"0", "3", "6", "8", "10"}


def test_norms_keep_the_names_of_alexnet_and_move_those_of_vgg_as_torchvision_does():
    assert set(meta("alexnet").state_dict()) == set(meta("alexnet", norm="local-response").state_dict())
    assert "features.1.running_mean" in meta("vgg-16", norm="batch").state_dict()
    assert "features.40.weight" in meta("vgg-16", norm="batch").state_dict()  # the last convolution of vgg16_bn
    assert meta("googlenet").inception3a.branch1.bn.eps == 1e-3


def test_the_forms_of_alexnet_differ_in_groups_and_in_the_place_of_norms():
    caffe, lecture = meta("alexnet-caffe"), meta("alexnet-227")
    assert [m.groups for m in caffe if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2, 2]
    assert [m.groups for m in lecture if isinstance(m, nn.Conv2d)] == [1] * 5
    begin = [name for name, _ in caffe.named_children()][:4]
    assert begin == ["conv1", "relu1", "norm1", "pool1"]
    assert [name for name, _ in lecture.named_children()][:4] == ["conv1", "relu1", "pool1", "norm1"]
    batch = [name for name, _ in meta("zfnet", norm="batch").named_children()][:4]
    assert batch == ["conv1", "norm1", "relu1", "pool1"]


def test_naive_inception_passes_all_channels_of_the_pool_on():
    """The numbers of the lecture: 256 channels, 128 + 192 + 96 filters -> 672."""
    with torch.device("meta"):
        sizes = (128, 64, 192, 64, 96, 64)
        module = bitwright.models.googlenet.Inception(256, sizes, False, "batch")
        assert module(torch.zeros(1, 256, 28, 28)).shape == (1, 672, 28, 28)
        reduced = bitwright.models.googlenet.Inception(256, sizes, True, "batch")
        assert reduced(torch.zeros(1, 256, 28, 28)).shape == (1, 480, 28, 28)
    assert isinstance(meta("googlenet", inception="naive"), GoogLeNet)


def test_maxout_takes_the_largest_of_neighbours():
    model = create_model("maxout-mlp", input_shape=(1, 2, 2), hidden=[3], pieces=2, seed=0)
    x = torch.randn(4, 6)
    assert torch.equal(model.act1(x), torch.maximum(x[:, ::2], x[:, 1::2]))
    assert model.fc1.weight.shape == (6, 4)
    assert model.fc2.weight.shape == (10, 3)


ENGINE: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (63, {"hidden": [32], "norm": "local-response"}),
    "alexnet-caffe": (39, {"hidden": [16]}),
    "alexnet-227": (39, {"hidden": []}),
    "zfnet": (47, {"hidden": [16, 8]}),
    "vgg-11": (32, {"hidden": [8], "norm": "batch"}),
    "googlenet": (15, {"auxiliary": True}),
    "resnet-50": (33, {}),
    "all-conv": (9, {}),
    "convnet": (11, {}),
    "alexnet-32": (9, {"channels": [4, 5, 6, 7, 8], "hidden": [9, 10]}),
    "maxout-mlp": (6, {"hidden": [10, 9], "pieces": 3}),
}
"""Of each family one; the others are the same modules, more of them."""


@pytest.mark.parametrize("name", ENGINE)
def test_models_learn_and_the_engine_computes_what_torch_does(name, tmp_path):
    rows, options = ENGINE[name]
    model = create_model(name, input_shape=(3, rows, rows), num_classes=7, seed=0, **options)
    x = torch.randn(3, 3, rows, rows, generator=torch.Generator().manual_seed(1))
    out = model(x)
    (sum(out) if isinstance(out, tuple) else out).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    check_engine(model.eval(), x, tmp_path)


def check_engine(model: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    bitwright.pack(model, (x[:1],)).save(tmp_path / "net.safetensors")
    with torch.no_grad():
        expected = model(x).numpy()
    found = bitwright.load(tmp_path / "net.safetensors")(x.numpy())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)


@pytest.mark.parametrize("norm", ["layer", "instance", "group", "local-response"])
def test_every_norm_runs_in_the_engine(norm, tmp_path):
    torch.manual_seed(0)
    model = create_model("all-conv", norm=norm, input_shape=(2, 9, 8), num_classes=5)
    for name, tensor in model.named_parameters():  # as after training
        if "norm" in name:
            nn.init.uniform_(tensor, 0.5, 1.5)
    check_engine(model.eval(), torch.randn(3, 2, 9, 8), tmp_path)


@pytest.mark.parametrize("name", ["resnet-18", "resnet-50", "resnet-20", "googlenet", "vgg-13", "alexnet", "zfnet"])
def test_models_take_every_norm(name):
    plain = size(meta(name, norm=None))
    for norm in ("batch", "layer", "instance", "group", "local-response"):
        model = meta(name, norm=norm)
        learned = sum(p.numel() for n, p in model.named_parameters() if ".bn" in n or "norm" in n)
        assert (learned > 0 or name == "vgg-13") == (norm != "local-response" or name == "vgg-13")
        assert model(torch.zeros(2, *model.input_shape, device="meta")).ndim == 2
    assert size(meta(name, norm="local-response")) == plain
    with pytest.raises(BitwrightError, match=f"unknown norm of model '{name}' 'batsh'; did you mean 'batch'"):
        create_model(name, norm="batsh")


@pytest.mark.parametrize(("name", "least"), [("resnet-18", 33), ("resnet-20", 5), ("all-conv", 5), ("googlenet", 47)])
def test_instance_norm_wants_more_than_one_pixel(name, least):
    model = meta(name, norm="instance", input_shape=(3, least, least))
    assert model(torch.zeros(2, 3, least, least, device="meta")).ndim == 2  # in training, where torch insists on it
    with pytest.raises(BitwrightError, match=rf"the smallest that works is \(3, {least}, {least}\)"):
        create_model(name, norm="instance", input_shape=(3, least - 1, least))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        model(torch.zeros(2, 3, least - 1, least - 1, device="meta"))


def test_mlp_norms_run_in_the_engine(tmp_path):
    for norm in ("layer", "group"):
        model = create_model("mlp", input_shape=(1, 3, 3), hidden=[6], norm=norm, activation="elu", seed=0)
        check_engine(model.eval(), torch.randn(3, 1, 3, 3), tmp_path)


def test_auxiliary_heads_are_there_in_training_only():
    model = create_model("googlenet", input_shape=(3, 15, 15), num_classes=3, auxiliary=True, seed=0)
    x = torch.randn(2, 3, 15, 15)
    assert [out.shape for out in model(x)] == [(2, 3)] * 3
    assert model.eval()(x).shape == (2, 3)
    with torch.device("meta"):
        assert {n for n, _ in meta("googlenet", auxiliary=True).named_children()} >= {"aux1", "aux2"}


class TwoHeads(nn.Module):
    """Linear logits, and an auxiliary head in training."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux = nn.Linear(16, 3, bias=False), nn.Linear(16, 3, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        x = x.flatten(1)
        return (self.main(x), self.aux(x)) if self.training else self.main(x)


def test_the_loop_adds_three_tenths_of_the_loss_of_auxiliary_heads():
    """Heads that begin equal see equal gradients, but for that factor."""
    model, data = TwoHeads(), blobs()
    model.aux.weight.data.copy_(model.main.weight.data)
    start = model.main.weight.detach().clone()
    fit(model, data, TrainSettings(epochs=1, batch_size=90, optimizer=Optimizer("SGD", 0.1, {}), select="last"))
    moved, aux = model.main.weight - start, model.aux.weight - start
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(aux, 0.3 * moved)


def test_a_probe_follows_auxiliary_heads_too():
    model = TwoHeads()
    model.aux.weight.data.copy_(model.main.weight.data)
    main, aux = probe(model, torch.randn(5, 1, 4, 4), torch.arange(5) % 3)
    assert main["gradients"] is not None
    assert aux["gradients"] is not None
    assert aux["gradients"]["std"] == pytest.approx(0.3 * main["gradients"]["std"])


def test_the_exported_graph_has_the_main_head_only():
    model = TwoHeads()
    graph, weights = lower(model, (torch.zeros(1, 1, 4, 4),))
    assert len(graph.outputs) == 1
    assert set(weights) == {"main.weight"}


def test_weights_of_another_model_are_refused_with_every_mismatch(tmp_path):
    source = create_model("alexnet", num_classes=3, hidden=[4], input_shape=(3, 63, 63))
    save_file({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(BitwrightError) as caught:
        load_weights(create_model("alexnet", num_classes=5, hidden=[4], input_shape=(3, 63, 63)), tmp_path / "w")
    assert "2 differ" in str(caught.value)
    assert "classifier.3.weight: model (5, 4), file (3, 4)" in str(caught.value)
    model = create_model("alexnet", num_classes=3, hidden=[4], input_shape=(3, 63, 63), norm="local-response")
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.features[0].weight, source.features[0].weight)
