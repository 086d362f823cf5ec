import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bitwright.training.losses import make_loss, make_soft_loss, spread_of
from bitwright.training.settings import Distill, TrainSettings

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(0, 3, (5, 4))
TEACHER = RNG.normal(0, 3, (5, 4))
LABELS = np.array([0, 3, 1, 1, 2])
ONE_HOT = np.eye(4)[LABELS]


def softmax(z, temperature=1.0):
    e = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def hard(**settings):
    z = torch.tensor(LOGITS, requires_grad=True)
    loss = make_loss(TrainSettings(**settings))(z, torch.tensor(LABELS))
    loss.backward()
    return loss.item(), z.grad.numpy()


def soft(distill, spread=1.0):
    z = torch.tensor(LOGITS, requires_grad=True)
    loss = make_soft_loss(distill, spread)(z, torch.tensor(TEACHER), torch.tensor(LABELS))
    loss.backward()
    return loss.item(), z.grad.numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    loss, gradient = hard(label_smoothing=smoothing)
    targets = ONE_HOT * (1 - smoothing) + smoothing / 4
    assert loss == pytest.approx(-(targets * np.log(softmax(LOGITS))).sum(1).mean())
    np.testing.assert_allclose(gradient, (softmax(LOGITS) - targets) / 5, atol=1e-12)


def test_squared_error_is_against_zeros_and_ones():
    loss, gradient = hard(loss="squared-error")
    assert loss == pytest.approx(0.5 * ((LOGITS - ONE_HOT) ** 2).sum() / 5)
    np.testing.assert_allclose(gradient, (LOGITS - ONE_HOT) / 5, atol=1e-12)


def test_squared_hinge_is_against_plus_and_minus_one():
    loss, gradient = hard(loss="squared-hinge")
    signs = 2 * ONE_HOT - 1
    margins = np.maximum(0, 1 - signs * LOGITS)
    assert loss == pytest.approx((margins**2).sum() / 20)
    np.testing.assert_allclose(gradient, -2 * signs * margins / 20, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_targets(temperature):
    loss, gradient = soft(Distill(temperature=temperature))
    p, q = softmax(TEACHER, temperature), softmax(LOGITS, temperature)
    assert loss == pytest.approx(temperature**2 * (p * (np.log(p) - np.log(q))).sum() / 5)
    # Hinton et al., equation 2, times T^2
    np.testing.assert_allclose(gradient, temperature * (q - p) / 5, atol=1e-12)


def test_soft_targets_of_a_very_warm_teacher_match_centred_logits():
    """Hinton et al., equation 4: for T -> infinity the gradient is the difference of zero-meaned logits over K."""
    _, gradient = soft(Distill(temperature=1e4))
    difference = LOGITS - LOGITS.mean(1, keepdims=True) - TEACHER + TEACHER.mean(1, keepdims=True)
    np.testing.assert_allclose(gradient, difference / 4 / 5, atol=1e-3)


def test_logits():
    loss, gradient = soft(Distill(kind="logits"))
    assert loss == pytest.approx(((LOGITS - TEACHER) ** 2).sum() / (2 * 5))
    np.testing.assert_allclose(gradient, (LOGITS - TEACHER) / 5, atol=1e-12)


def test_regressions_on_what_the_softmax_sees():
    centred = [z - z.mean(1, keepdims=True) for z in (LOGITS, TEACHER)]
    assert soft(Distill(kind="centred"))[0] == pytest.approx(((centred[0] - centred[1]) ** 2).sum() / 10)
    logs = [np.log(softmax(z)) for z in (LOGITS, TEACHER)]
    assert soft(Distill(kind="log-probabilities"))[0] == pytest.approx(((logs[0] - logs[1]) ** 2).sum() / 10)


@pytest.mark.parametrize("kind", ["logits", "centred", "log-probabilities"])
def test_a_standardised_regression_divides_by_the_teachers_spread(kind):
    of = {
        "logits": lambda z: z,
        "centred": lambda z: z - z.mean(1, keepdims=True),
        "log-probabilities": lambda z: np.log(softmax(z)),
    }[kind]
    distill = Distill(kind=kind, standardise=True)
    spread = spread_of(distill, torch.tensor(TEACHER))
    np.testing.assert_allclose(spread, of(TEACHER).std(0, ddof=1))
    expected = (((of(LOGITS) - of(TEACHER)) / spread.numpy()) ** 2).sum() / 10
    assert soft(distill, spread)[0] == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_targets(temperature):
    """Were `others` the teacher's 1 - p_y of each sample, the two parts would be soft targets (equation 6)."""
    p, q = softmax(TEACHER, temperature), softmax(LOGITS, temperature)
    rows = np.arange(5)
    p_label, q_label = p[rows, LABELS], q[rows, LABELS]
    binary = p_label * np.log(p_label / q_label) + (1 - p_label) * np.log((1 - p_label) / (1 - q_label))
    rest = (p * np.log(p / q)).sum(1) - binary  # (1 - p_y) KL among the others
    for others in (0.0, 8.0):
        found = soft(Distill(kind="dkd", temperature=temperature, others=others))[0]
        assert found == pytest.approx(temperature**2 * (binary + others * rest / (1 - p_label)).mean())


@pytest.mark.parametrize("kind", ["soft", "dkd", "logits", "centred", "log-probabilities"])
def test_an_equal_student_has_nothing_to_learn(kind):
    z = torch.tensor(TEACHER)
    assert make_soft_loss(Distill(kind=kind))(z, z, torch.tensor(LABELS)).item() == pytest.approx(0, abs=1e-12)


def test_extreme_logits_stay_finite():
    z = torch.tensor([[1e4, -1e4], [0.0, 0.0]])
    for loss in ("cross-entropy", "squared-error", "squared-hinge"):
        assert make_loss(TrainSettings(loss=loss))(z, torch.tensor([1, 0])).isfinite()
    for kind in ("soft", "dkd"):
        assert make_soft_loss(Distill(kind=kind))(z, z.flip(1), torch.tensor([1, 0])).isfinite()
    assert F.cross_entropy(z, torch.tensor([1, 0])).item() == pytest.approx((2e4 + np.log(2)) / 2)
