"""Binary and few-bit networks: gradients, shift-based batch norm, logits that are equal wherever they are computed."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import bitwright as bw
from bitwright import edits
from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.exact import ExactNorm
from bitwright.ops import Quantize, QuantLinear, Sign
from bitwright.packing.lattice import find_lattice
from bitwright.packing.lower import lower
from bitwright.rebuild import load_checkpoint, save_checkpoint
from bitwright.recipe import parse
from bitwright.run import Run
from bitwright.runtime.reference import run_reference
from bitwright.steps import Step
from bitwright.steps import shift_norm as shifting
from bitwright.steps.bnn import BNN, TrainedSign
from bitwright.steps.qnn import QNN, QuantisedInput, linear_quant, log_quant
from bitwright.steps.shift_norm import ShiftBatchNorm, shift_norms
from bitwright.steps.step import select_layers
from bitwright.training.evaluate import as_tensor, predict_logits

PIXELS = {"mean": [0], "std": [1]}
DIGITS = bw.load_dataset("digits", preprocess=PIXELS).limited(300)


def short(step: Any, epochs: int = 2) -> Any:
    return dataclasses.replace(step, train=dataclasses.replace(step.train, epochs=epochs))


def net(activation: str = "hardtanh", dropout: Any = 0.0, norm: bool = True) -> nn.Module:
    sizes: dict[str, Any] = {"input_shape": DIGITS.shape, "hidden": [40, 24], "seed": 0}
    words: dict[str, Any] = {"norm": "batch" if norm else None, "norm_output": norm}
    return bw.create_model("mlp", activation=activation, dropout=dropout, **sizes, **words)


METHODS = {
    "bnn": BNN(),
    "stochastic": BNN(stochastic=True),
    "shift": BNN(norm="shift"),
    "linear": QNN(weight_bits=3, activation_bits=4),
    "log": QNN(weight_bits=4, activation_bits=2, weights="log"),
    "signs": QNN(weight_bits=1, activation_bits=2),
}


def convolutions(dropout: float = 0.0) -> nn.Module:
    """Two convolutions with borders in BNN's order, pooling before the norm, and a linear layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Hardtanh(), nn.Dropout(dropout)),
        *(nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.Hardtanh()),
        *(nn.Flatten(), nn.Linear(256, 10, bias=False), nn.BatchNorm1d(10)),
    )


@pytest.mark.parametrize("net", [net, convolutions])
@pytest.mark.parametrize("name", METHODS)
def test_every_logit_is_equal_in_torch_and_both_engines(name: str, net: Any, tmp_path: Path) -> None:
    """Whole numbers from the pixels to the last norm; also after a checkpoint."""
    step: Step = short(METHODS[name])
    model = step.apply(net(dropout=0.1), Context(DIGITS)).eval()
    example = (torch.zeros(1, *DIGITS.shape),)
    bw.pack(model, example, preprocess=DIGITS.preprocess).save(tmp_path / "net.safetensors")
    save_checkpoint(model, tmp_path / "model.safetensors", name)
    load_checkpoint(again := net(dropout=0.1), tmp_path / "model.safetensors")
    graph, tensors = lower(model, example, DIGITS.preprocess)
    assert [node.op for node in graph.nodes].count("sign") == (2 if isinstance(step, BNN) else 0)
    expected = run_reference(graph, tensors, (DIGITS.test.images,))[0]
    assert np.ptp(expected) > 0
    assert np.array_equal(np.asarray(bw.load(tmp_path / "net.safetensors")(DIGITS.test.images)), expected)
    for module in (model, again):
        logits = predict_logits(module, as_tensor(DIGITS.test.images), DIGITS.preprocess).numpy()
        assert np.array_equal(logits, expected)


@pytest.mark.parametrize("name", METHODS)
def test_layers_end_quantised(name: str) -> None:
    step = METHODS[name]
    model = short(step, 1).apply(net(), Context(DIGITS))
    first, *inner = select_layers(model).values()
    assert isinstance(first, QuantLinear)
    assert isinstance(first.input, Quantize)
    assert float(first.input.scale) == np.float32(1 / 255)
    for layer in inner:
        assert type(layer.input) is (Sign if isinstance(step, BNN) else Quantize)
    bits = 1 if isinstance(step, BNN) else step.weight_bits
    for layer in (first, *inner):
        assert isinstance(layer.weight, nn.Parameter)
        assert find_lattice(layer.weight.detach().numpy()) is not None
        assert len(layer.weight.unique()) <= 2**bits


def test_the_gradient_of_a_sign_passes_where_its_input_is_small() -> None:
    x = torch.tensor([-1.5, -1.0, -0.0, 0.3, 1.0, 1.01], requires_grad=True)
    y = TrainedSign(stochastic=False).train()(x)
    assert y.tolist() == [-1, -1, 1, 1, 1, 1]
    y.backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]  # type: ignore[union-attr]


def test_stochastic_signs_are_drawn_in_training_only() -> None:
    torch.manual_seed(0)
    x, sign = torch.full((40_000,), 0.5), TrainedSign(stochastic=True)
    assert float(sign.eval()(x).min()) == 1
    assert float(sign.train()(x).mean()) == pytest.approx(0.5, abs=0.03)  # 3/4 are +1


@pytest.mark.parametrize("step", [BNN(), QNN(activation_bits=3)])
def test_dropout_works_behind_the_quantisers(step: Any) -> None:
    """In front of them a sign would make +1 of what is dropped, and a grid would cut off what is scaled up."""

    def check(model: nn.Module, layer: Any) -> None:
        given: list[tuple[Tensor, Tensor]] = []
        hook = layer.input.register_forward_hook(lambda module, inputs, output: given.append((inputs[0], output)))
        with torch.no_grad():
            model.train()(torch.rand(200, 1, 8, 8))
            hook.remove()
            ((before, after),) = given
            plain, dropped = layer.input.eval()(before), after == 0
        assert torch.allclose(after[~dropped], plain[~dropped] / 0.75)
        assert float(dropped[plain != 0].float().mean()) == pytest.approx(0.25, abs=0.02)
        assert float(before.max()) <= 1, "pixels, and what a hard tanh gives"

    class Look(Context):
        def train(self, model, settings):  # type: ignore[no-untyped-def]
            for name in ("fc1", "fc2"):
                check(model, model.get_submodule(name))

    model = net(dropout=[0.25, 0.25, 0.25])
    step.apply(model, Look(DIGITS))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25, 0.25]


# --- shift-based batch norm ------------------------------------------------------------------------------------------


def power_of_two(x: np.ndarray) -> np.ndarray:
    """sign(x) 2^round(log2 |x|), 0 for 0."""
    with np.errstate(divide="ignore"):
        return np.where(x == 0, 0, np.sign(x) * 2.0 ** np.round(np.log2(np.abs(x))))


@given(st.integers(0, 10_000), st.booleans())
def test_shift_norm_computes_its_equations(seed: int, image: bool) -> None:
    """Forward, backward and running statistics against NumPy in float64."""
    rng = np.random.default_rng(seed)
    shape = (7, 3, 4, 5) if image else (12, 3)
    axes = (0, 2, 3) if image else (0,)
    wide = (1, 3, 1, 1) if image else (1, 3)
    x, g = rng.standard_normal((2, *shape)).astype(np.float32) * np.float32(3)
    plain: Any = nn.BatchNorm2d(3) if image else nn.BatchNorm1d(3)
    with torch.no_grad():
        plain.weight.copy_(torch.from_numpy(rng.standard_normal(3).astype(np.float32)))
        plain.weight[1] = 0
        plain.bias.copy_(torch.from_numpy(rng.standard_normal(3).astype(np.float32)))
    gamma, beta = (p.detach().double().numpy().reshape(wide) for p in (plain.weight, plain.bias))
    norm, given_x = ShiftBatchNorm(plain).train(), torch.from_numpy(x).requires_grad_()
    y = norm(given_x)
    y.backward(torch.from_numpy(g))

    c = x.astype(np.float64) - x.astype(np.float64).mean(axes, keepdims=True)
    variance = (c * power_of_two(c)).mean(axes, keepdims=True)
    s, factor = power_of_two(1 / np.sqrt(variance + plain.eps)), power_of_two(gamma)
    close: Any = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(y.detach().numpy(), factor * s * c + beta, **close)
    by_x = factor * s * (g - g.mean(axes, keepdims=True) - c * s**2 * (c * g).mean(axes, keepdims=True))
    np.testing.assert_allclose(given_x.grad.numpy(), by_x, **close)  # type: ignore[union-attr]
    np.testing.assert_allclose(plain.weight.grad.numpy(), (c * g * s).sum(axes), **close)
    np.testing.assert_allclose(plain.bias.grad.numpy(), g.sum(axes), **close)
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.1 * x.mean(axes), **close)
    np.testing.assert_allclose(norm.running_var.numpy(), 0.9 + 0.1 * variance.reshape(3), **close)


def test_without_the_rounding_its_gradient_is_batch_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """By finite differences, with AP2 the identity: the derivative that the method takes."""
    monkeypatch.setattr(shifting, "ap2", lambda x: x.clone())
    torch.manual_seed(0)
    x, gamma, beta = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((6, 3, 2), (3,), (3,)))

    def norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        result: Tensor = shifting._ShiftNorm.apply(x, gamma, beta, 1e-5)[0]
        return result

    assert torch.allclose(norm(x, gamma, beta), nn.functional.batch_norm(x, None, None, gamma, beta, training=True))
    assert torch.autograd.gradcheck(norm, (x, gamma, beta))


@given(st.integers(0, 10_000), st.sampled_from([1e-5, 1e-4, 1e-3, 0.1]))
def test_a_settled_norm_is_plain_and_computes_the_same(seed: int, eps: float) -> None:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(5, eps=eps)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(5))
        norm.bias.copy_(torch.randn(5))
    model = nn.Sequential(norm)
    edits.replace(model, "0", "exact-norm")
    x = torch.randint(-50, 50, (20, 5)).float()
    with shift_norms(model), torch.no_grad():
        model.train()(x)
        before = model.eval()(x)
    assert type(model[0]) is ExactNorm
    with torch.no_grad():
        assert torch.equal(model(x), before)
    scale = lower(model, (x,))[1]["0.scale"]
    assert np.array_equal(scale, power_of_two(scale))


def test_a_shift_norm_needs_gamma_and_running_statistics() -> None:
    for norm in (nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3, track_running_stats=False)):
        with pytest.raises(BitwrightError, match="'0' has no gamma"), shift_norms(nn.Sequential(norm)):
            pass


# --- numbers of a few bits -------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20), st.integers(2, 8))
def test_quantisers_give_the_nearest_of_their_numbers(numbers: list[float], bits: int) -> None:
    x = torch.tensor(numbers)
    grid = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) / 2 ** (bits - 1)
    assert torch.equal((linear_quant(x, bits) - x).abs(), (grid - x[:, None]).abs().min(1).values)
    got = log_quant(x, bits)
    exponents = [-k for k in range(2 ** (bits - 1) - 1)]
    assert set(got.abs().tolist()) <= {0.0, *(2.0**k for k in exponents)}
    inside = (x.abs() >= 2.0 ** exponents[-1]) & (x.abs() <= 1)
    ratio = (got[inside] / x[inside]).log2().abs()
    assert not inside.any() or float(ratio.max()) <= 0.5 + 1e-6
    assert torch.equal(got[x.abs() > 1], x[x.abs() > 1].sign())


def test_the_gradient_of_a_quantised_input() -> None:
    x = torch.tensor([-1.5, -1.0, 0.9, 1.0, 1.5], requires_grad=True)
    y = QuantisedInput(2)(x)
    assert y.tolist() == [-1, -1, 0.5, 0.5, 0.5]
    y.backward(torch.ones(5))
    assert x.grad.tolist() == [0, 1, 1, 1, 0]  # type: ignore[union-attr]


# --- what is refused or warned of ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [BNN(), QNN()])
def test_pixels_need_a_preprocess_that_keeps_them(step: Any) -> None:
    data = bw.load_dataset("digits").limited(50)
    with pytest.raises(BitwrightError, match=r"mean: \[0\], std: \[1\]"):
        short(step).apply(net(), Context(data))
    recipe = {"name": "x", "data": "digits", "model": {"name": "mlp"}, "steps": [{step.name: {}}]}
    with pytest.raises(BitwrightError, match=r"steps\[0\].*preprocess"):
        Run(parse(recipe), Path("nowhere")).look_ahead()
    model = short(dataclasses.replace(step, first="float"), 1).apply(net(), Context(data))
    assert type(model.get_submodule("fc1")) is nn.Linear


def test_signs_behind_a_relu_are_refused_and_of_bare_sums_warned_of() -> None:
    with pytest.raises(BitwrightError, match=r"'fc2': its input is from 0 to .*all of its signs are equal"):
        short(BNN(), 1).apply(net("relu"), Context(DIGITS))
    with pytest.warns(UserWarning, match="'fc2' takes signs of the sums of 'fc1'"):
        short(BNN(), 1).apply(net("identity", norm=False), Context(DIGITS))


@pytest.mark.parametrize(
    "fields", [{"weight_bits": 0}, {"weight_bits": 9}, {"activation_bits": 1}, {"activation_bits": 2.5}]
)
def test_bits_out_of_range(fields: dict[str, Any]) -> None:
    with pytest.raises(BitwrightError, match=r"expected a whole number of bits from"):
        QNN(**fields)


def test_an_exact_norm_trains_as_batch_norm() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    model = nn.Sequential(copy.deepcopy(plain))
    edits.replace(model, "0", "exact-norm")
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(model.train()(x), plain.train()(x))
    assert torch.equal(model.eval()(x), plain.eval()(x)), "with gradients it is torch's"
    with torch.no_grad():
        assert torch.allclose(model(x), plain(x), atol=1e-5)
    with pytest.raises(BitwrightError, match="it is none"):
        edits.replace(nn.Sequential(nn.ReLU()), "0", "exact-norm")
