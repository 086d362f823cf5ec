"""The contracts that everything registered keeps: steps, encodings, models.

Nothing here names a step, an encoding or a model: what is discovered is tested, so a new one is, before its author
writes a test.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn
from torch.nn.utils import parametrize

import bitwright
from bitwright.context import Context
from bitwright.data.dataset import Dataset
from bitwright.data.preprocess import Preprocess
from bitwright.edits import edits_of, replay
from bitwright.errors import BitwrightError
from bitwright.measure.size import estimate
from bitwright.models import create_model, list_models
from bitwright.packing.encodings import Weight, decode, encode, list_encodings
from bitwright.packing.lower import lower
from bitwright.packing.profile import Profile
from bitwright.runtime.reference import run_reference
from bitwright.steps import Step, get_step, list_steps
from bitwright.validate import checked
from training_cases import blobs, equal, weights

EVERY_STEP = sorted(list_steps())
STEPS = [name for name in EVERY_STEP if not get_step(name).model]
KEEPING = [name for name in STEPS if get_step(name).keeps_zeros]
ENCODINGS = sorted(list_encodings())
MODELS = sorted(list_models())

LOGITS = 1e-4
"""Largest difference of a logit between engine and torch, as a share of the logits' range (float networks)."""
OVERHEAD, PER_NODE = 2048, 40
"""Bytes that a packed file may take beside its tensors (DESIGN.md, section 6)."""
DEEP = 100
"""Modules of a model beyond which exporting it takes too long for this file."""
LARGE = 2_000_000
"""Weights of a model beyond which packing them as floats takes too long for this file."""
HUGE = 30_000_000
"""Weights of a model beyond which packing them in any form takes too long for this file."""
SLACK = 1.02
"""Real coders against the entropy bound."""


# --- steps --------------------------------------------------------------------------------------------------------


def apply(name: str, model: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(99)  # what a step draws must come from the context's seed
    step, context = get_step(name)(), Context(task(), seed=seed)
    model = apply(step.after, model, seed) if step.after else model
    context.begin(model)
    return step.apply(model, context)


def task() -> Dataset:
    """Blobs whose pixels stay from 0 to 1, as bit planes need them."""
    return dataclasses.replace(blobs(), preprocess=Preprocess((0.0,), (1.0,)))


@functools.cache
def applied(name: str) -> nn.Module:
    """A small network after the step with its default fields. Not to be changed."""
    return apply(name, sparse_net()).eval()


def small_net() -> nn.Module:
    """Three layers, as many steps leave the first and the last alone, and no ReLU, which leaves no signs."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Hardtanh(), nn.Flatten(), nn.Dropout(0.2)),
            *(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Hardtanh(), nn.Linear(8, 3)),
        )


def sparse_net() -> nn.Module:
    """About half of the weights are zero."""
    model = small_net()
    with torch.no_grad():
        model[0].weight[:, :, 1] = 0
        model[5].weight[model[5].weight.abs() < 0.06] = 0
    return model


@pytest.mark.parametrize("name", EVERY_STEP)
def test_step_is_data_with_facts(name: str):
    step = get_step(name)
    assert issubclass(step, Step)
    assert step.name == name
    assert dataclasses.is_dataclass(step)
    assert step.__dataclass_params__.frozen
    assert len(step.__doc__.strip().split("\n")[0]) > 20, "a sentence that says what it does"
    assert step() == step()


@pytest.mark.parametrize("name", EVERY_STEP)
def test_step_survives_yaml(name: str):
    step = get_step(name)()
    text = yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(step))))
    assert checked(get_step(name), yaml.safe_load(text), name) == step


@pytest.mark.parametrize("name", STEPS)
def test_step_leaves_a_plain_model(name: str):
    before, model = sparse_net(), applied(name)
    before = replay(before, edits_of(model))
    assert list(model.state_dict()) == list(before.state_dict()), "in this order: sums over parameters depend on it"
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert all(p.requires_grad for p in model.parameters())
    assert all(isinstance(m.weight, nn.Parameter) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    dropouts = [[m.p for m in net.modules() if isinstance(m, nn.Dropout)] for net in (before, model)]
    assert dropouts[0] == dropouts[1], "settings of modules that no checkpoint holds are as they were"
    copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)


@pytest.mark.parametrize("name", STEPS)
def test_step_keeps_the_output_shape_and_is_finite(name: str):
    x = torch.rand(5, 1, 4, 4)
    with torch.no_grad():
        y = applied(name)(x)
    assert y.shape == sparse_net().eval()(x).shape
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(t).all() for t in applied(name).state_dict().values())


@pytest.mark.parametrize("name", STEPS)
def test_step_is_decided_by_the_seed(name: str):
    assert equal(weights(apply(name, sparse_net())), weights(applied(name)))


@pytest.mark.parametrize("name", KEEPING)
def test_step_keeps_zeros(name: str):
    before, model = sparse_net(), applied(name)
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        if old.ndim > 1:
            assert torch.all(new[old == 0] == 0)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("fill", [0.0, -0.3])
def test_step_survives_constant_weights(name: str, fill: float):
    model = small_net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(fill)
    try:
        model = apply(name, model)
    except BitwrightError as error:
        assert error.kind == "constant-sign"  # noqa: PT017
    assert all(torch.isfinite(t).all() for t in model.state_dict().values())


@pytest.mark.parametrize("name", STEPS)
def test_step_survives_a_layer_of_one_weight(name: str):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(1)),
        *(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 3)),
    )
    with torch.no_grad():
        model[0].weight.fill_(0.5)
    try:
        model = apply(name, model)
    except BitwrightError as error:
        assert error.kind == "too-small"  # noqa: PT017
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", STEPS)
def test_step_result_packs_loads_and_runs(name: str, tmp_path: Path):
    model, data = applied(name), task()
    example = (torch.zeros(1, *data.shape),)
    bitwright.pack(model, example, preprocess=data.preprocess).save(tmp_path / "net.safetensors")
    loaded = bitwright.load(tmp_path / "net.safetensors")
    graph, tensors = lower(model, example, data.preprocess)
    for tensor, array in tensors.items():
        assert np.array_equal(loaded.stored[tensor].dense(), array), tensor
    pixels = data.test.images
    with torch.no_grad():
        expected = model(data.preprocess.torch(torch.from_numpy(pixels))).numpy()
    tolerance = LOGITS * np.ptp(expected)
    for found in (loaded(pixels), run_reference(graph, tensors, (pixels,))[0]):
        assert np.abs(found - expected).max() <= tolerance
        assert np.array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("name", STEPS)
def test_step_result_costs_what_the_estimate_says(name: str):
    model, example = applied(name), (torch.zeros(1, 1, 4, 4),)
    graph, tensors = lower(model, example)
    promised = SLACK * sum(estimate(array).bytes for array in tensors.values())
    assert len(bitwright.pack(model, example).data) <= promised + OVERHEAD + PER_NODE * len(graph.nodes)


@pytest.mark.parametrize("name", [name for name in STEPS if hasattr(get_step(name), "ignore")])
def test_step_names_a_layer_whose_weights_are_nan(name: str):
    model = small_net()
    with torch.no_grad():
        for layer in (model[0], model[5]):  # some steps take convolutions only, some leave the first layer
            layer.weight[1, 0] = float("nan")
    with pytest.raises(BitwrightError, match=r"'[05]'|[05]\.weight"):
        apply(name, model)


# --- encodings ----------------------------------------------------------------------------------------------------

SHAPES = st.one_of(
    st.just(()), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9), st.tuples(st.integers(0, 300))
)
PALETTES: dict[str, Callable[[], Any]] = {
    "any": lambda: st.floats(allow_nan=False, allow_infinity=False, width=32),
    "sparse": lambda: st.sampled_from([0.0] * 12 + [1.5, -2.25]),
    "few": lambda: st.sampled_from([0.1, -0.7, 3.0]),
    "half": lambda: st.floats(allow_nan=False, allow_infinity=False, width=16),
    "extreme": lambda: st.sampled_from([0.0, -0.0, 3.4028234e38, -3.4028234e38, 1e-45, -1e-45, 1.1754944e-38]),
}


@pytest.mark.parametrize("palette", PALETTES)
@pytest.mark.parametrize("name", [*ENCODINGS, None])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_encoding_round_trip(name: str | None, palette: str, data: st.DataObject):
    """Bit for bit, or a refusal; the packer's choice (None) holds everything."""
    array = data.draw(hnp.arrays(np.float32, SHAPES, elements=PALETTES[palette]()))
    weight = Weight.of("w", array)
    if name is not None and not list(list_encodings()[name].candidates(weight, Profile())):
        with pytest.raises(BitwrightError, match=f"encoding '{name}' cannot hold it exactly"):
            encode(weight, Profile(), name)
        return
    chosen, record = encode(weight, Profile(), name)
    assert name in (None, chosen)
    content = decode(chosen, record, array.shape)
    assert content.numbers.dtype == np.float32
    assert np.array_equal(content.numbers.view(np.uint32), weight.numbers.view(np.uint32))
    if content.sparse is not None:
        check_sparse(content.sparse, weight.numbers)
    if name is None:
        assert len(record) <= array.nbytes + 32, "never much more than the numbers themselves"


def check_sparse(sparse: Any, numbers: np.ndarray) -> None:
    """Positions rise, and codes or values give the same numbers again."""
    assert np.array_equal(sparse.positions, np.flatnonzero(numbers))
    values = sparse.values if sparse.values is not None else sparse.codebook[sparse.codes]
    assert np.array_equal(values, numbers[sparse.positions])


# --- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_model_packs_and_reloads(name: str, tmp_path: Path):
    with torch.device("meta"):
        model = create_model(name)
    if len(list(model.modules())) > DEEP:
        pytest.skip("too deep to export here; a shallower one of its family stands for it")
    if sum(p.numel() for p in model.parameters()) > HUGE:
        pytest.skip("too large to pack here; tests/test_models_zoo.py packs it for small images")
    model = create_model(name, seed=0).eval()
    if sum(p.numel() for p in model.parameters()) > LARGE:
        make_signs(model)
    x = torch.rand(3, *model.input_shape, generator=torch.Generator().manual_seed(1))
    bitwright.pack(model, (x[:1],)).save(tmp_path / "net.safetensors")
    loaded = bitwright.load(tmp_path / "net.safetensors")
    with torch.no_grad():
        expected = model(x).numpy()
    assert np.abs(loaded(x.numpy()) - expected).max() <= LOGITS * np.ptp(expected)
    state = model.state_dict()
    for tensor, stored in loaded.stored.items():
        if tensor in state:
            assert np.array_equal(stored.dense(), state[tensor].numpy()), tensor


def make_signs(model: nn.Module) -> None:
    """All weights plus or minus their layer's mean magnitude: a bit each, which packs fast, and numbers as large."""
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.ndim > 1):
            parameter.copy_(torch.where(parameter >= 0, 1.0, -1.0) * parameter.abs().mean())
