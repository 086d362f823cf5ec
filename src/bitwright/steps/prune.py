"""Magnitude pruning with retraining."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from bitwright.errors import BitwrightError
from bitwright.measure.activity import measure_activity
from bitwright.measure.balance import balance_of
from bitwright.measure.sensitivity import propose, scan
from bitwright.steps.blocks import Blocks, Elements, Pattern, keep_largest
from bitwright.steps.dead import remove_dead_neurons
from bitwright.steps.dropout import ScaledDropout, follow, scaled_dropout
from bitwright.steps.layers import check_count, check_layers, per_layer, weight_of
from bitwright.steps.masks import By, Masks, Rule, holding_zeros
from bitwright.steps.step import Step, select_layers
from bitwright.training.settings import Optimizer, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context
    from bitwright.data.dataset import Dataset

Amount = float | dict[str, float] | Literal["auto"]

_SCAN: dict[str, tuple[float, ...]] = {
    "quality": tuple(i / 4 for i in range(1, 13)),
    "fraction": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98),
}
_CALIBRATION = 1000
_RETRAIN = TrainSettings(epochs=10, optimizer=Optimizer(lr=0.001))


@dataclass(frozen=True)
class Prune(Step):
    """Remove small weights, retrain the others, repeat (Han et al. 2015).

        w = v * m,   m_i = 1 if |v_i| >= q_l std(w_l) and v_i was kept before,   dL/dv = m * dL/dw

    Only weights of convolution and linear layers are pruned, never biases or norms. The mask acts on the weight, so
    also on its gradient and on whatever the optimiser remembers; surviving weights go on from where they are. Bits per
    weight: about H(density) for the positions (H the binary entropy) and 32 density for the survivors' values.

    How much, one of (a number, or a mapping from layer patterns to numbers: a path, "conv*", "Linear", "re:..", "*"):

    quality       q_l: threshold = q_l std of the layer's weights. "auto" prunes one layer at a time without retraining
                  and takes for each the largest q that costs at most `tolerance` points of validation error; thresholds
                  then stay those of this scan.
    fraction      the zero share of the layer's weights at the end, 0 <= f < 1; "auto" as above.
    threshold     the smallest |w| that stays.
    pattern       [n, m]: n of every m inputs of a row stay, the zero share is 1 - n/m; instead of the three above.
    rows          so many rows (output channels) keep the same inputs of a pattern, those of the largest magnitudes
                  together: 16 is what the engine computes in as much less time as there are fewer weights.
    elements      so many processing elements, row r on element r mod P, keep as many weights each, their largest, so
                  that none waits for another (load-balance-aware pruning, Han et al. 2017, who give each the same
                  share of its weights: the same where P divides the rows).
    scope         "layer", or "global": one std, or one fraction with the largest weights over all layers together.
    std_of        of the "surviving" weights (Han's thesis: thresholds grow as the layer thins out) or of "all".

    How fast, with c_t the share of the way:

    rounds        n rounds on the cubic schedule (Zhu & Gupta 2017, equation 1) c_t = 1 - (1 - t/n)^3, that is for
                  fractions s_t = s_f + (s_0 - s_f)(1 - t/n)^3; or the c_t themselves, e.g. [0.5, 0.8, 1]. [1, 1, 1] is
                  Han's repetition with one q. Each round prunes, then trains with `retrain`.
    schedule      "rounds"; or "gradual": one training in which c rises by the same law every `every` steps during the
                  first `ramp` share of it. Its last weights are kept (`select` is "last"), as early ones aren't sparse,
                  unless `select_among` leaves only epochs after the ramp.
    regrow        masks are drawn from hidden weights that go on learning (straight-through: dL/dv = dL/dw), every
                  `every` steps of the first `ramp` share of a training, so that weights cut by mistake come back; kept
                  and removed ones are compared with 10 % in favour of what they are (Guo et al. 2016, equation 3).

    How to retrain:

    retrain       None cuts naively. L1 does better right after pruning, L2 after retraining (Han et al. 2015, section
                  3.1): `l1` and `weight_decay` there. A tenth of the original learning rate is the paper's for LeNets.
    final         other settings for the last round; after "gradual" a training more, with the masks fixed.
    dropout       "scaled": D_r = D_o sqrt(C_r / C_o) for the dropout in front of each pruned layer, C its connections;
                  D_o again at the end. "keep" leaves it, "off" does without.
    local         train the linear layers with everything else frozen, then everything else with them frozen (section
                  3.3: co-adapted features survive; for deep networks).
    dead_neurons  at the end, neurons that nothing reads or that always say the same become all zero, what they said
                  goes into the next layer's bias; the function stays, and so do the shapes. Some `elements` then have
                  less to do than others.

    Records: "pruning" (the rounds, and per layer its goal, kept weights and dead neurons), "sensitivity" (the curves),
    "activity" (Han's table of weights, activations and FLOP), with `elements` "balance" (what each has to do, and would
    have to do for as many of the first weights without balance).

    Defaults: q = 0.8, which keeps 42 % of normally distributed weights; one round of 10 epochs at a tenth of Caffe's
    LeNet learning rate; `every` and `ramp` by trial on LeNet-300-100, where in a gradual training a strong L1 and a
    high learning rate kept most at a given size, and `regrow` with Adam did worse than masks that only grow.

    References: Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NIPS
    2015; Zhu, Gupta, "To prune, or not to prune", 2017; Guo, Yao, Chen, "Dynamic Network Surgery", NIPS 2016.
    """

    name: ClassVar[str] = "prune"
    paper: ClassVar[str] = "Han et al., NIPS 2015"

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    quality: Amount | None = None
    fraction: Amount | None = None
    threshold: float | dict[str, float] | None = None
    pattern: tuple[int, int] | None = None
    rows: int = 1
    elements: int | None = None
    scope: Literal["layer", "global"] = "layer"
    std_of: Literal["surviving", "all"] = "surviving"
    tolerance: float = 2.0
    rounds: int | tuple[float, ...] = 1
    schedule: Literal["rounds", "gradual"] = "rounds"
    regrow: bool = False
    every: int = 50
    ramp: float = 0.6
    retrain: TrainSettings | None = field(default_factory=lambda: _RETRAIN)
    final: TrainSettings | None = None
    dropout: Literal["scaled", "keep", "off"] = "scaled"
    local: bool = False
    dead_neurons: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_blocks()
        by, amount = self._goal()
        numbers = [] if amount == "auto" else list(amount.values()) if isinstance(amount, dict) else [amount]
        most = 1.0 if by == "fraction" else math.inf
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < most:
                raise _wrong(by, number, "a number from 0 to below 1" if by == "fraction" else "a number of at least 0")
        if self.scope == "global" and by == "fraction" and not isinstance(amount, int | float):
            raise _wrong("fraction", amount, 'one number where scope is "global"')
        object.__setattr__(self, "rounds", self.rounds if isinstance(self.rounds, int) else tuple(self.rounds))
        factors = self._factors()
        if not factors or min(factors) < 0 or max(factors) > 1 or list(factors) != sorted(factors):
            raise _wrong("rounds", self.rounds, "how many (at least 1), or rising shares of the way from 0 to 1")
        if self.every < 1 or not 0 < self.ramp <= 1:
            raise _wrong("every, ramp", (self.every, self.ramp), "at least 1 step and a share above 0, at most 1")
        if not self.tolerance >= 0:
            raise _wrong("tolerance", self.tolerance, "points of validation error, at least 0")
        if self.local and self.schedule == "gradual":
            raise _wrong("local", True, 'false where schedule is "gradual"')
        if self.retrain is None and (self.schedule == "gradual" or self.regrow):
            raise _wrong("retrain", None, "training settings: masks that move need a training to move in")

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse amounts for other layers, more elements than rows, and inputs that a pattern doesn't divide."""
        self._check_layers(select_layers(model, self.layers, self.ignore))

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        layers = select_layers(model, self.layers, self.ignore)
        self._check_layers(layers)
        rule = self._rule(model, layers, context)
        before = {name: weight_of(layer).detach().clone() for name, layer in layers.items()} if self.elements else {}
        others = {name: layer for name, layer in select_layers(model).items() if name not in layers}
        with (
            holding_zeros(others),
            scaled_dropout(model, layers) as dropout,
            Masks(layers, rule, regrow=self.regrow) as masks,
        ):
            training = _Training(self, model, context, masks, dropout)
            if self.schedule == "gradual":
                self._gradual(training)
            else:
                self._in_rounds(training)
        self._record(model, layers, rule, context, training.notes)
        if self.elements:
            context.record("balance", _balance(before, layers, self.elements))
        return model

    def _check_blocks(self) -> None:
        if self.pattern is not None:
            pair = self.pattern if isinstance(self.pattern, list | tuple) else ()
            if len(pair) != 2 or not all(type(n) is int for n in pair) or not 1 <= pair[0] < pair[1]:
                raise _wrong("pattern", self.pattern, "[n, m], whole numbers with 1 <= n < m, e.g. [2, 4]")
            object.__setattr__(self, "pattern", tuple(pair))
            if any(other is not None for other in (self.quality, self.fraction, self.threshold, self.elements)):
                raise _wrong("pattern", self.pattern, "no quality, fraction, threshold or elements beside it")
        check_count("prune: rows", self.rows, 1)
        if self.rows > 1 and self.pattern is None:
            raise _wrong("rows", self.rows, "a pattern beside it, or 1")
        if self.elements is not None:
            check_count("prune: elements", self.elements, 1)
            if self.fraction is None or self.fraction == "auto":
                raise _wrong("elements", self.elements, "a fraction beside it, a number or a mapping")
        if self.scope == "global" and (self.pattern is not None or self.elements is not None):
            raise _wrong("scope", self.scope, '"layer" with a pattern or elements')

    def _check_layers(self, layers: Mapping[str, nn.Module]) -> None:
        check_layers(layers)
        if (blocks := self._blocks) is not None:
            for name, layer in layers.items():
                blocks.check(name, weight_of(layer))
        by, amount = self._goal()
        if amount != "auto":
            per_layer(amount, layers, by)

    @property
    def _blocks(self) -> Blocks | None:
        if self.pattern is not None:
            return Pattern(*self.pattern, self.rows)
        return None if self.elements is None else Elements(self.elements)

    def _goal(self) -> tuple[By, Any]:
        """Which of the amounts was given, and what."""
        if self.pattern is not None:
            return "fraction", 1 - self.pattern[0] / self.pattern[1]
        options: dict[By, Any] = {"quality": self.quality, "fraction": self.fraction, "threshold": self.threshold}
        given: list[tuple[By, Any]] = [(by, amount) for by, amount in options.items() if amount is not None]
        if len(given) > 1:
            raise BitwrightError(
                f"prune: {' and '.join(by for by, _ in given)} are given; give one of quality, fraction, threshold",
                kind="setting",
            )
        return given[0] if given else ("quality", 0.8)

    def _factors(self) -> tuple[float, ...]:
        if isinstance(self.rounds, tuple):
            return self.rounds
        return tuple(_cubic(t / self.rounds) for t in range(1, self.rounds + 1))

    def _rule(self, model: nn.Module, layers: Mapping[str, nn.Module], context: Context) -> Rule:
        by, amount = self._goal()
        if amount == "auto":
            amount = self._propose(model, layers, context, by)
        return Rule(by, per_layer(amount, layers, by), self.scope, self.std_of, self._blocks)

    def _propose(self, model: nn.Module, layers: Mapping[str, nn.Module], context: Context, by: By) -> dict[str, float]:
        """The sensitivity scan's choice for each layer."""

        def select(name: str, weight: Tensor, amount: float) -> Tensor:
            rule = Rule(by, {name: amount}, "layer", self.std_of)
            rule.measure({name: weight})
            return rule.select({name: weight.abs()}, 1.0)[name]

        curves = context.remember(
            "sensitivity", lambda: dict(scan(layers, _SCAN[by], select, lambda: context.evaluate(model).error))
        )
        amounts = propose(curves, self.tolerance)
        context.record("sensitivity", {**curves, "by": by, "tolerance": self.tolerance, "proposal": amounts})
        return amounts

    def _in_rounds(self, training: _Training) -> None:
        factors = self._factors()
        for number, factor in enumerate(factors, 1):
            if self._goal()[1] != "auto":
                training.masks.measure()
            training.masks.update(factor)
            training.follow()
            settings = self.final if self.final and number == len(factors) else self.retrain
            for frozen in _frozen_parts(training.model) if settings and self.local else [[]]:
                with _freeze(frozen):
                    if settings and self.regrow:
                        training.move(settings, factor)
                    elif settings:
                        training.fixed(settings)
            training.note(factor)

    def _gradual(self, training: _Training) -> None:
        assert self.retrain is not None
        sparse = self.ramp + self.retrain.select_among <= 1 + 1e-9  # every epoch to select among is after the ramp
        training.move(self.retrain if sparse else replace(self.retrain, select="last", patience=None), None)
        training.note(1.0)
        if self.final:
            training.masks.fix()
            training.follow()
            training.fixed(self.final)
            training.note(1.0)

    def _record(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        rule: Rule,
        context: Context,
        report: list[dict[str, Any]],
    ) -> None:
        images = context.calibration(_CALIBRATION).to(next(iter(model.parameters())).device)
        dead, note = self._bury(model, images) if self.dead_neurons else ({}, "")
        rows = [
            {
                "layer": name,
                rule.by: rule.amounts[name],
                "weights": weight_of(layer).numel(),
                "kept": int((weight_of(layer) != 0).sum()),
                "dead_neurons": dead.get(name, 0),
            }
            for name, layer in layers.items()
        ]
        context.record("pruning", {"by": rule.by, "rounds": report, "layers": rows, "note": note})
        everything = select_layers(model)
        context.record("activity", [dict(row) for row in measure_activity(model, images, everything)])

    def _bury(self, model: nn.Module, images: Tensor) -> tuple[dict[str, int], str]:
        """Dead neurons per layer, and why there is no such count where the model's structure isn't known."""
        from bitwright.packing.lower import lower

        try:
            graph, tensors = lower(model, (images[:1],))
        except BitwrightError as error:
            return (
                {},
                f"dead neurons were left: the layers' order is unknown, as the engine can't run the model: {error}",
            )
        return remove_dead_neurons(model, graph, tensors), ""


def _balance(before: Mapping[str, Tensor], layers: Mapping[str, nn.Module], elements: int) -> dict[str, Any]:
    """Each layer's work on processing elements, beside that of as many weights of `before`, the largest of all."""
    rows = []
    for name, layer in layers.items():
        weight = weight_of(layer).detach()
        plain = before[name] * keep_largest(before[name].abs(), int((weight != 0).sum()))
        found = {
            "unbalanced": balance_of(plain.flatten(1).cpu().numpy(), elements),
            "balanced": balance_of(weight.flatten(1).cpu().numpy(), elements),
        }
        rows.append({"layer": name, "weights": weight.numel(), "kept": int((weight != 0).sum()), **found})
    return {"elements": elements, "layers": rows}


def _cubic(t: float) -> float:
    """The share of the way at time t in 0..1 (Zhu & Gupta 2017)."""
    return 1.0 - (1.0 - t) ** 3


def _wrong(field: str, found: object, expected: str) -> BitwrightError:
    return BitwrightError(f"prune: {field} is {found!r}; expected {expected}", kind="setting")


class _Training:
    """The trainings of one pruning: masks that stand or move, dropout that follows them, and notes for the report."""

    def __init__(self, step: Prune, model: nn.Module, context: Context, masks: Masks, dropout: ScaledDropout) -> None:
        self.step, self.model, self.context, self.masks, self.dropout = step, model, context, masks, dropout
        self.notes: list[dict[str, Any]] = []

    def follow(self, kept: dict[str, float] | None = None) -> None:
        """Let dropout follow the masks."""
        follow(self.dropout, self.step.dropout, kept or self.masks.kept())

    def fixed(self, settings: TrainSettings) -> None:
        self.context.train(self.model, settings)

    def move(self, settings: TrainSettings, factor: float | None) -> None:
        """Train while the masks are drawn again and again: at one `factor`, or with None along the cubic schedule."""
        steps = settings.epochs * math.ceil(len(self.context.data.train) / settings.batch_size)
        last = max(1, int(self.step.ramp * steps))

        def at(t: float) -> float:
            return _cubic(t) if factor is None else factor

        with self.masks.moving(self.model, self.step.every, last, at, self.follow):
            self.context.train(self.model, settings)
        if factor is None and int(self.masks.steps) <= last:
            self.masks.update(1.0)

    def note(self, factor: float) -> None:
        """Where this round has led."""
        error = self.context.evaluate(self.model).error
        self.notes.append({"factor": factor, "kept": self.masks.kept(), "validation_error": error})


@contextmanager
def _freeze(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in zip(parameters, before, strict=True):
            p.requires_grad_(flag)


def _frozen_parts(model: nn.Module) -> list[list[nn.Parameter]]:
    """What local retraining freezes in turn: all but the linear layers, then these. Nothing where one part is empty."""
    linear = {id(p) for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()}
    inside = [p for p in model.parameters() if id(p) in linear]
    outside = [p for p in model.parameters() if id(p) not in linear]
    return [outside, inside] if inside and outside else [[]]
