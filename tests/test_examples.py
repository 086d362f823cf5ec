"""What the examples compute by hand is what autograd finds, on other numbers than those they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import batch_norm
import chain_rule
import convolution
import networks
import perceptron
import pooling
import training_loop

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = (perceptron, chain_rule, networks, convolution, pooling, batch_norm)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
"""Both sides compute in float64 and differ in the order of sums only."""


def assert_equal(hand, by_torch):
    assert hand.keys() == by_torch.keys()
    for name, value in hand.items():
        assert np.shape(value) == np.shape(by_torch[name]), name
        np.testing.assert_allclose(value, by_torch[name], **CLOSE, err_msg=name)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
@pytest.mark.parametrize("seed", [1, 2])
def test_by_hand_is_autograd(script, seed):
    found = script.cases(np.random.default_rng(seed))
    assert found
    for hand, by_torch in found.values():
        assert_equal(hand, by_torch)


def test_the_training_loop_is_torchs():
    (title, pair), *_ = training_loop.cases(np.random.default_rng(1), steps=60, D_in=50, H=20).items()
    assert_equal(*pair)
    losses = pair[0]["losses"]
    assert losses[-1] < losses[0] / 3, title


def test_the_lectures_numbers():
    scalar = chain_rule.scalar(-2, 5, -4)
    assert [float(v) for v in scalar.values()] == [-12, -4, -4, 3]
    vector = chain_rule.vector(np.array([[0.1, 0.5], [-0.3, 0.8]]), np.array([0.2, 0.4]))
    np.testing.assert_allclose(vector["loss"], 0.116)
    np.testing.assert_allclose(vector["dL/dW"], [[0.088, 0.176], [0.104, 0.208]])
    np.testing.assert_allclose(vector["dL/dx"], [-0.112, 0.636])
    image, filters = np.array([[[1.0, 2], [3, 4]]]), np.array([[[[1.0, 2], [3, 4]]]])
    found = convolution.forward(image, filters, np.zeros(1), stride=2, padding=1)
    assert found.tolist() == [[[4, 6], [6, 4]]]
    assert convolution.im2col(np.zeros((3, 227, 227)), 11, 4).shape == (363, 3025)
    pooled, _ = pooling.forward(np.array([[[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]]), 2, 2)
    assert pooled.tolist() == [[[6, 8], [3, 4]]]


def test_softmax_and_log_likelihood_together_are_p_minus_e_y():
    s = np.random.default_rng(0).normal(size=6)
    for y in range(6):
        np.testing.assert_allclose(networks.softmax_log(s, y)[1], networks.softmax(s) - np.eye(6)[y], atol=1e-15)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.data())
def test_convolution_of_any_shape(seed, channels, size, stride, padding, data):
    least = max(1, size - 2 * padding)
    shape = (channels, *(data.draw(st.integers(least, least + 5)) for _ in range(2)))
    assert_equal(*convolution.case(np.random.default_rng(seed), shape, 2, size, stride, padding))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.integers(0, 5))
def test_pooling_of_any_shape_with_ties(seed, size, stride, more_rows, more_columns):
    x = np.random.default_rng(seed).integers(-2, 3, (2, size + more_rows, size + more_columns)).astype(float)
    assert_equal(*pooling.case(x, size, stride))


@given(st.integers(0, 2**32 - 1))
def test_the_perceptron_separates_within_novikoffs_bound(seed):
    x, t = perceptron.separable(np.random.default_rng(seed), points=20)
    w, b, mistakes = perceptron.learn(x, t, epochs=10_000)
    assert (t * (x @ w + b) > 0).all()
    # (w, b) = (1, 1, 0) / sqrt(2) leaves a margin; the bias is a weight of an input that is always 1
    margin, radius = np.abs(x.sum(1)).min() / np.sqrt(2), np.sqrt((x**2).sum(1) + 1).max()
    assert mistakes <= (radius / margin) ** 2


def test_no_line_separates_xor():
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    w, b, _ = perceptron.learn(corners, np.array([-1, 1, 1, -1]))
    assert (np.sign(corners @ w + b) != [-1, 1, 1, -1]).any()


def test_equal_hidden_units_stay_equal():
    x, y, w1, w2 = training_loop.task(np.random.default_rng(0), N=8, D_in=5, H=4, D_out=2)
    w1, w2, _ = training_loop.train(x, y, w1 * 0 + 0.1, w2 * 0 + 0.1, steps=50)
    assert torch.tensor(w1).unique(dim=1).shape[1] == 1


def test_a_script_prints_both_sides():
    done = subprocess.run([sys.executable, FOLDER / "chain_rule.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = (FOLDER / "README.md").read_text("utf-8").split("```")[1].split("\n\n", 1)[1]
    assert shown.strip("\n") in done.stdout
