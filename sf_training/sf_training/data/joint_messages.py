"""Store joint states in arrays, without one Python object per message."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import numpy as np

from sf_training.data.bag_units import Conversions, converted

_HEADER = 16  # bytes of CDR encapsulation, stamp and length of frame_id


class JointMessages(Sequence):
    """N messages with ``name`` and ``position`` in recorded order; behaves like a list of messages.

    Args:
        layouts: different lists of joint names.
        layout: (N,) index into ``layouts`` of each message.
        starts: (N + 1,) index in ``values`` at which the positions of each message begin.
        values: positions of all messages, concatenated.
    """

    def __init__(
        self, layouts: list[list[str]], layout: np.ndarray, starts: np.ndarray, values: np.ndarray
    ) -> None:
        self._layouts, self._layout, self._starts, self._values = layouts, layout, starts, values

    def __len__(self) -> int:
        return len(self._layout)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index]
        begin, end = self._starts[row], self._starts[row + 1]
        return SimpleNamespace(
            name=self._layouts[self._layout[row]], position=self._values[begin:end]
        )

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: np.ndarray) -> JointMessages:
        """Return some of the messages."""
        rows = np.asarray(rows, int)
        begins, ends = self._starts[:-1][rows], self._starts[1:][rows]
        lengths = ends - begins
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        picked = np.repeat(begins - starts[:-1], lengths) + np.arange(starts[-1])
        return JointMessages(self._layouts, self._layout[rows], starts, self._values[picked])

    @property
    def finite(self) -> np.ndarray:
        """(N,) whether all positions of a message are finite."""
        if not len(self._values):
            return np.ones(len(self), bool)
        wrong = np.concatenate([[0], np.cumsum(~np.isfinite(self._values))])
        return wrong[self._starts[1:]] == wrong[self._starts[:-1]]

    def most_frequent_layout(self) -> np.ndarray:
        """Return the rows of the messages with the most frequent list of names.

        Where several publishers give some joints each, these are the messages of one of them.
        """
        numbers, counts = np.unique(self._layout, return_counts=True)
        return np.flatnonzero(self._layout == numbers[np.argmax(counts)])

    def names(self) -> set[str]:
        """Return all joints named in the messages."""
        return {
            name for number in np.unique(self._layout).tolist() for name in self._layouts[number]
        }

    def repeated(self) -> str:
        """Return a joint that a message names twice; empty if there is none."""
        for number in np.unique(self._layout).tolist():
            names = self._layouts[number]
            if len(set(names)) < len(names):
                return next(name for name in names if names.count(name) > 1)
        return ""

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (n,) of the messages that hold a joint, and its positions (n,)."""
        rows, values = [], []
        lengths = np.diff(self._starts)
        for number, names in enumerate(self._layouts):
            if name in names:
                column = names.index(name)
                found = np.flatnonzero((self._layout == number) & (lengths > column))
                rows.append(found)
                values.append(self._values[self._starts[found] + column])
        if not rows:
            return np.empty(0, np.int64), np.empty(0)
        order = np.argsort(np.concatenate(rows), kind="stable")
        return np.concatenate(rows)[order], np.concatenate(values)[order]


class JointMessageBuilder:
    """Collect joint states from their CDR bytes.

    Args:
        renamed: joint in the bag to joint of the contract.
        conversions: channel to unit conversions of its joints.
    """

    def __init__(
        self,
        renamed: Mapping[str, str],
        conversions: Mapping[int, Conversions] | None = None,
    ) -> None:
        self._renamed, self._conversions = renamed, conversions or {}
        self._numbers: dict[tuple[tuple[str, ...], int], int] = {}  # (names, channel) to layout
        self._sizes: list[int] = []  # number of names in each layout
        self._layout, self._lengths, self._values = array("i"), array("q"), array("d")
        # (position of the names, channel) to bytes of the names and layout: the names of most
        # messages equal those before, and need not be parsed again.
        self._known: dict[tuple[int, int], tuple[bytes, int]] = {}

    def add(self, names: Sequence[str], positions: Sequence[float], channel: int = 0) -> None:
        """Add a message that is already deserialised."""
        number = self._number(names, channel)
        values = np.asarray(positions, float)[: self._sizes[number]]
        self._layout.append(number)
        self._lengths.append(len(values))
        self._values.frombytes(values.tobytes())

    def add_bytes(self, data: memoryview, channel: int = 0) -> bool:
        """Add a little-endian ``sensor_msgs/JointState``; return False if it has another layout and
        must be deserialised by the library.

        Raises:
            struct.error, ValueError: the bytes end too early.
        """
        if len(data) < _HEADER + 8 or data[1] != 1:
            return False
        names_at = _aligned(_HEADER + struct.unpack_from("<I", data, 12)[0], 4)
        known = self._known.get((names_at, channel))
        if known and data[names_at : names_at + len(known[0])] == known[0]:
            end, number = names_at + len(known[0]), known[1]
        else:
            names, end = _names(data, names_at)
            number = self._number(names, channel)
            self._known[names_at, channel] = (bytes(data[names_at:end]), number)
        count = struct.unpack_from("<I", data, end)[0]
        begin = _aligned(end + 4, 8) if count else end + 4
        if begin + 8 * count > len(data):
            raise ValueError(f"{count} positions in {len(data)} bytes")
        if not _ends_as_joint_state(data, begin + 8 * count):
            return False
        length = min(count, self._sizes[number])
        self._values.frombytes(data[begin : begin + 8 * length])
        self._layout.append(number)
        self._lengths.append(length)
        return True

    def built(self) -> JointMessages:
        """Return the messages in the units of the contract."""
        starts = np.concatenate([[0], np.cumsum(np.array(self._lengths, np.int64))]).astype(
            np.int64
        )
        layout, values = np.array(self._layout, np.int32), np.array(self._values, float)
        for (names, channel), number in self._numbers.items():
            conversions = self._conversions.get(channel, {})
            rows = np.flatnonzero(layout == number) if conversions else np.empty(0, int)
            for column, name in enumerate(names):
                if name in conversions:
                    found = rows[starts[rows] + column < starts[rows + 1]]
                    values[starts[found] + column] = converted(
                        values[starts[found] + column], conversions[name]
                    )
        return JointMessages([list(names) for names, _ in self._numbers], layout, starts, values)

    def _number(self, names: Sequence[str], channel: int) -> int:
        key = (tuple(self._renamed.get(name, name) for name in names), channel)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._sizes.append(len(names))
        return self._numbers[key]


def _names(data: memoryview, position: int) -> tuple[list[str], int]:
    """Return a CDR sequence of strings and the position after it."""
    (count,) = struct.unpack_from("<I", data, position)
    position += 4
    names = []
    if count > len(data):
        raise ValueError(f"{count} names in {len(data)} bytes")
    for _ in range(count):
        position = _aligned(position, 4)
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if position + length > len(data):
            raise ValueError(f"a name of {length} bytes in {len(data)} bytes")
        names.append(bytes(data[position : position + max(length - 1, 0)]).decode())
        position += length
    return names, _aligned(position, 4)


def _ends_as_joint_state(data: memoryview, position: int) -> bool:
    """Return whether velocities and efforts follow at ``position``, and nothing after them."""
    for _ in range(2):
        if position + 4 > len(data):
            return False
        (count,) = struct.unpack_from("<I", data, position)
        position = _aligned(position + 4, 8) + 8 * count if count else position + 4
    return position in (len(data), len(data) - 4)  # rclpy pads after an empty array at the end


def _aligned(position: int, size: int) -> int:
    """Return the next aligned position; CDR counts from the end of the encapsulation (4 bytes)."""
    return position + -(position - 4) % size
