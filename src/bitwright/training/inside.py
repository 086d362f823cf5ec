"""What a module inside a model gives, to be compared in place of the logits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bitwright.data.dataset import Dataset
from bitwright.errors import BitwrightError
from bitwright.training.evaluate import as_tensor, eval_mode


@contextlib.contextmanager
def hearing(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """While inside, each forward adds what the module `name` gave, (N, ...), as rows (N, K), to the list.

    A copy: an activation behind it may work in place.
    """
    found: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _, __, output: found.append(output.flatten(1).clone())
    )
    try:
        yield found
    finally:
        handle.remove()


class Inside(nn.Module):
    """A model that gives what its module `name` gives, (N, K)."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        """Of the last time that the module is called."""
        with hearing(self.model, self.name) as found:
            self.model(x)
        return found[-1]


def check_inside(model: nn.Module, teacher: nn.Module, name: str, data: Dataset) -> None:
    """Raise BitwrightError unless the module gives as many numbers in both, for images of `data`."""
    x = data.preprocess.torch(as_tensor(data.train.images[:1]))
    sizes = []
    for who, one in (("the model", model), ("the teacher", teacher)):
        try:
            with eval_mode(one), torch.no_grad():
                sizes.append(Inside(one, name)(x).shape[1])
        except (AttributeError, IndexError):  # no such module, or one that is never called or gives no tensor
            known = ", ".join(found for found, _ in one.named_modules() if found)
            raise BitwrightError(
                f"distill.at is {name!r}, and {who} calls no module of that name that gives one tensor; it has {known}",
                kind="teacher",
            ) from None
    if sizes[0] != sizes[1]:
        raise BitwrightError(
            f"distill.at: {name!r} gives {sizes[0]} numbers in the model and {sizes[1]} in the teacher; take a module "
            "that gives as many in both",
            kind="teacher",
        )
