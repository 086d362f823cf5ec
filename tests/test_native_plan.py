"""The plan: steps on one arena, in any number of passes and threads; and the portable operations of exact.h."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import _native as native
from bitwright.runtime import reference

COUNT = 24
"""Floats of every value of the random plans."""


@st.composite
def plans(draw: Any) -> tuple[int, list[tuple[str, list[int]]], list[int]]:
    """Inputs, steps and outputs of a random plan of element-wise operations."""
    inputs = draw(st.integers(1, 3))
    steps: list[tuple[str, list[int]]] = []
    for made in range(draw(st.integers(0, 12))):
        op = draw(st.sampled_from(["add", "sign", "affine", "relu"]))
        values = st.integers(0, inputs + made - 1)
        steps.append((op, [draw(values) for _ in range(2 if op == "add" else 1)]))
    outputs = draw(st.lists(st.integers(0, inputs + len(steps) - 1), min_size=1, max_size=4))
    return inputs, steps, outputs


SCALE, SHIFT = np.linspace(-1, 1, COUNT, dtype=np.float32), np.linspace(2, -1, COUNT, dtype=np.float32)
OPERATIONS: dict[str, tuple[Any, Any]] = {
    "add": (native.AddOp(COUNT), np.add),
    "sign": (native.SignOp(COUNT), lambda x: np.where(x >= 0, np.float32(1), np.float32(-1))),
    "affine": (native.AffineOp(1, SCALE, SHIFT), lambda x: x * SCALE + SHIFT),
    "relu": (native.ReluOp(COUNT), lambda x: np.maximum(x, np.float32(0))),
}


def build(
    inputs: int, steps: list[tuple[str, list[int]]], outputs: list[int], pass_bytes: int = 1 << 20
) -> native.Plan:
    return native.Plan([4 * COUNT] * inputs, [(OPERATIONS[op][0], values) for op, values in steps], outputs, pass_bytes)


def run(plan: native.Plan, inputs: list[np.ndarray], outputs: int, threads: int = 1) -> list[np.ndarray]:
    batch = len(inputs[0])
    results = [np.full((batch, COUNT), np.nan, np.float32) for _ in range(outputs)]
    plan.run(inputs, results, batch, threads)
    return results


@settings(max_examples=300, deadline=None)
@given(plans(), st.integers(0, 9), st.integers(1, 3), st.sampled_from([1, 1000, 1 << 20]), st.integers(0, 99))
def test_any_plan_computes_what_its_steps_say(case, batch, threads, pass_bytes, seed):
    count, steps, outputs = case
    random = np.random.default_rng(seed)
    inputs = [random.standard_normal((batch, COUNT)).astype(np.float32) for _ in range(count)]
    values = [x.copy() for x in inputs]
    for op, operands in steps:
        values.append(OPERATIONS[op][1](*[values[i] for i in operands]))
    plan = build(count, steps, outputs, pass_bytes)
    for ours, number in zip(run(plan, inputs, len(outputs), threads), outputs, strict=True):
        assert np.array_equal(ours, values[number])
    for given_, before in zip(inputs, values[:count], strict=True):
        assert np.array_equal(given_, before)


def test_values_that_are_not_alive_together_share_memory():
    pooled = native.MaxPoolOp((4, 6), 1, (1, 1), (1, 1))
    chain = native.Plan([4 * COUNT], [(pooled, [i]) for i in range(50)], [50], 1)
    assert chain.arena_bytes == 2 * 128
    diamond = build(1, [("relu", [0]), ("sign", [0]), ("add", [1, 2]), ("relu", [3]), ("add", [4, 1])], [5])
    assert diamond.arena_bytes <= 4 * 128


def test_results_are_written_over_what_nobody_reads_any_more():
    chain = build(1, [("relu", [0]), ("affine", [1]), ("sign", [2]), ("add", [3, 0])], [4, 0])
    assert chain.arena_bytes == 2 * 128  # the input, which is read at the end, and all else
    twice = build(1, [("relu", [0]), ("add", [1, 1]), ("relu", [2])], [3])
    assert twice.arena_bytes == 2 * 128


def test_passes_divide_a_batch():
    chain = build(1, [("relu", [i]) for i in range(5)], [5], pass_bytes=1000)
    assert chain.pass_images == 1000 // chain.arena_bytes > 1
    assert build(1, [("relu", [0])], [1], pass_bytes=1).pass_images == 1


def test_the_arena_does_not_grow_from_call_to_call():
    plan = build(1, [("relu", [0]), ("sign", [1]), ("add", [1, 2])], [3], pass_bytes=4096)
    x = np.ones((100, COUNT), np.float32)
    sizes = []
    for batch in (100, 3, 100, 1, 100):
        run(plan, [x[:batch]], 1)
        sizes.append(plan.idle_bytes)
    assert len(set(sizes)) == 1
    assert 0 < sizes[0] <= 4096 + 64


def test_calls_from_several_threads_have_arenas_of_their_own():
    steps = [("affine", [0]), *[("affine", [i]) for i in range(1, 30)]]
    plan = build(1, steps, [30])
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((50, COUNT)).astype(np.float32) for _ in range(6)]
    expected = [run(plan, [x], 1)[0] for x in inputs]
    wrong = []

    def work(index: int) -> None:
        for _ in range(100):
            if not np.array_equal(run(plan, [inputs[index]], 1, threads=2)[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert plan.idle_bytes <= len(inputs) * (50 * plan.arena_bytes + 64)


def test_a_plan_keeps_its_operations():
    plan = native.Plan([40], [(native.SignOp(10), [0])], [1], 1)
    out = np.empty((1, 10), np.float32)
    plan.run([np.ones((1, 10), np.float32)], [out], 1)
    assert out.tolist() == [[1] * 10]


def test_times_of_the_steps():
    plan = build(1, [("relu", [0]), ("sign", [1]), ("add", [1, 2])], [3])
    x, out = np.ones((5, COUNT), np.float32), np.empty((5, COUNT), np.float32)
    seconds = plan.time([x], [out], 5, repeats=3)
    assert len(seconds) == 3
    assert all(second >= 0 for second in seconds)
    assert (out == 2).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1], [], [0], 1), "an input has -1 bytes, expected 0 to 2"),
        (([40], [], [1], 1), "output 1 is no value"),
        (([40], [], [-1], 1), "output -1 is no value"),
        (([40], [(native.SignOp(10), [1])], [1], 1), "step 0 reads value 1, expected one made before"),
        (([40], [(native.SignOp(10), [-1])], [1], 1), "step 0 reads value -1"),
        (([40], [(native.SignOp(10), [0, 0])], [1], 1), "step 0 reads 2 values, expected 1"),
        (([44], [(native.SignOp(10), [0])], [1], 1), "step 0 reads value 0 of 44 bytes per image, expected 40"),
        (([40], [(None, [0])], [1], 1), "step 0 has no operation"),
    ],
)
def test_plans_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        native.Plan(*arguments)


def test_calls_that_are_refused():
    plan = build(1, [("relu", [0])], [1])
    x, out = np.ones((2, COUNT), np.float32), np.empty((2, COUNT), np.float32)
    with pytest.raises(ValueError, match="there are 2 inputs, expected 1"):
        plan.run([x, x], [out], 2)
    with pytest.raises(ValueError, match="input 0 has 192 bytes, expected 288"):
        plan.run([x], [out], 3)
    with pytest.raises(ValueError, match="output 0 has 96 bytes, expected 192"):
        plan.run([x], [out[:1]], 2)
    with pytest.raises(ValueError, match="input 0 is not contiguous"):
        plan.run([x[:, ::2].repeat(2, 1)[:, ::-1]], [out], 2)
    with pytest.raises(ValueError, match="threads is 0"):
        plan.run([x], [out], 2, 0)
    with pytest.raises(ValueError, match="repeats"):
        plan.time([x], [out], 2, 1, 0)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        plan.run([x], [out], 2)


def test_sign_and_quantize_of_every_kind_of_number():
    random = np.random.default_rng(0)
    special = np.array([0, -0.0, 0.5, -0.5, 1.5, 2.5, np.nan, np.inf, -np.inf, 1e-40, -1e-40, 1e37], np.float32)
    x = np.concatenate([special.repeat(4), random.standard_normal(400).astype(np.float32) * 9]).reshape(1, -1, 4)
    (ours,) = native.run_operation(native.SignOp(x.size), [x])
    assert np.array_equal(ours.view(np.float32), np.where(x >= 0, 1, -1).reshape(-1))
    scale = np.array([0.5, 0.1, 3, 1], np.float32)
    low, high = np.array([-3, 0, -7, -128], np.float32), np.array([4, 15, 0, 127], np.float32)
    operation = native.QuantizeOp(x.shape[1], scale, 1 / scale, low, high)
    (ours,) = native.run_operation(operation, [x])
    expected = np.rint(x * (1 / scale))
    expected = np.where(expected > low, np.minimum(expected, high), low) * scale
    assert np.array_equal(ours.view(np.float32), expected.astype(np.float32).reshape(-1))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_exact_convolutions(data):
    draw = data.draw
    random = np.random.default_rng(draw(st.integers(0, 999)))
    groups = draw(st.integers(1, 3))
    in_c, out_c = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    pairs = {
        name: (draw(st.integers(low, 3)), draw(st.integers(low, 3)))
        for name, low in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
    }
    window = native.Window((7, 8), in_c, out_c, **pairs, groups=groups)
    two = draw(st.booleans())
    weights = random.integers(
        -1 if two else -127, 2 if two else 128, (out_c, in_c // groups, *pairs["kernel"]), np.int8
    )
    scale, outside = np.float32(0.3), draw(st.integers(-2, 2))
    m = random.integers(-300, 300, (2, in_c, 7, 8))
    positive, negative, bias = (random.random(out_c, np.float32) + np.float32(0.1) for _ in range(3))
    finish = native.Finish(out_c, multiplier=positive, negative=negative if two else None, bias=bias, relu=True)
    operation = native.ExactConvOp(window, 1 / scale, weights, outside, finish=finish)
    x = np.ascontiguousarray((m.astype(np.float32) * scale).transpose(0, 2, 3, 1))
    (ours,) = native.run_operation(operation, [x], batch=2, threads=2)
    padded = np.pad(m, ((0, 0), (0, 0), *[(p, p) for p in pairs["padding"]]), constant_values=outside).astype(
        np.float32
    )
    attributes = {name: list(pairs[name]) for name in ("stride", "dilation")} | {"padding": [0, 0], "groups": groups}
    sums = [
        reference.conv2d({"weight": part.astype(np.float32)}, padded, **attributes)
        for part in (np.maximum(weights, 0), np.maximum(-weights, 0), weights)
    ]
    per = (1, -1, 1, 1)
    y = sums[0] * positive.reshape(per) - sums[1] * negative.reshape(per) if two else sums[2] * positive.reshape(per)
    expected = np.maximum(y + bias.reshape(per), 0)
    assert np.array_equal(ours.view(np.float32).reshape(2, *window.output), expected.transpose(0, 2, 3, 1))
