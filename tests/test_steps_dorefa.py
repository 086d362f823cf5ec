"""DoReFa: ranges, formulas, noise that is right on average, the result packed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitwright as bw
from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d
from bitwright.packing.lattice import find_lattice
from bitwright.steps import dorefa
from bitwright.steps.dorefa import ClippedInput, DoReFa, DoReFaWeight, coarse_gradient
from bitwright.training.settings import TrainSettings
from low_bits import check_packed, small_resnet

SHORT = TrainSettings(epochs=1, batch_size=100)


def quantize_k(r: np.ndarray, k: int) -> np.ndarray:
    return np.rint((2**k - 1) * r) / (2**k - 1)


@given(st.integers(0, 10_000), st.integers(2, 8), st.sampled_from(["one", "mean"]))
def test_weights_by_the_formula(seed: int, k: int, scale: str) -> None:
    r = np.random.default_rng(seed).standard_normal((3, 11)) * 2
    got = DoReFaWeight(k, scale).quantise(torch.from_numpy(r)).numpy()  # type: ignore[arg-type]
    expected = 2 * quantize_k(np.tanh(r) / (2 * np.abs(np.tanh(r)).max()) + 0.5, k) - 1
    assert np.allclose(got, expected * (np.abs(r).mean() if scale == "mean" else 1))
    if scale == "one":
        assert np.abs(got).max() == pytest.approx(1), "they span -1 to 1 whatever the fan-in"
        assert len(np.unique(got)) <= 2**k


def test_weights_of_one_bit() -> None:
    r = torch.tensor([[1.0, -3.0], [0.0, 0.5]], requires_grad=True)
    weight = DoReFaWeight(1, "one").quantise(r)
    assert torch.equal(weight, torch.tensor([[1.125, -1.125], [1.125, 1.125]]))
    weight.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert r.grad.tolist() == [[1, 2], [3, 4]]  # type: ignore[union-attr]


def test_the_weights_gradient_is_that_of_the_squashed_ones() -> None:
    r = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    outer = torch.randn(4, 3, dtype=torch.float64)
    DoReFaWeight(3, "one").quantise(r).backward(outer)
    (expected,) = torch.autograd.grad((torch.tanh(r) / torch.tanh(r).abs().max() * outer).sum(), r)
    assert torch.allclose(r.grad, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_inputs_are_clipped_and_rounded(k: int) -> None:
    x = torch.linspace(-1, 2, 200, requires_grad=True)
    y = ClippedInput(k)(x)
    assert np.allclose(y.detach(), quantize_k(x.detach().clamp(0, 1).numpy(), k), atol=1e-6)
    y.sum().backward()
    assert torch.equal(x.grad, ((x > 0) & (x < 1)).float())  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.integers(1, 10))
def test_gradients_by_the_formula(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    g, noise = rng.standard_normal((4, 3, 2, 2)), rng.uniform(-0.5, 0.5, (4, 3, 2, 2))
    m = np.abs(g).max((1, 2, 3), keepdims=True)
    inner = np.clip(g / (2 * m) + 0.5 + noise / (2**k - 1), 0, 1)
    got = coarse_gradient(torch.from_numpy(g), k, torch.from_numpy(noise)).numpy()
    assert np.allclose(got, 2 * m * (quantize_k(inner, k) - 0.5))
    assert (np.abs(got) <= m * (1 + 1e-6)).all()


def test_gradients_are_right_on_average_and_zero_stays_finite() -> None:
    gradient = torch.tensor([[0.3, -1.0, 0.05, 0.7]]).repeat(1, 20_000)
    torch.manual_seed(0)
    coarse = coarse_gradient(gradient, 2, torch.rand_like(gradient) - 0.5)
    means = coarse.reshape(-1, 4).mean(0)
    assert torch.allclose(means[[0, 2, 3]], gradient[0, [0, 2, 3]], atol=0.02)
    assert len(coarse.unique()) == 4
    assert torch.isfinite(coarse_gradient(torch.zeros(2, 3), 2, torch.rand(2, 3) - 0.5)).all()


@pytest.mark.parametrize(("bits", "options"), [(1, {}), (2, {"gradient_bits": 6}), (3, {"scale": "mean"})])
def test_a_network_ends_in_whole_numbers_and_runs_packed(bits: int, options: dict[str, int], tmp_path: Path) -> None:
    data = bw.load_dataset("digits")
    step = DoReFa(weight_bits=bits, activation_bits=bits, train=SHORT, **options)  # type: ignore[arg-type]
    model = step.apply(small_resnet("pre-activation"), Context(data))
    layers = [m for m in model.modules() if isinstance(m, QuantConv2d)]
    assert len(layers) == 6
    for layer in layers:
        assert not layer._forward_hooks
        lattice = find_lattice(layer.weight.detach().numpy())
        assert lattice is not None
        assert np.abs(lattice.integers).max() <= 2**bits - 1
    check_packed(model, data, bits, tmp_path)


def test_inputs_and_gradients_are_rounded_in_float32() -> None:
    """Autocast hands over bfloat16, which has 8 bits for the code before it is rounded."""
    x = torch.linspace(-0.2, 1.2, 3000).bfloat16().requires_grad_()
    y = ClippedInput(7)(x)
    assert torch.equal(y, ClippedInput(7)(x.detach().float()))
    outer = torch.randn(3000).bfloat16()
    torch.manual_seed(0)
    dorefa._CoarseGradient.apply(x, 6).backward(outer)
    torch.manual_seed(0)
    exact = coarse_gradient(outer.float(), 6, torch.rand(3000) - 0.5)
    assert torch.equal(x.grad, exact.bfloat16())  # type: ignore[arg-type]


def test_layers_without_a_norm_are_warned_of() -> None:
    data, none = bw.load_dataset("digits"), TrainSettings(epochs=0)

    def apply(**options: Any) -> None:
        model = bw.create_model("mlp", input_shape=data.shape, hidden=[20, 12])
        DoReFa(train=none, **options).apply(model, Context(data))

    with pytest.warns(UserWarning, match="layer 'fc2' has no norm behind it"):
        apply()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply(scale="mean")
        apply(weight_bits=1)
        DoReFa(train=none).apply(small_resnet("pre-activation"), Context(data))


def test_coarse_gradients_change_the_training_by_the_seed() -> None:
    data = bw.load_dataset("digits")
    results = []
    for seed, bits in ((0, None), (0, 2), (0, 2), (1, 2)):
        model = small_resnet("pre-activation")
        DoReFa(gradient_bits=bits, train=SHORT).apply(model, Context(data, seed=seed))
        results.append(model.get_submodule("linear").weight.detach().clone())  # type: ignore[operator,union-attr]
    assert torch.equal(results[1], results[2])
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[3])


@pytest.mark.parametrize(
    "options", [{"weight_bits": 0}, {"weight_bits": 9}, {"activation_bits": 0}, {"gradient_bits": 17}, {"scale": "two"}]
)
def test_bad_settings(options: dict[str, object]) -> None:
    with pytest.raises(BitwrightError, match="dorefa: "):
        DoReFa(**options)  # type: ignore[arg-type]
