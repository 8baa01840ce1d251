"""Results of a depth probe: rows with their spread over seeds and episodes, a table, and images."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sf_training.spatial_forcing.depth_cells import DepthError

CONSTANT = "one depth for each camera"
MEAN_IMAGE = "mean image"
STATE = "robot state alone"
RGB = "pixels of the patch"
RANDOM = "random weights"
NO_SF = "no SF"
_RESAMPLES = 1000
_CONTROLS = ("mean", "random", "rgb")
_OF_A_SEED = (  # settings in which seeds of one run differ, or that change no weight
    "seed",
    "data",
    "out",
    "save_every",
    "read_ahead",
    "wandb",
    "cache_images",
    "keep_pictures",  # the same in earlier versions
    "fsdp",
    "threads",
    "validate_every",
    "evaluate_every",
    "evaluation_episodes",
    "stop_at",
)


@dataclass(frozen=True)
class Member:
    """One member of a row, for example one seed.

    Attributes:
        label: checkpoint or seed; empty where a row has one member.
        error: on the held-out frames.
        examples: predicted depth (n, V, R, C) [m] of the example frames.
    """

    label: str
    error: DepthError
    examples: np.ndarray


@dataclass
class ProbeReport:
    """Collects rows, and writes them.

    Attributes:
        cameras: names, in the order of V.
        facts: settings and data of the probe; written to the file.
        examples: indices of the held-out frames in the images.
        images: (F, V, 3, H, W) uint8 of all held-out frames.
        depth: (F, V, H, W) [m] of the same, NaN where it does not count.
    """

    cameras: tuple[str, ...]
    facts: dict[str, Any]
    examples: np.ndarray
    images: np.ndarray
    depth: np.ndarray
    rows: dict[str, dict[str, list[Member]]] = field(default_factory=dict)

    def add(self, head: str, name: str, member: Member) -> None:
        """Add a member to a row."""
        self.rows.setdefault(head, {}).setdefault(name, []).append(member)

    def summary(self) -> dict:
        """Return all results as plain values.

        ``explained`` is 1 - MSE / MSE of the mean image. The 95 % intervals come from a bootstrap
        over held-out episodes, with the same draws for all rows. They do not include the variation
        over training seeds, which the members show.
        """
        return {**self.facts, "heads": {head: self._head(rows) for head, rows in self.rows.items()}}

    def _head(self, rows: dict[str, list[Member]]) -> dict:
        floor = rows[MEAN_IMAGE][0].error
        count = len(floor.squared)
        draws = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
        explained = {
            name: np.mean([each.error.explained(floor) for each in members], axis=0)
            for name, members in rows.items()
        }
        drawn = {
            name: np.mean([each.error.explained(floor, draws) for each in members], axis=0)
            for name, members in rows.items()
        }
        found = {}
        for name, members in rows.items():
            found[name] = {
                "explained": self._by_camera(explained[name]),
                "explained_interval_95": self._interval(drawn[name]),
                "rmse_m": self._by_camera(np.mean([each.error.rmse() for each in members], axis=0)),
                "abs_rel": self._by_camera(
                    np.mean([each.error.abs_rel() for each in members], axis=0)
                ),
                "members": [
                    {
                        "label": each.label,
                        "explained": self._by_camera(each.error.explained(floor)),
                        "rmse_m": self._by_camera(each.error.rmse()),
                        "abs_rel": self._by_camera(each.error.abs_rel()),
                    }
                    for each in members
                ],
            }
            if NO_SF in rows and name != NO_SF:
                found[name]["explained_more_than_no_sf"] = self._by_camera(
                    explained[name] - explained[NO_SF]
                )
                found[name]["explained_more_than_no_sf_interval_95"] = self._interval(
                    drawn[name] - drawn[NO_SF]
                )
        return found

    def write(self, folder: Path) -> None:
        """Write ``probe.json``, ``probe.md`` and ``probe_HEAD.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        summary = self.summary()
        (folder / "probe.json").write_text(json.dumps(summary, indent=1) + "\n")
        lines = []
        for head in self.rows:
            columns = self._columns()
            lines += [
                f"{head} head",
                "",
                "| " + " | ".join(columns) + " |",
                "|" + "---|" * len(columns),
            ]
            lines += [
                "| " + " | ".join(cells) + " |" for cells in self._cells(summary["heads"][head])
            ] + [""]
            self._plot(head, folder / f"probe_{head}.png")
        (folder / "probe.md").write_text("\n".join([*lines, self._how()]) + "\n")

    def print(self, console: Console) -> None:
        """Print a table for each head."""
        summary = self.summary()
        for head in self.rows:
            table = Table(title=f"depth from frozen tokens, {head} head", box=None)
            for column in self._columns():
                table.add_column(escape(column), no_wrap=column == "tokens", overflow="fold")
            for cells in self._cells(summary["heads"][head]):
                table.add_row(*cells)
            console.print(table)
        console.print(self._how(), highlight=False, soft_wrap=True)

    def _columns(self) -> list[str]:
        each = [
            f"{what} {camera}"
            for camera in self.cameras
            for what in ("explained", "members", "RMSE [mm]", "AbsRel")
        ]
        return ["tokens", "n", *each]

    def _cells(self, rows: dict) -> list[tuple[str, ...]]:
        found = []
        for name, entry in rows.items():
            line = [name, str(len(entry["members"]))]
            for camera in self.cameras:
                low, high = entry["explained_interval_95"][camera]
                members = [f"{each['explained'][camera]:.2f}" for each in entry["members"]]
                line += [
                    f"{entry['explained'][camera]:.3f} ({low:.2f} to {high:.2f})",
                    " / ".join(members) if len(members) > 1 else "",
                    f"{1000 * entry['rmse_m'][camera]:.1f}",
                    f"{entry['abs_rel'][camera]:.3f}",
                ]
            found.append(tuple(line))
        return found

    def _how(self) -> str:
        facts = self.facts
        return (
            f"Layer {facts['layer']}; fitted to {facts['train']['frames']} frames of"
            f" {facts['train']['episodes']} episodes, evaluated on {facts['held_out']['frames']}"
            f" frames of {facts['held_out']['episodes']} held-out ones. Depth from"
            f" {facts['depth_m'][0]:g} to {facts['depth_m'][1]:g} m in"
            f" {facts['cells'][0]}x{facts['cells'][1]} cells for each camera,"
            f" {facts['counted_share']:.0%} of which count. n: checkpoints, or seeds of random"
            " weights; figures are their mean. Explained: 1 - MSE / MSE of the mean image, in"
            " brackets the 95 % interval over held-out episodes."
        )

    def _by_camera(self, values: np.ndarray) -> dict[str, float]:
        return {
            camera: round(float(value), 5)
            for camera, value in zip(self.cameras, values, strict=True)
        }

    def _interval(self, drawn: np.ndarray) -> dict[str, list[float]]:
        """Return the 95 % interval of draws (n, V), by camera."""
        ends = np.percentile(drawn, [2.5, 97.5], axis=0).T.round(5)
        return {camera: pair.tolist() for camera, pair in zip(self.cameras, ends, strict=True)}

    def _plot(self, head: str, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        shown = [name for name in self.rows[head] if name != CONSTANT]
        panels = [
            (number, view)
            for number in range(len(self.examples))
            for view in range(len(self.cameras))
        ]
        figure, axes = pyplot.subplots(
            len(panels),
            2 + len(shown),
            figsize=(1.55 * (2 + len(shown)), 1.85 * len(panels)),
            squeeze=False,
            constrained_layout=True,
        )
        for line, (number, view) in zip(axes, panels, strict=True):
            frame = self.examples[number]
            truth = self.depth[frame, view]
            low, high = np.nanpercentile(truth, [1, 99]) if np.isfinite(truth).any() else (0.0, 1.0)
            line[0].imshow(self.images[frame, view].transpose(1, 2, 0))
            line[0].set_ylabel(f"{self.cameras[view]}\n{low:.2f} to {high:.2f} m", fontsize=7)
            maps = [truth, *(self.rows[head][name][0].examples[number, view] for name in shown)]
            for axis, values in zip(line[1:], maps, strict=True):
                axis.imshow(values, vmin=low, vmax=high, cmap="viridis_r", interpolation="nearest")
        for axis, title in zip(
            axes[0],
            ["image", "depth", *(_title(self.rows[head][name], name) for name in shown)],
            strict=True,
        ):
            axis.set_title(title, fontsize=7)
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
        title = (
            f"depth from frozen tokens of layer {self.facts['layer']}, {head} head, held-out"
            " episodes"
        )
        figure.suptitle(f"{title}; near is bright, pixels that do not count are white", fontsize=9)
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def trained_how(training: dict, name: str) -> str:
    """Return the row of a checkpoint from its training settings.

    ``name`` where its ``config.json`` has none.
    """
    settings = training.get("settings", {})
    if "teacher" not in settings:
        return name
    teacher, control = settings["teacher"], settings.get("control", "none")
    if control != "none":
        return f"control {control}" if teacher == "pointmap" else f"control {control} of {teacher}"
    if teacher == "none":
        return NO_SF
    return f"control {teacher}" if teacher in _CONTROLS else f"SF ({teacher})"


def row_names(training: Sequence[dict], names: Sequence[str]) -> list[str]:
    """Return the row of each checkpoint: seeds of one run share a row, other settings do not.

    Args:
        training: ``training`` in the ``config.json`` of each checkpoint.
        names: of the checkpoints' folders.

    Returns:
        For each the name of :func:`trained_how`, with the settings that differ between checkpoints
        of that name.
    """
    found = [trained_how(each, name) for each, name in zip(training, names, strict=True)]
    flat_settings = [_flat_settings(each) for each in training]
    result = []
    for name, own in zip(found, flat_settings, strict=True):
        alike = [other for each, other in zip(found, flat_settings, strict=True) if each == name]
        keys = sorted({key for each in alike for key in each})
        apart = [key for key in keys if len({str(each.get(key)) for each in alike}) > 1]
        more = ", ".join(f"{key} {own.get(key)}" for key in apart)
        result.append(f"{name}, {more}" if more else name)
    return result


def _flat_settings(training: dict) -> dict[str, Any]:
    """Return the settings of a run by dotted name, without those that differ between its seeds."""

    def flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            elif prefix or key not in _OF_A_SEED:
                yield f"{prefix}{key}", value

    return dict(flat(training.get("settings", {})))


def _title(members: Sequence[Member], name: str) -> str:
    label = f" ({members[0].label})" if members[0].label else ""
    return textwrap.fill(name + label, 16)
