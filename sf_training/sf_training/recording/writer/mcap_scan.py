"""Reads an MCAP file that was cut off from its beginning to the last record that is whole: what is
needed to go on with it.
"""

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
MESSAGE_HEADER = struct.Struct(
    "<BQHIQQ"
)  # opcode, length, channel, sequence, log time, publish time
_RECORD_HEADER = struct.Struct("<BQ")


class McapScanError(ValueError):
    """The file is not an MCAP file of ours; one sentence."""


@dataclass
class McapScan:
    """What a file holds up to ``end`` [bytes]; what lies behind was not written to its end.

    ``unindexed`` is the last chunk when the index of its messages is missing: (chunk, entries per
    channel). ``records`` are the metadata records, oldest first, as (name, values). ``checksum``
    covers the bytes up to ``end``.
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
        """In all whole chunks."""
        return sum(self.counts.values())


def scan_mcap(path: Path, progress: Callable[[int], None] = lambda done: None) -> McapScan:
    """Read a file as far as it is whole: every chunk's checksum is compared.

    Args:
        progress: called with the bytes read so far.

    Raises:
        McapScanError: it does not begin like an MCAP file.
        OSError: it cannot be read.
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
    """Takes a file apart record by record; keeps a chunk until the index of its messages has been
    seen.
    """

    def __init__(self, file, scan: McapScan) -> None:
        self._file, self._scan = file, scan
        self._missing: set[int] = set()  # channels of the last chunk whose index has not come yet
        self._held = b""  # their indexes so far: accepted all together, or written anew
        self._head = b""

    def step(self) -> bool:
        """Take one record; False at the end of what is whole."""
        scan, start = self._scan, self._scan.end
        record = self._next()
        if record is None:
            return False
        opcode, content = record
        if scan.unindexed and opcode != Opcode.MESSAGE_INDEX:
            return False  # cut off between a chunk and its index: written anew
        try:
            if opcode == Opcode.DATA_END:
                scan.complete = True
                return False
            if opcode == Opcode.MESSAGE_INDEX:
                return self._take_index(content)
            if not self._take(opcode, start, content):
                return False
        except Exception:  # whatever the bytes make the parser say: this record is not whole
            return False
        self._accept(content)
        return True

    def _next(self) -> tuple[int, bytes] | None:
        # Behind a chunk its index is read on trial: the position is always that of the last record
        # accepted.
        position = self._file.tell()
        head = self._file.read(_RECORD_HEADER.size)
        if len(head) < _RECORD_HEADER.size:
            return None
        opcode, length = _RECORD_HEADER.unpack(head)
        if opcode == 0 or length > self._scan.size - position - len(head):
            return None
        self._head = head
        return opcode, self._file.read(length)

    def _accept(self, content: bytes) -> None:
        self._scan.checksum.update(self._head)
        self._scan.checksum.update(content)
        self._scan.end += len(self._head) + len(content)

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
                raise ValueError("not a chunk of ours")
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
        """Until the last channel's has come, ``end`` stays behind the chunk."""
        scan = self._scan
        channel = MessageIndex.read(ReadDataStream(BytesIO(content))).channel_id
        if scan.unindexed is None or channel not in self._missing:
            return False
        index = scan.unindexed[0]
        self._missing.remove(channel)
        index.message_index_offsets[channel] = scan.end + len(self._held)
        self._held += self._head + content
        if not self._missing:
            index.message_index_length = len(self._held)
            scan.checksum.update(self._held)
            scan.end += len(self._held)
            self._held = b""
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
