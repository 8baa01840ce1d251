"""Plot histograms of state and action columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_ACROSS = 5  # panels in a row
_COLOURS = {"state": "tab:green", "action": "tab:blue"}


def plot_columns(
    columns: Mapping[str, tuple[Sequence[str], np.ndarray]],
    units: Mapping[str, str],
    title: str,
    path: Path,
) -> None:
    """Write a PNG with a histogram of each column, on a logarithmic scale so that rare values show.

    Args:
        columns: "state" and "action" to names (N) and values (..., N).
        units: column name to unit.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    panels = [
        (group, name, index)
        for group, (names, _) in columns.items()
        for index, name in enumerate(names)
    ]
    rows = -(-len(panels) // _ACROSS)
    figure, axes = pyplot.subplots(
        rows,
        _ACROSS,
        figsize=(2.6 * _ACROSS, 0.6 + 2.0 * rows),
        squeeze=False,
        constrained_layout=True,
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (group, name, index) in zip(axes.flat, panels, strict=False):
        axis.hist(
            np.asarray(columns[group][1])[..., index].ravel(),
            bins=60,
            color=_COLOURS[group],
            log=True,
        )
        axis.set_title(f"{group}: {name}", fontsize=9)
        axis.set_xlabel(units.get(name, ""), fontsize=8)
        axis.set_ylim(bottom=0.8)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(4))
        axis.yaxis.set_major_locator(ticker.LogLocator(numticks=5))
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda count, _: f"{count:g}"))
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.tick_params(labelsize=7)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
