"""How few bits each layer's weights and values need: two searches over configurations, whatever they are of.

A configuration gives each knob its bits. Knobs are the integer and fraction bits of a value (Judd et al. 2015), all its
bits, or the bits of a layer's weights. Nothing here knows networks: a `Space` says what a configuration does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from bitwright.errors import BitwrightError
from bitwright.measure.bit_costs import FLOAT_BITS, traffic_ratio
from bitwright.steps.layers import check_count, check_number

Kind = Literal["integer", "fraction", "data", "weight"]
LARGEST_FORMAT = 16
"""Integer and fraction bits of a value together."""
_LOSSLESS = 0.999
"""Relative accuracy of the configuration that the descent starts from (Judd et al. 2015)."""
_PROBE_BITS = 4


class Knob(NamedTuple):
    """What of which value or layer."""

    kind: Kind
    name: str


Config = dict[Knob, int]


class Space(Protocol):
    """What the searches ask for."""

    @property
    def values(self) -> Mapping[str, int]:
        """How many numbers each value has for one image."""

    @property
    def weights(self) -> Mapping[str, int]:
        """How many weights each layer has."""

    @property
    def integer_bits(self) -> int:
        """As many as the largest number of any value needs."""

    def accuracy(self, config: Config) -> float:
        """In percent; what the configuration doesn't mention is float32."""

    def distortion(self, config: Config) -> float:
        """How far the configuration moves the network's outputs, squared."""

    def error(self, knob: Knob, bits: int) -> float:
        """The squared error of one value's numbers, or of a layer's weights, without running the network."""


@dataclass(frozen=True)
class BitSearch:
    """Find the bits of each layer instead of giving them.

    method      "greedy", Judd's slowest descent, or "sensitivity", which asks far less often; see `greedy`, `sensitive`
    tolerance   how much accuracy the result may lose, in percent of that of the float network, on the images it is
                searched with
    weights     whether weights have bits of their own per layer, or the fewest of all that lose nothing
    images      of the validation split, from its start
    scan        also record the accuracy with each value and each layer's weights alone at every width
    """

    method: Literal["greedy", "sensitivity"] = "sensitivity"
    tolerance: float = 1.0
    weights: bool = True
    images: int = 1000
    scan: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("greedy", "sensitivity"):
            raise BitwrightError(f"search: method is {self.method!r}; expected greedy or sensitivity", kind="setting")
        check_number("search: tolerance", self.tolerance, lambda t: 0 <= t < 100, "percent, 0 to below 100")
        check_count("search: images", self.images, 1)


TOLERANCES = (1.0, 2.0, 5.0, 10.0)
"""In percent, those of Judd's table: answers are recorded for each."""


class Tried(NamedTuple):
    """A configuration, its accuracy in percent, and the share of float32's bits that it takes."""

    config: Config
    accuracy: float
    cost: float


class Search:
    """One search: every configuration that was tried, and how often the network was evaluated."""

    def __init__(self, space: Space, weights: bool) -> None:
        self.space, self.weights = space, weights
        self.tried: dict[tuple[tuple[Knob, int], ...], Tried] = {}
        self.evaluations = 0
        self.baseline = self.accuracy({})

    def accuracy(self, config: Config) -> float:
        """Of a configuration; one that was tried is not evaluated again."""
        key = tuple(sorted(config.items()))
        if key not in self.tried:
            self.evaluations += 1
            self.tried[key] = Tried(dict(config), self.space.accuracy(config), self.cost(config))
        return self.tried[key].accuracy

    def distortion(self, config: Config) -> float:
        self.evaluations += 1
        return self.space.distortion(config)

    def lossless(self, config: Config) -> bool:
        """Whether a configuration keeps 99.9 % of the accuracy, as Judd's sweeps ask."""
        return self.accuracy(config) >= _LOSSLESS * self.baseline

    def allows(self, config: Config, tolerance: float) -> bool:
        """Whether a configuration loses at most `tolerance` percent of the baseline."""
        return self.accuracy(config) >= (1 - tolerance / 100) * self.baseline

    def cost(self, config: Config) -> float:
        """The share of float32's bits that values take, and weights where these are searched (`traffic_ratio`)."""
        counts = list(self.space.values.values())
        bits = [value_bits(config, name) for name in self.space.values]
        if self.weights:
            counts += self.space.weights.values()
            bits += [config.get(Knob("weight", name), FLOAT_BITS) for name in self.space.weights]
        return traffic_ratio(counts, bits)

    def answer(self, tolerance: float) -> Config:
        """The cheapest complete configuration that was tried and loses at most `tolerance` percent.

        Raises BitwrightError where none did.
        """
        complete = max(len(t.config) for t in self.tried.values())
        allowed = [t for t in self.tried.values() if len(t.config) == complete and self.allows(t.config, tolerance)]
        if not allowed:
            raise BitwrightError(
                f"no configuration loses as little as {tolerance:g} percent of the float network's accuracy, "
                f"{self.baseline:.2f} %; allow more, or more bits",
                kind="bit-search",
            )
        return min(allowed, key=lambda t: (t.cost, -t.accuracy)).config


def value_bits(config: Config, name: str) -> int:
    """All bits of a value; those of float32 where the configuration doesn't say."""
    if Knob("data", name) in config:
        return config[Knob("data", name)]
    if Knob("integer", name) in config and Knob("fraction", name) in config:
        return config[Knob("integer", name)] + config[Knob("fraction", name)]
    return FLOAT_BITS


def scan(search: Search, most: Config) -> dict[Knob, list[tuple[int, float]]]:
    """For each knob alone, all else float: (bits, accuracy in percent), from its bits in `most` down."""
    return {
        knob: [(bits, search.accuracy({knob: bits})) for bits in range(top, _least(knob) - 1, -1)]
        for knob, top in most.items()
    }


def _least(knob: Knob) -> int:
    return 2 if knob.kind == "weight" else 1


@dataclass(frozen=True)
class Limits:
    """weight_bits, data_bits   the most that weights and values may have
    weights                  whether weights have knobs of their own, or all the same bits
    formats                  whether values have integer and fraction bits rather than bits
    tolerances               in percent
    """

    weight_bits: int
    data_bits: int
    weights: bool = True
    formats: bool = False
    tolerances: Sequence[float] = TOLERANCES

    def most(self, space: Space) -> Config:
        """All bits that there may be."""
        values: Config = {Knob("data", name): self.data_bits for name in space.values}
        return values | {Knob("weight", name): self.weight_bits for name in space.weights}


def greedy(space: Space, limits: Limits) -> Search:
    """Judd's descent (2015): from the fewest uniform bits that lose nothing, always the one bit that is missed least.

    1. three sweeps with all else float: the fewest bits of all weights, integer bits of all values, fraction bits of
       all values that keep 99.9 % of the accuracy. Without `formats` two: of weights and of values. Together, and no
       more than the limits, values get a (fraction) bit more until they keep it, then weights
    2. of all configurations with one bit less of one knob the most accurate (of equals the cheapest) becomes the next,
       as long as it keeps the accuracy that the largest tolerance asks for
    """
    search = Search(space, limits.weights)
    config = _uniform(search, limits)
    knobs = [knob for knob in config if search.weights or knob.kind != "weight"]
    while search.allows(config, max(limits.tolerances)):
        smaller = [{**config, knob: config[knob] - 1} for knob in knobs if _can_shrink(config, knob)]
        if not smaller:
            break
        config = max(smaller, key=lambda c: (search.accuracy(c), -search.cost(c)))
    return search


def _uniform(search: Search, limits: Limits) -> Config:
    """The fewest bits, the same for all, that lose nothing."""
    space = search.space

    def weights(bits: int) -> Config:
        return {Knob("weight", name): bits for name in space.weights}

    def values(**kinds: int) -> Config:
        return {Knob(kind, name): bits for name in space.values for kind, bits in kinds.items()}  # type: ignore[arg-type]

    def least(candidates: Iterable[tuple[int, Config]]) -> int:
        """The last that loses nothing, or the first."""
        tried = []
        for bits, config in candidates:
            tried.append(bits)
            if not search.lossless(config):
                break
        else:
            return tried[-1]
        return tried[max(len(tried) - 2, 0)]

    weight = least((b, weights(b)) for b in range(limits.weight_bits, 1, -1))
    if limits.formats:
        top = space.integer_bits
        fine = LARGEST_FORMAT - top
        integer = least((i, values(integer=i, fraction=LARGEST_FORMAT - i)) for i in range(top, -fine, -1))
        fraction = least((f, values(integer=top, fraction=f)) for f in range(fine, -top, -1))
        data = min(max(integer + fraction, 1), limits.data_bits)
    else:
        data = least((b, values(data=b)) for b in range(limits.data_bits, 0, -1))

    def together(weight: int, data: int) -> Config:
        return weights(weight) | (
            values(integer=integer, fraction=data - integer) if limits.formats else values(data=data)
        )

    while not search.lossless(together(weight, data)) and (data, weight) != (limits.data_bits, limits.weight_bits):
        data, weight = (data + 1, weight) if data < limits.data_bits else (data, weight + 1)
    return together(weight, data)


def _can_shrink(config: Config, knob: Knob) -> bool:
    bits = config[knob] if knob.kind == "weight" else value_bits(config, knob.name)
    return bits > _least(knob)


class _Move(NamedTuple):
    """One bit less of a knob, and what it costs per bit saved."""

    price: float
    knob: Knob


def sensitive(space: Space, limits: Limits) -> Search:
    """A search by predicted damage, in far fewer evaluations than `greedy`.

    1. how far the outputs move when one knob alone has four bits: D(k), one evaluation each. At other bits it
       is predicted by the squared error of the numbers themselves, which needs none: D(k, b) = D(k) e(k, b) / e(k, 4)
    2. all single-bit moves from the most bits down, in the order of predicted damage per bit that they save
    3. for each tolerance the longest beginning of this order that keeps the accuracy, by bisection, and then
       every further bit that can go, knob by knob until one can't

    Without `weights` in the limits all weights have the most bits.
    """
    search = Search(space, limits.weights)
    most = limits.most(space)
    moves = _ordered(search, {knob: bits for knob, bits in most.items() if limits.weights or knob.kind == "data"})
    begin = 0
    for tolerance in sorted(limits.tolerances):
        begin = _longest(search, most, moves, begin, tolerance)
        _polish(search, _after(most, moves[:begin]), moves[begin:], tolerance)
    return search


def _ordered(search: Search, most: Config) -> list[_Move]:
    """All moves, cheap ones first; those of one knob in their order, as prices never fall with fewer bits."""
    counts = {"weight": search.space.weights, "data": search.space.values}
    moves = []
    for knob, top in most.items():
        probe = min(_PROBE_BITS, top)
        moved = search.distortion({knob: probe})
        unit = moved / max(search.space.error(knob, probe), 1e-30)
        price = 0.0
        for bits in range(top, _least(knob), -1):
            damage = unit * (search.space.error(knob, bits - 1) - search.space.error(knob, bits))
            price = max(price, damage / counts[knob.kind][knob.name])
            moves.append(_Move(price, knob))
    return sorted(moves, key=lambda move: move.price)  # stable: equal prices keep a knob's order


def _after(config: Config, moves: Sequence[_Move]) -> Config:
    result = dict(config)
    for move in moves:
        result[move.knob] -= 1
    return result


def _longest(search: Search, most: Config, moves: list[_Move], begin: int, tolerance: float) -> int:
    """How many moves of the order the tolerance allows, at least `begin`."""
    low, high = begin, len(moves) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if search.allows(_after(most, moves[:middle]), tolerance):
            low = middle
        else:
            high = middle
    search.allows(_after(most, moves[:low]), tolerance)
    return low


def _polish(search: Search, config: Config, moves: list[_Move], tolerance: float) -> None:
    """Try every knob's next bit, cheap ones first, keep what the tolerance allows, and go on with those."""
    knobs = list(dict.fromkeys(move.knob for move in moves))
    while knobs:
        shrunk = []
        for knob in (knob for knob in knobs if _can_shrink(config, knob)):
            smaller = {**config, knob: config[knob] - 1}
            if search.allows(smaller, tolerance):
                config = smaller
                shrunk.append(knob)
        knobs = shrunk
