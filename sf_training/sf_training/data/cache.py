"""Arrays that grow episode by episode, in memory or in a folder of ``.npy`` files that is mapped instead of read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sf_training.data.episode_reader import BagError

_NOTES = "notes.json"


class ArrayStore:
    """Named arrays and notes under a key. A folder of another key is left alone: delete it when it is not needed.

    Args:
        root: folder of all keys; None keeps the arrays in memory.
        key: of what the arrays depend on.
    """

    def __init__(self, root: str | Path | None, key: str) -> None:
        self._folder = None if root is None else Path(root) / key
        self._memory: dict[str, list[np.ndarray]] = {}
        self._files: dict[str, _GrowingFile] = {}
        self._partial: Path | None = None
        self._notes: dict = {}

    @property
    def complete(self) -> bool:
        """True when an earlier run has made the folder."""
        return self._folder is not None and (self._folder / _NOTES).is_file()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Everything is appended within; the folder gets its name when all went well, and vanishes otherwise.

        Raises:
            BagError: when the folder cannot be written.
        """
        if self._folder is None:
            yield
            return
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._partial = Path(tempfile.mkdtemp(prefix=self._folder.name + ".partial.", dir=self._folder.parent))
            self._partial.chmod(0o755)  # mkdtemp makes it private
            yield
            for file in self._files.values():
                file.close()
            (self._partial / _NOTES).write_text(json.dumps(self._notes))
            with suppress(OSError):  # another run may have made the same folder meanwhile: its content is the same
                self._partial.rename(self._folder)
        except OSError as error:
            cure = "free some space" if error.errno == errno.ENOSPC else "check its permissions"
            raise BagError(f"{self._folder}: cache cannot be written ({error.strerror}); {cure} or choose another folder") from None
        finally:
            for file in self._files.values():
                file.abandon()
            if self._partial is not None:
                shutil.rmtree(self._partial, ignore_errors=True)

    def append(self, name: str, values: np.ndarray) -> None:
        """Add rows (n, ...) to an array."""
        if self._partial is None:
            self._memory.setdefault(name, []).append(values)
        else:
            if name not in self._files:
                self._files[name] = _GrowingFile(self._partial / f"{name}.npy", values)
            self._files[name].append(values)

    def note(self, values: dict) -> None:
        """Keep what is not an array; JSON."""
        self._notes = values

    def load(self) -> tuple[dict[str, np.ndarray], dict]:
        """All arrays, and the notes. Images and depth of a folder are mapped read-only, smaller arrays are read."""
        if self._folder is None:
            return {name: np.concatenate(parts) for name, parts in self._memory.items()}, self._notes
        try:
            notes = json.loads((self._folder / _NOTES).read_text())
            arrays = {
                path.stem: np.load(path, mmap_mode="r" if path.stem in ("images", "depth") else None) for path in self._folder.glob("*.npy")
            }
        except (OSError, ValueError) as error:
            raise BagError(f"{self._folder}: cache cannot be read ({error}); delete this folder") from None
        return arrays, notes


class _GrowingFile:
    """A ``.npy`` file whose first axis is not known before the end."""

    def __init__(self, path: Path, like: np.ndarray) -> None:
        self._file: BinaryIO = path.open("wb")
        self._shape, self._dtype, self._rows = like.shape[1:], like.dtype, 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        if values.shape[1:] != self._shape or values.dtype != self._dtype:
            raise ValueError(f"{self._file.name}: {values.shape} {values.dtype} does not continue {self._shape} {self._dtype}")
        self._file.write(np.ascontiguousarray(values).data)
        self._rows += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()  # NumPy leaves room in the header for a longer first axis
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        with suppress(OSError):  # a full disk: what is buffered cannot be flushed either
            self._file.close()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
