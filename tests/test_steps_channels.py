"""Channels: cut networks against whole ones in which nobody reads those channels, scores by hand, and deployment."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bitwright as bw
from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.data.dataset import Split
from bitwright.data.preprocess import Preprocess
from bitwright.edits import edits_of, replace
from bitwright.errors import BitwrightError
from bitwright.measure.summary import summarise
from bitwright.models import create_model
from bitwright.rebuild import load_checkpoint, save_checkpoint
from bitwright.steps.budget import Products, alike, allowed, cheapest, count_for
from bitwright.steps.channels import Channels
from bitwright.steps.criteria import by_gradient, by_norm, by_weights, score
from bitwright.steps.dependencies import Group, find_groups
from bitwright.steps.layers import shapes_of
from bitwright.steps.narrow import narrow, silence
from bitwright.training.evaluate import eval_mode
from bitwright.training.settings import Distill, Optimizer, TrainSettings

DIGITS = load_dataset("digits")
SEED = 3


class Inception(nn.Module):
    """Two branches, one of them depthwise and then pointwise, concatenated; a residual sum; a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.left = nn.Conv2d(12, 8, 1)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.wide, self.slope = nn.Conv2d(12, 10, 1), nn.PReLU(10)
        self.both = nn.BatchNorm2d(18)
        self.mixed = nn.Conv2d(18, 12, 3, padding=1)
        self.last = nn.Linear(12 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        y = torch.cat([self.left(x), self.slope(self.wide(self.deep(x).relu()))], 1)
        return self.last(F.max_pool2d(x + self.mixed(self.both(y).relu()), 2).flatten(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.b(self.a(x.flatten(1)).relu()).relu()))


class Grouped(nn.Module):
    """Neighbours of channels compared, and a convolution of groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 8, 3), nn.LocalResponseNorm(3), nn.Conv2d(8, 16, 3)
        self.c, self.scale, self.d = nn.Conv2d(16, 16, 3, groups=4), nn.GroupNorm(2, 16), nn.Linear(16 * 4, 24)
        self.e, self.f = nn.Linear(24, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale(self.c(self.b(self.norm(self.a(x)))))
        return self.f(self.e(self.d(x.flatten(1))).relu())


def small_vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 20), (20, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(SEED)
    shape = (1, 8, 8)
    made = {
        "resnet": create_model("resnet-20", input_shape=shape, seed=0),
        "projected": create_model("resnet-14", input_shape=shape, downsample="conv", seed=0),
        "pre-activation": create_model("resnet-14", input_shape=shape, block="pre-activation", seed=0),
        "vgg": small_vgg(),
        "inception": Inception(),
        "twice": Twice(),
        "grouped": Grouped(),
    }
    for model in made.values():
        randomise(model)
    return made


def randomise(model: nn.Module) -> None:
    """Norms with scales, shifts and statistics of their own, some shifts above zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)  # type: ignore[arg-type]


NETWORKS = networks()
IMAGES = DIGITS.preprocess.torch(torch.as_tensor(DIGITS.test.images[:50]))


def groups_of(name: str) -> list[Group]:
    return find_groups(NETWORKS[name], IMAGES[:1])


# --- dependencies


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet", [(f"layer{stage}.{block}.conv1",) for stage in (1, 2, 3) for block in range(3)]),
        ("vgg", [("0",), ("3",), ("6",)]),
        ("inception", [("stem", "mixed"), ("left",), ("wide",)]),
        ("twice", []),
        ("grouped", [("d",), ("e",)]),
    ],
)
def test_the_groups_are_those_that_can_be_cut(name: str, layers: list[tuple[str, ...]]) -> None:
    assert [group.layers for group in groups_of(name)] == layers


def test_streams_of_projected_shortcuts_are_groups() -> None:
    found = {group.layers: group for group in groups_of("projected")}
    stream = found["layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"]
    assert set(stream.readers) == {"layer2.1.conv1", "layer3.0.conv1", "layer3.0.downsample.0"}
    assert "linear" in found["layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2"].readers
    assert found["conv1", "layer1.0.conv2", "layer1.1.conv2"].channels == 16


@pytest.mark.parametrize("name", ["resnet", "projected", "pre-activation", "vgg", "inception", "grouped"])
def test_a_cut_network_is_one_in_which_nobody_reads_those_channels(name: str) -> None:
    whole, generator = NETWORKS[name], torch.Generator().manual_seed(1)
    groups = groups_of(name)
    cuts = []
    for group in groups:
        gone = int(torch.randint(1, group.channels, (), generator=generator))
        cuts += group.without(torch.randperm(group.channels, generator=generator)[:gone].tolist())
    cut, silenced = copy.deepcopy(whole), copy.deepcopy(whole)
    narrow(cut, cuts)
    silence(silenced, cuts)
    with eval_mode(cut), eval_mode(silenced), eval_mode(whole), torch.no_grad():
        found, wanted, before = cut(IMAGES), silenced(IMAGES), whole(IMAGES)
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert float((before - wanted).abs().max()) > 0.01 * float(wanted.abs().max()), "something was lost"
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in whole.parameters())


def test_finding_leaves_the_network_alone() -> None:
    model = copy.deepcopy(NETWORKS["vgg"])
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert find_groups(model, IMAGES[:1])
    assert model.training
    assert not frozen.requires_grad
    assert not edits_of(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_all_weights_zero_hide_nothing() -> None:
    model = copy.deepcopy(NETWORKS["grouped"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0)
    assert [group.layers for group in find_groups(model, IMAGES[:1])] == [("d",), ("e",)]


def test_groups_that_only_go_alone_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitwright.steps.dependencies._holds", lambda model, groups, images: len(groups) == 1)
    with pytest.raises(BitwrightError, match="can be removed one group at a time but not together"):
        groups_of("vgg")


# --- how much a channel matters


def test_magnitudes_are_shares_of_the_mean() -> None:
    group = groups_of("vgg")[0]
    weight = NETWORKS["vgg"].get_submodule("0").weight
    assert isinstance(weight, Tensor)
    found = by_weights(NETWORKS["vgg"], group)
    by_hand = [float(weight[c].detach().abs().sum()) for c in range(20)]
    assert found.tolist() == pytest.approx([s / np.mean(by_hand) for s in by_hand], rel=1e-5)


def test_magnitudes_of_coupled_layers_are_added() -> None:
    model, group = NETWORKS["inception"], groups_of("inception")[0]
    sums = [model.get_submodule(name).weight.abs().sum((1, 2, 3)) for name in ("stem", "mixed")]  # type: ignore[union-attr,operator]
    total = (sums[0] + sums[1]).double()
    assert torch.allclose(by_weights(model, group), total / total.mean(), rtol=1e-5)


def test_norms_are_those_of_the_channels() -> None:
    model, groups = NETWORKS["inception"], {group.layers: group for group in groups_of("inception")}
    scale = model.get_submodule("both").weight
    assert isinstance(scale, Tensor)
    assert torch.allclose(by_norm(model, groups["left",]), scale[:8].abs().double())
    assert torch.allclose(by_norm(model, groups["wide",]), scale[8:].abs().double())


def test_gradients_are_first_order_changes_of_the_loss() -> None:
    """Against finite differences of the loss of single images as all readers of a channel are turned down."""
    split, plain = Split(DIGITS.train.images[:3], DIGITS.train.labels[:3]), DIGITS.preprocess
    for name in ("vgg", "inception"):
        model, groups = NETWORKS[name], groups_of(name)
        found = by_gradient(model, groups, split, plain)
        for place in (0, len(groups) - 1):
            for channel in (0, groups[place].channels - 1):
                changes = turned_down(model, groups[place], channel, split, plain)
                assert float(found[place][channel]) == pytest.approx(float(changes.square().mean()), rel=1e-3)
        assert not any(module._forward_pre_hooks for module in model.modules())


def turned_down(model: nn.Module, group: Group, channel: int, split: Split, preprocess: Preprocess) -> Tensor:
    images, labels = preprocess.torch(torch.as_tensor(split.images)).double(), torch.as_tensor(split.labels)
    losses = []
    for gate in (1 - 1e-5, 1 + 1e-5):
        trial = copy.deepcopy(model).double()
        with eval_mode(trial), torch.no_grad():
            for cut in group.without([channel]):
                if cut.side == "inputs":
                    trial.get_submodule(cut.path).weight[:, list(cut.entries)] *= gate  # type: ignore[index,operator]
            losses.append(F.cross_entropy(trial(images), labels, reduction="none"))
    return (losses[1] - losses[0]) / 2e-5


# --- how many stay


def test_counts_are_multiples_of_lanes_or_of_an_eighth_below() -> None:
    assert allowed(64, 16) == [64, 48, 32, 16, 14, 12, 10, 8, 6, 4, 2]
    assert allowed(50, 16)[:3] == [50, 48, 32]
    assert allowed(8, 16) == [8, 6, 4, 2]
    assert allowed(3, 4) == [3, 2, 1]
    assert allowed(1, 16) == [1]
    assert [count_for(64, 16, share) for share in (0, 0.2, 0.5, 0.51, 0.8)] == [64, 64, 32, 32, 14]
    assert count_for(20, 1, 0.1) == 18


@pytest.mark.parametrize("name", ["resnet", "projected", "vgg", "inception"])
def test_products_are_those_of_the_cut_network(name: str) -> None:
    model, groups = copy.deepcopy(NETWORKS[name]), groups_of(name)
    products = products_of(model, groups)
    whole = [group.channels for group in groups]
    counts = [max(count // 2 - 1, 1) for count in whole]
    assert products.total(whole) == macs(model)
    for g in range(len(groups)):
        alone = [counts[g] if i == g else n for i, n in enumerate(whole)]
        assert products.saved(g, whole, alone) == products.total(whole) - products.total(alone)
    narrow(
        model, [cut for group, n in zip(groups, counts, strict=True) for cut in group.without(range(n, group.channels))]
    )
    assert products.total(counts) == macs(model)


def macs(model: nn.Module) -> int:
    return sum(layer.macs for layer in summarise(copy.deepcopy(model), (1, 8, 8)).layers)


def products_of(model: nn.Module, groups: list[Group]) -> Products:
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return Products(model, groups, shapes_of(model, layers, IMAGES[:1]))


def test_a_price_may_be_per_product() -> None:
    groups = groups_of("vgg")
    products = products_of(NETWORKS["vgg"], groups)
    scores = [torch.ones(group.channels, dtype=torch.float64) for group in groups]
    scores[0] *= 0.9
    assert cheapest(scores, 16, products, 0.01) == [16, 32, 32]
    saved = [
        products.saved(g, [20, 32, 32], after) for g, after in enumerate(([16, 32, 32], [20, 16, 32], [20, 32, 16]))
    ]
    assert saved[1] / 16 == max(saved[0] / 4 / 0.9, saved[1] / 16, saved[2] / 16)
    assert cheapest(scores, 16, products, 0.01, per_product=True) == [20, 16, 32]


def test_the_least_price_goes_first() -> None:
    model, groups = NETWORKS["vgg"], groups_of("vgg")
    products = products_of(model, groups)
    scores = [torch.ones(group.channels, dtype=torch.float64) for group in groups]
    scores[1][:] = 1e-9
    counts = cheapest(scores, 16, products, 0.2)
    assert counts[0] == 20
    assert counts[1] < 32
    assert counts[2] == 32
    assert products.total(counts) <= 0.8 * products.total([20, 32, 32])
    assert alike([20, 32, 32], 16, products, 0.4) == [10, 16, 16]
    for find in (lambda: cheapest(scores, 16, products, 0.9999), lambda: alike([20, 32, 32], 16, products, 0.9999)):
        with pytest.raises(BitwrightError, match="with the fewest channels everywhere only 0"):
            find()


# --- the step


def run(step: Channels, model: nn.Module) -> tuple[nn.Module, dict[str, Any], Context]:
    context, given = Context(DIGITS), copy.deepcopy(model)
    context.begin(given)
    return step.apply(given, context), context.records["channels"], context


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("resnet", Channels(fraction=0.5, norm_images=100)),
        ("resnet", Channels(fraction={"layer1.*": 0.5, "*": 0.25}, criterion="norm", norm_images=0)),
        ("projected", Channels(fraction=0.3, criterion="gradient", images=50, norm_images=0)),
        ("vgg", Channels(fraction=0.5, scope="layer", norm_images=200)),
        ("vgg", Channels(fraction=0.4, skip="ms", layers=("Conv2d",), ignore=("first",))),
        ("inception", Channels(fraction=0.3, lanes=1, norm_images=50)),
    ],
    ids=str,
)
def test_a_cut_network_reloads_packs_and_runs(name: str, step: Channels, tmp_path: Path) -> None:
    step.look_ahead(NETWORKS[name], DIGITS)
    model, record, _ = run(step, NETWORKS[name])
    whole, left = macs(NETWORKS[name]), macs(model)
    assert (record["macs"], record["macs_after"]) == (whole, left)
    if isinstance(step.fraction, float) and step.skip == "never":
        assert left <= (1 - step.fraction) * whole
    for row in record["groups"]:
        assert all(len(model.get_submodule(path).weight) == row["channels_after"] for path in row["layers"])  # type: ignore[arg-type]
        assert row["macs_after"] <= row["macs"]
        assert ("ms" in row) == (step.skip == "ms")
    check_deployed(model, NETWORKS[name], tmp_path)


def check_deployed(model: nn.Module, built: nn.Module, folder: Path) -> None:
    save_checkpoint(model, folder / "model.safetensors", "1-channels")
    again = load_checkpoint(copy.deepcopy(built), folder / "model.safetensors").eval()
    pixels = DIGITS.test.images[:20]
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels))
    bw.pack(again, (x[:2],), preprocess=DIGITS.preprocess).save(folder / "net.safetensors")
    with torch.no_grad():
        expected = model.eval()(x).numpy()
        assert np.array_equal(again(x).numpy(), expected)
    found = bw.load(folder / "net.safetensors")(pixels)
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)


def test_the_channels_that_stay_are_those_that_matter() -> None:
    model = copy.deepcopy(NETWORKS["vgg"])
    with torch.no_grad():
        model.get_submodule("3").weight[::2] *= 1e-3  # type: ignore[index,operator]
    cut, record, _ = run(Channels(fraction={"3": 0.5, "*": 0.0}, norm_images=0), model)
    assert [row["channels_after"] for row in record["groups"]] == [20, 16, 32]
    for path, name in (("3", "weight"), ("4", "bias"), ("4", "running_mean")):
        kept, before = (m.get_submodule(path).state_dict()[name] for m in (cut, model))
        assert torch.equal(kept, before[1::2])
    assert torch.equal(cut.get_submodule("6").weight, model.get_submodule("6").weight[:, 1::2])  # type: ignore[index]
    assert record["whole"] == ["11"]


def test_twice_is_one_edit_after_another(tmp_path: Path) -> None:
    model = run(Channels(fraction=0.3), NETWORKS["vgg"])[0]
    again, record, _ = run(Channels(fraction=0.3), model)
    assert record["macs_after"] <= 0.7 * record["macs"]
    check_deployed(again, NETWORKS["vgg"], tmp_path)


def test_norms_follow_and_training_mends(net: nn.Module) -> None:
    errors = {}
    tune = TrainSettings(epochs=2, batch_size=50, optimizer=Optimizer("Adam", 1e-3, {}), distill=Distill("start"))
    for name, step in {
        "cut": Channels(fraction=0.6, norm_images=0),
        "norms": Channels(fraction=0.6),
        "trained": Channels(fraction=0.6, train=tune),
    }.items():
        model, record, context = run(step, net)
        errors[name] = record["output_error"]
        assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())
    assert errors["trained"] < errors["norms"] < errors["cut"]
    assert context.evaluate(model).error < 10


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    model = small_vgg()
    Context(DIGITS).train(model, TrainSettings(epochs=3, batch_size=50, optimizer=Optimizer("Adam", 2e-3, {})))
    return model


class Leaving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.from_numpy(self.a(x.flatten(1)).numpy()))


def quantised() -> nn.Module:
    model = small_vgg()
    replace(model, "3", "quantised", kind="sign")
    return model


@pytest.mark.parametrize(
    ("step", "make", "message"),
    [
        (lambda: Channels(fraction=1.0), small_vgg, "fraction is 1.0; expected a number between 0 and 1"),
        (lambda: Channels(fraction={"*": -0.1}), small_vgg, "fraction of '\\*' is -0.1; expected a number from 0"),
        (lambda: Channels(lanes=0), small_vgg, "lanes is 0; expected a whole number from 1"),
        (lambda: Channels(images=0), small_vgg, "images is 0"),
        (lambda: Channels(norm_images=-1), small_vgg, "norm_images is -1"),
        (lambda: Channels(criterion="size"), small_vgg, "criterion 'size'"),  # type: ignore[arg-type]
        (lambda: Channels(fraction=0.9999), small_vgg, "only 0.99. of the multiply-accumulates go"),
        (lambda: Channels(fraction={"*": 0.01}), small_vgg, "no group loses a channel with lanes 16"),
        (lambda: Channels(fraction={"0": 0.5}), small_vgg, "no number for layer '3'"),
        (lambda: Channels(layers=("11",)), small_vgg, "nothing can be cut from 11"),
        (lambda: Channels(criterion="norm"), Grouped, "no batch norm with scales is behind layer 'd'"),
        (
            lambda: Channels(fraction={"stem": 0.5, "*": 0.2}),
            Inception,
            "'stem' and 'mixed' lose their channels together",
        ),
        (lambda: Channels(), quantised, "is a quantiser; take channels before the steps that quantise"),
        (lambda: Channels(), lambda: small_vgg().double(), "is torch.float64; give a float32 model"),
        (lambda: Channels(), Leaving, "torch-pruning can't follow what Leaving computes"),
        (lambda: Channels(), Twice, "nothing can be cut from a, b, c"),
    ],
)
def test_settings_that_are_refused(step: Any, make: Any, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        step().look_ahead(make(), DIGITS)


def test_edits_that_are_refused() -> None:
    for path, options in (("0", {"outputs": 21}), ("0", {"inputs": 0}), ("1", {"inputs": 3}), ("2", {"outputs": 3})):
        with pytest.raises(BitwrightError, match=f"layer '{path}'.*can't be made one of"):
            replace(small_vgg(), path, "channels", **options)


def test_a_network_is_looked_at_without_labels() -> None:
    """What reads labels is left to `apply`, so that looking ahead is quick."""
    unlabelled = dataclasses.replace(DIGITS, train=Split(DIGITS.train.images, np.zeros_like(DIGITS.train.labels)))
    Channels(criterion="gradient").look_ahead(NETWORKS["vgg"], unlabelled)
    scores = score("l1", NETWORKS["vgg"], groups_of("vgg"), DIGITS.sample(1), DIGITS.preprocess)
    assert [len(s) for s in scores] == [20, 32, 32]


def test_a_run_with_channels_reloads_and_reports(tmp_path: Path) -> None:
    recipe = {
        "name": "tiny",
        "data": "digits",
        "model": {"name": "mlp", "hidden": [24, 16]},
        "steps": [{"train": {"epochs": 1}}, {"channels": {"fraction": 0.4}}, "half"],
    }
    folder = bw.run_recipe(recipe, tmp_path / "tiny").folder
    page = (folder / "report.html").read_text("utf-8")
    assert "<h2>Channels</h2>" in page
    assert "<tr><td>fc1</td><td>24</td>" in page
    assert "Other layers keep what they give: fc3." in page
