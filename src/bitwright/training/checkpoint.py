"""One file per training: everything the next epoch needs, or the result once it is finished.

`checkpoint.safetensors` holds the tensors "model/NAME", "best/NAME" and "optimizer/NUMBER", and in its metadata, as
JSON, what is not a tensor. One atomic write per epoch, so a kill leaves the epoch before or the epoch after. No times
are in it: the same training ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bitwright.errors import BitwrightError
from bitwright.files import write_atomic

NAME = "checkpoint.safetensors"
_KEY = "bitwright-training"
_VERSION = 1

Weights = dict[str, Tensor]


@dataclass
class Checkpoint:
    """The state after some epoch. `best` is empty where the newest weights are the best, `optimizer` once finished."""

    identity: dict[str, Any]
    history: list[dict[str, Any]]
    finished: bool
    model: Weights
    best: Weights = field(default_factory=dict)
    optimizer: Any = None


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint."""
    tensors = {f"model/{n}": t for n, t in checkpoint.model.items()}
    tensors |= {f"best/{n}": t for n, t in checkpoint.best.items()}
    found: list[Tensor] = []
    facts = {
        "version": _VERSION,
        "identity": checkpoint.identity,
        "history": checkpoint.history,
        "finished": checkpoint.finished,
        "optimizer": _without_tensors(checkpoint.optimizer, found),
    }
    tensors |= {f"optimizer/{i}": t for i, t in enumerate(found)}
    write_atomic(folder / NAME, save(frozen(tensors), {_KEY: json.dumps(facts)}))


def read(folder: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """The folder's checkpoint; None where there is none yet.

    Raises BitwrightError where the file is damaged or belongs to another training than `identity`.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            facts = json.loads((file.metadata() or {})[_KEY])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise BitwrightError(
            f"{path} is not a readable training checkpoint ({error}); delete it to start this training anew",
            kind="checkpoint",
        ) from None
    if facts["version"] != _VERSION:
        raise BitwrightError(
            f"{path} has version {facts['version']}, this bitwright reads {_VERSION}; delete it to start anew",
            kind="checkpoint",
        )
    saved = Checkpoint(
        identity=facts["identity"],
        history=facts["history"],
        finished=facts["finished"],
        model=_part(tensors, "model/"),
        best=_part(tensors, "best/"),
        optimizer=_with_tensors(facts["optimizer"], _part(tensors, "optimizer/")),
    )
    _check_identity(path, saved, identity)
    return saved


def frozen(tensors: Mapping[str, Tensor]) -> Weights:
    """Contiguous copies on the CPU, which later training steps don't touch."""
    return {
        n: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()
        for n, t in tensors.items()
    }


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, shortened to 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        if len(flat):  # torch may refuse to see an empty tensor as bytes
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def text_fingerprint(text: str) -> str:
    """The same over a text, without the memory addresses that a module's description may hold."""
    return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", text).encode()).hexdigest()[:16]


def _check_identity(path: Path, saved: Checkpoint, identity: dict[str, Any]) -> None:
    old, new = _flat(saved.identity), _flat(json.loads(json.dumps(identity)))
    if saved.finished and new["starting_weights"] == fingerprint(saved.model):
        new["starting_weights"] = old["starting_weights"]  # the model that this very training has just finished
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if differing:
        told = "; ".join(f"{n} is {new.get(n)!r}, there it was {old.get(n)!r}" for n in differing[:5])
        raise BitwrightError(
            f"{path} belongs to another training: {told}. Give this training another folder, or delete that one "
            f"to start anew",
            kind="other-training",
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    dotted = prefix and f"{prefix}."
    return {n: v for key, part in value.items() for n, v in _flat(part, f"{dotted}{key}").items()}


def _part(tensors: Weights, prefix: str) -> Weights:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _without_tensors(value: Any, found: list[Tensor]) -> Any:
    """The same nesting as JSON, each tensor moved to `found`. Keys that are numbers survive as pairs."""
    if isinstance(value, Tensor):
        found.append(value)
        return {"tensor": len(found) - 1}
    if isinstance(value, dict):
        return {"pairs": [[key, _without_tensors(v, found)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(v, found) for v in value]
    return value


def _with_tensors(value: Any, tensors: Weights) -> Any:
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    if isinstance(value, dict) and "tensor" in value:
        return tensors[str(value["tensor"])]
    if isinstance(value, dict):
        return {key: _with_tensors(v, tensors) for key, v in value["pairs"]}
    return value
