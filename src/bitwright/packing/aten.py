"""One rule per ATen operation: how it becomes nodes of the engine graph.

A rule takes the lowering, the exported node and its arguments by the names of the operator's schema, and gives the
number of the value that the node's result is. To add an operation to the engine: a row in FORMAT.md 7, a shape rule in
`runtime/shapes.py`, a function in `runtime/reference.py`, its native call in `runtime/floats.py`, its twins in
`measure/onnx_peer.py` and `measure/torch_peer.py`, and a rule here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from bitwright.ops import norm_at_inference
from bitwright.runtime.shapes import limits

if TYPE_CHECKING:
    from bitwright.packing.lower import Constant, Lowering

Arguments = dict[str, Any]
Rule = Callable[["Lowering", Any, Arguments], "int | Constant"]

RULES: dict[str, Rule] = {}
QUANTIZERS = ("bitwright.sign.default", "bitwright.quantize.default")


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def bind(node: Any) -> Arguments:
    """The arguments of an exported node by name, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # operator.getitem
        return dict(enumerate(node.args))  # type: ignore[arg-type]
    values = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    values.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    return {**values, **node.kwargs}


def remedy(operator: str) -> str:
    """Why an operation without a rule is refused, and what to do."""
    dropout = "dropout is active outside training: pass training=self.training, or use nn.Dropout"
    signs = "for signs use torch.ops.bitwright.sign(x): +1 where x >= 0, else -1"
    advice = {
        "sign": signs,
        "ge": signs,
        "gt": signs,
        "where": signs,
        "round": "to quantise activations use bitwright.ops.Quantize, or torch.ops.bitwright.quantize",
        "log_softmax": "return the logits or their softmax (the largest is the same class)",
        "dropout": dropout,
        "native_dropout": dropout,
        "native_batch_norm_legit": "batch norm without running statistics depends on the rest of the batch; "
        "use track_running_stats=True",
        "permute": "the engine keeps images in NCHW order; drop the transposition",
        "transpose": "the engine keeps images in NCHW order; drop the transposition",
    }
    if (name := _plain_name(operator)) in advice:
        return advice[name]
    known = ", ".join(sorted({_plain_name(operator) for operator in RULES if operator.startswith("aten.")}))
    return f"it has no such operation. Replace it, or keep that part outside the packed model. Known: {known}"


def _plain_name(operator: str) -> str:
    """`aten._log_softmax.default` without what only torch cares about."""
    return operator.removeprefix("aten.").split(".")[0].lstrip("_")


def _two(value: Any) -> list[int]:
    """A stride or padding as [height, width]: ATen also takes one number."""
    numbers = [value] if isinstance(value, int) else list(value)
    return [int(n) for n in (numbers * 2 if len(numbers) == 1 else numbers)]


def _shape(node: Any) -> tuple[int, ...]:
    result = node.meta["val"]
    return tuple(int(n) for n in (result if isinstance(result, torch.Tensor) else result[0]).shape[1:])


def _axis(node: Any, argument: Any, axis: int) -> int:
    """An axis of the exported tensor, counted from 0 at the batch."""
    return axis % int(argument.meta["val"].ndim) if axis < 0 else axis


@rule(
    "aten.clone.default",
    "aten.detach.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.dropout.default",
    "aten.lift_fresh_copy.default",
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
    "aten.unflatten.int",
)
def same_elements(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """Nothing to do: the elements stay in their order. Whoever reads the result sees to its shape."""
    if arguments.get("train"):
        lowering.fail(node, remedy(str(node.target)))
    return lowering.known(node.args[0])


@rule("aten.expand.default")
def expand(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """Nothing to do for a constant: operations broadcast."""
    if not lowering.is_constant(node.args[0]) and _shape(node) != _shape(node.args[0]):
        lowering.fail(node, "it repeats an activation; leave that to what reads it, such as x * scale")
    return lowering.known(node.args[0])


@rule("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout", "aten.to.device")
def convert(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """float32 to float32 is nothing."""
    if node.meta["val"].dtype != torch.float32:
        lowering.fail(node, f"it converts to {node.meta['val'].dtype}; the engine computes in float32")
    return lowering.known(node.args[0])


@rule("<built-in function getitem>")
def item(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """The first of several results."""
    if node.args[1] != 0:
        lowering.fail(node, f"only its first result is known, and {node.args[1]} was asked for")
    return lowering.known(node.args[0])


@rule("aten.conv2d.default", "aten.conv2d.padding")
def conv2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Convolution; padding may be "valid" or "same"."""
    x = lowering.value(node, arguments["input"])
    weights = {"weight": lowering.constant(node, arguments["weight"])}
    if arguments["bias"] is not None:
        weights["bias"] = lowering.constant(node, arguments["bias"])
    dilation = _two(arguments["dilation"])
    kernel = weights["weight"].tensor.shape[2:]
    before, after = _borders(arguments["padding"], [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)])
    if before != after:
        x = _pad(lowering, node, x, [0, *before], [0, *after], 0.0)
        before = [0, 0]
    attributes = {
        "stride": _two(arguments["stride"]),
        "padding": before,
        "dilation": dilation,
        "groups": arguments["groups"],
    }
    return lowering.emit(node, "conv2d", (x,), _shape(node), attributes, weights)


def _borders(padding: Any, total: list[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each axis; "same" puts the odd one behind, as PyTorch does."""
    if padding == "valid":
        return [0, 0], [0, 0]
    if padding == "same":
        return [n // 2 for n in total], [n - n // 2 for n in total]
    return _two(padding), _two(padding)


@rule("aten.linear.default")
def linear(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """A fully connected layer on (N, features)."""
    weight = lowering.constant(node, arguments["weight"])
    bias = None if arguments["bias"] is None else lowering.constant(node, arguments["bias"])
    return _linear(lowering, node, arguments["input"], weight, bias)


@rule("aten.addmm.default")
def addmm(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """bias + x @ weight."""
    if arguments["beta"] != 1 or arguments["alpha"] != 1:
        lowering.fail(node, "its alpha and beta must be 1")
    bias = lowering.constant(node, arguments["self"])
    return _linear(lowering, node, arguments["mat1"], _transposed(lowering, node, arguments["mat2"]), bias)


@rule("aten.mm.default", "aten.matmul.default")
def matmul(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """x @ weight."""
    weight = _transposed(lowering, node, arguments.get("other", arguments.get("mat2")))
    return _linear(lowering, node, arguments["self"], weight, None)


def _transposed(lowering: Lowering, node: Any, argument: Any) -> Constant:
    constant = lowering.constant(node, argument)
    if constant.tensor.ndim != 2:
        lowering.fail(node, f"its weight has {constant.tensor.ndim} axes; expected 2")
    return type(constant)(constant.tensor.t(), constant.origin)


def _linear(lowering: Lowering, node: Any, argument: Any, weight: Constant, bias: Constant | None) -> int:
    x = lowering.value(node, argument)
    if len(lowering.shape(x)) != 1:
        found = ", ".join(map(str, lowering.shape(x)))
        lowering.fail(node, f"its input has the shape (N, {found}); flatten it to (N, features) first")
    weights = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return lowering.emit(node, "linear", (x,), _shape(node), None, weights)


@rule("aten._native_batch_norm_legit_no_training.default")
def batch_norm(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Batch norm at inference: scale and shift in float64, then rounded."""
    x = lowering.value(node, arguments["input"])
    mean, var = (lowering.constant(node, arguments[f"running_{key}"]).tensor for key in ("mean", "var"))
    gamma, beta = (
        None if arguments[k] is None else lowering.constant(node, arguments[k]).tensor for k in ("weight", "bias")
    )
    scale, shift = norm_at_inference(gamma, beta, mean, var, arguments["eps"])
    return _affine(lowering, node, x, scale, shift)


def _affine(lowering: Lowering, node: Any, x: int, scale: torch.Tensor, shift: torch.Tensor) -> int:
    if bool((scale == 1).all()) and not bool(shift.any()):
        return x
    weights = {"scale": lowering.computed(scale), "shift": lowering.computed(shift)}
    return lowering.emit(node, "affine", (x,), lowering.shape(x), None, weights)


@rule("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor")
def arithmetic(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Two activations added or multiplied, or an activation and a constant per channel."""
    a, b, name = arguments["self"], arguments["other"], str(node.target).split(".")[1]
    if arguments.get("alpha", 1) != 1:
        lowering.fail(node, f"its alpha is {arguments['alpha']}; expected 1")
    if name in ("add", "mul") and lowering.is_constant(a):
        a, b = b, a
    if lowering.is_constant(a):
        lowering.fail(node, "its first operand is a constant; write it with the activation first")
    x = lowering.value(node, a)
    if lowering.is_constant(b):
        return _with_constant(lowering, node, name, x, lowering.constant(node, b), len(a.users) == 1)
    y = lowering.value(node, b)
    if name not in ("add", "mul"):
        lowering.fail(node, f"two activations can only be added or multiplied; {name} needs a constant per channel")
    shapes = lowering.shape(x), lowering.shape(y)
    if name == "mul" and shapes[0] == (1, *shapes[1][1:]):  # what is multiplied comes first
        return lowering.emit(node, name, (y, x), shapes[1])
    if shapes[1] != shapes[0] and not (name == "mul" and shapes[1] == (1, *shapes[0][1:])):
        more = ", or (1, ...) for all channels" if name == "mul" else ""
        lowering.fail(node, f"its operands have shapes {shapes[0]} and {shapes[1]}; expected equal ones{more}")
    return lowering.emit(node, name, (x, y), shapes[0])


def _with_constant(lowering: Lowering, node: Any, name: str, x: int, constant: Constant, alone: bool) -> int:
    """x + c, x - c, x * c or x / c as an affine node, or as the bias of the linear layer that made x.

    A sum after a product is one node with it, both round anyway, if it is `alone` in reading it.
    """
    vector = _channel_vector(lowering, node, lowering.shape(x), constant.tensor)
    producer = lowering.producer(x)
    if name == "add" and producer is not None and producer.op == "linear" and "bias" not in producer.weights:
        stored = producer.weights["weight"]
        weights = {
            "weight": type(constant)(torch.from_numpy(lowering.weights[stored]), stored),
            "bias": type(constant)(vector.float(), constant.origin),
        }
        return lowering.emit(node, "linear", producer.inputs, lowering.shape(x), None, weights)
    one, zero = torch.ones_like(vector), torch.zeros_like(vector)
    scale = {"mul": vector, "div": 1 / vector}.get(name, one)
    shift = {"add": vector, "sub": -vector}.get(name, zero)
    if alone and producer is not None and producer.op == "affine" and name in ("add", "sub"):
        before, added = (torch.from_numpy(lowering.weights[producer.weights[role]]) for role in ("scale", "shift"))
        if not bool(added.any()):
            return _affine(lowering, node, producer.inputs[0], before.double(), shift)
    return _affine(lowering, node, x, scale, shift)


def _channel_vector(lowering: Lowering, node: Any, shape: tuple[int, ...], constant: torch.Tensor) -> torch.Tensor:
    """A constant that is broadcast over an activation as one number per channel, float64."""
    try:
        spread = torch.broadcast_to(constant.double(), (1, *shape)).reshape(shape[0], -1)
    except RuntimeError:
        lowering.fail(node, f"a constant of shape {tuple(constant.shape)} does not broadcast over {shape}")
    if not bool((spread == spread[:, :1]).all()):
        lowering.fail(node, f"its constant of shape {tuple(constant.shape)} is not one number per channel")
    return spread[:, 0]


@rule("aten.relu.default")
def relu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """max(x, 0)."""
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, "relu", (x,), lowering.shape(x))


@rule("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """x where x >= 0, else slope * x; one slope, or one per channel."""
    x = lowering.value(node, arguments["self"])
    slope = lowering.constant(node, arguments["weight"])
    vector = slope.tensor.reshape(-1).expand(lowering.shape(x)[0])
    return _prelu(lowering, node, x, type(slope)(vector, slope.origin))


@rule("aten.leaky_relu.default")
def leaky_relu(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """The same slope for all."""
    x = lowering.value(node, arguments["self"])
    slope = torch.full((lowering.shape(x)[0],), float(arguments["negative_slope"]))
    return _prelu(lowering, node, x, lowering.computed(slope))


def _prelu(lowering: Lowering, node: Any, x: int, slope: Constant) -> int:
    return lowering.emit(node, "prelu", (x,), lowering.shape(x), None, {"slope": slope})


@rule("aten.abs.default")
def absolute(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """|x|."""
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, "abs", (x,), lowering.shape(x))


@rule(
    "aten.clamp.default",
    "aten.clamp.Tensor",
    "aten.clamp_min.default",
    "aten.clamp_max.default",
    "aten.hardtanh.default",
    "aten.relu6.default",
)
def clamp(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """min(max(x, low), high); signs and quantisers behind it may not need it, see `_unlimited`."""
    x = lowering.value(node, arguments["self"])
    if "relu6" in str(node.target):
        arguments = {"min": 0.0, "max": 6.0}
    low, high = (_limit(lowering, node, arguments.get(key, arguments.get(f"{key}_val"))) for key in ("min", "max"))
    if low is not None and high is not None and low > high:
        lowering.fail(node, f"its limits are {low} and {high}; expected the lower one first")
    if low is None and high is None:
        return x
    if (low, high) == (0, None):
        return lowering.emit(node, "relu", (x,), lowering.shape(x))
    return lowering.emit(node, "clamp", (x,), lowering.shape(x), {"low": low, "high": high})


def _limit(lowering: Lowering, node: Any, argument: Any) -> float | None:
    """A limit of a clamp, which is one number for all; None for none."""
    if argument is None:
        return None
    numbers = lowering.constant(node, argument).tensor.float().unique().tolist()
    if len(numbers) != 1:
        lowering.fail(node, f"its limit has {len(numbers)} different numbers; expected one for all channels")
    return float(numbers[0]) if math.isfinite(numbers[0]) else None


def _read_by_others(argument: Any) -> bool:
    """Whether not only signs and quantisers read a clamp in front of them: then it is computed anyway."""
    while RULES.get(str(argument.target)) in (clamp, same_elements, max_pool2d, item):
        if len(argument.users) > 1 and not all(str(user.target) in QUANTIZERS for user in argument.users):
            return True
        argument = argument.args[0]
    return False


def _unlimited(lowering: Lowering, node: Any, x: int, enough: Callable[[float, float], bool]) -> int:
    """x without a clamp before it that changes nothing, its limits being `enough`.

    Networks are trained so, for the gradient: a hard tanh before each sign, a clamp to 0..1 before each quantiser. Both
    are monotone, so that a maximum between them changes nothing either.
    """
    maker = lowering.producer(x)
    if maker is not None and maker.op == "clamp" and enough(*limits(**maker.attributes)):
        return _unlimited(lowering, node, maker.inputs[0], enough)
    if maker is not None and maker.op in ("max_pool2d", "flatten"):
        source = _unlimited(lowering, node, maker.inputs[0], enough)
        return x if source == maker.inputs[0] else lowering.repeat(x, source)
    return x


@rule("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default")
def max_pool2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Max pooling."""
    attributes = {**_window(arguments), "dilation": _two(arguments["dilation"]), "ceil": arguments["ceil_mode"]}
    return lowering.emit(node, "max_pool2d", (lowering.value(node, arguments["self"]),), _shape(node), attributes)


@rule("aten.avg_pool2d.default")
def avg_pool2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Average pooling."""
    if arguments["divisor_override"] is not None:
        lowering.fail(node, "divisor_override is not known; leave it out")
    attributes = {
        **_window(arguments),
        "ceil": arguments["ceil_mode"],
        "count_include_pad": arguments["count_include_pad"],
    }
    return lowering.emit(node, "avg_pool2d", (lowering.value(node, arguments["self"]),), _shape(node), attributes)


def _window(arguments: Arguments) -> dict[str, list[int]]:
    kernel = _two(arguments["kernel_size"])
    stride = _two(arguments["stride"]) if arguments["stride"] else kernel
    return {"kernel": kernel, "stride": stride, "padding": _two(arguments["padding"])}


@rule("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Average pooling to a given size."""
    shape = _shape(node)
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, "adaptive_avg_pool2d", (x,), shape, {"size": list(shape[1:])})


@rule("aten.pad.default", "aten.constant_pad_nd.default")
def pad(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Constant padding; ATen lists pairs from the last axis backwards."""
    if arguments.get("mode", "constant") != "constant":
        lowering.fail(node, f"padding mode {arguments['mode']!r} is not known; only constant padding is")
    x = lowering.value(node, arguments["self"])
    rank = len(lowering.shape(x))
    amounts = [int(n) for n in arguments["pad"]] + [0] * (2 * rank + 2 - len(arguments["pad"]))
    if min(amounts) < 0 or any(amounts[2 * rank :]):
        lowering.fail(node, f"pad={list(arguments['pad'])} cuts or reaches the batch axis; use a slice to cut")
    before, after = amounts[: 2 * rank : 2][::-1], amounts[1 : 2 * rank : 2][::-1]
    return _pad(lowering, node, x, before, after, float(arguments["value"] or 0.0))


def _pad(lowering: Lowering, node: Any, x: int, before: list[int], after: list[int], value: float) -> int:
    shape = tuple(b + n + a for b, n, a in zip(before, lowering.shape(x), after, strict=True))
    return lowering.emit(node, "pad", (x,), shape, {"before": before, "after": after, "value": value})


@rule("aten.slice.Tensor")
def slice_axis(lowering: Lowering, node: Any, arguments: Arguments) -> int | Constant:
    """x[start:stop:step] along one axis; the whole of it is nothing."""
    source, shape = arguments["self"], _shape(node)
    if node.meta["val"].shape == source.meta["val"].shape and arguments["step"] == 1:
        return lowering.known(source)
    x = lowering.value(node, source)
    axis = _axis(node, source, arguments["dim"])
    size = lowering.shape(x)[axis - 1]
    start, stop, step = slice(arguments["start"], arguments["end"], arguments["step"]).indices(size)
    attributes = {"axis": axis - 1, "start": start, "stop": stop, "step": step}
    return lowering.emit(node, "slice", (x,), shape, attributes)


@rule("aten.mean.dim")
def mean(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """The mean over axes other than the batch."""
    source = arguments["self"]
    axes = sorted(_axis(node, source, axis) for axis in arguments["dim"] or range(source.meta["val"].ndim))
    x = lowering.value(node, source)
    attributes = {"axes": [axis - 1 for axis in axes], "keepdim": arguments["keepdim"]}
    return lowering.emit(node, "mean", (x,), _shape(node), attributes)


@rule("aten.softmax.int", "aten._softmax.default")
def softmax(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Softmax over an axis other than the batch."""
    axis = _axis(node, arguments["self"], arguments["dim"])
    if axis == 0:
        lowering.fail(node, "it runs over the batch axis; give dim=1")
    x = lowering.value(node, arguments["self"])
    return lowering.emit(node, "softmax", (x,), lowering.shape(x), {"axis": axis - 1})


@rule("bitwright.sign.default")
def sign(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """+1 or -1."""
    x = lowering.value(node, arguments["x"])
    if not _read_by_others(arguments["x"]):
        x = _unlimited(lowering, node, x, lambda low, high: low < 0 <= high)
    return lowering.emit(node, "sign", (x,), lowering.shape(x))


@rule("bitwright.quantize.default")
def quantize(lowering: Lowering, node: Any, arguments: Arguments) -> int:
    """Whole numbers times a scale, one for all or one per channel."""
    x = lowering.value(node, arguments["x"])
    constants = {role: lowering.constant(node, arguments[role]) for role in ("scale", "zero_point")}
    size = max(constant.tensor.numel() for constant in constants.values())
    if size > 1 and _axis(node, arguments["x"], arguments["axis"]) != 1:
        lowering.fail(node, f"its axis is {arguments['axis']}; only channels, axis 1, may have scales of their own")
    weights = {role: _vector(constant, size) for role, constant in constants.items()}
    attributes = {name: _whole(lowering, node, arguments, name) for name in ("qmin", "qmax")}

    def enough(low: float, high: float) -> bool:
        """Rounding is monotone: it is enough that the limits reach the ends of the range."""
        scale, zero = (constants[role].tensor.float() for role in ("scale", "zero_point"))
        first, last = (torch.round(torch.tensor(limit) * (1 / scale)) + zero for limit in (low, high))
        return bool((first <= attributes["qmin"]).all() and (last >= attributes["qmax"]).all())

    if not _read_by_others(arguments["x"]):
        x = _unlimited(lowering, node, x, enough)
    return lowering.emit(node, "quantize", (x,), lowering.shape(x), attributes, weights)


def _whole(lowering: Lowering, node: Any, arguments: Arguments, name: str) -> int:
    """An argument that is one whole number."""
    numbers = lowering.constant(node, arguments[name]).tensor.unique().tolist()
    if len(numbers) != 1 or numbers[0] != int(numbers[0]):
        lowering.fail(node, f"its {name} is {numbers}; expected one whole number for all channels")
    return int(numbers[0])


def _vector(constant: Constant, size: int) -> Constant:
    """The constant with `size` entries on one axis."""
    return type(constant)(constant.tensor.reshape(-1).expand(size), constant.origin)
