"""``sf_training verify``: are finished episodes still, bit by bit, what was recorded? No rclpy
here.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
import yaml
from rich.progress import Progress

from sf_training.recording.recover.recovery import cut_off, recovery_command
from sf_training.recording.writer.sealing import METADATA_FILE, PARTIAL

_BLOCK = 1 << 22


class ChecksumError(RuntimeError):
    """An episode is not what was recorded; one sentence."""


@dataclass(frozen=True)
class Arguments:
    """Compare finished episodes with the checksums that were taken when they were recorded."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """episodes, or folders that hold some"""


def verify_episode(episode: Path, progress: Callable[[int], None] = lambda read: None) -> None:
    """Compare a finished episode with its checksum.

    Args:
        progress: called with the bytes just read.

    Raises:
        ChecksumError: it differs, is incomplete, or has no checksum.
    """
    try:
        information = yaml.safe_load((episode / METADATA_FILE).read_text(encoding="utf-8"))[
            "rosbag2_bagfile_information"
        ]
        (name,) = information["relative_file_paths"]
        expected = (information.get("custom_data") or {}).get("sha256")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise ChecksumError(
            f"{episode}: its {METADATA_FILE} cannot be read; restore the episode from a copy"
        ) from None
    if not expected:
        raise ChecksumError(f"{episode}: has no checksum; it was not recorded by sf_training")
    checksum = hashlib.sha256()
    try:
        with (episode / name).open("rb") as file:
            while block := file.read(_BLOCK):
                checksum.update(block)
                progress(len(block))
    except OSError as error:
        raise ChecksumError(
            f"{episode / name}: cannot be read ({error.strerror}); restore the episode from a copy"
        ) from None
    if checksum.hexdigest() != expected:
        raise ChecksumError(
            f"{episode / name}: is not what was recorded (checksum differs); restore the episode"
            " from a copy"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every episode is what was recorded, 1 when one is not or was never finished, 2 when
    there is none.
    """
    arguments = tyro.cli(Arguments, prog="verify", args=argv)
    unfinished = [partial for folder in arguments.paths for partial in cut_off(folder, deep=True)]
    found = [
        path.parent for folder in arguments.paths for path in sorted(folder.rglob(METADATA_FILE))
    ]
    episodes = [path for path in found if not any(part.endswith(PARTIAL) for part in path.parts)]
    if not episodes and not unfinished:
        print(
            f"verify: no episode in {', '.join(map(str, arguments.paths))}; give a folder that"
            " holds some",
            file=sys.stderr,
        )
        return 2
    failed = 0
    with Progress(transient=True) as bar:
        total = sum(path.stat().st_size for episode in episodes for path in episode.glob("*.mcap"))
        task = bar.add_task(f"{len(episodes)} episodes", total=total)
        for episode in episodes:
            try:
                verify_episode(episode, lambda read: bar.advance(task, read))
            except ChecksumError as error:
                failed += 1
                print(f"verify: {error}", file=sys.stderr)
    for partial in unfinished:
        print(
            f"verify: {partial}: was never finished; {recovery_command(partial)}", file=sys.stderr
        )
    left = (
        f"; {len(unfinished)} more {'was' if len(unfinished) == 1 else 'were'} never finished"
        if unfinished
        else ""
    )
    print(f"{len(episodes) - failed} of {len(episodes)} episodes are what was recorded{left}")
    return 1 if failed or unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
