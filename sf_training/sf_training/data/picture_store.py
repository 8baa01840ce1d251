"""Prepared pictures of one episode in a file that fills while they are asked for. Processes may
share it.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import numpy as np


class PictureStore:
    """Rows of one shape. Each has a checksum, so that a row that was not or not wholly written is
    not taken for one.

    Nothing is mapped: a full disk is an error that can be caught, and then no more is kept.

    Args:
        count: rows; ``shape`` and ``dtype`` are those of one.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._path, self._count = path, count
        self._bytes = int(np.prod(shape)) * dtype.itemsize
        self._writable = True

    def read(self, numbers: np.ndarray, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill ``out[rows]`` with the rows ``numbers``; True (n,) where a row is not kept."""
        missing = np.ones(len(numbers), bool)
        try:
            file = os.open(self._path, os.O_RDONLY)
        except OSError:
            return missing
        try:
            checksums = np.frombuffer(
                os.pread(file, 4 * self._count, self._bytes * self._count), np.uint32
            )
            if len(checksums) == self._count:
                for index, (number, row) in enumerate(
                    zip(numbers.tolist(), rows.tolist(), strict=True)
                ):
                    if checksums[number]:
                        target = memoryview(out[row]).cast("B")
                        read = os.preadv(file, [target], self._bytes * number)
                        missing[index] = (
                            read != self._bytes or zlib.adler32(target) != checksums[number]
                        )
        except OSError:
            pass  # what was not read is decoded
        finally:
            os.close(file)
        return missing

    def write(self, numbers: np.ndarray, pictures: np.ndarray) -> None:
        """Keep some rows, as far as the disk allows."""
        if not self._writable:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.truncate(file, (self._bytes + 4) * self._count)
                for number, picture in zip(numbers.tolist(), pictures, strict=True):
                    content = memoryview(np.ascontiguousarray(picture)).cast("B")
                    if os.pwrite(file, content, self._bytes * number) == self._bytes:
                        checksum = zlib.adler32(content).to_bytes(4, "little")
                        os.pwrite(file, checksum, self._bytes * self._count + 4 * number)
            finally:
                os.close(file)
        except OSError as error:
            self._writable = False
            logging.getLogger(__name__).warning(
                "%s: prepared pictures are not kept (%s); training goes on and decodes them again",
                self._path,
                error.strerror,
            )
