"""``sf_training relabel|trim|split|merge``: finished episodes, edited without touching what was
recorded.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sf_training.recording.edit import editing
from sf_training.recording.edit.episode_folder import outcome_of
from sf_training.recording.edit.finished_episode import EditError, open_finished
from sf_training.recording.labels import LabelError, add_label, undo_label
from sf_training.recording.writer.episode_writer import EpisodeWriteError
from sf_training.recording.writer.sealing import METADATA_FILE, PARTIAL

Outcome = Literal["", "success", "failure", "discarded"]


@dataclass(frozen=True)
class Relabel:
    """Say what episodes were after all, beside the bag in labels.json. The newest label counts;
    --undo takes it back.
    """

    episodes: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Episodes, or folders that hold some"""
    outcome: Outcome = ""
    """success, failure or discarded"""
    instruction: str = ""
    """For the whole episode"""
    at: tuple[tuple[float, str], ...] = ()
    """Several instructions: SECONDS TEXT for each, from the episode's first message; the first from
    0
    """
    note: str = ""
    """Free text"""
    operator: str = ""
    """Who says so"""
    undo: bool = False
    """Take the newest label back"""


@dataclass(frozen=True)
class Trim:
    """Write a part of an episode as a new one."""

    episode: Annotated[Path, tyro.conf.Positional]
    """The episode; it is not changed"""
    begin: float = 0.0
    """From here on [s after its first message]"""
    end: float | None = None
    """Up to here [s]; default its end"""
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
    """Where to cut [s after its first message], rising"""
    out: Path | None = None
    """Folder for the new episodes; default beside the old one"""
    outcome: Outcome = ""
    """Of the new episodes; default the old one's"""


@dataclass(frozen=True)
class Merge:
    """Join episodes that follow each other in time into a new one. The pause between them stays a
    pause.
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
    """Labels episodes; returns the exit code."""
    return _run(Relabel, "relabel", argv, _relabel)


def trim(argv: Sequence[str] | None = None) -> int:
    """Writes a part of an episode; returns the exit code."""
    return _run(Trim, "trim", argv, _trim)


def split(argv: Sequence[str] | None = None) -> int:
    """Writes several parts of an episode; returns the exit code."""
    return _run(Split, "split", argv, _split)


def merge(argv: Sequence[str] | None = None) -> int:
    """Writes several episodes as one; returns the exit code."""
    return _run(Merge, "merge", argv, _merge)


def _run(kind: type, verb: str, argv: Sequence[str] | None, act: Callable) -> int:
    settings = tyro.cli(kind, prog=verb, args=argv)
    try:
        act(settings)
    except (EditError, LabelError, EpisodeWriteError) as error:
        print(f"{verb}: {error}", file=sys.stderr)
        return 1
    return 0


def _relabel(settings: Relabel) -> None:
    words = {
        "outcome": settings.outcome,
        "instruction": settings.instruction.strip(),
        "note": settings.note,
        "segments": settings.at,
    }
    if settings.undo and any(words.values()):
        raise LabelError("--undo takes a label back and gives none; leave the others out")
    episodes = list(itertools.chain.from_iterable(_episodes(path) for path in settings.episodes))
    if not episodes:
        raise LabelError(
            f"{', '.join(map(str, settings.episodes))}: no finished episode; give one, or a folder"
            " that holds some"
        )
    for path in episodes:
        if settings.undo:
            undo_label(path)
        else:
            if settings.at and settings.at[-1][0] > (length := open_finished(path).seconds):
                raise LabelError(
                    f"{path}: lasts {length:.2f} s, and a segment begins at"
                    f" {settings.at[-1][0]:g} s"
                )
            add_label(path, operator=settings.operator, **words)
        print(
            f"{path}: {'the last label was taken back' if settings.undo else 'labelled'}, the"
            f" outcome is {outcome_of(path) or 'unknown'}"
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
    part = editing.window(source, settings.begin, settings.end)
    name = settings.name or f"{source.path.resolve().name}_trimmed"
    _told(
        editing.write([part], settings.out or source.path.resolve().parent, name, settings.outcome),
        part,
    )


def _split(settings: Split) -> None:
    source = open_finished(settings.episode)
    parts = editing.pieces(source, settings.at)
    out = settings.out or source.path.resolve().parent
    names = [f"{source.path.resolve().name}_part{number}" for number in range(1, len(parts) + 1)]
    taken = next((out / name for name in names if (out / name).exists()), None)
    if taken:
        raise EditError(f"{taken}: exists already; remove it, or choose another --out")
    written: list[Path] = []
    try:
        for name, part in zip(names, parts, strict=True):
            written.append(editing.write([part], out, name, settings.outcome))
    except Exception:
        for path in written:  # all of them or none
            shutil.rmtree(path)
        raise
    for path, part in zip(written, parts, strict=True):
        _told(path, part)


def _merge(settings: Merge) -> None:
    parts = editing.joined([open_finished(path) for path in settings.episodes])
    first = parts[0].source.path.resolve()
    _told(
        editing.write(
            parts,
            settings.out or first.parent,
            settings.name or f"{first.name}_merged",
            settings.outcome,
        ),
        *parts,
    )


def _told(path: Path, *parts: editing.Window) -> None:
    seconds = sum(min(part.end, part.source.end) - part.begin for part in parts) * 1e-9
    print(
        f"{path}: {seconds:.2f} s of {', '.join(part.source.path.name for part in parts)}, outcome"
        f" {outcome_of(path)}"
    )
