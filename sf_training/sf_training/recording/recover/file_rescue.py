"""Copy the readable messages of a damaged MCAP file, of any recorder, to a new file beside it. No
rclpy here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard
from mcap.exceptions import McapError
from mcap.records import Attachment, Channel, Chunk, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer

_DAMAGE = (
    McapError,
    EOFError,
    struct.error,
    zstandard.ZstdError,
    RuntimeError,
    ValueError,
    IndexError,
    OverflowError,
    MemoryError,
)


class RescueError(RuntimeError):
    """Nothing can be saved, and nothing was written; the message is one sentence."""


@dataclass(frozen=True)
class Rescued:
    """The new file: its path, its number of messages, and the number of unreadable chunks."""

    path: Path
    messages: int
    damaged: int


def rescue_file(source: Path, progress: Callable[[int], None] = lambda done: None) -> Rescued:
    """Copy every readable message to ``NAME_recovered.mcap``; the damaged file is not changed.

    Chunks with a wrong checksum are skipped; reading continues after them.

    Args:
        progress: called with the number of bytes read so far.

    Raises:
        RescueError: it is no MCAP file, no message can be read, a file cannot be read or written,
            or the new one already exists.
    """
    if source.suffix == ".db3":
        raise RescueError(
            f"{source}: is an sqlite3 bag; recover it with `sqlite3 {source} .recover | sqlite3"
            " recovered.db3`"
        )
    target = source.with_name(f"{source.stem}_recovered.mcap")
    fresh = target.with_suffix(".new")
    if target.exists():
        raise RescueError(f"{target}: already exists; remove or rename it")
    try:
        with source.open("rb") as stream, fresh.open("wb") as out:
            copy = _Copy(out)
            for record in _records(stream):
                copy.take(record)
                progress(stream.tell())
            copy.writer.finish()
        if not copy.messages:
            raise RescueError(f"{source}: holds no message that can be read; record it again")
        fresh.rename(target)
    except OSError as error:
        raise RescueError(
            f"{source}: cannot be copied ({error.strerror}); check its path, or free some disk"
            " space"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)
    return Rescued(target, copy.messages, copy.damaged)


class _Copy:
    def __init__(self, out: IO[bytes]) -> None:
        self.messages = self.damaged = 0
        self.writer = Writer(out, compression=CompressionType.ZSTD)
        self.writer.start(profile="ros2", library="sf_training recover")
        self._schemas: dict[int, int] = {0: 0}
        self._channels: dict[int, int] = {}

    def take(self, record: McapRecord) -> None:
        """Copy a record, or all records of a chunk; count a damaged chunk and skip it."""
        if isinstance(record, Chunk):
            try:
                inner = breakup_chunk(record, validate_crc=True)
            except _DAMAGE:
                self.damaged += 1
                return
            for each in inner:
                self.take(each)
        elif isinstance(record, Schema):
            if record.id not in self._schemas:
                self._schemas[record.id] = self.writer.register_schema(
                    record.name, record.encoding, record.data
                )
        elif isinstance(record, Channel):
            if record.id not in self._channels and record.schema_id in self._schemas:
                schema = self._schemas[record.schema_id]
                self._channels[record.id] = self.writer.register_channel(
                    record.topic, record.message_encoding, schema, record.metadata
                )
        elif isinstance(record, Message):
            if record.channel_id in self._channels:
                channel = self._channels[record.channel_id]
                self.writer.add_message(
                    channel, record.log_time, record.data, record.publish_time, record.sequence
                )
                self.messages += 1
        elif isinstance(record, Attachment):
            self.writer.add_attachment(
                record.create_time, record.log_time, record.name, record.media_type, record.data
            )
        elif isinstance(record, Metadata):
            self.writer.add_metadata(record.name, record.metadata)


def _records(stream: IO[bytes]) -> Iterator[McapRecord]:
    """Yield records up to the first one that cannot be parsed."""
    try:
        yield from StreamReader(stream, emit_chunks=True).records
    except (*_DAMAGE, KeyError):
        return
