"""``sf_training relabel|trim|split|merge``: edit finished episodes without changing what was
recorded.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sf_training.config_file import usage_of
from sf_training.recording.edit import editing
from sf_training.recording.edit.episode_folder import outcome_of
from sf_training.recording.edit.finished_episode import EditError, duration_s, open_finished
from sf_training.recording.labels import LabelError, add_label, undo_label
from sf_training.recording.writer.episode_writer import EpisodeWriteError
from sf_training.recording.writer.sealing import METADATA_FILE, PARTIAL

Outcome = Literal["", "success", "failure", "discarded"]


@dataclass(frozen=True)
class Relabel:
    """Label finished episodes in labels.json beside the bag. The newest label counts; --undo
    removes it.
    """

    episodes: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Episodes, or folders with episodes"""
    outcome: Outcome = ""
    """success, failure or discarded"""
    instruction: str = ""
    """For the whole episode"""
    at: tuple[tuple[float, str], ...] = ()
    """Several instructions: SECONDS TEXT for each, in seconds after the first message; the first at
    0
    """
    note: str = ""
    """Free text"""
    operator: str = ""
    """Who labels"""
    undo: bool = False
    """Remove the newest label"""


@dataclass(frozen=True)
class Trim:
    """Write a time window of an episode as a new episode."""

    episode: Annotated[Path, tyro.conf.Positional]
    """The episode; it is not changed"""
    begin: float = 0.0
    """Start of the window [s after the first message]"""
    end: float | None = None
    """End of the window [s after the first message]; default the end of the episode"""
    out: Path | None = None
    """Folder for the new episode; default beside the old one"""
    name: str = ""
    """Of the new episode; default NAME_trimmed"""
    outcome: Outcome = ""
    """Of the new episode; default the old one's"""


@dataclass(frozen=True)
class Split:
    """Cut an episode into several new ones."""

    episode: Annotated[Path, tyro.conf.Positional]
    """The episode; it is not changed"""
    at: tuple[float, ...]
    """Times to cut at [s after the first message], in increasing order"""
    out: Path | None = None
    """Folder for the new episodes; default beside the old one"""
    outcome: Outcome = ""
    """Of the new episodes; default the old one's"""


@dataclass(frozen=True)
class Merge:
    """Join episodes that follow each other in time into a new one. The time between them remains as
    a gap.
    """

    episodes: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The episodes; they are not changed"""
    out: Path | None = None
    """Folder for the new episode; default beside the first one"""
    name: str = ""
    """Of the new episode; default NAME_merged after the first"""
    outcome: Outcome = ""
    """Of the new episode; needed where the old ones differ"""


def relabel(argv: Sequence[str] | None = None) -> int:
    """Label episodes; return the exit code."""
    return _run(Relabel, "relabel", argv, _relabel)


def trim(argv: Sequence[str] | None = None) -> int:
    """Write a time window of an episode; return the exit code."""
    return _run(Trim, "trim", argv, _trim)


def split(argv: Sequence[str] | None = None) -> int:
    """Write an episode as several new ones; return the exit code."""
    return _run(Split, "split", argv, _split)


def merge(argv: Sequence[str] | None = None) -> int:
    """Write several episodes as one; return the exit code."""
    return _run(Merge, "merge", argv, _merge)


def _run(settings_type: type, verb: str, argv: Sequence[str] | None, act: Callable) -> int:
    settings: Any = tyro.cli(settings_type, prog=usage_of(verb), args=argv)
    try:
        act(settings)
    except (EditError, LabelError, EpisodeWriteError) as error:
        print(f"{verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _relabel(settings: Relabel) -> None:
    fields: dict[str, Any] = {
        "outcome": settings.outcome,
        "instruction": settings.instruction.strip(),
        "note": settings.note,
        "segments": settings.at,
    }
    if settings.undo and any(fields.values()):
        raise LabelError("--undo only removes a label; leave the other options out")
    episodes = list(itertools.chain.from_iterable(_episodes(path) for path in settings.episodes))
    if not episodes:
        raise LabelError(
            f"{', '.join(map(str, settings.episodes))}: no finished episode; give one, or a folder"
            " with episodes"
        )
    for path in episodes:
        if settings.undo:
            undo_label(path)
        else:
            if settings.at and settings.at[-1][0] > (length := duration_s(path)):
                raise LabelError(
                    f"{path}: lasts {length:.2f} s, but a segment begins at"
                    f" {settings.at[-1][0]:g} s; correct --at"
                )
            add_label(path, operator=settings.operator, **fields)
        print(
            f"{path}: {'newest label removed' if settings.undo else 'labelled'}, the outcome is"
            f" {outcome_of(path) or 'unknown'}"
        )


def _episodes(path: Path) -> list[Path]:
    if not path.exists():
        raise LabelError(f"{path}: does not exist; check the path")
    found = (
        [path]
        if (path / METADATA_FILE).is_file()
        else sorted(each.parent for each in path.rglob(METADATA_FILE))
    )
    return [each for each in found if not each.name.endswith(PARTIAL)]


def _trim(settings: Trim) -> None:
    source = open_finished(settings.episode)
    cut = editing.window(source, settings.begin, settings.end)
    name = settings.name or f"{source.path.resolve().name}_trimmed"
    _report(
        editing.write([cut], settings.out or source.path.resolve().parent, name, settings.outcome),
        cut,
    )


def _split(settings: Split) -> None:
    source = open_finished(settings.episode)
    pieces = editing.pieces(source, settings.at)
    out = settings.out or source.path.resolve().parent
    names = [f"{source.path.resolve().name}_part{number}" for number in range(1, len(pieces) + 1)]
    taken = next((out / name for name in names if (out / name).exists()), None)
    if taken:
        raise EditError(f"{taken}: already exists; remove it, or choose another --out")
    written: list[Path] = []
    try:
        for name, piece in zip(names, pieces, strict=True):
            written.append(editing.write([piece], out, name, settings.outcome))
    except Exception:
        for path in written:  # write all of them or none
            shutil.rmtree(path)
        raise
    for path, piece in zip(written, pieces, strict=True):
        _report(path, piece)


def _merge(settings: Merge) -> None:
    sources = editing.joined([open_finished(path) for path in settings.episodes])
    first = sources[0].source.path.resolve()
    _report(
        editing.write(
            sources,
            settings.out or first.parent,
            settings.name or f"{first.name}_merged",
            settings.outcome,
        ),
        *sources,
    )


def _report(path: Path, *windows: editing.Window) -> None:
    """Print what a new episode holds."""
    seconds = sum(min(each.end, each.source.end) - each.begin for each in windows) * 1e-9
    print(
        f"{path}: {seconds:.2f} s of {', '.join(each.source.path.name for each in windows)},"
        f" outcome {outcome_of(path)}"
    )
