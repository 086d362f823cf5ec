"""The native passes of training give what torch's operations say, in float32 and bfloat16."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bitwright import BitwrightError, _native
from bitwright.models.channels import rprelu, shift
from bitwright.steps.activations import TrainingSign
from bitwright.training import passes

LEVELS = [name for name in _native.isa_names() if name in ("ref", "avx2", "avx512")]


def image(channels=5, dtype=torch.float32, seed=0, size=(3, 4, 5)):
    n, h, w = size
    x = torch.randn(n, channels, h, w, generator=torch.Generator().manual_seed(seed)).to(dtype)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.0, -0.0
    return x.to(memory_format=torch.channels_last)


def numbers(channels, seed):
    return torch.randn(channels, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def running(level, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    _native.set_isa(level)
    try:
        yield
    finally:
        _native.set_isa(None)
        torch.set_num_threads(before)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=15, deadline=None)
@given(channels=st.integers(1, 70), seed=st.integers(0, 99), threads=st.sampled_from([1, 2]))
def test_every_pass_is_its_formula(level, dtype, channels, seed, threads):
    x, g = image(channels, dtype, seed), image(channels, dtype, seed + 1)
    b, a, c = (numbers(channels, seed + i) for i in range(3))
    wide, slope = x.float(), g.float()
    d = wide - b.view(-1, 1, 1)
    with running(level, threads):
        assert torch.equal(passes.sign(x), torch.where(x >= 0, 1.0, -1.0).to(dtype))
        clipped = torch.where(wide.abs() < 1, slope, 0.0)
        assert torch.equal(passes.sign_gradient(x, g, False), clipped.to(dtype))
        curved = (2 - 2 * wide.abs()).clamp(min=0) * slope
        assert torch.equal(passes.sign_gradient(x, g, True), curved.to(dtype))
        assert torch.equal(passes.shift(x, b), d.to(dtype))
        y = torch.where(d > 0, d, a.view(-1, 1, 1) * d) + c.view(-1, 1, 1)
        assert torch.equal(passes.rprelu(x, b, a, c), y.to(dtype))
        through = torch.where(d > 0, slope, a.view(-1, 1, 1) * slope)
        by_x, sums = passes.rprelu_gradient(x, g, b, a)
        assert torch.equal(by_x, through.to(dtype))
        expected = [t.double().sum((0, 2, 3)) for t in (through, d.clamp(max=0) * slope, slope)]
        torch.testing.assert_close(sums.double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(passes.channel_sums(g).double(), expected[2], rtol=1e-5, atol=1e-5)


def test_threads_change_no_bit():
    x, g, b, a = image(33, size=(40, 30, 31)), image(33, seed=1, size=(40, 30, 31)), numbers(33, 2), numbers(33, 3)
    found = []
    for threads in (1, 2):
        with running(None, threads):
            found.append((*passes.rprelu_gradient(x, g, b, a), passes.channel_sums(x)))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_not_a_number_stays_one_in_bfloat16():
    x = torch.full((2, 3), torch.nan, dtype=torch.bfloat16)
    one = torch.ones(3)
    assert (passes.sign(x) == -1).all()
    assert passes.shift(x, one).isnan().all()
    assert passes.rprelu(x, one, one, one).isnan().all()


@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (4, 0, 2, 2)])
def test_nothing_at_all(shape):
    x = torch.zeros(shape).to(memory_format=torch.channels_last)
    assert passes.sign(x).shape == shape
    assert passes.channel_sums(x).tolist() == [0.0] * shape[1]


@pytest.mark.parametrize("function", [shift, rprelu])
def test_gradients_are_autograds_own(function):
    x, g = image(6), image(6, seed=1)
    parameters = [numbers(6, i).requires_grad_() for i in range(1 if function is shift else 3)]
    x.requires_grad_()
    found = torch.autograd.grad(function(x, *parameters), [x, *parameters], g)
    b, *others = (p.view(-1, 1, 1) for p in parameters)
    d = x - b
    y = d if function is shift else F.relu(d) - others[0] * F.relu(-d) + others[1]
    for ours, theirs in zip(found, torch.autograd.grad(y, [x, *parameters], g), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_does_not_suit_takes_torchs_way():
    x = image(4).contiguous()
    assert not passes.suits(x)
    assert not passes.suits(x.double())
    assert passes.suits(torch.zeros(2, 3))
    sign = TrainingSign("polynomial")
    last = x.to(memory_format=torch.channels_last).requires_grad_()
    first = x.clone().requires_grad_()
    (sign(last).sum() + sign(first).sum()).backward()
    assert torch.equal(last.grad, first.grad)


def test_a_gradient_in_another_layout_or_type():
    layer = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    x = image(3).requires_grad_()
    y = layer[1](rprelu(layer[0](x), *(numbers(4, i).requires_grad_() for i in range(3))))
    y.square().sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: _native.training_sign(x[0], x), "axes"),
        (lambda x: _native.training_sign(x, x[:1]), "shape and type"),
        (lambda x: _native.training_sign(x.astype("f8"), x), "float32"),
        (lambda x: _native.training_shift(x, x[0, :1].copy(), x), "expected 3"),
        (lambda x: _native.training_sum(x, x[0].copy(), 0), "threads"),
    ],
)
def test_arguments_that_are_refused(call, message):
    with pytest.raises((ValueError, BitwrightError), match=message):
        call(torch.zeros(2, 3).numpy())
