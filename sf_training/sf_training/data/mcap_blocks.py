"""Where the messages of an MCAP file lie, and how to read some of them without the others.

A block is a chunk of the file: messages that were packed together. Of a file without chunks the
whole file is one block.

The format allows messages in any order. Recorders write them nearly in the order of receipt, and
that order is kept; a file whose topics are more than :data:`DISORDER_NS` apart (written topic by
topic, or merged) is read by log time. Where a topic itself goes back, the recorder's clock was set,
and the order of the file counts.
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
_CHUNK = struct.Struct(
    "<QQQII"
)  # first and last log time, bytes unpacked, their CRC (0: none), length of the codec's name
_DATA_START = _RECORD.size + _MESSAGE.size
_MAGIC_BYTES = 8
DISORDER_NS = 500_000_000
_LARGEST = 4 << 30  # bytes of a chunk: a damaged size must not fill the memory


class Block(NamedTuple):
    """``start`` of the records in the file, their bytes there (``packed``) and unpacked (``size``),
    codec: 0 none, 1 zstd, 2 lz4.

    ``part`` is the number of the file in its bag.
    """

    start: int
    packed: int
    size: int
    codec: int
    part: int = 0


class Located(NamedTuple):
    """A message: its CDR bytes, and where these lie as (number of the block, offset in it unpacked,
    length).
    """

    channel: int
    log_time: int
    data: memoryview
    place: tuple[int, int, int]


def messages_with_places(
    file: BinaryIO,
    summary: FileSummary,
    channels: Collection[int],
    blocks: list[Block],
    part: int = 0,
) -> Iterator[Located]:
    """Yield messages of some channels in the order of receipt; chunks without any of them are not
    unpacked, checksums are compared.

    Args:
        blocks: the file's blocks are appended, so that the places have a meaning.
        part: number of the file in its bag.

    Raises:
        McapError, struct.error, zstandard.ZstdError, EOFError: the file is damaged.
    """
    if summary.loose:
        size = os.fstat(file.fileno()).st_size
        blocks.append(Block(0, size, size, 0, part))
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
        (each.channel, each.log_time) for each in _in_chunks(file, entries, channels, [], part)
    ):
        yield from _in_chunks(file, entries, channels, blocks, part)
    else:
        yield from _by_log_time(file, entries, channels, blocks, part)


def _goes_back(received: Iterable[tuple[int, int]]) -> bool:
    """Return whether the log times of a channel go back, from channels and log times [ns]."""
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
    part: int,
) -> Iterator[Located]:
    """Yield the messages of chunks that overlap; only those that overlap are in memory at once."""
    waiting: list[tuple[int, int, Located]] = []
    count = 0
    entries = sorted(entries, key=lambda entry: entry.message_start_time)
    borders = [*(entry.message_start_time for entry in entries[1:]), None]
    for entry, border in zip(entries, borders, strict=True):
        for located in _in_chunks(file, [entry], channels, blocks, part):
            heapq.heappush(waiting, (located.log_time, count, located))
            count += 1
        while waiting and (border is None or waiting[0][0] < border):
            yield heapq.heappop(waiting)[2]


def _in_chunks(
    file: BinaryIO,
    entries: Sequence[ChunkIndex],
    channels: Collection[int],
    blocks: list[Block],
    part: int,
) -> Iterator[Located]:
    for entry in entries:
        file.seek(entry.chunk_start_offset)
        record = file.read(entry.chunk_length)
        opcode, length = _RECORD.unpack_from(record)
        if opcode != Opcode.CHUNK or length + _RECORD.size > len(record):
            raise McapError(f"no chunk at byte {entry.chunk_start_offset}")
        yield from _in_chunk(record, entry.chunk_start_offset, channels, blocks, part)


class BlockReader:
    """Messages by their places, from the files of one bag; a block is unpacked once for neighbours
    that are asked for in turn.

    Args:
        files: open ones, in the order of the bag.
        blocks: (C, 5) integers, rows as :class:`Block`.
    """

    def __init__(self, files: Sequence[BinaryIO], blocks: np.ndarray) -> None:
        self._handles, self._blocks = [file.fileno() for file in files], blocks
        self._number, self._content = -1, memoryview(b"")

    def read(self, block: int, offset: int, length: int) -> memoryview:
        """Return its bytes.

        Raises:
            EOFError, zstandard.ZstdError: the file has changed.
        """
        which = Block(*self._blocks[block].tolist())
        if which.codec == 0:
            return memoryview(self._bytes(which.part, which.start + offset, length))
        if block != self._number:
            self._content = _unpack(self._bytes(which.part, which.start, which.packed), which)
            self._number = block
        return self._content[offset : offset + length]

    def _bytes(self, part: int, start: int, length: int) -> bytes:
        data = os.pread(self._handles[part], length, start)
        if len(data) < length:
            raise EOFError(f"ends at byte {start + len(data)}")
        return data


def _unpack(data: bytes | memoryview, block: Block) -> memoryview:
    if block.size > _LARGEST:
        raise McapError(f"a chunk claims to hold {block.size} bytes")
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
    record: bytes, offset: int, channels: Collection[int], blocks: list[Block], part: int
) -> Iterator[Located]:
    """Yield the messages of a chunk, whose record begins at ``offset`` in the file."""
    _, length = _RECORD.unpack_from(record)
    _, _, size, checksum, name_length = _CHUNK.unpack_from(record, _RECORD.size)
    name_end = _RECORD.size + _CHUNK.size + name_length
    codec = record[name_end - name_length : name_end].decode()
    if codec not in _CODECS:
        raise McapError(f"its chunks are compressed by {codec!r}; only zstd, lz4 and none are read")
    begin = name_end + 8
    blocks.append(Block(offset + begin, length + _RECORD.size - begin, size, _CODECS[codec], part))
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
    """Yield messages of a file some of which lie outside of chunks; ``block`` is the whole file."""
    part, end = blocks[block].part, blocks[block].size
    starts, times = array("q"), array("q")  # of the records; a chunk is as late as what precedes it
    heard = array("q")  # channel
    for opcode, position, length in _records(file, end):
        if opcode == Opcode.MESSAGE:
            channel, _, log_time, _ = _MESSAGE.unpack(file.read(_MESSAGE.size))
            if log_time >= 1 << 63:
                raise McapError(f"the message at byte {position} has log time {log_time}")
            times.append(log_time)
            heard.append(channel)
            starts.append(position)
        elif opcode == Opcode.CHUNK:
            times.append(times[-1] if times else 0)
            heard.append(-1)
            starts.append(position)
    order = np.arange(len(starts))
    disordered = len(times) and (np.diff(np.array(times)) < -DISORDER_NS).any()
    if disordered and not _goes_back(zip(heard, times, strict=True)):
        order = np.argsort(np.array(times), kind="stable")
    for position in (starts[row] for row in order.tolist()):
        file.seek(position)
        header = file.read(_RECORD.size)
        opcode, length = _RECORD.unpack(header)
        if opcode == Opcode.CHUNK:
            yield from _in_chunk(header + file.read(length), position, channels, blocks, part)
            continue
        record = memoryview(file.read(length))
        channel, _, log_time, _ = _MESSAGE.unpack_from(record)
        if channel in channels:
            place = (block, position + _DATA_START, length - _MESSAGE.size)
            yield Located(channel, log_time, record[_MESSAGE.size :], place)


def _records(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield opcode, position and length of the records before the end of the data; the file then
    stands behind the record's head.
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
