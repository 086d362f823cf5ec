"""The command line: what each command prints, and that a mistake is one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitwright import __version__
from bitwright.cli import main
from bitwright.cli.images import read_images
from bitwright.errors import BitwrightError
from bitwright.packing.container import write_container
from bitwright.runtime.graph import Graph, Node

RECIPE = """
name: tiny
data: digits
model: {name: mlp, hidden: [16]}
steps:
  - train: {epochs: 3, optimizer: {name: Adam, lr: 1e-2, options: {}}}
  - prune: {fraction: 0.5, retrain: null}
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cli")
    (place / "tiny.yaml").write_text(RECIPE)
    assert main(["run", str(place / "tiny.yaml"), "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture
def packed(folder: Path) -> str:
    return str(folder / "packed.safetensors")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_version_and_help(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bitwright {__version__}\n"
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in (
        "run",
        "train",
        "compress",
        "pack",
        "inspect",
        "predict",
        "bench",
        "list",
        "demo",
        "results",
        "features",
        "summary",
        "probe",
        "views",
        "evaluate",
        "search",
    ):
        assert command in printed


def test_run_prints_the_table_and_where_things_are(folder: Path, capsys: Captured) -> None:
    assert main(["run", str(folder.parent / "tiny.yaml"), "--out", str(folder)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "test error",
        "bytes on disk",
        "times smaller",
        f"{folder}/packed.safetensors",
        f"{folder}/report.html",
    ):
        assert text in printed
    command = json.loads((folder / "measurements.json").read_text())["command"]
    assert command == "bitwright run tiny.yaml", "without folders of this machine"


def test_run_takes_settings_and_seed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(folder.parent / "tiny.yaml")
    assert main(["run", recipe, "--set", "train.epochs=1", "--set", "prune.fraction=0.25", "--seed", "2"]) == 0
    resolved = (tmp_path / "runs" / "tiny-seed2" / "recipe.yaml").read_text()
    assert "epochs: 1\n" in resolved
    assert "fraction: 0.25" in resolved
    assert main(["run", recipe, "--set", "train.epochs=1", "--seed", "2"]) == 1
    assert main(["run", recipe, "--set", "train.epochs=1", "--seed", "2", "--restart"]) == 0


def test_train_compress_pack(tmp_path: Path, capsys: Captured) -> None:
    run, file = tmp_path / "run", tmp_path / "small.safetensors"
    options = ["--epochs", "1", "--optimizer", "Adam", "--lr", "0.01", "--batch-size", "32"]
    assert main(["train", "mlp", "digits", *options, "--set", "model.hidden=[8]", "--out", str(run)]) == 0
    assert "name: mlp-digits" in (run / "recipe.yaml").read_text()
    assert main(["compress", str(run), "prune", "--set", "fraction=0.5", "--set", "retrain=null"]) == 0
    assert (run / "2-prune" / "step.json").is_file()
    capsys.readouterr()
    assert main(["pack", str(run), "-o", str(file)]) == 0
    assert f"{file.stat().st_size:,} bytes, from step 2-prune" in capsys.readouterr().out
    assert file.read_bytes() == (run / "packed.safetensors").read_bytes()
    assert main(["pack", str(run), "-o", str(file), "--profile", "{coders: [raw]}"]) == 0
    assert file.stat().st_size > (run / "packed.safetensors").stat().st_size


def test_demo(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitwright.recipe import load_recipe

    short = ["train.epochs=2", "prune.retrain.epochs=2", "share.retrain.epochs=1"]
    monkeypatch.setattr("bitwright.recipe.load_recipe", lambda name: load_recipe(name, short))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "times smaller" in printed
    assert printed.splitlines()[-1].count(" as ") == 5


def test_inspect(packed: str, capsys: Captured) -> None:
    assert main(["inspect", packed]) == 0
    printed = capsys.readouterr().out
    for text in ("fc1 weight", "16x64", "sparse", f"{Path(packed).stat().st_size:,}", "Paper counts"):
        assert text in printed
    assert main(["inspect", packed, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["file_bytes"] == Path(packed).stat().st_size


def test_predict_arrays_and_pictures(packed: str, tmp_path: Path, capsys: Captured) -> None:
    from bitwright.data import load_dataset

    data = load_dataset("digits")
    np.save(tmp_path / "many.npy", data.test.images[:50])
    assert main(["predict", packed, str(tmp_path / "many.npy"), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 50
    said = [line.split("  ", 1)[1].split()[0] for line in lines]
    right = sum(data.classes[label] == word for label, word in zip(data.test.labels[:50], said, strict=True))
    assert right > 30
    assert lines[0].count("%") == 2
    pixels = data.test.images[0, 0]
    grey = pixels if pixels.dtype == np.uint8 else np.round(255 * pixels).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "colour.png")
    assert main(["predict", packed, str(tmp_path / "colour.png")]) == 0
    assert capsys.readouterr().out.split()[1] == said[0]


def test_a_picture_of_the_wrong_size(packed: str, tmp_path: Path, capsys: Captured) -> None:
    Image.new("L", (20, 10)).save(tmp_path / "wide.png")
    assert main(["predict", packed, str(tmp_path / "wide.png")]) == 1
    assert "wide.png is 20x10 pixels (width x height), the model takes 8x8; scale it or use --resize" in (
        capsys.readouterr().err
    )
    assert main(["predict", packed, str(tmp_path / "wide.png"), "--resize"]) == 0


def test_what_is_no_image(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((3, 7)))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.png").write_text("no picture")
    for name, shape, pixels, message in (
        ("flat.npy", (1, 8, 8), True, r"flat\.npy has shape 3x7; the model takes 1x8x8, or many along a first axis"),
        ("objects.npy", (1, 8, 8), True, r"objects\.npy is no NumPy array: .*pickle"),
        ("text.png", (1, 8, 8), True, r"text\.png cannot be read as a picture"),
        ("text.png", (1, 8, 8), False, r"packed without its input's normalisation.*preprocess="),
        ("text.png", (12,), True, r"the model takes arrays of 12, not pictures; give a \.npy file"),
        ("none.png", (1, 8, 8), True, r"no file .*none\.png; expected a picture or a \.npy array"),
    ):
        with pytest.raises(BitwrightError, match=message):
            list(read_images(tmp_path / name, shape, pixels, resize=False))


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8), (3, 1, 8, 8), (1, 1, 8, 8)])
def test_grey_arrays_with_and_without_their_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = (np.arange(np.prod(shape), dtype=np.float32) / 256).reshape(shape)
    np.save(tmp_path / "a.npy", values)
    images = list(read_images(tmp_path / "a.npy", (1, 8, 8), True, resize=False))
    assert all(image.shape == (1, 1, 8, 8) and image.dtype == np.float32 for _, image in images)
    assert np.array_equal(np.concatenate([image.ravel() for _, image in images]), values.ravel())


@pytest.mark.parametrize(
    ("values", "pixels", "message"),
    [
        (np.zeros((8, 8), np.int64), True, r"holds int64 values; expected uint8 pixels or floats from 0 to 1"),
        (np.zeros((8, 8), complex), False, r"holds complex128 values; expected numbers"),
        (np.zeros((0, 1, 8, 8), np.uint8), True, r"holds no image: its shape is 0x1x8x8"),
        (np.full((8, 8), np.nan), False, r"holds NaN or infinite values"),
        (np.full((8, 8), 255.0), True, r"values from 255 to 255; expected pixels as uint8.*divide by 255"),
    ],
)
def test_values_that_mean_something_else(tmp_path: Path, values: np.ndarray, pixels: bool, message: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(BitwrightError, match=message):
        list(read_images(tmp_path / "a.npy", (1, 8, 8), pixels, resize=False))


def test_pictures_of_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BitwrightError, match=r"deep\.png cannot be read as a picture: .*more than 8 bits"):
        list(read_images(tmp_path / "deep.png", (1, 8, 8), True, resize=False))


def test_inspect_fits_a_narrow_terminal(packed: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["inspect", packed]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 60
    assert "fc1 weight " in printed
    assert "No room for coders" in printed


def test_a_refusal_of_the_system_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", "demo", "--out", str(tmp_path / "file" / "run")]) == 1
    assert "file/run: Not a directory; mend that" in capsys.readouterr().err


def test_bench(packed: str, capsys: Captured) -> None:
    assert main(["bench", packed, "--threads", "1", "--batch", "2"]) == 0
    printed = capsys.readouterr().out
    assert "bitwright" in printed
    assert "kernels, 1 of" in printed
    assert "half the distance of the quartiles" in printed
    assert main(["bench", packed, "--layers", "--vs", "none"]) == 0
    assert "measured" in capsys.readouterr().out
    assert main(["bench", packed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["contestants"][0]["median"] > 0


def test_bench_says_where_few_bits_of_weights_gain_no_time(tmp_path: Path, capsys: Captured) -> None:
    weight = np.where(np.random.default_rng(0).random((8, 4, 3, 3)) < 0.5, np.float32(-1), np.float32(1))
    window = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    for coded in (False, True):
        nodes = [Node("sign", (0,))] if coded else []
        nodes.append(Node("conv2d", (len(nodes),), window, {"weight": "w"}, "c"))
        path = tmp_path / f"{coded}.safetensors"
        path.write_bytes(write_container(Graph(((4, 6, 6),), tuple(nodes), (len(nodes),)), {"w": weight}, {}))
        assert main(["bench", str(path), "--layers", "--vs", "none"]) == 0
        assert ("no faster than float32: 1 convolutions of floats" in capsys.readouterr().out) is not coded


def test_lists(capsys: Captured) -> None:
    for kind, expected in (("steps", "prune"), ("models", "lenet-5"), ("data", "digits"), ("recipes", "demo")):
        assert main(["list", kind]) == 0
        lines = capsys.readouterr().out.splitlines()
        line = next(line for line in lines if line.split()[0] == expected)
        assert len(line.split()) > 3, "a name and what it is"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dmo"], "error: unknown recipe 'dmo'; did you mean 'demo'?"),
        (["run", "demo", "--set", "prune.qualty=1"], "error: demo: unknown key steps[1].prune.qualty; did you mean"),
        (["train", "lenet", "digits"], "error: unknown model 'lenet'"),
        (["train", "mlp", "digts"], "error: unknown dataset 'digts'; did you mean 'digits'"),
        (["compress", "nowhere", "prune"], "error: nowhere is no run: it has no recipe.yaml"),
        (["compress", "nowhere", "prne"], "error: unknown step 'prne'; did you mean 'prune'"),
        (["inspect", "nothing.safetensors"], "error: cannot read 'nothing.safetensors'"),
        (["features", "nowhere"], "error: nowhere is not a finished run"),
        (["evaluate", "nowhere"], "error: nowhere is not a finished run"),
        (["evaluate", "nowhere", "--scales", "big"], "error: --scales is 'big'; expected numbers"),
        (["views", "digits", "--set", "rotat=3"], "error: unknown key augment.rotat; did you mean 'rotate'"),
        (["views", "digits", "--set", "hue=0.1"], "error: augment.hue is 0.1 for images of 1 channels"),
        (["results", "--publish"], "error: --publish and the folders of runs belong together"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert any(line.startswith(message) for line in printed.err.splitlines())
    assert "Traceback" not in printed.err
    assert main(["--debug", *arguments]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "rows"), [([], 13), (["--set", "crop=2", "--set", "flip=true"], 4), (["--set", "flip=true"], 2)]
)
def test_views_are_drawn(settings: list[str], rows: int, tmp_path: Path) -> None:
    """The image as it is, each kind, and where there are several all of them."""
    out = tmp_path / "views.png"
    assert main(["views", "digits", *settings, "-o", str(out)]) == 0
    with Image.open(out) as page:
        assert page.size == (110 + 12 * 68, 4 + rows * 68)
        pixels = np.asarray(page)
    tops = range(4, page.size[1] - 4, 68)
    pictures = [pixels[top : top + 64, 110:178].tobytes() for top in tops] + [b""] * (rows == 2)
    assert len(set(pictures)) > rows / 2, "the views differ"


def test_runs_are_evaluated_alone_and_together(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    other = tmp_path / "other"
    assert main(["run", str(folder.parent / "tiny.yaml"), "--seed", "1", "--out", str(other)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(folder), str(other), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    alone = json.loads((folder / "result.json").read_text())["compressed"]["error"]
    assert rows[str(folder)]["error"] == alone
    assert list(rows) == [str(folder), str(other), "all together"]
    assert rows["all together"]["loss"] < max(rows[str(one)]["loss"] for one in (folder, other))
    assert main(["evaluate", str(folder), "--crops", "10", "--margin", "1"]) == 0
    assert "test error" in capsys.readouterr().out


def test_packing_a_run_that_did_nothing(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "recipe.yaml").write_text((folder / "recipe.yaml").read_text())
    assert main(["pack", str(tmp_path)]) == 1
    assert "has no finished step to pack" in capsys.readouterr().err


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["list", "recipes"]) == 1
    assert 'error: this command needs yaml, which is not installed; pip install "bitwright[train]"' in (
        capsys.readouterr().err
    )


def test_a_stopped_run_says_how_it_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitwright.recipe.list_recipes", interrupted)
    assert main(["list", "recipes"]) == 130
    assert "goes on where it was" in capsys.readouterr().err


def test_using_a_packed_file_imports_no_torch(packed: str, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 8, 8), np.uint8))
    code = (
        "import sys\n"
        "from bitwright.cli import main\n"
        f"assert main(['inspect', {packed!r}]) == 0\n"
        f"assert main(['predict', {packed!r}, {str(tmp_path / 'one.npy')!r}]) == 0\n"
        "heavy = {'torch', 'pydantic', 'yaml', 'plotly', 'sklearn', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
