"""Networks of several precisions: nested codes, what each stage trains, one file, and that every precision is exact."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.cli import main
from bitwright.compare import compare, plan
from bitwright.compare.table import table
from bitwright.context import Context
from bitwright.data import load_dataset
from bitwright.errors import BitwrightError
from bitwright.measure.latency import measure_file
from bitwright.models import create_model
from bitwright.ops import QuantConv2d, Quantize
from bitwright.packing import nested
from bitwright.packing.container import read_container
from bitwright.packing.envelope import unwrap, wrap
from bitwright.packing.inspect import inspect_file
from bitwright.precisions import Switch, SwitchConv2d, SwitchLinear, at_bits, precisions_of, set_bits, truncated
from bitwright.rebuild import load_checkpoint, save_checkpoint
from bitwright.steps.half import Half
from bitwright.steps.progressive import Nested, Progressive
from bitwright.steps.share import Share
from bitwright.training.settings import Augment, Optimizer, TrainSettings
from low_bits import small_resnet

DIGITS = load_dataset("digits")
SHORT = TrainSettings(epochs=1, batch_size=100, optimizer=Optimizer("SGD", 0.01, {"momentum": 0.9}), select="last")


def run(step: Progressive, model: nn.Module, folder: Path | None = None) -> tuple[nn.Module, Context]:
    context = Context(DIGITS, folder=folder)
    given = copy.deepcopy(model)
    context.begin(given)
    return step.apply(given, context).eval(), context


@pytest.fixture(scope="module")
def net() -> nn.Module:
    model = small_resnet("basic")
    Context(DIGITS).train(model, dataclasses.replace(SHORT, epochs=3, optimizer=Optimizer("Adam", 2e-3, {})))
    return model


@pytest.fixture(scope="module")
def three(net: nn.Module) -> tuple[nn.Module, Context]:
    return run(Progressive(train=SHORT), net)


# --- codes


@given(st.integers(0, 10_000), st.integers(1, 8), st.data())
def test_codes_of_fewer_bits_are_the_first_bits_and_middles_of_intervals(seed: int, top: int, data: Any) -> None:
    latent = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 10 ** data.draw(st.floats(-6, 6))
    weight = Nested(top, 2.5, latent).quantise(latent)
    codes = nested.codes(weight.numpy(), top)
    assert codes is not None
    assert codes.max() == (1 << top) - 1 or codes.min() == 0, "the largest weight has a code at the end"
    edge = float(weight.abs().max()) * (1 << top) / ((1 << top) - 1)
    bits = data.draw(st.integers(1, top))
    found = truncated(weight, top, bits)
    assert np.array_equal(found.numpy(), nested.truncated(weight.numpy(), top, bits)), "the same bits everywhere"
    cut = codes >> (top - bits)
    assert np.allclose(found, edge * ((cut + 0.5) / (1 << bits) * 2 - 1), rtol=1e-6)
    assert np.array_equal(nested.codes(found.numpy(), bits), cut)
    inside = (latent.abs() < edge).numpy()
    assert (np.abs(found.numpy() - latent.numpy())[inside] <= edge / (1 << bits) * (1 + 1e-5)).all(), "half an interval"


def test_rounding_would_not_be_nested() -> None:
    """METHODS: 3-bit DoReFa codes shifted by one are the 2-bit codes in nine tenths of the range only."""
    u = np.linspace(0, 1, 10_001)
    agree = np.mean((np.rint(7 * u).astype(int) >> 1) == np.rint(3 * u).astype(int))
    assert 0.85 < agree < 0.95


def test_gradients_pass_and_zeros_stay() -> None:
    latent = torch.randn(5, 4, requires_grad=True)
    weight = Nested(3, 2.5, latent.detach()).quantise(latent)
    (truncated(weight, 3, 1) * torch.arange(20.0).view(5, 4)).sum().backward()
    assert torch.equal(latent.grad, torch.arange(20.0).view(5, 4))  # type: ignore[arg-type]
    zeros = torch.zeros(3, 3)
    assert torch.equal(truncated(Nested(3, 2.5, zeros).quantise(zeros), 3, 2), zeros)
    assert nested.truncated(np.ones((2, 2), np.float32) * np.float32([[1, 0.5], [1, 1]]), 2, 1) is None


# --- what is trained


def test_stages() -> None:
    def rounds(**changes: Any) -> list[list[tuple[int, float]]]:
        return [list(stage.rounds) for stage in Progressive(**changes)._stages()]

    assert rounds() == [[(1, 1)], [(2, 1), (1, 1)], [(3, 1), (2, 1), (1, 1)]]
    assert rounds(schedule="down", gamma=0.5) == [[(3, 1)], [(3, 0.5), (2, 1)], [(3, 0.5), (2, 0.5), (1, 1)]]
    assert rounds(schedule="together", bits=(2, 4), gamma=0.5) == [[(4, 1), (2, 0.5)]]
    assert rounds(schedule="residual") == [[(1, 1)], [(2, 1)], [(3, 1)]]


def test_all_precisions_learn(net: nn.Module, three: tuple[nn.Module, Context]) -> None:
    model, context = three
    errors = context.records["progressive"]["validation_error"]
    assert list(errors) == ["1", "2", "3"]
    assert errors["3"] < 20
    assert errors["2"] < 25
    assert errors["1"] < 50
    assert errors["3"] == context.evaluate(model).error, "it is left at the highest"
    assert precisions_of(model) == (1, 2, 3)


def test_codes_of_each_precision_are_the_first_bits_of_the_file(three: tuple[nn.Module, Context]) -> None:
    model, _ = three
    for name, layer in model.named_modules():
        if isinstance(layer, SwitchConv2d):
            codes = nested.codes(layer.weight.detach().numpy(), 3)
            assert codes is not None
            for bits in (1, 2):
                own = at_bits(model, bits).get_submodule(name).weight.detach().numpy()
                assert np.array_equal(nested.codes(own, bits), codes >> (3 - bits))


@pytest.mark.parametrize("small", [False, True])
def test_residual_leaves_the_networks_of_fewer_bits_as_they_were(
    small: bool, net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four units as well, where training moves all large weights."""
    kind = {"optimizer": Optimizer("SGD", 0.3, {"momentum": 0.9}), "epochs": 6} if small else {}
    start = create_model("mlp", input_shape=(1, 8, 8), hidden=[6, 4, 4], seed=0) if small else net
    images = DIGITS.preprocess.torch(torch.as_tensor(DIGITS.validation.images[:50]))
    train, seen = Context.train, []

    def watching(self: Context, model: nn.Module, *args: Any, **options: Any) -> Any:
        result = train(self, model, *args, **options)
        found = copy.deepcopy(model).eval()
        for bits in (1, 2, 3):
            set_bits(found, bits)
            seen.append(found(images).detach())
        return result

    monkeypatch.setattr(Context, "train", watching)
    model, _ = run(Progressive(schedule="residual", train=dataclasses.replace(SHORT, **kind)), start)
    (one, *_), (again, two, _), (last, twice, three) = seen[:3], seen[3:6], seen[6:]
    assert torch.equal(one, again)
    assert torch.equal(one, last)
    assert torch.equal(two, twice)
    assert not torch.equal(two, three)
    for bits, logits in ((1, one), (2, two), (3, three)):
        assert torch.equal(at_bits(model, bits)(images), logits)
    layer = next(m for m in model.modules() if isinstance(m, SwitchConv2d | SwitchLinear))
    assert len(np.unique(nested.codes(layer.weight.detach().numpy(), 3))) > 4, "the new bits are used"


@pytest.mark.parametrize("schedule", ["up", "residual"])
def test_killed_in_a_later_stage(schedule: str, net: nn.Module, tmp_path: Path) -> None:
    """It goes on to the same bits, also where norms are measured anew behind trainings in bf16 on views."""
    train = dataclasses.replace(SHORT, precision="bf16", norm_images=200, augment=Augment(crop=1))
    step = Progressive(bits=(1, 2), schedule=schedule, train=train)  # type: ignore[arg-type]
    whole, _ = run(step, net, tmp_path / "whole")
    first = tmp_path / "killed" / "train-1"
    shutil.copytree(tmp_path / "whole" / "train-1", first)
    resumed, _ = run(step, net, tmp_path / "killed")
    last = Path("train-2") / "checkpoint.safetensors"
    assert (tmp_path / "whole" / last).read_bytes() == (tmp_path / "killed" / last).read_bytes()
    again, _ = run(step, net, tmp_path / "killed")
    for found in (resumed, again):
        assert all(torch.equal(found.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_each_precision_follows_the_higher_one(net: nn.Module) -> None:
    step = Progressive(bits=(1, 3), schedule="together", recursive=True, train=SHORT)
    model, context = run(step, copy.deepcopy(net))
    assert context.records["progressive"]["validation_error"]["3"] < 30
    alone, _ = run(dataclasses.replace(step, recursive=False), copy.deepcopy(net))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


def test_shared_norms_are_one(net: nn.Module) -> None:
    model, _ = run(Progressive(bits=(1, 3), norms="shared", train=SHORT), net)
    assert not any(isinstance(m, Switch) and isinstance(m.choice, nn.BatchNorm2d) for m in model.modules())


# --- switching, saving, packing


def test_switching_is_the_plain_network(three: tuple[nn.Module, Context]) -> None:
    model = copy.deepcopy(three[0])
    images = DIGITS.preprocess.torch(torch.as_tensor(DIGITS.test.images[:50]))
    for bits in (1, 2, 3):
        set_bits(model, bits)
        plain = at_bits(model, bits)
        with torch.no_grad():
            assert torch.equal(model(images), plain(images))
        assert precisions_of(plain) == ()
        layer = plain.get_submodule("layer1.0.conv1")
        assert type(layer) is QuantConv2d
        assert type(layer.input) is Quantize
        assert len(layer.weight.unique()) <= 1 << bits
    with pytest.raises(BitwrightError, match="has no precision of True bits"):
        set_bits(model, True)
    with pytest.raises(BitwrightError, match="has no precision of 4 bits, only 1, 2, 3"):
        set_bits(model, 4)
    with pytest.raises(BitwrightError, match="only the one it computes with"):
        at_bits(plain, 1)


def test_a_checkpoint_makes_it_again(three: tuple[nn.Module, Context], tmp_path: Path) -> None:
    save_checkpoint(three[0], tmp_path / "model.safetensors", "x")
    again = load_checkpoint(small_resnet("basic"), tmp_path / "model.safetensors").eval()
    images = DIGITS.preprocess.torch(torch.as_tensor(DIGITS.test.images[:20]))
    for bits in (1, 2, 3):
        for model in (again, three[0]):
            set_bits(model, bits)
        with torch.no_grad():
            assert torch.equal(again(images), three[0](images))


def test_one_file_has_all_precisions(three: tuple[nn.Module, Context], tmp_path: Path) -> None:
    model = three[0]
    pixels = DIGITS.test.images
    x = DIGITS.preprocess.torch(torch.as_tensor(pixels))
    bw.pack(model, (x[:2],), preprocess=DIGITS.preprocess).save(tmp_path / "net.safetensors")
    bw.pack(at_bits(model, 3), (x[:2],), preprocess=DIGITS.preprocess).save(tmp_path / "three.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("net", "three")]
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, SwitchConv2d))
    assert sizes[1] < sizes[0] < sizes[1] + weights / 8, "less than one more bit a weight"
    for engine in ("native", "reference"):
        loaded = bw.load(tmp_path / "net.safetensors", engine=engine)
        assert loaded.bits == (1, 2, 3)
        for bits in (1, 2, 3):
            with torch.no_grad():
                wanted = at_bits(model, bits)(x).numpy()
            found = loaded(pixels, bits=bits)
            assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.99
            assert np.median(np.abs(found - wanted)) < 1e-4
        assert np.array_equal(loaded(pixels), loaded(pixels, bits=3))
        with pytest.raises(BitwrightError, match="4 bits; the file has 1, 2, 3"):
            loaded(pixels, bits=4)
    single = bw.load(tmp_path / "three.safetensors")
    assert single.bits == ()
    with pytest.raises(BitwrightError, match="one precision only"):
        single(pixels, bits=3)


def test_a_comparison_has_a_column_for_each_precision(tmp_path: Path) -> None:
    recipe = {
        "name": "several",
        "data": {"name": "digits", "limit": 300},
        "model": {"name": "mlp", "hidden": [16, 16], "norm": "batch"},
        "steps": [{"progressive": {"train": {"epochs": 1, "batch_size": 50}}}],
    }
    variants = {"both": {"set": {"progressive.bits": [1, 2]}}, "one": {"set": {"progressive.bits": [1]}}}
    (tmp_path / "c.yaml").write_text(json.dumps({"name": "c", "recipe": recipe, "variants": variants}))
    record = json.loads((compare(plan([tmp_path / "c.yaml"]), tmp_path / "out") / "comparison.json").read_text())
    head, rows = table(record)
    assert head[-5:] == ["test error", "with 1 bit", "with 2 bits", "bytes", "ms for one image"]
    assert rows[1][head.index("with 2 bits")] == "-"
    assert rows[0][head.index("with 2 bits")] == rows[0][head.index("test error")]


def test_a_run_says_what_each_precision_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {
        "name": "several",
        "data": "digits",
        "model": {"name": "mlp", "hidden": [32, 32, 32], "norm": "batch"},
        "steps": [
            {"train": {"epochs": 3, "batch_size": 50}},
            {"progressive": {"bits": [1, 2], "train": {"epochs": 1, "batch_size": 50}}},
        ],
    }
    result = bw.run_recipe(recipe, tmp_path / "run")
    found = result.result["precisions"]
    assert list(found) == ["1", "2"]
    assert found["2"]["error"] == result.result["packed"]["error"]
    assert {one["kind"] for one in found.values()} == {result.result["agreement"]["kind"]}
    coded = 2 * 32 * 32  # fc2 and fc3
    assert result.result["packed"]["coded"]["weights"] == coded, "of all precisions together"
    assert inspect_file(result.packed).weights < coded + 64 * 32 + 32 * 10 + 500
    assert found["1"]["error"] < 40
    assert all(one["labels_different"] <= 1 for one in found.values())
    assert {"engine", "1"} <= set(result.measurements["milliseconds"]["batches"]["1"])
    page = result.report.read_text()
    assert "One file, several precisions" in page
    assert all(f'"id": "precisions-{kind}"' in page for kind in ("accuracy", "ms"))
    np.save(tmp_path / "x.npy", DIGITS.test.images[:2])
    capsys.readouterr()
    for arguments in (["predict", "--bits", "1", str(result.packed), str(tmp_path / "x.npy")],):
        assert main(arguments) == 0
    assert capsys.readouterr().out.count("%") == 6
    (tmp_path / "several.yaml").write_text(json.dumps(recipe))
    assert main(["run", str(tmp_path / "several.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert f"{found['1']['error']:.2f} %" in capsys.readouterr().out
    assert main(["bench", str(result.packed), "--bits", "1,2", "--vs", "none"]) == 0
    printed = capsys.readouterr().out
    assert "bitwright, 1 bit " in printed
    assert "bitwright, 2 bits" in printed
    assert main(["bench", str(result.packed), "--bits", "3"]) == 1
    assert main(["bench", str(result.packed), "--bits", "two"]) == 1
    assert main(["bench", str(result.packed), "--bits", "²"]) == 1
    assert main(["bench", str(result.packed), "--bits", "1,2", "--layers"]) == 1
    errors = capsys.readouterr().err
    assert "3 bits; the file has 1, 2" in errors
    assert errors.count("expected whole numbers with commas") == 2
    assert "layers of 2 precisions at once; name one of 1, 2" in errors
    kernels = [
        [row["kernel"] for row in measure_file(result.packed, seconds=0.01, peers=(), layers=True, bits=(k,))["layers"]]
        for k in (1, 2)
    ]
    assert any("bits" in kernel for kernel in kernels[0])


def test_what_a_file_may_say_of_its_precisions(three: tuple[nn.Module, Context]) -> None:
    data = bw.pack(three[0], (torch.zeros(1, *DIGITS.shape),), preprocess=DIGITS.preprocess).data
    content, body = unwrap(data, 1 << 30)

    def broken(change: Any) -> str:
        copied = copy.deepcopy(content)
        change(copied)
        with pytest.raises(BitwrightError) as error:
            read_container(wrap(copied, body))
        return str(error.value)

    def cut(copied: dict[str, Any]) -> list[Any]:
        entry: list[Any] = next(entry for entry in copied["t"] if len(entry) == 5)
        return entry

    assert read_container(wrap(content, body)).variants.keys() == {1, 2, 3}
    assert "expected the bits of the graph" in broken(lambda c: c["v"].__setitem__(0, 0))
    assert "2 bits after one of 2" in broken(lambda c: c["v"][2].__setitem__(0, 2))
    assert "not [bits, nodes, outputs]" in broken(lambda c: c["v"].append([1]))
    assert "a node that is not" in broken(lambda c: c["v"][1][1].append([1]))
    assert "other shapes" in broken(lambda c: c["v"][1][2].__setitem__(0, 2))
    assert "none before it" in broken(lambda c: cut(c).__setitem__(2, 10_000))
    assert "fewer bits" in broken(lambda c: cut(c).__setitem__(4, 3))
    other = next(i for i, entry in enumerate(content["t"]) if entry[0] == "conv1.weight")
    assert "of its shape" in broken(lambda c: cut(c).__setitem__(2, other))


def test_weights_that_left_the_grid_are_not_packed(three: tuple[nn.Module, Context]) -> None:
    model, x = copy.deepcopy(three[0]), (torch.zeros(1, *DIGITS.shape),)
    model = Half().apply(model, Context(DIGITS))
    file = bw.pack(model, x)
    assert [row.role for row in file.report().rows if row.encoding == "truncated"], "half leaves codes alone"
    name, layer = next((n, m) for n, m in model.named_modules() if isinstance(m, SwitchConv2d))
    layer.weight.data[0, 0, 0, 0] *= 1.01
    with pytest.raises(BitwrightError, match=f"layer '{name}': its weights are not on the grid of 3 bits"):
        bw.pack(model, x)


def test_steps_that_may_not_follow(tmp_path: Path) -> None:
    recipe = {
        "name": "behind",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [8, 8]},
        "steps": [{"progressive": {"bits": [1, 2]}}, "prune"],
    }
    with pytest.raises(BitwrightError, match=r"steps\[1\]\.prune: it comes after progressive"):
        bw.run_recipe(recipe, tmp_path)
    model = bw.create_model("mlp", input_shape=DIGITS.shape, hidden=[8, 8], norm="batch")
    short = Progressive(bits=(1, 2), train=SHORT)
    with pytest.raises(BitwrightError, match=r"2-share: the network has precisions of 1, 2 bits"):
        bw.compress(model, [short, Share()], DIGITS)
    model = bw.compress(bw.create_model("mlp", input_shape=DIGITS.shape, hidden=[8, 8], norm="batch"), [short], DIGITS)
    with pytest.raises(BitwrightError, match=r"train: the network has precisions of 1, 2 bits"):
        bw.train(model, DIGITS)


def test_a_network_of_several_precisions_is_each_of_its_variants(three: tuple[nn.Module, Context]) -> None:
    model, x, top = three[0], (torch.zeros(1, *DIGITS.shape),), at_bits(three[0], 3)
    packed = bw.pack(model, x, variants={1: model, 3: model})
    assert packed.data == bw.pack(top, x, variants={1: at_bits(model, 1), 3: top}).data
    with pytest.raises(BitwrightError, match="no precision of 4 bits"):
        bw.pack(model, x, variants={1: model, 4: model})


def test_variants_whose_tensors_have_names_of_cut_ones(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name
            self.register_parameter(name, nn.Parameter(torch.randn(4, 8)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, getattr(self, self.name))

    one, three, x = Net("w"), Net("w@1"), torch.randn(2, 8)
    bw.pack(three, (x,), variants={1: one, 3: three}).save(tmp_path / "net.safetensors")
    model = bw.load(tmp_path / "net.safetensors")
    for bits, net in ((1, one), (3, three)):
        np.testing.assert_allclose(model(x.numpy(), bits=bits), net(x).detach(), rtol=1e-5)


def test_variants_are_the_same_network() -> None:
    a, b = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 2))
    x = (torch.zeros(1, 4),)
    with pytest.raises(BitwrightError, match=r"outputs \[\(3,\)\], the one of 1 bits .* \[\(2,\)\]"):
        bw.pack(a, x, variants={1: b, 2: a})
    with pytest.raises(BitwrightError, match="at most 3 bits, and that one is not the model"):
        bw.pack(a, x, variants={3: b, 2: a})
    for variants in ([a], {"1": a}, {0: a}):
        with pytest.raises(BitwrightError, match=r"variants are \[|a variant of '1' bits|a variant of 0 bits"):
            bw.pack(a, x, variants=variants)  # type: ignore[arg-type]
    data = bw.pack(a, x, variants={1: copy.deepcopy(a), 2: a}).data
    assert len(data) < len(bw.pack(a, x).data) + 60, "equal numbers are there once"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": ()}, "bits is \\[\\]; expected precisions from 1 to 7 bits, ascending"),
        ({"bits": (2, 1)}, "ascending"),
        ({"bits": (1, 9)}, "from 1 to 7"),
        ({"gamma": 0}, "gamma is 0"),
        ({"schedule": "residual", "recursive": True}, "one precision at a time"),
        ({"schedule": "sideways"}, "sideways"),
        ({"bits": 2}, "bits is 2; expected a list"),
        ({"bits": (1, 8)}, "from 1 to 7 bits"),
        ({"train": None}, r"train is None; expected TrainSettings\(\.\.\.\)"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BitwrightError, match=message):
        Progressive(**changes)


def test_networks_that_are_refused(three: tuple[nn.Module, Context]) -> None:
    with pytest.raises(BitwrightError, match="has precisions of 1, 2, 3 bits already"):
        Progressive().look_ahead(three[0], DIGITS)


def test_inputs_below_zero_have_signed_codes() -> None:
    model, context = run(Progressive(bits=(1, 2), train=SHORT), small_resnet("pre-activation", signs=True))
    layer = at_bits(model, 1).get_submodule("layer1.0.conv1")
    assert (int(layer.input.qmin), int(layer.input.qmax)) == (-1, 0)
    assert float(context.records["progressive"]["validation_error"]["2"]) < 80
