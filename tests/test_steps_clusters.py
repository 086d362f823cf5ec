"""The clustering: Lloyd against the definition, the constrained one against brute force, and odd inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitwright.errors import BitwrightError
from bitwright.steps.clusters import Clusters, cluster

INITIALS = ("linear", "density", "random")


def gaussian(n: int, seed: int = 0, zeros: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(n).astype(np.float32)
    w[rng.random(n) < zeros] = 0
    return w


def distortion(w: np.ndarray, found: Clusters) -> float:
    return float(np.sum((w.astype(np.float64) - found.weights()) ** 2))


def plain_lloyd(w: np.ndarray, k: int) -> np.ndarray:
    """Lloyd as textbooks write it, from linear centroids: distances of all values to all centroids."""
    v = w[w != 0].astype(np.float64)
    c = np.linspace(v.min(), v.max(), k)
    for _ in range(1000):
        nearest = np.abs(v[:, None] - c).argmin(1)
        new = np.array([v[nearest == j].mean() if (nearest == j).any() else c[j] for j in range(k)])
        if np.array_equal(new, c):
            break
        c = new
    return c[np.unique(nearest)]


def test_equals_textbook_lloyd():
    w = gaussian(4000)
    assert np.allclose(cluster(w, 16).codebook, plain_lloyd(w, 16), rtol=1e-5)


@pytest.mark.parametrize("initial", INITIALS)
@given(
    w=hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(-8, 8, width=32)),
    k=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_is_a_fixed_point_of_lloyd(initial: str, w: np.ndarray, k: int):
    found = cluster(w, k, initial=initial)
    assert np.array_equal(found.codes == 0, w == 0)
    assert len(found.codebook) <= k
    assert np.all(np.diff(found.codebook) > 0)
    if (w == 0).all():
        return
    v, codes = w[w != 0].astype(np.float64), found.codes[w != 0].astype(int) - 1
    assert set(codes) == set(range(len(found.codebook))), "every centroid is used"
    distances = np.abs(v[:, None] - found.codebook)
    slack = 1e-5 * max(1.0, float(np.abs(v).max()))
    assert np.all(distances[np.arange(len(v)), codes] <= distances.min(1) + slack), "each value at its nearest centroid"
    means = [v[codes == j].mean() for j in range(len(found.codebook))]
    assert np.allclose(means, found.codebook, rtol=1e-5, atol=1e-6), "each centroid the mean of its values"


def test_few_different_values_are_taken_as_they_are():
    w = np.array([0.5, -0.25, 0.0, 0.5, 3.0], np.float32)
    found = cluster(w, 4)
    assert np.array_equal(found.weights(), w)
    again = cluster(cluster(gaussian(1000), 8).weights(), 8)
    assert np.array_equal(again.weights(), cluster(gaussian(1000), 8).weights())


@pytest.mark.parametrize("w", [np.zeros(5), np.full(7, -0.3), np.array([2.0]), np.zeros(0), np.array(1.5)])
def test_degenerate_weights_survive(w: np.ndarray):
    w = w.astype(np.float32)
    found = cluster(w, 4)
    assert found.codes.shape == w.shape
    assert np.array_equal(found.weights(), w)


def test_shape_and_code_width():
    w = np.linspace(1, 2, 6000, dtype=np.float32).reshape(20, 300)
    assert cluster(w, 255).codes.dtype == np.uint8
    assert cluster(w, 256).codes.dtype == np.uint16
    assert cluster(w, 256).codes.max() == 256
    assert cluster(w, 256).weights().shape == (20, 300)


def test_linear_gives_large_weights_their_own_centroids():
    w = np.concatenate([gaussian(2000, zeros=0.0) * np.float32(0.1), np.float32([5.0, 6.0])])
    assert np.isin(np.float32([5.0, 6.0]), cluster(w, 32).codebook).all()
    assert not np.isin(np.float32([5.0, 6.0]), cluster(w, 32, initial="density", iterations=3).codebook).all()


def test_random_depends_on_the_seed_alone():
    w = gaussian(3000)
    a, b, other = (cluster(w, 16, initial="random", seed=s, iterations=2).codebook for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, other)


def cost(w: np.ndarray, found: Clusters, weight: float) -> tuple[float, float]:
    """(cost, bits): squared error + weight x ideal code length, over the non-zero weights."""
    counts = np.bincount(found.codes[w != 0])
    counts = counts[counts > 0]
    bits = float(-(counts * np.log2(counts / counts.sum())).sum())
    return distortion(w, found) + weight * bits, bits


def test_entropy_buys_bits_with_distortion():
    w = gaussian(5000)
    variance = float(np.var(w[w != 0], dtype=np.float64))
    plain, gentle, strong = (cluster(w, 32, entropy=e) for e in (0.0, 0.01, 0.1))
    assert cost(w, gentle, 0.01 * variance)[0] < cost(w, plain, 0.01 * variance)[0]
    assert cost(w, strong, 0.1 * variance)[0] < cost(w, gentle, 0.1 * variance)[0]
    assert cost(w, plain, 0)[1] > cost(w, gentle, 0)[1] > cost(w, strong, 0)[1]
    assert distortion(w, plain) < distortion(w, gentle) < distortion(w, strong)


def test_entropy_assigns_each_value_at_least_cost():
    w = gaussian(3000)
    v = w[w != 0].astype(np.float64)
    found = cluster(w, 24, entropy=0.05)
    codes = found.codes[w != 0].astype(int) - 1
    lengths = -np.log2(np.bincount(codes) / len(codes))
    costs = (v[:, None] - found.codebook) ** 2 + 0.05 * v.var() * lengths
    assert np.all(costs[np.arange(len(v)), codes] <= costs.min(1) + 1e-6)


def test_entropy_beats_plain_clusters_at_the_same_distortion():
    w = gaussian(20000, zeros=0.0)
    plain = cluster(w, 16)
    constrained = cluster(w, 64, entropy=0.015)
    assert distortion(w, constrained) < distortion(w, plain)
    assert cost(w, constrained, 0)[1] < cost(w, plain, 0)[1]


def test_sums_of_many_weights_stay_exact():
    """A lone outlier beside 10^6 weights must be met exactly although its prefix sum is large."""
    w = np.concatenate([np.full(1_000_000, 0.1, np.float32), np.float32([0.30000001, 7.7]), gaussian(1000)])
    assert np.float32(7.7) in cluster(w, 8).codebook


@pytest.mark.parametrize(("k", "message"), [(0, "at least 1"), (70000, "at most 65535")])
def test_refuses_impossible_numbers(k: int, message: str):
    with pytest.raises(BitwrightError, match=message):
        cluster(gaussian(10), k)


def test_refuses_an_unknown_start():
    with pytest.raises(BitwrightError, match=r"initial='kmeans'.*'density'"):
        cluster(gaussian(100), 4, initial="kmeans")
