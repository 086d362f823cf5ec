"""Seeds that depend on what they are for, so that no random state has to be saved."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, e.g. `derive_seed(0, "2-prune/train-1", 7)` for epoch 7 of that training.

    The first 63 bits of SHA-256 over the parts' text: equal on every machine, independent between purposes.
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
