"""Plot of open-loop errors over time ahead and by column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.evaluation.chunk_errors import (
    BASELINES,
    POLICY,
    EpisodeErrors,
    interval,
    overall,
    units,
)

_COLOURS = {POLICY: "tab:blue", BASELINES[0]: "tab:grey", BASELINES[1]: "tab:orange"}


def plot_open_loop(
    contract: Contract, episodes: Sequence[EpisodeErrors], title: str, path: Path
) -> None:
    """Plot errors as PNG, one row of panels for each unit.

    Left: error over time ahead; right: error by column.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    of_column = units(contract)
    units_shown = list(dict.fromkeys(of_column))
    ahead = contract.action.step_s * np.arange(1, contract.action.horizon + 1)
    means = {name: overall(episodes, name) for name in _COLOURS}
    figure, axes = pyplot.subplots(
        len(units_shown),
        2,
        figsize=(10, 0.6 + 2.9 * len(units_shown)),
        squeeze=False,
        constrained_layout=True,
    )
    for (over_time, by_column), unit in zip(axes, units_shown, strict=True):
        chosen = [index for index, each in enumerate(of_column) if each == unit]
        names = [contract.action.names[index] for index in chosen]
        for number, (predictor, colour) in enumerate(_COLOURS.items()):
            table = means[predictor][:, chosen] * unit.factor
            over_time.plot(ahead, table.mean(1), color=colour, marker=".", label=predictor)
            by_column.bar(
                np.arange(len(names)) + 0.27 * (number - 1),
                table.mean(0),
                0.25,
                color=colour,
                label=predictor,
            )
        bounds = interval(episodes, [each.errors[POLICY][:, chosen].mean(1) for each in episodes])
        if bounds is not None:
            over_time.fill_between(
                ahead,
                *(bounds * unit.factor),
                color=_COLOURS[POLICY],
                alpha=0.2,
                label="95 % over episodes",
            )
        by_column.set_xticks(range(len(names)), names)
        over_time.set_xlabel("seconds after the observation")
        for axis in (over_time, by_column):
            axis.set_ylabel(f"mean error [{unit.shown}]")
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
