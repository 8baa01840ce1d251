"""``ros2 run sf_training sf_training stats``: what a set of episodes holds, before one trains on
it.
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

_IMAGE_SIZE = 96  # nano's: what is prepared here, its training finds
_INSTRUCTIONS = 15  # in the table; all are in the JSON


@dataclass(frozen=True)
class Arguments:
    """Count episodes, frames and instructions, and show the range of every column that a policy is
    told or has to answer.

    Look for: a dead column (it never moves, so nothing about it can be learned), one whose largest
    value is far beyond its 99 % quantile (a glitch), and instructions with few labels.

    $ sf_training stats --data out/demos
    """

    data: Path
    """Directory of episode bags."""
    contract: Path | None = None
    """The robot's contract; default the one in the first bag. Bags of other recorders need one that
    says how to read them.
    """
    out: Path = Path("out/stats/stats.json")
    """All figures; a plot of the columns is written beside it."""
    strict: bool = False
    """Stop at an episode that cannot be used or in which something is odd; otherwise it is named
    and, if need be, left out.
    """
    verdicts: tuple[str, ...] = VERDICTS
    """Of the recorder: episodes with another verdict are left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
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
    """Print tables, write JSON and plot; returns what is in the JSON."""
    from sf_training.training.training_set import load_training_set

    given = load_contract(arguments.contract) if arguments.contract else None
    options = {"contract": given, "verdicts": arguments.verdicts, "strict": arguments.strict}
    contract, data = load_training_set(arguments.data, _IMAGE_SIZE, console, **options)
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
        **{part: describe(names, values) for part, (names, values) in columns.items()},
    }
    _print(summary, contract, console)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(summary, indent=1) + "\n")
    picture = arguments.out.with_suffix(".png")
    plot_columns(
        columns,
        _column_units(contract),
        f"{arguments.data}: {len(data.states)} frames, {len(data.label_frame)} labels",
        picture,
    )
    console.print(f"figures: {arguments.out}   plot: {picture}", soft_wrap=True, highlight=False)
    return summary


def summarise_episodes(data: TrainingSet) -> dict:
    """Return episodes by outcome and by operator, how many are used, and the time [s] from their
    first to their last image.
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
    """Statistics of each column of (..., N) values, in their units, with the extremes that
    quantiles leave out.
    """
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


def _column_units(contract: Contract) -> dict[str, str]:
    """Unit of every state and action column."""
    columns = (*contract.columns.state, *contract.columns.action)
    return {
        column.name: "0 to 1" if column.kind is ColumnKind.GRIPPER else column.unit
        for column in columns
    }


def _print(summary: dict, contract: Contract, console: Console) -> None:
    episodes = summary["episodes"]
    left = f", {episodes['left_out']} left out" if episodes["left_out"] else ""
    told = [
        f"{episodes['n']} episodes ("
        + ", ".join(f"{count} {name}" for name, count in episodes["outcomes"].items())
        + f"){left}"
    ]
    told.append(
        f"{episodes['seconds'] / 60:.1f} min (median {episodes['seconds_median']:.1f} s, "
        f"{episodes['seconds_shortest']:.1f} to {episodes['seconds_longest']:.1f} s)"
    )
    told += [
        f"by {', '.join(episodes['operators'])}",
        f"{summary['frames']} frames and {summary['labels']} labels of the successful ones",
    ]
    console.print("\n".join(told), highlight=False, soft_wrap=True)
    units = _column_units(contract)
    for part in ("state", "action"):
        table = Table(title=f"{part} columns", title_justify="left")
        for column in ("column", "unit", "mean", "spread", "min", "1 %", "99 %", "max", ""):
            table.add_column(
                column,
                justify="left" if column in ("column", "unit", "") else "right",
                no_wrap=True,
            )
        for name, entry in summary[part].items():
            figures = (f"{entry[key]:.3f}" for key in ("mean", "std", "min", "q01", "q99", "max"))
            table.add_row(
                name, units.get(name, ""), *figures, "[red]dead[/]" if entry["dead"] else ""
            )
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
