"""Makes the golden files: small packed models, and broken ones whose name says how they must be refused.

They are frozen: a reader must go on reading (or refusing) them for ever. Run this only to add new ones; it never
overwrites a file. What the good ones hold is in `good.npz`, the quantised ones in `quantised.npz`.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

from bitwright.packing.container import write_container
from bitwright.packing.envelope import unwrap, wrap
from bitwright.packing.profile import QUANTISED, Profile
from bitwright.runtime.graph import Graph, Node

FOLDER = Path(__file__).parent
META = {"classes": ["a", "b", "ü"]}
QUANTISED_META = {"classes": list("0123456789")}


def small_model() -> tuple[Graph, dict[str, np.ndarray]]:
    """Convolution, batch norm, two linear layers: tensors that are sparse, shared, half, float, with a codebook."""
    rng = np.random.default_rng(0)
    levels = np.array([-0.5, -0.25, 0.25, 0.5, 1.0], np.float32)
    pool = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "ceil": False}
    conv = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    nodes = (
        Node("conv2d", (0,), conv, {"weight": "conv.weight", "bias": "conv.bias"}, "conv"),
        Node("affine", (1,), {}, {"scale": "norm.scale", "shift": "norm.shift"}, "norm"),
        Node("relu", (2,), {}, {}, "relu"),
        Node("max_pool2d", (3,), pool, {}, "pool"),
        Node("flatten", (4,), {}, {}, "flatten"),
        Node("linear", (5,), {}, {"weight": "fc.weight", "bias": "fc.bias"}, "fc"),
        Node("linear", (6,), {}, {"weight": "out.weight"}, "out"),
    )
    fc = levels[rng.integers(0, 5, (12, 64))]
    fc[rng.random(fc.shape) < 0.85] = 0
    fc[3] = 0
    tensors = {
        "conv.weight": rng.standard_normal((4, 1, 3, 3)).astype(np.float32),
        "conv.bias": np.array([0, 0.1, -0.3, 0], np.float32),
        "norm.scale": rng.random(4).astype(np.float32),
        "norm.shift": rng.random(4).astype(np.float16).astype(np.float32),
        "fc.weight": fc,
        "fc.bias": rng.standard_normal(12).astype(np.float16).astype(np.float32),
        "out.weight": levels[rng.integers(0, 3, (3, 12))],
    }
    return Graph(((1, 8, 8),), nodes, (7,)), tensors


PROFILES = {
    "best": Profile(excluded=QUANTISED),
    "paper": Profile.paper(),
    "raw": Profile(coders=("raw",), positions=("mask",), excluded=QUANTISED),
    "rans": Profile(coders=("rans",), positions=("gaps",), excluded=QUANTISED),
    "dense": Profile(encodings={"*": "dense"}),
    "context-float": Profile(positions=("context",), values=("float32",), preferred="sparse", excluded=QUANTISED),
    "quantised": Profile(),
}


QUANTISED_RAW = Profile(
    coders=("raw",),
    positions=(),
    encodings={
        "conv[12].weight": "signs",
        "conv3.weight": "ternary",
        "fc[01].weight": "ternary",
        "fc[23].weight": "fixed",
    },
)


def quantised_model() -> tuple[Graph, dict[str, np.ndarray]]:
    """Signs, ternary and fixed-point weights, each with a magnitude per channel and with one for all; quantisers."""
    rng = np.random.default_rng(1)
    conv = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    quantizer = {"scale": "quantizer.scale", "zero_point": "quantizer.zero_point"}
    nodes = (
        Node("quantize", (0,), {"qmin": 0, "qmax": 15}, quantizer, "quantizer"),
        Node("conv2d", (1,), conv, {"weight": "conv1.weight"}, "conv1"),
        Node("sign", (2,), {}, {}, "sign"),
        Node("conv2d", (3,), conv, {"weight": "conv2.weight"}, "conv2"),
        Node("conv2d", (4,), conv, {"weight": "conv3.weight"}, "conv3"),
        Node("flatten", (5,), {}, {}, "flatten"),
        *(Node("linear", (6 + i,), {}, {"weight": f"fc{i}.weight"}, f"fc{i}") for i in range(4)),
    )
    alpha = rng.uniform(0.1, 1, (8, 1, 1, 1)).astype(np.float32)
    signs, trits = np.sign(rng.standard_normal((8, 8, 3, 3))), rng.integers(-1, 2, (8, 8, 3, 3))
    alternating = np.where(np.indices((48, 48)).sum(axis=0) % 2, 0.5, -0.5)
    tensors = {
        "quantizer.scale": np.array([0.1], np.float32),
        "quantizer.zero_point": np.array([3], np.float32),
        "conv1.weight": signs[:, :1] * np.float32(0.3),
        "conv2.weight": signs * alpha,
        "conv3.weight": np.where(trits > 0, alpha, trits * (alpha / 3)),
        "fc0.weight": rng.integers(-1, 2, (48, 512)) * np.float32(0.7),
        "fc1.weight": alternating,
        "fc2.weight": (2 * rng.integers(-8, 8, (48, 48)) + 1) * np.float32(0.01),
        "fc3.weight": rng.integers(-128, 128, (10, 48)).astype(np.float32) * rng.random((10, 1)).astype(np.float32),
    }
    return Graph(((1, 8, 8),), nodes, (10,)), {name: array.astype(np.float32) for name, array in tensors.items()}


def with_checksum(file: bytes, graph: bytes) -> bytes:
    """The file with another compressed graph, checksum and header redone."""
    data = unwrap(file, 1 << 30)[1]
    template = wrap({}, data)
    length = int.from_bytes(template[:8], "little")
    checked = zlib.crc32(graph, zlib.crc32(data)).to_bytes(4, "little") + graph
    header = json.loads(template[8 : 8 + length])
    header["graph"] = {"dtype": "U8", "shape": [len(checked)], "data_offsets": [len(data), len(data) + len(checked)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data + checked


def beside(data: bytes, graph: bytes, size: int) -> bytes:
    """A file whose header says that `data` has `size` bytes, with `graph` (checksum included) at its end."""
    ranges = {"data": (0, size), "graph": (len(data), len(data) + len(graph))}
    header: dict = {"__metadata__": {"format": "bitwright", "version": "1"}}
    header.update({name: {"dtype": "U8", "shape": [b - a], "data_offsets": [a, b]} for name, (a, b) in ranges.items()})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data + graph


def deflate(text: bytes) -> bytes:
    """Raw deflate."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return deflater.compress(text) + deflater.flush()


def edited(file: bytes, **changes: object) -> bytes:
    """The file with other values in its JSON, everything else redone."""
    content, data = unwrap(file, 1 << 30)
    return wrap({**content, **changes}, data)


def broken(good: bytes) -> dict[str, bytes]:
    """One file per refusal of FORMAT.md 6 that concerns a whole file: name (kind, then why) -> bytes."""
    content, data = unwrap(good, 1 << 30)
    length = int.from_bytes(good[:8], "little")
    text, tensors = good[8 : 8 + length], content["t"]

    def header(old: bytes, new: bytes) -> bytes:
        changed = text.replace(old, new)
        assert changed != text
        return len(changed).to_bytes(8, "little") + changed + good[8 + length :]

    bomb = deflate(b" " * (1 << 25))
    nodes = content["n"]
    first = [[*tensors[0][:1], [1 << 20, 1 << 20], *tensors[0][2:]], *tensors[1:]]
    renamed = [[tensors[1][0], *tensors[0][1:]], *tensors[1:]]
    other = [[*tensors[0][:2], "zip", *tensors[0][3:]], *tensors[1:]]
    negative = [[*tensors[0][:1], [-1, 3], *tensors[0][2:]], *tensors[1:]]
    sizes = [entry if len(entry) == 3 else [*entry[:3], entry[3] + 1] for entry in tensors]
    return {
        "truncated-empty": b"",
        "truncated-header": good[: length // 2],
        "truncated-tensors": good[:-1],
        "magic-text": b"not a model at all, just text",
        "magic-format": header(b'"format":"bitwright"', b'"format":"pt"'),
        "version-2": header(b'"version":"1"', b'"version":"2"'),
        "header-json": header(b'"data"', b'"data'),
        "header-long": (1 << 17).to_bytes(8, "little") + b"{" + bytes(1 << 9),
        "header-trailing": good + b"\0",
        "header-dtype": header(b"U8", b"I8"),
        "header-extra": header(b',"graph"', b',"more":{},"graph"'),
        "header-hole": beside(data + b"\0", good[-40:], len(data)),
        "truncated-graph": beside(data, b"abc", len(data)),
        "header-overlap": header(b'"data_offsets":[0,', b'"data_offsets":[1,'),
        "checksum": good[:-1] + bytes([good[-1] ^ 1]),
        "deflate": with_checksum(good, b"\xff\xff"),
        "deflate-trailing": with_checksum(good, deflate(b"{}") + b"\0"),
        "too-large-bomb": with_checksum(good, bomb),
        "too-large-tensor": edited(good, t=first),
        "json-list": with_checksum(good, deflate(b"[]")),
        "json-twice": with_checksum(good, deflate(b'{"i":1,"i":2}')),
        "json-nan": with_checksum(good, deflate(b'{"i":NaN}')),
        "json-infinity": with_checksum(good, deflate(b'{"m":{"x":1e999}}')),
        "json-deep": with_checksum(good, deflate(b"[" * 100_000)),
        "json-surrogate": with_checksum(good, deflate(b'{"i":"\\ud800"}')),
        "json-keys": edited(good, x=1),
        "json-node": edited(good, n=[["relu", [0], {}, {}]]),
        "json-entry": edited(good, t=[["a"]]),
        "graph-op": edited(good, n=[["fly", *nodes[0][1:]], *nodes[1:]]),
        "graph-tensor": edited(good, n=[[*nodes[0][:3], {"weight": 99}, "conv"], *nodes[1:]]),
        "graph-shape": edited(good, i=[[2, 8, 8]]),
        "graph-unused": edited(good, n=nodes[:5], o=[1]),
        "tensor-shape": edited(good, t=negative),
        "tensor-name": edited(good, t=renamed),
        "tensor-encoding": edited(good, t=other),
        "tensor-sizes": edited(good, t=sizes),
        "tensor-shared": edited(good, t=[[*tensors[0][:2], 9], *tensors[1:]]),
        "tensor-shared-by-none": edited(good, s=[*content["s"], ["dense", 0]]),
        "tensor-order": edited(good, t=tensors[::-1], n=_renumbered(nodes, len(tensors))),
        "stream-coder": wrap(content, b"\x0f" + data[1:]),
    }


def _renumbered(nodes: list, count: int) -> list:
    """The nodes for tensors in reverse order."""
    return [[*node[:3], {role: count - 1 - n for role, n in node[3].items()}, node[4]] for node in nodes]


def files() -> dict[str, bytes]:
    """All golden files by name."""
    graph, tensors = small_model()
    result = {f"good-{name}": write_container(graph, tensors, META, profile) for name, profile in PROFILES.items()}
    quantised = quantised_model()
    result["quantised-best"] = write_container(*quantised, QUANTISED_META)
    result["quantised-raw"] = write_container(*quantised, QUANTISED_META, QUANTISED_RAW)
    content, data = unwrap(result["quantised-raw"], 1 << 30)
    start = sum(entry[3] for entry in content["t"][:3] if len(entry) == 4)
    result["broken-lattice-flags"] = wrap(content, data[:start] + b"\xff" + data[start + 1 :])
    # the first record must have a stream whose coder can be damaged, so the broken ones start from the dense file
    result.update({f"broken-{name}": data for name, data in broken(result["good-dense"]).items()})
    return result


def main() -> None:
    """Write what is not there yet."""
    for name, data in files().items():
        path = FOLDER / f"{name}.safetensors"
        if path.exists():
            continue
        path.write_bytes(data)
        print(path.name, len(data))
    for name, (_, tensors) in (("good", small_model()), ("quantised", quantised_model())):
        if not (FOLDER / f"{name}.npz").exists():
            np.savez(FOLDER / f"{name}.npz", **tensors)


if __name__ == "__main__":
    main()
