"""``sf_training verify``: compare finished episodes with the checksums taken when they were
recorded. No rclpy here.
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

from sf_training.config_file import usage_of
from sf_training.progress import ProgressBar
from sf_training.recording.recover.recovery import find_interrupted, recovery_command
from sf_training.recording.writer.sealing import METADATA_FILE, PARTIAL

_BLOCK = 1 << 22  # bytes that are read at once


class ChecksumError(RuntimeError):
    """The checksum of an episode differs or cannot be computed; the message is one sentence."""


@dataclass(frozen=True)
class Arguments:
    """Compare finished episodes with the checksums taken when they were recorded."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """episodes, or folders with episodes"""


def verify_episode(episode: Path, progress: Callable[[int], None] = lambda read: None) -> None:
    """Compare a finished episode with its checksum.

    Args:
        progress: called with the number of bytes of each block that was read.

    Raises:
        ChecksumError: the checksum differs or is missing, or a file cannot be read.
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
            f"{episode / name}: was changed after recording (checksum differs); restore the episode"
            " from a copy"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Verify all episodes in the paths; return the exit code.

    Returns:
        0 if every checksum matches, 1 if one differs or a recording is unfinished, 2 if there is
        no episode.
    """
    arguments = tyro.cli(Arguments, prog=usage_of("verify"), args=argv)
    unfinished = [
        partial for folder in arguments.paths for partial in find_interrupted(folder, deep=True)
    ]
    found = [
        path.parent for folder in arguments.paths for path in sorted(folder.rglob(METADATA_FILE))
    ]
    episodes = [path for path in found if not any(part.endswith(PARTIAL) for part in path.parts)]
    if not episodes and not unfinished:
        print(
            f"verify: no episode in {', '.join(map(str, arguments.paths))}; give a folder with"
            " episodes",
            file=sys.stderr,
        )
        return 2
    failed = 0
    with ProgressBar("checking", in_bytes=True) as bar:
        total = sum(path.stat().st_size for episode in episodes for path in episode.glob("*.mcap"))
        task = bar.add_task("", total=total)
        for episode in episodes:
            try:
                verify_episode(episode, lambda read: bar.advance(task, read))
            except ChecksumError as error:
                failed += 1
                print(f"verify: {error}", file=sys.stderr)
    for partial in unfinished:
        print(
            f"verify: {partial}: was never finished; {recovery_command(partial)}",
            file=sys.stderr,
        )
    more = f"; {len(unfinished)} unfinished" if unfinished else ""
    print(f"{len(episodes) - failed} of {len(episodes)} episodes match their checksum{more}")
    return 1 if failed or unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
