"""Canonical Huffman codes of at most 12 bits: optimal lengths, and a readable coder beside the native one.

Mean length L of an optimal code without the limit: H <= L < H + 1, with H the entropy of the symbols in bits. The limit
costs something only where probabilities are below 2^-12, and makes decoding one table look-up. FORMAT.md 5.3.

Huffman, "A Method for the Construction of Minimum-Redundancy Codes", 1952; package-merge: Larmore and Hirschberg, "A
Fast Algorithm for Optimal Length-Limited Huffman Codes", JACM 1990.
"""

from __future__ import annotations

import numpy as np

LONGEST = 12


def code_lengths(counts: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """Optimal code lengths (uint8, 0 where the count is 0) with none longer than `longest`, by package-merge.

    Ties fall to the lower symbol, so equal counts give equal lengths on every machine. At most 2^longest symbols may
    occur (ValueError). A single symbol gets length 1.
    """
    lengths = np.zeros(len(counts), np.uint8)
    used = np.flatnonzero(counts)
    if len(used) > 1 << longest:
        raise ValueError(f"{len(used)} symbols do not fit in codes of {longest} bits")
    if len(used) <= 1:
        lengths[used] = 1
        return lengths
    order = used[np.argsort(counts[used], kind="stable")]
    lengths[order] = _package_merge(counts[order].astype(np.int64), longest)
    return lengths


def _package_merge(weights: np.ndarray, longest: int) -> np.ndarray:
    """Lengths for ascending `weights`. Row l of `leaf` says which items of level l's sorted list are single symbols.

    Level by level the symbols are merged with the pairs ("packages") of the level below; the solution takes the first
    2n - 2 items of the last list, and the packages among them take twice as many items of the list below.
    """
    n = len(weights)
    items, leaf = weights, [np.ones(n, bool)]
    for _ in range(longest - 1):
        packages = items[: len(items) // 2 * 2].reshape(-1, 2).sum(1)
        merged = np.concatenate([weights, packages])
        order = np.argsort(merged, kind="stable")
        items = merged[order]
        leaf.append(order < n)
    lengths, take = np.zeros(n, np.uint8), 2 * n - 2
    for level in reversed(leaf):
        chosen = int(level[:take].sum())
        lengths[:chosen] += 1  # the items are sorted, so the symbols among them are the lightest
        take = 2 * (take - chosen)
    return lengths


def codes(lengths: np.ndarray) -> np.ndarray:
    """Canonical codes: in order of (length, symbol), each the previous plus one, shifted to its length."""
    result, code, previous = np.zeros(len(lengths), np.uint16), 0, 0
    for symbol in sorted(np.flatnonzero(lengths).tolist(), key=lambda s: (lengths[s], s)):
        code <<= int(lengths[symbol]) - previous
        result[symbol], previous, code = code, int(lengths[symbol]), code + 1
    return result


def kraft_holds(lengths: np.ndarray) -> bool:
    """Whether the code uses every bit pattern: sum of 2^-length = 1, or a single symbol of length 1."""
    used = lengths[lengths > 0].astype(np.int64)
    if len(used) == 0 or used.max() > LONGEST:
        return False
    return bool((1 << (LONGEST - used)).sum() == 1 << LONGEST or used.tolist() == [1])


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """The codes of `symbols`, highest bit first, padded with zero bits."""
    table = codes(lengths)
    text = "".join(format(table[s], f"0{lengths[s]}b") for s in symbols.tolist())
    text += "0" * (-len(text) % 8)
    return int(text or "0", 2).to_bytes(len(text) // 8, "big")


def decode(data: bytes, lengths: np.ndarray, count: int) -> np.ndarray:
    """The `count` symbols of `data` as uint16; ValueError where the bytes break FORMAT.md 5.3."""
    if not kraft_holds(lengths):
        raise ValueError("Huffman lengths break Kraft's equality")
    table = {(int(lengths[s]), int(c)): s for s, c in enumerate(codes(lengths)) if lengths[s]}
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).tolist()
    symbols, position = np.empty(count, np.uint16), 0
    for i in range(count):
        length, code = 0, 0
        while (length, code) not in table or length == 0:
            if length == LONGEST or position == len(bits):
                raise ValueError("Huffman payload is too short or holds a code that no symbol has")
            length, code, position = length + 1, code << 1 | bits[position], position + 1
        symbols[i] = table[length, code]
    if len(bits) - position > 7 or any(bits[position:]):
        raise ValueError("Huffman payload is too long")
    return symbols
