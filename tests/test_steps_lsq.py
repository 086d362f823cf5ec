"""LSQ: the step's gradient by finite differences and by the paper's cases, rounding as the operator's, the result."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bitwright as bw
from bitwright.context import Context
from bitwright.errors import BitwrightError
from bitwright.ops import QuantConv2d, Quantize, quantize
from bitwright.packing.lattice import find_lattice
from bitwright.steps.activations import Range, input_ranges
from bitwright.steps.grid import on_grid
from bitwright.steps.latent import filter_mean
from bitwright.steps.lsq import LSQ, SteppedInput, SteppedWeight, first_step, input_grids
from bitwright.training.settings import TrainSettings
from low_bits import check_packed, small_resnet

SHORT = TrainSettings(epochs=1, batch_size=100)
GRIDS = st.sampled_from([(-2, 1), (-4, 3), (-128, 127), (0, 3), (0, 255)])


def surrogate(x: np.ndarray, step: float, residual: np.ndarray, low: int, high: int) -> np.ndarray:
    """What on_grid's gradient is of: rounding adds a number that does not change with x or step."""
    v = x / step
    return step * np.where(v <= low, low, np.where(v >= high, high, v + residual))


@given(st.integers(0, 10_000), GRIDS, st.floats(0.05, 2), st.floats(0.1, 3))
def test_gradients_are_those_of_the_surrogate(seed: int, grid: tuple[int, int], size: float, factor: float) -> None:
    rng, (low, high) = np.random.default_rng(seed), grid
    x, outer = rng.standard_normal((2, 5, 7))
    step = torch.tensor(size, dtype=torch.float64, requires_grad=True)
    free = torch.tensor(x, requires_grad=True)
    y = on_grid(free, step, low, high, factor)
    y.backward(torch.from_numpy(outer))
    residual, little = np.rint(x / size) - x / size, 1e-7
    assert np.allclose(y.detach(), size * np.clip(np.rint(x / size), low, high))
    sides = [(surrogate(x, size + d, residual, low, high) * outer).sum() for d in (little, -little)]
    assert float(step.grad) == pytest.approx(factor * (sides[0] - sides[1]) / (2 * little), rel=1e-4, abs=1e-5)  # type: ignore[arg-type]
    assert np.allclose(free.grad, outer * (low < x / size) * (x / size < high))  # type: ignore[arg-type]


def test_the_paper_s_cases() -> None:
    """Figure 2 of the paper: -Q_N, the residual, Q_P."""
    step = torch.tensor(0.5, requires_grad=True)
    for v, slope in [(-9.0, -2.0), (-2.0, -2.0), (-0.6, -0.4), (0.4, -0.4), (0.75, 0.25), (1.0, 1.0), (7.0, 1.0)]:
        step.grad = None
        on_grid(torch.tensor([0.5 * v]), step, -2, 1).sum().backward()
        assert float(step.grad) == pytest.approx(slope)  # type: ignore[arg-type]


def test_a_step_for_each_channel_is_as_that_many_layers() -> None:
    torch.manual_seed(0)
    weight, outer = torch.randn(2, 3, 2, 3, 3)
    steps = first_step(filter_mean(weight), 3)
    whole = SteppedWeight(weight, steps, -4, 3)
    (whole.quantise(weight) * outer).sum().backward()
    for o in range(3):
        one = SteppedWeight(weight[o : o + 1], steps[o].squeeze(), -4, 3)
        (one.quantise(weight[o : o + 1]) * outer[o : o + 1]).sum().backward()
        assert torch.allclose(whole.step.grad[o].squeeze(), one.step.grad)  # type: ignore[index,arg-type]
        assert torch.equal(whole.step[o].squeeze(), one.step)


@given(st.integers(0, 10_000), GRIDS, st.floats(2.0**-20, 2.0**20, width=32))
def test_rounds_as_the_operator(seed: int, grid: tuple[int, int], size: float) -> None:
    rng = np.random.default_rng(seed)
    halves = rng.integers(-600, 600, 50) / 2  # ties
    x = torch.from_numpy(np.concatenate([halves, rng.standard_normal(50) * 3]).astype(np.float32)) * size
    step, numbers = torch.tensor(size), [torch.tensor([float(n)]) for n in (size, 0, *grid)]
    assert torch.equal(on_grid(x, step, *grid), quantize(x, *numbers))


def test_first_steps_and_scales_of_gradients() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.0]])
    stepped = SteppedWeight(weight, first_step(weight.abs().mean(), 7), -8, 7)
    assert float(stepped.step.detach()) == pytest.approx(2 * 1.5 / math.sqrt(7))
    assert stepped.factor == pytest.approx(1 / math.sqrt(4 * 7))
    assert not SteppedInput(torch.tensor(0.5), 0, 15, learn=False).step.requires_grad
    assert input_grids({"a": 3, "b": 3}, {"a": Range(0, 1, 1), "b": Range(-1, 1, 1)}) == {"a": (0, 7), "b": (-4, 3)}


def test_inputs_are_rounded_in_float32() -> None:
    """Autocast hands over bfloat16, whose products with 1 / step would be rounded to 8 bits before."""
    x, inputs = torch.linspace(0, 3, 3000).bfloat16(), SteppedInput(torch.tensor(0.1), 0, 255)
    assert torch.equal(inputs(x), inputs(x.float()))


def test_weight_decay_leaves_steps_alone() -> None:
    from bitwright.training.penalties import decaying

    model, seen = small_resnet("basic"), []

    class Look(Context):
        def train(self, model, settings):  # type: ignore[no-untyped-def]
            names = {id(p): n for n, p in model.named_parameters()}
            seen.append(([names[id(p)] for p in decaying(model)], [n for n in names.values() if n.endswith("step")]))

    LSQ().apply(model, Look(bw.load_dataset("digits")))
    decays, steps = seen[0]
    assert len(steps) == 2 * 6
    assert not set(decays) & set(steps)
    assert sum(n.endswith("original") for n in decays) == 6


@pytest.mark.parametrize("bits", [2, 4])
def test_a_network_ends_in_whole_numbers_and_runs_packed(bits: int, tmp_path: Path) -> None:
    data = bw.load_dataset("digits")
    step = LSQ(weight_bits=bits, activation_bits=bits, train=SHORT)
    model = step.apply(small_resnet("basic"), Context(data))
    layers = [m for m in model.modules() if isinstance(m, QuantConv2d)]
    assert len(layers) == 6
    for layer in layers:
        lattice = find_lattice(layer.weight.detach().numpy())
        assert lattice is not None
        assert lattice.integers.min() >= -(1 << bits - 1)
        assert lattice.integers.max() <= (1 << bits - 1) - 1
        assert isinstance(layer.input, Quantize)
        assert (int(layer.input.qmin), int(layer.input.qmax)) == (0, (1 << bits) - 1)
    check_packed(model, data, bits, tmp_path)


def test_first_and_last_layers_may_have_other_bits() -> None:
    step = LSQ(ignore=(), weight_bits={"first": 8, "last": 8, "*": 2}, activation_bits={"first": 8, "*": 2})
    short = LSQ(step.layers, step.ignore, step.weight_bits, step.activation_bits, train=TrainSettings(epochs=0))
    model = short.apply(small_resnet("basic"), Context(bw.load_dataset("digits")))
    assert int(model.conv1.input.qmin) == -128  # type: ignore[union-attr,operator,arg-type]
    assert int(model.linear.input.qmax) == 3  # type: ignore[union-attr,operator,arg-type]
    assert len(model.conv1.weight.unique()) > 20  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("bits", [1, 9, 2.0, True, {"*": 0}])
def test_bits_out_of_range(bits: object) -> None:
    with pytest.raises(BitwrightError, match="from 2 to 8"):
        LSQ(weight_bits=bits)  # type: ignore[arg-type]
    with pytest.raises(BitwrightError, match="activation_bits"):
        LSQ(activation_bits=bits)  # type: ignore[arg-type]


def test_first_steps_of_inputs_may_leave_out_zeros() -> None:
    data, none = bw.load_dataset("digits"), TrainSettings(epochs=0)
    plain, sparse = small_resnet("basic"), small_resnet("basic")
    seen = input_ranges(
        plain, {"layer1.0.conv2": plain.get_submodule("layer1.0.conv2")}, Context(data).calibration(256)
    )
    LSQ(train=none).apply(plain, Context(data))
    LSQ(train=none, initial="nonzero").apply(sparse, Context(data))
    steps = [model.get_submodule("layer1.0.conv2.input").scale.item() for model in (plain, sparse)]  # type: ignore[operator,union-attr]
    zeros = seen["layer1.0.conv2"].zeros
    assert 0.3 < zeros < 0.7
    assert steps[1] == pytest.approx(steps[0] / (1 - zeros))
