"""What is in a packed file: bytes per tensor beside the entropy bound, and as Deep Compression would count them."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError
from bitwright.packing import huffman
from bitwright.packing.coders import entropy_bits
from bitwright.packing.container import Container, Stored, read_container
from bitwright.packing.positions import gap_counts
from bitwright.packing.values import LARGEST_TABLE

PAPER = "Deep Compression's accounting: codes and indices (fillers included) after Huffman, 32-bit codebook, no biases"
_PAPER_WIDTHS = range(1, 9)


@dataclass(frozen=True)
class Row:
    """One tensor.

    `bits_per_weight` and `nbytes` count its whole record (its share of a shared vector). `entropy_bytes` is the bound
    that a coder without memory could reach on the same streams: their order-0 entropy, plus what is not coded (lists of
    values). Coders that look at neighbours can be below it. `paper_bytes` is what the paper would count (see `PAPER`),
    None where it counts nothing (biases and other vectors).
    """

    layer: str
    role: str
    encoding: str
    shape: tuple[int, ...]
    density: float
    bits_per_weight: float
    nbytes: int
    entropy_bytes: int
    paper_bytes: int | None
    coders: str


@dataclass(frozen=True)
class Report:
    """All tensors of a file, and the totals.

    `overhead` is all of the file that is in no tensor's record. `accumulators` has the bits that the sums of a layer
    are proven to fit into, by layer, where the file says so (FORMAT.md 8.7). `weights` are the numbers of one network:
    of a file of several precisions, those of the highest.
    """

    rows: list[Row]
    file_bytes: int
    overhead: int
    weights: int
    entropy_bytes: int
    paper_bytes: int
    accumulators: dict[str, int] = field(default_factory=dict)
    paper: str = PAPER

    @property
    def float32_bytes(self) -> int:
        """What the tensors take as float32."""
        return 4 * self.weights

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than its tensors as float32."""
        return self.float32_bytes / self.file_bytes

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {**asdict(self), "float32_bytes": self.float32_bytes, "ratio": self.ratio}


def inspect_file(path: str | os.PathLike[str], max_bytes: int | None = None) -> Report:
    """The report of a packed file. Decodes every tensor, so it also finds damage."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BitwrightError(f"cannot read {str(path)!r}: {error.strerror}; check the path", kind="file") from None
    return inspect_bytes(data, max_bytes)


def inspect_bytes(data: bytes, max_bytes: int | None = None) -> Report:
    """The same for bytes in memory."""
    container = read_container(data, max_bytes)
    places = _places(container)
    rows = [_row(stored, *places[name]) for name, stored in container.stored.items()]
    overhead = len(data) - sum(row.nbytes for row in rows)
    used = {name for node in container.graph.nodes for name in node.weights.values()}
    return Report(
        rows,
        file_bytes=len(data),
        overhead=overhead,
        weights=sum(math.prod(container.stored[name].shape) for name in used),
        entropy_bytes=overhead + sum(row.entropy_bytes for row in rows),
        paper_bytes=sum(row.paper_bytes or 0 for row in rows),
        accumulators={n.name: bits for n in container.graph.nodes if (bits := n.attributes.get("accumulator"))},
    )


def _places(container: Container) -> dict[str, tuple[str, str]]:
    """Layer and role of each tensor, of its first use; what only a lower precision uses says its bits."""
    places: dict[str, tuple[str, str]] = {}
    lower = {bits: graph for bits, graph in container.variants.items() if graph is not container.graph}
    for bits, graph in {0: container.graph, **lower}.items():
        whose = f", {bits} bit{'s' * (bits > 1)}" if bits else ""
        for node in graph.nodes:
            for role, name in node.weights.items():
                places.setdefault(name, (node.name or node.op, role + whose))
    return places


def _row(stored: Stored, layer: str, role: str) -> Row:
    numbers, streams = stored.dense().reshape(-1), stored.streams
    share = stored.nbytes / max(1, len(stored.record.data))
    coded = sum(stream.nbytes for stream in streams)
    bound = (len(stored.record.data) - coded + sum(stream.entropy for stream in streams) / 8) * share
    return Row(
        layer=layer,
        role=role,
        encoding=stored.encoding if stored.start is None else f"{stored.encoding} (shared)",
        shape=stored.shape,
        density=int(np.count_nonzero(numbers)) / max(1, len(numbers)),
        bits_per_weight=8 * stored.nbytes / max(1, len(numbers)),
        nbytes=stored.nbytes,
        entropy_bytes=math.ceil(bound),
        paper_bytes=paper_bytes(numbers) if len(stored.shape) >= 2 and stored.encoding != "truncated" else None,
        coders=", ".join(sorted({stream.coder for stream in streams if stream.nbytes > 1})),
    )


def paper_bytes(numbers: np.ndarray) -> int:
    """Bytes as Deep Compression counts a layer: Huffman-coded codes and gaps, codebook of 32 bits per entry, no tables.

    The codes' statistics include the fillers, as the paper's do. The index width is the one that costs least. A layer
    with too many distinct values counts 32 bits per entry; one without zeros has no index. Han, Mao, Dally, ICLR 2016,
    sections 2 to 4.
    """
    positions = np.flatnonzero(numbers)
    table, times = np.unique(numbers[positions], return_counts=True)
    shared = len(table) <= LARGEST_TABLE and 2 * len(table) <= len(positions)
    if len(positions) == len(numbers):
        return math.ceil(_value_bits(table, times, 0, shared) / 8)
    zeros, often = np.unique(np.diff(positions, prepend=-1) - 1, return_counts=True)
    bits = []
    for width in _PAPER_WIDTHS:
        counts, fillers = gap_counts(zeros, often, width)
        bits.append(_huffman_bits(counts) + _value_bits(table, times, fillers, shared))
    return math.ceil(min(bits) / 8)


def _value_bits(table: np.ndarray, times: np.ndarray, fillers: int, shared: bool) -> float:
    if not shared:
        return 32.0 * (int(times.sum()) + fillers)
    return 32 * len(table) + _huffman_bits(np.append(fillers, times))


def _huffman_bits(counts: np.ndarray) -> float:
    """Bits of all codes; entropy where there are too many symbols for a 12-bit code."""
    if np.count_nonzero(counts) > 1 << huffman.LONGEST:
        return entropy_bits(counts)
    return float(counts @ huffman.code_lengths(counts).astype(np.int64))


__all__ = ["PAPER", "Report", "Row", "inspect_bytes", "inspect_file", "paper_bytes"]
