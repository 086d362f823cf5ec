"""Families of layers of floats with dense, sparse and coded weights: sums within the tolerance."""

from __future__ import annotations

import numpy as np

from bitwright import _native
from fuzz.endings import near, random_ending, vector
from fuzz.shapes import Window, random_window
from fuzz.trial import Array, Random, Trial, chance, count, pick


def float_conv(random: Random) -> Trial:
    """float32 convolution."""
    window = random_window(random)
    return _convolution(random, "FloatConvOp", window, random.standard_normal(window.weight_shape).astype(np.float32))


def float_linear(random: Random) -> Trial:
    """float32 linear layer."""
    batch, cols, rows = count(random, 1, 40), count(random, 1, 500), count(random, 1, 100)
    x, w = (random.standard_normal((n, cols)).astype(np.float32) for n in (batch, rows))
    ending = random_ending(random, (batch, rows), False)
    check = near(ending, x.astype(np.float64) @ w.T.astype(np.float64), np.abs(x) @ np.abs(w.T))
    return Trial(
        lambda: _native.FloatLinearOp(cols, w, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{batch} {rows} {cols} {ending}",
    )


def sparse_entries(random: Random, size: int) -> tuple[Array, Array | None, Array, Array]:
    """Positions, codes, values, and the dense vector."""
    positions = np.flatnonzero(random.random(size) < random.random() ** 2).astype(np.int64)
    dense = np.zeros(size, np.float32)
    if chance(random):
        values = random.standard_normal(len(positions)).astype(np.float32)
        dense[positions] = values
        return positions, None, values, dense
    entries = pick(random, 1, 15, 32, 64, 256, 700)
    values = random.standard_normal(entries).astype(np.float32)
    codes = random.integers(0, entries, len(positions)).astype(np.uint8 if entries <= 256 else np.uint16)
    dense[positions] = values[codes]
    return positions, codes, values, dense


def sparse_linear(random: Random) -> Trial:
    """A sparse matrix, its values coded or not."""
    batch, cols, rows = count(random, 1, 70), count(random, 1, 700), count(random, 1, 120)
    positions, codes, values, dense = sparse_entries(random, rows * cols)
    w = dense.reshape(rows, cols)
    x = random.standard_normal((batch, cols)).astype(np.float32)
    ending = random_ending(random, (batch, rows), False)
    check = near(ending, x.astype(np.float64) @ w.T.astype(np.float64), np.abs(x) @ np.abs(w.T))
    return Trial(
        lambda: _native.SparseLinearOp(rows, cols, positions, codes, values, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{batch} {rows} {cols} {len(positions)} {ending}",
    )


def sparse_conv(random: Random) -> Trial:
    """A convolution with sparse weights, coded or not."""
    window, batch = random_window(random), count(random, 1, 3)
    positions, codes, values, dense = sparse_entries(random, int(np.prod(window.weight_shape)))
    w = dense.reshape(window.weight_shape)
    x = random.standard_normal((batch, *window.image, window.in_c)).astype(np.float32)
    ending = random_ending(random, (batch, *window.output, window.out_c), False)
    check = near(ending, window.sums(x, w), window.sums(np.abs(x), np.abs(w)))
    return Trial(
        lambda: _native.SparseConvOp(window.native(), positions, codes, values, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{window} {len(positions)} {ending}",
    )


def pattern_weight(random: Random, shape: tuple[int, ...]) -> Array:
    """Of every 16 neighbouring inputs (axis 1) at most 8 are not zero."""
    places = random.random((*shape[:1], -(-shape[1] // 16), 16, *shape[2:])).argsort(axis=2)
    kept = (places < count(random, 0, 8)).reshape(shape[0], -1, *shape[2:])[:, : shape[1]]
    return (random.standard_normal(shape) * kept).astype(np.float32)


def pattern_conv(random: Random) -> Trial:
    """A convolution with few weights in every window of inputs."""
    window = random_window(random)
    return _convolution(random, "PatternConvOp", window, pattern_weight(random, window.weight_shape))


def blocked_conv(random: Random) -> Trial:
    """A convolution whose output channels share in sixteens where most of their weights are."""
    window = random_window(random)
    outputs, *filters = window.weight_shape
    shared = random.random((-(-outputs // 16), *filters)) < random.random()
    kept = shared.repeat(16, axis=0)[:outputs] | (random.random(window.weight_shape) < 0.01)
    weight = (random.standard_normal(window.weight_shape) * kept).astype(np.float32)
    return _convolution(random, "BlockedConvOp", window, weight)


def _convolution(random: Random, operation: str, window: Window, w: Array) -> Trial:
    """Of float32 with these weights, by one of the operations."""
    batch = count(random, 1, 3)
    x = random.standard_normal((batch, *window.image, window.in_c)).astype(np.float32)
    ending = random_ending(random, (batch, *window.output, window.out_c), False)
    check = near(ending, window.sums(x, w), window.sums(np.abs(x), np.abs(w)))
    return Trial(
        lambda: getattr(_native, operation)(window.native(), w, ending.native()),
        [x, *ending.inputs()],
        batch,
        check,
        f"{window} {np.count_nonzero(w)} {ending}",
    )


def pattern_linear(random: Random) -> Trial:
    """A matrix with few weights in every window of inputs, in either layout."""
    batch, cols, rows = count(random, 1, 160), count(random, 1, 300), count(random, 1, 150)
    w = pattern_weight(random, (rows, cols))
    x = random.standard_normal((batch, cols)).astype(np.float32)
    ending = random_ending(random, (batch, rows), False)
    make = _native.PatternConvOp if chance(random, 0.7) else _native.BlockedConvOp
    return Trial(
        lambda: make(_native.Window((1, 1), cols, rows), w.reshape(rows, cols, 1, 1), ending.native()),
        [x, *ending.inputs()],
        batch,
        near(ending, x.astype(np.float64) @ w.T.astype(np.float64), np.abs(x) @ np.abs(w.T)),
        f"{batch} {rows} {cols} {np.count_nonzero(w)} {ending}",
    )


def coded_linear(random: Random) -> Trial:
    """A matrix of codes for few different numbers."""
    large = chance(random, 0.1)
    batch, cols, rows = count(random, 1, 20), count(random, 1, 3000 if large else 400), count(random, 1, 150)
    entries = pick(random, 1, 2, 2, 3, 4, 5, 16, 17, 32, 33, 256)
    table = random.standard_normal(entries).astype(np.float32)
    if chance(random, 0.3):  # whole numbers times a scale
        table = ((np.arange(entries) - entries // 2) * np.float32(random.uniform(0.01, 1))).astype(np.float32)
    codes = random.integers(0, entries, (rows, cols)).astype(np.uint8)
    w: Array = table[codes].astype(np.float64)
    scales: dict[str, Array] = {}
    if chance(random):
        scales["scale"] = vector(random, rows)
        if chance(random):
            scales["negative"] = vector(random, rows)
        w = w * np.where(w < 0, scales.get("negative", scales["scale"])[:, None], scales["scale"][:, None])
    x = random.standard_normal((batch, cols)).astype(np.float32)
    ending = random_ending(random, (batch, rows), False)
    # A table of whole numbers is added up as base + step * code.
    sizes = np.abs(x).sum(axis=1, keepdims=True) * np.abs(w).max(axis=1)
    check = near(ending, x @ w.T, sizes)
    return Trial(
        lambda: _native.CodedLinearOp(codes, table, ending.native(), **scales),
        [x, *ending.inputs()],
        batch,
        check,
        f"{batch} {rows} {cols} {entries} {sorted(scales)} {ending}",
    )


def product_linear(random: Random) -> Trial:
    """A matrix of runs of columns that have few values each."""
    batch, cols, rows = count(random, 1, 20), count(random, 1, 500), count(random, 1, 150)
    width, entries = pick(random, 1, 2, 4), count(random, 1, 16)
    runs = -(-cols // width)
    codes = random.integers(0, entries, (rows, runs)).astype(np.uint8)
    books = random.standard_normal((runs, entries, width)).astype(np.float32)
    w = books[np.arange(runs), codes].reshape(rows, -1)[:, :cols].astype(np.float64)
    x = random.standard_normal((batch, cols)).astype(np.float32)
    ending = random_ending(random, (batch, rows), False)
    return Trial(
        lambda: _native.CodedLinearOp.of_runs(codes, books, cols, ending.native()),
        [x, *ending.inputs()],
        batch,
        near(ending, x @ w.T, np.abs(x) @ np.abs(w).T),
        f"{batch} {rows} {cols} runs of {width}, {entries} values {ending}",
    )
