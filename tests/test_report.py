"""The report page: everything the run knows is on it, and nothing from outside is needed to see it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bitwright import BitwrightError, create_model, load, pack, run_recipe
from bitwright.report import before_after, gather, render
from bitwright.report.bits import ranges, search_charts
from bitwright.report.charts import all_charts, layer_bytes, sensitivity
from bitwright.report.features import draw_features, first_features
from bitwright.report.gather import remarks
from bitwright.report.histograms import BINS, picture
from bitwright.report.layers import cell

RECIPE = {
    "name": "tiny",
    "description": "less than <b>1 KB</b>",
    "data": "digits",
    "model": {"name": "mlp", "hidden": [16]},
    "steps": [
        {"train": {"epochs": 3}},
        {"prune": {"quality": "auto", "tolerance": 20.0, "rounds": 2, "retrain": {"epochs": 2}}},
        {"share": {"bits": 3, "retrain": None}},
    ],
    "published": {"error": 1.5, "bytes": 27000, "ratio": 40, "source": "a </script> paper"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(RECIPE, tmp_path_factory.mktemp("report") / "tiny", command="bitwright run tiny").folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict[str, Any]:
    return gather(folder)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


def without_scripts(page: str) -> str:
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_needs_no_network(page: str) -> None:
    assert not re.search(r"(?:src|href)\s*=", without_scripts(page))
    assert "@import" not in page.split("</style>")[0]
    assert "Plotly" in page


def test_text_of_the_recipe_cannot_break_the_page(page: str) -> None:
    assert "less than &lt;b&gt;1 KB&lt;/b&gt;" in page
    assert "a &lt;/script&gt; paper" in page
    assert page.count("<script>") == 2


def test_every_chart_has_its_place_and_every_place_its_chart(page: str, facts: dict[str, Any]) -> None:
    placed = set(re.findall(r'class="chart" id="([^"]+)"', page))
    made = [chart["id"] for chart in all_charts(facts)]
    assert len(made) == len(set(made))
    assert placed == set(made)
    assert {"curves-0", "curves-1", "layer-bytes", "sensitivity-0", "weights-0-2"} <= placed


def test_the_charts_are_json(page: str, facts: dict[str, Any]) -> None:
    text = re.search(r"const charts = (.*);\nfunction", page)
    assert text
    assert json.loads(text[1]) == json.loads(json.dumps(all_charts(facts)))


def test_the_page_tells_what_it_must(page: str, facts: dict[str, Any]) -> None:
    shown = re.sub(r"\s+", " ", without_scripts(page))
    result = facts["result"]
    for text in (
        f"{result['packed']['bytes']:,}",
        f"{result['dense']['error']:.2f} %",
        "bitwright run tiny",
        "27,000",
        "3-share",
        "epochs: 3",
        "graph, names, headers",
        "Work left per layer",
        "numpy",
    ):
        assert text in shown, text
    assert str(Path.home()) not in shown


def test_curves_join_the_trainings_of_a_step(facts: dict[str, Any]) -> None:
    chart = next(c for c in all_charts(facts) if c["id"] == "curves-1")
    assert chart["data"][0]["x"] == [1, 2, 3, 4]
    assert [s["x0"] for s in chart["layout"]["shapes"]] == [2.5]


def test_a_students_teacher_is_beside_it(folder: Path, tmp_path: Path) -> None:
    """An earlier step with its epochs, the folder of a run by those of its last step, "start" by its error."""
    teachers = ["1-train", str(folder), "start"]
    steps = [{"train": {"epochs": 2}}, *({"train": {"epochs": 1, "distill": {"teacher": t}}} for t in teachers)]
    run = run_recipe({**RECIPE, "steps": steps}, tmp_path, speed=False)
    found = gather(run.folder)
    lines = [next(c for c in all_charts(found) if c["id"] == f"curves-{i}")["data"] for i in range(4)]
    errors = [step["validation"]["error"] for step in found["steps"]]
    assert len(lines[0]) == 2
    assert lines[1][2]["name"] == "teacher, validation"
    assert lines[1][2]["y"] == lines[0][1]["y"]
    assert lines[2][2]["y"] == [json.loads((folder / "3-share" / "step.json").read_text())["validation"]["error"]] * 2
    assert lines[3][2]["y"] == [errors[2]] * 2


def test_pictures_show_the_gap_and_the_codebook(facts: dict[str, Any]) -> None:
    dense, pruned, shared = facts["pictures"][0]["steps"]
    assert facts["pictures"][0]["layer"] == "fc1"
    assert dense["density"] == 1
    assert pruned["density"] < 1
    assert not pruned["exact"] or pruned["values"] <= 256
    assert shared["exact"]
    assert shared["values"] == len(shared["x"]) <= 8


def test_a_picture_counts_every_weight_once() -> None:
    weight = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    weight[:, ::4] = 0
    many = picture("x", weight)
    assert (many["exact"], len(many["x"]), sum(many["y"])) == (False, BINS, 1500)
    few = picture("x", np.round(weight))
    assert few["exact"]
    assert few["x"] == sorted(set(few["x"]))
    assert sum(few["y"]) == np.count_nonzero(np.round(weight))
    assert few["density"] == np.count_nonzero(np.round(weight)) / 2000


def test_features_are_tiles_of_the_first_layers_weights(folder: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    """Of sixteen units on images of 8x8: two rows of eight."""
    features = facts["features"]
    assert (features["layer"], features["units"], features["shown"]) == ("fc1", 16, 16)
    assert features["image"].shape == (2 * 10 - 2, 8 * 10 - 2, 4)
    weight = load(folder / "packed.safetensors").stored["fc1.weight"].dense().reshape(16, 8, 8)
    shown = features["image"][10:18, 20:28, :3].astype(int) - 128
    assert np.array_equal(np.sign(shown), np.broadcast_to(np.sign(weight[10])[..., None], shown.shape))
    assert not features["image"][8:10].any()
    draw_features([folder, folder], tmp_path / "two.png")
    pixels = np.asarray(Image.open(tmp_path / "two.png"))
    one = pixels[24 : 24 + 3 * 18, 16 : 16 + 3 * 78]
    opaque = features["image"][..., 3:] == 255
    assert np.array_equal(one[::3, ::3], np.where(opaque, features["image"][..., :3], 255))


def test_features_need_images_and_tiles_that_show_something(tmp_path: Path) -> None:
    layers = nn.Conv2d(2, 4, 5), nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 5), nn.Conv2d(3, 4, 5)
    for i, layer in enumerate(layers):
        path = tmp_path / f"{i}.safetensors"
        pack(nn.Sequential(layer), (torch.zeros(1, layer.in_channels, 9, 9),)).save(path)
        assert (first_features(path) is not None) == (i >= 2)
    colours = first_features(path)["image"]
    weight = layer.weight.detach().numpy()
    red = colours[:5, :5, 0].astype(float) - 128
    expected = 127 * np.clip(weight[0, 0] / np.percentile(np.abs(weight), 99.5), -1, 1)
    np.testing.assert_allclose(red, expected, atol=0.51)


def test_features_of_patches_are_their_centroids(tmp_path: Path) -> None:
    model = create_model("patch-features", seed=0, input_shape=(3, 9, 9), centroids=20)
    pack(model, (torch.zeros(1, 3, 9, 9),)).save(tmp_path / "p.safetensors")
    features = first_features(tmp_path / "p.safetensors")
    assert (features["layer"], features["units"]) == ("features", 20)
    shown = features["image"][8:14, 16:22, :3].astype(float) - 128
    centroids = model.features.centroids.reshape(20, 3, 6, 6).permute(0, 2, 3, 1).numpy()
    expected = 127 * np.clip(centroids[10] / np.percentile(np.abs(centroids), 99.5), -1, 1)
    np.testing.assert_allclose(shown, expected, atol=0.51)


def test_a_layer_without_weights_left_has_a_picture() -> None:
    assert picture("x", np.zeros((3, 3), np.float32))["values"] == 0


def test_small_tensors_are_summed() -> None:
    rows = [{"name": f"t{i}", "bytes": i} for i in range(20)] + [{"name": "file", "bytes": 190}]
    bars = layer_bytes(rows)["data"][0]
    assert sum(bars["x"]) == 190
    assert bars["y"][0] == "8 smaller"
    assert bars["y"][-1] == "t19"


def test_sensitivity_curves_begin_at_the_whole_network() -> None:
    scan = {"baseline": 2.0, "layers": {"a": [{"amount": 0.5, "sparsity": 0.4, "error": 3.0}]}}
    line = sensitivity(0, scan)["data"][0]
    assert (line["x"], line["y"]) == ([0, 40.0], [2.0, 3.0])


def test_the_summary_without_measurements_or_paper() -> None:
    side = {"error": 2.0, "accuracy": 98.0, "bytes": 1000}
    rows = before_after({"dense": side, "packed": {**side, "bytes": 100}}, {})
    assert [row["packed"] for row in rows] == ["2.00 %", "98.00 %", "100", "10.0"]
    assert all(row["published"] == "" for row in rows)


def test_the_remarks_tell_equal_logits_from_near_ones() -> None:
    seen = {"values": 5000, "different": 3, "wrong": 1}
    agreement = {"images": 9000, "labels_different": 2, "logit_difference": 0.0, "quantised": seen}
    coded = {"weights": 1000, "bytes": 200}
    result = {"dense": {"weights": 7, "step": "0-start"}, "packed": {"coded": coded}, "agreement": agreement}
    equal = " ".join(remarks(result, {}, {"source": "a paper"}))
    for text in (
        "take 1.60 bits",
        "trained from nothing",
        "Every logit of 9,000",
        "3 of 5,000 numbers",
        "1 of them far",
    ):
        assert text in equal
    agreement["logit_difference"] = 0.25
    assert "different labels for 2 of 9,000 test images. The largest" in " ".join(remarks(result, {}, {}))


def test_the_summary_of_a_network_quantised_from_nothing() -> None:
    time = {"median": 1.0, "spread": 0.1, "rounds": 9}
    measured = {"milliseconds": {"batches": {"1": {"engine": time, "int8": time}, "64": {"engine": time}}}}
    rows = before_after({"dense": {"bytes": 9}, "packed": {"error": 2.0, "accuracy": 98.0, "bytes": 3}}, measured)
    assert [row["dense"] for row in rows] == ["-", "-", "9", "1.0", "", "1 ± 0.1", ""]
    assert [row["quantity"] for row in rows[4:]] == [
        "ms for one image",
        "ms for one image, dense in int8",
        "ms for 64 images",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(1234, "1,234"), (1234.5, "1,234"), (0.012345, "0.0123"), (None, ""), ("3x3", "3x3")]
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_an_unfinished_run_has_no_report(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text((folder / "recipe.yaml").read_text())
    with pytest.raises(BitwrightError, match=r"not a finished run \(no result\.json, packed\.safetensors\); finish it"):
        render(tmp_path)


def test_the_charts_of_a_bit_search() -> None:
    answer = {"tolerance": 1.0, "accuracy": 98.5, "traffic": 0.1, "weights": 0.2}
    answer |= {"value_bits": {"act1": [2, 1], "act2": [1, 1]}, "weight_bits": {"fc1": 4}}
    found = {"answers": [answer], "tried": [[98.5, 0.1, 0.2], [99, 0.2, 0.2], [97, 0.15, 0.2]], "scan": None}
    tried, profile = search_charts(3, found)
    assert tried["id"] == "bits-tried-3"
    assert tried["data"][0]["x"] == pytest.approx([10, 20, 15])
    assert tried["data"][1]["y"] == [98.5, 99], "the front"
    assert profile["data"][0]["y"] == [3, 2, 4]
    found["scan"] = {"data act1": [[4, 99.0], [3, 97.0]], "weight fc1": [[4, 99.0], [3, 80.0]]}
    scan = search_charts(3, found)[2]
    assert [trace["name"] for trace in scan["data"]] == ["weight fc1", "data act1"], "the one that loses most first"


def test_ranges_go_from_the_step_to_the_largest_number() -> None:
    points = [{"name": "x", "bits": 4, "scale": 0.25, "low": 0.0, "high": 3.75}]
    layers = [{"layer": "fc", "weight_bits": 3, "scale": 0.5, "low": -2.0, "high": 1.0}]
    data = ranges(0, {"points": points, "layers": layers})["data"]
    assert [bar["base"] for bar in data] == [[-2], [-1]]
    assert data[1]["y"] == [2]
    assert data[0]["hovertext"] == ["4 bits, 0.25 to 3.75"]
