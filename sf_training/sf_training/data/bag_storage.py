"""Read the messages of a bag in recorded order or by their location, for MCAP and sqlite3 alike.

A location is (block, offset, length). MCAP files are read through ``mcap_blocks``, sqlite3 files
through rosbags, where the offset is the row.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import apsw
import numpy as np
import zstandard
from mcap.exceptions import McapError
from mcap.stream_reader import CRCValidationError
from mcap.writer import MCAP0_MAGIC
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from sf_training.data.bag_files import BagError, bag_files, embedded_custom_data, how_to_recover
from sf_training.data.cache_folder import unpacked
from sf_training.data.mcap_blocks import Block, BlockReader, Located, locate_messages
from sf_training.data.mcap_summary import read_summary

DAMAGE = (
    McapError,
    CRCValidationError,
    EOFError,
    struct.error,
    zstandard.ZstdError,
    ReaderError,
    apsw.Error,
    UnicodeDecodeError,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
    RuntimeError,  # of lz4
)
_ROWS = 3  # codec of a block that is a sqlite3 file
# Statements that merge a write-ahead log into its file, and roll back an unfinished transaction.
MERGE = "PRAGMA journal_mode=DELETE; SELECT count(*) FROM messages"


class Channel(NamedTuple):
    """One topic with one message type.

    Attributes:
        encoding: of the messages, "cdr" for ROS 2.
        definition: ROS message definition; empty if the bag has none.
        count: number of messages.
    """

    topic: str
    type_name: str
    encoding: str
    definition: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls


class RandomAccess(Protocol):
    """Read messages by their location."""

    def read(self, block: int, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes of one message."""


class Bag:
    """An opened bag. It holds no open file and can be pickled.

    Attributes:
        files: in recorded order, decompressed.
        custom: custom data of metadata.yaml.
        channels: the index of a channel is its number.
        attachments, records: attachments and metadata records of MCAP files.
        unpacked: approximate size of all messages, decompressed [bytes].
        start: first time of receipt [ns]; 0 if there is no message.

    Raises:
        BagError: the bag is missing, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        found = bag_files(path)
        self.custom = found.custom
        self.files = tuple(unpacked(file) if found.packed else file for file in found.files)
        self.attachments: dict[str, bytes] = {}
        self.records: list[tuple[str, dict[str, str]]] = []
        self.channels: list[Channel] = []
        self.unpacked = 0
        self.start = 0
        self._is_mcap = found.storage == "mcap"
        self._packed_messages = found.packed_messages
        # For each file: channel id in the file to channel number of the bag.
        self._numbers: list[dict[int, int]] = []
        for file in self.files:
            with _damage_as_bag_error(file):
                self._numbers.append(
                    self._add(self._mcap(file) if self._is_mcap else self._sqlite(file))
                )

    def messages(self, channels: Collection[int], blocks: list[Block]) -> Iterator[Located]:
        """Yield messages of some channels in recorded order.

        Args:
            blocks: the blocks that the locations refer to are appended.

        Raises:
            BagError: the bag is damaged, or was changed.
        """
        for file_number, (file, numbers) in enumerate(zip(self.files, self._numbers, strict=True)):
            wanted = {theirs for theirs, number in numbers.items() if number in channels}
            if not wanted:
                continue
            with _damage_as_bag_error(file):
                read = self._read_mcap if self._is_mcap else self._read_sqlite
                for channel, log_time, data, location in read(file, wanted, blocks, file_number):
                    content = memoryview(_decompressed(data)) if self._packed_messages else data
                    yield Located(numbers[channel], log_time, content, location)

    @contextmanager
    def random_access(self, blocks: np.ndarray) -> Iterator[RandomAccess]:
        """Open the files to read messages by their location; damage is raised as BagError.

        Args:
            blocks: (C, 5), as :meth:`messages` filled them.
        """
        with ExitStack() as stack:
            with _damage_as_bag_error(self.files[0]):
                if self._is_mcap:
                    files = [stack.enter_context(file.open("rb")) for file in self.files]
                    reader: RandomAccess = BlockReader(files, blocks)
                else:
                    reader = _RowReader(self.files, blocks, stack)
            yield _CheckedAccess(reader, self.files[0], self._packed_messages)

    def _add(self, channels: dict[int, Channel]) -> dict[int, int]:
        """Merge the channels of a file into those of the bag, equal ones into one.

        Returns:
            Channel id in the file to channel number of the bag.
        """
        numbers = {}
        for theirs, channel in channels.items():
            same = [number for number, each in enumerate(self.channels) if each[:4] == channel[:4]]
            if same:
                total = self.channels[same[0]].count + channel.count
                self.channels[same[0]] = channel._replace(count=total)
                numbers[theirs] = same[0]
            else:
                numbers[theirs] = len(self.channels)
                self.channels.append(channel)
        return numbers

    def _begin(self, start: int) -> None:
        self.start = min(filter(None, (self.start, start)), default=0)

    def _mcap(self, file: Path) -> dict[int, Channel]:
        with file.open("rb") as opened:
            head = opened.read(len(MCAP0_MAGIC))
        # A damaged MCAP file still holds some letters of "MCAP"; without any it is another format.
        if head and not set(head) & set(MCAP0_MAGIC[1:5]):
            raise BagError(
                f"{file}: is not an MCAP file, it begins with {head!r}; copy it again, or correct"
                " the ending of its name"
            )
        summary = read_summary(file)
        self.unpacked += file.stat().st_size if summary.loose else summary.unpacked
        self._begin(summary.start)
        self.attachments |= summary.attachments
        self.records += summary.records
        for _, record in summary.records:
            self.custom = {**embedded_custom_data(record), **self.custom}
        found = {}
        for number, channel in summary.channels.items():
            schema = summary.schemas.get(channel.schema_id)
            text = schema.data.decode() if schema and schema.encoding == "ros2msg" else ""
            count = summary.counts.get(number, 0)
            type_name = ros_type(schema.name) if schema else ""
            found[number] = Channel(channel.topic, type_name, channel.message_encoding, text, count)
        return found

    def _sqlite(self, file: Path) -> dict[int, Channel]:
        self.unpacked += file.stat().st_size
        _check_is_merged(file)
        with _opened(file) as reader:
            self._begin(reader.metadata.start_time if reader.metadata.message_count else 0)
            with suppress(apsw.Error):  # older files have no such table
                for (text,) in _connection(reader).execute(
                    "SELECT metadata FROM metadata ORDER BY id DESC LIMIT 1"
                ):
                    self.custom = {
                        **embedded_custom_data({"serialized_metadata": text}),
                        **self.custom,
                    }
            return {
                each.id: Channel(
                    each.topic,
                    ros_type(each.msgtype),
                    str(getattr(each.ext, "serialization_format", "")),
                    str(each.msgdef.data) if each.msgdef.format.name == "MSG" else "",
                    each.msgcount,
                )
                for each in reader.connections
                # A damaged table may hold values of any type.
                if isinstance(each.topic, str) and isinstance(each.msgtype, str)
            }

    @staticmethod
    def _read_mcap(
        file: Path, wanted: set[int], blocks: list[Block], file_number: int
    ) -> Iterator[Located]:
        with file.open("rb") as stream:
            yield from locate_messages(stream, read_summary(file), wanted, blocks, file_number)

    @staticmethod
    def _read_sqlite(
        file: Path, wanted: set[int], blocks: list[Block], file_number: int
    ) -> Iterator[Located]:
        blocks.append(Block(0, 0, 0, _ROWS, file_number))
        marks = ",".join("?" * len(wanted))
        with _opened(file) as reader:
            rows = _connection(reader).execute(
                f"SELECT id, topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks})"
                " ORDER BY timestamp, id",
                tuple(wanted),
            )
            for row, channel, log_time, data in rows:
                if not isinstance(data, bytes) or not isinstance(log_time, int):
                    raise ValueError(f"row {row} is not a message")
                yield Located(
                    channel, log_time, memoryview(data), (len(blocks) - 1, row, len(data))
                )


def ros_type(name: str) -> str:
    """Return the ROS 2 name of a message type: package/msg/Type.

    Some recorders write package/Type as in ROS 1, or the name in DDS: package::msg::dds_::Type_.
    """
    if "::" in name:
        name = name.removesuffix("_") if "::dds_::" in name else name
        name = name.replace("::dds_::", "::").replace("::", "/")
    package, slash, kind = name.partition("/")
    return f"{package}/msg/{kind}" if slash and "/" not in kind else name


def _check_is_merged(file: Path) -> None:
    """Raise BagError if messages are in a journal of sqlite3 beside the file, not yet in the file.

    rosbags opens the file as immutable, so it does not read the journal.
    """
    for ending in ("-wal", "-journal"):
        journal = file.with_name(file.name + ending)
        if journal.is_file() and journal.stat().st_size:
            raise BagError(
                f"{file}: its newest messages are still in {journal.name}, because the recorder was"
                f' not closed; merge them with `sqlite3 {file} "{MERGE}"`'
            )


def _connection(reader: Sqlite3Reader) -> apsw.Connection:
    assert reader.dbconn is not None  # _opened opens it
    return reader.dbconn


class _RowReader:
    """Read messages of sqlite3 files by their row."""

    def __init__(self, files: tuple[Path, ...], blocks: np.ndarray, stack: ExitStack) -> None:
        self._blocks = blocks
        self._readers = [stack.enter_context(_opened(file)) for file in files]

    def read(self, block: int, offset: int, length: int) -> bytes:
        """Return the bytes of one message."""
        rows = _connection(self._readers[int(self._blocks[block, 4])]).execute(
            "SELECT data FROM messages WHERE id = ?", (offset,)
        )
        found = rows.fetchone()
        if found is None or len(found[0]) != length:
            raise EOFError(f"row {offset} was changed after the bag was indexed")
        return found[0]


class _CheckedAccess:
    """Read and decompress messages by their location; raise damage as BagError."""

    def __init__(self, reader: RandomAccess, file: Path, packed: bool) -> None:
        self._reader, self._file, self._packed = reader, file, packed

    def read(self, block: int, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes of one message."""
        with _damage_as_bag_error(self._file):
            data = self._reader.read(block, offset, length)
            return _decompressed(data) if self._packed else data


def _decompressed(data: bytes | memoryview) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@contextmanager
def _opened(file: Path) -> Iterator[Sqlite3Reader]:
    reader = Sqlite3Reader(file)
    reader.open()
    try:
        yield reader
    finally:
        reader.close()


@contextmanager
def _damage_as_bag_error(file: Path) -> Iterator[None]:
    """Turn the errors that a damaged file raises into BagError."""
    try:
        yield
    except BagError:
        raise
    except OSError as error:
        raise BagError(
            f"{file}: cannot be read ({error.strerror}); check path and permissions"
        ) from None
    except (*DAMAGE, ValueError) as error:
        reason = _reason(error)
        raise BagError(
            f"{file}: is truncated or damaged ({reason}); {how_to_recover(file)}"
        ) from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    if isinstance(error, KeyError):
        return f"{text} is referenced but missing"
    return text or type(error).__name__
