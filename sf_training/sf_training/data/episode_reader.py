"""One episode bag, opened, checked and decoded. No rclpy: it reads on any machine.

A bag of this suite holds its contract. One of another recorder is read by the section ``bags`` of a contract that is given.

Images are decoded by ``sf_policy_node.images``, as on the robot, so that training sees what the policy will see.
"""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader
from rosbags.serde import SerdeError

from sf_policy_node.contract import Contract, ContractError, parse_contract
from sf_policy_node.images import ImageError, decode_compressed, decode_depth, decode_image
from sf_training.data.bag_files import BagError, custom_data, find_episodes, find_mcap, how_to_recover, sha256
from sf_training.data.mcap_blocks import Block, messages_with_places
from sf_training.recording import messages
from sf_training.recording.episode_writer import CONTRACT_ATTACHMENT, EPISODE_RECORD
from sf_training.recording.labels import LabelError, read_labels
from sf_training.recording.topics import absolute, episode_topics

__all__ = ["BagError", "EpisodeReader", "Stream", "find_episodes"]

_UNSTAMPED = {messages.STRING, messages.BOOL, messages.NUMBERS}
_IMAGES = {messages.IMAGE, messages.COMPRESSED_IMAGE}
DAMAGE = (McapError, EOFError, struct.error, zstandard.ZstdError, UnicodeDecodeError, IndexError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Stream:
    """One topic, in recorded order; images are not decoded and so not among ``messages``.

    Attributes:
        stamps: (N,) int64 [ns], header stamp or, where that is zero, log time.
        messages: N, or none for images.
        log_times: (N,) int64 [ns], of receipt.
        order: (N,) which message of those that were read it is.
        places: (N, 3) block, offset and length, see ``mcap_blocks``.
    """

    stamps: np.ndarray
    messages: list
    log_times: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    order: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    places: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))

    def part(self, rows: np.ndarray) -> Stream:
        """Some of it."""
        contents = [self.messages[row] for row in rows.tolist()] if self.messages else []
        return Stream(self.stamps[rows], contents, self.log_times[rows], self.order[rows], self.places[rows])


class EpisodeReader:
    """An episode, by its bag directory or its ``.mcap`` file.

    Attributes: ``path``, ``name``, ``file``, ``contract`` (the one inside), ``instruction`` and ``outcome`` (of its newest label, else
    as recorded), ``recorded_instruction``, ``operator``, ``metadata`` (all keys of the episode record), ``topics`` (topic to message
    type), ``counts`` (topic to messages), ``definitions`` (topic to text), ``checksum`` (of the file), ``blocks`` (found while reading).
    Topics and joints are named as in the contract.

    Args:
        contract: of the robot that the data is for; the bag's own must be the same. A bag of another recorder needs one with ``bags``.

    Raises:
        BagError: missing, cut off, corrupt, sqlite3, no contract, another contract, or a topic without messages.
    """

    def __init__(self, path: str | Path, contract: Contract | None = None) -> None:
        self.path = Path(path)
        self.blocks: list[Block] = []
        self._kept: list[tuple[str, int, bytes, tuple[int, int, int]]] | None = None
        self.name = self.path.stem.removesuffix("_0") if self.path.is_file() else self.path.name
        custom = {} if self.path.is_file() else custom_data(self.path)
        self.file = find_mcap(self.path)
        with self._open() as (reader, _):
            summary = reader.get_summary()
            if summary is None or summary.statistics is None:
                raise BagError(f"{self.file}: has no summary, so it was not finished; {how_to_recover(self.file)}")
            attachments = {entry.name: entry.data for entry in reader.iter_attachments()}
            records = [record.metadata for record in reader.iter_metadata() if record.name == EPISODE_RECORD]
            ours = bool(records) and CONTRACT_ATTACHMENT in attachments
            self.contract = self._own_contract(attachments, contract) if ours else self._given_contract(contract)
            bags = None if ours else self.contract.bags
            self._joint_names = bags.joints if bags else {}
            names = _topic_names(self.contract) if bags else {}
            self._channels = {
                channel.id: names.get(channel.topic, channel.topic)
                for channel in summary.channels.values()
                if channel.message_encoding == "cdr"
            }
            schemas = {name: summary.schemas[summary.channels[channel].schema_id] for channel, name in self._channels.items()}
            # As the recorder had them: the installed ones may be newer. Once for all episodes of a set.
            self.definitions = {
                topic: sys.intern(schema.data.decode()) for topic, schema in schemas.items() if schema.encoding == "ros2msg"
            }
        self.topics = {topic: schema.name for topic, schema in schemas.items()}
        self.counts = dict.fromkeys(self.topics, 0)
        for channel, name in self._channels.items():
            self.counts[name] += summary.statistics.channel_message_counts.get(channel, 0)
        self._check_topics(summary)
        self.metadata: dict[str, str] = records[-1] if ours else {}
        self.operator = self.metadata.get("operator", "")
        self.recorded_instruction = self.metadata.get("instruction", "") if ours else self._first_instruction() or bags.instruction
        self.instruction = self.recorded_instruction
        self.outcome = self.metadata.get("outcome", "unfinished") if ours else bags.outcome
        self._apply_labels()
        self.checksum: str = custom.get("sha256") or sha256(self.file)

    def has(self, topic: str) -> bool:
        """True when the bag holds at least one message of a topic."""
        return bool(self.counts.get(topic))

    @contextmanager
    def kept_in_memory(self, limit: int = 256 << 20) -> Iterator[None]:
        """Within this context a bag of at most ``limit`` bytes uncompressed is read once, however many passes follow."""
        with self._open() as (reader, file):
            chunks = reader.get_summary().chunk_indexes
            size = sum(chunk.uncompressed_size for chunk in chunks) if chunks else file.seek(0, 2)
        self._kept = list(self._raw(self.topics)) if size <= limit else None
        try:
            yield
        finally:
            self._kept = None

    def read(self, topics: Collection[str]) -> dict[str, Stream]:
        """Everything on some topics, in one pass; of images only times and places (see :meth:`frames`). Absent topics are empty."""
        rows: dict[str, list[tuple[int, ...]]] = {topic: [] for topic in topics}
        contents: dict[str, list] = {topic: [] for topic in topics}
        for order, (topic, log_time, data, place) in enumerate(self._raw(topics)):
            rows[topic].append((self._stamp(topic, log_time, data), log_time, order, *place))
            if self.topics[topic] not in _IMAGES:
                contents[topic].append(self._deserialize(topic, data))
        tables = {topic: np.array(rows[topic], np.int64).reshape(-1, 6) for topic in topics}
        return {topic: Stream(table[:, 0], contents[topic], table[:, 1], table[:, 2], table[:, 3:]) for topic, table in tables.items()}

    def frames(self, wanted: Mapping[str, Collection[int]]) -> Iterator[tuple[str, int, np.ndarray]]:
        """Some images, decoded, in one pass: topic, index among the topic's messages, and pixels.

        Args:
            wanted: topic to the indices to decode; the others are skipped undecoded.

        Yields:
            Colour as (H, W, 3) uint8 RGB, depth topics of the contract as (H, W) float32 [m].
        """
        for topic, index, message in self._selected(wanted):
            yield topic, index, self._decoded(topic, message)

    def picture(self, topic: str, data: bytes | memoryview) -> np.ndarray:
        """One image from its CDR bytes, as :meth:`frames` gives it."""
        return self._decoded(topic, self._deserialize(topic, data))

    def _selected(self, wanted: Mapping[str, Collection[int]]) -> Iterator[tuple[str, int, object]]:
        sets = {topic: set(map(int, indices)) for topic, indices in wanted.items()}
        seen = dict.fromkeys(sets, 0)
        for topic, _, data, _ in self._raw(sets):
            index, seen[topic] = seen[topic], seen[topic] + 1
            if index in sets[topic]:
                yield topic, index, self._deserialize(topic, data)

    def _raw(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes | memoryview, tuple[int, int, int]]]:
        """Topic, log time, bytes and place of every message in recorded order."""
        present = {topic for topic in topics if self.has(topic)}
        if self._kept is not None:
            yield from (entry for entry in self._kept if entry[0] in present)
            return
        if not present:
            return
        channels = {number for number, topic in self._channels.items() if topic in present}
        with self._open() as (reader, file):
            self.blocks = []
            for number, log_time, data, place in messages_with_places(file, reader.get_summary(), channels, self.blocks):
                yield self._channels[number], log_time, data, place

    def _stamp(self, topic: str, log_time: int, data: bytes) -> int:
        if self.topics[topic] in _UNSTAMPED:
            return log_time
        # All other types of an episode begin with a std_msgs/Header, and that with its stamp.
        try:
            seconds, nanosec = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
        except struct.error as error:
            raise self._unreadable(topic, error) from None
        return seconds * 1_000_000_000 + nanosec or log_time

    def _deserialize(self, topic: str, data: bytes | memoryview) -> object:
        try:
            message = messages.deserialize(data, self.topics[topic], self.definitions.get(topic))
        except (SerdeError, KeyError) as error:
            raise self._unreadable(topic, error) from None
        if self._joint_names:
            field_name = {messages.JOINT_STATE: "name", messages.JOINT_TRAJECTORY: "joint_names"}.get(self.topics[topic])
            if field_name:
                setattr(message, field_name, [self._joint_names.get(name, name) for name in getattr(message, field_name)])
        return message

    def _unreadable(self, topic: str, error: Exception) -> BagError:
        what = f"{self.file}: {topic}: a {self.topics[topic]} cannot be read ({error})"
        return BagError(f"{what}; it was recorded with other message definitions: install those that the recorder had, or record again")

    def _decoded(self, topic: str, message: object) -> np.ndarray:
        try:
            if self.topics[topic] == messages.COMPRESSED_IMAGE:
                return decode_compressed(message.format, message.data, source=topic)
            fields = (message.encoding, message.height, message.width, message.step, message.data)
            if topic in self._depth_topics:
                return decode_depth(*fields, is_bigendian=bool(message.is_bigendian), source=topic)
            return decode_image(*fields, source=topic)
        except ImageError as error:
            raise BagError(f"{self.file}: {error}") from None

    @functools.cached_property
    def _depth_topics(self) -> set[str]:
        return {absolute(camera.depth_topic) for camera in self.contract.cameras if camera.depth_topic}

    def _own_contract(self, attachments: dict[str, bytes], contract: Contract | None) -> Contract:
        """The one in the bag, which must be the same as the one that was given."""
        urdf = next((data for name, data in attachments.items() if name != CONTRACT_ATTACHMENT), b"")
        try:
            own = _contract(attachments[CONTRACT_ATTACHMENT].decode(), urdf.decode())
        except ContractError as error:
            first = str(error).split(f"; {CONTRACT_ATTACHMENT}")[0]
            raise BagError(f"{self.file}: {first}; the bag is of another version of this suite, record it again") from None
        if contract is not None and contract.hash != own.hash:
            raise BagError(
                f"{self.file}: was recorded with another contract ({'; '.join(contract.difference(own)[:5])}); "
                "use that contract, or record again"
            )
        return own

    def _given_contract(self, contract: Contract | None) -> Contract:
        if contract is None or contract.bags is None:
            given = "give the robot's contract with" if contract is None else "add to the contract"
            raise BagError(
                f"{self.file}: holds no episode record and no contract, so this suite did not record it; {given} a section bags that says "
                "which of its topics are which (sf_training/doc/data.md)"
            )
        return contract

    def _check_topics(self, summary) -> None:
        for topic in episode_topics(self.contract):
            if topic.required and not self.counts.get(topic.name):
                cure = "check its publisher and record again"
                if self.contract.bags:
                    held = ", ".join(sorted(channel.topic for channel in summary.channels.values()))
                    cure = f"map one of the bag's topics to it in the contract's bags.topics ({held})"
                raise BagError(f"{self.file}: no message on {topic.name}, which the contract needs; {cure}")

    def _first_instruction(self) -> str:
        topic = absolute(self.contract.topics.instruction)
        if self.topics.get(topic) != messages.STRING or not self.has(topic):
            return ""
        _, _, data, _ = next(self._raw([topic]))
        return self._deserialize(topic, data).data.strip()

    def _apply_labels(self) -> None:
        """What somebody said about the episode afterwards counts."""
        try:
            labels = read_labels(self.path if self.path.is_dir() else self.path.parent)
        except LabelError as error:
            raise BagError(str(error)) from None
        if labels and (self.path.is_dir() or (self.path.parent / "metadata.yaml").is_file()):
            self.outcome = labels.outcome or self.outcome
            self.instruction = labels.instruction or self.instruction

    @contextmanager
    def _open(self):
        """An MCAP reader and its file; damage becomes one sentence."""
        try:
            with self.file.open("rb") as file:
                yield make_reader(file, validate_crcs=True), file
        except OSError as error:
            raise BagError(f"{self.file}: cannot be read ({error.strerror}); check path and permissions") from None
        except BagError:
            raise
        except (*DAMAGE, ValueError, KeyError) as error:
            if isinstance(error, ValueError) and not isinstance(error, DAMAGE) and "crc" not in str(error).lower():
                raise
            reason = str(error) or type(error).__name__
            raise BagError(f"{self.file}: is cut off or damaged ({reason}); {how_to_recover(self.file)}") from None


def _topic_names(contract: Contract) -> dict[str, str]:
    """Topic in a bag of another recorder to the contract's."""
    names = {absolute(theirs): absolute(ours) for theirs, ours in contract.bags.topics.items()}
    commands = contract.bags.commands and absolute(contract.bags.commands)
    if commands and names.get(commands, commands) != absolute(contract.topics.joint_states):
        names[commands] = absolute(contract.topics.teleop_command)
    return names


@functools.lru_cache(maxsize=8)  # most bags of a set carry the same contract
def _contract(text: str, urdf_xml: str) -> Contract:
    return parse_contract(text, urdf_xml, CONTRACT_ATTACHMENT)
