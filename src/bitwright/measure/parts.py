"""How long parts of a network take in the engine: layers on their own, before a network is changed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bitwright.measure.latency import random_inputs, take_turns
from bitwright.packing import pack
from bitwright.runtime.engine import load

_SECONDS = 0.05
"""For all calls of one module."""


def engine_milliseconds(modules: Sequence[nn.Module], given: Sequence[int]) -> list[float]:
    """The median time of each module in the native engine for one input of shape `given`, on one thread, in turns.

    Raises BitwrightError for a module that the engine can't run.
    """
    with tempfile.TemporaryDirectory() as folder:
        callees = {}
        for i, module in enumerate(modules):
            path = Path(folder) / f"{i}.safetensors"
            pack(module.eval().cpu(), (torch.zeros(2, *given),)).save(path)
            callees[str(i)] = load(path, threads=1)
        times = take_turns(callees, random_inputs(callees["0"], 1), _SECONDS * len(modules))
    return [times[name]["median"] for name in callees]
