"""Hold the messages of one topic in arrays, collected while a bag is read."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sf_training.data.joint_messages import JointMessages

_COLUMNS = 9  # stamp, log time, order, block, offset, length, channel, width, height


@dataclass(frozen=True)
class Stream:
    """N messages of one topic in recorded order.

    Attributes:
        stamps: (N,) int64 [ns], header stamp; the log time where the stamp is zero or missing.
        messages: N messages; empty for images, which are not decoded.
        log_times: (N,) int64 [ns], times of receipt.
        order: (N,) position among all messages that were read, of all topics.
        locations: (N, 3) location: block, offset and length, see ``mcap_blocks``.
        channels: (N,) channel number of the bag.
        sizes: (N, 2) width and height of images [pixels], -1 where unreadable; 0 for other types.
    """

    stamps: np.ndarray
    messages: Sequence
    log_times: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    order: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    locations: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))
    channels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    sizes: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @property
    def joint_messages(self) -> JointMessages:
        """Messages of a topic with joint states."""
        assert isinstance(self.messages, JointMessages)
        return self.messages

    def sources(self) -> list[Stream]:
        """Return the messages of each publisher: of each channel of the bag, and for joint states
        of each set of joints. They may be stamped by different clocks.
        """
        channels = self.channels if len(self.channels) else np.zeros(len(self.stamps), int)
        joints = (
            self.messages.publishers()
            if isinstance(self.messages, JointMessages)
            else np.zeros(len(self.stamps), int)
        )
        pairs = np.stack([channels, joints], axis=1)
        return [
            self.take(np.flatnonzero((pairs == pair).all(axis=1)))
            for pair in np.unique(pairs, axis=0)
        ]

    def take(self, rows: np.ndarray) -> Stream:
        """Return some of the messages."""
        contents = self.messages
        if isinstance(contents, JointMessages):
            contents = contents.take(rows)
        elif contents:
            contents = [contents[row] for row in rows.tolist()]
        arrays = (self.log_times, self.order, self.locations, self.channels, self.sizes)
        return Stream(
            self.stamps[rows], contents, *(array[rows] if len(array) else array for array in arrays)
        )


class StreamBuilder:
    """Collect times, locations and sizes of the messages of one topic."""

    def __init__(self) -> None:
        self._table = array("q")

    def add(
        self,
        stamp: int,
        log_time: int,
        order: int,
        location: tuple[int, int, int],
        channel: int,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        """Add a message."""
        self._table.extend((stamp, log_time, order, *location, channel, *size))

    def built(self, contents: Sequence) -> Stream:
        """Return the stream with its messages."""
        table = np.array(self._table, np.int64).reshape(-1, _COLUMNS)
        columns = (table[:, 1], table[:, 2], table[:, 3:6], table[:, 6], table[:, 7:9])
        return Stream(table[:, 0], contents, *columns)
