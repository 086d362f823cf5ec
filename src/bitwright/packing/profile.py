"""What a packer may use: everything, unless a profile insists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from bitwright.errors import BitwrightError, unknown

CODERS = ("raw", "huffman", "rans")
POSITIONS = ("gaps", "mask", "context")
QUANTISED = ("signs", "ternary", "fixed")
"""Encodings of weights that are whole numbers times a magnitude."""
VALUES = ("float32", "float16", "codes")


@dataclass(frozen=True)
class Profile:
    """Narrows the packer's choice; the default lets it take the smallest of all it knows.

    coders
        Coders that streams may use; raw bits where none of them can hold the symbols.
    encodings
        Tensor name pattern (as in a shell) -> encoding that must be taken. The first pattern that fits counts. Tensors
        that are matched never join a shared vector.
    preferred
        The encoding of every tensor of two or more dimensions that it can hold, whatever its size.
    excluded
        Encodings that are not considered, unless `encodings` names them.
    positions, values
        How sparse tensors may say where their non-zeros are, and what they are.
    linear_index_bits, conv_index_bits
        Width of the relative index of tensors with at most two, and with more dimensions; None: the cheapest.
    column_order, drop_dead
        Whether sparse tensors may be visited column by column, and all-zero rows and columns be left out first.
    elements
        For how many processing elements `ese` lays out matrices; None: it is not considered.
    """

    coders: tuple[str, ...] = CODERS
    encodings: Mapping[str, str] = field(default_factory=dict)
    preferred: str | None = None
    excluded: tuple[str, ...] = ()
    positions: tuple[str, ...] = POSITIONS
    values: tuple[str, ...] = VALUES
    linear_index_bits: int | None = None
    conv_index_bits: int | None = None
    column_order: bool = True
    drop_dead: bool = True
    elements: int | None = None

    def __post_init__(self) -> None:
        for what, given, known in (("coder", self.coders, CODERS), ("positions", self.positions, POSITIONS)):
            for name in given:
                if name not in known:
                    raise unknown(what, name, known)
        for name in self.values:
            if name not in VALUES:
                raise unknown("values", name, VALUES)
        for bits in (self.linear_index_bits, self.conv_index_bits):
            if bits is not None and not (type(bits) is int and 1 <= bits <= 16):
                raise BitwrightError(f"an index of {bits!r} bits in a profile; 1 to 16 are possible", kind="profile")
        if self.elements is not None and not (type(self.elements) is int and self.elements >= 1):
            raise BitwrightError(f"{self.elements!r} processing elements in a profile; at least 1", kind="profile")

    @classmethod
    def paper(cls, linear_index_bits: int = 5, conv_index_bits: int = 8) -> Profile:
        """The container of Deep Compression (Han, Mao, Dally, ICLR 2016, section 4): gaps with fillers, codes, Huffman.

        The defaults are the index widths of the pruning paper, 5 bits for fully connected and 8 for convolutional
        layers; Deep Compression's own tables have 5 for all layers of the LeNets and of VGG-16, 4 for AlexNet.
        """
        return cls(
            coders=("raw", "huffman"),
            preferred="sparse",
            excluded=QUANTISED,
            positions=("gaps",),
            linear_index_bits=linear_index_bits,
            conv_index_bits=conv_index_bits,
            column_order=False,
            drop_dead=False,
        )

    @classmethod
    def ese(cls, elements: int = 32) -> Profile:
        """The storage of ESE (Han et al., FPGA 2017) for so many processing elements: words of 16 bits, uncompressed.

        Tensors that it can't hold (no 12-bit fixed point, fewer rows than elements) are stored otherwise.
        """
        return cls(coders=("raw",), preferred="ese", elements=elements)

    def encoding_of(self, name: str) -> str | None:
        """The encoding that the tensor called `name` must have, or None."""
        return next((e for pattern, e in self.encodings.items() if fnmatchcase(name, pattern)), None)

    def index_bits(self, dimensions: int) -> int | None:
        """The width of the relative index for a tensor with so many dimensions, None for the cheapest."""
        return self.linear_index_bits if dimensions <= 2 else self.conv_index_bits
