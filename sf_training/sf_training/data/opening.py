"""Open the wanted episodes of a data set, and list those that are left out with the reason."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sf_policy_node.contract import Contract
from sf_training.data.bag_files import (
    BagError,
    how_to_recover,
    known_outcome,
    unfinished_episodes,
)
from sf_training.data.episode_reader import EpisodeReader
from sf_training.progress import ProgressBar

VERDICTS = ("PASS", "WARN")  # of the recorder; episodes without a verdict are used, too
_REASONS_MAX = 300  # characters of the recorder's reasons
_LINES_MAX = 20  # that are printed; the rest is counted


@dataclass(frozen=True)
class LeftOut:
    """An episode that is not used, and the reason in one sentence."""

    path: Path
    reason: str


@dataclass
class Opened:
    """Episodes of a data set.

    Attributes:
        readers: of the episodes that are used; all have the same contract.
        left_out: wanted episodes that cannot be used.
        outcomes: outcome to number of episodes, over all; unreadable ones as "unreadable".
        count: number of all episodes.
    """

    readers: list[EpisodeReader] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    outcomes: Counter = field(default_factory=Counter)
    count: int = 0

    @property
    def contract(self) -> Contract:
        """Contract of the episodes."""
        return self.readers[0].contract


def open_bags(
    bags: Sequence[str | Path],
    contract: Contract | None,
    outcomes: Sequence[str] = ("success",),
    verdicts: Sequence[str] = VERDICTS,
    strict: bool = False,
    *,
    allow_missing_cameras: bool = False,
    progress: bool = False,
) -> Opened:
    """Open episodes.

    Outcomes are read before bags are opened, so an unwanted episode may be damaged.

    Args:
        contract: of all episodes; None takes that of the first one that can be opened.
        outcomes: wanted outcomes; other episodes are only counted.
        verdicts: wanted verdicts of the recorder.
        strict: raise on the first episode that cannot be used.
        allow_missing_cameras: use episodes without images of a camera, if another episode has them.
        progress: show a progress bar.

    Raises:
        BagError: no episode can be used, or one cannot with ``strict``.
    """
    opened = Opened(count=len(bags))
    with ProgressBar("opening episodes", disable=not progress, transient=True) as bar:
        _open(opened, bar.track(bags), contract, outcomes, verdicts, strict, allow_missing_cameras)
    if unseen := lacking_everywhere(opened.readers):
        opened.left_out += unseen
        opened.readers = []
    if not opened.readers:
        raise none_left(opened.left_out, opened.count, opened.outcomes, outcomes)
    return opened


def _open(
    opened: Opened,
    bags: Iterable[str | Path],
    contract: Contract | None,
    outcomes: Sequence[str],
    verdicts: Sequence[str],
    strict: bool,
    allow_missing_cameras: bool,
) -> None:
    """Add the episodes to ``opened``; arguments as for :func:`open_bags`."""
    for path in map(Path, bags):
        known = reader = None
        try:
            known = known_outcome(path)
            if known is not None and known not in outcomes:
                opened.outcomes[known] += 1
                continue
            reader = EpisodeReader(path, contract, allow_missing_cameras=allow_missing_cameras)
            opened.outcomes[reader.outcome] += 1
            if reader.outcome not in outcomes:
                continue
            verdict = reader.metadata.get("verdict", "").upper()
            if verdict and verdict not in verdicts:
                raise BagError(
                    f"{path}: the recorder's verdict is {verdict} ({_reasons(reader)}); check it"
                    " with `view`, then record it again or give --verdicts"
                    f" {' '.join((*verdicts, verdict))}"
                )
        except BagError as error:
            if strict:
                raise
            if reader is None:
                opened.outcomes[known or "unreadable"] += 1
            opened.left_out.append(LeftOut(path, str(error)))
            continue
        contract = contract or reader.contract
        opened.readers.append(reader)


def lacking_everywhere(readers: Sequence[EpisodeReader]) -> list[LeftOut]:
    """Return all episodes as left out if none has images of some camera; else an empty list.

    Then the topic in the contract is wrong, or nothing could be learned for that camera.
    """
    lacking = [set(reader.missing_cameras) for reader in readers]
    nowhere = sorted(set.intersection(*lacking)) if lacking else []
    return [
        LeftOut(reader.path, f"{reader.file}: {reader.missing_cameras[name]}")
        for name in nowhere[:1]
        for reader in readers
    ]


def none_left(
    left_out: Sequence[LeftOut], count: int, outcomes: Counter, wanted: Sequence[str]
) -> BagError:
    """Return the error for a data set in which no episode can be used."""
    if count == 1 and left_out:
        return BagError(left_out[0].reason)
    if left_out:
        reasons = " | ".join(entry.reason for entry in left_out[:3])
        return BagError(
            f"none of {count} episodes can be used:"
            f" {reasons}{' | ...' if len(left_out) > 3 else ''}"
        )
    found = ", ".join(f"{number} {name}" for name, number in outcomes.most_common())
    others = f" (found: {found})" if found else ""
    return BagError(
        f"none of {count} episodes has the outcome {' or '.join(wanted)}{others}; record some, or"
        " choose other outcomes (--outcomes)"
    )


def check_strict(strict: bool, left_out: Sequence[LeftOut], notes: Sequence[str]) -> None:
    """Raise BagError with ``strict`` if an episode is left out or has an anomaly."""
    if strict and (left_out or notes):
        raise BagError(left_out[0].reason if left_out else notes[0])


def print_left_out(
    console: Console,
    left_out: Iterable[LeftOut],
    notes: Iterable[str] = (),
    roots: Iterable[str | Path] = (),
) -> None:
    """Print which episodes are left out and why, the notes on others, and unfinished recordings.

    Args:
        roots: folders to search for unfinished recordings.
    """
    lines = [f"left out: {entry.reason}" for entry in left_out]
    lines += [
        f"left out: {path}: was never finished; {how_to_recover(path)}"
        for root in roots
        for path in unfinished_episodes(root)
    ]
    lines += [f"check: {note}" for note in notes]
    for line in lines[:_LINES_MAX]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if len(lines) > _LINES_MAX:
        console.print(
            f"... and {len(lines) - _LINES_MAX} more; run `python3 -m sf_training lint` for all",
            highlight=False,
            markup=False,
        )


def _reasons(reader: EpisodeReader) -> str:
    text = reader.metadata.get("reasons", "").strip("[]")
    shown = textwrap.shorten(text.replace('"', ""), _REASONS_MAX, placeholder=" ...")
    return shown or "no reason given"
