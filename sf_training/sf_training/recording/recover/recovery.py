"""``sf_training recover``: complete recordings that SIGKILL, a power failure or a full disk
interrupted.

All messages up to the last complete chunk are recovered; the recorder closes a chunk at least twice
per second. No rclpy here.
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
from rich.progress import TaskID

from sf_policy_node.programs import command
from sf_training.config_file import usage_of
from sf_training.progress import ProgressBar
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

_NOTE = "unfinished: recovered after the recorder was interrupted"
_REASON = "recovered: the end is missing, and lost messages were not counted"


class RecoveryError(RuntimeError):
    """Nothing can be recovered, and nothing was changed; the message is one sentence."""


@dataclass(frozen=True)
class Recovered:
    """A recovered episode.

    Attributes:
        path: its directory.
        messages: number of recovered messages.
        seconds: time from the first to the last message.
        cut_bytes: bytes after the last complete record, which were removed.
        outcome: success, failure or discarded.
    """

    path: Path
    messages: int
    seconds: float
    cut_bytes: int
    outcome: str


@dataclass(frozen=True)
class Arguments:
    """Recover interrupted recordings."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """NAME.partial directories, or folders that hold some; or damaged .mcap files of any recorder,
    saved as NAME_recovered.mcap
    """
    outcome: Literal["discarded", "success", "failure"] = "discarded"
    """outcome of the recovered episodes; training uses success only, and relabel can change it
    later
    """


def find_partial(folder: Path) -> list[Path]:
    """List the unfinished recordings: ``folder`` itself, or those directly in it.

    Hidden folders are skipped: the LeRobot import stages its episodes in one.
    """
    if folder.name.endswith(PARTIAL):
        return [folder]
    return sorted(
        path
        for path in folder.glob(f"*{PARTIAL}")
        if path.is_dir() and not path.name.startswith(".")
    )


def find_interrupted(folder: Path, *, deep: bool = False) -> list[Path]:
    """List the unfinished recordings that no recorder writes any more.

    Args:
        deep: search all subfolders too, instead of ``folder`` only.
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
    """Return the cure to print for unfinished recordings in a folder."""
    return f"recover with `{command('sf_training sf_training', 'sf_training')} recover {folder}`"


def _is_written(partial: Path) -> bool:
    """Return whether a recorder still holds the lock on its file."""
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
    """Complete a ``NAME.partial`` directory and rename it to its final name.

    If the operator had already ended the episode, it is complete and keeps the outcome given then.

    Args:
        outcome: of an episode that was not ended.
        progress: called with the number of bytes read so far.

    Raises:
        RecoveryError: a recorder still writes it, it holds no message, or the recorder of this
            suite did not write it.
    """
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    files = sorted(partial.glob("*.mcap"))
    if len(files) != 1:
        raise RecoveryError(
            f"{partial}: holds {len(files)} .mcap files instead of one, so the recorder of this"
            " suite did not write it; give a single .mcap file to recover"
        )
    if final.exists():
        raise RecoveryError(f"{final}: already exists; rename one of the two")
    try:
        scan = scan_mcap(files[0], progress)
        record = next(
            (values for name, values in reversed(scan.records) if name == EPISODE_RECORD), None
        )
        if record is None:
            raise RecoveryError(
                f"{files[0]}: holds no episode record, so nothing was recorded; delete {partial}"
            )
        if not scan.messages:
            raise RecoveryError(
                f"{files[0]}: holds no complete chunk, so no message can be recovered; delete"
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
            f"{partial}: a recorder is still writing it; stop that recorder first"
        ) from None
    except (McapScanError, SealError) as error:
        raise RecoveryError(str(error)) from None
    except OSError as error:
        raise RecoveryError(
            f"{partial}: cannot be recovered ({error.strerror}); free some disk space or check its"
            " permissions"
        ) from None
    return Recovered(
        path,
        scan.messages,
        (last - first) * 1e-9,
        scan.size - scan.end if not scan.complete else 0,
        episode["outcome"],
    )


def _show(bar: ProgressBar, task: TaskID) -> Callable[[int], None]:
    return lambda done: bar.update(task, completed=done)


def main(argv: Sequence[str] | None = None) -> int:
    """Recover everything in the paths. Return 0 if all was recovered, 1 if not, 2 if nothing was
    found.
    """
    arguments = tyro.cli(Arguments, prog=usage_of("recover"), args=argv)
    files = [path for path in arguments.paths if path.is_file()]
    found = [
        partial for path in arguments.paths if path not in files for partial in find_partial(path)
    ]
    if not found and not files:
        print(
            f"recover: no *{PARTIAL} directory in {', '.join(map(str, arguments.paths))}, so no"
            " recording was interrupted there; check the path",
            file=sys.stderr,
        )
        return 2
    console = Console()
    failed = sum(not _rescued(file, console) for file in files)
    with ProgressBar("recovering", console=console, in_bytes=True) as bar:
        for partial in found:
            task = bar.add_task(
                partial.name, total=sum(path.stat().st_size for path in partial.glob("*.mcap"))
            )
            try:
                result = recover_episode(partial, arguments.outcome, _show(bar, task))
            except RecoveryError as error:
                failed += 1
                print(f"recover: {error}", file=sys.stderr)
            else:
                cut = (
                    f", {result.cut_bytes / 1e3:.0f} kB after the last complete chunk removed"
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
    """Recover a damaged file of any recorder, and print the result."""
    try:
        with ProgressBar("recovering", console=console, in_bytes=True) as bar:
            task = bar.add_task(file.name, total=file.stat().st_size)
            result = rescue_file(file, lambda done: bar.update(task, completed=done))
    except RescueError as error:
        print(f"recover: {error}", file=sys.stderr)
        return False
    damaged = f", {result.damaged} damaged chunks skipped" if result.damaged else ""
    console.print(f"{result.path}: {result.messages} messages{damaged}", soft_wrap=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
