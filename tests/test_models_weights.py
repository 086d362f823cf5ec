"""Weights from files, and from runs: every form, every mismatch, heads of another number of classes."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bitwright import BitwrightError, create_model, load_dataset, load_weights, run_recipe

real = pytest.mark.skipif("BITWRIGHT_DATA" not in os.environ, reason="BITWRIGHT_DATA is not set")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".th", ".pt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_weights_from_every_kind_of_file(tmp_path, suffix, wrapper):
    source = create_model("resnet-20", seed=1)
    state = {f"module.{k}": v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"best_prec1": 91.7, wrapper: state} if wrapper else state, path)
    model = create_model("resnet-20", seed=2)
    assert load_weights(model, path) is model
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in source.state_dict().items())


@real
def test_pretrained_files_load_by_name_and_reach_their_accuracy():
    data = load_dataset("cifar-10", preprocess={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    model = create_model("resnet-20", weights="resnet20-12fca82f").eval()
    images, labels = data.test.images[:2000], torch.from_numpy(data.test.labels[:2000])
    with torch.no_grad():
        right = model(data.preprocess.torch(torch.from_numpy(images))).argmax(1) == labels
    assert int(right.sum()) == 1833  # and 9,173 of all 10,000, the published 8.27 % error
    model = create_model("resnet-56", weights="resnet56-4bfd9763")
    assert torch.isfinite(model.linear.weight).all()
    with pytest.raises(BitwrightError, match="does not fit ResNet"):
        create_model("resnet-56", weights="resnet20-12fca82f")


def test_every_mismatch_is_listed_and_the_model_stays(tmp_path):
    model = create_model("lenet-300-100", seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()}
    del state["fc1.bias"]
    state["fc3.weight"] = torch.zeros(11, 100)
    state["extra"] = torch.zeros(2)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BitwrightError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "does not fit MLP with 6 tensors; 3 differ" in message
    assert "fc1.bias: model (300,), file has none" in message
    assert "fc3.weight: model (10, 100), file (11, 100)" in message
    assert "extra: model has none, file (2,)" in message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = create_model("lenet-300-100", seed=0)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["fc2.weight"][3, 4] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BitwrightError, match=r"'fc2\.weight' has 1 values that are NaN or infinite of 30000") as caught:
        load_weights(model, tmp_path / "w.safetensors")
    assert caught.value.kind == "not-finite"
    assert torch.isfinite(model.fc2.weight).all()


class Trap:
    """Something that only pickle could bring back."""


def test_pickle_is_never_loaded(tmp_path):
    torch.save({"state_dict": Trap()}, tmp_path / "w.pth")
    with pytest.raises(BitwrightError, match=r"holds more than tensors.*save model\.state_dict"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("cut", [0, 7, 100, -10])
def test_damaged_weight_files_are_refused(tmp_path, name, cut):
    whole = tmp_path / f"whole-{name}"
    state = nn.Linear(20, 20).state_dict()
    save_file(state, whole) if name.endswith("safetensors") else torch.save(state, whole)
    (tmp_path / name).write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(BitwrightError, match=f"{name} (is damaged or no weights file|holds more than tensors)"):
        load_weights(nn.Linear(20, 20), tmp_path / name)


def test_other_content_and_missing_files(tmp_path, monkeypatch):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(BitwrightError, match="holds list; expected tensors by name"):
        load_weights(nn.Linear(2, 2), tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(BitwrightError, match=r"holds \['epoch'\]; expected tensors by name"):
        load_weights(nn.Linear(2, 2), tmp_path / "epoch.pth")
    monkeypatch.setenv("BITWRIGHT_DATA", str(tmp_path))
    with pytest.raises(BitwrightError, match=rf"no weights 'net'; looked for net, .*{tmp_path}/pretrained/net\.th"):
        load_weights(nn.Linear(2, 2), "net")
    monkeypatch.delenv("BITWRIGHT_DATA")
    with pytest.raises(BitwrightError, match="BITWRIGHT_DATA is not set"):
        load_weights(nn.Linear(2, 2), "net")


def test_a_known_pretrained_file_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "resnet20-12fca82f.th"
    torch.save(create_model("resnet-20").state_dict(), path)
    with pytest.raises(BitwrightError, match=r"has SHA-256 [0-9a-f]{64}, expected 12fca82f"):
        create_model("resnet-20", weights=path)


def mlp(classes=10, seed=0, **options):
    return create_model("mlp", hidden=[4], input_shape=(1, 8, 8), num_classes=classes, seed=seed, **options)


@pytest.fixture
def file(tmp_path):
    """The weights of an MLP with ten classes."""
    path = tmp_path / "w.safetensors"
    save_file(mlp(seed=1).state_dict(), path)
    return path


def test_another_number_of_classes_says_both_and_what_to_do(file):
    with pytest.raises(BitwrightError) as caught:
        mlp(7, weights=file)
    message = str(caught.value)
    assert "2 differ" in message
    assert "fc2.weight: model (7, 4), file (10, 4)" in message
    assert "The file is for 10 classes, the model has 7" in message
    assert "say fresh: [fc2]; to keep the file's, say num_classes: 10" in message
    with pytest.raises(BitwrightError) as caught:
        create_model("mlp", hidden=[4], input_shape=(1, 4, 4), num_classes=7, weights=file)
    assert "fc1.weight: model (4, 16), file (4, 64)" in str(caught.value)
    assert "is for 10 classes" not in str(caught.value), "more than the classes differ"


@pytest.mark.parametrize("pattern", ["last", "fc2", "*2", "re:2$"])
@pytest.mark.parametrize("classes", [7, 10])
def test_fresh_layers_keep_their_first_weights_and_the_others_are_the_file_s(file, pattern, classes):
    new, old = mlp(classes).state_dict(), mlp(seed=1).state_dict()
    model = mlp(classes, weights=file, fresh=[pattern])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (new if name.startswith("fc2.") else old)[name])
    again = load_weights(mlp(classes), file, fresh=(pattern,))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_what_fresh_does_not_name_must_fit_and_all_of_it_is_listed(file):
    wrong = create_model("mlp", hidden=[4], input_shape=(1, 4, 4), num_classes=7, norm="batch")
    with pytest.raises(BitwrightError) as caught:
        load_weights(wrong, file, fresh=["last"])
    for name in (
        "fc1.weight: model (4, 16), file (4, 64)",
        "norm1.weight: model (4,), file has none",
        "fc1.bias: model has none",
    ):
        assert name in str(caught.value)
    assert "fc2" not in str(caught.value)
    load_weights(wrong, file, fresh=["*"])


@pytest.mark.parametrize(
    ("fresh", "message"),
    [
        (["lst"], "fresh: pattern 'lst' matches nothing; the layers are: fc1, fc2"),
        (["last", "re:("], "no regular expression"),
        ("last", r"fresh is 'last'; expected a list of patterns, such as \['last'\]"),
        ([1], "expected a list of patterns"),
    ],
)
def test_patterns_that_are_none(file, fresh, message):
    with pytest.raises(BitwrightError, match=message):
        mlp(weights=file, fresh=fresh)


def test_fresh_without_weights():
    with pytest.raises(BitwrightError, match=r"fresh is \['last'\] without weights; all layers are new"):
        mlp(fresh=["last"])


@real
def test_the_public_weights_with_another_head():
    model = create_model("resnet-20", num_classes=100, weights="resnet20-12fca82f", fresh=["last"])
    published = create_model("resnet-20", weights="resnet20-12fca82f")
    differ = {
        name
        for name, tensor in model.state_dict().items()
        if tensor.shape != published.state_dict()[name].shape or not torch.equal(tensor, published.state_dict()[name])
    }
    assert differ == {"linear.weight", "linear.bias"}
    with pytest.raises(BitwrightError, match=r"is for 10 classes, the model has 100.*fresh: \[linear\]"):
        create_model("resnet-20", num_classes=100, weights="resnet20-12fca82f")


def test_a_run_is_a_source_of_weights_and_the_recipe_says_so(tmp_path):
    """The folder of a run, of one of its steps, and the packed file, which is none."""
    recipe = {"name": "source", "data": "digits", "model": {"name": "mlp", "hidden": [4]}, "steps": ["train", "half"]}
    first = run_recipe(recipe, tmp_path / "first", ["train.epochs=1"]).folder
    for folder, step in ((first, "2-half"), (first / "1-train", "1-train")):
        made = load_weights(mlp(), folder).state_dict()
        left = load_weights(mlp(), first / step / "model.safetensors").state_dict()
        assert all(torch.equal(made[name], tensor) for name, tensor in left.items())
    with pytest.raises(BitwrightError, match=r"is a packed model.*give the folder of the run"):
        load_weights(mlp(), first / "packed.safetensors")
    model = {**recipe["model"], "weights": str(first), "fresh": ["last"]}
    second = run_recipe({**recipe, "name": "target", "model": model, "steps": []}, tmp_path / "second").folder
    assert "fresh:\n  - last\n" in (second / "recipe.yaml").read_text()
    kept, new = load_weights(mlp(), first), load_weights(mlp(), second / "0-start")
    assert torch.equal(kept.fc1.weight, new.fc1.weight)
    assert torch.equal(mlp().fc2.weight, new.fc2.weight)


def test_tensors_of_another_kind_are_refused_and_some_prefixes_come_off(tmp_path):
    model = create_model("lenet-300-100")
    state = {(f"module.{name}" if i % 2 else name): t for i, (name, t) in enumerate(model.state_dict().items())}
    torch.save(state, tmp_path / "mixed.pth")
    load_weights(create_model("lenet-300-100", seed=1), tmp_path / "mixed.pth")
    for kind in (torch.bool, torch.complex64):
        torch.save({name: t.to(kind) for name, t in model.state_dict().items()}, tmp_path / "kind.pth")
        with pytest.raises(BitwrightError, match=r"holds (bool|complex64); expected floats"):
            load_weights(model, tmp_path / "kind.pth")
    with pytest.raises(BitwrightError, match="the weights are 5; expected the path of a file"):
        load_weights(model, 5)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(BitwrightError, match="no weights file: no PyTorch file"):
        load_weights(model, tmp_path / "text.pth")
