"""Tests of progress output with and without a terminal."""

import io

import pytest
from rich.console import Console

from sf_training import progress
from sf_training.progress import ProgressBar, status


@pytest.mark.parametrize(
    "step", [lambda bar, task: bar.advance(task), lambda bar, task: bar.update(task, advance=1)]
)
def test_a_log_file_gets_periodic_lines(monkeypatch, step):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with ProgressBar("episodes", console=console) as bar:
        task = bar.add_task("", total=40)
        for _ in range(40):
            now[0] += 1.0
            step(bar, task)
        lines = [
            line for line in console.file.getvalue().splitlines() if line.startswith("episodes: ")
        ]
    assert [line.split(" after")[0] for line in lines] == [
        "episodes: 2 of 40",
        "episodes: 17 of 40",
        "episodes: 32 of 40",
    ]


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ProgressBar("episodes", console=console) as bar:
        task = bar.add_task("", total=2)
        now[0] += 60.0
        bar.advance(task)
    assert "episodes: 1 of 2" not in console.file.getvalue() and "1/2" in console.file.getvalue()


def test_without_a_terminal_a_status_is_a_line():
    console = Console(file=io.StringIO(), force_terminal=False)
    with status(console, "building the model"):
        pass
    assert console.file.getvalue() == "building the model ...\n"
