"""Scan an interrupted MCAP file up to its last complete record, to recover it or to continue it."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import (
    Attachment,
    AttachmentIndex,
    Channel,
    Chunk,
    ChunkIndex,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
)

MAGIC = b"\x89MCAP0\r\n"
# opcode, length, channel, sequence, log time, publish time
MESSAGE_HEADER = struct.Struct("<BQHIQQ")
_RECORD_HEADER = struct.Struct("<BQ")  # opcode, length


class McapScanError(ValueError):
    """The file is not an MCAP file; the message is one sentence."""


@dataclass
class McapScan:
    """Content of a file up to its last complete record.

    Attributes:
        end: position after the last complete record [bytes].
        size: of the file [bytes].
        complete: the file has its end-of-data record.
        counts: number of messages per channel.
        attachments, metadata: index records, for the summary.
        contents: attachments by name.
        records: metadata records as (name, values), oldest first.
        unindexed: last chunk and its message index entries per channel, if the file was cut off
            before that index; else None.
        checksum: SHA-256 of the bytes up to ``end``.
    """

    end: int = 0
    size: int = 0
    complete: bool = False
    schemas: list[Schema] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    attachments: list[AttachmentIndex] = field(default_factory=list)
    metadata: list[MetadataIndex] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    records: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    unindexed: tuple[ChunkIndex, dict[int, list[tuple[int, int]]]] | None = None
    checksum: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def messages(self) -> int:
        """Number of messages in all complete chunks."""
        return sum(self.counts.values())


def scan_mcap(path: Path, progress: Callable[[int], None] = lambda done: None) -> McapScan:
    """Read a file up to its last complete record, and verify the checksum of every chunk.

    Args:
        progress: called with the number of bytes read so far.

    Raises:
        McapScanError: the file does not begin with the MCAP magic bytes.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        scan = McapScan(size=os.fstat(file.fileno()).st_size)
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise McapScanError(f"{path}: is not an MCAP file; delete it")
        scan.checksum.update(magic)
        scan.end = len(MAGIC)
        reader = _Reader(file, scan)
        while reader.step():
            progress(scan.end)
    return scan


class _Reader:
    """Read a file record by record. A chunk is followed by one message index per channel; both
    count as complete only together.
    """

    def __init__(self, file: BinaryIO, scan: McapScan) -> None:
        self._file, self._scan = file, scan
        # Channels of the last chunk whose message index was not read yet, and the bytes of those
        # indexes that were. They are accepted together; otherwise the recovery writes new ones.
        self._missing: set[int] = set()
        self._index_bytes = b""
        self._record_header = b""

    def step(self) -> bool:
        """Read one record; return False at the first one that is not complete."""
        scan, start = self._scan, self._scan.end
        record = self._next()
        if record is None:
            return False
        opcode, content = record
        if scan.unindexed and opcode != Opcode.MESSAGE_INDEX:
            return False  # cut off between a chunk and its message indexes
        try:
            if opcode == Opcode.DATA_END:
                scan.complete = True
                return False
            if opcode == Opcode.MESSAGE_INDEX:
                return self._take_index(content)
            if not self._take(opcode, start, content):
                return False
        except Exception:  # damaged bytes raise any error in the parser
            return False
        self._accept(content)
        return True

    def _next(self) -> tuple[int, bytes] | None:
        """Return opcode and content of the next record; None if the file ends before its end."""
        # Not `scan.end`: message indexes move that only when the last one was read.
        position = self._file.tell()
        header = self._file.read(_RECORD_HEADER.size)
        if len(header) < _RECORD_HEADER.size:
            return None
        opcode, length = _RECORD_HEADER.unpack(header)
        if opcode == 0 or length > self._scan.size - position - len(header):
            return None
        self._record_header = header
        return opcode, self._file.read(length)

    def _accept(self, content: bytes) -> None:
        self._scan.checksum.update(self._record_header)
        self._scan.checksum.update(content)
        self._scan.end += len(self._record_header) + len(content)

    def _take(self, opcode: int, start: int, content: bytes) -> bool:
        scan, stream = self._scan, ReadDataStream(BytesIO(content))
        length = _RECORD_HEADER.size + len(content)
        if opcode == Opcode.SCHEMA:
            scan.schemas.append(Schema.read(stream))
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(stream)
            scan.channels.append(channel)
            scan.counts.setdefault(channel.id, 0)
        elif opcode == Opcode.ATTACHMENT:
            attachment = Attachment.read(stream)
            scan.attachments.append(
                AttachmentIndex(
                    start,
                    length,
                    attachment.create_time,
                    attachment.log_time,
                    len(attachment.data),
                    attachment.name,
                    attachment.media_type,
                )
            )
            scan.contents[attachment.name] = attachment.data
        elif opcode == Opcode.METADATA:
            metadata = Metadata.read(stream)
            scan.metadata.append(MetadataIndex(start, length, metadata.name))
            scan.records.append((metadata.name, metadata.metadata))
        elif opcode == Opcode.CHUNK:
            self._take_chunk(start, length, Chunk.read(stream))
        return opcode in _KNOWN

    def _take_chunk(self, start: int, length: int, chunk: Chunk) -> None:
        data = (
            zstandard.decompress(chunk.data, chunk.uncompressed_size)
            if chunk.compression == "zstd"
            else chunk.data
        )
        if zlib.crc32(data) != chunk.uncompressed_crc:
            raise ValueError("checksum")
        entries: dict[int, list[tuple[int, int]]] = defaultdict(list)
        offset = 0
        while offset < len(data):
            opcode, size, channel, _, log_time, _ = MESSAGE_HEADER.unpack_from(data, offset)
            if opcode != Opcode.MESSAGE or channel not in self._scan.counts:
                raise ValueError("not a chunk of McapFile")
            entries[channel].append((log_time, offset))
            offset += _RECORD_HEADER.size + size
        for channel, times in entries.items():
            self._scan.counts[channel] += len(times)
        index = ChunkIndex(
            length,
            start,
            chunk.compression,
            len(chunk.data),
            chunk.message_end_time,
            0,
            {},
            chunk.message_start_time,
            len(data),
        )
        self._scan.unindexed, self._missing = (index, dict(entries)), set(entries)

    def _take_index(self, content: bytes) -> bool:
        """Read a message index. ``scan.end`` stays at the end of the chunk until the index of its
        last channel was read.
        """
        scan = self._scan
        channel = MessageIndex.read(ReadDataStream(BytesIO(content))).channel_id
        if scan.unindexed is None or channel not in self._missing:
            return False
        index = scan.unindexed[0]
        self._missing.remove(channel)
        index.message_index_offsets[channel] = scan.end + len(self._index_bytes)
        self._index_bytes += self._record_header + content
        if not self._missing:
            index.message_index_length = len(self._index_bytes)
            scan.checksum.update(self._index_bytes)
            scan.end += len(self._index_bytes)
            self._index_bytes = b""
            scan.chunks.append(index)
            scan.unindexed = None
        return True


_KNOWN = (
    Opcode.HEADER,
    Opcode.SCHEMA,
    Opcode.CHANNEL,
    Opcode.ATTACHMENT,
    Opcode.METADATA,
    Opcode.CHUNK,
)
