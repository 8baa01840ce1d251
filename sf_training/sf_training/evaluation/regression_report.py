"""A comparison of two checkpoints on recorded episodes, as tables and as a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sf_policy_node.contract import Contract
from sf_training.evaluation.chunk_errors import units
from sf_training.evaluation.verdict import Comparison, Tolerances

NO_MODEL = "no model"
_SHOWN = 20  # episodes in the table, the most changed ones


def print_comparison(
    contract: Contract,
    policy: str,
    baseline: str | None,
    found: Comparison,
    apart: np.ndarray | None,
    console: Console,
) -> None:
    """One table of columns and one of episodes.

    Args:
        baseline: identity of the earlier checkpoint; None without one.
        apart: (A,) mean distance between the chunks of the two, where both ran.
    """
    console.print(
        f"now: {policy}   before:"
        f" {baseline or 'the better of staying still and going on as before'}",
        soft_wrap=True,
        highlight=False,
    )
    table = Table(
        title="mean absolute error against what was done",
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
    kinds = list(dict.fromkeys(units(contract)))
    order = sorted(found.episodes, key=lambda each: (not each.worse, -each.growth))
    rest = len(order) - _SHOWN
    table = Table(
        title="episodes: error before -> now, the most worsened first",
        caption=f"and {rest} more, in the JSON" if rest > 0 else None,
    )
    table.add_column("episode", no_wrap=True)
    table.add_column("instruction", overflow="ellipsis", no_wrap=True, max_width=22)
    for kind in kinds:
        table.add_column(kind.shown, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in order[:_SHOWN]:
        cells = [
            f"{each.before[kind.name] * kind.factor:.2f} -> {each.now[kind.name] * kind.factor:.2f}"
            for kind in kinds
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
    """PNG: each episode's error before and now, a panel for each unit, with the line above which an
    episode is worse.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(units(contract)))
    figure, axes = pyplot.subplots(
        1, len(kinds), figsize=(5 * len(kinds), 4.6), squeeze=False, constrained_layout=True
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        before = np.array([each.before[kind.name] for each in found.episodes])
        now = np.array([each.now[kind.name] for each in found.episodes])
        worse = np.array([kind.name in each.worse for each in found.episodes])
        end = 1.05 * max(before.max(), now.max(), 1e-9)
        line = np.linspace(0, end, 100)
        axis.plot(
            line * kind.factor, line * kind.factor, color="grey", linewidth=0.8, label="the same"
        )
        if baseline is not None:
            limit = line + np.maximum(tolerances.episode * line, tolerances.floors[kind.name])
            axis.plot(
                line * kind.factor,
                limit * kind.factor,
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
                places = before[chosen] * kind.factor, now[chosen] * kind.factor
                axis.scatter(*places, s=16, color=colour, label=f"{chosen.sum()} {label}")
        axis.set_xlim(0, end * kind.factor)
        axis.set_ylim(0, end * kind.factor)
        axis.set_xlabel(
            f"{baseline or 'better of staying still and going on as before'} [{kind.shown}]"
        )
        axis.set_ylabel(f"{policy} [{kind.shown}]")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle("mean absolute error of each episode's chunks against what was done")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
