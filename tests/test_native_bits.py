"""Operations on bits against whole numbers in NumPy: every shape, form of weights and level gives equal bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import _native

LEVELS = _native.isa_names()
KERNELS = [(level, "") for level in LEVELS] + [("avx2", "plain avx2")] * ("avx2" in LEVELS)
EXAMPLES = settings(max_examples=60, deadline=None)
f32 = np.float32


@pytest.fixture(autouse=True)
def _default_level() -> Iterator[None]:
    yield
    _native.set_isa(None)


# --- layouts and codes in NumPy


@dataclass(frozen=True)
class Layout:
    height: int
    width: int
    channels: int
    groups: int = 1
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    planes: int = 1

    @property
    def native(self) -> _native.CodeLayout:
        top, left, bottom, right = self.margins
        return _native.CodeLayout(
            self.height, self.width, self.channels, self.groups,
            top=top, left=left, bottom=bottom, right=right, planes=self.planes,
        )  # fmt: skip

    def store(self, codes: np.ndarray) -> np.ndarray:
        """Codes [N, H, W, C] as bytes [N, image_bytes]."""
        n, h, w, c = codes.shape
        top, left, bottom, right = self.margins
        grouped = codes.reshape(n, h, w, self.groups, c // self.groups)
        unit = 32 if self.planes else 4
        space = ((top, bottom), (left, right), (0, 0), (0, -(c // self.groups) % unit))
        grouped = np.pad(grouped, ((0, 0), *space))
        if self.planes:
            planes = [
                np.packbits(grouped >> p & 1, axis=-1, bitorder="little").reshape(n, -1) for p in range(self.planes)
            ]
            flat = np.concatenate(planes, axis=1)
        else:
            flat = grouped.reshape(n, -1).astype(np.uint8)
        return np.ascontiguousarray(np.pad(flat, ((0, 0), (0, -flat.shape[1] % 64))))


def encoded(kind: str, z: np.ndarray, reciprocal: float, low: int, high: int) -> np.ndarray:
    if kind == "sign":
        return (z >= 0).astype(np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        m = np.rint(z * f32(reciprocal))
    return np.where(m > low, np.minimum(m, f32(high)) - low, 0).astype(np.int64)


def conv(m: np.ndarray, k: np.ndarray, stride, padding, dilation, groups: int, outside: int) -> np.ndarray:
    """Exact sums [N, H', W', O] of whole numbers [N, H, W, C] with weights [O, C / groups, kh, kw]."""
    (ph, pw), (sh, sw), (dh, dw) = padding, stride, dilation
    x = np.pad(m, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=outside)
    o, c, kh, kw = k.shape
    oh, ow = (x.shape[1] - dh * (kh - 1) - 1) // sh + 1, (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    out = np.zeros((m.shape[0], oh, ow, o), np.int64)
    for g in range(groups):
        outputs = slice(g * o // groups, (g + 1) * o // groups)
        for y in range(kh):
            for i in range(kw):
                rows = slice(y * dh, y * dh + (oh - 1) * sh + 1, sh)
                columns = slice(i * dw, i * dw + (ow - 1) * sw + 1, sw)
                out[..., outputs] += x[:, rows, columns, g * c : (g + 1) * c] @ k[outputs, :, y, i].T.astype(np.int64)
    return out


# --- cases


@dataclass(frozen=True)
class Conv:
    image: tuple[int, int]
    in_c: int
    out_c: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    batch: int
    threads: int
    planes: int
    weights: str
    outside: int  # of the activations' numbers
    seed: int


def divisor_pairs(most: int) -> st.SearchStrategy[tuple[int, int, int]]:
    return st.tuples(st.integers(1, most), st.integers(1, most), st.sampled_from([1, 1, 1, 2, 3]))


# Beyond the smallest image: with many pixels other kernels are chosen.
SPARE = st.integers(0, 6) | st.integers(13, 30)


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    c, o, groups = draw(divisor_pairs(80))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    least = [max(d * (k - 1) + 1 - 2 * p, 1) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    planes = draw(st.integers(1, 4))
    return Conv(
        image=(least[0] + draw(SPARE), least[1] + draw(SPARE)),
        in_c=c * groups,
        out_c=o * groups,
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        batch=draw(st.integers(1, 3)),
        threads=draw(st.integers(1, 3)),
        planes=planes,
        weights=draw(st.sampled_from(list(GRIDS))),
        outside=draw(st.sampled_from([0, -1, 1])),
        seed=draw(st.integers(0, 2**31)),
    )


GRIDS = {
    "sign": [-1, 1],
    "ternary": [-1, 0, 1],
    "odd": [-3, -1, 1, 3],
    "odd 3 bits": [-7, -5, -3, -1, 1, 3, 5, 7],
    "2 bits": [-2, -1, 0, 1],
    "4 bits": list(range(-8, 9)),
    "unsigned": [0, 1, 2, 3],
    "two magnitudes": [-1, 0, 1],
}


@dataclass
class Built:
    """What a case consists of, besides its finish."""

    window: _native.Window
    layout: Layout
    codes: np.ndarray
    low: int
    step: int
    k: np.ndarray
    sums: np.ndarray  # [2, N, H', W', O]: of all weights or the positive ones, of the negative ones

    def operation(self, case: Conv, finish: _native.Finish, kernel: str = "") -> _native.BitConvOp:
        outside = case.outside * self.step
        return _native.BitConvOp(
            self.window, self.layout.native, self.low, self.step, self.k, outside, finish=finish, kernel=kernel
        )


def build(case: Conv, rng: np.random.Generator) -> Built:
    step, low = (2, -1) if case.planes == 1 and rng.random() < 0.7 else (1, int(rng.integers(-8, 3)))
    codes = rng.integers(0, 1 << case.planes, (case.batch, *case.image, case.in_c))
    k = rng.choice(GRIDS[case.weights], (case.out_c, case.in_c // case.groups, *case.kernel)).astype(np.int8)
    ph, pw = case.padding
    extra = rng.integers(0, 2, 4)
    layout = Layout(*case.image, case.in_c, case.groups, tuple(np.array([ph, pw, ph, pw]) + extra), case.planes)
    window = _native.Window(
        case.image, case.in_c, case.out_c, case.kernel, case.stride, case.padding, case.dilation, case.groups
    )
    parts = (k == 1, k == -1) if case.weights == "two magnitudes" else (k, np.zeros_like(k))
    m = low + step * codes
    sums = [conv(m, p, case.stride, case.padding, case.dilation, case.groups, case.outside * step) for p in parts]
    return Built(window, layout, codes, low, step, k, np.stack(sums))


def per_channel(rng: np.random.Generator, channels: int) -> np.ndarray:
    return (rng.standard_normal(channels) * rng.choice([0.01, 1.0, 0.0], channels, p=[0.3, 0.6, 0.1])).astype(f32)


def activated(y: np.ndarray, prelu: dict[str, np.ndarray], limits: tuple[float, float] | None) -> np.ndarray:
    """What may follow a residual and a relu."""
    if prelu:
        z = y * prelu["scale"] + prelu["shift"]
        y = np.where(z >= 0, z, z * prelu["slope"]) * prelu["after_scale"] + prelu["after_shift"]
    return y if limits is None else np.minimum(np.maximum(y, f32(limits[0])), f32(limits[1]))


def finished(sums: np.ndarray, parts: dict, residual: np.ndarray | None, relu: bool, two: bool) -> np.ndarray:
    y = sums[0].astype(f32)
    if "multiplier" in parts:
        y = y * parts["multiplier"]
    if two:
        y = y - sums[1].astype(f32) * parts["negative"]
    if "bias" in parts:
        y = y + parts["bias"]
    if "scale" in parts:
        y = y * parts["scale"] + parts["shift"]
    if residual is not None:
        y = y + residual
    return np.where(y < 0, f32(0), y) if relu else y


@given(case=convs())
@EXAMPLES
def test_convolution(case: Conv) -> None:
    rng = np.random.default_rng(case.seed)
    built = build(case, rng)
    two, shape = case.weights == "two magnitudes", built.sums.shape[1:]
    parts: dict[str, np.ndarray] = {}
    if rng.random() < 0.8 or two:
        parts["multiplier"] = per_channel(rng, case.out_c)
    if two:
        parts["negative"] = per_channel(rng, case.out_c)
    if rng.random() < 0.5:
        parts["bias"] = per_channel(rng, case.out_c)
    if rng.random() < 0.5:
        parts |= {"scale": per_channel(rng, case.out_c), "shift": per_channel(rng, case.out_c)}
    residual = rng.standard_normal(shape).astype(f32) if rng.random() < 0.4 else None
    relu, out = bool(rng.random() < 0.3), bool(rng.random() < 0.6)
    encode, expected_codes, layout = None, None, None
    names = ("scale", "shift", "slope", "after_scale", "after_shift")
    prelu = {name: per_channel(rng, case.out_c) for name in names} if rng.random() < 0.3 else {}
    limits = (-0.5, float(rng.choice([1, np.inf]))) if rng.random() < 0.3 else None
    y = activated(finished(built.sums, parts, residual, relu, two), prelu, limits)
    if not out or rng.random() < 0.6:
        kind = str(rng.choice(["sign", "quantize"]))
        low = int(rng.integers(-5, 2)) if kind == "quantize" else 0
        planes = int(rng.choice([0, 1, 2, 3]))
        high = low + (1 << (planes or 8)) - 1 if kind == "quantize" else 1
        reciprocal = float(rng.choice([0.05, 1.0, 3.0]))
        z, affine = y, {}
        if rng.random() < 0.5:
            affine = {"scale": per_channel(rng, case.out_c), "shift": per_channel(rng, case.out_c)}
            z = y * affine["scale"] + affine["shift"]
        groups = int(rng.choice([g for g in (1, 2, 3) if case.out_c % g == 0]))
        layout = Layout(shape[1], shape[2], case.out_c, groups, tuple(rng.integers(0, 3, 4).tolist()), planes)
        encode = _native.Encode(kind, layout.native, reciprocal=reciprocal, low=low, high=high, **affine)
        expected_codes = layout.store(encoded(kind, z, reciprocal, low, high))
    ends = {"prelu": _native.Prelu(**prelu) if prelu else None, "limits": limits, "out": out, "encode": encode}
    finish = _native.Finish(case.out_c, **parts, residual=residual is not None, relu=relu, **ends)
    inputs = [built.layout.store(built.codes)] + ([residual] if residual is not None else [])
    for level, kernel in KERNELS:
        _native.set_isa(level)
        operation = built.operation(case, finish, kernel)
        results = _native.run_operation(operation, inputs, case.batch, case.threads)
        if out:
            assert np.array_equal(results[0].view(f32).reshape(shape), y), (level, kernel)
        if expected_codes is not None:
            assert np.array_equal(results[-1], expected_codes.ravel()), (level, kernel)


@given(case=convs(), negative=st.booleans())
@EXAMPLES
def test_signs_come_from_thresholds_that_follow_the_floats(case: Conv, negative: bool) -> None:
    """Offsets are chosen so that sums lie at and beside the boundary, where roundings of the sequence decide."""
    if case.weights == "two magnitudes":
        return
    rng = np.random.default_rng(case.seed)
    built = build(case, rng)
    sums = built.sums[0]
    scale = rng.uniform(0.01, 3, case.out_c).astype(f32) * rng.choice([-1, 1] if negative else [1], case.out_c).astype(
        f32
    )
    scale[rng.random(case.out_c) < 0.1] = 0
    some = sums.reshape(-1, case.out_c)[rng.integers(0, sums[..., 0].size, case.out_c), np.arange(case.out_c)]
    multiplier = rng.uniform(0.01, 3, case.out_c).astype(f32)
    shift = -(some.astype(f32) * multiplier * scale)
    y = finished(built.sums, {"multiplier": multiplier}, None, False, False) * scale + shift
    layout = Layout(sums.shape[1], sums.shape[2], case.out_c, margins=(1, 0, 2, 1))
    encode = _native.Encode("sign", layout.native, scale=scale, shift=shift)
    finish = _native.Finish(case.out_c, multiplier=multiplier, out=False, encode=encode)
    expected = layout.store(encoded("sign", y, 1, 0, 1)).ravel()
    for level in LEVELS:
        _native.set_isa(level)
        results = _native.run_operation(
            built.operation(case, finish), [built.layout.store(built.codes)], case.batch, case.threads
        )
        assert np.array_equal(results[0], expected), level


@given(
    batch=st.integers(1, 3), channels=st.integers(1, 700), outputs=st.integers(1, 200), planes=st.integers(1, 8),
    threads=st.integers(1, 3), seed=st.integers(0, 2**31),
)  # fmt: skip
@EXAMPLES
def test_linear(batch: int, channels: int, outputs: int, planes: int, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << planes, (batch, 1, 1, channels))
    k = rng.choice([-1, 1], (outputs, channels, 1, 1)).astype(np.int8)
    layout = Layout(1, 1, channels, planes=planes)
    expected = (codes.reshape(batch, channels) @ k.reshape(outputs, channels).T.astype(np.int64)).astype(f32)
    for level in LEVELS:
        _native.set_isa(level)
        operation = _native.BitConvOp(
            _native.Window((1, 1), channels, outputs), layout.native, 0, 1, k, finish=_native.Finish(outputs)
        )
        (y,) = _native.run_operation(operation, [layout.store(codes)], batch, threads)
        assert np.array_equal(y.view(f32).reshape(batch, outputs), expected), level


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return Layout(
        draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 80)) * groups, groups,
        draw(st.tuples(*[st.integers(0, 2)] * 4)), draw(st.sampled_from([0, 1, 1, 2, 4, 8])),
    )  # fmt: skip


def affine_extra(rng: np.random.Generator, channels: int, affine: bool) -> dict[str, np.ndarray]:
    return {"scale": per_channel(rng, channels), "shift": per_channel(rng, channels)} if affine else {}


def bounds(rng: np.random.Generator, planes: int) -> dict[str, int]:
    low = int(rng.integers(-5, 3))
    return {"low": low, "high": low + int(rng.integers(1, 1 << (planes or 8)))}


def numbers_to_encode(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = (rng.standard_normal(shape) * 3).astype(f32)
    x[rng.random(shape) < 0.1] = rng.choice(np.array([0.0, -0.0, 0.5, 2.5, np.nan, np.inf, -np.inf, 1e30], f32))
    return x


@given(layout=layouts(), kind=st.sampled_from(["sign", "quantize"]), affine=st.booleans(), seed=st.integers(0, 2**31))
@EXAMPLES
def test_encoding(layout: Layout, kind: str, affine: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, threads = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    x = numbers_to_encode(rng, batch, layout.height, layout.width, layout.channels)
    limits, extra = bounds(rng, layout.planes), affine_extra(rng, layout.channels, affine)
    with np.errstate(invalid="ignore"):
        z = x * extra["scale"] + extra["shift"] if affine else x
    expected = layout.store(encoded(kind, z, 1.25, **limits)).ravel()
    for level in LEVELS:
        _native.set_isa(level)
        operation = _native.EncodeOp(_native.Encode(kind, layout.native, reciprocal=1.25, **limits, **extra))
        (codes,) = _native.run_operation(operation, [x], batch, threads)
        assert np.array_equal(codes, expected), level


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 50)), channels=st.integers(1, 4),
    margins=st.tuples(*[st.integers(0, 2)] * 4), kind=st.sampled_from(["sign", "quantize"]), affine=st.booleans(),
    uint8=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
@EXAMPLES
def test_encoding_images(size, channels: int, margins, kind: str, affine: bool, uint8: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, threads = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    layout = Layout(*size, channels, 1, margins, 0)
    x = numbers_to_encode(rng, batch, channels, *size)
    if uint8:
        x = rng.integers(0, 256, x.shape, np.uint8)
    limits, extra = bounds(rng, 0), affine_extra(rng, channels, affine)
    z = (x / f32(255) if uint8 else x).transpose(0, 2, 3, 1)
    with np.errstate(invalid="ignore"):
        z = z * extra["scale"] + extra["shift"] if affine else z
    expected = layout.store(encoded(kind, z, 9.5, **limits)).ravel()
    for level in LEVELS:
        _native.set_isa(level)
        encode = _native.Encode(kind, layout.native, reciprocal=9.5, **limits, **extra)
        (codes,) = _native.run_operation(_native.EncodeImageOp(encode, uint8), [x], batch, threads)
        assert np.array_equal(codes, expected), level


@given(layout=layouts(), seed=st.integers(0, 2**31))
@EXAMPLES
def test_pooling_codes(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = int(rng.integers(1, 3))
    image = np.array([layout.height, layout.width])
    kernel = rng.integers(1, 4, 2)
    padding = np.array([rng.integers(0, k // 2 + 1) for k in kernel])
    padding = np.maximum(padding, (kernel - image + 1) // 2)  # windows that fit
    stride = rng.integers(1, 4, 2)
    size = (image + 2 * padding - kernel) // stride + 1
    codes = rng.integers(0, 1 << (layout.planes or 8), (batch, *image, layout.channels))
    least = rng.random(layout.channels) < rng.choice([0, 0.5])
    turn = np.where(least, (1 << (layout.planes or 8)) - 1, 0)  # the least codes have the largest complements
    padded = np.pad(codes ^ turn, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    expected = np.zeros((batch, *size, layout.channels), np.int64)
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            seen = padded[
                :, y : y + (size[0] - 1) * stride[0] + 1 : stride[0], x : x + (size[1] - 1) * stride[1] + 1 : stride[1]
            ]
            expected = np.maximum(expected, seen)
    out = Layout(*map(int, size), layout.channels, layout.groups, tuple(rng.integers(0, 3, 4).tolist()), layout.planes)
    pairs = [tuple(map(int, pair)) for pair in (image, kernel, stride, padding)]
    window = _native.Window(pairs[0], layout.channels, layout.channels, *pairs[1:])
    operation = _native.PoolCodesOp(window, layout.native, out.native, least.tolist())
    (result,) = _native.run_operation(operation, [layout.store(codes)], batch, int(rng.integers(1, 4)))
    assert np.array_equal(result, out.store(expected ^ turn).ravel())


# --- refusals


def test_refusals_say_what_was_expected() -> None:
    window, layout = _native.Window((4, 4), 8, 8, (3, 3), padding=(1, 1)), Layout(4, 4, 8, margins=(1, 1, 1, 1))
    finish, k = _native.Finish(8), np.ones((8, 8, 3, 3), np.int8)

    def refuse(match: str, layout: Layout = layout, step: int = 2, k: np.ndarray = k) -> None:
        with pytest.raises(ValueError, match=match):
            _native.BitConvOp(window, layout.native, -1, step, k, 0, finish=finish)

    refuse("margins of x are smaller", layout=Layout(4, 4, 8))
    refuse("has bytes, expected planes", layout=Layout(4, 4, 8, margins=(1, 1, 1, 1), planes=0))
    refuse("step is 3, expected 1 or 2", step=3)
    refuse("weights has 9, expected at most 8", k=np.full_like(k, 9))
    refuse("shape", k=k[:4])
    with pytest.raises(ValueError, match="kernel is 'best', expected"):
        _native.BitConvOp(window, layout.native, -1, 2, k, finish=finish, kernel="best")
    big = _native.Window((1, 1), 1 << 18, 1)
    with pytest.raises(ValueError, match="may not fit in 32 bits"):
        _native.BitConvOp(
            big,
            Layout(1, 1, 1 << 18, planes=8).native,
            0,
            1,
            np.ones((1, 1 << 18, 1, 1), np.int8),
            finish=_native.Finish(1),
        )
    with pytest.raises(ValueError, match="other channels, groups or planes"):
        _native.PoolCodesOp(_native.Window((4, 4), 8, 8), Layout(4, 4, 8).native, Layout(4, 4, 8, planes=2).native)
    for few in (Layout(4, 4, 5, planes=0), Layout(4, 4, 3, planes=1), Layout(4, 4, 4, 2, planes=0)):
        with pytest.raises(ValueError, match="expected bytes of at most 4 channels in one group"):
            _native.EncodeImageOp(_native.Encode("sign", few.native))
