"""A recipe's model: built by its constructor, then filled with the weights that a step left. No pickle anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright import edits
from bitwright.errors import BitwrightError
from bitwright.files import write_atomic

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data import Dataset
    from bitwright.recipe import Recipe


LSUV_IMAGES = 256
"""How many training images `model.initialize: lsuv` measures on."""
_SHOWN = 8
"""Tensors that an error lists."""


def build_model(recipe: Recipe, data: Dataset, *, first_weights: bool = True) -> nn.Module:
    """The recipe's model with its initial weights, sized for the images and classes of `data` where it can be.

    Without `first_weights`, model.initialize is passed over: for a model that a checkpoint is loaded into.
    """
    from bitwright.models import create_model
    from bitwright.models.registry import options_of
    from bitwright.training.evaluate import as_tensor

    options = {k: v for k, v in recipe.model.items() if k != "name" and (first_weights or k != "initialize")}
    fitting = {"num_classes": len(data.classes), "in_channels": data.shape[0], "input_shape": data.shape}
    accepted = options_of(recipe.model["name"])
    sizes: dict[str, Any] = {k: v for k, v in fitting.items() if k in accepted and k not in options}
    model = create_model(
        recipe.model["name"],
        seed=recipe.seed,
        images=lambda: data.preprocess.torch(as_tensor(data.sample(LSUV_IMAGES).images)),
        **sizes,
        **options,
    )
    if len(data.classes) != (outputs := _outputs(model, data)):
        raise BitwrightError(
            f"model {recipe.model['name']} gives {outputs} outputs, but {data.name} has {len(data.classes)} classes; "
            f"set model.num_classes={len(data.classes)}",
            kind="outputs",
        )
    return model


def _outputs(model: nn.Module, data: Dataset) -> int:
    """How many logits the model gives for one image of `data`; images that don't fit are an error."""
    import torch

    try:
        with torch.no_grad():
            return int(model.eval()(torch.zeros(1, *data.shape)).shape[-1])
    except Exception as error:  # a user's forward may raise anything
        raise BitwrightError(
            f"{type(model).__name__} cannot take the {'x'.join(map(str, data.shape))} images of {data.name}, or gives "
            f"no tensor of logits for them: {type(error).__name__}: {error}",
            kind="input-shape",
        ) from None


def save_checkpoint(model: nn.Module, path: Path, label: str) -> None:
    """Write the weights of a plain model and its edits; parametrizations and values that are not finite are refused."""
    import torch
    from safetensors.torch import save
    from torch.nn.utils import parametrize

    wrapped = [n for n, m in model.named_modules() if parametrize.is_parametrized(m)]
    if wrapped:
        raise BitwrightError(
            f"step {label} left parametrizations on {', '.join(wrapped)}; a step must give a plain model"
        )
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise BitwrightError(f"step {label} left NaN or infinite values in {', '.join(bad)}", kind="not-finite")
    write_atomic(path, save(state, {"edits": edits.to_json(model)}))


def load_checkpoint(model: nn.Module, path: Path) -> nn.Module:
    """Make the edits of a checkpoint on a model as its constructor built it, and load what `save_checkpoint` wrote.

    Gives the model to go on with, which is another one where an edit replaced all of it. Raises BitwrightError for a
    file that can't be read, and for one of another architecture, with the tensors that differ.
    """
    from safetensors import SafetensorError, safe_open

    from bitwright.models.weights import described, mismatches

    try:
        with safe_open(path, "pt") as file:
            model = edits.replay(model, edits.from_json((file.metadata() or {}).get("edits", "[]")))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BitwrightError(f"cannot load the checkpoint {path}: {error}", kind="checkpoint") from None
    if wrong := mismatches(model.state_dict(), state):
        raise BitwrightError(
            f"the checkpoint {path} is of another architecture than {type(model).__name__}; {len(wrong)} tensors "
            "differ:\n  "
            + "\n  ".join(described(wrong)[:_SHOWN])
            + ("\n  ..." if len(wrong) > _SHOWN else "")
            + "\nIt fits the model that the recipe in its run's folder builds; name that model, or run again",
            kind="checkpoint",
        )
    model.load_state_dict(state)
    return model
