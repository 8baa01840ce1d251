"""Cache of prepared teacher features: computed once, saved on disk in a compact format.

An interrupted computation continues where it stopped; training maps the files into memory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sf_training.spatial_forcing.cache_format import (
    CacheFormat,
    CompactArray,
    CosineError,
    decode,
    empty_parts,
    encode,
)
from sf_training.spatial_forcing.teachers import TeacherError

_STATE = "state.json"
_SAVE_EVERY = 256  # frames
_SAVE_AFTER_S = 30.0

Compute = Callable[[slice], Sequence[tuple[np.ndarray, np.ndarray]]]
"""Maps a slice of frames to, for each layer, the features (n, ..., C) float32 and the norms (n,
...) of the original ones.
"""


class FeatureCache:
    """One folder for each combination of data, teacher and settings.

    Args:
        root: folder of all caches; None keeps everything in memory.
        key: everything on which the features depend, as plain values.
        shape: of one layer's features, frames first.
        layers: number of layers.
        form: storage format.
    """

    def __init__(
        self,
        root: Path | None,
        key: dict,
        shape: tuple[int, ...],
        layers: int,
        form: CacheFormat = "float16",
    ) -> None:
        self._key = json.loads(json.dumps(key | {"format": form}))
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = None if root is None else Path(root) / f"features-{digest}"
        self.error = CosineError()
        self._shape, self._form, self._layers = shape, form, layers
        self._parts = empty_parts(shape, form)
        self._memory: list[list[np.ndarray]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all features, on disk or in memory."""
        return self._layers * sum(
            int(np.prod(shape)) * dtype.itemsize for shape, dtype in self._parts
        )

    @property
    def done(self) -> int:
        """Number of frames with features.

        Raises:
            TeacherError: the folder is of other features, or damaged.
        """
        if self.folder is None:
            return self._shape[0] if self._memory else 0
        state = self.folder / _STATE
        if not state.exists():
            return 0
        try:
            found = json.loads(state.read_text())
            fits = found["key"] == self._key and all(
                array.shape == shape and array.dtype == dtype
                for arrays in self._mapped("r")
                for array, (shape, dtype) in zip(arrays, self._parts, strict=True)
            )
            done, self.error = int(found["frames"]), CosineError(**found["cosine_error"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TeacherError(
                f"{self.folder}: cached features cannot be read ({error}); delete this folder"
            ) from None
        if not fits:
            raise TeacherError(
                f"{self.folder}: cached features of other data or another teacher; delete this"
                " folder"
            )
        return done

    def fill(self, compute: Compute, batch: int, progress: Callable[[int], None]) -> None:
        """Compute the missing features, and measure the error of the format.

        Call it in :meth:`locked`.

        Args:
            batch: frames in a slice.
            progress: called with the number of frames done.

        Raises:
            TeacherError: the disk is full, or the folder cannot be written.
        """
        if self.folder is None:
            self._memory = [
                [np.empty(shape, dtype) for shape, dtype in self._parts]
                for _ in range(self._layers)
            ]
            self._compute(self._memory, 0, compute, batch, progress, lambda done: None)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            done = self.done
            if not (self.folder / _STATE).exists():
                self._reserve()
            arrays = self._mapped("r+")

            def save(frames: int) -> None:
                for array in (array for parts in arrays for array in parts):
                    array.flush()
                self._note(frames)

            self._compute(arrays, done, compute, batch, progress, save)
        except OSError as error:
            raise self._unwritable(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder: another run that needs the same features waits for them.

        Raises:
            TeacherError: the folder cannot be written.
        """
        if self.folder is None:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise self._unwritable(error) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def load(self) -> tuple[np.ndarray | CompactArray, ...]:
        """Return the features of each layer, mapped read-only; ``layer[frames]`` reads frames."""
        arrays = self._memory if self.folder is None else self._mapped("r")
        if self._form == "float16":
            return tuple(parts[0] for parts in arrays)
        return tuple(CompactArray(tuple(parts), self._form) for parts in arrays)

    def _compute(
        self,
        arrays: list[list[np.ndarray]],
        done: int,
        compute: Compute,
        batch: int,
        progress: Callable,
        save: Callable,
    ) -> None:
        frames, saved, at = self._shape[0], done, time.monotonic()
        try:
            while done < frames:
                part = slice(done, min(done + batch, frames))
                found = [
                    (values, norms, encode(values, self._form)) for values, norms in compute(part)
                ]
                for parts, (*_, encoded) in zip(arrays, found, strict=True):
                    for array, stored in zip(parts, encoded, strict=True):
                        array[part] = stored
                for values, norms, encoded in found:
                    self.error.add(values, decode(encoded, self._form), norms)
                done = part.stop
                progress(done)
                if done - saved >= _SAVE_EVERY or time.monotonic() - at > _SAVE_AFTER_S:
                    save(done)
                    saved, at = done, time.monotonic()
        finally:  # also at Ctrl-C: a frame may take minutes
            if done > saved:
                save(done)

    def _paths(self) -> list[list[Path]]:
        names = [("", "_scale")[number] for number in range(len(self._parts))]
        return [
            [self.folder / f"layer_{layer}{name}.npy" for name in names]
            for layer in range(self._layers)
        ]

    def _mapped(self, mode: str) -> list[list[np.ndarray]]:
        return [[np.load(path, mmap_mode=mode) for path in paths] for paths in self._paths()]

    def _reserve(self) -> None:
        """Allocate the files: writing to a mapped file on a full disk would kill the process."""
        files = [
            (path, *part)
            for paths in self._paths()
            for path, part in zip(paths, self._parts, strict=True)
        ]
        for path, shape, dtype in files:
            np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError:
                for other, *_ in files:
                    other.unlink(missing_ok=True)
                raise
        self._note(0)

    def _unwritable(self, error: OSError) -> TeacherError:
        cure = "free disk space" if error.errno == errno.ENOSPC else "check its permissions"
        return TeacherError(f"{self.folder}: features cannot be saved ({error.strerror}); {cure}")

    def _note(self, frames: int) -> None:
        temporary = self.folder / (_STATE + ".new")
        temporary.write_text(
            json.dumps({"key": self._key, "frames": frames, "cosine_error": asdict(self.error)})
        )
        os.replace(temporary, self.folder / _STATE)
