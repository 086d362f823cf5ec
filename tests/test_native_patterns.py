"""Layers whose zeros follow a pattern, at every instruction set, against float64 sums over the dense weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright import _native
from bitwright.runtime import Model
from bitwright.runtime.graph import Graph, Node
from bitwright.runtime.reference import run_reference
from test_native_sparse import Window, assert_close, finished, isa, numbers, run, windows

__all__ = ["isa"]  # the fixture

MAKE = {"pattern": _native.PatternConvOp, "blocked": _native.BlockedConvOp}
LEVELS = st.sampled_from(_native.isa_names())


def pattern_weight(shape: tuple[int, ...], kept: int, of: int, rows: int = 1, seed: int = 0) -> np.ndarray:
    """Random float32 (O, I, ...): `kept` of every `of` inputs (axis 1) are not zero, the same in `rows` rows."""
    rng = np.random.default_rng(seed)
    blocks, windows = -(-shape[0] // rows), -(-shape[1] // of)
    places = rng.random((blocks, windows, of, *shape[2:])).argsort(axis=2)
    mask = (places < kept).reshape(blocks, windows * of, *shape[2:])[:, : shape[1]].repeat(rows, axis=0)[: shape[0]]
    return (rng.standard_normal(shape) * mask).astype(np.float32)


def at_level(level: str, make: Any) -> Any:
    _native.set_isa(level)
    try:
        return make()
    finally:
        _native.set_isa(None)


def check_conv(kernel: str, window: Window, weight: np.ndarray, batch: int, level: str, threads: int) -> None:
    x = numbers(batch, *window.image, window.in_c)
    operation = at_level(level, lambda: MAKE[kernel](window.native(), weight, _native.Finish(window.out_c)))
    shape = (batch, *window.native().output)
    found = run(operation, x, threads=threads).reshape(shape)
    assert_close(found, window.torch(x, weight), window.torch(np.abs(x), np.abs(weight)))
    np.testing.assert_array_equal(found, run(operation, x).reshape(shape))


PATTERNS = st.sampled_from([(2, 4), (1, 4), (4, 8), (2, 8), (1, 2), (4, 16), (8, 16), (1, 16), (3, 16), (2, 5), (0, 4)])


@given(windows(), PATTERNS, st.sampled_from(["pattern", "blocked"]), st.integers(0, 2), LEVELS, st.data())
def test_patterned_convolutions_are_the_dense_ones(
    window: Window, pattern: tuple[int, int], kernel: str, batch: int, level: str, data: st.DataObject
) -> None:
    rows, threads = data.draw(st.sampled_from([1, 16])), data.draw(st.sampled_from([1, 2, 5]))
    weight = pattern_weight(window.weight_shape(), *pattern, rows, data.draw(st.integers(0, 2**16)))
    check_conv(kernel, window, weight, batch, level, threads)


@pytest.mark.parametrize("kernel", MAKE)
@pytest.mark.parametrize(
    "window",
    [
        Window((32, 32), 16, 16),
        Window((16, 16), 32, 32, stride=(2, 2)),
        Window((8, 8), 64, 64),
        Window((7, 29), 48, 40, kernel=(1, 1), padding=(0, 0)),
        Window((9, 40), 24, 17, kernel=(1, 7), padding=(0, 3), dilation=(1, 4)),
        Window((15, 15), 80, 66, groups=2),
    ],
    ids=str,
)
def test_patterned_convolutions_of_common_windows(isa: str, kernel: str, window: Window) -> None:
    for rows in (1, 16):
        weight = pattern_weight(window.weight_shape(), 2, 4, rows)
        check_conv(kernel, window, weight, 2, isa, threads=2)


@given(
    st.integers(1, 200), st.integers(1, 300), PATTERNS, st.sampled_from(["pattern", "blocked"]),
    st.sampled_from([0, 1, 2, 5, 15, 33, 70, 71, 200]), LEVELS, st.sampled_from([1, 2, 5]),
)  # fmt: skip
def test_patterned_linear_layers_are_the_dense_ones(
    outputs: int, inputs: int, pattern: tuple[int, int], kernel: str, batch: int, level: str, threads: int
) -> None:
    weight = pattern_weight((outputs, inputs, 1, 1), *pattern, seed=batch)
    window = Window((1, 1), inputs, outputs, kernel=(1, 1), padding=(0, 0))
    check_conv(kernel, window, weight, batch, level, threads)


@pytest.mark.parametrize("kernel", MAKE)
def test_patterned_layers_finish_like_separate_operations(isa: str, kernel: str) -> None:
    for window in (Window((9, 20), 12, 21), Window((1, 1), 90, 37, kernel=(1, 1), padding=(0, 0))):
        weight, outputs = pattern_weight(window.weight_shape(), 2, 4), window.out_c
        vectors = {name: numbers(outputs, seed=i) for i, name in enumerate(("bias", "scale", "shift"))}
        for batch in (1, 3, 75):
            x = numbers(batch, *window.image, window.in_c)
            plain = run(MAKE[kernel](window.native(), weight, _native.Finish(outputs)), x)
            plain = plain.reshape(batch, *window.native().output)
            residual = numbers(*plain.shape)
            finish = _native.Finish(outputs, relu=True, residual=True, **vectors)
            found = run(MAKE[kernel](window.native(), weight, finish), x, residual).reshape(plain.shape)
            np.testing.assert_array_equal(found, finished(plain, residual, True, **vectors))


def test_infinities_stay_with_the_channels_that_use_them(isa: str) -> None:
    """A row with a weight in every window never meets an input that it has no weight for."""
    weight = pattern_weight((50, 64, 1, 1), 2, 4)
    operation = _native.PatternConvOp(_native.Window((1, 1), 64, 50), weight, _native.Finish(50))
    for batch in (1, 3):
        x = numbers(batch, 64)
        x[:, 21] = np.inf
        expected = np.broadcast_to(weight[:, 21, 0, 0] == 0, (batch, 50))
        np.testing.assert_array_equal(np.isfinite(run(operation, x)), expected)


@pytest.mark.parametrize(("kept", "of", "bytes_of_weight"), [(2, 4, 4.5), (1, 4, 4.5), (1, 8, 4.5), (3, 8, 4 + 4 / 6)])
def test_weights_take_what_the_layout_says(kept: int, of: int, bytes_of_weight: float) -> None:
    weight = pattern_weight((64, 96, 3, 3), kept, of)
    operation = _native.PatternConvOp(Window((8, 8), 96, 64).native(), weight, _native.Finish(64))
    assert operation.weight_bytes == pytest.approx(bytes_of_weight * np.count_nonzero(weight))


def bad(make: Any = _native.PatternConvOp, weight: Any = None, channels: int = 4, **finish: Any) -> None:
    weight = np.zeros((4, 20, 1, 1), np.float32) if weight is None else weight
    make(_native.Window((2, 2), 20, 4), weight, _native.Finish(channels, **finish))


BAD = {
    "9 weights in a window of 16 inputs, expected at most 8": lambda: bad(
        weight=(np.arange(80) % 20 < 9).reshape(4, 20, 1, 1).astype(np.float32)
    ),
    r"weight has shape \(4, 19, 1, 1\), expected \[O, C": lambda: bad(weight=np.zeros((4, 19, 1, 1), np.float32)),
    "weight has dtype float64": lambda: bad(_native.BlockedConvOp, weight=np.zeros((4, 20, 1, 1))),
    r"weight has shape \(4, 20\)": lambda: bad(_native.BlockedConvOp, weight=np.zeros((4, 20), np.float32)),
    "finish is for 5 channels": lambda: bad(channels=5),
    "finish has a multiplier": lambda: bad(_native.BlockedConvOp, multiplier=numbers(4)),
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_arguments_are_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


# --- the choice -------------------------------------------------------------------------------------------------------


def network(weight: np.ndarray) -> tuple[Graph, dict[str, np.ndarray]]:
    """A convolution or a linear layer."""
    if weight.ndim == 2:
        return Graph(((weight.shape[1],),), (Node("linear", (0,), {}, {"weight": "w"}, "w"),), (1,)), {"w": weight}
    given = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    node = Node("conv2d", (0,), given, {"weight": "w"}, "w")
    return Graph(((weight.shape[1], 16, 16),), (node,), (1,)), {"w": weight}


def chosen(weight: np.ndarray, **options: Any) -> str:
    graph, weights = network(weight)
    model = Model(graph, weights, **options)
    x = np.random.default_rng(0).standard_normal((2, *graph.inputs[0])).astype(np.float32)
    (expected,) = run_reference(graph, weights, [x])
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return next(step.kernel for step in model.plan if step.name == "w")


@pytest.mark.parametrize("level", ["avx512", "avx512vnni"])
def test_the_engine_finds_patterns_in_the_weights(level: str) -> None:
    if level not in _native.isa_names():
        pytest.skip(f"no {level}")

    def kernel(*pattern: int, shape: tuple[int, ...] = (32, 32, 3, 3)) -> str:
        return str(at_level(level, lambda: chosen(pattern_weight(shape, *pattern))))

    assert kernel(2, 4, 16) == "blocked avx512"
    assert kernel(2, 4) == "pattern avx512"
    assert kernel(1, 4, 16) == "blocked avx512"
    assert kernel(4, 4) == "conv2d avx512"
    assert kernel(2, 4, shape=(600, 512)) == "pattern avx512"
    assert kernel(4, 4, shape=(600, 512)) == "linear avx512"


@given(st.integers(1, 40), st.integers(1, 40), PATTERNS, st.booleans(), st.sampled_from(["pattern", "blocked"]), LEVELS)
def test_forced_kernels_compute_what_the_reference_does(
    outputs: int, inputs: int, pattern: tuple[int, int], linear: bool, kernel: str, level: str
) -> None:
    weight = pattern_weight((outputs, inputs) if linear else (outputs, inputs, 3, 3), *pattern)
    found = at_level(level, lambda: chosen(weight, kernels=[kernel]))
    assert found.startswith(kernel) or (linear and kernel == "blocked"), found
