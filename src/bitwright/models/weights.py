"""Loading weights from a file, without pickle and with every mismatch named at once."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from bitwright.errors import BitwrightError

_SUFFIXES = ("", ".safetensors", ".th", ".pth", ".pt")
_WRAPPERS = ("state_dict", "model")
_PREFIX = "module."  # left by nn.DataParallel
# Files under $BITWRIGHT_DATA/pretrained; their names carry the first 8 digits
_SHA256 = {
    "resnet20-12fca82f.th": "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    "resnet56-4bfd9763.th": "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
}


def load_weights(model: nn.Module, file: str | os.PathLike[str]) -> nn.Module:
    """Copy the tensors of `file` into `model`, in place; gives the model back.

    `file` is a .safetensors, .pth, .pt or .th file, or the name of one, with or without ending, under
    $BITWRIGHT_DATA/pretrained. A wrapping {"state_dict": ...} or {"model": ...} and the prefix "module." are taken
    off. Counters of batch norm (num_batches_tracked) may be missing.

    Raises BitwrightError when there is no such file, when it is damaged or would need pickle, when any tensor is
    missing, left over or of another shape (all are listed with both shapes), and when a value is NaN or infinite.
    The model is then unchanged.
    """
    path = _find(file)
    found = _tensors(path, _read(path))
    wanted = model.state_dict()
    wrong = _mismatches(wanted, found)
    if wrong:
        raise BitwrightError(
            f"{path} does not fit {type(model).__name__} with {len(wanted)} tensors; {len(wrong)} differ:\n  "
            + "\n  ".join(wrong)
            + "\nCheck that the model's name and options (num_classes, input_shape) are those the file was made with."
        )
    _check_finite(path, found)
    model.load_state_dict({**wanted, **found})
    return model


def _find(file: str | os.PathLike[str]) -> Path:
    folders = [Path()]
    data = os.environ.get("BITWRIGHT_DATA")
    if data:
        folders += [Path(data) / "pretrained", Path(data)]
    paths = [folder / f"{os.fspath(file)}{suffix}" for folder in folders for suffix in _SUFFIXES]
    for path in paths:
        if path.is_file():
            return path
    tried = ", ".join(map(str, paths)) + ("" if data else " (BITWRIGHT_DATA is not set)")
    raise BitwrightError(
        f"no weights {os.fspath(file)!r}; looked for {tried}. Give the path of a file", kind="missing-data"
    )


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
            f"{path} holds more than tensors (or is no PyTorch file): {str(error).splitlines()[0]}. It would have to "
            f"run code from the file, which is never done; save model.state_dict() alone, best as .safetensors"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BitwrightError(
            f"{path} is damaged or no weights file: {reason}; get it again", kind="damaged-data"
        ) from None


def _tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """The tensors by name, without wrapper and prefix."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(t, torch.Tensor) for t in content.values())
    ):
        keys = list(content)[:8] if isinstance(content, Mapping) else type(content).__name__
        raise BitwrightError(
            f"{path} holds {keys}; expected tensors by name, or those under {' or '.join(map(repr, _WRAPPERS))}"
        )
    if all(name.startswith(_PREFIX) for name in content):
        return {name.removeprefix(_PREFIX): tensor for name, tensor in content.items()}
    return dict(content)


def _mismatches(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    wrong = []
    for name, tensor in wanted.items():
        shape = tuple(tensor.shape)
        if name not in found:
            if not name.endswith("num_batches_tracked"):
                wrong.append(f"{name}: model {shape}, file has none")
        elif tuple(found[name].shape) != shape:
            wrong.append(f"{name}: model {shape}, file {tuple(found[name].shape)}")
    extra = [name for name in found if name not in wanted]
    return wrong + [f"{name}: model has none, file {tuple(found[name].shape)}" for name in extra]


def _check_finite(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise BitwrightError(
                f"{path}: tensor {name!r} has {bad} values that are NaN or infinite of {tensor.numel()}; the training "
                f"that made it diverged, use an earlier checkpoint",
                kind="not-finite",
            )
