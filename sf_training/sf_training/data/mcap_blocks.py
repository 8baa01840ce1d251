"""Locate the messages of an MCAP file, and read single messages by their location.

A location is (block, offset, length). A block is a chunk of the file; a file with messages outside
of chunks is one block.

MCAP allows messages in any order. Recorders write them nearly in the order of receipt, and the
order of the file is used. If the log times of different topics are out of order by more than
:data:`DISORDER_NS` (a file written topic by topic, or merged), messages are sorted by log time. If
the log times of one topic go back, the clock of the recorder was set, and the order of the file is
used again.
"""

from __future__ import annotations

import heapq
import os
import struct
import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import lz4.frame
import numpy as np
import zstandard
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import ChunkIndex

from sf_training.data.mcap_summary import FileSummary

_CODECS = {"": 0, "none": 0, "zstd": 1, "lz4": 2}
_RECORD = struct.Struct("<BQ")  # opcode, length
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
# first and last log time, uncompressed size, its CRC (0: none), length of the name of the codec
_CHUNK = struct.Struct("<QQQII")
_DATA_START = _RECORD.size + _MESSAGE.size
_MAGIC_BYTES = 8
DISORDER_NS = 500_000_000
_CHUNK_BYTES_MAX = 4 << 30  # a damaged size must not fill the memory


class Block(NamedTuple):
    """A chunk of a file.

    Attributes:
        start: position of its records in the file [bytes].
        packed, size: compressed and uncompressed size of the records [bytes].
        codec: 0 none, 1 zstd, 2 lz4; 3 marks a sqlite3 file (``bag_storage``).
        file_number: number of the file in its bag.
    """

    start: int
    packed: int
    size: int
    codec: int
    file_number: int = 0


class Located(NamedTuple):
    """A message and its location.

    Attributes:
        log_time: [ns].
        data: CDR bytes.
        location: (number of the block, offset in its uncompressed records, length) [bytes].
    """

    channel: int
    log_time: int
    data: memoryview
    location: tuple[int, int, int]


def locate_messages(
    file: BinaryIO,
    summary: FileSummary,
    channels: Collection[int],
    blocks: list[Block],
    file_number: int = 0,
) -> Iterator[Located]:
    """Yield the messages of some channels in the order of receipt.

    Chunks without any of these messages are not decompressed. Checksums are verified.

    Args:
        blocks: the blocks that the locations refer to are appended.
        file_number: number of the file in its bag.

    Raises:
        McapError, struct.error, zstandard.ZstdError, EOFError: the file is damaged.
    """
    if summary.loose:
        size = os.fstat(file.fileno()).st_size
        blocks.append(Block(0, size, size, 0, file_number))
        yield from _unchunked(file, channels, blocks, len(blocks) - 1)
        return
    entries = [
        entry
        for entry in sorted(summary.chunks, key=lambda entry: entry.chunk_start_offset)
        if not entry.message_index_offsets
        or not channels
        or any(channel in channels for channel in entry.message_index_offsets)
    ]
    if all(
        after.message_start_time > before.message_end_time - DISORDER_NS
        for before, after in pairwise(entries)
    ) or _goes_back(
        (each.channel, each.log_time)
        for each in _in_chunks(file, entries, channels, [], file_number)
    ):
        yield from _in_chunks(file, entries, channels, blocks, file_number)
    else:
        yield from _by_log_time(file, entries, channels, blocks, file_number)


def _goes_back(received: Iterable[tuple[int, int]]) -> bool:
    """Return whether the log times of one channel go back, given (channel, log time [ns])."""
    newest: dict[int, int] = {}
    for channel, log_time in received:
        if log_time < newest.get(channel, log_time) - DISORDER_NS:
            return True
        newest[channel] = log_time
    return False


def _by_log_time(
    file: BinaryIO,
    entries: Sequence[ChunkIndex],
    channels: Collection[int],
    blocks: list[Block],
    file_number: int,
) -> Iterator[Located]:
    """Yield messages sorted by log time; only chunks that overlap in time are in memory at once."""
    waiting: list[tuple[int, int, Located]] = []
    count = 0
    entries = sorted(entries, key=lambda entry: entry.message_start_time)
    borders = [*(entry.message_start_time for entry in entries[1:]), None]
    for entry, border in zip(entries, borders, strict=True):
        for located in _in_chunks(file, [entry], channels, blocks, file_number):
            heapq.heappush(waiting, (located.log_time, count, located))
            count += 1
        while waiting and (border is None or waiting[0][0] < border):
            yield heapq.heappop(waiting)[2]


def _in_chunks(
    file: BinaryIO,
    entries: Sequence[ChunkIndex],
    channels: Collection[int],
    blocks: list[Block],
    file_number: int,
) -> Iterator[Located]:
    for entry in entries:
        file.seek(entry.chunk_start_offset)
        record = file.read(entry.chunk_length)
        opcode, length = _RECORD.unpack_from(record)
        if opcode != Opcode.CHUNK or length + _RECORD.size > len(record):
            raise McapError(f"no chunk at byte {entry.chunk_start_offset}")
        yield from _in_chunk(record, entry.chunk_start_offset, channels, blocks, file_number)


class BlockReader:
    """Read messages of one bag by their location. The last block stays decompressed, so that
    consecutive reads from one block are fast.

    Args:
        files: open files in the order of the bag.
        blocks: (C, 5) integers, rows as :class:`Block`.
    """

    def __init__(self, files: Sequence[BinaryIO], blocks: np.ndarray) -> None:
        self._handles, self._blocks = [file.fileno() for file in files], blocks
        self._number, self._content = -1, memoryview(b"")

    def read(self, block: int, offset: int, length: int) -> memoryview:
        """Return the bytes of the message at a location.

        Raises:
            EOFError, zstandard.ZstdError: the file was changed.
        """
        chunk = Block(*self._blocks[block].tolist())
        if chunk.codec == 0:
            return memoryview(self._bytes(chunk.file_number, chunk.start + offset, length))
        if block != self._number:
            packed = self._bytes(chunk.file_number, chunk.start, chunk.packed)
            self._content = _unpack(packed, chunk)
            self._number = block
        return self._content[offset : offset + length]

    def _bytes(self, file_number: int, start: int, length: int) -> bytes:
        data = os.pread(self._handles[file_number], length, start)
        if len(data) < length:
            raise EOFError(f"ends at byte {start + len(data)}")
        return data


def _unpack(data: bytes | memoryview, block: Block) -> memoryview:
    if block.size > _CHUNK_BYTES_MAX:
        raise McapError(f"a chunk claims to hold {block.size} bytes")
    content: bytes | memoryview
    if block.codec == 1:
        content = zstandard.ZstdDecompressor().decompress(data, max_output_size=block.size)
    elif block.codec == 2:
        try:
            content = lz4.frame.decompress(data)
        except RuntimeError as error:
            raise McapError(str(error)) from None
    else:
        content = data
    if len(content) != block.size:
        raise EOFError(f"a chunk holds {len(content)} bytes instead of {block.size}")
    return memoryview(content)


def _in_chunk(
    record: bytes, offset: int, channels: Collection[int], blocks: list[Block], file_number: int
) -> Iterator[Located]:
    """Yield the messages of a chunk record that begins at ``offset`` in the file."""
    _, length = _RECORD.unpack_from(record)
    _, _, size, checksum, name_length = _CHUNK.unpack_from(record, _RECORD.size)
    name_end = _RECORD.size + _CHUNK.size + name_length
    codec = record[name_end - name_length : name_end].decode()
    if codec not in _CODECS:
        raise McapError(f"its chunks are compressed with {codec!r}; only zstd and lz4 are read")
    begin = name_end + 8
    blocks.append(
        Block(offset + begin, length + _RECORD.size - begin, size, _CODECS[codec], file_number)
    )
    content = _unpack(memoryview(record)[begin : length + _RECORD.size], blocks[-1])
    if checksum and zlib.crc32(content) != checksum:
        raise McapError(f"crc of the chunk at byte {offset} is wrong")
    found = list(_in_block(content, channels, len(blocks) - 1))
    if any(
        after.log_time < before.log_time - DISORDER_NS for before, after in pairwise(found)
    ) and not _goes_back((each.channel, each.log_time) for each in found):
        found.sort(key=lambda located: located.log_time)
    yield from found


def _in_block(content: memoryview, channels: Collection[int], block: int) -> Iterator[Located]:
    position, end = 0, len(content)
    while position < end:
        opcode, length = _RECORD.unpack_from(content, position)
        following = position + _RECORD.size + length
        if following > end:
            raise EOFError("a message reaches beyond its chunk")
        if opcode == Opcode.MESSAGE:
            channel, _, log_time, _ = _MESSAGE.unpack_from(content, position + _RECORD.size)
            if channel in channels:
                start = position + _DATA_START
                yield Located(
                    channel, log_time, content[start:following], (block, start, following - start)
                )
        position = following


def _unchunked(
    file: BinaryIO, channels: Collection[int], blocks: list[Block], block: int
) -> Iterator[Located]:
    """Yield the messages of a file in which some lie outside of chunks; ``block`` is the file."""
    file_number, end = blocks[block].file_number, blocks[block].size
    # Of every message and chunk record: position, log time (a chunk takes that of the record before
    # it), channel (-1 for a chunk).
    starts, times, owners = array("q"), array("q"), array("q")
    for opcode, position, _ in _records(file, end):
        if opcode == Opcode.MESSAGE:
            channel, _, log_time, _ = _MESSAGE.unpack(file.read(_MESSAGE.size))
            if log_time >= 1 << 63:
                raise McapError(f"the message at byte {position} has log time {log_time}")
            times.append(log_time)
            owners.append(channel)
            starts.append(position)
        elif opcode == Opcode.CHUNK:
            times.append(times[-1] if times else 0)
            owners.append(-1)
            starts.append(position)
    order = np.arange(len(starts))
    disordered = len(times) and (np.diff(np.array(times)) < -DISORDER_NS).any()
    if disordered and not _goes_back(zip(owners, times, strict=True)):
        order = np.argsort(np.array(times), kind="stable")
    for position in (starts[row] for row in order.tolist()):
        file.seek(position)
        header = file.read(_RECORD.size)
        opcode, length = _RECORD.unpack(header)
        if opcode == Opcode.CHUNK:
            yield from _in_chunk(
                header + file.read(length), position, channels, blocks, file_number
            )
            continue
        record = memoryview(file.read(length))
        channel, _, log_time, _ = _MESSAGE.unpack_from(record)
        if channel in channels:
            location = (block, position + _DATA_START, length - _MESSAGE.size)
            yield Located(channel, log_time, record[_MESSAGE.size :], location)


def _records(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield opcode, position and length of the records before the end of the data. The position of
    ``file`` is then at the content of the record.
    """
    position = _MAGIC_BYTES
    while True:
        file.seek(position)
        opcode, length = _RECORD.unpack(file.read(_RECORD.size))
        if opcode == Opcode.DATA_END:
            return
        if position + _RECORD.size + length > end:
            raise EOFError(f"ends at byte {end}")
        yield opcode, position, length
        position += _RECORD.size + length
