"""``sf_training stats``: summarise a data set before training: episodes, instructions and column
ranges.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sf_policy_node.contract import ColumnKind, Contract, ContractError, load_contract
from sf_policy_node.perception.robot_state import state_names
from sf_training.config_file import parse, print_settings
from sf_training.data.episode_reader import BagError
from sf_training.data.opening import VERDICTS
from sf_training.data.statistics import ColumnStatistics
from sf_training.data.stats_plot import plot_columns

if TYPE_CHECKING:
    from sf_training.training.training_set import TrainingSet

_IMAGE_SIZE = 96  # of the model `nano`, so that its training finds these images in the cache
_INSTRUCTIONS = 15  # rows of the table; the JSON holds all


@dataclass(frozen=True)
class Arguments:
    """Count episodes, frames and instructions, and show the range of every state and action column.

    Look for: a dead column (it never moves, so nothing about it can be learned), a column whose
    largest value is far beyond its 99 % quantile (a glitch), and instructions with few labels.

    $ python3 -m sf_training stats --data out/demos
    """

    data: Path
    """Directory of episode bags."""
    contract: Path | None = None
    """The robot's contract; default the one in the first bag. Bags of other recorders need one with
    a section `bags`.
    """
    out: Path = Path("out/stats/stats.json")
    """All figures; a plot of the columns is written beside it."""
    strict: bool = False
    """Stop at the first unusable episode or anomaly; otherwise list and exclude such episodes."""
    verdicts: tuple[str, ...] = VERDICTS
    """Episodes with another verdict of the recorder are left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    from sf_training.training.settings import TrainingError

    arguments = parse(Arguments, argv, "stats")
    console = Console()
    print_settings(arguments, console)
    try:
        stats(arguments, console)
    except (BagError, ContractError, TrainingError, OSError) as error:
        sys.exit(f"stats: {error}")
    return 0


def stats(arguments: Arguments, console: Console) -> dict:
    """Print tables, write JSON and a plot; return the content of the JSON."""
    from sf_training.training.training_set import load_training_set

    given = load_contract(arguments.contract) if arguments.contract else None
    contract, data = load_training_set(
        arguments.data,
        _IMAGE_SIZE,
        console,
        contract=given,
        verdicts=arguments.verdicts,
        strict=arguments.strict,
        depth=False,
    )
    columns = {
        "state": (state_names(contract), data.states),
        "action": (contract.action.names, data.label_chunk),
    }
    labels = Counter(data.texts[text] for text in data.label_text.tolist())
    summary = {
        "settings": json.loads(json.dumps(dataclasses.asdict(arguments), default=str)),
        "episodes": summarise_episodes(data),
        "left_out": {str(entry.path): entry.reason for entry in data.left_out},
        "notes": data.notes,
        "frames": len(data.states),
        "labels": len(data.label_frame),
        "instructions": dict(labels.most_common()),
        **{group: describe(names, values) for group, (names, values) in columns.items()},
        "effort": {} if data.efforts is None else describe_efforts(contract, data.efforts),
    }
    _print(summary, contract, console)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(summary, indent=1) + "\n")
    plot = arguments.out.with_suffix(".png")
    plot_columns(
        columns,
        _column_units(contract),
        f"{arguments.data}: {len(data.states)} frames, {len(data.label_frame)} labels",
        plot,
    )
    console.print(f"figures: {arguments.out}   plot: {plot}", soft_wrap=True, highlight=False)
    return summary


def summarise_episodes(data: TrainingSet) -> dict:
    """Return the number of episodes by outcome and by operator, and statistics of their duration
    [s].
    """
    seconds = [source.seconds for source in data.sources]
    return {
        "n": sum(data.outcomes.values()),
        "used": len(seconds),
        "left_out": len(data.left_out),
        "outcomes": dict(data.outcomes),
        "operators": dict(
            Counter(source.operator or "(not named)" for source in data.sources).most_common()
        ),
        "seconds": round(sum(seconds), 3),
        "seconds_median": round(float(np.median(seconds)), 3),
        "seconds_shortest": round(min(seconds), 3),
        "seconds_longest": round(max(seconds), 3),
    }


def describe(names: Sequence[str], values: np.ndarray) -> dict[str, dict]:
    """Return statistics and extremes of each column of (..., N) values, by its name."""
    found = ColumnStatistics.from_values(values, names)
    flat = np.asarray(values).reshape(-1, len(names))
    table = {key: column for key, column in vars(found).items() if key != "names"} | {
        "min": flat.min(0),
        "max": flat.max(0),
    }
    return {
        name: {key: column[index].item() for key, column in table.items()}
        for index, name in enumerate(names)
    }


def describe_efforts(contract: Contract, efforts: np.ndarray) -> dict[str, dict]:
    """Return statistics of the measured efforts, as :func:`describe`, of each joint that has some;
    ``frames`` is the number of frames with an effort.

    Args:
        efforts: (F, J), NaN where unknown.
    """
    found = {}
    for name, column in zip(contract.command_joints, np.asarray(efforts, float).T, strict=True):
        known = column[np.isfinite(column)]
        if len(known):
            found[name] = describe([name], known[:, None])[name] | {"frames": len(known)}
    return found


def _column_units(contract: Contract) -> dict[str, str]:
    """Return the unit of every state and action column, by its name."""
    columns = (*contract.columns.state, *contract.columns.action)
    return {
        column.name: "0 to 1" if column.kind is ColumnKind.GRIPPER else column.unit
        for column in columns
    }


def _print(summary: dict, contract: Contract, console: Console) -> None:
    episodes = summary["episodes"]
    left = f", {episodes['left_out']} left out" if episodes["left_out"] else ""
    lines = [
        f"{episodes['n']} episodes ("
        + ", ".join(f"{count} {name}" for name, count in episodes["outcomes"].items())
        + f"){left}"
    ]
    lines.append(
        f"{episodes['seconds'] / 60:.1f} min (median {episodes['seconds_median']:.1f} s, "
        f"{episodes['seconds_shortest']:.1f} to {episodes['seconds_longest']:.1f} s)"
    )
    lines += [
        f"by {', '.join(episodes['operators'])}",
        f"{summary['frames']} frames and {summary['labels']} labels of successes",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    effort_units = {
        column.name: {"rad": "N m", "m": "N"}[column.unit] for column in contract.columns.commands
    }
    for group in ("state", "action", *(["effort"] if summary["effort"] else [])):
        table = Table(title=f"{group} columns", title_justify="left")
        for column in ("column", "unit", "mean", "spread", "min", "1 %", "99 %", "max", ""):
            table.add_column(
                column,
                justify="left" if column in ("column", "unit", "") else "right",
                no_wrap=True,
            )
        units = effort_units if group == "effort" else _column_units(contract)
        for name, entry in summary[group].items():
            figures = (f"{entry[key]:.3f}" for key in ("mean", "std", "min", "q01", "q99", "max"))
            remarks = ["[red]dead[/]"] if entry["dead"] else []
            if (known := entry.get("frames", summary["frames"])) < summary["frames"]:
                remarks.append(f"in {known} of {summary['frames']} frames")
            table.add_row(name, units.get(name, ""), *figures, ", ".join(remarks))
        console.print(table)
    console.print(_instructions(summary["instructions"]))


def _instructions(labels: dict[str, int]) -> Table:
    total, rest = sum(labels.values()), len(labels) - _INSTRUCTIONS
    table = Table(title=f"{len(labels)} different instructions", title_justify="left")
    table.add_column("instruction", overflow="fold")
    table.add_column("labels", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    for text, count in list(labels.items())[:_INSTRUCTIONS]:
        table.add_row(escape(text), str(count), f"{count / total:.1%}")
    if rest > 0:
        table.caption = f"and {rest} more, in the JSON; the rarest has {min(labels.values())}"
    return table


if __name__ == "__main__":
    sys.exit(main())
