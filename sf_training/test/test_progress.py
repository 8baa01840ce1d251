"""Tests of progress output with and without a terminal."""

import io
import queue
import threading
from contextlib import suppress

import pytest
from rich.console import Console

from sf_training import progress
from sf_training.progress import ProgressBar, status


@pytest.fixture
def clock(monkeypatch):
    """Return a function that lets seconds pass and waits until the thread has printed."""
    now, ticks, printing = [0.0], queue.Queue(), []

    def poll(event):
        if printing:
            printing.clear()
            ticks.task_done()
        while not event.is_set():
            with suppress(queue.Empty):
                ticks.get(timeout=0.01)
                printing.append(True)
                now[0] += 1.0
                return False
        return True

    def pass_seconds(count):
        for _ in range(count):
            ticks.put(None)
        ticks.join()

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_ended_after_a_poll", poll)
    return pass_seconds


def log() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def printed(console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_a_log_file_gets_periodic_lines_also_while_one_item_takes_long(clock):
    console = log()
    with ProgressBar("episodes", console=console) as bar:
        task = bar.add_task("", total=40)
        clock(25)
        bar.advance(task, 3)
        clock(15)
    lines = [line for line in printed(console) if line.startswith("episodes: ")]
    assert [line.split(" after")[0] for line in lines] == [
        "episodes: 0 of 40",
        "episodes: 0 of 40",
        "episodes: 3 of 40",
    ]


def test_bytes_are_shown_as_megabytes(clock):
    console = log()
    with ProgressBar("checking", console=console, in_bytes=True) as bar:
        bar.update(bar.add_task("", total=90_000_000), completed=31_000_000)
        clock(8)
    assert "checking: 31 of 90 MB after" in console.file.getvalue()


@pytest.mark.parametrize(("terminal", "disable"), [(True, False), (False, True)])
def test_a_terminal_gets_a_bar_and_a_disabled_bar_prints_nothing(clock, terminal, disable):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with ProgressBar("episodes", console=console, disable=disable) as bar:
        task = bar.add_task("", total=2)
        bar.advance(task)
        assert not [each for each in threading.enumerate() if each.name == "progress"]
    assert "episodes: " not in console.file.getvalue()
    assert ("1/2" in console.file.getvalue()) == terminal


def test_no_thread_is_left_when_the_work_fails(clock):
    for work in (ProgressBar("episodes", console=log()), status(log(), "reading")):
        with pytest.raises(RuntimeError), work:
            raise RuntimeError
    assert not [each for each in threading.enumerate() if each.name == "progress"]


def test_without_a_terminal_a_status_is_a_line_and_more_lines_when_it_takes_long(clock):
    console = log()
    with status(console, "building the model"):
        assert printed(console) == ["building the model ..."]
        clock(21)
    assert printed(console) == [
        "building the model ...",
        "building the model ... 5 s",
        "building the model ... 20 s",
    ]
