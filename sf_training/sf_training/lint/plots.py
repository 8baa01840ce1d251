"""Plot the set of episodes as SVG figures for the report."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from sf_policy_node.motion.arm.limits import JointLimits
from sf_training.lint.collection import Lint
from sf_training.lint.measure import EpisodeMeasure
from sf_training.view.page import COLOURS

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and it can be searched
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3af",
    "axes.labelcolor": "#1b2430",
    "xtick.color": "#5d6878",
    "ytick.color": "#5d6878",
}
_LONGEST_LABEL = 38  # characters
_INSTRUCTIONS = 14
_SIZES = (8, 5.5, 3.5, 2, 1.5, 1, 1, 1)  # of dots, so that overlapping streams stay visible


def figures(result: Lint) -> list[tuple[str, str]]:
    """Return (SVG, caption) of every figure for which there are data."""
    readable = [measure for measure in result.measures if not measure.broken]
    moving = [measure for measure in readable if measure.motion is not None]
    drawn = []
    if readable:
        drawn += [
            _figure(_durations, readable, "Duration of the episodes, by outcome."),
            _figure(
                _instructions, readable, "Episodes per instruction. A rare one is learned badly."
            ),
            _figure(
                _rates,
                readable,
                "Measured rate of each camera in every episode; dashed: the contract's.",
            ),
            _figure(_gaps, readable, "Longest gap of each stream in every episode."),
            _figure(
                _sharpness,
                readable,
                "Each dot is a frame. Left: dark, right: bright; low: blurred or without texture.",
            ),
        ]
    if moving:
        drawn += [
            _figure(
                _ranges,
                moving,
                "Range of the joints within the contract's limits (0 to 1): box 1 to 99 %, line"
                " all samples.",
            ),
            _figure(
                _idle,
                moving,
                "Share of steps in which nothing moves. Episodes on the right teach the arm to"
                " wait.",
            ),
        ]
        if any(len(measure.joints.opening) for measure in moving):
            drawn.append(
                _figure(
                    _gripper, moving, "Opening of the gripper over all steps: 0 closed, 1 open."
                )
            )
    return drawn


def _figure(
    draw: Callable[[Axes, list[EpisodeMeasure]], None], measures: list[EpisodeMeasure], caption: str
) -> tuple[str, str]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 2.7), layout="constrained")
        draw(figure.add_subplot(), measures)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :], caption


def _durations(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    by_outcome: dict[str, list[float]] = defaultdict(list)
    for measure in measures:
        by_outcome[measure.outcome].append(measure.duration_s)
    longest = max(measure.duration_s for measure in measures)
    bins = np.linspace(0, max(longest * 1.02, 0.1), 25).tolist()
    axes.hist(
        list(by_outcome.values()),
        bins,
        stacked=True,
        label=list(by_outcome),
        color=COLOURS[: len(by_outcome)],
    )
    axes.set(xlabel="duration [s]", ylabel="episodes")
    axes.legend(frameon=False, fontsize=9)


def _instructions(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    counts: dict[str, int] = defaultdict(int)
    for measure in measures:
        counts[measure.instruction or "(none)"] += 1
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    shown = ordered[:_INSTRUCTIONS]
    if len(ordered) > len(shown):  # show the rarest too: they matter most
        half = _INSTRUCTIONS // 2
        shown = [*ordered[:half], (f"… {len(ordered) - 2 * half} others", 0), *ordered[-half:]]
    names = [
        text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
        for text, _ in shown
    ]
    ticks = np.arange(len(shown))[::-1]
    axes.barh(ticks, [count for _, count in shown], color=COLOURS[0], height=0.7)
    axes.set_yticks(ticks, names, fontsize=8 if len(shown) < 10 else 7)
    axes.set(xlabel="episodes")


def _rates(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    names = dict.fromkeys(
        stream.name for measure in measures for stream in measure.streams if stream.expected_hz
    )
    for colour, size, name in zip(COLOURS, _SIZES, names, strict=False):
        found = [
            (index, stream)
            for index, measure in enumerate(measures)
            for stream in measure.streams
            if stream.name == name
        ]
        axes.plot(
            [index for index, _ in found],
            [stream.hz for _, stream in found],
            ".",
            ms=size,
            color=colour,
            label=name,
        )
        axes.axhline(found[0][1].expected_hz, color=colour, lw=0.9, ls="--")
    axes.set(xlabel="episode", ylabel="rate [Hz]")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)


def _gaps(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    names = dict.fromkeys(stream.name for measure in measures for stream in measure.streams)
    for colour, size, name in zip(COLOURS, _SIZES, names, strict=False):
        found = [
            (index, stream)
            for index, measure in enumerate(measures)
            for stream in measure.streams
            if stream.name == name
        ]
        gaps = [max(stream.longest_gap_s * 1e3, 0.1) for _, stream in found]
        axes.plot([index for index, _ in found], gaps, ".", ms=size, color=colour, label=name)
    axes.set(xlabel="episode", ylabel="longest gap [ms]", yscale="log")
    _plain_numbers(axes)
    axes.legend(frameon=False, fontsize=8)


def _sharpness(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    cameras: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for measure in measures:
        for camera in measure.cameras:
            cameras[camera.name].append((camera.brightness, camera.sharpness))
    for colour, (name, values) in zip(COLOURS, cameras.items(), strict=False):
        bright, sharp = (np.concatenate(arrays) for arrays in zip(*values, strict=True))
        thin = slice(None, None, -(-len(bright) // 1500))
        axes.plot(
            bright[thin],
            np.maximum(sharp[thin], 0.1),
            ".",
            ms=2.5,
            alpha=0.5,
            color=colour,
            label=f"{name} camera",
        )
    axes.set(
        xlabel="mean brightness (0 to 255)", ylabel="sharpness (log)", xlim=(0, 255), yscale="log"
    )
    _plain_numbers(axes)
    axes.legend(frameon=False, fontsize=9, markerscale=3)


def _ranges(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    contract = measures[0].robot
    same = [measure for measure in measures if contract.fits(measure.robot)]
    low, width = limits_of(same[0])
    positions = (np.concatenate([measure.joints.positions for measure in same]) - low) / width
    extremes = (
        (np.min([measure.joints.lower for measure in same], axis=0) - low) / width,
        (np.max([measure.joints.upper for measure in same], axis=0) - low) / width,
    )
    inner = np.quantile(positions, [0.01, 0.99], axis=0)
    names = contract.command_joints
    ticks = np.arange(len(names))[::-1]
    for tick, first, last, lower, upper, colour in zip(
        ticks, *extremes, *inner, COLOURS * 3, strict=False
    ):
        axes.plot([first, last], [tick, tick], color=colour, lw=1.5)
        axes.barh(tick, max(upper - lower, 0.004), left=lower, height=0.5, color=colour)
    for limit in (0, 1):
        axes.axvline(limit, color="#9aa3af", lw=1)
    axes.set_yticks(ticks, names)
    axes.set(
        xlabel="share of the limits",
        xlim=(min(-0.03, extremes[0].min() - 0.03), max(1.03, extremes[1].max() + 0.03)),
    )


def _idle(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    axes.hist(
        [measure.joints.idle_share for measure in measures],
        np.linspace(0, 1, 21).tolist(),
        color=COLOURS[0],
    )
    axes.set(xlabel="idle share of an episode", ylabel="episodes", xlim=(0, 1))


def _gripper(axes: Axes, measures: list[EpisodeMeasure]) -> None:
    values = np.concatenate(
        [measure.joints.opening for measure in measures if len(measure.joints.opening)]
    )
    axes.hist(
        values,
        np.linspace(min(0.0, values.min()), max(1.0, values.max()), 31).tolist(),
        color=COLOURS[2],
    )
    axes.set(xlabel="opening", ylabel="steps")


def _plain_numbers(axes: Axes) -> None:
    """Label a logarithmic axis with 200 instead of 2 x 10^2."""
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(FormatStrFormatter("%g"))
    axes.tick_params(axis="y", which="minor", labelsize=8)


def limits_of(measure: EpisodeMeasure) -> tuple[np.ndarray, np.ndarray]:
    """Return lower limit and range (J,) of every joint; of a gripper from closed to open."""
    limits = JointLimits.of(measure.robot)
    return limits.lower, limits.upper - limits.lower
