"""The context coder (FORMAT.md 5.5), readable; native/context.cc is the same, line by line, and far faster.

A sparse matrix is coded bit by bit: is the element zero; if not, its sign; then its magnitude. Every bit has a
probability that is mixed from estimates of what its neighbourhood did so far (its line, its column, elements next to
it, also in the image that a fully connected first layer looks at), by the logistic mixing of PAQ: with
st(p) = ln(p / (1 - p)),

    st(p) = st(p_0) + sum_i w_i (st(p_i) - st(p_0)),      w_i += rate * (bit - p) * (st(p_i) - st(p_0)).

On the trained and pruned LeNets this takes 15 to 26 % less than gaps and codes at their order-0 entropy. Mahoney,
"Adaptive Weighing of Context Models for Lossless Data Compression", 2005; the idea of context-coded weights: DeepCABAC
(Wiedemann et al., 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIMIT, HALF = 2047, 1 << 15
FIRST_WEIGHT, LARGEST_WEIGHT, RATE = 24000, 1 << 20, 14
LARGEST_GRID, MOST_MAGNITUDE_BITS = 1 << 26, 12
KNOTS = (
    *(22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793, 47911),
    *(53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514),
)
Count = list[int]  # [bits, ones among them]


@dataclass(frozen=True)
class Shape:
    """What both sides know before the first bit.

    lines x length elements; stride: width of the image that a line shows (0: none); bits of a magnitude (-1: elements
    are just zero or not); number of non-zeros.
    """

    lines: int
    length: int
    stride: int
    magnitude_bits: int
    nonzeros: int


def squash(stretched: int) -> int:
    """Probability in 1/65536 of a stretched one (in 1/256), linear between the knots."""
    s = max(-LIMIT, min(LIMIT, stretched))
    knot, part = (s + 2048) >> 7, s & 127
    return (KNOTS[knot] * (128 - part) + KNOTS[knot + 1] * part + 64) >> 7


_squashed = np.array([squash(s) for s in range(-LIMIT, LIMIT + 1)])
STRETCH = np.minimum(np.searchsorted(_squashed, np.arange(65536)) - LIMIT, LIMIT).tolist()
"""STRETCH[p] is the smallest s with squash(s) >= p."""


def estimate(count: Count, prior: int, weight: int) -> int:
    """Stretched probability after `count`, where `prior` (1/65536) counts like `weight` bits."""
    return STRETCH[min(65535, (count[1] * 65536 + weight * prior) // (count[0] + weight))]


class Encoder:
    """Carryless binary arithmetic coder with 32-bit bounds."""

    def __init__(self) -> None:
        self.low, self.high, self.out = 0, 0xFFFFFFFF, bytearray()

    def code(self, bit: int, p: int) -> int:
        """Write `bit`, whose probability to be 1 is p / 65536."""
        middle = self.low + ((self.high - self.low >> 16) * p) + (((self.high - self.low & 0xFFFF) * p) >> 16)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) >> 24 == 0:
            self.out.append(self.high >> 24)
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
        return bit

    def finish(self) -> bytes:
        """As few bytes as name a number of [low, high] when zeros follow."""
        for size in range(5):
            mask = (1 << (32 - 8 * size)) - 1
            value = (self.low + mask) & ~mask
            if value <= self.high:
                return bytes(self.out) + value.to_bytes(4, "big")[:size]
        raise AssertionError("four bytes always name low itself")


class Decoder:
    """The inverse of `Encoder`; beyond the end it reads zeros."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read, self.low, self.high, self.value = data, 0, 0, 0xFFFFFFFF, 0
        for _ in range(4):
            self._shift()

    def _shift(self) -> None:
        byte = self.data[self.read] if self.read < len(self.data) else 0
        self.value, self.read = self.value << 8 & 0xFFFFFFFF | byte, self.read + 1

    def code(self, _: int, p: int) -> int:
        """Read a bit."""
        middle = self.low + ((self.high - self.low >> 16) * p) + (((self.high - self.low & 0xFFFF) * p) >> 16)
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) >> 24 == 0:
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
            self._shift()
        return bit


class Mixer:
    """Mixes stretched estimates, the first as it is, and learns from every bit."""

    def __init__(self) -> None:
        self.weights = [FIRST_WEIGHT] * 5

    def code(self, coder: Encoder | Decoder, bit: int, base: int, estimates: list[int]) -> int:
        """Code a bit with the mixed probability."""
        inputs = [e - base for e in estimates]
        p = squash(((base << 16) + sum(w * x for w, x in zip(self.weights, inputs, strict=False))) >> 16)
        bit = coder.code(bit, p)
        error = (bit << 16) - p
        for i, x in enumerate(inputs):
            weight = self.weights[i] + (error * x >> RATE)
            self.weights[i] = max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, weight))
        return bit


def _sign(level: int) -> int:
    return (level > 0) - (level < 0)


def _add(count: Count, bit: int) -> None:
    count[0] += 1
    count[1] += bit


def _counts(size: int) -> list[Count]:
    return [[0, 0] for _ in range(size)]


class Model:
    """Walks over the grid (flat): with an encoder it reads the levels, with a decoder it writes them."""

    def __init__(self, grid: list[int], shape: Shape, coder: Encoder | Decoder) -> None:
        self.grid, self.shape, self.coder = grid, shape, coder
        elements = shape.lines * shape.length
        self.prior = max(16, min(65520, shape.nonzeros * 65536 // elements)) if elements else HALF
        self.columns = [0] * shape.length
        self.positives = _counts(shape.length)
        nodes = 1 << max(0, shape.magnitude_bits)
        self.node, self.node_sign, self.node_place = _counts(nodes), _counts(2 * nodes), _counts(16 * nodes)
        self.near, self.image = _counts(16), _counts(32)
        self.sign_image, self.sign_other, self.all_signs = _counts(27), _counts(27), [0, 0]
        self.mask, self.signs, self.magnitudes = Mixer(), Mixer(), Mixer()

    def run(self) -> None:
        """All lines."""
        for line in range(self.shape.lines):
            self.line, self.last_sign = line, 0
            self.in_line, self.positive_in_line = [0, 0], [0, 0]
            for c in range(self.shape.length):
                self._element(c)

    def _element(self, c: int) -> None:
        self.at, self.here = c, self.line * self.shape.length + c
        x, w = (c % self.shape.stride if self.shape.stride else c), self.shape.stride
        self.left, self.left2, self.right = x > 0, x > 1, w > 0 and x + 1 < w
        level = self.grid[self.here]
        coded = nonzero = self._code_nonzero(int(level != 0))
        if nonzero and self.shape.magnitude_bits >= 0:
            positive = self._code_sign(int(level > 0))
            magnitude = self._code_magnitude(abs(level) - 1, positive) + 1
            coded = magnitude if positive else -magnitude
            _add(self.positive_in_line, positive)
            _add(self.positives[c], positive)
            self.last_sign = _sign(coded)
        self.grid[self.here] = coded
        _add(self.in_line, nonzero)
        self.columns[c] += nonzero

    def _level(self, lines: int, places: int) -> int:
        """The level `lines` before and `places` to the left, 0 outside."""
        if lines > self.line or places > self.at:
            return 0
        return self.grid[self.here - lines * self.shape.length - places]

    def _set(self, lines: int, places: int) -> int:
        return int(self._level(lines, places) != 0)

    def _code_nonzero(self, bit: int) -> int:
        w = self.shape.stride
        near = self.near[self._set(0, 1) | self._set(0, 2) << 1 | self._set(1, 0) << 2 | self._set(2, 0) << 3]
        before = (2 * self._set(0, 1) if self.left else 0) + (self._set(0, 2) if self.left2 else 0)
        above = 0
        if w:
            above = 2 * self._set(0, w) + self._set(0, 2 * w)
            above += (self._set(0, w + 1) if self.left else 0) + (self._set(0, w - 1) if self.right else 0)
        image = self.image[before * 8 + above]
        estimates = [
            estimate(self.in_line, self.prior, 4),
            estimate([self.line, self.columns[self.at]], self.prior, 4),
            estimate(near, self.prior, 2),
            estimate(image, self.prior, 2),
            estimate(self._around(), self.prior, 4),
        ]
        bit = self.mask.code(self.coder, bit, STRETCH[self.prior], estimates)
        _add(near, bit)
        _add(image, bit)
        return bit

    def _around(self) -> Count:
        """Bits and ones so far of the columns next to this one."""
        c, w, columns = self.at, self.shape.stride, []
        if self.left:
            columns.append(c - 1)
        if (not w or self.right) and c + 1 < self.shape.length:
            columns.append(c + 1)
        if w and c >= w:
            columns.append(c - w)
        if w and c + w < self.shape.length:
            columns.append(c + w)
        return [len(columns) * self.line, sum(self.columns[column] for column in columns)]

    def _code_sign(self, bit: int) -> int:
        w = self.shape.stride
        beside = _sign(self._level(0, 1)) if self.left else 0
        above = _sign(self._level(0, w)) if w else 0
        corners = _sign(self._level(0, w + 1)) if w and self.left else 0
        corners = _sign(corners + (_sign(self._level(0, w - 1)) if self.right else 0))
        far = _sign(self._level(0, 2 * w)) if w else 0
        image = self.sign_image[(beside + 1) * 9 + (above + 1) * 3 + corners + 1]
        other = self.sign_other[self.last_sign + 1 + (_sign(self._level(1, 0)) + 1) * 3 + (far + 1) * 9]
        counts = [self.positive_in_line, self.positives[self.at], image, other]
        base = estimate(self.all_signs, HALF, 2)
        bit = self.signs.code(self.coder, bit, base, [estimate(count, HALF, 2) for count in counts])
        for count in (image, other, self.all_signs):
            _add(count, bit)
        return bit

    def _code_magnitude(self, magnitude: int, positive: int) -> int:
        beside = abs(self._level(0, 1)) if self.left else 0
        above = abs(self._level(0, self.shape.stride)) if self.shape.stride else 0
        ones = self.columns[self.at]
        place = 4 * min(3, max(beside, above)) + (ones >= 8) + (ones >= 24) + (ones >= 48)
        node = 1
        for i in reversed(range(self.shape.magnitude_bits)):
            plain, with_sign = self.node[node], self.node_sign[2 * node + positive]
            with_place = self.node_place[16 * node + place]
            estimates = [estimate(with_sign, HALF, 4), estimate(with_place, HALF, 4)]
            bit = self.magnitudes.code(self.coder, magnitude >> i & 1, estimate(plain, HALF, 2), estimates)
            for count in (plain, with_sign, with_place):
                _add(count, bit)
            node = 2 * node + bit
        return node - (1 << self.shape.magnitude_bits)


def encode(grid: np.ndarray, shape: Shape) -> bytes:
    """The bytes of the levels (flat, visited line by line)."""
    encoder = Encoder()
    Model(grid.tolist(), shape, encoder).run()
    return encoder.finish()


def decode(data: bytes, shape: Shape) -> np.ndarray:
    """The levels (int16) of `data`; ValueError where it has the wrong length."""
    decoder, grid = Decoder(data), [0] * (shape.lines * shape.length)
    Model(grid, shape, decoder).run()
    if not len(data) <= decoder.read <= len(data) + 4:
        raise ValueError("context payload has the wrong length")
    return np.array(grid, np.int16)
