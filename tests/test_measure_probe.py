"""The probe's numbers are autograd's, its surface the one of the paper, and its page needs nothing from outside."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitwright.cli import main
from bitwright.errors import BitwrightError
from bitwright.measure.probe import probe
from bitwright.measure.surface import direction, loss_surface
from bitwright.models import create_model
from bitwright.report.probing import MOST_LAYERS, probe_page


def batch(count=12, shape=(1, 8, 8)):
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=random), torch.randint(10, (count,), generator=random)


def small(**options):
    return create_model("mlp", input_shape=(1, 8, 8), hidden=[9, 7], seed=0, **options)


def test_activations_and_gradients_are_those_of_autograd():
    model, (images, labels) = small(), batch()
    outputs, x = {}, images
    for name, child in model.named_children():
        x = child(x)
        outputs[name] = x
    loss = F.cross_entropy(x, labels, reduction="sum")
    rows = probe(model, images, labels)
    assert [row["layer"] for row in rows] == ["fc1", "act1", "fc2", "act2", "fc3"]
    for row in rows:
        value = outputs[row["layer"]]
        (gradient,) = torch.autograd.grad(loss, value, retain_graph=True)
        for numbers, tensor in ((row["activations"], value), (row["gradients"], gradient)):
            array = tensor.detach().double().numpy()
            assert numbers["mean"] == pytest.approx(array.mean(), abs=1e-9)
            assert numbers["std"] == pytest.approx(array.std())
            assert numbers["zeros"] == pytest.approx(100 * (array == 0).mean())
            assert sum(numbers["y"]) == (array != 0).sum()
            middle = np.average(numbers["x"], weights=numbers["y"])
            assert middle == pytest.approx(array[array != 0].mean(), abs=np.ptp(array) / 60)


def test_gradients_do_not_depend_on_the_number_of_images():
    images, labels = batch()
    one, two = (probe(small(), images.repeat(n, 1, 1, 1), labels.repeat(n)) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a["gradients"]["std"] == pytest.approx(b["gradients"]["std"], rel=1e-5)


def test_a_layer_whose_output_is_changed_in_place():
    images, labels = batch()
    plain = small()
    changed = copy.deepcopy(plain)
    changed.act1.inplace = changed.act2.inplace = True
    assert probe(plain, images, labels) == probe(changed, images, labels)


class Twice(nn.Module):
    """One layer twice, then one that no gradient reaches, and an empty branch."""

    def __init__(self):
        super().__init__()
        self.layer, self.lost, self.empty = nn.Linear(4, 4), nn.Linear(4, 4), nn.Sequential()

    def forward(self, x):
        x = self.layer(self.layer(x))
        return self.empty(x) + self.lost(x).detach()


def test_layers_that_run_twice_and_gradients_that_do_not_exist():
    rows = probe(Twice(), torch.randn(5, 4), torch.zeros(5, dtype=torch.long))
    assert [row["layer"] for row in rows] == ["layer", "layer #2", "lost"]
    assert [row["gradients"] is None for row in rows] == [False, False, True]


def test_the_model_and_the_random_state_stay_as_they_are():
    model, (images, labels) = small(norm="batch", dropout=0.5).eval(), batch()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = probe(model, images, labels, seed=1)
    loss_surface(model, images, labels, points=3)
    assert first == probe(model, images, labels, seed=1) != probe(model, images, labels, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    norm = next(row for row in first if row["layer"] == "norm1")
    assert norm["activations"]["std"] == pytest.approx(1, abs=1e-3)  # of this batch


def test_numbers_that_are_not_finite_name_the_layer():
    model = small()
    model.fc2.weight.data.fill_(1e38)
    with pytest.raises(BitwrightError, match="fc2: not all numbers are finite"):
        probe(model, *batch())


def test_every_filter_of_a_direction_is_as_long_as_that_of_the_weights():
    model = create_model("lenet-5", seed=0)
    model.conv2.weight.data[3] = 0
    weights = dict(model.named_parameters())
    found = direction(weights, seed=1)
    for name, weight in weights.items():
        if weight.ndim == 1:
            assert not found[name].any()
        else:
            lengths = [tensor.detach().flatten(1).norm(dim=1) for tensor in (found[name], weight)]
            torch.testing.assert_close(*lengths)
    assert not torch.equal(found["fc1.weight"], direction(weights, seed=2)["fc1.weight"])


def test_the_surface_is_the_loss_at_moved_weights():
    model, (images, labels) = small(), batch()
    found = loss_surface(model, images, labels, points=5, reach=0.5, seed=3)
    assert found["axis"] == [-0.5, -0.25, 0, 0.25, 0.5]
    assert found["loss"][2][2] == pytest.approx(F.cross_entropy(model(images), labels).item())
    assert np.ptp(found["loss"]) > 0.1
    # the same function in other numbers: ReLU hands a factor on, and filter normalisation takes it out again
    scaled = copy.deepcopy(model)
    scaled.fc1.weight.data *= 8
    scaled.fc2.weight.data /= 8
    np.testing.assert_allclose(loss_surface(scaled, images, labels, 5, 0.5, 3)["loss"], found["loss"], rtol=1e-5)
    with pytest.raises(BitwrightError, match="4 points a side; expected an odd number"):
        loss_surface(model, images, labels, points=4)


def test_a_page_has_a_place_for_every_chart_and_needs_no_network():
    model, (images, labels) = small(), batch()
    surface = loss_surface(model, images, labels, points=3)
    surface["loss"][0][0] = None
    page = probe_page("a </script> name", "about", probe(model, images, labels), surface)
    charts = json.loads(re.search(r"const charts = (.*);\nfunction", page)[1])
    placed = re.findall(r'class="chart" id="([^"]+)"', page)
    assert sorted(placed) == sorted(chart["id"] for chart in charts)
    assert len(placed) == 3 + 2 * 5
    assert page.count("<script>") == 2
    assert not re.search(r"(?:src|href)\s*=", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))


def test_a_deep_network_has_histograms_of_some_layers():
    rows = probe(create_model("mlp", hidden=[3] * 50, input_shape=(1, 8, 8), seed=0), *batch())
    page = probe_page("deep", "about", rows, None)
    shown = len(re.findall(r'id="activations-\d+"', page))
    assert MOST_LAYERS / 2 < shown <= MOST_LAYERS
    assert f"{shown} of {len(rows)} layers" in page
    assert 'id="surface"' not in page


def test_the_command_on_a_model_and_on_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mlp = ["mlp", "--option", "hidden=[8]", "--option", "input_shape=[1,8,8]", "--option", "initialize=lsuv"]
    assert main(["probe", *mlp, "--images", "32"]) == 0
    assert "first weights, seed 0; 32 inputs of standard normal numbers" in capsys.readouterr().out
    torch.save(create_model("mlp", hidden=[8], input_shape=(1, 8, 8)).state_dict(), "own.pth")
    assert main(["probe", *mlp[:5], "--option", "weights=own.pth", "--images", "8"]) == 0
    assert "weights own.pth; 8 inputs" in capsys.readouterr().out
    (tmp_path / "tiny.yaml").write_text("name: tiny\ndata: digits\nmodel: {name: mlp, hidden: [8]}\nsteps: [half]\n")
    assert main(["run", "tiny.yaml"]) == 0
    capsys.readouterr()
    said = {}
    for name, arguments in {
        "run": ["runs/tiny", "--surface", "3"],
        "start": ["runs/tiny", "--step", "start"],
        "model": ["mlp", "digits", "--option", "hidden=[8]"],
    }.items():
        assert main(["probe", *arguments, "--images", "20", "--json", "-o", f"{name}.html"]) == 0
        said[name] = json.loads(capsys.readouterr().out)
    assert said["run"]["about"] == "weights after 1-half; 20 training images of digits"
    assert len(said["run"]["surface"]["loss"]) == 3
    assert said["start"]["layers"] == said["model"]["layers"]
    assert 'id="surface"' in (tmp_path / "run.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torch.nn:Identity"], "name a data set: probe torch.nn:Identity digits"),
        (["runs/tiny", "--option", "a=1"], "leave out --option"),
        (["runs/tiny", "--step", "7-train"], "unknown finished step of runs/tiny '7-train'"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "recipe.yaml").write_text("name: t\ndata: digits\nmodel: mlp\nsteps: [half]\n")
    assert main(["probe", *arguments]) == 1
    assert message in capsys.readouterr().err
