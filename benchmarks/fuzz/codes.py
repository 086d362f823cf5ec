"""Families of operations on codes and whole numbers: every bit must be right."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitwright import _native
from fuzz.endings import random_coder, random_ending, vector
from fuzz.shapes import Layout, Window, margins, pool_taps, pool_window, random_window
from fuzz.trial import Array, Random, Trial, chance, compare, count, odd_floats, pick


def coded_activations(random: Random, window: Window, batch: int, planes: int) -> tuple[Layout, Array, int, int]:
    """A layout that suits the window, codes, and the numbers low and step."""
    layout = Layout(*window.image, window.in_c, window.groups, margins(random, window.reach()), planes)
    bits = planes or pick(random, 8, 8, 4, 2)
    codes = random.integers(0, 1 << bits, (batch, *window.image, window.in_c))
    low, step = (-1, 2) if planes == 1 and chance(random, 0.7) else (int(random.integers(-20, 3)), 1)
    return layout, codes, low, step


def lattice(random: Random, window: Window, most: int) -> Array:
    """Signs, ternary, 0/1 or k-bit whole numbers."""
    low, high = pick(random, (-1, 1), (0, 1), (-most, most - 1), (-(most // 2) - 1, most // 2))
    w = random.integers(low, high + 1, window.weight_shape)
    if (low, high) == (-1, 1) and chance(random, 0.7):
        w = np.where(w >= 0, 1, -1)
    return w.astype(np.int8)


def integer_conv(random: Random, planes: int, most: int) -> Trial:
    window, batch = random_window(random), count(random, 1, 3)
    layout, codes, low, step = coded_activations(random, window, batch, planes)
    largest = max(int(codes.max()), 1)
    weight = lattice(random, window, most)
    padding = pick(random, 0, 0, low, low + step)
    m = low + step * codes
    sums = window.sums(m, weight, padding)
    ending = random_ending(random, (batch, *window.output, window.out_c), True, sums)
    if set(np.unique(weight)) <= {-1, 0, 1} and chance(random, 0.3):
        ending.vectors["negative"] = np.abs(vector(random, window.out_c))
        parts = [window.sums(m, weight == sign, padding) for sign in (1, -1)]
        y = ending.scaled(*parts)
    else:
        y = ending.scaled(sums)

    def make() -> Any:
        if planes:
            return _native.BitConvOp(
                window.native(), layout.native(), low, step, weight, padding, finish=ending.native()
            )
        return _native.ByteConvOp(
            window.native(), layout.native(), low, weight, padding, finish=ending.native(), step=step, largest=largest
        )

    return Trial(make, [layout.pack(codes), *ending.inputs()], batch, ending.check(y), f"{window} {layout} {ending}")


def bit_conv(random: Random) -> Trial:
    """Bit planes of codes times a few bits."""
    return integer_conv(random, pick(random, 1, 1, 2, 3, 4), 8)


def byte_conv(random: Random) -> Trial:
    """Bytes times bytes."""
    return integer_conv(random, 0, pick(random, 2, 8, 127))


def encode(random: Random) -> Trial:
    """Floats to codes, odd floats too."""
    batch, size, channels = count(random, 1, 3), (count(random, 1, 9), count(random, 1, 9)), count(random, 1, 150)
    x = odd_floats(random, batch, *size, channels)
    coder = random_coder(random, size, channels, 1.0)
    with np.errstate(all="ignore"):
        expected = [(coder.layout.pack(coder.codes(x)), coder.layout.used())]
    return Trial(
        lambda: _native.EncodeOp(coder.native()),
        [x],
        batch,
        lambda found: compare(found, expected, floats=False),
        str(coder),
    )


def pool_codes(random: Random) -> Trial:
    """The largest code under each window, or the least."""
    batch, channels = count(random, 1, 3), count(random, 1, 150)
    window, size = pool_window(random, channels, 1, chance(random), dilated=True)
    planes = pick(random, 0, 1, 2, 4)
    groups = pick(random, *[g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    into = Layout(*window.image, channels, groups, margins(random, window.reach()), planes)
    made = Layout(*size, channels, groups, margins(random), planes)
    codes = random.integers(0, 1 << (planes or 8), (batch, *window.image, channels)).astype(np.uint8)
    least = random.random(channels) < pick(random, 0, 0.5)
    turn = np.where(least, (1 << (planes or 8)) - 1, 0).astype(np.uint8)  # the least codes: the largest complements
    expected = [(made.pack(pool_taps(window, size, codes ^ turn, 0).max(axis=0) ^ turn), made.used())]
    return Trial(
        lambda: _native.PoolCodesOp(window.native(), into.native(), made.native(), least.tolist()),
        [into.pack(codes)],
        batch,
        lambda found: compare(found, expected, floats=False),
        f"{window} {into} {made}",
    )


def exact_conv(random: Random) -> Trial:
    """Whole numbers times a scale, as floats, times whole weights."""
    window, batch = random_window(random), count(random, 1, 2)
    _, codes, low, step = coded_activations(random, window, batch, pick(random, 0, 1, 4))
    weight, padding = lattice(random, window, pick(random, 2, 8, 127)), pick(random, 0, low)
    m = low + step * codes
    scale = float(np.float32(random.uniform(0.001, 2)))
    ending = random_ending(random, (batch, *window.output, window.out_c), True)
    ending.out, ending.encode = True, None
    sums = [window.sums(m, weight, padding)]
    if set(np.unique(weight)) <= {-1, 0, 1} and chance(random, 0.3):
        ending.vectors["negative"] = np.abs(vector(random, window.out_c))
        sums = [window.sums(m, weight == sign, padding) for sign in (1, -1)]
    x = m.astype(np.float32) * np.float32(scale)

    def make() -> Any:
        return _native.ExactConvOp(window.native(), 1 / scale, weight, padding, finish=ending.native())

    return Trial(make, [x, *ending.inputs()], batch, ending.check(ending.scaled(*sums)), f"{window} {ending}")
