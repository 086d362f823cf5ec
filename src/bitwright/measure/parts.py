"""How long parts of a network take in the engine: layers on their own, before a network is changed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bitwright.measure.latency import BATCHES, random_inputs, take_turns
from bitwright.packing import pack
from bitwright.runtime.engine import Model, load

_SECONDS = 0.05
"""For all calls of one module."""


def engine_milliseconds(modules: Sequence[nn.Module], given: Sequence[Sequence[int]]) -> list[float]:
    """The median time of each module in the native engine for one input of its `given` shape, one thread, in turns.

    Raises BitwrightError for a module that the engine can't run.
    """
    with tempfile.TemporaryDirectory() as folder:
        callees: dict[str, Callable[..., Any]] = {}
        for i, (module, shape) in enumerate(zip(modules, given, strict=True)):
            path = Path(folder) / f"{i}.safetensors"
            pack(module.eval().cpu(), (torch.zeros(2, *shape),)).save(path)
            callees[str(i)] = _on_own_inputs(load(path, threads=1))
        times = take_turns(callees, [(np.array(number),) for number in range(BATCHES)], _SECONDS * len(modules))
    return [times[name]["median"] for name in callees]


def _on_own_inputs(model: Model) -> Callable[..., Any]:
    """The model as a function of the number of one of its inputs."""
    inputs = random_inputs(model, 1)
    return lambda number: model(*inputs[int(number)])
