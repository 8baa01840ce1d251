"""Read the summary of an MCAP file, or rebuild it with the library if it is incomplete.

MCAP allows a summary without chunk index, statistics or channels, and even a file without summary.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mcap.reader import make_reader
from mcap.records import Attachment, Channel, Chunk, ChunkIndex, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary

_RECORD_HEAD = 9  # bytes of opcode and length
_CHUNK_HEAD = 8 + 8 + 8 + 4 + 4 + 8  # bytes of times, uncompressed size, checksum, two lengths


@dataclass
class FileSummary:
    """Content of one file.

    Attributes:
        schemas, channels: by id.
        counts: channel id to number of messages.
        chunks: index of every chunk.
        attachments: name to content.
        records: metadata records as (name, values).
        loose: some messages lie outside of chunks.
        start: first time of receipt [ns]; 0 if there is no message.
    """

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    attachments: dict[str, bytes] = field(default_factory=dict)
    records: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    loose: bool = False
    start: int = 0

    @property
    def unpacked(self) -> int:
        """Uncompressed size of all chunks [bytes]."""
        return sum(chunk.uncompressed_size for chunk in self.chunks)


def read_summary(path: Path) -> FileSummary:
    """Return the content of a file, cached until the file changes.

    Raises:
        McapError, EOFError and others of ``bag_storage.DAMAGE``: the file is truncated or damaged.
    """
    status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: Path, _size: int, _changed: int) -> FileSummary:
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        if summary is None or not _is_complete(summary):
            return _rebuilt(file)
        statistics = summary.statistics
        assert statistics is not None  # of a complete summary
        counts = {
            channel: count for channel, count in statistics.channel_message_counts.items() if count
        }
        return FileSummary(
            schemas=summary.schemas,
            channels=summary.channels,
            counts=counts,
            chunks=summary.chunk_indexes,
            attachments={each.name: each.data for each in reader.iter_attachments()},
            records=[(each.name, each.metadata) for each in reader.iter_metadata()],
            loose=not summary.chunk_indexes,
            start=statistics.message_start_time,
        )


def _is_complete(summary: Summary) -> bool:
    """Return whether the summary lists everything that its statistics count."""
    counted = summary.statistics
    if counted is None:
        return False
    used = [channel for channel, count in counted.channel_message_counts.items() if count]
    return (
        sum(counted.channel_message_counts.values()) == counted.message_count
        and len(summary.chunk_indexes) == counted.chunk_count
        and len(summary.attachment_indexes) == counted.attachment_count
        and len(summary.metadata_indexes) == counted.metadata_count
        and all(channel in summary.channels for channel in used)
        and all(
            each.schema_id in summary.schemas
            for each in summary.channels.values()
            if each.schema_id
        )
    )


def _rebuilt(file: BinaryIO) -> FileSummary:
    """Return the content of a file after reading all of its records."""
    found = FileSummary()
    file.seek(0)
    for record in StreamReader(file, emit_chunks=True).records:
        if isinstance(record, Chunk):
            for inner in breakup_chunk(record):
                _add(found, inner)
            length = (
                _RECORD_HEAD + _CHUNK_HEAD + len(record.compression.encode()) + len(record.data)
            )
            found.chunks.append(
                ChunkIndex(
                    chunk_start_offset=file.tell() - length,
                    chunk_length=length,
                    message_start_time=record.message_start_time,
                    message_end_time=record.message_end_time,
                    message_index_offsets={},
                    message_index_length=0,
                    compression=record.compression,
                    compressed_size=len(record.data),
                    uncompressed_size=record.uncompressed_size,
                )
            )
        else:
            found.loose |= isinstance(record, Message)
            _add(found, record)
    return found


def _add(found: FileSummary, record: object) -> None:
    if isinstance(record, Message):
        found.start = min(found.start or record.log_time, record.log_time)
        found.counts[record.channel_id] = found.counts.get(record.channel_id, 0) + 1
    elif isinstance(record, Schema):
        found.schemas[record.id] = record
    elif isinstance(record, Channel):
        found.channels[record.id] = record
    elif isinstance(record, Attachment):
        found.attachments[record.name] = record.data
    elif isinstance(record, Metadata):
        found.records.append((record.name, record.metadata))
