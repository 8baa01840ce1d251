"""The messages of one topic as arrays, and how they are collected while a bag is read."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sf_training.data.joint_messages import JointMessages

_COLUMNS = 9  # stamp, log time, order, block, offset, length, channel, width, height


@dataclass(frozen=True)
class Stream:
    """One topic, in recorded order; images are not decoded and so not among ``messages``.

    Attributes:
        stamps: (N,) int64 [ns], header stamp or, where that is zero, log time.
        messages: N, or none for images.
        log_times: (N,) int64 [ns], of receipt.
        order: (N,) which message of those that were read it is.
        places: (N, 3) block, offset and length, see ``mcap_blocks``.
        channels: (N,) channel of the bag.
        sizes: (N, 2) width and height of images [pixels]; -1 where the header cannot be read, 0 of
            other messages.
    """

    stamps: np.ndarray
    messages: Sequence
    log_times: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    order: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))
    channels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    sizes: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def part(self, rows: np.ndarray) -> Stream:
        """Return some of the messages."""
        contents = self.messages
        if isinstance(contents, JointMessages):
            contents = contents.take(rows)
        elif contents:
            contents = [contents[row] for row in rows.tolist()]
        arrays = (self.log_times, self.order, self.places, self.channels, self.sizes)
        return Stream(
            self.stamps[rows], contents, *(array[rows] if len(array) else array for array in arrays)
        )


class StreamBuilder:
    """Collects the times and places of one topic; a message costs nine numbers."""

    def __init__(self) -> None:
        self._table = array("q")

    def add(
        self,
        stamp: int,
        log_time: int,
        order: int,
        place: tuple[int, int, int],
        channel: int,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        """Add a message."""
        self._table.extend((stamp, log_time, order, *place, channel, *size))

    def built(self, contents: Sequence) -> Stream:
        """Return the stream with its messages."""
        table = np.array(self._table, np.int64).reshape(-1, _COLUMNS)
        columns = (table[:, 1], table[:, 2], table[:, 3:6], table[:, 6], table[:, 7:9])
        return Stream(table[:, 0], contents, *columns)
