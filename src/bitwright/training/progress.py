"""Telling a waiting human how far a training is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitwright.training.history import Epoch


class Progress:
    """The protocol, and the silent one. A caller's own subclass may draw, log or count."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """A task called `label` begins, `done` of `total` units are there already."""

    def update(self, done: int, text: str = "") -> None:
        """`done` units are there now; `text` is the latest news, e.g. the validation error."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of a training has ended; what this raises ends the training."""

    def finish(self) -> None:
        """The task is over, also where it failed."""


class RichProgress(Progress):
    """A bar on stderr that disappears when the task is over."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(label, total=total, completed=done, text="")
        self._bar.start()

    def update(self, done: int, text: str = "") -> None:
        if text:
            self._bar.update(self._task, completed=done, text=text)
        else:
            self._bar.update(self._task, completed=done)

    def finish(self) -> None:
        self._bar.stop()


def default_progress() -> Progress:
    """A bar where somebody watches (stderr is a terminal), silence otherwise."""
    return RichProgress() if sys.stderr.isatty() else Progress()
