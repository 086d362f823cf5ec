"""Loading weights from a file, without pickle and with every mismatch named at once."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from bitwright.errors import BitwrightError
from bitwright.patterns import matching, with_parameters

Shape = tuple[int, ...]
Mismatch = tuple[Shape | None, Shape | None]
"""What the model and the file have of one tensor."""

_SUFFIXES = ("", ".safetensors", ".th", ".pth", ".pt")
_WRAPPERS = ("state_dict", "model")
_PACKED = {"data", "graph"}  # all that a packed file holds (FORMAT.md 1)
_PREFIX = "module."  # left by nn.DataParallel
# Files under $BITWRIGHT_DATA/pretrained; their names carry the first 8 digits
_SHA256 = {
    "resnet20-12fca82f.th": "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    "resnet56-4bfd9763.th": "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
}


def load_weights(model: nn.Module, file: str | os.PathLike[str], fresh: Sequence[str] = ()) -> nn.Module:
    """Copy the tensors of `file` into `model`, in place; gives the model back.

    file   a .safetensors, .pth, .pt or .th file, or the name of one, with or without ending, under
           $BITWRIGHT_DATA/pretrained; or the folder of a run, whose last finished step is taken, or of one step. A
           wrapping {"state_dict": ...} or {"model": ...} and the prefix "module." are taken off. Counters of batch norm
           (num_batches_tracked) may be missing.
    fresh  patterns (see `matching`) over the layers and norms that keep the values they have, whatever the file has
           there: ("last",) for a new head, which may have another number of classes

    Raises BitwrightError when there is no such file, when it is damaged or would need pickle, when any other tensor is
    missing, left over or of another shape (all are listed with both shapes), when a value is NaN, infinite or no float,
    and for a pattern that matches nothing. The model is then unchanged.
    """
    path = _find(file)
    kept = _select(model, fresh)
    wanted = _without(kept, model.state_dict())
    found = _without(kept, _tensors(path, _read(path)))
    if wrong := mismatches(wanted, found):
        raise BitwrightError(
            f"{path} does not fit {type(model).__name__} with {len(wanted)} tensors; {len(wrong)} differ:\n  "
            + "\n  ".join(described(wrong))
            + f"\n{_remedy(wrong)}",
            kind="weights",
        )
    _check_numbers(path, found, wanted)
    model.load_state_dict({**model.state_dict(), **found})
    return model


def _select(model: nn.Module, fresh: Sequence[str]) -> set[str]:
    """The paths of the layers and norms that the patterns mean."""
    if isinstance(fresh, str) or not all(isinstance(pattern, str) for pattern in fresh):
        raise BitwrightError(f"fresh is {fresh!r}; expected a list of patterns, such as ['last']", kind="setting")
    layers, kept = with_parameters(model), set()
    for pattern in fresh:
        if not (hits := matching(pattern, layers)):
            raise BitwrightError(
                f"fresh: pattern {pattern!r} matches nothing; the layers are: {', '.join(layers)}", kind="no-match"
            )
        kept |= hits
    return kept


def _without(layers: Collection[str], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in layers}


def _find(file: str | os.PathLike[str]) -> Path:
    try:
        os.fspath(file)
    except TypeError:
        raise BitwrightError(
            f"the weights are {file!r}; expected the path of a file or its name", kind="weights"
        ) from None
    folders = [Path()]
    data = os.environ.get("BITWRIGHT_DATA")
    if data:
        folders += [Path(data) / "pretrained", Path(data)]
    paths = [folder / f"{os.fspath(file)}{suffix}" for folder in folders for suffix in _SUFFIXES]
    for path in (_checkpoint(Path(file)), *paths):
        if path.is_file():
            return path
    tried = ", ".join(map(str, paths)) + ("" if data else " (BITWRIGHT_DATA is not set)")
    raise BitwrightError(
        f"no weights {os.fspath(file)!r}; looked for {tried}. Give the path of a file or of a run's folder",
        kind="missing-data",
    )


def _checkpoint(folder: Path) -> Path:
    """What the last finished step of a run in `folder` left there, or the one step whose folder it is."""
    finished = [place.parent for place in folder.glob("*-*/step.json") if place.parent.name.split("-")[0].isdigit()]
    last = max(finished, key=lambda place: int(place.name.split("-")[0]), default=folder)
    return last / "model.safetensors"


def _read(path: Path) -> Any:
    try:
        data = path.read_bytes()
        expected = _SHA256.get(path.name)
        if expected and hashlib.sha256(data).hexdigest() != expected:
            raise BitwrightError(
                f"{path} has SHA-256 {hashlib.sha256(data).hexdigest()}, expected {expected}; get the file again, or "
                f"rename it if you changed it yourself",
                kind="damaged-data",
            )
        if path.suffix == ".safetensors":
            return load_safetensors(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BitwrightError(
            f"{path} holds more than tensors{_asked_for(error)}, or is no PyTorch file. It would have to run code from "
            "the file, which is never done; save model.state_dict() alone, best as .safetensors"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        reason = "no PyTorch file" if isinstance(error, KeyError) else (str(error) or "nothing in it").splitlines()[0]
        raise BitwrightError(
            f"{path} is damaged or no weights file: {reason}; get it again", kind="damaged-data"
        ) from None


def _asked_for(error: Exception) -> str:
    """What torch says the file would import; not its advice, which is to trust it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" (it asks for {found[1]})" if found else ""


def _tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """The tensors by name, without wrapper and prefix."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if isinstance(content, Mapping) and set(content) == _PACKED:
        raise BitwrightError(
            f"{path} is a packed model, whose weights are codes and whose norms have become scales; give the folder of "
            "the run that it came from, or the model.safetensors of one of its steps",
            kind="weights",
        )
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(t, torch.Tensor) for t in content.values())
    ):
        keys = list(content)[:8] if isinstance(content, Mapping) else type(content).__name__
        raise BitwrightError(
            f"{path} holds {keys}; expected tensors by name, or those under {' or '.join(map(repr, _WRAPPERS))}"
        )
    plain = {name.removeprefix(_PREFIX): tensor for name, tensor in content.items()}
    return plain if len(plain) == len(content) else dict(content)


def mismatches(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> dict[str, Mismatch]:
    """The tensors that a model (`wanted`) and a file don't both have in one shape; counters of batch norm may lack."""
    shapes = {
        name: tuple(tuple(tensors[name].shape) if name in tensors else None for tensors in (wanted, found))
        for name in {**wanted, **found}
    }
    return {
        name: (mine, theirs)
        for name, (mine, theirs) in shapes.items()
        if mine != theirs and not (theirs is None and name.endswith("num_batches_tracked"))
    }


def described(wrong: Mapping[str, Mismatch]) -> list[str]:
    """A line for each of them."""
    said = {n: ["has none" if shape is None else str(shape) for shape in pair] for n, pair in wrong.items()}
    return [f"{name}: model {mine}, file {theirs}" for name, (mine, theirs) in said.items()]


def _remedy(wrong: Mapping[str, Mismatch]) -> str:
    """What to do. Layers that differ in nothing but one and the same number of outputs differ in their classes."""
    outputs = {
        (mine[0], theirs[0]) if mine and theirs and mine[1:] == theirs[1:] else None for mine, theirs in wrong.values()
    }
    if len(outputs) == 1 and (classes := outputs.pop()):
        layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in wrong))
        return (
            f"The file is for {classes[1]} classes, the model has {classes[0]}: to train a new head on the other "
            f"layers of the file, say fresh: [{layers}]; to keep the file's, say num_classes: {classes[1]}."
        )
    return (
        "Check that the model's name and options (num_classes, input_shape) are those the file was made with; layers "
        "that shall keep their own first weights are named by `fresh`."
    )


def _check_numbers(path: Path, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_complex() or (wanted[name].is_floating_point() and not tensor.is_floating_point()):
            raise BitwrightError(
                f"{path}: tensor {name!r} holds {str(tensor.dtype).removeprefix('torch.')}; expected floats: it is of "
                "another kind of model",
                kind="weights",
            )
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise BitwrightError(
                f"{path}: tensor {name!r} has {bad} values that are NaN or infinite of {tensor.numel()}; the training "
                f"that made it diverged, use an earlier checkpoint",
                kind="not-finite",
            )
