"""Convolutions of byte codes, at every instruction set, bit for bit against NumPy's integers and float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import _native

LEVELS = _native.isa_names()


@contextmanager
def level(name: str) -> Iterator[None]:
    _native.set_isa(name)
    yield
    _native.set_isa(None)


@dataclass(frozen=True)
class Layout:
    """What CodeLayout takes; packs and unpacks codes [N, H, W, C]."""

    height: int
    width: int
    channels: int
    groups: int = 1
    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0
    planes: int = 0

    @property
    def native(self) -> _native.CodeLayout:
        sides = {name: getattr(self, name) for name in ("top", "left", "bottom", "right")}
        return _native.CodeLayout(self.height, self.width, self.channels, self.groups, **sides, planes=self.planes)

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """The bytes of images whose margins and unused bits are 0."""
        n = len(codes)
        unit = 32 if self.planes else 4
        per_group = self.channels // self.groups
        padded = -(-per_group // unit) * unit
        margins = ((0, 0), (self.top, self.bottom), (self.left, self.right), (0, 0), (0, padded - per_group))
        full = np.pad(codes.reshape(n, self.height, self.width, self.groups, per_group), margins)
        if self.planes:
            bits = full[:, None] >> np.arange(self.planes).reshape(1, -1, 1, 1, 1, 1) & 1
            full = np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little")
        flat = full.astype(np.uint8).reshape(n, int(np.prod(full.shape[1:])))
        return np.pad(flat, ((0, 0), (0, self.native.image_bytes - flat.shape[1])))


@dataclass(frozen=True)
class Case:
    """A convolution of codes and what becomes of its sums."""

    image: tuple[int, int] = (5, 6)
    in_c: int = 7
    out_c: int = 9
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    margin: int = 0  # more margin than the window needs
    batch: int = 2
    low: int = 0
    step: int = 1
    outside: int = 0
    largest: int = 127
    codes: int = 256  # different ones
    two: bool = False
    multiplier: bool = True
    bias: bool = False
    scale: bool = False
    residual: bool = False
    relu: bool = False
    prelu: bool = False
    limits: tuple[float, float] | None = None
    out: bool = True
    encode: str = ""  # "", "sign" or "quantize"
    encode_scale: bool = False
    encode_groups: int = 1
    encode_planes: int = 0
    encode_margin: int = 0
    threads: int = 1
    seed: int = 0

    @property
    def output(self) -> tuple[int, int]:
        sizes = zip(self.image, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in sizes)
        return height, width

    @property
    def fits(self) -> bool:
        planes_fit = not (self.in_c % self.groups or self.out_c % self.groups or self.out_c % self.encode_groups)
        return min(self.output) > 0 and planes_fit and (self.out or bool(self.encode))


def exact_sums(case: Case, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The definition: numbers [N, H, W, C] and weights [O, C / groups, kh, kw] to int64 [N, H', W', O]."""
    (ph, pw), (sh, sw), (dh, dw) = case.padding, case.stride, case.dilation
    padded = np.pad(numbers, ((0, 0), (ph, ph), (pw, pw), (0, 0)), constant_values=case.outside)
    height, width = case.output
    per_group, out_group = case.in_c // case.groups, case.out_c // case.groups
    sums = np.zeros((len(numbers), height, width, case.out_c), np.int64)
    for ky in range(case.kernel[0]):
        for kx in range(case.kernel[1]):
            y, x = ky * dh, kx * dw
            taken = padded[:, y : y + (height - 1) * sh + 1 : sh, x : x + (width - 1) * sw + 1 : sw]
            for g in range(case.groups):
                outs = slice(g * out_group, (g + 1) * out_group)
                ins = taken[..., g * per_group : (g + 1) * per_group]
                sums[..., outs] += ins @ weights[outs, :, ky, kx].T.astype(np.int64)
    return sums


@dataclass
class Computed:
    floats: np.ndarray | None
    codes: np.ndarray | None


class Problem:
    """Random numbers for a case, the operation and what it must give."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = np.random.default_rng(case.seed)
        (ph, pw), m = case.padding, case.margin
        self.x_layout = Layout(*case.image, case.in_c, case.groups, ph + m, pw + m, ph, pw + 2 * m)
        self.codes = rng.integers(0, case.codes, (case.batch, *case.image, case.in_c))
        shape = (case.out_c, case.in_c // case.groups, *case.kernel)
        largest = 1 if case.two else case.largest
        self.weights = rng.integers(-largest, largest + 1, shape).astype(np.int8)
        if largest == 127:
            self.weights.reshape(-1)[0] = -128
        self.vectors = {
            name: rng.standard_normal(case.out_c).astype(np.float32)
            for name, given in (
                ("multiplier", case.multiplier),
                ("negative", case.two),
                ("bias", case.bias),
                ("scale", case.scale),
                ("shift", case.scale),
            )
            if given
        }
        if "multiplier" in self.vectors:
            self.vectors["multiplier"] *= np.float32(0.01)
        names = ("scale", "shift", "slope", "after_scale", "after_shift")
        self.prelu = {name: rng.standard_normal(case.out_c).astype(np.float32) for name in names}
        self.encode_vectors = {
            name: rng.standard_normal(case.out_c).astype(np.float32) for name in ("scale", "shift") if case.encode_scale
        }
        self.reciprocal, self.low = np.float32(1.37), -3 if case.encode_planes else -100
        self.high = self.low + (1 << (case.encode_planes or 8)) - 1
        height, width = case.output
        margin = case.encode_margin
        self.out_layout = Layout(
            height, width, case.out_c, case.encode_groups, margin, 2 * margin, margin, margin, case.encode_planes
        )
        self.residual = rng.standard_normal((case.batch, height, width, case.out_c)).astype(np.float32)

    def operation(self, **changes: Any) -> _native.ByteConvOp:
        c = self.case
        encode = None
        if c.encode:
            encode = _native.Encode(
                c.encode,
                self.out_layout.native,
                **self.encode_vectors,
                reciprocal=float(self.reciprocal),
                low=self.low,
                high=self.high,
            )
        ends = {"prelu": _native.Prelu(**self.prelu) if c.prelu else None, "limits": c.limits}
        ends |= {"out": c.out, "encode": encode}
        finish = _native.Finish(c.out_c, **self.vectors, residual=c.residual, relu=c.relu, **ends)
        window = _native.Window(c.image, c.in_c, c.out_c, c.kernel, c.stride, c.padding, c.dilation, c.groups)
        arguments = {"weights": self.weights, "padding": c.outside, "step": c.step, "low": c.low}
        arguments |= {"largest": c.codes - 1, **changes}
        return _native.ByteConvOp(window, self.x_layout.native, finish=finish, **arguments)

    def run(self, isa: str) -> Computed:
        with level(isa):
            operation = self.operation()
        inputs = [self.x_layout.pack(self.codes)] + [self.residual] * self.case.residual
        results = _native.run_operation(operation, inputs, self.case.batch, self.case.threads)
        floats = results.pop(0).view(np.float32).reshape(self.residual.shape) if self.case.out else None
        return Computed(floats, results[0].reshape(self.case.batch, operation.output_bytes[-1]) if results else None)

    def expected(self) -> Computed:
        c, v, f32 = self.case, self.vectors, np.float32
        numbers = c.low + c.step * self.codes
        if c.two:
            y = exact_sums(c, numbers, self.weights == 1).astype(f32)
            y = y * v["multiplier"] if c.multiplier else y
            y = y - exact_sums(c, numbers, self.weights == -1).astype(f32) * v["negative"]
        else:
            y = exact_sums(c, numbers, self.weights).astype(f32)
            y = y * v["multiplier"] if c.multiplier else y
        y = y + v["bias"] if c.bias else y
        y = y * v["scale"] + v["shift"] if c.scale else y
        y = y + self.residual if c.residual else y
        y = np.where(y < 0, f32(0), y) if c.relu else y
        if c.prelu:
            z = y * self.prelu["scale"] + self.prelu["shift"]
            y = np.where(z >= 0, z, z * self.prelu["slope"]) * self.prelu["after_scale"] + self.prelu["after_shift"]
        y = y if c.limits is None else np.minimum(np.maximum(y, f32(c.limits[0])), f32(c.limits[1]))
        assert y.dtype == f32
        return Computed(y if c.out else None, self.out_layout.pack(self.encoded(y)) if c.encode else None)

    def encoded(self, y: np.ndarray) -> np.ndarray:
        if self.encode_vectors:
            y = y * self.encode_vectors["scale"] + self.encode_vectors["shift"]
        if self.case.encode == "sign":
            return (y >= 0).astype(np.int64)
        return np.clip(np.rint(y * self.reciprocal), self.low, self.high).astype(np.int64) - self.low


def check(case: Case, levels: list[str] = LEVELS) -> None:
    problem = Problem(case)
    expected = problem.expected()
    for isa in levels:
        found = problem.run(isa)
        for part in ("floats", "codes"):
            a, b = getattr(found, part), getattr(expected, part)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.tobytes() == b.tobytes(), f"{part} at {isa}: {case}"


PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
CASES = st.builds(
    Case,
    image=st.tuples(st.integers(1, 9), st.integers(1, 33)),
    in_c=st.sampled_from([1, 2, 3, 4, 5, 8, 12, 20, 64]),
    out_c=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 20, 33, 40, 48, 64]),
    kernel=PAIRS,
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 1, 1, 2, 3, 4, 8, 20]),
    margin=st.integers(0, 2),
    batch=st.integers(0, 3),
    low=st.integers(-255, 3),
    step=st.integers(1, 2),
    outside=st.integers(-2, 2),
    largest=st.sampled_from([1, 7, 127]),
    codes=st.sampled_from([256, 256, 16, 4, 2]),
    two=st.booleans(),
    multiplier=st.booleans(),
    bias=st.booleans(),
    scale=st.booleans(),
    residual=st.booleans(),
    relu=st.booleans(),
    prelu=st.booleans(),
    limits=st.sampled_from([None, None, (-0.5, 1.5), (-1.0, float("inf"))]),
    out=st.booleans(),
    encode=st.sampled_from(["", "sign", "quantize"]),
    encode_scale=st.booleans(),
    encode_groups=st.sampled_from([1, 1, 2, 3, 4, 16, 20]),
    encode_planes=st.integers(0, 3),
    encode_margin=st.integers(0, 2),
    threads=st.sampled_from([1, 1, 3]),
    seed=st.integers(0, 99),
).filter(lambda case: case.fits)


@given(CASES)
@settings(max_examples=300)
def test_any_convolution(case: Case) -> None:
    check(case)


LINEAR = Case(image=(1, 1), kernel=(1, 1), padding=(0, 0), in_c=300, out_c=70, encode="quantize")


@pytest.mark.parametrize("batch", [1, 2, 13, 14, 15, 60, 130])
@pytest.mark.parametrize("largest", [1, 7, 127])
@pytest.mark.parametrize("threads", [1, 4])
def test_linear_layers(batch: int, largest: int, threads: int) -> None:
    check(replace(LINEAR, batch=batch, largest=largest, threads=threads), LEVELS if batch < 20 else LEVELS[1:])


@pytest.mark.parametrize("in_c", [4, 31, 64, 127, 1000])
@pytest.mark.parametrize("two", [False, True])
def test_linear_layers_of_any_length(in_c: int, two: bool) -> None:
    check(replace(LINEAR, in_c=in_c, two=two, low=-3, batch=3))


@pytest.mark.parametrize(("largest", "two"), [(1, False), (7, False), (127, False), (1, True)])
def test_large_linear_layers(largest: int, two: bool) -> None:
    """Weights of few bits are packed where there are many."""
    case = replace(LINEAR, in_c=2101, out_c=2001, largest=largest, two=two, batch=3, threads=2)
    check(case, LEVELS[1:])
    with level(LEVELS[-1]):
        stored = Problem(case).operation().weight_bytes / 2101 / 2001
    if "avx512vnni" in LEVELS:
        assert round(8 * stored) == {1: 4 if two else 2, 7: 4, 127: 8}[largest]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("out_c", [64, 96, 120])
def test_threads_divide_rows_and_channels(threads: int, out_c: int) -> None:
    """Large enough to be worth threads; the encoded margins are written once."""
    case = Case((14, 14), 64, out_c, batch=1, encode="quantize", encode_margin=1, threads=threads, low=-7, outside=2)
    check(case, LEVELS[1:])


@pytest.mark.parametrize("image", [(4, 9), (5, 16), (9, 16), (7, 33)])
@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"in_c": 192, "out_c": 41},
        {"in_c": 192, "out_c": 37, "two": True},
        {"in_c": 384, "out_c": 96, "groups": 2, "residual": True},
        {"in_c": 190, "out_c": 16, "stride": (1, 2), "dilation": (2, 2), "padding": (2, 2)},
        {"in_c": 70, "out_c": 34, "kernel": (5, 5), "padding": (2, 2), "low": -1, "step": 2, "threads": 3},
    ],
)
def test_more_weights_than_the_first_level_cache_holds(
    image: tuple[int, int], out: bool, change: dict[str, Any]
) -> None:
    """Pairs of tiles then take them up a kernel row at a time; here one to twelve of them."""
    check(Case(image, out=out, encode="sign", **change), LEVELS[-1:])


@pytest.mark.parametrize("planes", [0, 1, 2])
@pytest.mark.parametrize("groups", [1, 5, 20, 40])
def test_depthwise_layers(planes: int, groups: int) -> None:
    check(
        Case((9, 17), 40, 40, groups=40, encode="quantize", encode_groups=groups, encode_planes=planes, stride=(2, 1))
    )


def test_largest_sums_are_exact() -> None:
    """All codes 255, all weights -128: the sums come near -2^31, far beyond what float32 holds."""
    case = replace(LINEAR, in_c=65_000, out_c=3, encode="", multiplier=False, batch=2)
    problem = Problem(case)
    problem.codes[:], problem.weights[:] = 255, -128
    for isa in LEVELS:
        np.testing.assert_array_equal(problem.run(isa).floats, np.float32(-128 * 255 * 65_000))


def test_nan_encodes_to_the_lowest_code() -> None:
    problem = Problem(Case(bias=True, encode="quantize"))
    problem.vectors["bias"][:] = np.nan
    for isa in LEVELS:
        assert not problem.run(isa).codes.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.zeros((9, 7, 3), np.int8)}, "weights"),
        ({"weights": np.zeros((9, 6, 3, 3), np.int8)}, r"\[O, C / groups"),
        ({"weights": np.zeros((9, 7, 3, 3), np.int16)}, "weights"),
        ({"low": 1 << 40}, "low"),
        ({"step": 0}, "step"),
        ({"step": 3}, "step"),
        ({"padding": -(1 << 20)}, "padding"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Problem(Case()).operation(**changes)


def test_refuses_sums_that_may_not_fit() -> None:
    with pytest.raises(ValueError, match=r"2\^31"):
        Problem(Case(in_c=32)).operation(weights=np.full((9, 32, 3, 3), 127, np.int8), low=-65_536)


def test_refuses_other_layouts() -> None:
    problem = Problem(Case())
    for wrong in ({"planes": 1}, {"top": 0}, {"channels": 8}):
        problem.x_layout = replace(Problem(Case()).x_layout, **wrong)
        with pytest.raises(ValueError, match="x"):
            problem.operation()


def test_refuses_two_magnitudes_of_other_weights() -> None:
    problem = Problem(Case(two=True))
    with pytest.raises(ValueError, match="two magnitudes"):
        problem.operation(weights=np.full((9, 7, 3, 3), 2, np.int8))


def test_names_its_kernel() -> None:
    names = set()
    for isa in LEVELS:
        with level(isa):
            names.add(Problem(Case()).operation().kernel)
    assert "bytes ref" in names
    assert names <= {f"bytes {isa}" for isa in LEVELS}


@pytest.mark.parametrize("isa", [name for name in LEVELS if name in ("avx2", "avx512")])
def test_sums_that_fit_16_bits_are_made_in_16_bits(isa: str) -> None:
    """Up to the largest sum that there can be, 258 * 127 = 32,766, whichever the signs."""
    window, layout = _native.Window((1, 1), 258, 4), Layout(1, 1, 258)
    weights = np.ones((4, 258, 1, 1), np.int8) * np.array([1, -1, 1, -1], np.int8).reshape(4, 1, 1, 1)
    weights[2:, 129:] *= -1
    codes = np.full((1, 1, 1, 258), 127)
    codes[..., -1] = 128
    for largest, kernel in ((127, f"bytes16 {isa}"), (128, f"bytes {isa}")):
        with level(isa):
            operation = _native.ByteConvOp(window, layout.native, 0, weights, finish=_native.Finish(4), largest=largest)
        assert operation.kernel == kernel
        given_codes = np.minimum(codes, largest)
        (found,) = _native.run_operation(operation, [layout.pack(given_codes)], 1)
        expected = weights[:, :, 0, 0].astype(np.int64) @ given_codes[0, 0, 0]
        assert found.view(np.float32).ravel().tolist() == expected.tolist()


@pytest.mark.parametrize("in_c", [64, 200])
@pytest.mark.parametrize("groups", [1, 4])
def test_narrow_sums_of_convolutions(in_c: int, groups: int) -> None:
    case = Case((9, 17), in_c, 40, codes=16, largest=1, batch=1, groups=groups, encode="quantize", low=-3, outside=1)
    check(case)
    with level("avx2" if "avx2" in LEVELS else LEVELS[-1]):
        assert Problem(case).operation().kernel in ("bytes16 avx2", "bytes ref")


@pytest.mark.parametrize("image", [(7, 7), (5, 16), (3, 17), (14, 14), (20, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_across_rows(image: tuple[int, int], stride: tuple[int, int], batch: int) -> None:
    """Rows shorter than a tile share one, together with the positions between them."""
    check(Case(image, 64, 40, stride=stride, batch=batch, encode="quantize", encode_margin=1, outside=1, low=-9))


def test_the_peak_is_plausible() -> None:
    assert all(1e8 < peak < 1e14 for peak in map(peak_of, LEVELS))


def peak_of(isa: str) -> float:
    with level(isa):
        return _native.byte_peak()


@given(
    in_c=st.integers(1, 90),
    levels=st.sampled_from([2, 16, 256]),
    most=st.integers(1, 4),
    batch=st.integers(0, 6),
    margin=st.integers(0, 1),
    residual=st.booleans(),
)
@settings(max_examples=100)
def test_few_samples_pass_as_bit_planes(
    in_c: int, levels: int, most: int, batch: int, margin: int, residual: bool
) -> None:
    """... and give what bytes give."""
    rng, out_c = np.random.default_rng(in_c), 20
    weights = rng.choice(np.array([-1, 1], np.int8), (out_c, in_c, 1, 1))
    multiplier, margins = rng.random(out_c, np.float32), dict.fromkeys(("top", "left", "bottom", "right"), margin)
    planes = _native.CodeLayout(1, 1, in_c, planes=(levels - 1).bit_length())
    made = _native.CodeLayout(1, 1, in_c, planes=0, **margins)
    floats = rng.integers(-3, levels + 3, (batch, in_c)).astype(np.float32)
    coder = _native.EncodeOp(_native.Encode("quantize", made, low=0, high=levels - 1))
    (codes,) = _native.run_operation(coder, [floats], batch)
    window = _native.Window((1, 1), in_c, out_c)
    finish = _native.Finish(out_c, multiplier=multiplier, residual=residual)
    many = _native.ByteConvOp(window, made, 0, weights, finish=finish)
    few = _native.BitConvOp(window, planes, 0, 1, weights, finish=finish)
    both = _native.ByBatchOp(few, many, planes, made, most)
    assert both.weight_bytes == few.weight_bytes + many.weight_bytes
    inputs = [codes, *([rng.standard_normal((batch, out_c)).astype(np.float32)] if residual else [])]
    (expected,) = _native.run_operation(many, inputs, batch)
    (found,) = _native.run_operation(both, inputs, batch)
    assert np.array_equal(found, expected)


def test_operations_that_are_not_of_one_layer_are_refused() -> None:
    layouts = [_native.CodeLayout(1, 1, 8, planes=n) for n in (2, 0)]
    operations = []
    for out_c in (3, 4):
        window, finish, weights = (
            _native.Window((1, 1), 8, out_c),
            _native.Finish(out_c),
            np.ones((out_c, 8, 1, 1), np.int8),
        )
        operations.append(_native.BitConvOp(window, layouts[0], 0, 1, weights, finish=finish))
        operations.append(_native.ByteConvOp(window, layouts[1], 0, weights, finish=finish))
    with pytest.raises(ValueError, match="not of one layer"):
        _native.ByBatchOp(operations[0], operations[3], *layouts, 2)
    with pytest.raises(ValueError, match="not of bit planes and of bytes"):
        _native.ByBatchOp(operations[0], operations[1], *layouts[::-1], 2)
