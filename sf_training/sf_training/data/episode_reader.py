"""Open, check and decode one episode bag, on any machine without ROS.

A bag of this suite holds its contract. A bag of another recorder is read with a given contract that
has a section ``bags``. Images are decoded by ``sf_policy_node.perception.images``, so that training
gets the same pixels as the policy on the robot.
"""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from sf_policy_node.contract import Camera, Contract
from sf_policy_node.perception.images import ImageError
from sf_training.data.bag_contract import given_contract, own_contract
from sf_training.data.bag_files import (
    BagError,
    find_episodes,
    how_to_recover,
    labels_folder,
    stem_of,
)
from sf_training.data.bag_storage import DAMAGE, Bag, Channel, RandomAccess
from sf_training.data.bag_topics import IMAGES, NUMBERS, check_channels, mapped_channels
from sf_training.data.bag_units import Conversions, unit_conversions
from sf_training.data.cache_folder import checksum_of
from sf_training.data.converted_bag import restore_record
from sf_training.data.custom_data import custom_instruction, instruction_text
from sf_training.data.image_checks import decoded_image, encoded_image_is_readable, size_of
from sf_training.data.joint_messages import JointMessageBuilder
from sf_training.data.mcap_blocks import Block, Located
from sf_training.data.stream import Stream, StreamBuilder
from sf_training.recording import messages
from sf_training.recording.labels import OUTCOMES, LabelError, read_labels
from sf_training.recording.topics import absolute
from sf_training.recording.writer.episode_writer import CONTRACT_ATTACHMENT, EPISODE_RECORD

__all__ = ["BagError", "EpisodeReader", "Stream", "find_episodes"]

_UNSTAMPED = NUMBERS | {messages.STRING, messages.BOOL}
_UNREADABLE = (SerdeError, ValueError, TypeError, AttributeError, *DAMAGE)


class EpisodeReader:
    """Reader of an episode, given its bag folder or bag file; split bags and sqlite3 included.

    Topics and joints have the names of the contract.

    Attributes:
        file: the first bag file.
        foreign: another recorder wrote the bag.
        contract: the one in the bag, or the given one for a foreign bag.
        outcome: of the newest label, else as recorded.
        relabelled: (first) instruction of the newest label; None if it has none.
        label_segments: instructions of the newest label as (start [s after the first message of
            the bag], text).
        metadata: the episode record; empty for a foreign bag.
        topics: topic to message type.
        counts: topic to number of messages.
        definitions: topic to message definition.
        missing_cameras: name of each camera without images, and a sentence about it.
        blocks: blocks of the locations found by :meth:`read`.

    Args:
        contract: of the robot that the data is for. That of the bag must be equal, except for
            ``action``. A foreign bag needs a contract with ``bags``.
        allow_missing_cameras: images of some cameras, but not of all, may be missing.

    Raises:
        BagError: the bag is missing, truncated or damaged, has no contract or another one, or a
            required topic has no messages.
    """

    def __init__(
        self,
        path: str | Path,
        contract: Contract | None = None,
        *,
        allow_missing_cameras: bool = False,
    ) -> None:
        self.path = Path(path)
        self.blocks: list[Block] = []
        self._cached: list[Located] | None = None
        self._cached_blocks: list[Block] = []
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
        bag.attachments = {}  # not needed any more; a reader is pickled for other processes
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
        self.missing_cameras = check_channels(
            self.file,
            self.contract,
            bag.channels,
            self._mapped,
            foreign=self.foreign,
            allow_missing_cameras=allow_missing_cameras,
        )
        bags = self.contract.bags if self.foreign else None
        self._joint_names = bags.joints if bags else {}
        self._conversions: dict[int, Conversions] = {}
        if bags:
            self._conversions = {
                number: unit_conversions(self.contract, bag.channels[number].topic)
                for number in self._mapped
            }
        self.metadata: dict[str, str] = {} if self.foreign else records[-1]
        self.operator = self.metadata.get("operator", bag.custom.get("operator", ""))
        custom = bag.custom.get("outcome")
        self.outcome = (
            (custom if custom in OUTCOMES else bags.outcome)
            if bags
            else self.metadata.get("outcome", "unfinished")
        )
        self.label_segments: tuple[tuple[float, str], ...] = ()
        self.relabelled = self._apply_labels()

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of the bag files."""
        known = self.bag.custom.get("sha256", "")
        return (
            known if len(self.bag.files) == 1 and len(known) == 64 else checksum_of(self.bag.files)
        )

    @property
    def instruction(self) -> str:
        """The first instruction: of the newest label, else as recorded."""
        return self.relabelled or self.recorded_instruction

    @functools.cached_property
    def recorded_instruction(self) -> str:
        """The first instruction as recorded."""
        if not self.foreign:
            return self.metadata.get("instruction", "")
        for number, _, data, _ in self._raw([absolute(self.contract.topics.instruction)]):
            text = instruction_text(self._deserialize(number, data).data)
            if text:
                return text
        bags = self.contract.bags
        assert bags is not None  # of a contract for bags of other recorders
        return custom_instruction(self.path, self.bag.custom, bags.instruction)

    @property
    def recorded_cameras(self) -> list[Camera]:
        """Cameras of the contract that have images."""
        return [
            camera for camera in self.contract.cameras if camera.name not in self.missing_cameras
        ]

    def has(self, topic: str) -> bool:
        """Return whether the bag holds at least one message of a topic."""
        return bool(self.counts.get(topic))

    def channel(self, number: int) -> Channel:
        """Return a channel of the bag, with the topic name that its recorder gave it."""
        return self.bag.channels[number]

    def conversions(self, number: int) -> Conversions:
        """Return the unit conversions of the joints of a channel."""
        return self._conversions.get(number, {})

    def channels_of(self, topic: str) -> list[int]:
        """Return the channels of the bag that are mapped to a topic and hold messages."""
        return [
            number
            for number, ours in self._mapped.items()
            if ours == topic and self.bag.channels[number].count
        ]

    def recorded_name(self, topic: str) -> str:
        """Return the name that a topic has in the bag, for messages to the user."""
        return (
            ", ".join(sorted({self.channel(number).topic for number in self.channels_of(topic)}))
            or topic
        )

    @contextmanager
    def cached_in_memory(self, limit: int = 256 << 20) -> Iterator[None]:
        """Cache the messages within this context, so that several passes read the bag once.

        Args:
            limit: larger bags are not cached [bytes, decompressed].
        """
        blocks: list[Block] = []
        if self.bag.unpacked <= limit:
            self._cached, self._cached_blocks = list(self._raw(self.topics, blocks)), blocks
        try:
            yield
        finally:
            self._cached = None

    def random_access(self, blocks: np.ndarray) -> AbstractContextManager[RandomAccess]:
        """Open the files to read messages by their location.

        Args:
            blocks: (C, 5), from :attr:`blocks`.
        """
        return self.bag.random_access(blocks)

    def read(self, topics: Collection[str]) -> dict[str, Stream]:
        """Read all messages of some topics in one pass; of images only times, locations and sizes.

        Topics that the bag lacks get empty streams.

        Raises:
            BagError: a message cannot be read, or the bag is damaged.
        """
        built = {topic: StreamBuilder() for topic in topics}
        joints: dict[str, JointMessageBuilder] = {}
        contents: dict[str, list] = {topic: [] for topic in topics}
        for topic in topics:
            types = {self.bag.channels[number].type_name for number in self.channels_of(topic)}
            if types == {messages.JOINT_STATE}:
                joints[topic] = JointMessageBuilder(self._joint_names, self._conversions)
        self.blocks = []
        for order, (number, log_time, data, location) in enumerate(self._raw(topics, self.blocks)):
            topic, type_name = self._mapped[number], self.bag.channels[number].type_name
            size = (
                size_of(data, type_name, is_depth=topic in self._depth_topics)
                if type_name in IMAGES
                else (0, 0)
            )
            try:
                built[topic].add(
                    self._stamp(number, log_time, data), log_time, order, location, number, size
                )
            except OverflowError as error:
                raise self._unreadable(number, error) from None
            if topic in joints:
                self._add_joints(joints[topic], number, data)
            elif type_name not in IMAGES:
                contents[topic].append(self._deserialize(number, data))
        if self._cached is not None:
            self.blocks = self._cached_blocks
        filled = {
            topic: joints[topic].built() if topic in joints else contents[topic] for topic in topics
        }
        found = {topic: builder.built(filled[topic]) for topic, builder in built.items()}
        for topic, stream in found.items():
            if self.has(topic) and not len(stream.stamps):
                raise BagError(
                    f"{self.file}: is truncated or damaged (no message on {topic}, but its summary"
                    f" counts {self.counts[topic]}); {how_to_recover(self.file)}"
                )
        return found

    def frames(
        self, wanted: Mapping[str, Collection[int]], *, black_where_broken: bool = False
    ) -> Iterator[tuple[str, int, np.ndarray]]:
        """Decode some images in one pass.

        Args:
            wanted: topic to indices of the messages to decode.
            black_where_broken: yield a black pixel in place of an image that cannot be decoded.

        Yields:
            Topic, index and pixels: colour (H, W, 3) uint8 RGB, depth (H, W) float32 [m].
        """
        sets = {topic: set(map(int, indices)) for topic, indices in wanted.items()}
        seen = dict.fromkeys(sets, 0)
        for number, _, data, _ in self._raw(sets):
            topic = self._mapped[number]
            index, seen[topic] = seen[topic], seen[topic] + 1
            if index not in sets[topic]:
                continue
            try:
                pixels = self._decoded(topic, self._deserialize(number, data))
            except BagError:
                if not black_where_broken:
                    raise
                pixels = np.zeros((1, 1, 3), np.uint8)
            yield topic, index, pixels

    def image(self, topic: str, data: bytes | memoryview) -> np.ndarray:
        """Decode one image from its CDR bytes; pixels as from :meth:`frames`."""
        return self._decoded(topic, self.message(topic, data))

    def image_is_readable(self, topic: str, data: bytes | memoryview) -> bool:
        """Return whether an image with a readable header can be decoded to its end."""
        type_name = self.topics[topic]
        if type_name == messages.COMPRESSED_IMAGE and not encoded_image_is_readable(data):
            return False
        # A PNG on a depth topic may hold colours.
        if type_name == messages.VIDEO_PACKET or (
            type_name == messages.COMPRESSED_IMAGE and topic in self._depth_topics
        ):
            try:
                self.image(topic, data)
            except BagError:
                return False
        return True

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
        builder.add(message.name, message.position, number, getattr(message, "effort", ()))

    def _raw(self, topics: Collection[str], blocks: list[Block] | None = None) -> Iterator[Located]:
        """Yield the messages of some topics in recorded order; append the blocks to ``blocks``."""
        channels = {
            number
            for number, topic in self._mapped.items()
            if topic in topics and self.bag.channels[number].count
        }
        if self._cached is not None:
            yield from (entry for entry in self._cached if entry.channel in channels)
            return
        if channels:
            yield from self.bag.messages(channels, [] if blocks is None else blocks)

    def _stamp(self, number: int, log_time: int, data: bytes | memoryview) -> int:
        if self.bag.channels[number].type_name in _UNSTAMPED:
            return log_time
        # All other types of an episode begin with a std_msgs/Header, which begins with its stamp.
        try:
            seconds, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
        except (struct.error, IndexError) as error:
            raise self._unreadable(number, error) from None
        return seconds * 1_000_000_000 + nanosec or log_time

    def _deserialize(self, number: int, data: bytes | memoryview) -> Any:
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
        type_name = self.bag.channels[number].type_name
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return BagError(
            f"{self.file}: {self._mapped[number]}: a {type_name} cannot be read ({reason}); it is"
            " damaged, or was recorded with other message definitions: install those that the"
            " recorder had, or record again"
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
        """Apply outcome and segments of the newest label; return its instruction, or None."""
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
