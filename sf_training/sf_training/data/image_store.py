"""Cache the prepared images of one episode in a file, which several processes may share."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import numpy as np


class ImageStore:
    """File with a fixed number of images and a checksum of each, so that an image that was not
    written completely is recognised.

    The file is not memory-mapped: writing to a full disk then raises an error instead of a signal.
    After such an error nothing more is written.

    Args:
        count: number of images.
        shape, dtype: of one image.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._path, self._count = path, count
        self._bytes = int(np.prod(shape)) * dtype.itemsize
        self._writable = True

    def read(self, numbers: np.ndarray, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill ``out[rows]`` with the images ``numbers``; return which (n,) are not in the file."""
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
            pass  # the caller decodes what is missing
        finally:
            os.close(file)
        return missing

    def write(self, numbers: np.ndarray, pictures: np.ndarray) -> None:
        """Write the images ``numbers``; after a disk error do nothing."""
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
                "%s: prepared images are not cached (%s), training decodes them again; free some"
                " disk space or check the permissions",
                self._path,
                error.strerror,
            )
