"""Fixed point: where quantisers stand, their grids, how weights are rounded, and the network that comes of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import bitwright as bw
from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.measure.agreement import kind_of_network
from bitwright.models import create_model
from bitwright.ops import QuantConv2d, Quantize
from bitwright.packing.lower import lower
from bitwright.rebuild import load_checkpoint, save_checkpoint
from bitwright.steps.calibrate import Grid, Seen, choose_grid, observe
from bitwright.steps.fixed import Fixed
from bitwright.steps.moments import Moments, windows
from bitwright.steps.placement import points, trace
from bitwright.steps.rounding import ada_round, nearest, weight_scales
from bitwright.steps.step import select_layers
from bitwright.training.settings import Optimizer, TrainSettings

DIGITS = load_dataset("digits")


def small(seed: int = 0) -> nn.Module:
    """A residual network for 8x8 images, its norms as after some training."""
    torch.manual_seed(seed)
    model = create_model("resnet-20", input_shape=(1, 8, 8), seed=seed)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, 0, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.bias, 0, 0.3)
    return model.eval()


def places(model: nn.Module) -> dict[str, tuple[str, ...]]:
    return {place.name: place.layers for place in points(trace(model), select_layers(model))}


class Branches(nn.Module):
    """Everything that a point may stand before: additions, means, moves, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(8, 3, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = F.relu(self.norm(self.a(x)) + self.b(x))
        y = F.max_pool2d(torch.cat([joined, F.pad(joined[:, :2], (0, 0, 0, 0, 1, 1))], 1), 2)
        return self.head(torch.flatten(F.relu(self.c(y)).mean((2, 3)), 1))


# --- where


def test_a_value_is_quantised_once_where_it_is_computed() -> None:
    found = places(Branches())
    assert found == {"x": ("a", "b"), "norm": (), "cat": ("c",), "relu_1": (), "mean": ("head",)}


def test_a_shortcut_reads_what_the_layer_reads() -> None:
    model = create_model("resnet-20")
    found = places(model)
    assert [layer for layers in found.values() for layer in layers] == list(select_layers(model))
    assert [name for name, layers in found.items() if not layers] == ["layer3_2_relu_1"]


def test_a_layer_that_is_called_twice_is_refused() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(BitwrightError, match="'0' is called 2 times"):
        places(nn.Sequential(layer, nn.ReLU(), layer))


def test_a_network_of_two_inputs_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
            return x if scale is None else x * scale

    with pytest.raises(BitwrightError, match=r"Two takes 2 inputs \(x, scale\), optional ones included; expected one"):
        trace(Two())


def test_a_forward_that_looks_at_numbers_is_refused() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(BitwrightError, match="can't be followed"):
        trace(Asks())


# --- grids


def seen_of(x: torch.Tensor) -> Seen:
    low, high = float(x.min()), float(x.max())
    return Seen(low, high, torch.histc(x, 4096, low, high).double())


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(-100, 0),
    width=st.floats(1e-3, 200),
    bits=st.integers(2, 16),
    symmetric=st.booleans(),
    power=st.booleans(),
)
def test_a_min_max_grid_holds_the_range(low: float, width: float, bits: int, symmetric: bool, power: bool) -> None:
    high = max(low + width, 0.0)
    seen = Seen(low, high, torch.ones(4096, dtype=torch.float64))
    grid = choose_grid(seen, bits, "min-max", percentile=100, symmetric=symmetric, power_of_two=power)
    assert grid.qmax - grid.qmin == 2**bits - 1
    ends = torch.tensor([low, high], dtype=torch.float64)
    assert (grid.rounded(ends) - ends).abs().max() <= grid.scale * 1.001
    assert grid.rounded(torch.zeros(1)) == 0
    if power:
        assert math.log2(grid.scale) == round(math.log2(grid.scale))


@pytest.mark.parametrize("method", ["percentile", "mse", "kl"])
def test_an_outlier_does_not_stretch_the_grid(method: str) -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).abs()
    x[0] = 50
    kwargs = {"percentile": 99.99, "symmetric": False, "power_of_two": False}
    wide = choose_grid(seen_of(x), 4, "min-max", **kwargs)
    grid = choose_grid(seen_of(x), 4, method, **kwargs)
    assert wide.scale == pytest.approx(50 / 15)
    assert grid.scale < 0.25 * wide.scale
    assert (grid.rounded(x) - x).square().mean() < (wide.rounded(x) - x).square().mean()


def test_the_least_squares_range_is_the_best_of_all_shares() -> None:
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(1))
    seen = seen_of(x)
    found = choose_grid(seen, 3, "mse", percentile=100, symmetric=True, power_of_two=False)
    error = float((found.rounded(x) - x).square().mean())
    for share in (0.3, 0.5, 0.7, 0.9, 1.0):
        grid = Grid(found.scale * share / (found.scale / (max(-seen.low / 4, seen.high / 3))), 0, -4, 3)
        assert error <= float((grid.rounded(x) - x).square().mean()) * 1.01


def test_a_value_that_is_no_tensor_is_refused() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x.flatten(1)).sort(1)[0])

    with pytest.raises(BitwrightError, match=r"^the value 'sort' is a sort, not one tensor.*\(`ignore`\)$"):
        Fixed(images=5).apply(Sorted(), Context(DIGITS))


def test_a_broken_image_is_found_and_named() -> None:
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    traced = trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)))
    names = [place.name for place in points(traced, select_layers(traced))]
    assert observe(traced, names, images).keys() == set(names)
    images[13] *= 1000
    with pytest.raises(BitwrightError, match=r"training image 13 of .* has pixels of .* times the median image's"):
        observe(traced, names, images)
    assert observe(traced, names, images[12:15])  # too few to tell


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_a_value_that_never_changes_has_a_grid(value: float) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
    model[1].weight.data.zero_()
    model[1].bias.data.fill_(value)
    fixed = Fixed(images=1).apply(model, Context(DIGITS))
    y = fixed.eval()(DIGITS.preprocess.torch(torch.as_tensor(DIGITS.split("test").images[:3])))
    assert torch.isfinite(y).all()


# --- moments and rounding


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (1, 3), dilation=2, groups=2, bias=False),
        nn.Linear(5, 3),
    ],
)
def test_moments_are_those_of_the_windows(layer: nn.Conv2d | nn.Linear) -> None:
    random = torch.Generator().manual_seed(0)
    shape = (7, 5) if isinstance(layer, nn.Linear) else (7, 4, 6, 6)
    x = torch.randn(*shape, generator=random)
    y = layer(x).detach()
    moments = Moments(layer)
    for part in (slice(0, 3), slice(3, 7)):
        moments.add(layer, x[part], y[part])
    groups = len(moments.mean_x)
    columns = windows(layer, x).view(groups, -1, moments.count).double()
    centred = columns - columns.mean(2, keepdim=True)
    torch.testing.assert_close(moments.gram, centred @ centred.mT, rtol=1e-4, atol=1e-4)
    weight = layer.weight.detach().double().view(groups, -1, columns.shape[1])
    torch.testing.assert_close(moments.cross, weight @ moments.gram, rtol=1e-3, atol=1e-3)
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
    torch.testing.assert_close(moments.bias(layer.weight.detach()), bias.double(), rtol=1e-3, atol=1e-4)


def test_moments_of_a_wide_layer_are_symmetric_whenever_they_are_asked_for() -> None:
    layer = nn.Linear(5000, 2)  # several blocks of rows
    x = torch.rand(2300, 5000, generator=torch.Generator().manual_seed(0))
    moments = Moments(layer)
    for part in (slice(0, 100), slice(100, 2250), slice(2250, 2300)):
        moments.add(layer, x[part], x[part, :2])
        gram = moments.gram[0]
        assert torch.equal(gram, gram.T)
        assert moments.count == part.stop
    centred = (x - x.mean(0)).double()
    torch.testing.assert_close(gram[-100:], centred.T[-100:] @ centred, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(moments.cross[0], gram[:2], rtol=1e-3, atol=1e-2)


def squared_error(codes: torch.Tensor, scale: torch.Tensor, moments: Moments, rows: torch.Tensor) -> float:
    """What AdaRound minimises, to the nearest of what no weight lowers: with noise of 1 % of the inputs' power."""
    w, wanted = (codes * scale).double().view_as(moments.cross), rows.double().view_as(moments.cross)
    noise = 0.01 * moments.gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return float(((w @ moments.gram - 2 * moments.cross) * w + noise * (w - wanted).square()).sum())


def moments_of(rows: torch.Tensor, x: torch.Tensor) -> Moments:
    """Of a linear layer with these weights and inputs."""
    moments = Moments(nn.Linear(rows.shape[1], rows.shape[0]))
    moments.add(nn.Linear(rows.shape[1], rows.shape[0]), x, x @ rows.T)
    return moments


def test_adaround_beats_the_nearest_and_no_single_change_beats_it() -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(500, 20, generator=random) @ torch.randn(20, 20, generator=random)
    rows = torch.randn(4, 20, generator=random)
    moments = moments_of(rows, x)
    scale = weight_scales(rows, 3, "max", False)
    codes = ada_round(rows, scale, 3, moments, 300)
    floor = (rows / scale).floor()
    assert ((codes == floor) | (codes == floor + 1)).all()
    assert codes.abs().max() <= 3
    constant = float(((rows.double() @ moments.gram[0]) * rows.double()).sum())
    found, plain = (squared_error(c, scale, moments, rows) + constant for c in (codes, nearest(rows, scale, 3)))
    assert found < 0.5 * plain
    for place in range(codes.numel()):
        moved = codes.clone().view(-1)
        moved[place] = 2 * floor.view(-1)[place] + 1 - moved[place]
        if moved.abs().max() <= 3:
            assert squared_error(moved.view_as(codes), scale, moments, rows) + constant >= found * (1 - 1e-5)


@pytest.mark.parametrize("x", [torch.zeros(5, 20), torch.ones(5, 20), torch.arange(20.0).expand(1, 20)])
def test_inputs_that_never_change_leave_adaround_at_the_nearest(x: torch.Tensor) -> None:
    rows = torch.randn(4, 20, generator=torch.Generator().manual_seed(3))
    scale = weight_scales(rows, 3, "max", False)
    assert torch.equal(ada_round(rows, scale, 3, moments_of(rows, x), 300), nearest(rows, scale, 3))


def test_scales_by_error_are_no_worse_than_by_the_largest_weight() -> None:
    rows = torch.randn(8, 200, generator=torch.Generator().manual_seed(0))
    errors = {}
    for clip in ("max", "mse"):
        scale = weight_scales(rows, 7, clip, False)
        errors[clip] = (nearest(rows, scale, 7) * scale - rows).square().sum(1)
    assert (errors["mse"] <= errors["max"]).all()
    assert (errors["mse"] < errors["max"]).any()


# --- the network


def pixels(count: int = 40) -> np.ndarray:
    return DIGITS.split("test").images[:count]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_bits": 4, "activation_bits": 4, "symmetric": True, "calibrate": "min-max"},
        {"scales": "power-of-two", "per_channel": False, "calibrate": "percentile"},
        {"weight_bits": {"first": 8, "*": 3}, "rounding": "adaround", "iterations": 5, "calibrate": "kl"},
    ],
)
def test_every_engine_gives_the_same_integers(options: dict[str, object], tmp_path: Path) -> None:
    model = Fixed(images=20, **options).apply(small(), Context(DIGITS)).eval()
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels()))
    graph, weights = lower(model, (x[:2],), DIGITS.preprocess)
    assert kind_of_network(graph, weights) == "integer"
    path = tmp_path / "net.safetensors"
    bw.pack(model, (x[:2],), preprocess=DIGITS.preprocess).save(path)
    with torch.no_grad():
        expected = model(x).numpy()
    for engine in ("reference", "native"):
        assert np.array_equal(bw.load(path, engine=engine)(pixels()), expected)


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_wide_weights_are_stored_as_codes_and_run_as_floats(bits: int, tmp_path: Path) -> None:
    start = small()
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels()))
    with torch.no_grad():
        dense = start(x).numpy()
    model = Fixed(images=20, weight_bits=bits, activation_bits=12).apply(start, Context(DIGITS)).eval()
    path = tmp_path / "net.safetensors"
    packed = bw.pack(model, (x[:2],), preprocess=DIGITS.preprocess)
    packed.save(path)
    with torch.no_grad():
        expected = model(x).numpy()
    for engine in ("reference", "native"):
        np.testing.assert_allclose(bw.load(path, engine=engine)(pixels()), expected, atol=2e-3 * np.ptp(expected))
    assert path.stat().st_size < (bits + 3) / 32 * 4 * sum(p.numel() for p in model.parameters())
    assert np.abs(expected - dense).max() < 0.1 * np.ptp(dense)


def test_a_checkpoint_makes_the_graph_again(tmp_path: Path) -> None:
    model = Fixed(images=20).apply(small(), Context(DIGITS)).eval()
    save_checkpoint(model, tmp_path / "model.safetensors", "1-fixed")
    again = load_checkpoint(small(1), tmp_path / "model.safetensors").eval()
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels()))
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_the_bias_keeps_the_mean_output() -> None:
    """With 2 bits for the weights the mean logits move; with the correction they stay."""
    x = DIGITS.preprocess.torch(torch.as_tensor(DIGITS.sample(200).images))
    with torch.no_grad():
        expected = small()(x).mean(0)
        found = {}
        for correct in (False, True):
            step = Fixed(images=200, weight_bits=3, correct_bias=correct)
            found[correct] = (step.apply(small(), Context(DIGITS)).eval()(x).mean(0) - expected).abs().max()
    assert found[True] < 0.3 * found[False]


def test_layers_that_are_left_out_stay_float() -> None:
    model = Fixed(images=10, ignore=("first", "last")).apply(small(), Context(DIGITS))
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    plain = [name for name, m in layers.items() if not isinstance(m, QuantConv2d)]
    assert plain == ["conv1", "linear"]
    assert not [m for n, m in model.named_modules() if isinstance(m, Quantize) and n == "quantisers.x"]


@pytest.mark.parametrize("scales", ["free", "power-of-two"])
def test_training_goes_on_in_whole_numbers(scales: str) -> None:
    """The network that trained is the one that runs: as good in eval mode as when it was measured, on its grids."""
    train = TrainSettings(epochs=2, batch_size=64, optimizer=Optimizer("SGD", 0.01, {"momentum": 0.9}))
    context = Context(DIGITS)
    start = small()
    model = Fixed(images=50, weight_bits=4, activation_bits=4, scales=scales, train=train).apply(start, context).eval()
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels()))
    graph, weights = lower(model, (x[:2],), DIGITS.preprocess)
    assert kind_of_network(graph, weights) == "integer"
    points = context.records["fixed"]["points"]
    exact = [math.log2(point["scale"]).is_integer() for point in points]
    assert all(exact) if scales == "power-of-two" else not any(exact)
    assert context.records["fixed"]["stripes"] == pytest.approx({"cycles": 4, "macs": 4})  # 16 bits against 4
    for layer in (m for m in model.modules() if isinstance(m, QuantConv2d)):
        assert all(len(torch.unique(row.abs())) <= 8 for row in layer.weight.detach())


def test_a_quantised_model_is_refused() -> None:
    model = Fixed(images=10).apply(small(), Context(DIGITS))
    with pytest.raises(BitwrightError, match="quantised already"):
        Fixed(images=10).apply(model, Context(DIGITS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 1}, "weight_bits"),
        ({"weight_bits": 17}, "from 2 to 16"),
        ({"activation_bits": {"*": 17}}, "from 2 to 16"),
        ({"percentile": 20}, "percentile"),
        ({"percentile": "99"}, "percentile is '99'; expected percent, above 50 to 100"),
        ({"accumulator": {"bits": 16}}, r"accumulator is {'bits': 16}; expected Accumulator\(...\)"),
        ({"images": 0}, "images"),
        ({"rounding": "up"}, "rounding"),
        ({"calibrate": "max"}, "calibrate"),
    ],
)
def test_settings_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        Fixed(**options)


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
def test_a_pattern_that_matches_nothing_is_refused(field: str) -> None:
    with pytest.raises(BitwrightError, match="matches nothing"):
        Fixed(images=5, **{field: {"nowhere": 4, "*": 8}}).apply(small(), Context(DIGITS))


# --- one format for all


def uneven(factor: float) -> tuple[nn.Module, Context]:
    """A trained network, its first layer's weights times a factor and its second's through it: it computes the same."""
    model, context = create_model("mlp", input_shape=(1, 8, 8), hidden=[64, 32], seed=0), Context(DIGITS)
    context.train(model, TrainSettings(epochs=8, batch_size=50, optimizer=Optimizer("Adam", 3e-3, {})))
    with torch.no_grad():
        for name, times in (("fc1", factor), ("fc2", 1 / factor)):
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight.mul_(times)
            layer.bias.mul_(times if name == "fc1" else 1)
    return model, context


@pytest.mark.parametrize("bits", [16, 12, 8])
def test_a_format_per_layer_holds_where_a_global_one_collapses(bits: int) -> None:
    found = {}
    for formats in ("layer", "global"):
        model, context = uneven(2.0 ** (bits / 2))  # one format for both leaves nothing of the smaller
        before = context.evaluate(model).error
        options: dict[str, Any] = {"scales": "power-of-two", "per_channel": False, "clip": "max", "formats": formats}
        step = Fixed(images=200, weight_bits=bits, activation_bits=bits, calibrate="min-max", **options)
        found[formats] = context.evaluate(step.apply(model, context)).error
        rows = context.records["fixed"]
        scales = {row["scale"] for row in rows["points"]}
        assert (len(scales) == 1) == (formats == "global")
    assert found["layer"] < before + 1.5
    assert found["global"] > found["layer"] + 5


def test_scales_of_pruned_weights_are_what_they_are_multiples_of() -> None:
    model, context = uneven(1.0)
    for name in ("fc1", "fc2"):
        weight = model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        with torch.no_grad():
            weight[weight.abs() < 2 * weight.std()] = 0
    Fixed(images=200, weight_bits=12, scales="power-of-two", per_channel=False).apply(model, context)
    scales = [row["scale"] for row in context.records["fixed"]["layers"]]
    assert all(math.frexp(scale)[0] == 0.5 for scale in scales)


def test_global_formats_need_powers_of_two() -> None:
    with pytest.raises(BitwrightError, match='formats "global" needs scales "power-of-two"'):
        Fixed(formats="global")
