"""Open-loop evaluation on recorded episodes, beside model-free baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from sf_policy_node.contract import Contract
from sf_policy_node.vla.policy import Policy
from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.data.opening import VERDICTS
from sf_training.data.split import split_by_order, trained_folders
from sf_training.evaluation.chunk_errors import (
    BASELINES,
    POLICY,
    EpisodeErrors,
    episode_errors,
    interval,
    overall,
    units,
)
from sf_training.evaluation.open_loop_plot import plot_open_loop
from sf_training.evaluation.recorded_episode import RecordedEpisode, open_episodes
from sf_training.evaluation.summary import wilson
from sf_training.progress import ProgressBar

Part = Literal["auto", "held-out", "all"]


def evaluate_open_loop(
    policy: Policy,
    checkpoint: Path,
    bags: Path,
    *,
    part: Part,
    outcomes: Sequence[str],
    batch: int,
    plot: Path,
    console: Console,
    strict: bool = False,
) -> dict:
    """Return errors of a policy on recorded episodes as plain values.

    Prints a table, and plots to ``plot``.

    Args:
        checkpoint: from which the policy was loaded; names the episodes it was trained on.
        part: see :func:`choose`.
        batch: predictions at once.
        strict: stop at the first unusable episode or anomaly.

    Raises:
        BagError: there are no such episodes, or one cannot be used.
    """
    settings = _training(checkpoint).get("settings") or {}
    verdicts = settings.get("verdicts", VERDICTS)  # as in training
    found_episodes = open_episodes(bags, policy.contract, outcomes, verdicts, strict=strict)
    readers, selection = choose(checkpoint, bags, found_episodes, part)
    console.print(f"{bags}: {selection}", soft_wrap=True, highlight=False)
    with ProgressBar("episodes", console=console) as bar:
        found = [
            episode_errors(policy, RecordedEpisode.load(reader, policy), batch)[0]
            for reader in bar.track(readers, total=len(readers))
        ]
    summary = summarise(policy.contract, found) | {
        "policy": policy.policy_id,
        "bags": str(bags),
        "selection": selection,
    }
    console.print(_table(policy.contract, summary))
    if summary["choice"]["n"]:
        choice = summary["choice"]
        low, high = choice["interval_95"]
        console.print(
            f"of {choice['n']} labels that share their image with another instruction,"
            f" {choice['correct']} chunks are closest to their own label"
            f" ({choice['correct'] / choice['n']:.0%}; 95 % interval {low:.0%} to {high:.0%}, if"
            " labels were independent)",
            soft_wrap=True,
            highlight=False,
        )
    plot_open_loop(
        policy.contract,
        found,
        f"{policy.policy_id}: {summary['n']} episodes, {summary['labels']} labels",
        plot,
    )
    return summary


def choose(
    checkpoint: Path, bags: Path, readers: list[EpisodeReader], part: Part
) -> tuple[list[EpisodeReader], str]:
    """Return the episodes to evaluate, and a phrase about them.

    Args:
        part: ``all``; ``held-out``, those that training held out for validation; ``auto``, the
            latter when there are any or the checkpoint names this folder as its data, else the
            former.

    Raises:
        BagError: no episode is left.
    """
    training = _training(checkpoint)
    settings = training.get("settings") or {}
    folders = trained_folders(settings)
    trained_on = " ".join(folders)
    listed = training.get("held_out_episodes")
    held_out = [reader for reader in readers if reader.checksum in set(listed or ())]
    same = bool(held_out) or any(Path(each).resolve() == bags.resolve() for each in folders)
    if part == "all" or (part == "auto" and not same):
        if same:
            return (
                readers,
                (
                    f"all {len(readers)} episodes; the checkpoint was trained on most of them, so"
                    " errors are too small"
                ),
            )
        source = (
            f"trained on {trained_on}"
            if trained_on
            else "the checkpoint does not name its training data"
        )
        return readers, f"all {len(readers)} episodes ({source})"
    if listed is not None:
        if not held_out:
            raise BagError(
                f"{bags}: none of these {len(readers)} episodes was held out from training; take"
                " --part all"
            )
        return held_out, _held_out_phrase(held_out, readers)
    share = settings.get("validation_share")
    if not share:
        raise BagError(
            f"{checkpoint}/config.json: names no validation_share, so its held-out episodes are not"
            " known; take --part all"
        )
    held_out = [readers[index] for index in split_by_order(len(readers), float(share))[1]]
    if not held_out:
        raise BagError(f"{bags}: a single episode, so none was held out; take --part all")
    return held_out, _held_out_phrase(held_out, readers)


def _held_out_phrase(held_out: Sequence[EpisodeReader], readers: Sequence[EpisodeReader]) -> str:
    return f"the {len(held_out)} of {len(readers)} episodes that training kept for validation"


def summarise(contract: Contract, episodes: Sequence[EpisodeErrors]) -> dict:
    """Return errors by column and by step, with 95 % intervals over episodes.

    Plain values in the contract's units.
    """
    means = {name: overall(episodes, name) for name in (POLICY, *BASELINES)}
    bounds = interval(episodes, [each.errors[POLICY].mean(0) for each in episodes])
    columns = {}
    for index, (name, unit) in enumerate(zip(contract.action.names, units(contract), strict=True)):
        columns[name] = {
            "unit": unit.name,
            **{key: float(table[:, index].mean()) for key, table in means.items()},
        }
        columns[name]["interval_95"] = None if bounds is None else bounds[:, index].tolist()
    correct = sum(each.correct for each in episodes)
    choices = sum(each.choices for each in episodes)
    return {
        "n": len(episodes),
        "frames": sum(each.frames for each in episodes),
        "labels": sum(each.labels for each in episodes),
        "columns": columns,
        "seconds_ahead": [
            round(contract.action.step_s * (row + 1), 6) for row in range(contract.action.horizon)
        ],
        "by_row": {key: np.round(table, 9).tolist() for key, table in means.items()},
        "choice": {
            "n": choices,
            "correct": correct,
            "interval_95": list(wilson(correct, choices)),
        },
        "episodes": [each.to_dict() for each in episodes],
    }


def _training(checkpoint: Path) -> dict:
    """Return what a checkpoint says of its training; empty if it says nothing."""
    try:
        return dict(json.loads((checkpoint / "config.json").read_text())["training"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _table(contract: Contract, summary: dict) -> Table:
    ahead = summary["seconds_ahead"]
    table = Table(
        title=f"open loop: mean absolute error, steps {ahead[0]:g} to {ahead[-1]:g} s ahead",
        caption=(
            f"{summary['n']} episodes, {summary['labels']} labels; interval: 95 % over episodes;"
            " ratio: to the better baseline"
        ),
    )
    for column in ("column", "unit", "policy", "interval", *BASELINES, "ratio"):
        table.add_column(
            column, justify="left" if column in ("column", "unit") else "right", no_wrap=True
        )
    for (name, entry), unit in zip(summary["columns"].items(), units(contract), strict=True):
        bounds = entry["interval_95"]
        shown = (
            "-"
            if bounds is None
            else f"{bounds[0] * unit.factor:.2f} to {bounds[1] * unit.factor:.2f}"
        )
        others = [entry[each] for each in BASELINES]
        ratio = f"{entry[POLICY] / min(others):.2f}" if min(others) > 0 else "-"
        table.add_row(
            name,
            unit.shown,
            f"{entry[POLICY] * unit.factor:.2f}",
            shown,
            *(f"{each * unit.factor:.2f}" for each in others),
            ratio,
        )
    return table
