"""Store records of one size in a file, each with a checksum; several processes may share it."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class RecordFile:
    """File with a fixed number of records and a checksum of each, so that a record that was not
    written completely, or was damaged since, is recognised.

    The file is not memory-mapped: writing to a full disk then raises an error instead of a signal.

    Args:
        count: number of records.
        size: of one record [bytes].
    """

    def __init__(self, path: Path, count: int, size: int) -> None:
        self.path, self.count, self.size = path, count, size

    def read(self, numbers: np.ndarray, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill ``out[rows]`` with the records ``numbers``; return which (n,) the file lacks."""
        missing = np.ones(len(numbers), bool)
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return missing
        try:
            table = os.pread(file, 4 * self.count, self.size * self.count)
            if len(table) == 4 * self.count:
                checksums = np.frombuffer(table, np.uint32)
                for index, (number, row) in enumerate(
                    zip(numbers.tolist(), rows.tolist(), strict=True)
                ):
                    if checksums[number]:
                        target = memoryview(out[row]).cast("B")
                        read = os.preadv(file, [target], self.size * number)
                        missing[index] = (
                            read != self.size or zlib.adler32(target) != checksums[number]
                        )
        except OSError:
            pass  # the caller makes what is missing
        finally:
            os.close(file)
        return missing

    def read_unchecked(
        self, numbers: np.ndarray, rows: np.ndarray, parts: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Fill ``part[rows]`` of each part with consecutive bytes of the records ``numbers``.

        No checksum is compared, and nothing is copied twice.

        Returns:
            Which (n,) cannot be read.
        """
        missing = np.ones(len(numbers), bool)
        wanted = sum(part[0].nbytes for part in parts)
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return missing
        try:
            for index, (number, row) in enumerate(
                zip(numbers.tolist(), rows.tolist(), strict=True)
            ):
                targets = [memoryview(part[row]).cast("B") for part in parts]
                missing[index] = os.preadv(file, targets, self.size * number) != wanted
        except OSError:
            pass  # what is left is missing
        finally:
            os.close(file)
        return missing

    def write(self, numbers: np.ndarray, records: np.ndarray) -> None:
        """Write the records ``numbers``.

        Raises:
            OSError: they cannot be written.
        """
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.truncate(file, (self.size + 4) * self.count)
            for number, record in zip(numbers.tolist(), records, strict=True):
                content = np.ascontiguousarray(record).data.cast("B")
                if os.pwrite(file, content, self.size * number) != self.size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                checksum = zlib.adler32(content).to_bytes(4, "little")
                os.pwrite(file, checksum, self.size * self.count + 4 * number)
        finally:
            os.close(file)
