"""Prepared teacher features on disk: computed once, picked up again after a kill, mapped while training."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sf_training.spatial_forcing.teachers import TeacherError

_STATE = "state.json"
_SAVE_EVERY = 256  # frames


class FeatureCache:
    """One folder for each combination of data, teacher and settings; another combination never reads it.

    Args:
        root: folder of all caches.
        key: everything that the features depend on, as plain values.
        shape: of one layer's features, frames first.
        layers: number of layers.
    """

    def __init__(self, root: Path, key: dict, shape: tuple[int, ...], layers: int) -> None:
        self._key = json.loads(json.dumps(key))
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(root) / f"features-{digest}"
        self._shape = shape
        self._paths = [self.folder / f"layer_{number}.npy" for number in range(layers)]

    @property
    def done(self) -> int:
        """Frames that are there already.

        Raises:
            TeacherError: the folder belongs to something else or is damaged.
        """
        state = self.folder / _STATE
        if not state.exists():
            return 0
        try:
            found = json.loads(state.read_text())
            fits = found["key"] == self._key and all(np.load(path, mmap_mode="r").shape == self._shape for path in self._paths)
            done = int(found["frames"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TeacherError(f"{self.folder}: cached features cannot be read ({error}); delete this folder") from None
        if not fits:
            raise TeacherError(f"{self.folder}: cached features of other data or another teacher; delete this folder")
        return done

    def fill(self, compute: Callable[[slice], Sequence[np.ndarray]], batch: int, progress: Callable[[int], None]) -> None:
        """Compute what is missing.

        Args:
            compute: from a slice of frames to one float16 array for each layer.
            batch: frames in a slice.
            progress: told the number of frames that are there.

        Raises:
            TeacherError: the disk is full or the folder cannot be written.
        """
        frames = self._shape[0]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another run that needs the same features waits, then finds them
                self._fill(compute, batch, progress, frames)
        except OSError as error:
            cure = "free some space" if error.errno == errno.ENOSPC else "check its permissions"
            raise TeacherError(f"{self.folder}: features cannot be kept ({error.strerror}); {cure}") from None

    def load(self) -> tuple[np.ndarray, ...]:
        """Features of each layer, mapped read-only."""
        return tuple(np.load(path, mmap_mode="r") for path in self._paths)

    def _fill(self, compute: Callable, batch: int, progress: Callable[[int], None], frames: int) -> None:
        done = saved = self.done
        if not (self.folder / _STATE).exists():
            self._reserve()
        arrays = [np.load(path, mmap_mode="r+") for path in self._paths]
        while done < frames:
            part = slice(done, min(done + batch, frames))
            for array, values in zip(arrays, compute(part), strict=True):
                array[part] = values
            done = part.stop
            progress(done)
            if done == frames or done - saved >= _SAVE_EVERY:
                for array in arrays:
                    array.flush()
                self._note(done)
                saved = done

    def _reserve(self) -> None:
        """Claim the whole size now: writing to a mapped file on a full disk would kill the process."""
        for path in self._paths:
            np.lib.format.open_memmap(path, "w+", np.float16, self._shape).flush()
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError:
                for other in self._paths:
                    other.unlink(missing_ok=True)
                raise
        self._note(0)

    def _note(self, frames: int) -> None:
        fresh = self.folder / (_STATE + ".new")
        fresh.write_text(json.dumps({"key": self._key, "frames": frames}))
        os.replace(fresh, self.folder / _STATE)
