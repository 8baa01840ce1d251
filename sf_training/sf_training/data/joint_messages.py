"""Store joint states in arrays, without one Python object per message."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from sf_training.data.bag_units import Conversions, converted

_HEADER = 16  # bytes of CDR encapsulation, stamp and length of frame_id


@dataclass(frozen=True)
class ValueLists:
    """N lists of numbers of different lengths.

    Attributes:
        starts: (N + 1,) index in ``values`` at which each list begins.
        values: all lists, concatenated.
    """

    starts: np.ndarray
    values: np.ndarray

    @classmethod
    def of_lengths(cls, lengths: Sequence[int] | np.ndarray, values: np.ndarray) -> ValueLists:
        """Return the lists with given lengths (N,)."""
        return cls(np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]), values)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) number of values in each list."""
        return np.diff(self.starts)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: np.ndarray) -> ValueLists:
        """Return some of the lists."""
        begins, lengths = self.starts[:-1][rows], self.lengths[rows]
        taken = ValueLists.of_lengths(lengths, self.values)
        picked = np.repeat(begins - taken.starts[:-1], lengths) + np.arange(taken.starts[-1])
        return ValueLists(taken.starts, self.values[picked])

    def at(self, rows: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Return those of ``rows`` whose list has a value in ``column``, and its index in
        ``values``.
        """
        found = rows[self.lengths[rows] > column]
        return found, self.starts[found] + column


class JointMessages(Sequence):
    """N messages with ``name``, ``position`` and ``effort`` in recorded order; behaves like a list
    of messages.

    Args:
        layouts: different lists of joint names.
        layout: (N,) index into ``layouts`` of each message.
        positions: of all messages.
        efforts: of all messages; empty where a message does not have one for each of its joints.
    """

    def __init__(
        self,
        layouts: list[list[str]],
        layout: np.ndarray,
        positions: ValueLists,
        efforts: ValueLists,
    ) -> None:
        self._layouts, self._layout = layouts, layout
        self._positions, self._efforts = positions, efforts

    def __len__(self) -> int:
        return len(self._layout)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index]
        return SimpleNamespace(
            name=self._layouts[self._layout[row]],
            position=self._positions[row],
            effort=self._efforts[row],
        )

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return (self[row] for row in range(len(self)))

    def take(self, rows: np.ndarray) -> JointMessages:
        """Return some of the messages."""
        rows = np.asarray(rows, int)
        return JointMessages(
            self._layouts, self._layout[rows], self._positions.take(rows), self._efforts.take(rows)
        )

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

    def publishers(self) -> np.ndarray:
        """Return the publisher (N,) of each message, as a number; publishers differ in their
        joints.
        """
        sets = [frozenset(names) for names in self._layouts]
        numbers = {names: number for number, names in enumerate(dict.fromkeys(sets))}
        return np.array([numbers[names] for names in sets], int)[self._layout]

    def repeated(self) -> str:
        """Return a joint that a message names twice; empty if there is none."""
        for number in np.unique(self._layout).tolist():
            names = self._layouts[number]
            if len(set(names)) < len(names):
                return next(name for name in names if names.count(name) > 1)
        return ""

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (n,) of the messages that hold a joint, and its positions (n,)."""
        return self._column(name, self._positions)

    def efforts(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (n,) of the messages with a finite effort of a joint, and these efforts
        (n,) [N m or N].
        """
        rows, values = self._column(name, self._efforts)
        finite = np.isfinite(values)
        return rows[finite], values[finite]

    def _column(self, name: str, lists: ValueLists) -> tuple[np.ndarray, np.ndarray]:
        rows, values = [], []
        for number, names in enumerate(self._layouts):
            if name in names:
                found, indices = lists.at(np.flatnonzero(self._layout == number), names.index(name))
                rows.append(found)
                values.append(lists.values[indices])
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
        self._effort_lengths, self._efforts = array("q"), array("d")
        # (position of the names, channel) to bytes of the names and layout: the names of most
        # messages equal those before, and need not be parsed again.
        self._known: dict[tuple[int, int], tuple[bytes, int]] = {}

    def add(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        channel: int = 0,
        efforts: Sequence[float] = (),
    ) -> None:
        """Add a message that is already deserialised."""
        given = (np.asarray(values, float) for values in (positions, efforts))
        self._add(self._number(names, channel), *(values.tobytes() for values in given))

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
        efforts = _efforts(data, begin + 8 * count)
        if efforts is None:
            return False
        self._add(number, data[begin : begin + 8 * count], efforts)
        return True

    def built(self) -> JointMessages:
        """Return the messages in the units of the contract."""
        positions = ValueLists.of_lengths(self._lengths, np.array(self._values, float))
        efforts = ValueLists.of_lengths(self._effort_lengths, np.array(self._efforts, float))
        layout = np.array(self._layout, np.int32)
        for (names, channel), number in self._numbers.items():
            conversions = self._conversions.get(channel, {})
            rows = np.flatnonzero(layout == number) if conversions else np.empty(0, int)
            for column, name in enumerate(names):
                if name in conversions:
                    _, found = positions.at(rows, column)
                    positions.values[found] = converted(positions.values[found], conversions[name])
        return JointMessages(
            [list(names) for names, _ in self._numbers], layout, positions, efforts
        )

    def _add(self, number: int, positions: bytes | memoryview, efforts: bytes | memoryview) -> None:
        """Add a message with bytes of doubles. Positions without a name are cut off; efforts count
        only if there is one for each name, because shorter lists do not say whose they are.
        """
        size = self._sizes[number]
        length = min(len(positions) // 8, size)
        self._layout.append(number)
        self._lengths.append(length)
        self._values.frombytes(positions[: 8 * length])
        complete = size and len(efforts) == 8 * size
        self._effort_lengths.append(size if complete else 0)
        if complete:
            self._efforts.frombytes(efforts)

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


def _efforts(data: memoryview, position: int) -> memoryview | None:
    """Return the bytes of the efforts of a joint state whose velocities begin at ``position``; None
    if the message does not end after the efforts.
    """
    begin = position
    for _ in range(2):
        if position + 4 > len(data):
            return None
        (count,) = struct.unpack_from("<I", data, position)
        begin = _aligned(position + 4, 8) if count else position + 4
        position = begin + 8 * count
    if position not in (len(data), len(data) - 4):  # rclpy pads after an empty array at the end
        return None
    return data[begin:position]


def _aligned(position: int, size: int) -> int:
    """Return the next aligned position; CDR counts from the end of the encapsulation (4 bytes)."""
    return position + -(position - 4) % size
