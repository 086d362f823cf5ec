"""What each layer of a model costs: output, parameters, multiply-accumulates, activations, receptive field.

The model runs once on torch's "meta" device, where tensors have shapes and no values: nothing is computed or allocated,
however large it is. Every operation passes here on its way, so sums and paddings that are no modules count as well.

A value's receptive field is the extent of the input pixels that can change it. Through a window of k values with stride
s, r and the distance j between neighbours become (1 at the input; of joined branches the largest counts)

    r' = r + (k - 1) j        j' = s j

It may exceed the image: then a value sees all of it, and padding. A linear layer on pixels is a window of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bitwright.errors import BitwrightError
from bitwright.training.evaluate import eval_mode

Pair = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Layer:
    """One row, for one image: what computes it, the shape of its output, and its costs.

    `activations` are the values that it gives. `receptive_field` is None for inputs that are no images.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    activations: int
    receptive_field: Pair | None


@dataclass(frozen=True)
class Summary:
    """The layers in order of execution, the first being the input, and their sums.

    Functions of single values without parameters (activations, dropout) work in place, and views (flatten) are no
    values of their own: neither has a row. `parameters` are all of the model, also of parts that did not run.
    """

    layers: tuple[Layer, ...]
    parameters: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, in convolutions and products of matrices."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activations(self) -> int:
        """Values of all layers and the input; 4 bytes each."""
        return sum(layer.activations for layer in self.layers)

    @property
    def unused(self) -> int:
        """Parameters of modules that did not run, such as heads for training only."""
        return self.parameters - sum(layer.parameters for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        total = {"parameters": self.parameters, "unused_parameters": self.unused, "macs": self.macs}
        total |= {"activations": self.activations, "activation_bytes": 4 * self.activations}
        return {"layers": [dataclasses.asdict(layer) for layer in self.layers], "total": total}


def summarise(model: nn.Module, input_shape: Sequence[int]) -> Summary:
    """The summary of `model`, moved to the meta device for good, for inputs of `input_shape` (without the batch).

    Raises BitwrightError where the model cannot take such an input.
    """
    image = torch.zeros(1, *input_shape, device="meta")
    watch = _Watch(model.to("meta"), image)
    try:
        with eval_mode(model), watch:
            model(image)
    except Exception as error:  # a user's forward may raise anything
        shape = "x".join(map(str, input_shape))
        raise BitwrightError(
            f"{type(model).__name__} cannot take an input of {shape}: {type(error).__name__}: {error}; give the shape "
            "it was made for with --input, for example --input 3,224,224",
            kind="input-shape",
        ) from None
    finally:
        watch.remove_hooks()
    first = Layer("input", "", tuple(image.shape[1:]), 0, 0, image.numel(), (1, 1) if image.ndim == 4 else None)
    layers = [call.layer() for call in watch.calls if not call.in_place]
    return Summary((first, *layers), sum(p.numel() for p in model.parameters()))


# -- receptive fields --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """The receptive field of a tensor's values, the distance between neighbours', and how many values it has."""

    size: Pair
    distance: Pair
    count: Pair

    def through(self, kernel: Sequence[int], stride: Sequence[int], count: Pair) -> _Field:
        size = tuple(r + (k - 1) * j for r, k, j in zip(self.size, kernel, self.distance, strict=True))
        distance = tuple(s * j for s, j in zip(stride, self.distance, strict=True))
        return _Field((size[0], size[1]), (distance[0], distance[1]), count)

    def joined(self, other: _Field) -> _Field:
        size, distance = (tuple(map(max, a, b)) for a, b in ((self.size, other.size), (self.distance, other.distance)))
        return _Field((size[0], size[1]), (distance[0], distance[1]), self.count)


REDUCTIONS = ("addmm", "mm", "bmm", "mean", "sum", "amax", "max")
"""What may read all pixels at once: linear layers on flattened images and global pooling."""


def _after(name: str, args: Sequence[Any], before: _Field, output: Tensor) -> _Field:
    """The field of an operation's output. `name` and `args` are those of ATen."""
    old = before.count
    new = (output.shape[-2], output.shape[-1]) if output.ndim >= 4 else (1, 1) if name in REDUCTIONS else old
    kernel, stride = (1, 1), (1, 1)
    if name == "convolution" and output.ndim == 4:
        dilated = zip(args[1].shape[2:], _pair(args[5]), strict=True)
        kernel, stride = _pair([(k - 1) * d + 1 for k, d in dilated]), _pair(args[3])
    elif name in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel = _pair(args[1])
        stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
        if name != "avg_pool2d" and len(args) > 4:
            kernel = _pair([(k - 1) * d + 1 for k, d in zip(kernel, _pair(args[4]), strict=True)])
    elif name in ("_adaptive_avg_pool2d", "adaptive_max_pool2d"):
        stride = old[0] // new[0], old[1] // new[1]
        kernel = old[0] - (new[0] - 1) * stride[0], old[1] - (new[1] - 1) * stride[1]
    elif name in REDUCTIONS:
        kernel = _pair([o if n == 1 else 1 for o, n in zip(old, new, strict=True)])
    elif name == "slice" and len(args) > 4 and args[1] % output.ndim >= 2:
        stride = (args[4], 1) if args[1] % output.ndim == output.ndim - 2 else (1, args[4])
    return before.through(kernel, stride, new)


def _keeps(func: Any, x: Tensor, output: Tensor) -> bool:
    """Whether an adaptive pooling gives the size that is there: it changes nothing (VGG at 224x224, in torchvision)."""
    return "adaptive" in func._overloadpacket.__name__ and x.shape == output.shape


def _pair(value: Sequence[int]) -> Pair:
    return value[0], value[-1]


# -- one pass ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Call:
    """One run of a module without children, or one operation between modules."""

    name: str
    kind: str
    parameters: int = 0
    macs: int = 0
    inputs: set[int] = field(default_factory=set)
    inside: set[int] = field(default_factory=set)
    by_value: bool = True
    output: Tensor | None = None
    seen: _Field | None = None

    @property
    def in_place(self) -> bool:
        """Whether it needs no memory: a view, or a function of single values, of one tensor, without parameters."""
        return self.output is None or (self.by_value and not self.parameters and len(self.inputs) == 1)

    def layer(self) -> Layer:
        assert self.output is not None
        size = self.seen.size if self.seen else None
        shape = tuple(self.output.shape[1:])
        return Layer(self.name, self.kind, shape, self.parameters, self.macs, self.output.numel(), size)


class _Watch(TorchDispatchMode):
    """Follows what is computed from `image` through a forward pass. `calls` holds what ran, in order."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        start = _Field((1, 1), (1, 1), (image.shape[2], image.shape[3])) if image.ndim == 4 else None
        self.calls: list[_Call] = []
        self._known: dict[int, tuple[Tensor, _Field | None]] = {id(image): (image, start)}
        self._weights: dict[int, tuple[Tensor, frozenset[nn.Parameter]]] = {}
        self._weights.update({id(p): (p, frozenset({p})) for p in model.parameters()})
        self._path: list[str] = []
        self._leaf: _Call | None = None
        self._counted: set[nn.Parameter] = set()
        self._hooks = [hook for name, module in model.named_modules() for hook in self._watched(name, module)]

    def remove_hooks(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _watched(self, name: str, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        def enter(*_: object) -> None:
            self._path.append(name)
            if not any(module.children()):
                self._leaf = self._new_call(name, type(module).__name__)

        def leave(*_: object) -> None:
            self._path.pop()
            self._leaf = None

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave)

    def _new_call(self, name: str, kind: str) -> _Call:
        self.calls.append(_Call(name, kind))
        return self.calls[-1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [t for t in pytree.arg_tree_leaves(*args, **(kwargs or {})) if isinstance(t, Tensor)]
        made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        weights = frozenset[nn.Parameter]().union(*(self._weights[id(t)][1] for t in read if id(t) in self._weights))
        if not made:
            pass
        elif sources := [t for t in read if id(t) in self._known]:
            call = self._leaf or self._new_call(self._path[-1], func._overloadpacket.__name__)
            self._record(call, func, args, kwargs or {}, sources, made)
            call.parameters += sum(p.numel() for p in weights - self._counted)
            self._counted |= weights
        else:  # something made of weights alone; tensors are kept, so that no other gets their id
            self._weights.update({id(t): (t, weights) for t in made})
        return result

    def _record(
        self, call: _Call, func: Any, args: Any, kwargs: Any, sources: list[Tensor], made: list[Tensor]
    ) -> None:
        call.by_value &= torch.Tag.pointwise in func.tags or func.is_view or _keeps(func, sources[0], made[0])
        call.inputs |= {id(t) for t in sources} - call.inside
        call.inside |= {id(t) for t in made}
        call.output = made[0]
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            call.macs += count(*args, **kwargs, out_val=call.output) // 2
        call.seen = self._field(func._overloadpacket.__name__, args, sources, call.output)
        self._known.update({id(t): (t, call.seen) for t in made})

    def _field(self, name: str, args: Sequence[Any], sources: list[Tensor], output: Tensor) -> _Field | None:
        fields = [seen for t in sources if (seen := self._known[id(t)][1]) is not None]
        if not fields:
            return None
        joined = fields[0]
        for other in fields[1:]:
            joined = joined.joined(other)
        return _after(name, args, joined, output)
