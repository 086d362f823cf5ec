"""A run's folder: which recipe it belongs to, what it holds, and one process at a time."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitwright.errors import BitwrightError
from bitwright.files import write_atomic
from bitwright.recipe import Recipe, difference, load_recipe, parse, read_yaml

MADE_BY_RUNS = ("recipe.yaml", "packed.safetensors", "result.json", "measurements.json", "report.html")
"""The files of a run folder; with the folders of steps and teachers, all that `restart` removes."""


def default_folder(recipe: Recipe) -> Path:
    """runs/NAME or runs/NAME-seedN."""
    return Path("runs") / (recipe.name + (f"-seed{recipe.seed}" if recipe.seed else ""))


def stored_recipe(folder: str | Path) -> Recipe:
    """The recipe of a run folder."""
    path = Path(folder) / "recipe.yaml"
    if not path.is_file():
        raise BitwrightError(f"{folder} is no run: it has no recipe.yaml; `bitwright run` makes one", kind="no-run")
    return parse(read_yaml(path.read_text("utf-8"), str(path)), str(path))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends, however it ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BitwrightError(
                f"another process is running in {folder}; wait for it, or choose another folder with --out",
                kind="locked",
            ) from None
        yield


def identity(recipe: Recipe) -> dict[str, Any]:
    """The part of a resolved recipe that decides the result: all but description and published figures."""
    return {k: v for k, v in recipe.to_dict().items() if k not in ("description", "published")}


def claim(folder: Path, recipe: Recipe, restart: bool) -> None:
    """Make `folder` this recipe's, or refuse; `restart` removes what a run of it left there."""
    written = folder / "recipe.yaml"
    if not written.is_file():
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if others:
            raise BitwrightError(
                f"{folder} holds {', '.join(others[:3])} but no run; choose an empty folder with --out",
                kind="not-empty",
            )
    elif restart:
        _clear(folder)
    else:
        refuse_another(folder, recipe)
    write_atomic(written, recipe.to_yaml())


def refuse_another(folder: Path, recipe: Recipe) -> None:
    """Raise BitwrightError where `folder` holds steps of another recipe; before the first, nothing would be lost."""
    if not (folder / "recipe.yaml").is_file() or not any(_step_folders(folder)):
        return
    raw = read_yaml((folder / "recipe.yaml").read_text("utf-8"), str(folder / "recipe.yaml"))
    with contextlib.suppress(BitwrightError):  # fields that got a default since are filled in
        raw = parse(raw).to_dict()
    changes = difference({k: v for k, v in raw.items() if k not in ("description", "published")}, identity(recipe))
    if changes:
        shown = "\n  ".join(changes[:8] + ([f"and {len(changes) - 8} more"] if len(changes) > 8 else []))
        raise BitwrightError(
            f"{folder} holds a run of another recipe:\n  {shown}\nchoose another folder with --out, or begin again "
            "with --restart",
            kind="another-recipe",
        )


def _clear(folder: Path) -> None:
    for name in MADE_BY_RUNS:
        (folder / name).unlink(missing_ok=True)
    for child in (*_step_folders(folder), folder / "teachers"):
        shutil.rmtree(child, ignore_errors=True)


def _step_folders(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.is_dir() and re.fullmatch(r"\d+-[a-z0-9-]+", p.name)]


def teacher_step(folder: Path, recipe: Recipe, number: int, name: str) -> Path | None:
    """The folder of the step that left the teacher `name` of step `number`; None where no step did.

    `name` is "start", an earlier step, the folder of another run, or a recipe, whose run is in teachers/. Raises
    BitwrightError where there is neither such a run nor such a recipe.
    """
    if name == "start":
        return folder / recipe.labels[number - 1] if number else None
    if name in recipe.labels:
        return folder / name
    run = Path(name) if (Path(name) / "recipe.yaml").is_file() else folder / "teachers" / load_recipe(name).name
    last = stored_recipe(run).last
    return run / last if last else None
