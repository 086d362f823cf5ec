"""`validate` lets the good graphs through with the right shapes and refuses every other, naming the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitwright import BitwrightError
from bitwright.runtime.graph import Graph, Node, validate
from bitwright.runtime.shapes import OPERATIONS

CONV = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
MAX_POOL = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "ceil": False}
AVG_POOL = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil": False, "count_include_pad": True}
SLICE = {"axis": 0, "start": 0, "stop": 2, "step": 1}
PAD = {"before": [0, 0, 0], "after": [0, 0, 0], "value": 0.0}
MEAN = {"axes": [1, 2], "keepdim": False}
SCALE = {"scale": "s", "shift": "t"}
QUANTIZER = {"scale": "s", "zero_point": "z"}
S4 = {"s": (4,), "t": (4,)}
IMAGE = (4, 6, 8)

# op, input shape, attributes, weights by role, stored shapes, expected shape
GOOD: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, str], dict[str, tuple[int, ...]], tuple[int, ...]]] = [
    ("normalize", IMAGE, {}, SCALE, S4, IMAGE),
    ("affine", IMAGE, {}, SCALE, S4, IMAGE),
    ("affine", (4,), {}, SCALE, S4, (4,)),
    ("conv2d", IMAGE, CONV, {"weight": "w"}, {"w": (5, 4, 3, 1)}, (5, 4, 8)),
    ("conv2d", IMAGE, {**CONV, "groups": 2}, {"weight": "w", "bias": "b"}, {"w": (6, 2, 1, 1), "b": (6,)}, (6, 6, 8)),
    ("conv2d", IMAGE, {**CONV, "stride": [2, 3], "padding": [1, 9]}, {"weight": "w"}, {"w": (1, 4, 3, 3)}, (1, 3, 8)),
    ("conv2d", IMAGE, {**CONV, "dilation": [2, 3]}, {"weight": "w"}, {"w": (1, 4, 3, 3)}, (1, 2, 2)),
    ("linear", (4,), {}, {"weight": "w"}, {"w": (3, 4)}, (3,)),
    ("linear", (4,), {}, {"weight": "w", "bias": "b"}, {"w": (3, 4), "b": (3,)}, (3,)),
    ("relu", IMAGE, {}, {}, {}, IMAGE),
    ("prelu", IMAGE, {}, {"slope": "s"}, {"s": (4,)}, IMAGE),
    ("prelu", (4,), {}, {"slope": "s"}, {"s": (4,)}, (4,)),
    ("clamp", IMAGE, {"low": -1, "high": 1.5}, {}, {}, IMAGE),
    ("clamp", IMAGE, {"low": None, "high": 0}, {}, {}, IMAGE),
    ("abs", IMAGE, {}, {}, {}, IMAGE),
    ("sigmoid", IMAGE, {}, {}, {}, IMAGE),
    ("tanh", IMAGE, {}, {}, {}, IMAGE),
    ("elu", IMAGE, {"alpha": 0.5}, {}, {}, IMAGE),
    ("gelu", (4,), {}, {}, {}, (4,)),
    ("sqrt", (4,), {}, {}, {}, (4,)),
    ("rsqrt", IMAGE, {}, {}, {}, IMAGE),
    ("maxout", IMAGE, {"pieces": 2}, {}, {}, (2, 6, 8)),
    ("maxout", (4,), {"pieces": 4}, {}, {}, (1,)),
    ("response_norm", IMAGE, {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2}, {}, {}, IMAGE),
    ("group_norm", IMAGE, {"groups": 2, "epsilon": 1e-5}, {}, {}, IMAGE),
    ("group_norm", (4,), {"groups": 4, "epsilon": 0}, {}, {}, (4,)),
    ("max_pool2d", IMAGE, MAX_POOL, {}, {}, (4, 3, 4)),
    ("max_pool2d", IMAGE, {**MAX_POOL, "kernel": [3, 3], "padding": [1, 1]}, {}, {}, (4, 3, 4)),
    ("max_pool2d", IMAGE, {**MAX_POOL, "kernel": [3, 3], "ceil": True}, {}, {}, (4, 3, 4)),
    ("max_pool2d", (4, 1, 1), {**MAX_POOL, "kernel": [1, 1], "stride": [3, 3], "ceil": True}, {}, {}, (4, 1, 1)),
    ("max_pool2d", (4, 2, 9), {**MAX_POOL, "kernel": [3, 3], "ceil": True}, {}, {}, (4, 1, 4)),
    ("avg_pool2d", IMAGE, AVG_POOL, {}, {}, (4, 3, 4)),
    ("adaptive_avg_pool2d", IMAGE, {"size": [1, 9]}, {}, {}, (4, 1, 9)),
    ("adaptive_max_pool2d", IMAGE, {"size": [7, 1]}, {}, {}, (4, 7, 1)),
    ("flatten", IMAGE, {}, {}, {}, (192,)),
    ("flatten", (4,), {}, {}, {}, (4,)),
    ("unflatten", (12,), {"shape": [3, 1, 4]}, {}, {}, (3, 1, 4)),
    ("pad", IMAGE, {"before": [1, 0, 2], "after": [0, 3, 4], "value": -1}, {}, {}, (5, 9, 14)),
    ("slice", IMAGE, {"axis": 1, "start": 1, "stop": 6, "step": 2}, {}, {}, (4, 3, 8)),
    ("mean", IMAGE, MEAN, {}, {}, (4,)),
    ("mean", IMAGE, {"axes": [0], "keepdim": True}, {}, {}, (1, 6, 8)),
    ("mean", (4,), {"axes": [0], "keepdim": False}, {}, {}, ()),
    ("softmax", (4,), {"axis": 0}, {}, {}, (4,)),
    ("sign", IMAGE, {}, {}, {}, IMAGE),
    ("quantize", IMAGE, {"qmin": 0, "qmax": 3}, QUANTIZER, {"s": (4,), "z": (4,)}, IMAGE),
    ("quantize", (5,), {"qmin": -128, "qmax": 127}, QUANTIZER, {"s": (1,), "z": (1,)}, (5,)),
]


@pytest.mark.parametrize(("op", "shape", "attributes", "roles", "stored", "expected"), GOOD)
def test_shapes(op, shape, attributes, roles, stored, expected):
    graph = Graph((shape,), (Node(op, (0,), attributes, roles),), (1,))
    assert validate(graph, stored) == [shape, expected]


def test_the_format_lists_every_operation_with_its_attributes_and_weights():
    section = (Path(__file__).parent.parent / "FORMAT.md").read_text().split("## 7. Operations")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ")[:4] for line in section.splitlines() if line.startswith("| ")][1:]
    names = [[name for name in cell.split(", ") if name != "-"] for row in rows for cell in row[2:]]
    expected = [
        [
            [*required, *(f"({name})" for name in optional)]
            for required, optional in ((o.attributes, o.optional_attributes), (o.weights, o.optional))
        ]
        for o in OPERATIONS.values()
    ]
    counts = [f"{o.inputs} to {o.most_inputs}" if o.most_inputs else str(o.inputs) for o in OPERATIONS.values()]
    assert [row[:2] for row in rows] == [list(pair) for pair in zip(OPERATIONS, counts, strict=True)]
    assert names == [cell for row in expected for cell in row]


def test_every_operation_has_a_good_example():
    assert {case[0] for case in GOOD} | {"add", "mul", "concat"} == set(OPERATIONS)


def test_add_and_values_read_twice():
    graph = Graph((IMAGE, IMAGE), (Node("add", (0, 1)), Node("add", (2, 2))), (3, 0, 3))
    assert validate(graph, {}) == [IMAGE] * 4


@pytest.mark.parametrize("op", ["add", "mul"])
def test_sums_and_products_take_one_channel_for_all(op):
    one = (1, *IMAGE[1:])
    for shapes in [(IMAGE, IMAGE), (IMAGE, one), (one, one), ((4,), (1,))]:
        assert validate(Graph(shapes, (Node(op, (0, 1)),), (2,)), {})[2] == shapes[0]
    for shapes in [(one, IMAGE), (IMAGE, (4, 1, 1)), (IMAGE, (4,)), ((4,), (2,))]:
        with pytest.raises(BitwrightError, match="expected the second equal to the first, or with a first axis of 1"):
            validate(Graph(shapes, (Node(op, (0, 1)),), (2,)), {})


def test_concat_joins_what_is_equally_long_along_other_axes():
    for axis, result in enumerate([(8, 6, 8), (4, 12, 8), (4, 6, 16)]):
        assert validate(Graph((IMAGE,), (Node("concat", (0, 0), {"axis": axis}),), (1,)), {})[1] == result
    node = Node("concat", (0, 1, 0), {"axis": 1})
    assert validate(Graph((IMAGE, (4, 1, 8)), (node,), (2,)), {})[2] == (4, 13, 8)
    for other in [(4, 6, 7), (4, 6), (5, 6, 8)]:
        with pytest.raises(BitwrightError, match=r"expected equal ones but for axis 1"):
            validate(Graph((IMAGE, other), (node,), (2,)), {})
    for count in (0, 1, 65):
        with pytest.raises(BitwrightError, match=rf"has {count} inputs; expected 2 to 64"):
            validate(Graph((IMAGE,), (Node("concat", (0,) * count, {"axis": 0}),), (1,)), {})
    for axis in (3, -1, True, None):
        with pytest.raises(BitwrightError, match="axis is"):
            validate(Graph((IMAGE,), (Node("concat", (0, 0), {"axis": axis}),), (1,)), {})


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case[0])
def test_wrong_types_everywhere_are_refused(case):
    """Each attribute replaced by something of the wrong type, or left out, or joined by a stranger."""
    op, shape, attributes, roles, stored, _ = case
    strangers: list[Any] = [None, "1", 1.5, float("nan"), [], [1], [1.0, 1.0, 1.0], [True, True, True], {}, 2**31]
    for name in attributes:
        for value in [*strangers, *([True, [1, True]] if not isinstance(attributes[name], bool) else [1, 0])]:
            if op == "clamp" and value in (None, 1.5, 2**31):
                continue
            if name in ("value", "alpha", "beta", "k", "epsilon") and value in (1.5, 2**31):
                continue  # a number
            if op == "mean" and value == [1]:
                continue
            bad = Graph((shape,), (Node(op, (0,), {**attributes, name: value}, roles),), (1,))
            with pytest.raises(BitwrightError, match=f"graph node 0 \\({op}\\): .*"):
                validate(bad, stored)
        rest = {key: value for key, value in attributes.items() if key != name}
        with pytest.raises(BitwrightError, match=f"attribute '{name}' is missing"):
            validate(Graph((shape,), (Node(op, (0,), rest, roles),), (1,)), stored)
    with pytest.raises(BitwrightError, match="unknown attribute 'stranger'"):
        validate(Graph((shape,), (Node(op, (0,), {**attributes, "stranger": 1}, roles),), (1,)), stored)
    with pytest.raises(BitwrightError, match="unknown weight 'gamma'"):
        validate(Graph((shape,), (Node(op, (0,), attributes, {**roles, "gamma": "w"}),), (1,)), stored)
    for role in set(roles) - {"bias"}:
        rest = {key: value for key, value in roles.items() if key != role}
        with pytest.raises(BitwrightError, match=f"weight '{role}' is missing"):
            validate(Graph((shape,), (Node(op, (0,), attributes, rest),), (1,)), stored)
    for name, size in stored.items():
        for wrong in [(*size, 1), size[1:]]:
            if 1 <= len(wrong) <= 4:
                with pytest.raises(BitwrightError, match="has shape"):
                    validate(Graph((shape,), (Node(op, (0,), attributes, roles),), (1,)), {**stored, name: wrong})


def one(op: str, attributes: dict[str, Any] | None = None, roles: dict[str, str] | None = None) -> Node:
    return Node(op, (0,), attributes or {}, roles or {}, "layer")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (one("warp"), "no such operation; the operations are abs, adaptive_avg_pool2d, adaptive_max"),
        (Node("relu", ()), "has 0 inputs; expected 1"),
        (Node("add", (0,)), "has 1 inputs; expected 2"),
        (Node("relu", (1,)), "reads value 1; only values 0 to 0 come before it"),
        (Node("relu", (-1,)), "reads value -1"),
        (Node("relu", (True,)), "reads value True"),
        (one("conv2d", {**CONV, "groups": 3}, {"weight": "w"}), "groups=3 does not divide the 4 input channels"),
        (one("conv2d", {**CONV, "groups": 2}, {"weight": "g"}), "groups=2 does not divide the 5 output channels"),
        (one("conv2d", CONV, {"weight": "w"}), r"kernel \[9, 9\] .* doesn't fit the input \(6, 8\)"),
        (one("conv2d", CONV, {"weight": "absent"}), "weight is the tensor 'absent', which is not stored"),
        (one("conv2d", CONV, {"weight": ["w"]}), r"weight is the tensor \['w'\], which is not stored"),
        (one("linear", {}, {"weight": "w"}), "input has shape .*; expected 1 axes"),
        (one("max_pool2d", {**MAX_POOL, "padding": [0, 2]}), "padding .* is more than half the kernel"),
        (one("max_pool2d", {**MAX_POOL, "stride": [0, 1]}), "stride is .*; expected 2 integers from 1"),
        (one("max_pool2d", {**MAX_POOL, "kernel": [7, 1]}), "doesn't fit"),
        (one("avg_pool2d", {**AVG_POOL, "ceil": 1}), "ceil is 1; expected true or false"),
        (one("slice", {**SLICE, "start": 4}), "start is 4; expected an integer from 0 to 3"),
        (one("slice", {**SLICE, "stop": 0}), "stop is 0; expected an integer from 1 to 4"),
        (one("slice", {**SLICE, "stop": 5}), "stop is 5"),
        (one("slice", {**SLICE, "axis": 3}), "axis is 3"),
        (one("slice", {**SLICE, "step": 0}), "step is 0"),
        (one("clamp", {"low": 1, "high": 0.5}), r"its limits are \[1.0, 0.5\]; expected one or two, low <= high"),
        (one("clamp", {"low": None, "high": None}), r"its limits are \[\]; expected one or two"),
        (one("clamp", {"low": "0", "high": None}), "low is '0'; expected a finite float32 number"),
        (one("clamp", {"low": 0, "high": float("nan")}), "high is nan; expected a finite float32 number"),
        (one("pad", {**PAD, "before": [-1, 0, 0]}), "before is"),
        (one("pad", {**PAD, "value": float("inf")}), "value is inf; expected a finite"),
        (one("mean", {**MEAN, "axes": [1, 1]}), "names an axis twice"),
        (one("mean", {**MEAN, "axes": []}), r"axes is \[\]"),
        (one("softmax", {"axis": -1}), "axis is -1"),
        (one("maxout", {"pieces": 3}), "pieces=3 does not divide the 4 channels"),
        (one("group_norm", {"groups": 3, "epsilon": 1e-5}), "groups=3 does not divide the 4 channels"),
        (one("group_norm", {"groups": 2, "epsilon": -1e-5}), "epsilon is -1e-05; expected a number >= 0"),
        (one("response_norm", {"size": 65537, "alpha": 1, "beta": 1, "k": 1}), "size is 65537"),
        (one("adaptive_avg_pool2d", {"size": [0, 1]}), "size is"),
    ],
)
def test_refusals_name_the_node(node, message):
    graph = Graph((IMAGE,), (node,), (1,))
    with pytest.raises(BitwrightError, match=message) as caught:
        validate(graph, {"w": (5, 4, 9, 9), "g": (5, 2, 1, 1)})
    assert caught.value.kind == "graph"
    assert f"graph node 0 ({node.op}" in str(caught.value)
    assert not node.name or "'layer'" in str(caught.value)


@pytest.mark.parametrize("sizes", [{"s": (2,), "z": (2,)}, {"s": (1,), "z": (4,)}])
@pytest.mark.parametrize("bounds", [(0, 3), (1, 1), (3, 0), (-65537, 0), (0, 65537)])
def test_quantizers_that_are_refused(sizes, bounds):
    node = Node("quantize", (0,), {"qmin": bounds[0], "qmax": bounds[1]}, QUANTIZER)
    sizes = sizes if bounds == (0, 3) else {"s": (1,), "z": (1,)}
    with pytest.raises(BitwrightError, match=r"quantize.*(have sizes|qm[a-z]* is -?[0-9]+; expected an integer from)"):
        validate(Graph((IMAGE,), (node,), (1,)), sizes)


@pytest.mark.parametrize(
    ("graph", "stored", "message"),
    [
        (Graph((), (), (0,)), {}, "the graph has no input"),
        (Graph((IMAGE,), (), ()), {}, "the graph has no output"),
        (Graph((IMAGE,), (), (1,)), {}, "graph output 1 is no value; values are 0 to 0"),
        (Graph((IMAGE,), (), (False,)), {}, "graph output False is no value"),
        (Graph(((),), (), (0,)), {}, "graph input 0 has shape"),
        (Graph(((1, 2, 3, 4),), (), (0,)), {}, "graph input 0 has shape"),
        (Graph(((0, 2),), (), (0,)), {}, "graph input 0 has shape"),
        (Graph(((True, 2),), (), (0,)), {}, "graph input 0 has shape"),
        (Graph((4,), (), (0,)), {}, "graph input 0 has shape 4"),  # type: ignore[arg-type]
        (Graph(((2**20, 2**20),), (), (0,)), {}, "more than the cap of 268,435,456 elements"),
        (Graph((IMAGE,), (), (0,)), {"w": (1,)}, "tensor 'w' is used by no node"),
        (Graph((IMAGE,), (), (0,)), {"w": (0, 3)}, "tensor 'w' has shape"),
        (Graph((IMAGE,), (), (0,)), {"w": (1, 1, 1, 1, 1)}, "tensor 'w' has shape"),
        (Graph((IMAGE,), (), (0,)), {5: (1,)}, "tensor name 5 is not a string"),  # type: ignore[dict-item]
        (Graph(((4,), (5,)), (Node("add", (0, 1)),), (2,)), {}, r"inputs have shapes \(4,\) and \(5,\)"),
        (
            Graph((IMAGE,), (Node("relu", (0,)), Node("normalize", (1,), {}, SCALE)), (2,)),
            S4,
            "it may only read a graph input",
        ),
        (
            Graph(
                ((4,),), (Node("mean", (0,), {"axes": [0], "keepdim": False}), Node("softmax", (1,), {"axis": 0})), (2,)
            ),
            {},
            "expected one or more axes",
        ),
    ],
)
def test_graphs_that_are_refused(graph, stored, message):
    with pytest.raises(BitwrightError, match=message) as caught:
        validate(graph, stored)
    assert caught.value.kind == "graph"


BIG = 2**20


@pytest.mark.parametrize(
    "node",
    [
        one("pad", {"before": [2**31 - 1] * 3, "after": [2**31 - 1] * 3, "value": 0.0}),
        one("adaptive_avg_pool2d", {"size": [2**31 - 1, 2**31 - 1]}),
        one("conv2d", {**CONV, "padding": [BIG, BIG]}, {"weight": "w"}),
        one("conv2d", {**CONV, "padding": [BIG, BIG], "stride": [2 * BIG, 2 * BIG]}, {"weight": "w"}),
        one("max_pool2d", {**MAX_POOL, "kernel": [BIG, BIG], "padding": [BIG // 2, BIG // 2], "stride": [BIG, BIG]}),
    ],
    ids=lambda node: node.op,
)
def test_sizes_are_capped(node):
    with pytest.raises(BitwrightError, match=r"more than the cap of 268,435,456 elements|integers from 0"):
        validate(Graph((IMAGE,), (node,), (1,)), {"w": (1, 4, 1, 1)})


def test_the_total_is_capped():
    graph = Graph(((1000,),), tuple(Node("relu", (i,)) for i in range(9)), (9,))
    assert len(validate(graph, {}, max_elements=10_000)) == 10
    with pytest.raises(BitwrightError, match=r"graph node 8 \(relu\): brings the values to 10,000 .* cap is 9,999"):
        validate(graph, {}, max_elements=9_999)


def test_pixel_inputs():
    normalize = Node("normalize", (0,), {}, SCALE)
    assert Graph((IMAGE, IMAGE), (normalize,), (2,)).pixel_inputs() == {0}
    assert Graph((IMAGE,), (normalize, Node("add", (0, 1))), (2,)).pixel_inputs() == set()
    assert Graph((IMAGE,), (normalize,), (1, 0)).pixel_inputs() == set()
