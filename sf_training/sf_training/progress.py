"""Show progress of long work: a bar on a terminal, periodic lines in a log file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_FIRST_LINE_S = 2.0
_LINE_EVERY_S = 15.0


class ProgressBar(Progress):
    """Show a bar with a count and the remaining time.

    Without a terminal it prints a line after 2 s and then every 15 s, so that a log shows that the
    work continues.

    Args:
        title: what is counted.
        console: where to; None makes one.
        disable: shows nothing.
        columns: further columns, in front of the time that is left.
    """

    def __init__(
        self, title: str, *columns: Any, console: Console | None = None, disable: bool = False
    ) -> None:
        parts = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        super().__init__(*parts, console=console, disable=disable)
        self._title = title
        self._next_line = time.monotonic() + _FIRST_LINE_S

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update a task as ``rich.progress.Progress.update`` does."""
        super().update(task_id, **changes)
        self._print_line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task as ``rich.progress.Progress.advance`` does."""
        super().advance(task_id, advance)
        self._print_line(task_id)

    def _print_line(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if self.disable or self.console.is_terminal or now < self._next_line:
            return
        self._next_line = now + _LINE_EVERY_S
        task = next(each for each in self.tasks if each.id == task_id)
        left = "" if task.time_remaining is None else f", about {task.time_remaining:.0f} s left"
        line = (
            f"{self._title}: {task.completed:.0f} of {task.total or 0:.0f} after"
            f" {task.elapsed or 0:.0f} s{left}"
        )
        self.console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def status(console: Console, what: str) -> Iterator[None]:
    """Show ``what`` while the block runs: a spinner on a terminal, a line elsewhere."""
    if not console.is_terminal:
        console.print(f"{what} ...", highlight=False, soft_wrap=True)
        yield
        return
    with console.status(what):
        yield
