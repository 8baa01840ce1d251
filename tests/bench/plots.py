"""Draw the figures as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from bench.methods import DESCRIPTIONS
from bench.replay import COMMAND_S, Motions, jerk_of
from matplotlib import pyplot

_COLOURS = dict(
    zip(
        DESCRIPTIONS,
        (
            f"tab:{name}"
            for name in ["blue", "cyan", "red", "pink", "orange", "brown", "olive", "green"]
        ),
        strict=True,
    )
)


def plot_example(path: Path, examples: Mapping[str, Motions], joints: Sequence[str]) -> None:
    """Draw one rollout by each method.

    Shown are the joint that moves most, commanded and true, and the jerk of the commands.
    """
    first = next(iter(examples.values()))
    joint = int(np.ptp(first.commanded, axis=0).argmax())
    figure, axes = pyplot.subplots(
        2, len(examples), figsize=(4 * len(examples), 6), sharex=True, sharey="row", squeeze=False
    )
    for column, (method, motions) in enumerate(examples.items()):
        above, below = axes[:, column]
        times = COMMAND_S * np.arange(len(motions.commanded))
        above.plot(times, motions.commanded[:, joint], color=_COLOURS[method], label="commanded")
        above.plot(
            motions.true_s * np.arange(len(motions.true)),
            motions.true[:, joint],
            "k--",
            linewidth=0.8,
            label="arm",
        )
        jerk, begin = jerk_of(motions.commanded, COMMAND_S)
        below.plot(
            begin + COMMAND_S * np.arange(len(jerk)),
            jerk[:, joint] / 1e3,
            color=_COLOURS[method],
            linewidth=0.7,
        )
        for axis in (above, below):
            axis.grid(alpha=0.3)
            for border in motions.borders:
                axis.axvline(border, color="grey", linewidth=0.6, linestyle=":")
        above.set_title(DESCRIPTIONS[method], fontsize=9)
        below.set_xlabel("s (dotted: a chunk arrives)")
    axes[0, 0].set_ylabel(f"{joints[joint]} [rad]")
    axes[1, 0].set_ylabel("commanded jerk [1000 rad/s³]")
    axes[0, 0].legend(fontsize=8)
    _save(figure, path)


def plot_joins(path: Path, figures_of: Mapping[str, Mapping[str, float]], borders: int) -> None:
    """Draw jump and jerk at borders, one bar per method."""
    shown = {
        "border_jump_p50": "border jump, commanded, median [rad]",
        "border_jerk_rms_commanded": "border jerk, commanded, RMS [rad/s³]",
        "border_jerk_rms_true": "border jerk of the arm, RMS [rad/s³]",
    }
    figure, axes = pyplot.subplots(1, len(shown), figsize=(14, 4.2))
    for axis, (name, title) in zip(axes, shown.items(), strict=True):
        values = [each[name] for each in figures_of.values()]
        bars = axis.barh(
            list(figures_of), values, color=[_COLOURS[method] for method in figures_of]
        )
        axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 1.2 * max(values))
        axis.invert_yaxis()
        if axis is not axes[0]:
            axis.set_yticklabels([])
    figure.suptitle(f"the same chunks with the same delays, {borders} borders", fontsize=10)
    _save(figure, path)


def plot_success(
    path: Path, shares: Mapping[str, Mapping[float, tuple[float, float, float]]], n: int
) -> None:
    """Draw success over delay with intervals.

    ``shares``: method -> delay [s] -> (share, low, high).
    """
    figure, axis = pyplot.subplots(figsize=(8, 4.8))
    for number, (method, by_delay) in enumerate(shares.items()):
        delays = 1e3 * np.array(list(by_delay)) + 4 * (
            number - len(shares) / 2
        )  # offset, so that the intervals do not overlap
        share, low, high = np.array(list(by_delay.values())).T
        axis.errorbar(
            delays,
            share,
            [share - low, high - share],
            fmt="o-",
            capsize=3,
            color=_COLOURS[method],
            label=DESCRIPTIONS[method],
            markersize=4,
        )
    axis.set(
        xlabel="delay from observation to use of the chunk [ms]",
        ylabel=f"picked, of {n} seeds each",
        ylim=(-0.03, 1.03),
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def plot_jitter(path: Path, deviations: Mapping[str, np.ndarray]) -> None:
    """Draw how many command periods exceed each deviation.

    ``deviations``: rate and place -> |period - nominal| [ms].
    """
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for name, values in deviations.items():
        ordered = np.sort(values)
        share = 1 - np.arange(len(ordered)) / len(ordered)
        axis.loglog(np.maximum(ordered, 1e-4), share, label=f"{name}, n = {len(ordered)}")
    axis.set(xlabel="|period - nominal| [ms]", ylabel="share of periods that are off by more")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    _save(figure, path)


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
