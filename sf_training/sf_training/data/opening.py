"""Opening the episodes of a data set: those that were asked for, and a list of those that are left
out and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sf_policy_node.contract import Contract
from sf_training.data.bag_files import BagError, known_outcome, unfinished_episodes
from sf_training.data.episode_reader import EpisodeReader

VERDICTS = ("PASS", "WARN")  # of the recorder; an episode without a verdict counts as PASS
_SENTENCES = 20  # printed; the rest is counted


@dataclass(frozen=True)
class LeftOut:
    """An episode that is not used, and the sentence that says why."""

    path: Path
    reason: str


@dataclass
class Opened:
    """Episodes of a data set.

    Attributes:
        readers: of the episodes that are used; all have the same contract.
        left_out: those that should have been used and cannot be.
        outcomes: of all episodes that could be told, by their number.
        count: of all episodes that were looked at.
    """

    readers: list[EpisodeReader] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    outcomes: Counter = field(default_factory=Counter)
    count: int = 0

    @property
    def contract(self) -> Contract:
        """The contract of the episodes."""
        return self.readers[0].contract


def open_bags(
    bags: Sequence[str | Path],
    contract: Contract | None,
    outcomes: Sequence[str] = ("success",),
    verdicts: Sequence[str] = VERDICTS,
    strict: bool = False,
) -> Opened:
    """Open episodes; the outcome is read before the bag is, so that a discarded one may be as
    broken as it likes.

    Args:
        contract: that all must fit; None takes that of the first episode that can be opened.
        outcomes: wanted ones, the others are counted and left alone.
        verdicts: wanted ones of the recorder.
        strict: whether an episode that cannot be used stops it.

    Raises:
        BagError: none can be used, or with ``strict`` the first one that cannot.
    """
    opened = Opened(count=len(bags))
    for path in map(Path, bags):
        known = reader = None
        try:
            known = known_outcome(path)
            if known is not None and known not in outcomes:
                opened.outcomes[known] += 1
                continue
            reader = EpisodeReader(path, contract)
            opened.outcomes[reader.outcome] += 1
            if reader.outcome not in outcomes:
                continue
            verdict = reader.metadata.get("verdict", "").upper()
            if verdict and verdict not in verdicts:
                raise BagError(
                    f"{path}: the recorder's verdict is {verdict} ({_reasons(reader)}); look at it"
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
    if not opened.readers:
        raise none_left(opened.left_out, opened.count, opened.outcomes, outcomes)
    return opened


def none_left(
    left_out: Sequence[LeftOut], count: int, outcomes: Counter, wanted: Sequence[str]
) -> BagError:
    """Return the error that no episode can be used."""
    if count == 1 and left_out:
        return BagError(left_out[0].reason)
    if left_out:
        reasons = " | ".join(entry.reason for entry in left_out[:3])
        return BagError(
            f"none of {count} episodes can be used:"
            f" {reasons}{' | ...' if len(left_out) > 3 else ''}"
        )
    found = ", ".join(f"{number} {name}" for name, number in outcomes.most_common())
    told = f" (found: {found})" if found else ""
    return BagError(
        f"none of {count} episodes has the outcome {' or '.join(wanted)}{told}; record some, or ask"
        " for others (--outcomes)"
    )


def say_left_out(
    console: Console,
    left_out: Iterable[LeftOut],
    notes: Iterable[str] = (),
    roots: Iterable[str | Path] = (),
) -> None:
    """Print which episodes are left out and why, what is odd in the others, and what was never
    finished.

    Args:
        roots: folders in which unfinished episodes are looked for.
    """
    lines = [f"left out: {entry.reason}" for entry in left_out]
    lines += [
        f"left out: {path}: was never finished; see `sf_training recover {path}`"
        for root in roots
        for path in unfinished_episodes(root)
    ]
    lines += [f"look at: {note}" for note in notes]
    for line in lines[:_SENTENCES]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if len(lines) > _SENTENCES:
        console.print(
            f"... and {len(lines) - _SENTENCES} more; `sf_training lint` names all",
            highlight=False,
            markup=False,
        )


def _reasons(reader: EpisodeReader) -> str:
    text = reader.metadata.get("reasons", "").strip("[]")
    return text.replace('"', "")[:200] or "no reason given"
