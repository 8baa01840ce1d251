"""Cache the prepared images of one episode in a file, which several processes may share."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from sf_training.data.record_file import RecordFile


class ImageStore(RecordFile):
    """File of images; after an error of the disk nothing more is written.

    Args:
        count: number of images.
        shape, dtype: of one image.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        super().__init__(path, count, int(np.prod(shape)) * dtype.itemsize)
        self._writable = True

    def write(self, numbers: np.ndarray, records: np.ndarray) -> None:
        """Write the images ``numbers``; after a disk error do nothing."""
        if not self._writable:
            return
        try:
            super().write(numbers, records)
        except OSError as error:
            self._writable = False
            logging.getLogger(__name__).warning(
                "%s: prepared images are not cached (%s), training decodes them again; free some"
                " disk space or check the permissions",
                self.path,
                error.strerror,
            )
