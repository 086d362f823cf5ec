"""A torch module as an exported program: in evaluation mode, for any batch size, without in-place operations."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bitwright.errors import BitwrightError


def export(
    model: nn.Module, example_inputs: tuple[Any, ...], pixels: bool = False
) -> tuple[torch.export.ExportedProgram, list[tuple[int, ...]]]:
    """The program of `model`, which is left as it was, and the shapes of its inputs without the batch axis.

    `example_inputs` as `lower` takes them; with `pixels` they may be uint8. Raises `BitwrightError` of the kinds
    "inputs", "dtype" and "export", as `lower` does.
    """
    _check_model(model)
    inputs = _example_inputs(example_inputs, pixels)
    return _traced(model, inputs), [tuple(x.shape[1:]) for x in inputs]


def _example_inputs(example_inputs: object, pixels: bool) -> list[torch.Tensor]:
    """The examples, checked, each with two images: torch.export takes a batch of one for a constant."""
    if not isinstance(example_inputs, tuple) or not example_inputs:
        raise BitwrightError(
            f"example_inputs is a {type(example_inputs).__name__}; expected a tuple with one tensor per input of the "
            "model: write (x,) for a single one",
            kind="inputs",
        )
    inputs = []
    for i, entry in enumerate(example_inputs):
        x = torch.from_numpy(entry) if isinstance(entry, np.ndarray) else entry
        if not isinstance(x, torch.Tensor) or x.ndim < 2 or len(x) < 1:
            found = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise BitwrightError(
                f"example input {i} is {found}; expected a tensor with a batch of at least one and one to three more "
                "axes, such as (1, 3, 32, 32)",
                kind="inputs",
            )
        if x.dtype != torch.float32 and not (x.dtype == torch.uint8 and pixels):
            raise BitwrightError(
                f"example input {i} is {x.dtype}; expected torch.float32 (or torch.uint8 pixels with preprocess=)",
                kind="inputs",
            )
        inputs.append(torch.cat([x[:1], x[:1]]).float())
    return inputs


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        found = type(model).__name__
        raise BitwrightError(f"the model is a {found}; expected a torch.nn.Module, weights loaded", kind="inputs")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise BitwrightError(
                f"{name} is {tensor.dtype}; the engine computes in float32: call model.float() first (values that fit "
                "16 bits stay exact and are packed as such)",
                kind="dtype",
            )


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _dynamic_shapes(model: nn.Module, inputs: list[torch.Tensor]) -> dict[str, Any]:
    """A free batch axis for every input, in the layout of forward's parameters."""
    batch = {0: torch.export.Dim("batch")}
    signature = inspect.signature(model.forward)
    shapes: dict[str, Any] = {}
    for name, value in signature.bind(*inputs).arguments.items():
        variadic = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        shapes[name] = tuple(batch for _ in value) if variadic else batch
    return shapes


class _Whole(TorchFunctionMode):
    """Keeps a local response norm one operation, which torch takes apart into things that the engine lacks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole = torch.ops.bitwright.response_norm if func is F.local_response_norm else func
        return whole(*args, **(kwargs or {}))


def _traced(model: nn.Module, inputs: list[torch.Tensor]) -> torch.export.ExportedProgram:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    placed = [x.to(device) for x in inputs]
    name = type(model).__name__
    try:
        with _evaluation_mode(model), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside torch.export
            shapes = _dynamic_shapes(model, placed)
            with _Whole():
                program = torch.export.export(model, tuple(placed), dynamic_shapes=shapes, strict=False)
            return program.run_decompositions({})  # no operation is taken apart, in-place ones become functional
    except Exception as error:
        text = str(error)
        if "specialized it to be a constant" in text or "ConstraintViolation" in type(error).__name__:
            raise BitwrightError(
                f"{name} works for one batch size only, but a packed model takes any: look for a shape written as a "
                f"number, such as view(2, -1) for view(x.size(0), -1). torch.export says: {_first_line(text)}",
                kind="export",
            ) from error
        raise BitwrightError(
            f"torch.export can't trace {name}: {type(error).__name__}: {_first_line(text)}. A module packs if its "
            "forward has no branches on values and runs on the example inputs.",
            kind="export",
        ) from error


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300].rstrip(".")
