"""Comparison of two checkpoints on recorded episodes as tables and a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sf_policy_node.contract import Contract
from sf_training.evaluation.chunk_errors import units
from sf_training.evaluation.verdict import Comparison, Tolerances

_SHOWN = 20  # episodes in the table, the most changed ones


def print_comparison(
    contract: Contract,
    policy: str,
    baseline: str | None,
    found: Comparison,
    apart: np.ndarray | None,
    console: Console,
) -> None:
    """Print a table of columns and a table of episodes.

    Args:
        baseline: identity of the earlier checkpoint; None without one.
        apart: (A,) mean distance between the chunks of both checkpoints; None unless both ran.
    """
    console.print(
        f"now: {policy}   before:"
        f" {baseline or 'the better of holding position and continuing the motion'}",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(
        title="mean absolute error against the recorded actions",
        caption="change: 95 % interval of now - before, over episodes",
    )
    for column in ("column", "unit", "before", "now", "ratio", "change", "apart", ""):
        table.add_column(
            column, justify="left" if column in ("column", "unit", "") else "right", no_wrap=True
        )
    for index, each in enumerate(found.columns):
        factor = each.unit.factor
        change = (
            "-"
            if each.change_95 is None
            else f"{each.change_95[0] * factor:+.2f} to {each.change_95[1] * factor:+.2f}"
        )
        table.add_row(
            each.name,
            each.unit.shown,
            f"{each.before * factor:.2f}",
            f"{each.now * factor:.2f}",
            f"{each.now / each.before:.2f}" if each.before else "-",
            change,
            "-" if apart is None else f"{apart[index] * factor:.2f}",
            "[red]worse[/]" if each.worse else "",
        )
    console.print(table)
    console.print(_episodes(contract, found))
    if found.left_out:
        console.print(
            f"{found.left_out} episodes have no counterpart in the baseline and were left out of"
            " the comparison"
        )


def _episodes(contract: Contract, found: Comparison) -> Table:
    units_shown = list(dict.fromkeys(units(contract)))
    order = sorted(found.episodes, key=lambda each: (not each.worse, -each.growth))
    rest = len(order) - _SHOWN
    table = Table(
        title="episodes: error before -> now, the most worsened first",
        caption=f"and {rest} more, in the JSON" if rest > 0 else None,
    )
    table.add_column("episode", no_wrap=True)
    table.add_column("instruction", overflow="ellipsis", no_wrap=True, max_width=22)
    for unit in units_shown:
        table.add_column(unit.shown, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in order[:_SHOWN]:
        cells = [
            f"{each.before[unit.name] * unit.factor:.2f} -> {each.now[unit.name] * unit.factor:.2f}"
            for unit in units_shown
        ]
        table.add_row(each.name, each.instruction, *cells, "[red]worse[/]" if each.worse else "")
    return table


def plot_comparison(
    contract: Contract,
    policy: str,
    baseline: str | None,
    found: Comparison,
    tolerances: Tolerances,
    path: Path,
) -> None:
    """Plot each episode's error before and now as PNG, one panel for each unit.

    A line shows the error above which an episode is worse.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    units_shown = list(dict.fromkeys(units(contract)))
    figure, axes = pyplot.subplots(
        1,
        len(units_shown),
        figsize=(5 * len(units_shown), 4.6),
        squeeze=False,
        constrained_layout=True,
    )
    for axis, unit in zip(axes[0], units_shown, strict=True):
        before = np.array([each.before[unit.name] for each in found.episodes])
        now = np.array([each.now[unit.name] for each in found.episodes])
        worse = np.array([unit.name in each.worse for each in found.episodes])
        end = 1.05 * max(before.max(), now.max(), 1e-9)
        line = np.linspace(0, end, 100)
        axis.plot(
            line * unit.factor, line * unit.factor, color="grey", linewidth=0.8, label="the same"
        )
        if baseline is not None:
            limit = line + np.maximum(tolerances.episode * line, tolerances.floors[unit.name])
            axis.plot(
                line * unit.factor,
                limit * unit.factor,
                color="tab:red",
                linewidth=0.8,
                linestyle="--",
                label="tolerance of an episode",
            )
        for chosen, colour, label in (
            (~worse, "tab:blue", "episodes"),
            (worse, "tab:red", "worse"),
        ):
            if chosen.any():
                points = before[chosen] * unit.factor, now[chosen] * unit.factor
                axis.scatter(*points, s=16, color=colour, label=f"{chosen.sum()} {label}")
        axis.set_xlim(0, end * unit.factor)
        axis.set_ylim(0, end * unit.factor)
        axis.set_xlabel(
            f"{baseline or 'better of holding position and continuing the motion'} [{unit.shown}]"
        )
        axis.set_ylabel(f"{policy} [{unit.shown}]")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle("mean absolute error of each episode's chunks against the recorded actions")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
