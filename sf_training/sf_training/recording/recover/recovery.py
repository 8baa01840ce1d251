"""``sf_training recover``: makes episodes of recordings that were cut off, by SIGKILL, a power cut
or a full disk.

Everything up to the last whole chunk is kept; a recorder closes one at least twice per second. No
rclpy here.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from sf_training.recording.recover.file_rescue import RescueError, rescue_file
from sf_training.recording.writer.episode_writer import UNFINISHED
from sf_training.recording.writer.mcap_file import McapFile
from sf_training.recording.writer.mcap_scan import McapScanError, scan_mcap
from sf_training.recording.writer.sealing import (
    EPISODE_RECORD,
    PARTIAL,
    SealError,
    TopicRecord,
    seal,
)

_NOTE = "unfinished: recovered after the recorder ended in the middle"
_REASON = "recovered: the end is missing, and messages lost before were not counted"


class RecoveryError(RuntimeError):
    """Nothing can be recovered, and nothing was changed; one sentence."""


@dataclass(frozen=True)
class Recovered:
    """A recovered episode: its directory, messages, seconds between the first and the last, bytes
    behind the last whole chunk.
    """

    path: Path
    messages: int
    seconds: float
    cut_bytes: int
    outcome: str


@dataclass(frozen=True)
class Arguments:
    """Make episodes of recordings that were cut off."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """NAME.partial directories, or folders that hold some; or damaged .mcap files of any recorder,
    saved as NAME_recovered.mcap
    """
    outcome: Literal["discarded", "success", "failure"] = "discarded"
    """what they were; only success is trained on, and label_episode can change it later"""


def find_partial(folder: Path) -> list[Path]:
    """Lists the recordings that were not finished: ``folder`` itself, or those directly in it.
    Hidden folders are other things.
    """
    if folder.name.endswith(PARTIAL):
        return [folder]
    return sorted(
        path
        for path in folder.glob(f"*{PARTIAL}")
        if path.is_dir() and not path.name.startswith(".")
    )


def cut_off(folder: Path, *, deep: bool = False) -> list[Path]:
    """Lists the recordings that were not finished and that nobody is writing any more.

    Args:
        deep: in all folders below, too; else only directly in ``folder``.
    """
    found = find_partial(folder)
    if deep:
        below = (
            path
            for path in folder.rglob(f"*{PARTIAL}")
            if path.is_dir() and not path.name.startswith(".")
        )
        found = sorted({*found, *below})
    return [path for path in found if not _is_written(path)]


def recovery_command(folder: Path) -> str:
    """Says how to recover what lies in a folder."""
    return f"recover with `ros2 run sf_training sf_training recover {folder}`"


def _is_written(partial: Path) -> bool:
    """A recorder holds a lock on its file as long as it lives."""
    for file in partial.glob("*.mcap"):
        try:
            with file.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            continue
    return False


def recover_episode(
    partial: Path, outcome: str = "discarded", progress: Callable[[int], None] = lambda done: None
) -> Recovered:
    """Complete a ``NAME.partial`` directory and give it its final name.

    Where the operator had already ended the episode, the outcome is the one given then, and
    everything is there.

    Args:
        outcome: of an episode that nobody has ended.
        progress: called with the bytes read so far.

    Raises:
        RecoveryError: it is still being written, holds no message, or is not a recording of ours.
    """
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    files = sorted(partial.glob("*.mcap"))
    if len(files) != 1:
        raise RecoveryError(
            f"{partial}: holds {len(files)} .mcap files instead of one; it is not a recording of"
            " ours"
        )
    if final.exists():
        raise RecoveryError(f"{final}: exists already; rename one of the two")
    try:
        scan = scan_mcap(files[0], progress)
        record = next(
            (values for name, values in reversed(scan.records) if name == EPISODE_RECORD), None
        )
        if record is None:
            raise RecoveryError(
                f"{files[0]}: ends before its episode record, so nothing was recorded; delete"
                f" {partial}"
            )
        if not scan.messages:
            raise RecoveryError(
                f"{files[0]}: holds no whole chunk, so no message can be recovered; delete"
                f" {partial}"
            )
        schemas = {schema.id: schema for schema in scan.schemas}
        topics = [
            TopicRecord(
                channel.id,
                channel.topic,
                schemas[channel.schema_id].name,
                channel.metadata.get("offered_qos_profiles", ""),
                channel.metadata.get("topic_type_hash", ""),
            )
            for channel in scan.channels
        ]
        episode = record
        if record.get("outcome", UNFINISHED) == UNFINISHED:
            episode = record | {
                "outcome": outcome,
                "note": _NOTE,
                "drops": "{}",
                "verdict": "WARN",
                "reasons": json.dumps([_REASON]),
            }
        mcap = McapFile.reopen(files[0], scan)
        first, last = mcap.time_range
        path = seal(mcap, files[0], final, episode, topics)
    except BlockingIOError:
        raise RecoveryError(
            f"{partial}: a recorder is still writing it; stop that one first"
        ) from None
    except (McapScanError, SealError) as error:
        raise RecoveryError(str(error)) from None
    except OSError as error:
        raise RecoveryError(
            f"{partial}: cannot be recovered ({error.strerror}); free some space or check its"
            " permissions"
        ) from None
    return Recovered(
        path,
        scan.messages,
        (last - first) * 1e-9,
        scan.size - scan.end if not scan.complete else 0,
        episode["outcome"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Recover what the paths hold; 0 when all of it was, else 1 (2: nothing found)."""
    arguments = tyro.cli(Arguments, prog="recover", args=argv)
    files = [path for path in arguments.paths if path.is_file()]
    found = [
        partial for path in arguments.paths if path not in files for partial in find_partial(path)
    ]
    if not found and not files:
        print(
            f"recover: no *{PARTIAL} directory in {', '.join(map(str, arguments.paths))}; nothing"
            " was cut off there",
            file=sys.stderr,
        )
        return 2
    console = Console()
    failed = sum(not _rescued(file, console) for file in files)
    with Progress(console=console, transient=True) as bar:
        for partial in found:
            task = bar.add_task(
                partial.name, total=sum(path.stat().st_size for path in partial.glob("*.mcap"))
            )
            try:
                result = recover_episode(
                    partial,
                    arguments.outcome,
                    lambda done, task=task: bar.update(task, completed=done),
                )
            except RecoveryError as error:
                failed += 1
                print(f"recover: {error}", file=sys.stderr)
            else:
                cut = (
                    f", {result.cut_bytes / 1e3:.0f} kB behind the last whole chunk were cut"
                    if result.cut_bytes
                    else ""
                )
                bar.console.print(
                    f"{result.path}: {result.messages} messages, {result.seconds:.1f} s, outcome"
                    f" {result.outcome}{cut}",
                    soft_wrap=True,
                )
            bar.remove_task(task)
    return 1 if failed else 0


def _rescued(file: Path, console: Console) -> bool:
    """Saves a file of any recorder, and says so."""
    try:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(file.name, total=file.stat().st_size)
            result = rescue_file(file, lambda done: bar.update(task, completed=done))
    except RescueError as error:
        print(f"recover: {error}", file=sys.stderr)
        return False
    damaged = f", {result.damaged} damaged chunks left out" if result.damaged else ""
    console.print(f"{result.path}: {result.messages} messages{damaged}", soft_wrap=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
