"""Cache of prepared teacher features: computed once, saved on disk in a compact format.

One folder for each teacher and its settings holds one file for each episode, named after the
episode's content. An interrupted computation continues where it stopped, and another episode costs
its own frames alone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sf_training.data.record_file import RecordFile
from sf_training.spatial_forcing.cache_format import (
    CacheFormat,
    cosine_errors,
    decode,
    encode,
    parts_of,
)
from sf_training.spatial_forcing.teachers import TeacherError

_CHECKED_AT_ONCE = 16  # frames
_ERRORS = 3  # float64 at the end of a record: sum and maximum of 1 - cosine, number of tokens

Compute = Callable[[np.ndarray], Sequence[tuple[np.ndarray, np.ndarray]]]
"""Maps n frames to, for each layer, the features (n, ..., C) float32 and the norms (n, ...) of the
original ones.
"""


class _Records(Protocol):
    """Records of one episode; see :class:`~sf_training.data.record_file.RecordFile`."""

    def read(self, numbers: np.ndarray, rows: np.ndarray, out: np.ndarray) -> np.ndarray: ...

    def read_unchecked(
        self, numbers: np.ndarray, rows: np.ndarray, parts: Sequence[np.ndarray]
    ) -> np.ndarray: ...

    def write(self, numbers: np.ndarray, records: np.ndarray) -> None: ...


class _InMemory:
    def __init__(self, count: int, size: int) -> None:
        self._records, self._missing = np.empty((count, size), np.uint8), np.ones(count, bool)

    def read(self, numbers: np.ndarray, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        out[rows] = self._records[numbers]
        return self._missing[numbers]

    def read_unchecked(
        self, numbers: np.ndarray, rows: np.ndarray, parts: Sequence[np.ndarray]
    ) -> np.ndarray:
        begin = 0
        for part in parts:
            end = begin + part[0].nbytes
            content = np.ascontiguousarray(self._records[numbers, begin:end])
            part[rows] = content.view(part.dtype).reshape(len(numbers), *part.shape[1:])
            begin = end
        return self._missing[numbers]

    def write(self, numbers: np.ndarray, records: np.ndarray) -> None:
        self._records[numbers], self._missing[numbers] = records, False


@contextmanager
def locked_folder(root: Path | None, key: dict) -> Iterator[Path | None]:
    """Make the folder of some features and hold its lock; another run that needs them waits.

    Args:
        root: folder of all caches; None yields None.
        key: everything except the images on which the features depend, as plain values.

    Raises:
        TeacherError: the folder cannot be written.
    """
    if root is None:
        yield None
        return
    text = json.dumps(key, sort_keys=True, indent=1)
    folder = Path(root) / f"features-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        if not (folder / "key.json").exists():  # for people; the folder's name is its hash
            (folder / "key.json").write_text(text + "\n")
    except OSError as error:
        raise _unwritable(folder, error) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


class FeatureCache:
    """Features of the F frames of a data set.

    Args:
        folder: from :func:`locked_folder`; None keeps everything in memory.
        episodes: content digest and number of frames of each episode, in the order of the frames.
        shape: of the features of one frame and layer.
        layers: number of layers.
        form: storage format.
    """

    def __init__(
        self,
        folder: Path | None,
        episodes: Sequence[tuple[str, int]],
        shape: tuple[int, ...],
        layers: int,
        form: CacheFormat,
    ) -> None:
        self._folder, self._shape, self._form, self.layers = folder, shape, form, layers
        self._parts = parts_of(shape, form)
        self._content = sum(int(np.prod(part)) * dtype.itemsize for part, dtype in self._parts)
        self._size = self._content + 8 * _ERRORS
        self._starts = np.cumsum([0, *(frames for _, frames in episodes)])
        self._frames = [frames for _, frames in episodes]
        known: dict[str, _Records] = {}
        self._repeats = np.zeros(len(self), bool)  # frames of an episode that occurs before
        for number, (digest, frames) in enumerate(episodes):
            if digest in known:
                self._repeats[self._starts[number] : self._starts[number + 1]] = True
            else:
                count = layers * frames
                known[digest] = (
                    _InMemory(count, self._size)
                    if folder is None
                    else RecordFile(folder / f"{digest}.features", count, self._size)
                )
        self._records = [known[digest] for digest, _ in episodes]
        self._errors = np.zeros((layers, len(self), _ERRORS))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one layer's features, frames first."""
        return (len(self), *self._shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all features, on disk or in memory."""
        return len(self) * self.layers * self._size

    @property
    def mean_error(self) -> float:
        """Mean of 1 - cosine between original and stored features.

        Over the tokens of all frames that are checked or computed.
        """
        total, _, tokens = self._errors.sum((0, 1))
        return float(total / max(tokens, 1.0))

    @property
    def largest_error(self) -> float:
        """Maximum of 1 - cosine, as :attr:`mean_error`."""
        return float(self._errors[..., 1].max(initial=0.0))

    def check(self, progress: Callable[[int], None]) -> np.ndarray:
        """Read all frames; return those (n,) whose features are missing or damaged.

        Args:
            progress: called with the number of frames that are checked.
        """
        missing = np.zeros(len(self), bool)
        for start in range(0, len(self), _CHECKED_AT_ONCE):
            frames = np.arange(start, min(start + _CHECKED_AT_ONCE, len(self)))
            frames = frames[~self._repeats[frames]]
            for layer in range(self.layers):
                records, absent = self._read(layer, frames)
                missing[frames] |= absent
                self._errors[layer, frames[~absent]] = self._errors_of(records)[~absent]
            progress(start + len(frames))
        self._errors[:, missing] = 0.0
        return np.flatnonzero(missing)

    def fill(
        self, frames: np.ndarray, compute: Compute, batch: int, progress: Callable[[int], None]
    ) -> None:
        """Compute the features of some frames; each batch is saved when it is computed.

        Args:
            frames: (n,) ascending indices.
            batch: number of frames that are computed at once.
            progress: called with the number of frames that are computed.

        Raises:
            TeacherError: the disk is full, or the folder cannot be written.
        """
        for start in range(0, len(frames), batch):
            part = frames[start : start + batch]
            for layer, (values, norms) in enumerate(compute(part)):
                records = self._encoded(values, norms)
                self._errors[layer, part] = self._errors_of(records)
                for records_file, numbers, rows in self._located(layer, part):
                    try:
                        records_file.write(numbers, records[rows])
                    except OSError as error:
                        raise _unwritable(self._folder, error) from None
            progress(start + len(part))

    def load(self) -> tuple[StoredLayer, ...]:
        """Return the features of each layer."""
        return tuple(StoredLayer(self, layer) for layer in range(self.layers))

    def read(self, layer: int, frames: np.ndarray) -> np.ndarray:
        """Return the features (n, ...) of some frames: float16 as stored, else float32.

        Raises:
            TeacherError: they were removed or cut off since the check.
        """
        parts = tuple(np.empty((len(frames), *shape), dtype) for shape, dtype in self._parts)
        absent = sum(
            int(records.read_unchecked(numbers, rows, parts).sum())
            for records, numbers, rows in self._located(layer, frames)
        )
        if absent:
            raise TeacherError(
                f"{self._folder or 'features'}: cached features of {absent} frames were removed or"
                " cut off; start again to compute them"
            )
        return parts[0] if self._form == "float16" else decode(parts, self._form)

    def _read(self, layer: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        records = np.empty((len(frames), self._size), np.uint8)
        absent = np.ones(len(frames), bool)
        for records_file, numbers, rows in self._located(layer, frames):
            absent[rows] = records_file.read(numbers, rows, records)
        return records, absent

    def _located(
        self, layer: int, frames: np.ndarray
    ) -> Iterator[tuple[_Records, np.ndarray, np.ndarray]]:
        """Yield the records of each episode, the numbers in them, and the rows of ``frames``."""
        episodes = np.searchsorted(self._starts, frames, side="right") - 1
        for episode in np.unique(episodes).tolist():
            rows = np.flatnonzero(episodes == episode)
            numbers = layer * self._frames[episode] + frames[rows] - self._starts[episode]
            yield self._records[episode], numbers, rows

    def _encoded(self, values: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """Return the records (n, bytes) of features."""
        encoded = encode(values, self._form)
        count = len(values)
        lost = cosine_errors(values, decode(encoded, self._form), norms).reshape(count, -1)
        errors = np.stack([lost.sum(1), lost.max(1), np.full(count, lost.shape[1])], 1)
        return np.concatenate(
            [
                np.ascontiguousarray(array).reshape(count, -1).view(np.uint8)
                for array in (*encoded, errors)
            ],
            axis=1,
        )

    def _errors_of(self, records: np.ndarray) -> np.ndarray:
        """Return sum, maximum and number of tokens (n, 3)."""
        return np.ascontiguousarray(records[:, self._content :]).view(np.float64)


class StoredLayer:
    """Features of one layer (F, ..., C), read from the cache: ``layer[frames]``."""

    def __init__(self, cache: FeatureCache, layer: int) -> None:
        self._cache, self._layer, self.shape = cache, layer, cache.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        frames = np.arange(len(self))[index]
        found = self._cache.read(self._layer, frames.ravel())
        return found.reshape(*frames.shape, *self.shape[1:])


def _unwritable(folder: Path | None, error: OSError) -> TeacherError:
    cure = "free disk space" if error.errno == errno.ENOSPC else "check its permissions"
    return TeacherError(f"{folder}: features cannot be saved ({error.strerror}); {cure}")
