"""From a model to the one file that is shipped. Reading it needs no torch; only `pack` itself does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitwright.files import write_atomic
from bitwright.packing.profile import Profile

if TYPE_CHECKING:
    from bitwright.packing.inspect import Report

__all__ = ["Packed", "Profile", "pack"]


@dataclass(frozen=True)
class Packed:
    """A packed model: `data` are the bytes of the file."""

    data: bytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; a reader sees the old one or the whole new one."""
        write_atomic(path, self.data)

    def report(self) -> Report:
        """What is in it, tensor by tensor; see `packing.inspect.Report`."""
        from bitwright.packing.inspect import inspect_bytes

        return inspect_bytes(self.data)


def pack(
    model: Any,
    example_inputs: tuple[Any, ...],
    *,
    preprocess: Any = None,
    classes: Sequence[str] | None = None,
    profile: Profile | None = None,
    variants: Mapping[int, Any] | None = None,
) -> Packed:
    """Export `model`, store each tensor in its smallest exact encoding, and verify all of it bit for bit.

    `example_inputs` is a tuple of tensors with a batch axis, as for `torch.export`. With `preprocess` (mean and
    deviation of the data set) the file takes raw pixels. `classes` are the names of the (first) output's entries, kept
    in the file. `profile` narrows the packer's choice, for example `Profile.paper()`.

    `variants` are the same network at fewer bits, {1: module, 2: module}, and `model` itself under the most bits, {3:
    model}: the file holds what they have in common once, and weights of fewer bits that are the first bits of the
    stored codes not at all. A network of several precisions (`bitwright.precisions`) is packed with all of them.

    Raises BitwrightError for a module that the engine cannot run, weights that are not finite, classes that do not fit
    the output, a profile that asks for the impossible, or a network of several precisions whose weights have left their
    common grid.
    """
    from bitwright.packing.container import write_container
    from bitwright.packing.lower import lower
    from bitwright.packing.variants import check_variants
    from bitwright.precisions import at_bits, precisions_of
    from bitwright.runtime.engine import class_names
    from bitwright.runtime.graph import validate

    if variants is None and (known := precisions_of(model)):
        variants = dict.fromkeys(known, model)
    if variants:
        check_variants(variants, model)
        variants = {bits: at_bits(one, bits) if precisions_of(one) else one for bits, one in variants.items()}
        model = variants[max(variants)]
    graph, tensors = lower(model, example_inputs, preprocess)
    shapes = validate(graph, {name: array.shape for name, array in tensors.items()})
    names = class_names(classes, shapes[graph.outputs[0]])
    meta = {} if names is None else {"classes": names}
    lowered = {
        bits: (graph, tensors) if variant is model else lower(variant, example_inputs, preprocess)
        for bits, variant in (variants or {}).items()
    }
    return Packed(write_container(graph, tensors, meta, profile, lowered))
