"""Where a dataset's files lie on this machine, and the errors when they don't or are not what they should be."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitwright.errors import BitwrightError


@dataclass(frozen=True)
class Place:
    """The folders in which the files of dataset `name` are looked for.

    They are `root`/`name` and `root` itself; `root` is the argument of `load_dataset`, else the environment variable
    BITWRIGHT_DATA. With `verify`, known files must have their published checksum.
    """

    name: str
    root: str | os.PathLike[str] | None = None
    verify: bool = True

    @property
    def folders(self) -> list[Path]:
        root = self.root if self.root is not None else os.environ.get("BITWRIGHT_DATA")
        return [Path(root).expanduser() / self.name, Path(root).expanduser()] if root else []

    def find(self, *names: str, home: str) -> Path:
        """The first of the file names that exists in one of the folders; `home` is where the public can get it."""
        paths = [folder / name for folder in self.folders for name in names]
        for path in paths:
            if path.is_file():
                return path
        looked = (
            "looked for " + ", ".join(map(str, paths)) if paths else "no folder to look in: BITWRIGHT_DATA is not set"
        )
        raise BitwrightError(
            f"dataset {self.name!r}: found no {' or '.join(names)}; {looked}. Get it from {home}, put it into a folder "
            f"{self.name}/ and set BITWRIGHT_DATA (or root=) to the folder that holds {self.name}/",
            kind="missing-data",
        )

    def read(self, path: Path) -> bytes:
        """The bytes of a file, unpacked if its name ends in .gz."""
        try:
            if path.suffix != ".gz":
                return path.read_bytes()
            with gzip.open(path) as stream:
                return stream.read()
        except (EOFError, zlib.error, OSError) as error:
            raise self.damaged(path, str(error) or type(error).__name__) from None

    def check_md5(self, path: Path, data: bytes | memoryview, expected: str | None) -> None:
        """Compare with the published MD5 (protection against damage, not against malice); None is an unknown file."""
        if not self.verify or expected is None:
            return
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != expected:
            raise self.damaged(
                path,
                f"its content has MD5 {found}, expected {expected}",
                "or pass verify=False if you changed it yourself",
            )

    def damaged(self, path: Path | str, what: str, remedy: str = "") -> BitwrightError:
        """The error for a file that is there but can't be used."""
        return BitwrightError(
            f"dataset {self.name!r}: {path} is damaged or not what its name says: {what}; get the file again"
            + (f", {remedy}" if remedy else ""),
            kind="damaged-data",
        )


def known(table: Mapping[str, str], path: Path) -> str | None:
    """The published checksum of a file by its name without .gz, None if it is not in the table."""
    return table.get(path.name.removesuffix(".gz"))
