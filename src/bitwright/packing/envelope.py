"""The outer file: safetensors around `data`, and `graph`, which is checksummed, deflated JSON (FORMAT.md 1 and 2).

The header is parsed here rather than by the safetensors library, because every way in which it can be wrong must be
refused with a word of its own, and before anything is allocated. A test loads the files with the library.
"""

from __future__ import annotations

import json
import math
import zlib
from typing import Any, NoReturn

from bitwright.errors import BitwrightError

LONGEST_HEADER = 1 << 16
LONGEST_JSON = 1 << 24
_REMEDY = "pack the model again, or fetch the file again"


def refuse(message: str, kind: str) -> NoReturn:
    """Raise the refusal of a file."""
    raise BitwrightError(f"{message}; {_REMEDY}", kind=kind)


def wrap(content: dict[str, Any], data: bytes) -> bytes:
    """The file that holds `content` (JSON) and `data`. Equal arguments give equal bytes."""
    graph = _deflate(content)
    graph = zlib.crc32(graph, zlib.crc32(data)).to_bytes(4, "little") + graph
    header = json.dumps(
        {
            "__metadata__": {"format": "bitwright", "version": "1"},
            "data": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]},
            "graph": {"dtype": "U8", "shape": [len(graph)], "data_offsets": [len(data), len(data) + len(graph)]},
        },
        separators=(",", ":"),
    ).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data + graph


def unwrap(file: bytes, max_bytes: int) -> tuple[dict[str, Any], bytes]:
    """The JSON content and the data of a file. Raises BitwrightError with a kind of FORMAT.md 6."""
    header, start = _header(file)
    data, graph = _tensors(header, file[start:])
    if len(graph) < 4:
        refuse(f"the graph has {len(graph)} bytes, 4 are the least", "truncated")
    stored, deflated = int.from_bytes(graph[:4], "little"), graph[4:]
    if zlib.crc32(deflated, zlib.crc32(data)) != stored:
        refuse("the checksum does not fit the bytes: the file is damaged", "checksum")
    return _parse(_inflate(deflated, min(LONGEST_JSON, max_bytes))), data


def _deflate(content: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(content, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BitwrightError(f"the graph or its meta data cannot be written as JSON: {error}", kind="json") from None
    if len(text) > LONGEST_JSON:
        raise BitwrightError(f"graph and meta data are {len(text)} bytes of JSON, {LONGEST_JSON} at most", kind="json")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return deflater.compress(text) + deflater.flush()


def _inflate(deflated: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        text = inflater.decompress(deflated, limit + 1)
    except zlib.error as error:
        refuse(f"the graph does not inflate ({error})", "deflate")
    if len(text) > limit:
        refuse(f"the graph inflates to more than {limit} bytes", "too-large")
    if not inflater.eof or inflater.unused_data or inflater.unconsumed_tail:
        refuse("the compressed graph does not end where its tensor ends", "deflate")
    return text


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits[:20]} is infinite")
    return value


def _load_json(text: bytes) -> Any:
    value = json.loads(text.decode(), object_pairs_hook=_pairs, parse_constant=_no_constant, parse_float=_finite)
    if b"\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text: UnicodeEncodeError
    return value


def _parse(text: bytes) -> dict[str, Any]:
    try:
        content = _load_json(text)
    except (ValueError, RecursionError) as error:
        refuse(f"the graph is not JSON as FORMAT.md asks for ({error})", "json")
    if not isinstance(content, dict):
        refuse(f"the graph is a JSON {type(content).__name__}, an object is expected", "json")
    return content


def _header(file: bytes) -> tuple[dict[str, Any], int]:
    """The parsed header and where the tensors start."""
    if len(file) < 8:
        refuse(f"the file has {len(file)} bytes, a packed model has at least 8", "truncated")
    length = int.from_bytes(file[:8], "little")
    if length > LONGEST_HEADER:
        kind = "header" if file[8:9] == b"{" else "magic"
        refuse(f"a header of {length} bytes, {LONGEST_HEADER} at most; this is no packed model of bitwright", kind)
    if len(file) < 8 + length:
        refuse(f"a header of {length} bytes in a file of {len(file)}", "truncated")
    text = file[8 : 8 + length]
    if text[:1] != b"{":
        refuse("the file is no safetensors file", "magic")
    try:
        header = _load_json(text)
    except (ValueError, RecursionError) as error:
        refuse(f"the header is not JSON ({error})", "header")
    return header, 8 + length


def _tensors(header: dict[str, Any], body: bytes) -> tuple[bytes, bytes]:
    """The bytes of `data` and `graph`."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != "bitwright":
        refuse("a safetensors file, but not one that bitwright packed (no metadata 'format': 'bitwright')", "magic")
    if metadata.get("version") != "1":
        raise BitwrightError(
            f"packed with format version {metadata.get('version')!r}, this bitwright reads version '1'; "
            "use the release that packed it, or pack the model again",
            kind="version",
        )
    texts = all(isinstance(value, str) for value in metadata.values())
    if not texts or set(header) != {"__metadata__", "data", "graph"}:
        refuse(f"a header with {sorted(header)}, exactly 'data' and 'graph' are expected", "header")
    ranges = {name: _range(name, header[name]) for name in ("data", "graph")}
    (first, middle), (start, end) = sorted(ranges.values())
    if first != 0 or start != middle:
        refuse(f"tensors at bytes {ranges} leave a hole or overlap", "header")
    if len(body) != end:
        kind = "truncated" if len(body) < end else "header"
        refuse(f"{len(body)} bytes of tensors, the header promises {end}", kind)
    data, graph = (body[a:b] for a, b in (ranges["data"], ranges["graph"]))
    return data, graph


def _range(name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or entry["dtype"] != "U8":
        refuse(f"tensor {name!r} of the header is not a U8 tensor with shape and data_offsets", "header")
    shape, offsets = entry["shape"], entry["data_offsets"]
    lists = isinstance(shape, list) and isinstance(offsets, list) and len(shape) == 1 and len(offsets) == 2
    if not lists or not all(type(n) is int and n >= 0 for n in shape + offsets) or offsets[1] - offsets[0] != shape[0]:
        refuse(f"tensor {name!r} has shape {shape} and offsets {offsets}", "header")
    return offsets[0], offsets[1]
