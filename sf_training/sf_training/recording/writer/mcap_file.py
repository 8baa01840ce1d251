"""Write an MCAP file chunk by chunk, so that complete chunks survive a crash or a power failure.

``mcap.writer.Writer`` compresses at zstd's default level, which takes longer than level 1 on camera
images. It can neither continue an interrupted file nor compute a SHA-256. This class assembles the
file from the records of the same library. Format: https://mcap.dev/spec
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Attachment,
    AttachmentIndex,
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from sf_training.recording.writer.mcap_scan import MAGIC, MESSAGE_HEADER, McapScan

_CHUNK_BYTES = 1 << 20
_ZSTD_LEVEL = 1


class McapFile:
    """An MCAP file open for writing. Not thread-safe. OSError passes through; do not use the file
    after one.
    """

    def __init__(self, path: Path, library: str) -> None:
        self._begin(open(path, "xb", buffering=0))  # noqa: SIM115 (closed in close and abort)
        # The lock tells `recover` that a running recorder still writes this file.
        with suppress(OSError):  # not every file system supports locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._put(MAGIC)
        self._put_record(Header("ros2", library))

    @classmethod
    def reopen(cls, path: Path, scan: McapScan) -> Self:
        """Continue an interrupted file after its last complete record.

        Args:
            scan: of this file.

        Raises:
            BlockingIOError: another process is still writing the file.
        """
        file = open(path, "r+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_size != scan.size:
                raise BlockingIOError("grew while it was read")
            file.truncate(scan.end)
            file.seek(scan.end)
        except OSError:
            file.close()
            raise
        self = cls.__new__(cls)
        self._begin(file)
        self._checksum, self._offset = scan.checksum, scan.end
        self._schemas, self._channels, self._counts = scan.schemas, scan.channels, scan.counts
        self._attachments, self._metadata = scan.attachments, scan.metadata
        for index in scan.chunks:
            self._add_chunk_index(index)
        if scan.unindexed:
            index, entries = scan.unindexed
            self._put_message_indexes(index, entries)
        return self

    def _begin(self, file: IO[bytes]) -> None:
        self._file = file
        self._chunk_first = self._chunk_last = 0
        self._checksum = hashlib.sha256()
        self._offset = 0
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        # Chunk indexes as bytes, to save memory: a long episode has tens of thousands.
        self._chunks = RecordBuilder()
        self._chunk_count = 0
        self._attachments: list[AttachmentIndex] = []
        self._metadata: list[MetadataIndex] = []
        self._counts: dict[int, int] = {}
        self._first, self._last = 2**63 - 1, 0
        self._clear_chunk()

    @property
    def sha256(self) -> str:
        """Checksum of the bytes written so far; of the whole file after :meth:`close`."""
        return self._checksum.hexdigest()

    @property
    def size(self) -> int:
        """Number of bytes handed to the operating system so far."""
        return self._offset

    @property
    def counts(self) -> dict[int, int]:
        """Number of messages per channel."""
        return self._counts

    @property
    def time_range(self) -> tuple[int, int]:
        """First and last log time in closed chunks [ns]; meaningless without messages."""
        return self._first, self._last

    def add_schema(self, name: str, definition: str) -> int:
        """Add a ROS 2 message definition; return its id."""
        schema = Schema(
            id=len(self._schemas) + 1, name=name, encoding="ros2msg", data=definition.encode()
        )
        self._schemas.append(schema)
        self._put_record(schema)
        return schema.id

    def add_channel(self, topic: str, schema_id: int, metadata: dict[str, str]) -> int:
        """Add a topic; return the id of its channel."""
        channel = Channel(
            id=len(self._channels) + 1,
            topic=topic,
            message_encoding="cdr",
            schema_id=schema_id,
            metadata=metadata,
        )
        self._channels.append(channel)
        self._counts[channel.id] = 0
        self._put_record(channel)
        return channel.id

    def write(
        self, channel_id: int, data: bytes | memoryview, log_time: int, publish_time: int
    ) -> None:
        """Add a message to the current chunk.

        Args:
            data: is not copied before the chunk is full; do not modify it.
            log_time, publish_time: [ns].
        """
        length = 22 + len(data)
        header = MESSAGE_HEADER.pack(
            Opcode.MESSAGE, length, channel_id, self._counts[channel_id], log_time, publish_time
        )
        self._index[channel_id].append((log_time, self._chunk_size))
        self._chunk_records += (header, data)
        self._chunk_size += 9 + length
        self._counts[channel_id] += 1
        self._chunk_first, self._chunk_last = (
            min(self._chunk_first, log_time),
            max(self._chunk_last, log_time),
        )
        if self._chunk_size >= _CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Close the current chunk and hand it to the operating system."""
        if not self._chunk_records:
            return
        raw = b"".join(self._chunk_records)
        compressed = self._compressor.compress(raw)
        chunk = Chunk(
            "zstd", compressed, self._chunk_last, self._chunk_first, zlib.crc32(raw), len(raw)
        )
        start = self._offset
        self._put_record(chunk)
        index = ChunkIndex(
            chunk_length=self._offset - start,
            chunk_start_offset=start,
            compression="zstd",
            compressed_size=len(compressed),
            message_end_time=self._chunk_last,
            message_index_length=0,
            message_index_offsets={},
            message_start_time=self._chunk_first,
            uncompressed_size=len(raw),
        )
        self._put_message_indexes(index, self._index)
        self._clear_chunk()

    def sync(self) -> None:
        """Wait until flushed chunks are on the disk, where they survive a power failure."""
        os.fdatasync(self._file.fileno())

    def attach(self, name: str, media_type: str, data: bytes) -> None:
        """Embed a file as an attachment."""
        start = self._offset
        self._put_record(
            Attachment(create_time=0, log_time=0, name=name, media_type=media_type, data=data)
        )
        self._attachments.append(
            AttachmentIndex(start, self._offset - start, 0, 0, len(data), name, media_type)
        )

    def add_metadata(self, name: str, values: dict[str, str]) -> None:
        """Embed a metadata record of keys and values; close the current chunk before it."""
        self.flush()
        start = self._offset
        self._put_record(Metadata(name, values))
        self._metadata.append(MetadataIndex(start, self._offset - start, name))

    def close(self) -> None:
        """Write summary and footer, and wait until the file is on the disk."""
        self.flush()
        self._put_record(DataEnd(0))
        summary = RecordBuilder()
        summary_start, groups = self._offset, []
        for opcode, records in (
            (Opcode.SCHEMA, self._schemas),
            (Opcode.CHANNEL, self._channels),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, None),
            (Opcode.ATTACHMENT_INDEX, self._attachments),
            (Opcode.METADATA_INDEX, self._metadata),
        ):
            start = summary.count
            if records is None:
                summary.write(self._chunks.end())
            else:
                for record in records:
                    record.write(summary)
            if summary.count > start:
                groups.append(
                    SummaryOffset(
                        group_opcode=opcode,
                        group_start=summary_start + start,
                        group_length=summary.count - start,
                    )
                )
        offset_start = summary_start + summary.count
        for group in groups:
            group.write(summary)
        content = summary.end()
        # The footer's checksum covers the summary and the footer itself up to the checksum.
        crc = zlib.crc32(
            struct.pack("<BQQQ", Opcode.FOOTER, 20, summary_start, offset_start),
            zlib.crc32(content),
        )
        self._put(content)
        self._put_record(
            Footer(summary_start=summary_start, summary_offset_start=offset_start, summary_crc=crc)
        )
        self._put(MAGIC)
        os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """Close the file without a summary."""
        self._file.close()

    def _put_message_indexes(
        self, index: ChunkIndex, entries: dict[int, list[tuple[int, int]]]
    ) -> None:
        """Write the message indexes of the chunk written last, and add it to the chunk index.

        Args:
            entries: channel to (log time [ns], offset in the uncompressed chunk) of its messages.
        """
        start = self._offset
        for channel_id, records in entries.items():
            index.message_index_offsets[channel_id] = self._offset
            self._put_record(MessageIndex(channel_id, records))
        index.message_index_length = self._offset - start
        self._add_chunk_index(index)

    def _add_chunk_index(self, index: ChunkIndex) -> None:
        index.write(self._chunks)
        self._chunk_count += 1
        self._first, self._last = (
            min(self._first, index.message_start_time),
            max(self._last, index.message_end_time),
        )

    def _statistics(self) -> Statistics:
        total = sum(self._counts.values())
        return Statistics(
            attachment_count=len(self._attachments),
            channel_count=len(self._channels),
            channel_message_counts=defaultdict(int, self._counts),
            chunk_count=self._chunk_count,
            message_count=total,
            message_end_time=self._last,
            message_start_time=self._first if total else 0,
            metadata_count=len(self._metadata),
            schema_count=len(self._schemas),
        )

    def _clear_chunk(self) -> None:
        self._chunk_records: list[bytes | memoryview] = []
        self._index: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._chunk_size = 0
        self._chunk_first, self._chunk_last = 2**63 - 1, 0

    def _put_record(self, record: McapRecord) -> None:
        builder = RecordBuilder()
        record.write(builder)
        self._put(builder.end())

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._checksum.update(data)
        self._offset += len(data)
