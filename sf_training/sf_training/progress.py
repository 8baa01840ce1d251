"""Show progress of long work: a bar on a terminal, periodic lines in a log file or a pipe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_FIRST_LINE_S = 5.0
_LINE_EVERY_S = 15.0
_POLL_S = 1.0
_MEGABYTE = 1e6


class ProgressBar(Progress):
    """Show a bar with a count and the remaining time.

    Without a terminal it prints a line after 5 s and then every 15 s, also while a single item
    takes long, so that a log shows that the work continues.

    Args:
        title: what is counted.
        console: where to; None makes one.
        disable: shows nothing.
        in_bytes: counts bytes; lines show megabytes.
        transient: removes the bar from the terminal at the end.
        columns: further columns, in front of the time that is left.
    """

    def __init__(
        self,
        title: str,
        *columns: Any,
        console: Console | None = None,
        disable: bool = False,
        in_bytes: bool = False,
        transient: bool = False,
    ) -> None:
        parts = (
            TextColumn(title),
            BarColumn(),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        super().__init__(*parts, console=console, disable=disable, transient=transient)
        self._title = title
        self._scale, self._unit = (_MEGABYTE, " MB") if in_bytes else (1.0, "")
        self._lines = _Lines(self._print_line)

    def start(self) -> None:
        """Start as ``rich.progress.Progress.start`` does."""
        super().start()
        if not self.disable and not self.console.is_terminal:
            self._lines.start()

    def stop(self) -> None:
        """Stop as ``rich.progress.Progress.stop`` does."""
        self._lines.stop()
        super().stop()

    def _print_line(self) -> None:
        task = next((each for each in self.tasks if not each.finished), None)
        if task is None:
            return
        left = "" if task.time_remaining is None else f", about {task.time_remaining:.0f} s left"
        line = (
            f"{self._title}: {task.completed / self._scale:.0f} of"
            f" {(task.total or 0) / self._scale:.0f}{self._unit} after {task.elapsed or 0:.0f} s"
            f"{left}"
        )
        self.console.print(line, highlight=False, soft_wrap=True)


class _Lines:
    """Calls a function after 5 s and then every 15 s, from a thread of its own."""

    def __init__(self, print_line: Callable[[], None]) -> None:
        self._print_line, self._ended = print_line, threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if there is one."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        next_line = time.monotonic() + _FIRST_LINE_S
        while not _ended_after_a_poll(self._ended):
            now = time.monotonic()
            if now >= next_line:
                next_line = now + _LINE_EVERY_S
                self._print_line()


def _ended_after_a_poll(event: threading.Event) -> bool:
    """Wait for one poll period at most; return whether the event is set. Tests replace it."""
    return event.wait(_POLL_S)


@contextmanager
def counted(
    console: Console | None, title: str, total: int, *columns: Any
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yield the function that takes the number of items done.

    Args:
        console: None shows nothing.
        columns: as for :class:`ProgressBar`.
    """
    with ProgressBar(title, *columns, console=console, disable=console is None) as bar:
        task: TaskID = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def status(console: Console, what: str) -> Iterator[None]:
    """Show ``what`` while the block runs: a spinner on a terminal, lines elsewhere."""
    if console.is_terminal:
        with console.status(what):
            yield
        return
    begin = time.monotonic()

    def print_line(more: str = "") -> None:
        console.print(f"{what} ...{more}", highlight=False, soft_wrap=True)

    print_line()
    lines = _Lines(lambda: print_line(f" {time.monotonic() - begin:.0f} s"))
    lines.start()
    try:
        yield
    finally:
        lines.stop()
