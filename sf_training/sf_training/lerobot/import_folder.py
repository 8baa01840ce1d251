"""Move imported episodes to their folder all together or not at all, so that a failed import can be
repeated.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sf_training.lerobot.layout import LeRobotError
from sf_training.recording.writer.sealing import PARTIAL


@contextmanager
def all_or_nothing(out: Path, dataset: str, names: Sequence[str]) -> Iterator[Path]:
    """Yield a staging folder; its episodes move to ``out`` if the context ends without an error.

    The remains of an interrupted import are removed first. Folders that were made for ``out``
    and are empty at the end are removed, too.

    Args:
        names: of the episodes that will be written.

    Raises:
        LeRobotError: an episode with such a name already exists, or another import of the dataset
            is running.
    """
    taken = next((out / name for name in names if (out / name).exists()), None)
    if taken is not None:
        raise LeRobotError(f"{taken}: already exists; remove it, or choose another --out")
    made = [folder for folder in (out, *out.absolute().parents) if not folder.exists()]
    stage = out / f".{dataset}{PARTIAL}"
    stage.mkdir(parents=True, exist_ok=True)
    handle = os.open(stage, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeRobotError(
                f"{out}: another import of {dataset} is running; wait for it, or stop it"
            ) from None
        try:
            for left in stage.iterdir():
                shutil.rmtree(left, ignore_errors=True)
            yield stage
            for episode in sorted(stage.iterdir()):
                episode.rename(out / episode.name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    finally:
        os.close(handle)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
