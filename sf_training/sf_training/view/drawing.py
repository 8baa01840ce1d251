"""Draw curves and timeline of an episode with matplotlib; players lay a cursor over them."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sf_training.view.episode import Episode
from sf_training.view.page import COLOURS

LEFT, RIGHT = 0.125, 0.985  # start and end of the time axis, as shares of the width
CONTROL = {
    "nobody": "#c9ced6",
    "policy": "#0072b2",
    "teleoperation": "#d55e00",
    "replay": "#009e73",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3af",
    "xtick.color": "#5d6878",
    "ytick.color": "#5d6878",
}
_ROW = 0.52  # inches per joint
_TRACK = 0.2  # inches per stream


def draw(episode: Episode, width: float) -> Figure:
    """Draw one row per joint (measured solid, commanded dashed), then the timeline: a tick for
    every message, and the control source.

    Args:
        width: in inches; the height depends on the number of rows.
    """
    tracks = list(episode.arrivals)
    lower = _TRACK * (len(tracks) + 1 + bool(episode.control))
    heights = [_ROW] * len(episode.joints) + [lower]
    top, bottom, gap = 0.1, 0.38, 0.1
    height = sum(heights) + gap * len(episode.joints) + top + bottom
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        edge = height - top
        for row, size in enumerate(heights):
            axes = figure.add_axes((LEFT, (edge - size) / height, RIGHT - LEFT, size / height))
            edge -= size + gap
            axes.set_xlim(0, episode.duration_s)
            if row < len(episode.joints):
                _joint(axes, episode, row)
            else:
                _timeline(axes, episode, tracks)
    return figure


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG element with searchable text."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :]


def to_pixels(figure: Figure, width: int) -> np.ndarray:
    """Return the figure as (H, width, 3) uint8 RGB."""
    figure.set_dpi(width / figure.get_size_inches()[0])
    figure.set_facecolor("white")
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # set by draw
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _joint(axes: Axes, episode: Episode, row: int) -> None:
    colour = COLOURS[row % len(COLOURS)]
    axes.plot(episode.measured.times, episode.measured.positions[:, row], color=colour, lw=1.3)
    if episode.commanded is not None:
        axes.plot(
            episode.commanded.times,
            episode.commanded.positions[:, row],
            color="#1b2430",
            lw=0.8,
            ls=(0, (3, 2)),
            drawstyle="steps-post",
        )
    low, high = axes.get_ylim()
    if high - low < 0.02:  # do not enlarge the noise of a joint that does not move
        axes.set_ylim((low + high) / 2 - 0.01, (low + high) / 2 + 0.01)
    unit = episode.reader.contract.columns.commands[row].unit
    axes.set_ylabel(
        f"{episode.joints[row]}\n[{unit}]",
        rotation=0,
        ha="right",
        va="center",
        fontsize=8,
        color=colour,
    )
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelbottom=False, labelsize=7, length=2)


def _timeline(axes: Axes, episode: Episode, tracks: list[str]) -> None:
    names = list(tracks)
    for track, name in enumerate(tracks):
        axes.vlines(episode.arrivals[name], track - 0.36, track + 0.36, color="#5d6878", lw=0.6)
    if episode.control:
        track = len(names)
        names.append("control source")
        for begin, end, who in episode.control:
            axes.barh(
                track, end - begin, left=begin, height=0.72, color=CONTROL.get(who, "#8c6d31")
            )
            if end - begin > 0.08 * episode.duration_s:
                axes.text(
                    begin + 0.005 * episode.duration_s,
                    track,
                    who,
                    va="center",
                    fontsize=7,
                    color="white" if who != "nobody" else "#1b2430",
                )
    track = len(names)
    names.append("events")
    free_from = -1.0
    for event in episode.events:
        axes.plot([event.at], [track], marker="v", ms=5, color="#b3261e", clip_on=False)
        if event.at >= free_from:
            text = event.text if len(event.text) < 46 else event.text[:45] + "…"
            late = (
                event.at > 0.75 * episode.duration_s
            )  # else the text would end outside the figure
            at = event.at + (-0.008 if late else 0.008) * episode.duration_s
            axes.text(at, track, text, va="center", ha="right" if late else "left", fontsize=7)
            free_from = event.at + (0.02 + 0.0095 * len(text)) * episode.duration_s
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("time [s]", fontsize=8, labelpad=2)
    axes.tick_params(axis="y", length=0)
