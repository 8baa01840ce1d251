"""Read TFRecord files of ``tf.train.Example`` without TensorFlow.

A record is its length (uint64), a checksum of the length, the data and a checksum of the data. An
Example is a protobuf message: ``Example {Features features = 1}``, ``Features {map<string, Feature>
feature = 1}``, ``Feature {oneof: BytesList = 1, FloatList = 2, Int64List = 3}``, each list with
``repeated value = 1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sf_training.lerobot.layout import LeRobotError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf
_CRC_POLYNOMIAL, _CRC_MASK = 0x82F63B78, 0xA282EAD8  # CRC-32C, reflected; TFRecord's mask


@dataclass(frozen=True)
class Record:
    """Location of the data of a record in a file."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the data. Their checksum is not compared: in Python it takes minutes for 1 GB."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file without reading their data.

    Raises:
        LeRobotError: the file is truncated, or is no TFRecord file.
    """
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(12)
            length = int.from_bytes(header[:8], "little")
            end = position + 12 + length + 4
            if len(header) < 12 or _masked_crc(header[:8]) != int.from_bytes(header[8:], "little"):
                raise LeRobotError(
                    f"{path}: no TFRecord at byte {position}: damaged, or another format; fetch it"
                    " again"
                )
            if end > size:
                raise LeRobotError(f"{path}: is truncated at byte {position}; fetch it again")
            yield Record(path, position + 12, length)
            position = end


def parse_example(data: bytes) -> dict[str, np.ndarray | list[bytes]]:
    """Return the features of a ``tf.train.Example``: bytes as a list, numbers (N,) as an array.

    Raises:
        ValueError: the data are no Example.
    """
    found: dict[str, np.ndarray | list[bytes]] = {}
    try:
        for features in _messages(memoryview(data), 1):
            for entry in _messages(features, 1):
                name, feature = "", memoryview(b"")
                for number, _, value in _fields(entry):
                    if number == 1:
                        name = bytes(value).decode()
                    elif number == 2:
                        feature = value
                found[name] = _feature(feature)
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"no tf.train.Example ({error})") from None
    return found


def _feature(feature: memoryview) -> np.ndarray | list[bytes]:
    for list_type, _, values in _fields(feature):  # 1: bytes, 2: floats, 3: integers
        if list_type == 1:
            return [bytes(value) for number, _, value in _fields(values) if number == 1]
        parts = [(wire, value) for number, wire, value in _fields(values) if number == 1]
        if list_type == 2:  # packed into one field, or one field for each
            return np.frombuffer(b"".join(bytes(value) for _, value in parts), "<f4")
        numbers: list[int] = []
        for wire, value in parts:
            if wire == _VARINT:
                numbers.append(value)
                continue
            position = 0
            while position < len(value):
                number, position = _varint(value, position)
                numbers.append(number)
        return np.array(numbers, np.uint64).astype(np.int64)
    return []


def _messages(buffer: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, wire, value in _fields(buffer):
        if number == wanted and wire == _BYTES:
            yield value


def _fields(buffer: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield number, wire type and value of each field of a protobuf message.

    The value of a varint is an int, of other wire types a memoryview.
    """
    position = 0
    while position < len(buffer):
        tag, position = _varint(buffer, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = _varint(buffer, position)
            yield tag >> 3, wire, value
            continue
        if wire == _BYTES:
            length, position = _varint(buffer, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise IndexError(f"wire type {wire}")
        if position + length > len(buffer):
            raise IndexError("it ends inside a field")
        yield tag >> 3, wire, buffer[position : position + length]
        position += length


def _varint(buffer: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError("a number is too long")


def _masked_crc(data: bytes) -> int:
    """Return TFRecord's masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC_POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _CRC_MASK) & 0xFFFFFFFF
