"""A layer, max pooling and codes in one pass: the bits of the three operations one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import _native

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def layer(image: tuple[int, int], channels: int, outputs: int, residual: bool = False, **finish: Any) -> Any:
    rng = np.random.default_rng(outputs)
    window = _native.Window(image, channels, outputs, (2, 3), padding=(1, 1))
    x = _native.CodeLayout(*image, channels, top=1, left=1, bottom=1, right=1, planes=0)
    weights = rng.integers(-100, 100, (outputs, channels, 2, 3)).astype(np.int8)
    multiplier = (rng.random(outputs) - 0.5).astype(np.float32)
    made = _native.Finish(outputs, multiplier=multiplier, residual=residual, **finish)
    return _native.ByteConvOp(window, x, -3, weights, finish=made), window.output[:2]


def check(image, channels, outputs, pool, encode, out, residual, batch, threads) -> None:
    convolution, made = layer(image, channels, outputs, residual)
    shape = (batch, *made, outputs)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 256, batch * convolution.input_bytes[0], np.uint8)]
    if residual:
        inputs.append((rng.random(shape, np.float32) - 0.5) * 1e4)
    (floats,) = _native.run_operation(convolution, inputs, batch)
    (pooled,) = _native.run_operation(_native.MaxPoolOp(tuple(made), outputs, **pool), [floats], batch)
    expected = [pooled]
    options: dict[str, Any] = {"out": out}
    if encode is not None:
        kind, planes = encode
        size = _pool_size(made, **pool)
        codes = _native.CodeLayout(*size, outputs, top=1, left=2, bottom=0, right=1, planes=planes)
        options["encode"] = _native.Encode(kind, codes, reciprocal=0.01, low=-1, high=(1 << (planes or 8)) - 2)
        expected += _native.run_operation(_native.EncodeOp(options["encode"]), [pooled], batch)
    found = _native.run_operation(_native.PooledOp(convolution, **pool, **options), inputs, batch, threads)
    for ours, theirs in zip(found, expected if out else expected[1:], strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("channels", "outputs", "groups"), [(3, 64, 1), (40, 40, 1), (20, 20, 20)])
def test_pooled_floats(channels: int, outputs: int, groups: int, threads: int) -> None:
    """Of layers of floats, in every form of their weights: in parts, plain, per channel."""
    rng = np.random.default_rng(0)
    window = _native.Window((61, 40), channels, outputs, (7, 7), padding=(3, 3), stride=(2, 2), groups=groups)
    weight = rng.standard_normal((outputs, channels // groups, 7, 7), np.float32)
    finish = _native.Finish(outputs, bias=rng.standard_normal(outputs, np.float32), residual=True, relu=True)
    convolution, made = _native.FloatConvOp(window, weight, finish), window.output[:2]
    inputs = [rng.standard_normal((2, 61, 40, channels), np.float32)]
    inputs.append(rng.standard_normal((2, *made, outputs), np.float32))
    (floats,) = _native.run_operation(convolution, inputs, 2)
    pool = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    (expected,) = _native.run_operation(_native.MaxPoolOp(tuple(made), outputs, **pool), [floats], 2)
    size = expected.size // 4 // outputs // 2
    encode = _native.Encode("sign", _native.CodeLayout(16, size // 16, outputs))
    (codes,) = _native.run_operation(_native.EncodeOp(encode), [expected], 2)
    found = _native.run_operation(_native.PooledOp(convolution, **pool, encode=encode), inputs, 2, threads)
    assert np.array_equal(found[0], expected)
    assert np.array_equal(found[1], codes)


def _pool_size(made, kernel, stride, padding, ceil) -> list[int]:
    """Of the result, as the operation itself has it: one row of one channel tells."""
    height = _native.MaxPoolOp((made[0], 1), 1, (kernel[0], 1), (stride[0], 1), (padding[0], 0), ceil=ceil)
    width = _native.MaxPoolOp((1, made[1]), 1, (1, kernel[1]), (1, stride[1]), (0, padding[1]), ceil=ceil)
    return [height.output_bytes[0] // 4, width.output_bytes[0] // 4]


@settings(max_examples=60, deadline=None)
@given(
    image=st.tuples(st.integers(3, 12), st.integers(3, 12)), outputs=st.sampled_from([1, 3, 16, 64, 70]),
    kernel=PAIRS, stride=PAIRS, padded=st.booleans(), ceil=st.booleans(), out=st.booleans(), residual=st.booleans(),
    encode=st.sampled_from([None, ("sign", 1), ("quantize", 0), ("quantize", 4)]), batch=st.integers(1, 3),
    isa=st.sampled_from(_native.isa_names()),
)  # fmt: skip
def test_pooled_layers(image, outputs, kernel, stride, padded, ceil, out, residual, encode, batch, isa) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
    pool = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil}
    _native.set_isa(isa)
    try:
        check(image, 3, outputs, pool, encode, out or encode is None, residual, batch, 2)
    finally:
        _native.set_isa(None)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3), (2, 2), (1, 1)), ((2, 2), (2, 2), (0, 0))])
def test_several_bands(threads: int, kernel, stride, padding) -> None:
    """The floats of the layer's image are several times what a band holds."""
    pool = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": False}
    check((230, 60), 3, 64, pool, ("sign", 1), True, True, 2, threads)


def test_refusals() -> None:
    encode = _native.Encode("sign", _native.CodeLayout(5, 4, 8))
    with pytest.raises(ValueError, match="finish has an encode or no out"):
        _native.PooledOp(layer((4, 4), 3, 8, encode=encode)[0], (2, 2), (2, 2))
    convolution, _ = layer((4, 4), 3, 8)
    with pytest.raises(ValueError, match="not that of the pool's output"):
        _native.PooledOp(convolution, (2, 2), (2, 2), encode=encode)
    with pytest.raises(ValueError, match="expected one of them"):
        _native.PooledOp(convolution, (2, 2), (2, 2), out=False)
    with pytest.raises(ValueError, match="expected at least the window"):
        _native.PooledOp(convolution, (9, 9), (2, 2))
