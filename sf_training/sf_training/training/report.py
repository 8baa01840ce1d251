"""Command ``report``: compare Spatial Forcing with its controls, with the spread over seeds.

The runs are taken for runs of nano: titles and ``study.json`` name that model.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sf_training.config_file import parse
from sf_training.spatial_forcing.teachers import TEACHERS
from sf_training.training.curves import Row, read_curves

_COLOURS = {"none": "tab:grey", "rgb": "tab:orange", "mean": "tab:green", "random": "tab:red"}
_CONTROLS = ("mean", "random", "rgb")


@dataclass(frozen=True)
class Arguments:
    """Compare finished or running training runs that were evaluated in closed loop."""

    runs: Path
    """Directory of checkpoint directories, each with a report."""
    out: Path
    """Directory for study.csv, study.json, study.md and study.png."""
    threshold: float = 0.85
    """Success rate for the table of steps to reach it."""


@dataclass(frozen=True)
class Curve:
    """Closed-loop results of one run."""

    teacher: str
    seed: int
    rows: tuple[Row, ...]

    def reached(self, threshold: float) -> Row | None:
        """Return the first evaluation with at least ``threshold`` success, or None."""
        return next(
            (row for row in self.rows if row.success is not None and row.success >= threshold), None
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parse(Arguments, argv, "report")
    curves = read_runs(arguments.runs)
    if not curves:
        sys.exit(
            f"report: {arguments.runs}: no run with a closed-loop evaluation; train with"
            " --evaluate-every"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    _write_csv(curves, arguments.out / "study.csv")
    summary = summarise(curves, arguments.threshold)
    (arguments.out / "study.json").write_text(json.dumps(summary, indent=1) + "\n")
    _plot(curves, arguments.threshold, arguments.out / "study.png")
    (arguments.out / "study.md").write_text(_markdown(summary))
    _print(summary)
    return 0


def read_runs(folder: Path) -> list[Curve]:
    """Return all runs below ``folder`` with closed-loop evaluations."""
    curves = []
    for path in sorted(folder.glob("*/report/training.json")):
        settings = json.loads(path.read_text())["settings"]
        rows = tuple(
            row for row in read_curves(path.with_name("curves.csv")) if row.success is not None
        )
        if rows:
            curves.append(Curve(_name(settings), settings["seed"], rows))
    return curves


def _name(settings: dict) -> str:
    """Return the teacher of a run, or the control that replaced it.

    ``rgb`` for a control of pointmap, ``vggt rgb`` for one of another teacher.
    """
    teacher, control = settings["teacher"], settings.get("control", "none")
    if control == "none":
        return teacher
    return control if teacher == "pointmap" else f"{teacher} {control}"


def _label(name: str) -> str:
    if name == "none":
        return "no SF"
    return f"control {name}" if name.split()[-1] in _CONTROLS else f"SF ({name})"


def summarise(curves: list[Curve], threshold: float) -> dict:
    """Return the results of each teacher as plain values.

    Equal processor time is that of the run with the least at its last evaluation.
    """
    budget = min(curve.rows[-1].cpu_s for curve in curves)
    architecture = "nano: plain VLA, FiLM by text, no spatial attention"
    summary: dict[str, Any] = {
        "architecture": architecture,
        "threshold": threshold,
        "equal_cpu_s": budget,
        "teachers": {},
    }
    for teacher, group in _by_teacher(curves).items():
        steps = sorted({row.step for curve in group for row in curve.rows})
        reached = [curve.reached(threshold) for curve in group]
        summary["teachers"][teacher] = {
            "seeds": [curve.seed for curve in group],
            "episodes_per_evaluation": group[0].rows[0].episodes,
            "success_by_step": {
                str(step): [
                    next((row.success for row in curve.rows if row.step == step), None)
                    for curve in group
                ]
                for step in steps
            },
            "success_at_equal_cpu": [_at_cpu(curve, budget) for curve in group],
            "steps_to_threshold": [row.step if row else None for row in reached],
            "cpu_s_to_threshold": [row.cpu_s if row else None for row in reached],
            "cosine_at_end": [curve.rows[-1].cosine for curve in group],
        }
    return summary


def _by_teacher(curves: list[Curve]) -> dict[str, list[Curve]]:
    groups = defaultdict(list)
    for curve in curves:
        groups[curve.teacher].append(curve)
    return {
        name: groups[name]
        for name in sorted(groups, key=lambda name: TEACHERS.index(name.split()[0]))
    }


def _at_cpu(curve: Curve, budget: float) -> float:
    return float(
        np.interp(
            budget,
            [0.0] + [row.cpu_s for row in curve.rows],
            [0.0] + [row.success for row in curve.rows],
        )
    )


def _write_csv(curves: list[Curve], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = (
            "step",
            "cpu_s",
            "success",
            "episodes",
            "wrong_object",
            "validation_error",
            "validation_choice",
            "cosine",
        )
        writer.writerow(["teacher", "seed", *names])
        for curve in curves:
            writer.writerows(
                [curve.teacher, curve.seed, *(getattr(row, name) for name in names)]
                for row in curve.rows
            )


def _plot(curves: list[Curve], threshold: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, constrained_layout=True)
    for axis, name, label in (
        (axes[0], "step", "training steps"),
        (axes[1], "cpu_s", "processor time in training [s]"),
    ):
        for teacher, group in _by_teacher(curves).items():
            colour = _COLOURS.get(
                teacher.split()[-1], "tab:blue" if teacher == "pointmap" else "tab:purple"
            )
            common = min(getattr(curve.rows[-1], name) for curve in group)
            grid = (
                np.array([row.step for row in group[0].rows])
                if name == "step"
                else np.linspace(0, common, 40)
            )
            grid = np.concatenate([[0.0], grid[(grid <= common) & (grid > 0)]])
            values = np.array([_interpolate(curve, name, grid) for curve in group])
            axis.plot(
                grid,
                values.mean(0),
                color=colour,
                label=f"{_label(teacher)} (n={len(group)})",
                linewidth=2,
            )
            axis.fill_between(grid, values.min(0), values.max(0), color=colour, alpha=0.15)
        axis.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("closed-loop success")
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].legend(loc="upper left", fontsize=8)
    figure.suptitle("nano, plain VLA with FiLM: mean over seeds, band from worst to best seed")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _interpolate(curve: Curve, name: str, grid: np.ndarray) -> np.ndarray:
    return np.interp(
        grid,
        [0.0] + [getattr(row, name) for row in curve.rows],
        [0.0] + [row.success for row in curve.rows],
    )


def _rows(summary: dict) -> list[tuple[str, ...]]:
    """Return one line of text cells for each teacher, values of its seeds side by side."""
    last = _last_step(summary)
    rows: list[tuple[str, ...]] = []
    for teacher, entry in summary["teachers"].items():
        at_last = entry["success_by_step"].get(str(last), [])
        rows.append(
            (
                _label(teacher),
                ", ".join(map(str, entry["seeds"])),
                " / ".join("-" if value is None else f"{value:.0%}" for value in at_last),
                " / ".join(f"{value:.0%}" for value in entry["success_at_equal_cpu"]),
                " / ".join(
                    "not reached" if step is None else str(step)
                    for step in entry["steps_to_threshold"]
                ),
                " / ".join(
                    "-" if value is None else f"{value:.2f}" for value in entry["cosine_at_end"]
                ),
            )
        )
    return rows


def _columns(summary: dict) -> tuple[str, ...]:
    at_last, at_cpu = (
        f"success at step {_last_step(summary)}",
        f"success at {summary['equal_cpu_s']:.0f} CPU-s",
    )
    return (
        "teacher",
        "seeds",
        at_last,
        at_cpu,
        f"steps to {summary['threshold']:.0%}",
        "cosine at the end",
    )


def _last_step(summary: dict) -> int:
    """Return the last step at which every teacher was evaluated."""
    return min(
        max(int(step) for step in entry["success_by_step"])
        for entry in summary["teachers"].values()
    )


def _markdown(summary: dict) -> str:
    columns = _columns(summary)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(summary)]
    return "\n".join(lines) + "\n"


def _print(summary: dict) -> None:
    table = Table(title="Spatial Forcing beside its controls (nano)")
    for column in _columns(summary):
        table.add_column(column)
    for row in _rows(summary):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
