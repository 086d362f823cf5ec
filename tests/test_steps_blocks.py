"""Pruning in blocks: processing elements with equal work, and n of every m inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.models import create_model
from bitwright.steps.blocks import Elements, Pattern, keep_largest
from bitwright.steps.prune import Prune
from bitwright.training.settings import Optimizer, TrainSettings

DIGITS = load_dataset("digits")
TUNE = TrainSettings(epochs=3, batch_size=50, optimizer=Optimizer("Adam", 1e-3, {}), select="last")


def pruned(model: nn.Module, **options: Any) -> tuple[nn.Module, Context]:
    context = Context(DIGITS)
    return Prune(**options).apply(model, context), context


def mlp() -> nn.Module:
    return create_model("mlp", input_shape=(1, 8, 8), hidden=[96, 40], seed=0)


@given(rows=st.integers(1, 40), count=st.integers(1, 40), zeros=st.floats(0, 1), seed=st.integers(0, 99))
def test_every_element_keeps_as_many(rows: int, count: int, zeros: float, seed: int) -> None:
    scores = torch.rand(rows, 7, generator=torch.Generator().manual_seed(seed)) + 0.01
    count = min(rows, count)
    mask = Elements(count).keep(scores, zeros)
    most = max(int(mask[element::count].sum()) for element in range(count))
    assert abs(int(mask.sum()) - round((1 - zeros) * scores.numel())) <= count / 2
    for element in range(count):
        own, kept = scores[element::count], mask[element::count]
        assert int(kept.sum()) == min(own.numel(), most), "or all it has"
        assert not kept.any() or kept.all() or own[kept].min() >= own[~kept].max()


@given(st.integers(1, 40), st.sampled_from([1, 2, 16]), st.sampled_from([(1, 4), (2, 4), (2, 5)]), st.integers(0, 99))
def test_rows_of_a_pattern_keep_the_same_inputs(outputs: int, rows: int, pattern: tuple[int, int], seed: int) -> None:
    kept, of = pattern
    scores = torch.rand(outputs, 3 * of, 2, 2, generator=torch.Generator().manual_seed(seed)) + 0.01
    mask = Pattern(kept, of, rows).keep(scores, 1.0)
    assert (mask.view(outputs, 3, of, 4).sum(2) == kept).all()
    for own, block in zip(mask.split(rows), scores.split(rows), strict=True):
        assert (own == own[0]).all()
        places = block.sum(0).view(3, of, 4)
        assert torch.equal(own[0].view(3, of, 4), places >= places.sort(1, descending=True).values[:, kept - 1, None])
    scores[0, 0] = 0  # may not be kept
    assert not Pattern(kept, of, rows).keep(scores, 1.0)[0, 0].any()


@given(groups=st.integers(1, 5), kept=st.integers(1, 3), more=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_pattern_keeps_the_largest_of_each_block(groups: int, kept: int, more: int, seed: int) -> None:
    of = kept + more
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(6, groups * of, generator=generator) + 0.01
    kernels = torch.rand(6, groups * of, 3, 3, generator=generator) + 0.01
    mask = Pattern(kept, of).keep(rows, 1.0)
    assert (mask.view(6, groups, of).sum(2) == kept).all()
    blocks = torch.stack([keep_largest(block, kept) for block in rows.view(-1, of)])
    assert torch.equal(mask.view(-1, of), blocks)
    mask = Pattern(kept, of).keep(kernels, 1.0)
    assert (mask.view(6, groups, of, 9).sum(2) == kept).all(), "at each place of the kernel by itself"
    place = kernels[:, :, 1, 2]
    assert torch.equal(mask[:, :, 1, 2], Pattern(kept, of).keep(place, 1.0))


def test_equals_go_to_the_first_and_zeros_never_come_back() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.0], [0.0, 0.0, 0.3, 0.0]])
    assert Pattern(2, 4).keep(scores, 1.0).tolist() == [[True, True, False, False], [False, False, True, False]]


@pytest.mark.parametrize("schedule", ["rounds", "gradual"])
def test_balanced_layers_have_equal_work(schedule: str) -> None:
    how: dict[str, Any] = {"schedule": schedule, "rounds": 2, "every": 5, "retrain": TUNE, "dead_neurons": False}
    model, context = pruned(mlp(), layers=("fc1", "fc2"), fraction=0.75, elements=12, **how)
    for row in context.records["balance"]["layers"]:
        balanced, before = row["balanced"], row["unbalanced"]
        assert abs(row["kept"] - row["weights"] / 4) <= 6
        assert balanced["utilisation"]["ideal"] > before["utilisation"]["ideal"]
        kept = [int((model.get_submodule(row["layer"]).weight[p::12] != 0).sum()) for p in range(12)]  # type: ignore[index]
        assert max(kept) == min(kept)
    assert context.evaluate(model).error < 20


def test_two_of_four_in_convolutions_and_linear_layers() -> None:
    model = create_model("resnet-20", input_shape=(1, 8, 8), seed=0)
    model, context = pruned(model, ignore=("first",), pattern=[2, 4], rounds=2, retrain=TUNE)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name != "conv1":
            kept = layer.weight != 0
            blocks = kept.flatten(2).transpose(1, 2).reshape(-1, 4) if kept.ndim > 2 else kept.view(-1, 4)
            assert blocks.sum(1).max() == 2
    assert "balance" not in context.records


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": [4, 2]}, r"pattern is \[4, 2\]; expected \[n, m\], whole numbers with 1 <= n < m"),
        ({"rows": 16, "fraction": 0.5}, "rows is 16; expected a pattern beside it, or 1"),
        ({"rows": 0, "pattern": [2, 4]}, "prune: rows"),
        ({"pattern": [2, 4], "fraction": 0.5}, "expected no quality, fraction, threshold or elements beside it"),
        ({"elements": 4}, "elements is 4; expected a fraction beside it"),
        ({"elements": 4, "quality": 1.0}, "expected a fraction beside it"),
        ({"elements": 0, "fraction": 0.5}, "elements is 0; expected a whole number from 1"),
        ({"elements": 4, "fraction": 0.5, "scope": "global"}, "scope is 'global'; expected \"layer\" with a pattern"),
        ({"pattern": "2:4"}, r"pattern is '2:4'; expected \[n, m\]"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        Prune(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"elements": 41, "fraction": 0.5},
            "41 processing elements for layer 'fc2' of 40 rows",
        ),
        ({"pattern": [1, 3]}, "layer 'fc1' has 64 inputs for each output, no multiple of 3; `ignore` it"),
    ],
)
def test_layers_that_blocks_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        pruned(mlp(), layers=("fc1", "fc2"), retrain=None, **options)
    with pytest.raises(BitwrightError, match=message):
        Prune(layers=("fc1", "fc2"), **options).look_ahead(mlp(), DIGITS)
