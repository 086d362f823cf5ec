"""Traffic ratios and bit-serial speed-ups are those that the papers print."""

import pytest

from bitwright.errors import BitwrightError
from bitwright.measure.bit_costs import Work, stripes_speedup, traffic_ratio

LENET = [20 * 24 * 24, 50 * 8 * 8, 500, 10]
CONVNET = [32 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8, 64, 10]
ALEXNET = [96 * 55 * 55, 256 * 27 * 27, 384 * 13 * 13, 384 * 13 * 13, 256 * 13 * 13, 4096, 4096]


@pytest.mark.parametrize(
    ("values", "bits", "printed"),
    [
        (LENET, [2, 4, 3, 3], 0.077),
        (LENET, [2, 2, 3, 2], 0.064),
        (LENET, [2, 1, 2, 2], 0.056),
        (LENET, [1, 3, 3, 2], 0.046),
        (CONVNET, [8, 7, 7, 5, 5], 0.241),
        (CONVNET, [7, 8, 6, 4, 4], 0.221),
        (CONVNET, [7, 8, 5, 3, 3], 0.219),
        (ALEXNET, [10, 8, 8, 8, 8, 6, 4], 0.276),
        (ALEXNET, [10, 8, 8, 8, 8, 5, 4], 0.276),
        (ALEXNET, [10, 8, 8, 7, 7, 5, 3], 0.271),
        (ALEXNET, [9, 8, 8, 7, 7, 5, 3], 0.257),
    ],
)
def test_the_traffic_of_judds_table(values, bits, printed):
    assert traffic_ratio(values, bits) == pytest.approx(printed, abs=0.0006)


def convolutions(first, *rest, kernel=3):
    """(outputs, size) of each convolution behind the first, (inputs, outputs, size)."""
    inputs, found = first[0], []
    for outputs, size in [first[1:], *rest]:
        found.append(Work(inputs, outputs, (kernel, kernel), (size, size)))
        inputs = outputs
    return found


LENET_WORK = convolutions((1, 20, 24), (50, 8), kernel=5)
CONVNET_WORK = convolutions((3, 32, 32), (32, 16), (64, 8), kernel=5)
VGG_19_WORK = convolutions(
    (3, 64, 224), (64, 224), *[(128, 112)] * 2, *[(256, 56)] * 4, *[(512, 28)] * 4, *[(512, 14)] * 4
)


@pytest.mark.parametrize(
    ("layers", "bits", "printed"),
    [
        (LENET_WORK, [3, 3], 5.33),
        (LENET_WORK, [2, 3], 7.33),
        (CONVNET_WORK, [4, 8, 8], 2.89),
        (CONVNET_WORK, [4, 5, 7], 3.53),
        (VGG_19_WORK, [12, 12, 12, 11, 12, 10, 11, 11, 13, 12, *[13] * 6], 1.35),
        (VGG_19_WORK, [9, 9, 9, 8, 12, 10, 10, 12, 13, 11, 12, *[13] * 5], 1.57),
    ],
)
def test_the_ideal_speed_ups_of_stripes(layers, bits, printed):
    assert stripes_speedup(layers, bits) == pytest.approx(printed, abs=0.006)


def test_multiply_accumulates_weigh_lenet_otherwise():
    assert stripes_speedup(LENET_WORK, [2, 3], "macs") == pytest.approx(5.62, abs=0.005)
    assert LENET_WORK[1].macs == 64 * 25 * 20 * 50


def test_groups_share_the_work():
    grouped = Work(96, 256, (5, 5), (27, 27), groups=2)
    assert grouped.macs == 27 * 27 * 25 * 48 * 256
    assert grouped.cycles == 27 * 27 * 25 * 3 * 1 * 2


@pytest.mark.parametrize("bits", [[3], [], [3, 0], [1, 2, 3]])
def test_a_profile_that_does_not_fit_is_refused(bits):
    with pytest.raises(BitwrightError, match="expected one number above 0 for each"):
        traffic_ratio([1, 2], bits)
    with pytest.raises(BitwrightError, match="expected one number above 0 for each"):
        stripes_speedup(LENET_WORK, bits)
