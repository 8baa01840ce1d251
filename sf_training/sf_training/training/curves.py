"""Curves of one run: a CSV that survives a kill, tensorboard beside it, and a plot."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of ``curves.csv``; empty where a value was not measured at that step."""

    step: int
    cpu_s: float
    """Processor time spent in training steps [s]."""
    wall_s: float
    """Wall time since the start [s], without the time between a kill and the resumption."""
    action_loss: float | None = None
    cosine: float | None = None
    """Cosine between projected student tokens and targets, on training batches."""
    validation_error: float | None = None
    """Mean absolute error on held-out episodes [m or rad]."""
    validation_choice: float | None = None
    """Instruction accuracy: share of held-out labels for which the chunk of their own
    instruction is the closest.
    """
    success: float | None = None
    """Closed-loop success rate in the simulator."""
    episodes: int | None = None
    wrong_object: int | None = None


class Curves:
    """Writes rows to ``curves.csv`` and to tensorboard under ``tensorboard``, both in ``folder``.

    The CSV is written anew with every row, so that it is complete after a kill.

    Args:
        resume_step: rows of an existing CSV are kept up to this step; 0: it is overwritten.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "curves.csv"
        self.rows = (
            [row for row in read_curves(self._path) if row.step <= resume_step]
            if resume_step
            else []
        )
        self._write()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step or None)

    def add(self, row: Row) -> None:
        """Add one row to both."""
        self.rows.append(row)
        self._write()
        for name, value in asdict(row).items():
            if value is not None and name != "step":
                self._board.add_scalar(name, value, row.step)
        self._board.flush()

    def close(self) -> None:
        """Close tensorboard's file."""
        self._board.close()

    def _write(self) -> None:
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(
                {name: "" if value is None else value for name, value in asdict(row).items()}
                for row in self.rows
            )
        os.replace(fresh, self._path)


def read_curves(path: Path) -> list[Row]:
    """Return the rows of a ``curves.csv``; none where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> Row:
    integers = {"step", "episodes", "wrong_object"}
    values: dict[str, Any] = {
        name: None if text == "" else (int if name in integers else float)(text)
        for name, text in line.items()
    }
    return Row(**values)


def plot_curves(rows: list[Row], path: Path, title: str, unit: str = "mm") -> None:
    """Plot losses, validation and success over steps as PNG.

    ``unit`` (mm or mrad) is that of the error.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "action loss (normalised)": ("action_loss",),
        "cosine with the teacher": ("cosine",),
        f"validation error [{unit}]": ("validation_error",),
        "share": ("validation_choice", "success"),
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for axis, (label, names) in zip(axes.flat, panels.items(), strict=True):
        for name in names:
            scale = 1000.0 if name == "validation_error" else 1.0
            points = [
                (row.step, scale * getattr(row, name))
                for row in rows
                if getattr(row, name) is not None
            ]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if len(names) > 1 and axis.lines:
            axis.legend()
            axis.set_ylim(0, 1.02)
        if not axis.lines:
            axis.text(
                0.5,
                0.5,
                "not used",
                ha="center",
                va="center",
                transform=axis.transAxes,
                color="grey",
            )
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
