"""Arrays that took long to unpack, kept beside the user's other caches. Losing it costs time, never correctness."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bitwright.files import write_atomic

Arrays = dict[str, np.ndarray]


def unpacked(source: Path, make: Callable[[], Arrays]) -> Arrays:
    """`make()`, or what it gave before for the same `source` (same path, size and time of change).

    Kept in the folder that BITWRIGHT_CACHE names, default ~/.cache/bitwright, as an uncompressed .npz, whose checksums
    show damage. A folder that can't be read or written is passed over silently: everything works, only slower.
    """
    path = _path(source)
    if path is None:
        return make()
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # not there yet, or damaged
    arrays = make()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    with contextlib.suppress(OSError):
        write_atomic(path, buffer.getvalue())
    return arrays


def _path(source: Path) -> Path | None:
    folder = os.environ.get("BITWRIGHT_CACHE")
    try:
        home = Path(folder) if folder else Path.home() / ".cache" / "bitwright"
    except RuntimeError:  # no home directory
        return None
    status = source.stat()
    key = f"{source.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    return home / f"{source.name.split('.')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
