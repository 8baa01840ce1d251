"""One episode bag, opened, checked and decoded. No rclpy: it reads on any machine.

A bag of this suite holds its contract. One of another recorder is read by the section ``bags`` of a
contract that is given.

Images are decoded by ``sf_policy_node.perception.images``, as on the robot, so that training sees what the
policy will see.
"""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from rosbags.serde import SerdeError

from sf_policy_node.contract import Contract
from sf_policy_node.perception.images import ImageError
from sf_training.data.bag_contract import given_contract, own_contract
from sf_training.data.bag_files import (
    BagError,
    find_episodes,
    how_to_recover,
    labels_folder,
    stem_of,
)
from sf_training.data.bag_storage import DAMAGE, Bag, Channel, PlaceReader
from sf_training.data.bag_topics import IMAGES, NUMBERS, check_channels, mapped_channels
from sf_training.data.bag_units import Lines, lines_of
from sf_training.data.cache_folder import checksum_of
from sf_training.data.converted_bag import restore_record
from sf_training.data.joint_messages import JointMessageBuilder
from sf_training.data.mcap_blocks import Block, Located
from sf_training.data.picture_checks import decoded_image, size_of
from sf_training.data.stream import Stream, StreamBuilder
from sf_training.recording import messages
from sf_training.recording.writer.episode_writer import CONTRACT_ATTACHMENT, EPISODE_RECORD
from sf_training.recording.labels import OUTCOMES, LabelError, read_labels
from sf_training.recording.topics import absolute

__all__ = ["BagError", "EpisodeReader", "Stream", "find_episodes"]

_UNSTAMPED = NUMBERS | {messages.STRING, messages.BOOL}
_UNREADABLE = (SerdeError, ValueError, TypeError, AttributeError, *DAMAGE)
_FOREIGN_INSTRUCTION = ("instruction", "task", "language_instruction")  # keys of custom data


class EpisodeReader:
    """An episode, by its bag folder or its file; split bags and sqlite3 are read, too.

    Attributes: ``path``, ``name``, ``file`` (the first one), ``contract`` (the one inside),
    ``outcome`` (of its newest label, else as recorded), ``relabelled`` (its first instruction or
    None),
    ``label_segments`` (its instructions: seconds after the bag's first message, and text),
    ``operator``, ``metadata`` (all keys of the episode record), ``topics`` (topic to message type),
    ``counts`` (topic to messages), ``definitions`` (topic to text), ``blocks`` (found while
    reading). Topics and joints are named as in the contract.

    Args:
        contract: of the robot that the data is for; the bag's own must be the same, labels and step
            aside. A bag of another recorder
            needs one with ``bags``.

    Raises:
        BagError: missing, cut off, corrupt, no contract, another contract, or a topic without
            messages.
    """

    def __init__(self, path: str | Path, contract: Contract | None = None) -> None:
        self.path = Path(path)
        self.blocks: list[Block] = []
        self._kept: list[Located] | None = None
        self._kept_blocks: list[Block] = []
        self.bag = bag = Bag(self.path)
        restore_record(bag)
        self.file = bag.files[0]
        self.name = stem_of(self.path).removesuffix("_0") if self.path.is_file() else self.path.name
        records = [record for name, record in bag.records if name == EPISODE_RECORD]
        self.foreign = not (records and CONTRACT_ATTACHMENT in bag.attachments)
        self.contract = (
            given_contract(self.file, contract)
            if self.foreign
            else own_contract(self.file, bag.attachments, contract)
        )
        bag.attachments = {}  # a reader is handed to other processes
        self._mapped = mapped_channels(bag.channels, self.contract, foreign=self.foreign)
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.definitions: dict[str, str] = {}
        for number, topic in self._mapped.items():
            channel = bag.channels[number]
            if topic not in self.topics or channel.count:
                self.topics[topic] = channel.type_name
                if channel.definition:
                    self.definitions[topic] = sys.intern(channel.definition)
            self.counts[topic] = self.counts.get(topic, 0) + channel.count
        check_channels(self.file, self.contract, bag.channels, self._mapped, foreign=self.foreign)
        bags = self.contract.bags if self.foreign else None
        self._joint_names = bags.joints if bags else {}
        self._lines = (
            {number: lines_of(self.contract, bag.channels[number].topic) for number in self._mapped}
            if bags
            else {}
        )
        self.metadata: dict[str, str] = {} if self.foreign else records[-1]
        self.operator = self.metadata.get("operator", bag.custom.get("operator", ""))
        told = bag.custom.get("outcome") if bag.custom.get("outcome") in OUTCOMES else None
        self.outcome = (
            (told or bags.outcome) if bags else self.metadata.get("outcome", "unfinished")
        )
        self.label_segments: tuple[tuple[float, str], ...] = ()
        self.relabelled = self._apply_labels()

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of the bag's files."""
        known = self.bag.custom.get("sha256", "")
        return (
            known if len(self.bag.files) == 1 and len(known) == 64 else checksum_of(self.bag.files)
        )

    @property
    def instruction(self) -> str:
        """The first instruction; that of the newest label where there is one."""
        return self.relabelled or self.recorded_instruction

    @functools.cached_property
    def recorded_instruction(self) -> str:
        """The first instruction as recorded."""
        if not self.foreign:
            return self.metadata.get("instruction", "")
        for number, _, data, _ in self._raw([absolute(self.contract.topics.instruction)]):
            text = self._deserialize(number, data).data.strip()
            if text:
                return text
        custom = (self.bag.custom.get(key, "").strip() for key in _FOREIGN_INSTRUCTION)
        return next(filter(None, custom), self.contract.bags.instruction)

    def has(self, topic: str) -> bool:
        """Return whether the bag holds at least one message of a topic."""
        return bool(self.counts.get(topic))

    def channel(self, number: int) -> Channel:
        """Return a channel of the bag, with the names of its recorder."""
        return self.bag.channels[number]

    def lines(self, number: int) -> Lines:
        """Return the conversion of the joints of a channel."""
        return self._lines.get(number, {})

    def channels_of(self, topic: str) -> list[int]:
        """Return the channels of the bag that are read as a topic and hold messages."""
        return [
            number
            for number, ours in self._mapped.items()
            if ours == topic and self.bag.channels[number].count
        ]

    def recorded_name(self, topic: str) -> str:
        """Return the name that a topic has in the bag, for sentences."""
        return (
            ", ".join(sorted({self.channel(number).topic for number in self.channels_of(topic)}))
            or topic
        )

    @contextmanager
    def kept_in_memory(self, limit: int = 256 << 20) -> Iterator[None]:
        """Within this context a bag of at most ``limit`` bytes uncompressed is read once, however
        many passes follow.
        """
        blocks: list[Block] = []
        if self.bag.unpacked <= limit:
            self._kept, self._kept_blocks = list(self._raw(self.topics, blocks)), blocks
        try:
            yield
        finally:
            self._kept = None

    def places(self, blocks: np.ndarray) -> AbstractContextManager[PlaceReader]:
        """Read messages by their places within this context; ``blocks`` (C, 5) as they were
        found.
        """
        return self.bag.places(blocks)

    def read(self, topics: Collection[str]) -> dict[str, Stream]:
        """Read everything on some topics, in one pass; of images only times, places and sizes.
        Absent topics are empty.
        """
        built = {topic: StreamBuilder() for topic in topics}
        joints: dict[str, JointMessageBuilder] = {}
        contents: dict[str, list] = {topic: [] for topic in topics}
        for topic in topics:
            kinds = {self.bag.channels[number].type_name for number in self.channels_of(topic)}
            if kinds == {messages.JOINT_STATE}:
                joints[topic] = JointMessageBuilder(self._joint_names, self._lines)
        self.blocks = []
        for order, (number, log_time, data, place) in enumerate(self._raw(topics, self.blocks)):
            topic, kind = self._mapped[number], self.bag.channels[number].type_name
            size = size_of(data, kind == messages.COMPRESSED_IMAGE) if kind in IMAGES else (0, 0)
            try:
                built[topic].add(
                    self._stamp(number, log_time, data), log_time, order, place, number, size
                )
            except OverflowError as error:
                raise self._unreadable(number, error) from None
            if topic in joints:
                self._add_joints(joints[topic], number, data)
            elif kind not in IMAGES:
                contents[topic].append(self._deserialize(number, data))
        if self._kept is not None:
            self.blocks = self._kept_blocks
        filled = {
            topic: joints[topic].built() if topic in joints else contents[topic] for topic in topics
        }
        found = {topic: builder.built(filled[topic]) for topic, builder in built.items()}
        for topic, stream in found.items():
            if self.has(topic) and not len(stream.stamps):
                raise BagError(
                    f"{self.file}: is cut off or damaged (no message on {topic}, but its summary"
                    f" counts {self.counts[topic]}); {how_to_recover(self.file)}"
                )
        return found

    def frames(
        self, wanted: Mapping[str, Collection[int]]
    ) -> Iterator[tuple[str, int, np.ndarray]]:
        """Yield some images, decoded, in one pass: topic, index among the topic's messages, and
        pixels.

        Args:
            wanted: topic to the indices to decode; the others are skipped undecoded.

        Yields:
            Colour as (H, W, 3) uint8 RGB, depth topics of the contract as (H, W) float32 [m].
        """
        sets = {topic: set(map(int, indices)) for topic, indices in wanted.items()}
        seen = dict.fromkeys(sets, 0)
        for number, _, data, _ in self._raw(sets):
            topic = self._mapped[number]
            index, seen[topic] = seen[topic], seen[topic] + 1
            if index in sets[topic]:
                yield topic, index, self._decoded(topic, self._deserialize(number, data))

    def picture(self, topic: str, data: bytes | memoryview) -> np.ndarray:
        """Return one image from its CDR bytes, as :meth:`frames` gives it."""
        return self._decoded(topic, self.message(topic, data))

    def message(self, topic: str, data: bytes | memoryview) -> object:
        """Return a message of a topic from its CDR bytes."""
        numbers = self.channels_of(topic)
        try:
            return self._deserialize(numbers[0], data)
        except BagError:
            if len(numbers) < 2:
                raise
        return self._deserialize(numbers[1], data)

    def messages_of(self, topic: str) -> Iterator[object]:
        """Yield all messages of a topic in recorded order."""
        for number, _, data, _ in self._raw([topic]):
            yield self._deserialize(number, data)

    def _add_joints(self, builder: JointMessageBuilder, number: int, data: memoryview) -> None:
        try:
            if builder.add_bytes(data, number):
                return
        except (struct.error, ValueError) as error:
            raise self._unreadable(number, error) from None
        message = self._deserialize(number, data)
        builder.add(message.name, message.position, number)

    def _raw(self, topics: Collection[str], blocks: list[Block] | None = None) -> Iterator[Located]:
        """Yield every message in recorded order; ``blocks`` are filled."""
        channels = {
            number
            for number, topic in self._mapped.items()
            if topic in topics and self.bag.channels[number].count
        }
        if self._kept is not None:
            yield from (entry for entry in self._kept if entry.channel in channels)
            return
        if channels:
            yield from self.bag.messages(channels, [] if blocks is None else blocks)

    def _stamp(self, number: int, log_time: int, data: bytes | memoryview) -> int:
        if self.bag.channels[number].type_name in _UNSTAMPED:
            return log_time
        # All other types of an episode begin with a std_msgs/Header, and that with its stamp.
        try:
            seconds, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
        except (struct.error, IndexError) as error:
            raise self._unreadable(number, error) from None
        return seconds * 1_000_000_000 + nanosec or log_time

    def _deserialize(self, number: int, data: bytes | memoryview) -> object:
        channel = self.bag.channels[number]
        try:
            message = messages.deserialize(data, channel.type_name, channel.definition or None)
        except _UNREADABLE as error:
            raise self._unreadable(number, error) from None
        if self._joint_names:
            field_name = {
                messages.JOINT_STATE: "name",
                messages.JOINT_TRAJECTORY: "joint_names",
            }.get(channel.type_name)
            if field_name:
                setattr(
                    message,
                    field_name,
                    [self._joint_names.get(name, name) for name in getattr(message, field_name)],
                )
        return message

    def _unreadable(self, number: int, error: Exception) -> BagError:
        what = (
            f"{self.file}: {self._mapped[number]}: a {self.bag.channels[number].type_name} cannot"
            " be read"
        )
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return BagError(
            f"{what} ({reason}); it is damaged, or it was recorded with other message definitions:"
            " install those that the recorder had, or record again"
        )

    def _decoded(self, topic: str, message: object) -> np.ndarray:
        try:
            return decoded_image(message, topic in self._depth_topics, topic)
        except ImageError as error:
            raise BagError(f"{self.file}: {error}") from None

    @functools.cached_property
    def _depth_topics(self) -> set[str]:
        return {
            absolute(camera.depth_topic) for camera in self.contract.cameras if camera.depth_topic
        }

    def _apply_labels(self) -> str | None:
        """Take over the outcome that somebody gave afterwards; return the instruction that was
        given.
        """
        folder = labels_folder(self.path)
        try:
            labels = read_labels(folder) if folder else None
        except LabelError as error:
            raise BagError(str(error)) from None
        if labels is None:
            return None
        self.outcome = labels.outcome or self.outcome
        self.label_segments = labels.segments
        return labels.instruction
