"""Low rank: regressions against brute force, decompositions against identities, and networks that still run."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bitwright as bw
from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.models import create_model
from bitwright.rebuild import load_checkpoint, save_checkpoint
from bitwright.steps.factors import factorise, kernel_of, macs_with, weights_with
from bitwright.steps.following import Behind, following
from bitwright.steps.ger import GER
from bitwright.steps.layers import shapes_of
from bitwright.steps.low_rank import (
    Ranks,
    Split,
    balanced,
    break_even,
    cholesky,
    damage,
    greedy,
    rank_at_rate,
    reduced_rank,
    truncated,
)
from bitwright.steps.placement import trace
from bitwright.steps.reconstruct import (
    Samples,
    Sums,
    alternate,
    error,
    nearest_response,
    regress,
)
from bitwright.steps.svd import SVD
from bitwright.steps.tucker import Tucker, decompose
from bitwright.steps.vbmf import vbmf
from bitwright.training.settings import Distill, Optimizer, TrainSettings

DIGITS = load_dataset("digits")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- reduced-rank regression


def alternating_least_squares(x: Tensor, y: Tensor, rank: int) -> float:
    """min |Y - P Q X|^2 over P (T, k) and Q (k, K), from a random start."""
    p = random(len(y), rank, seed=5)
    gram = x @ x.T
    for _ in range(3000):
        q = torch.linalg.solve(p.T @ p, p.T @ y @ x.T) @ torch.linalg.inv(gram)
        z = q @ x
        p = y @ z.T @ torch.linalg.inv(z @ z.T)
    return float((y - p @ q @ x).square().sum())


def test_step_one_is_what_alternating_least_squares_end_with() -> None:
    mix = random(12, 12, seed=1)
    x = mix @ random(12, 400, seed=2)
    y = random(9, 12, seed=3) @ x + 2 * random(9, 400, seed=4)
    split, singular = reduced_rank((x @ x.T)[None], (y @ x.T)[None])
    assert not singular
    best = float((y - split.product(9)[0] @ x).square().sum())
    for rank in (2, 4):
        found = float((y - split.product(rank)[0] @ x).square().sum())
        assert found == pytest.approx(alternating_least_squares(x, y, rank), rel=1e-5)
        assert found - best == pytest.approx(float(split.error[rank]), rel=1e-4)
        u, s, vt = torch.linalg.svd(split.product(9)[0])
        cut = (u[:, :rank] * s[:rank]) @ vt[:rank]
        assert float((y - cut @ x).square().sum()) > 1.01 * found, "cutting the least-squares matrix is not as good"


def test_a_planted_rank_is_found_again() -> None:
    weight = random(20, 3) @ random(3, 30, seed=1)
    x = random(30, 200, seed=2)
    split, _ = reduced_rank((x @ x.T)[None], (weight @ x @ x.T)[None])
    assert float(split.relative[3]) < 1e-6
    assert float(split.relative[2]) > 1e-2
    assert torch.allclose(split.product(3)[0], weight, atol=1e-3)


def test_damage_is_how_far_the_outputs_move(net: nn.Module) -> None:
    images = DIGITS.preprocess.torch(torch.as_tensor(DIGITS.train.images[:200]))
    model, layer = copy.deepcopy(net).eval(), net.get_submodule("fc1")
    split, changed = truncated(layer), model.get_submodule("fc1")
    found = damage(model, partial(put_matrix, changed, split), split.full, images)
    assert len(found) == split.full + 1
    assert found[-1] < 1e-9
    assert all(a >= b for a, b in pairwise(found[[1, 4, 16, 64]]))
    for rank in (1, 9):  # ranks it looks at
        put_matrix(changed, split, rank)
        with torch.no_grad():
            wanted = net.eval()(images)
            moved = float((model(images) - wanted).square().sum() / wanted.square().sum())
        assert float(found[rank]) == pytest.approx(moved, rel=1e-4)


def put_matrix(layer: nn.Module, split: Split, rank: int) -> None:
    with torch.no_grad():
        layer.weight.copy_(split.product(rank)[0])  # type: ignore[operator,union-attr]


def test_balanced_factors_have_equal_singular_values() -> None:
    left, right = random(2, 7, 3), 100 * random(2, 3, 9, seed=1)
    p, q = balanced(left, right)
    assert torch.allclose(p @ q, left @ right)
    assert torch.allclose(p.mT @ p, q @ q.mT)


@pytest.mark.parametrize("windows", [5, 500])
def test_too_few_windows_are_said(windows: int) -> None:
    x = random(20, windows)
    factor, singular = cholesky((x @ x.T)[None])
    assert singular == (windows < 20)
    assert bool(torch.isfinite(factor).all())
    with pytest.raises(BitwrightError, match="inputs are NaN or infinite"):
        cholesky(torch.full((1, 2, 2), torch.nan))


# --- the second step, and both in turn


@settings(max_examples=200, deadline=None)
@given(st.floats(-4, 4), st.floats(0, 4), st.sampled_from([0.01, 0.3, 1.0, 5.0]))
def test_step_two_is_the_minimum_of_a_grid(z: float, r: float, penalty: float) -> None:
    def cost(y: Tensor) -> Tensor:
        return (r - y.clamp(min=0)).square() + penalty * (y - z).square()

    found, least = nearest_response(*torch.tensor([[z], [r]], dtype=torch.float64), penalty)
    assert least == pytest.approx(float(cost(found)), rel=1e-5, abs=1e-12)
    assert least <= float(cost(torch.linspace(-6, 6, 4001).double()).min()) + 1e-9


def problem(outputs: int = 24, noise: float = 0.3) -> tuple[Sums, Samples, Samples]:
    """Inputs of 16 numbers that are correlated, and what a ReLU shows half of."""
    x = (random(1200, 16) @ random(16, 16, seed=1)).float()
    y = (x.double() @ random(16, outputs, seed=2) + noise * random(1200, outputs, seed=3)).float()
    means = x.double().mean(0), y.double().mean(0)
    dx, dy = x.double() - means[0], y.double() - means[1]
    factor, _ = cholesky((dx.T @ dx)[None])
    samples = Samples(x, y)
    return Sums(len(x), *means, dy.T @ dx, factor[0]), samples, samples


def test_alternating_never_rises_and_beats_one_regression() -> None:
    sums, samples, judges = problem()
    for rank in (2, 4, 8):
        linear = regress(sums, rank)
        found = alternate(sums, samples, judges, linear, (0.01, 1.0), 25)
        for penalty in (0.01, 1.0):
            objective = [value for p, value in found.descent if p == penalty]
            assert len(objective) > 1
            assert all(b <= a * (1 + 1e-6) for a, b in pairwise(objective))
        assert error(found.fit, judges, True) < 0.99 * error(linear, judges, True)


def wide_problem(count: int, movable: bool = True, inputs: int = 120) -> tuple[Sums, Samples, Samples]:
    """Mixed inputs behind a ReLU; sums of 3,000 windows, `count` of which are known, and others."""
    x = (random(4000, 16) @ random(16, inputs, seed=1) / 4 + random(4000, inputs, seed=4) / 2).clamp(min=0).float()
    y = x @ random(inputs, 40, seed=2).float() / inputs**0.5
    means = [t[:3000].double().mean(0) * movable for t in (x, y)]
    dx, dy = x[:3000].double() - means[0], y[:3000].double() - means[1]
    factor, _ = cholesky((dx.T @ dx)[None])
    sums = Sums(3000, means[0], means[1], dy.T @ dx, factor[0], movable)
    return sums, Samples(x[:count], y[:count]), Samples(x[3000:], y[3000:])


@pytest.mark.parametrize("movable", [True, False])
def test_few_samples_stand_for_all(movable: bool) -> None:
    sums, _, others = wide_problem(400, movable)
    linear = regress(sums, 6)
    gained = {}
    for count in (400, 1000, 3000):
        samples = wide_problem(count, movable)[1]
        descent = alternate(sums, samples, others, linear, (0.01, 1.0), 25)
        gained[count] = 1 - error(descent.fit, others, True) / error(linear, others, True)
    assert gained[3000] > 0.15
    assert gained[1000] > 0.6 * gained[3000]
    assert gained[400] > 0.3 * gained[3000]


def test_alternating_never_rises_without_a_bias_or_where_inputs_repeat() -> None:
    for movable, inputs in ((False, 120), (True, 20)):
        sums, samples, others = wide_problem(3000, movable, inputs)
        if inputs == 20:  # each twice: a Gram matrix of half the rank
            samples, others = (Samples(one.x.repeat(1, 2), one.y) for one in (samples, others))
            dx = samples.x.double() - samples.x.double().mean(0)
            factor, _ = cholesky((dx.T @ dx)[None])
            sums = dataclasses.replace(sums, x=sums.x.repeat(2), cross=sums.cross.repeat(1, 2), factor=factor[0])
        found = alternate(sums, samples, others, regress(sums, 6), (0.01, 1.0), 25)
        for penalty in (0.01, 1.0):
            objective = [value for p, value in found.descent if p == penalty]
            assert all(b <= a * (1 + 1e-5) for a, b in pairwise(objective))
        assert error(found.fit, others, True) < 0.99 * error(regress(sums, 6), others, True)


def test_a_full_rank_has_no_error() -> None:
    sums, samples, _ = problem(outputs=8, noise=0)
    fit = regress(sums, 8)
    assert error(fit, samples, True) < 1e-6 * float(samples.y.square().sum())


def test_a_bias_makes_up_for_means() -> None:
    sums, samples, _ = problem()
    shifted = Samples(samples.x, samples.y + 7)
    fit = regress(dataclasses.replace(sums, y=sums.y + 7), 4)
    assert error(fit, shifted, False) == pytest.approx(error(regress(sums, 4), samples, False), rel=1e-4)


def test_alternating_in_turn_ends_no_higher_than_with_all_ranks_anew() -> None:
    sums, samples, judges = problem()
    for rank, penalty in ((3, 0.01), (6, 1.0)):
        fit = regress(sums, rank)
        descent = alternate(sums, samples, judges, fit, (penalty,), 60).descent
        for _ in range(60):  # a regression of all ranks after each step II
            z = samples.x.double() @ (fit.left @ fit.right).T + fit.bias
            y, cost = nearest_response(z, samples.y.double().clamp(min=0), penalty)
            cross = (y - y.mean(0)).T @ (samples.x.double() - sums.x)
            fit = regress(dataclasses.replace(sums, y=y.mean(0), cross=cross), rank)
        assert descent[-1][1] <= cost * 1.005


# --- ranks


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
def test_vbmf_finds_a_planted_rank_and_its_noise(noise: float) -> None:
    found = []
    for seed in range(0, 18, 3):
        y = random(64, 8, seed=seed) @ random(8, 576, seed=seed + 1) + noise * random(64, 576, seed=seed + 2)
        assert vbmf(y) == pytest.approx(vbmf(y.T))
        found.append(vbmf(y))
    assert {rank for rank, _ in found} == {8}
    assert np.mean([variance for _, variance in found]) == pytest.approx(noise**2, rel=0.01)


def test_vbmf_of_noise_and_of_nothing() -> None:
    assert vbmf(random(64, 576))[0] == 0
    assert vbmf(torch.zeros(4, 5)) == (0, 0.0)
    assert vbmf(random(1, 5))[0] == 0


def test_rates_and_break_even() -> None:
    square, wide = nn.Linear(4096, 4096), nn.Linear(9216, 4096)
    assert (break_even(square), break_even(wide)) == (2047, 2835)  # at 2048 nothing is saved; METHODS 1.4
    assert rank_at_rate(square, 4) == 512
    assert weights_with(square, (None, 512)) * 4 == weights_with(square, (None, None))


def test_greedy_takes_from_the_layer_that_minds_least() -> None:
    layers: dict[str, nn.Module] = {"a": nn.Linear(64, 64), "b": nn.Linear(64, 64)}
    steep, flat = torch.linspace(1, 0, 65), torch.cat([torch.linspace(1, 0, 9), torch.zeros(56)])
    found = greedy({"a": steep, "b": flat}, layers, 2)
    assert found["b"] is not None
    assert found["b"] <= 8
    assert found["a"] is None or found["a"] > 16
    size = sum(weights_with(layers[n], (None, r)) for n, r in found.items())
    assert size <= 4096
    with pytest.raises(BitwrightError, match="not even rank 1"):
        greedy({"a": steep, "b": flat}, layers, 100)


# --- factors


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ranks", [(3, None), (None, 4), (3, 4)])
def test_factors_compute_what_their_product_does(groups: int, ranks: tuple[int | None, int | None]) -> None:
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=2, dilation=2, groups=groups).double()
    found = decompose(kernel_of(conv), *ranks)
    model = nn.Sequential(copy.deepcopy(conv), nn.ReLU()).double()
    new = factorise(model, "0", found.parts()).double()
    with torch.no_grad():  # the edit makes float32 layers
        for name, matrix in found.parts()._asdict().items():
            if matrix is not None:
                weight = new.get_submodule(name).weight
                assert isinstance(weight, Tensor)
                weight.copy_(matrix.reshape(weight.shape))
    core = found.core
    if found.first is not None:
        core = torch.einsum("grqd,gsq->grsd", core, found.first)
    whole = core if found.last is None else torch.einsum("gtr,grsd->gtsd", found.last, core)
    relative = float((whole - kernel_of(conv)).square().sum() / kernel_of(conv).square().sum())
    assert relative == pytest.approx(found.error, abs=1e-12)
    with torch.no_grad():
        conv.weight.copy_(whole.reshape(conv.weight.shape))
        x = random(2, 8, 9, 9)
        assert torch.allclose(new(x), conv(x), atol=1e-4)


def test_a_tucker_decomposition_of_full_ranks_is_exact_and_hooi_helps() -> None:
    kernel = random(1, 10, 8, 9)
    assert decompose(kernel, 8, 10).error == pytest.approx(0, abs=1e-12)
    for ranks in ((2, 3), (4, 4)):
        assert decompose(kernel, *ranks, 20).error < decompose(kernel, *ranks, 0).error


def test_the_slides_example() -> None:
    """AlexNet's conv2, one of its two groups: 48 to 25, 128 to 59."""
    layer = nn.Conv2d(48, 128, 5, padding=2)
    shapes = (48, 27, 27), (128, 27, 27)
    assert weights_with(layer, (None, None)) == 153_600
    assert weights_with(layer, (25, 59)) == 45_627
    before, after = macs_with(layer, (None, None), shapes), macs_with(layer, (25, 59), shapes)
    assert (before, after) == (111_974_400, 33_262_083)
    assert before / after == pytest.approx(3.37, abs=0.005)


def test_three_factors_cost_what_the_slide_says() -> None:
    assert weights_with(nn.Linear(100, 100), (None, 20), scales=True) == 4400
    assert weights_with(nn.Linear(100, 100), (None, 20)) == 4000


# --- steps


@pytest.fixture(scope="module")
def net() -> nn.Module:
    model = create_model("mlp", input_shape=(1, 8, 8), hidden=[96, 64], seed=0)
    Context(DIGITS).train(model, TrainSettings(epochs=12, batch_size=50, optimizer=Optimizer("Adam", 2e-3, {})))
    return model


@pytest.fixture(scope="module")
def convnet() -> nn.Module:
    """Convolutions with a batch norm and a ReLU behind, two of them in groups."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, groups in ((1, 16, 1), (16, 24, 1), (24, 24, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 16, 10))
    Context(DIGITS).train(model, TrainSettings(epochs=4, batch_size=50, optimizer=Optimizer("Adam", 2e-3, {})))
    return model


def run(step: Any, model: nn.Module) -> tuple[nn.Module, dict[str, Any], Context]:
    context = Context(DIGITS)
    given = copy.deepcopy(model)
    context.begin(given)
    return step.apply(given, context), context.records["low_rank"], context


JOINT = TrainSettings(**{**vars(GER().joint), "epochs": 5, "optimizer": Optimizer("SGD", 3e-4, {"momentum": 0.9})})


def test_each_method_is_nearer_to_the_network_than_the_one_before(net: nn.Module) -> None:
    ranks = Ranks("rate", 4)
    steps = [SVD(ranks=ranks), SVD(ranks=ranks, data_aware=True), GER(ranks=ranks, joint=None)]
    errors = [run(step, net)[1]["output_error"] for step in steps]
    joint = run(GER(ranks=ranks, joint=JOINT), net)[1]
    assert joint["output_error"] == pytest.approx(errors[-1])
    errors.append(joint["output_error_joint"])
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


def test_layers_that_stay_whole_make_up_for_those_below(net: nn.Module) -> None:
    ranks = Ranks("energy", {"fc1": 0.8, "*": 1.0})
    alone = run(GER(layers=("fc1",), ranks=ranks, joint=None), net)[1]
    together = run(GER(ranks=ranks, joint=None), net)[1]
    assert [row["rank"] is None for row in together["layers"]] == [False, True, True]
    assert together["layers"][0] == alone["layers"][0]
    assert together["output_error"] < 0.9 * alone["output_error"]


def test_without_a_bias_nothing_is_fitted_that_nothing_can_hold() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96, bias=False), nn.ReLU(), nn.Linear(96, 10, bias=False))
    options: dict[str, Any] = {"ranks": Ranks("rate", 4), "images": 1000}
    aware = run(SVD(**options, data_aware=True), model)[1]
    step_one = run(GER(**options, alternations=0, joint=None), model)[1]
    assert step_one["output_error"] == pytest.approx(aware["output_error"], rel=1e-2)


def test_labels_are_never_used(net: nn.Module) -> None:
    train = dataclasses.replace(DIGITS.train, labels=np.zeros_like(DIGITS.train.labels))
    unlabelled = dataclasses.replace(DIGITS, train=train)
    states = []
    for data in (DIGITS, unlabelled):
        context, model = Context(data), copy.deepcopy(net)
        context.begin(model)
        states.append(GER(images=300, joint=dataclasses.replace(JOINT, epochs=1)).apply(model, context).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_nothing_is_dropped_in_the_joint_training(net: nn.Module) -> None:
    dropped = create_model("mlp", input_shape=(1, 8, 8), hidden=[96, 64], dropout=[0.3, 0.5, 0.5], seed=0)
    dropped.load_state_dict(net.state_dict())
    joint = GER().joint
    assert joint is not None
    step = GER(images=300, joint=dataclasses.replace(joint, epochs=2))
    found = [run(step, model)[0] for model in (net, dropped)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in found), strict=True))
    assert [m.p for m in found[1].modules() if isinstance(m, nn.Dropout)] == [0.3, 0.5, 0.5]


def test_convolutions_with_norms_are_reconstructed(convnet: nn.Module) -> None:
    options: dict[str, Any] = {"layers": ("*",), "ignore": ("0",), "ranks": Ranks("rate", 3)}
    cut, plain, _ = run(SVD(**options, norm_images=0), convnet)
    model, found, context = run(GER(**options, joint=None, samples=8000), convnet)
    rows = {row["layer"]: row for row in found["layers"]}
    assert [rows[name]["rectified"] for name in ("3", "6", "11")] == [True, True, False]
    assert all(row["error"] <= row["error_linear"] for row in rows.values())
    assert rows["3"]["error"] < rows["3"]["error_linear"]
    assert found["output_error"] < 0.6 * plain["output_error"]
    assert context.evaluate(model).error < context.evaluate(cut).error - 10


@pytest.mark.parametrize(
    "step",
    [
        SVD(ranks=Ranks("rate", 2)),
        SVD(ranks=Ranks("energy", 0.9), data_aware=True),
        SVD(ranks=Ranks("greedy", 3)),
        SVD(ranks=Ranks("greedy", 3), data_aware=True),
        SVD(ranks=Ranks("vbmf")),
        SVD(ranks=Ranks("count", {"fc1": 10, "*": 5}), factors=3),
        GER(ranks=Ranks("greedy", 3), joint=None, images=500),
        GER(ranks=Ranks("energy", 0.95), joint=None, images=200),
    ],
    ids=str,
)
def test_a_linear_network_packs_reloads_and_runs(step: Any, net: nn.Module, tmp_path: Path) -> None:
    check_deployed(step, net, tmp_path)


@pytest.mark.parametrize(
    "step",
    [
        Tucker(),
        Tucker(ranks=Ranks("rate", 2), skip="never"),
        Tucker(ranks=Ranks("energy", 0.8), skip="ms"),
        Tucker(ranks=Ranks("count", 6), inputs={"3": 5, "*": 4}),
        SVD(layers=("*",), ignore=("0",), ranks=Ranks("rate", 2), data_aware=True),
    ],
    ids=str,
)
def test_a_convolutional_network_packs_reloads_and_runs(step: Any, convnet: nn.Module, tmp_path: Path) -> None:
    check_deployed(step, convnet, tmp_path)


def check_deployed(step: Any, net: nn.Module, folder: Path) -> None:
    model, record, context = run(step, net)
    model = model.eval()
    for row in record["layers"]:
        own = [p.numel() for n, p in model.get_submodule(row["layer"]).named_parameters() if n.endswith("weight")]
        assert sum(own) == row["weights_after"] <= row["weights"]
    assert sum(row["weights_after"] for row in record["layers"]) < sum(row["weights"] for row in record["layers"])
    assert np.isfinite(record["output_error"])
    assert context.evaluate(model).error < 60 or record["by"] in ("vbmf", "count"), "they don't ask how much is lost"
    save_checkpoint(model, folder / "model.safetensors", "1-step")
    again = load_checkpoint(copy.deepcopy(net), folder / "model.safetensors").eval()
    pixels = DIGITS.split("test").images[:20]
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels))
    bw.pack(again, (x[:2],), preprocess=DIGITS.preprocess).save(folder / "net.safetensors")
    with torch.no_grad():
        expected = model(x).numpy()
        assert np.array_equal(again(x).numpy(), expected)
    found = bw.load(folder / "net.safetensors")(pixels)
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)


def test_what_follows_layers() -> None:
    found = following(trace(create_model("resnet-20")), ["conv1", "layer1.0.conv1", "layer1.0.conv2", "linear"])
    assert found["conv1"] == Behind("bn1", True)
    assert found["layer1.0.conv1"] == Behind("layer1.0.bn1", True)
    assert found["layer1.0.conv2"] == Behind("layer1.0.bn2", False), "an addition is before the ReLU"
    assert found["linear"] == Behind(None, False)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.flatten(1)).relu()
        return self.b(self.a(x).relu())


def test_shapes_are_in_the_order_of_calls(convnet: nn.Module) -> None:
    found = shapes_of(convnet, {name: convnet.get_submodule(name) for name in ("11", "0")}, torch.zeros(1, 1, 8, 8))
    assert list(found.items()) == [("0", ((1, 8, 8), (16, 8, 8))), ("11", ((384,), (10,)))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ranks("some"), "ranks: by is 'some'; expected one of rate, count"),  # type: ignore[arg-type]
        (lambda: Ranks("rate", 0.5), "ranks: value is 0.5 by rate; expected a factor of at least 1"),
        (lambda: Ranks("count", 2.5), "value is 2.5 by count"),
        (lambda: Ranks("energy", 1.5), "a share from 0 to 1"),
        (lambda: Ranks("greedy", {"*": 2}), "one factor for all"),
        (lambda: Ranks("vbmf", 8), "vbmf finds the ranks by itself; leave value out"),
        (lambda: GER(ranks=Ranks("vbmf")), "ger: ranks by 'vbmf'; expected one of rate, count, energy, greedy"),
        (lambda: Tucker(ranks=Ranks("greedy")), "tucker: ranks by 'greedy'"),
        (lambda: Tucker(inputs=3), 'inputs are ranks by "count"'),
        (lambda: Tucker(skip="maybe"), "tucker: skip"),  # type: ignore[arg-type]
        (lambda: SVD(factors=4), "factors is 4; expected 2 or 3"),
        (lambda: SVD(factors=3, data_aware=True), "data_aware finds two factors"),
        (lambda: SVD(images=0), "images is 0"),
        (lambda: GER(penalties=(0.0,)), "one of penalties is 0.0; expected a number above 0"),
    ],
)
def test_settings_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        make()


def test_outputs_that_are_not_numbers_are_refused(net: nn.Module) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(net)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).sqrt()  # type: ignore[no-any-return]

    for step in (SVD(), SVD(ranks=Ranks("rate", 4)), Tucker(layers=("Linear",))):
        with pytest.raises(BitwrightError, match=r"outputs are NaN, infinite or too large|not a convolution"):
            run(step, Root())


def test_networks_that_are_refused(net: nn.Module, convnet: nn.Module) -> None:
    for step, model, message in (
        (SVD(ranks=Ranks("count", 65)), net, "has rank 64 at most, and ranks.value is 65; take less"),
        (GER(ranks=Ranks("count", 65), joint=None), net, "has rank 64 at most"),
        (
            Tucker(ranks=Ranks("count", 8), inputs=20),
            convnet,
            "ranks 20 and 8 for inputs and outputs of layer '3', which can have 16 and 8",
        ),
        (Tucker(layers=("*",)), convnet, "layer '11' is a Linear, not a convolution of images"),
        (SVD(layers=("*",), factors=3), convnet, "'0' is a convolution, and factors is 3"),
        (GER(joint=None), Twice(), "layer 'a' is called 2 times"),
        (SVD(), copy.deepcopy(net).double(), "is torch.float64; give a float32 model"),
    ):
        with pytest.raises(BitwrightError, match=message):
            run(step, model)
        with pytest.raises(BitwrightError, match=message):
            step.look_ahead(model, DIGITS)


@pytest.mark.parametrize(
    ("aware", "norm_images", "stay"), [(False, None, False), (True, None, True), (False, 0, True), (True, 100, False)]
)
def test_norms_follow_weights_that_were_cut_but_not_outputs_that_were_fitted(
    aware: bool, norm_images: int | None, stay: bool
) -> None:
    """Where nobody says otherwise."""
    net = create_model("mlp", input_shape=(1, 8, 8), hidden=[32, 32], norm="batch", seed=0)
    before = {name: buffer.clone() for name, buffer in net.named_buffers() if "running" in name}
    model, _, _ = run(SVD(data_aware=aware, images=500, ranks=Ranks("count", 4), norm_images=norm_images), net)
    after = dict(model.named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items()) == stay


def test_few_images_are_said_and_still_finite(net: nn.Module) -> None:
    with pytest.warns(UserWarning, match="inputs and is fitted to 18 samples"):
        model, record, context = run(GER(images=20, joint=None), net)
    assert all(row["singular"] for row in record["layers"] if row["rank"])
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert context.evaluate(model).error < 70


def test_depthwise_and_one_by_one_kernels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 1), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 48, 1), nn.ReLU())
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(48 * 36, 10))
    _, record, _ = run(Tucker(ranks=Ranks("rate", 2)), model)
    ranks = {row["layer"]: row["rank"] for row in record["layers"]}
    assert ranks["1"] is None, "a depthwise kernel is of rank 1 already"
    assert ranks["2"] is not None
    assert ranks["2"][0] is None, "1 x 1: two matrices"


# --- what a reader found


def test_numbers_far_from_zero_lose_no_digits() -> None:
    torch.manual_seed(0)

    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 48)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x.flatten(1)) + 1000)  # type: ignore[no-any-return]

    model = Far()
    for step in (SVD, GER):
        options: dict[str, Any] = {"data_aware": True} if step is SVD else {"joint": None}
        found = run(step(layers=("last",), ranks=Ranks("count", 48), images=500, **options), model)[1]
        assert found["output_error"] < 1e-6


@pytest.mark.parametrize("padding", [1, "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_windows_are_padded_as_the_layer_does(padding: Any, mode: str) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=padding, padding_mode=mode)
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))
    with torch.no_grad():
        model(torch.zeros(1, 1, 8, 8))
    for step in (SVD(layers=("2",), ranks=Ranks("count", 16), data_aware=True), GER(layers=("2",), joint=None)):
        wide = dataclasses.replace(step, ranks=Ranks("count", 16), images=200)
        assert run(wide, model)[1]["output_error"] < 1e-5


def test_a_norm_of_two_layers_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 32, bias=False), nn.Linear(64, 32, bias=False), nn.Linear(64, 10)
            self.norm = nn.BatchNorm1d(32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            return self.c(torch.cat((self.norm(self.a(x)).relu(), self.norm(self.b(x)).relu()), 1))  # type: ignore[no-any-return]

    model, _, _ = run(GER(layers=("b",), ranks=Ranks("count", 32), joint=None), Shared())
    assert not model.get_buffer("norm.running_mean").any()


def test_three_factors_count_the_one_between() -> None:
    model = create_model("mlp", input_shape=(1, 8, 8), hidden=[96, 96], seed=0)
    for ranks in (Ranks("rate", 1.05), Ranks("rate", 3), Ranks("greedy", 3)):
        rows = run(SVD(ranks=ranks, factors=3), model)[1]["layers"]
        assert all(row["weights_after"] <= row["weights"] for row in rows)
        least = ranks.value if isinstance(ranks.value, float | int) else 0
        assert (
            sum(row["weights"] for row in rows)
            >= (least if least > 2 else 1) * sum(r["weights_after"] for r in rows) * 0.9
        )


@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (4, 64), (16, 16)])
def test_tucker_records_the_weights_that_there_are(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, shape[0], 1), nn.Conv2d(*shape, 3), nn.Flatten(), nn.LazyLinear(10))
    with torch.no_grad():
        model(torch.zeros(1, 1, 8, 8))
    changed, record, _ = run(Tucker(ignore=("0",), ranks=Ranks("rate", 3)), model)
    (row,) = record["layers"]
    assert row["weights_after"] == sum(
        p.numel() for n, p in changed.get_submodule("1").named_parameters() if p.ndim > 1
    )
    assert 3 <= row["weights"] / row["weights_after"] < 4.5


class Conv1dNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x.squeeze(1)).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "model", "message"),
    [
        (
            lambda: SVD(layers=("*",)),
            Conv1dNet,
            "svd: layer 'conv' is a Conv1d; only linear layers and convolutions of im",
        ),
        (lambda: GER(layers=("*",)), Conv1dNet, "ger: layer 'conv' is a Conv1d"),
        (lambda: SVD(), lambda: nn.Linear(8, 8), "svd: the model is one layer, a Linear; put it into a Sequential"),
        (lambda: GER(penalties=0.1), net, "penalties is 0.1; expected a list"),  # type: ignore[arg-type]
        (lambda: GER(joint=TrainSettings(epochs=1)), net, "joint would train on labels, which GER never uses"),
        (
            lambda: Tucker(ranks=Ranks("count", 4), inputs=-1),
            net,
            "a rank of inputs is -1; expected a whole number from 1",
        ),
    ],
)
def test_more_that_is_refused(make: Any, model: Any, message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        run(make(), model())


def test_a_layer_called_twice_is_refused_with_data() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(self.a(x.flatten(1)).relu()))  # type: ignore[no-any-return]

    with pytest.raises(BitwrightError, match="layer 'a' is called 2 times"):
        run(SVD(data_aware=True), Again())


def test_outputs_that_are_too_large_are_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        model[3].weight.mul_(1e38)  # type: ignore[operator]
    ranks = Ranks("count", 3)
    with pytest.raises(BitwrightError, match="layer '3': what it gives for training images is NaN, infinite or too"):
        run(SVD(data_aware=True, ranks=ranks), model)
    with pytest.raises(BitwrightError, match="the network's outputs are NaN, infinite or too large"):
        run(GER(joint=None, ranks=ranks), model)


def test_norms_without_parameters_stay_as_they_are_in_the_joint_stage(net: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64, affine=False), nn.ReLU(), nn.Linear(64, 10)
    )
    Context(DIGITS).train(model, TrainSettings(epochs=1, batch_size=50))
    joint = TrainSettings(epochs=1, batch_size=50, distill=Distill("start", "logits", weight=1.0))
    step = GER(layers=("4",), ranks=Ranks("count", 5), images=200, joint=joint)
    model.train()
    found, _, _ = run(step, model)
    before, after = model.get_submodule("2"), found.get_submodule("2")
    assert torch.equal(before.running_var, after.running_var)
    assert found.training, "the mode is the caller's"
    assert {name for name, _ in found.named_parameters()} == {
        "1.weight",
        "4.core.weight",
        "4.last.weight",
        "4.last.bias",
    }
    assert all(p.requires_grad for p in found.parameters())


def test_one_image_is_enough_for_finite_errors(net: nn.Module) -> None:
    record = run(GER(images=1, joint=None), net)[1]
    assert all(row["error"] < 10 for row in record["layers"])
