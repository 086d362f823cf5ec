"""Bytes and bits of the packed file: varints, a cursor that cannot leave its record, fixed-width bit sequences.

FORMAT.md, head of the document and sections 5.1 and 5.2.
"""

from __future__ import annotations

import numpy as np

from bitwright.errors import BitwrightError

LONGEST_VARINT = 6
_CHUNK = 1 << 20  # symbols that are spread into single bits at a time


def varint(value: int) -> bytes:
    """LEB128 of a number below 2^42."""
    if not 0 <= value < 1 << (7 * LONGEST_VARINT):
        raise ValueError(f"varint of {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Reads a record from its start to its end. `where` names the tensor in messages."""

    def __init__(self, data: bytes, where: str = "record") -> None:
        self.data, self.where, self.position = data, where, 0

    def fail(self, message: str, kind: str = "stream") -> BitwrightError:
        """The error for this place of the file."""
        advice = "the file is damaged or not written by bitwright; pack the model again"
        return BitwrightError(f"{self.where}: {message}; {advice}", kind=kind)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        left = len(self.data) - self.position
        if size > left:
            raise self.fail(f"{size} bytes expected at byte {self.position}, {left} are left")
        self.position += size
        return self.data[self.position - size : self.position]

    def u8(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next LEB128 number."""
        value = 0
        for i in range(LONGEST_VARINT):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if byte == 0 and i > 0:
                    break
                return value
        raise self.fail("a varint is longer than it need be")

    def end(self) -> None:
        """Refuse what is left over."""
        if self.position != len(self.data):
            left = len(self.data) - self.position
            raise self.fail(f"{left} bytes left at the end of the record", kind="tensor")


class BitWriter:
    """Bits, low first, for the few numbers of a table."""

    def __init__(self) -> None:
        self.value, self.length = 0, 0

    def write(self, value: int, width: int) -> None:
        """Append the `width` low bits of `value`."""
        self.value |= value << self.length
        self.length += width

    def bytes(self) -> bytes:
        """What was written, padded with zero bits to a whole byte."""
        return self.value.to_bytes(-(-self.length // 8), "little")


class BitCursor:
    """Reads bits, low first, from a cursor, a byte at a time."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor, self.value, self.held = cursor, 0, 0

    def read(self, width: int) -> int:
        """The next `width` bits."""
        while self.held < width:
            self.value |= self.cursor.u8() << self.held
            self.held += 8
        result = self.value & ((1 << width) - 1)
        self.value >>= width
        self.held -= width
        return result

    def end(self) -> None:
        """Refuse padding that is not zero."""
        if self.value:
            raise self.cursor.fail("the padding of a table is not zero")


def pack_bits(symbols: np.ndarray, width: int) -> bytes:
    """Each symbol in `width` bits (0..16), low first; the last byte is padded with zeros."""
    if width == 8:
        return symbols.astype(np.uint8).tobytes()
    if width == 16:
        return symbols.astype("<u2").tobytes()
    shifts = np.arange(width, dtype=np.uint16)
    chunks = [symbols[i : i + _CHUNK].astype(np.uint16) for i in range(0, len(symbols), _CHUNK)]
    return b"".join(np.packbits(c[:, None] >> shifts & 1, bitorder="little").tobytes() for c in chunks)


def unpack_bits(data: bytes, width: int, count: int) -> np.ndarray:
    """The inverse of `pack_bits`: `count` symbols as uint16. `data` must have just the right length."""
    if width == 0:
        return np.zeros(count, np.uint16)
    if width == 1:
        return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").astype(np.uint16)
    if width == 8:
        return np.frombuffer(data, np.uint8, count).astype(np.uint16)
    if width == 16:
        return np.frombuffer(data, "<u2", count).astype(np.uint16)
    weights = (1 << np.arange(width)).astype(np.uint16)
    result = np.empty(count, np.uint16)
    raw = np.frombuffer(data, np.uint8)
    for i in range(0, count, _CHUNK):  # _CHUNK is a multiple of 8, so every chunk starts at a byte
        size = min(_CHUNK, count - i)
        bits = np.unpackbits(raw[i * width // 8 :], count=size * width, bitorder="little")
        result[i : i + size] = bits.reshape(size, width) @ weights
    return result


def padding_is_zero(data: bytes, used_bits: int) -> bool:
    """Whether the bits of the last byte beyond `used_bits` are zero."""
    return used_bits % 8 == 0 or data[-1] >> (used_bits % 8) == 0


def write_table(numbers: np.ndarray) -> bytes:
    """Numbers 0..15 of the symbols 0..m-1, zeros in runs (FORMAT.md 5.2)."""
    used = np.flatnonzero(numbers)
    size = int(used[-1]) + 1 if len(used) else 0
    writer, i = BitWriter(), 0
    for symbol in used.tolist():
        if symbol > i:
            _write_zeros(writer, symbol - i)
        writer.write(int(numbers[symbol]), 4)
        i = symbol + 1
    return varint(size) + writer.bytes()


def _write_zeros(writer: BitWriter, run: int) -> None:
    writer.write(0, 4)
    run -= 1
    while run >= 8:
        writer.write(run & 7 | 8, 4)
        run >>= 3
    writer.write(run, 4)


def read_table(cursor: Cursor, width: int) -> np.ndarray:
    """The inverse of `write_table`, uint8. Refuses more than 2^width symbols before it allocates anything."""
    size = cursor.varint()
    if size > 1 << width:
        raise cursor.fail(f"a table of {size} symbols where symbols have {width} bits")
    numbers, bits, i = np.zeros(size, np.uint8), BitCursor(cursor), 0
    while i < size:
        number = bits.read(4)
        if number:
            numbers[i] = number
            i += 1
        else:
            i += _read_zeros(bits, size - i)
    bits.end()
    if size and not numbers[-1]:
        raise cursor.fail("a table ends with symbols that do not occur")
    return numbers


def _read_zeros(bits: BitCursor, limit: int) -> int:
    run, shift, more = 1, 0, True
    while more:
        group = bits.read(4)
        run += (group & 7) << shift
        shift, more = shift + 3, group >= 8
        if run > limit or shift > 18:
            raise bits.cursor.fail("a run of zeros leaves its table")
    return run
