"""One episode bag, opened, checked and decoded. No rclpy: it reads on any machine.

Images are decoded by ``sf_policy_node.images``, as on the robot, so that training sees what the policy will see.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader
from rosbags.serde import SerdeError

from sf_policy_node.contract import Contract, ContractError, parse_contract
from sf_policy_node.images import ImageError, decode_compressed, decode_depth, decode_image
from sf_training.recording import messages
from sf_training.recording.episode_writer import CONTRACT_ATTACHMENT, EPISODE_RECORD
from sf_training.recording.topics import absolute, episode_topics

_UNSTAMPED = {messages.STRING, messages.BOOL}
_IMAGES = {messages.IMAGE, messages.COMPRESSED_IMAGE}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it
_DAMAGE = (McapError, EOFError, struct.error, zstandard.ZstdError, UnicodeDecodeError, IndexError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Stream:
    """One topic: ``stamps`` (N,) int64 [ns], header stamp or, where that is zero, log time; ``messages`` in recorded order."""

    stamps: np.ndarray
    messages: list


class BagError(ValueError):
    """A bag cannot be used; the message names the file, what is wrong and the cure."""


class EpisodeReader:
    """An episode, by its bag directory or its ``.mcap`` file.

    Attributes: ``path``, ``name``, ``contract`` (the one inside), ``instruction``, ``operator``, ``outcome``,
    ``metadata`` (all keys of the episode record), ``topics`` (topic to message type), ``counts`` (topic to messages),
    ``checksum`` (of the file).

    Args:
        contract: of the robot that the data is for; the bag's own must be the same.

    Raises:
        BagError: missing, cut off, corrupt, sqlite3, no contract, another contract, or a topic without messages.
    """

    def __init__(self, path: str | Path, contract: Contract | None = None) -> None:
        self.path = Path(path)
        self._kept: list[tuple[str, int, bytes]] | None = None
        self.name = self.path.stem.removesuffix("_0") if self.path.is_file() else self.path.name
        custom = {} if self.path.is_file() else _custom_data(self.path)
        self._file = _find_mcap(self.path)
        with self._open() as reader:
            summary = reader.get_summary()
            if summary is None or summary.statistics is None:
                raise BagError(f"{self._file}: has no summary, so it was not finished; {_recover(self._file)}")
            attachments = {entry.name: entry.data.decode() for entry in reader.iter_attachments()}
            records = [record.metadata for record in reader.iter_metadata() if record.name == EPISODE_RECORD]
            schemas = {channel.topic: summary.schemas[channel.schema_id] for channel in summary.channels.values()}
            # As the recorder had them: the installed ones may be newer.
            self._definitions = {topic: schema.data.decode() for topic, schema in schemas.items() if schema.encoding == "ros2msg"}
        self.topics = {topic: schema.name for topic, schema in schemas.items()}
        counts = summary.statistics.channel_message_counts
        self.counts = {channel.topic: counts.get(channel.id, 0) for channel in summary.channels.values()}
        if not records or CONTRACT_ATTACHMENT not in attachments:
            raise BagError(f"{self._file}: holds no episode record and no contract; record it with sf_training's recorder")
        self.metadata: dict[str, str] = records[-1]
        self.instruction = self.metadata.get("instruction", "")
        self.operator = self.metadata.get("operator", "")
        self.outcome = self.metadata.get("outcome", "unfinished")
        self.contract = self._parse_contract(attachments)
        self.checksum: str = custom.get("sha256") or _sha256(self._file)
        if contract is not None and contract.hash != self.contract.hash:
            raise BagError(
                f"{self._file}: was recorded with another contract ({'; '.join(contract.difference(self.contract)[:5])}); "
                "use that contract, or record again"
            )
        for topic in episode_topics(self.contract):
            if topic.required and not self.counts.get(topic.name):
                raise BagError(f"{self._file}: no message on {topic.name}, which the contract needs; check its publisher and record again")

    def has(self, topic: str) -> bool:
        """True when the bag holds at least one message of a topic."""
        return bool(self.counts.get(topic))

    @contextmanager
    def kept_in_memory(self, limit: int = 256 << 20) -> Iterator[None]:
        """Within this context a bag of at most ``limit`` bytes uncompressed is read once, however many passes follow."""
        with self._open() as reader:
            fits = sum(chunk.uncompressed_size for chunk in reader.get_summary().chunk_indexes) <= limit
        self._kept = list(self._raw(self.topics)) if fits else None
        try:
            yield
        finally:
            self._kept = None

    def read(self, topics: Collection[str]) -> dict[str, Stream]:
        """Everything on some topics, in one pass; of images only the times (see :meth:`frames`). Absent topics are empty."""
        times: dict[str, list[int]] = {topic: [] for topic in topics}
        contents: dict[str, list] = {topic: [] for topic in topics}
        for topic, log_time, data in self._raw(topics):
            times[topic].append(self._stamp(topic, log_time, data))
            if self.topics[topic] not in _IMAGES:
                contents[topic].append(self._deserialize(topic, data))
        return {topic: Stream(np.array(times[topic], np.int64), contents[topic]) for topic in topics}

    def frames(self, wanted: Mapping[str, Collection[int]]) -> Iterator[tuple[str, int, np.ndarray]]:
        """Some images, decoded, in one pass: topic, index among the topic's messages, and pixels.

        Args:
            wanted: topic to the indices to decode; the others are skipped undecoded.

        Yields:
            Colour as (H, W, 3) uint8 RGB, depth topics of the contract as (H, W) float32 [m].
        """
        depth_topics = {absolute(camera.depth_topic) for camera in self.contract.cameras if camera.depth_topic}
        for topic, index, message in self._selected(wanted):
            if self.topics[topic] == messages.COMPRESSED_IMAGE:
                yield topic, index, self._decoded(decode_compressed, message.format, message.data, source=topic)
                continue
            fields = (message.encoding, message.height, message.width, message.step, message.data)
            if topic in depth_topics:
                yield topic, index, self._decoded(decode_depth, *fields, is_bigendian=bool(message.is_bigendian), source=topic)
            else:
                yield topic, index, self._decoded(decode_image, *fields, source=topic)

    def _selected(self, wanted: Mapping[str, Collection[int]]) -> Iterator[tuple[str, int, object]]:
        sets = {topic: set(map(int, indices)) for topic, indices in wanted.items()}
        seen = dict.fromkeys(sets, 0)
        for topic, _, data in self._raw(sets):
            index, seen[topic] = seen[topic], seen[topic] + 1
            if index in sets[topic]:
                yield topic, index, self._deserialize(topic, data)

    def _raw(self, topics: Collection[str]) -> Iterator[tuple[str, int, bytes]]:
        present = {topic for topic in topics if self.has(topic)}
        if self._kept is not None:
            yield from (entry for entry in self._kept if entry[0] in present)
            return
        if not present:
            return
        with self._open() as reader:
            for _, channel, message in reader.iter_messages(topics=present, log_time_order=False):
                yield channel.topic, message.log_time, message.data

    def _stamp(self, topic: str, log_time: int, data: bytes) -> int:
        if self.topics[topic] in _UNSTAMPED:
            return log_time
        # All other types of an episode begin with a std_msgs/Header, and that with its stamp.
        try:
            seconds, nanosec = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
        except struct.error as error:
            raise self._unreadable(topic, error) from None
        return seconds * 1_000_000_000 + nanosec or log_time

    def _deserialize(self, topic: str, data: bytes) -> object:
        try:
            return messages.deserialize(data, self.topics[topic], self._definitions.get(topic))
        except (SerdeError, KeyError) as error:
            raise self._unreadable(topic, error) from None

    def _unreadable(self, topic: str, error: Exception) -> BagError:
        what = f"{self._file}: {topic}: a {self.topics[topic]} cannot be read ({error})"
        return BagError(f"{what}; it was recorded with other message definitions: install those that the recorder had, or record again")

    def _decoded(self, decode, *fields, **options) -> np.ndarray:
        try:
            return decode(*fields, **options)
        except ImageError as error:
            raise BagError(f"{self._file}: {error}") from None

    def _parse_contract(self, attachments: dict[str, str]) -> Contract:
        urdf = next((text for name, text in attachments.items() if name != CONTRACT_ATTACHMENT), "")
        try:
            return _contract(attachments[CONTRACT_ATTACHMENT], urdf)
        except ContractError as error:
            first = str(error).split(f"; {CONTRACT_ATTACHMENT}")[0]
            raise BagError(f"{self._file}: {first}; the bag is of another version of this suite, record it again") from None

    @contextmanager
    def _open(self):
        """An MCAP reader that verifies checksums; damage becomes one sentence."""
        try:
            with self._file.open("rb") as file:
                yield make_reader(file, validate_crcs=True)
        except OSError as error:
            raise BagError(f"{self._file}: cannot be read ({error.strerror}); check path and permissions") from None
        except BagError:
            raise
        except (*_DAMAGE, ValueError, KeyError) as error:
            if isinstance(error, ValueError) and not isinstance(error, _DAMAGE) and "crc" not in str(error).lower():
                raise
            reason = str(error) or type(error).__name__
            raise BagError(f"{self._file}: is cut off or damaged ({reason}); {_recover(self._file)}") from None


def find_episodes(root: str | Path) -> list[Path]:
    """All finished episodes below a folder, sorted by name; the folder may be one episode itself.

    Raises:
        BagError: when there is none.
    """
    root = Path(root)
    if root.is_file() or (root / "metadata.yaml").is_file():
        return [root]
    found = sorted(path.parent for path in root.rglob("metadata.yaml") if not path.parent.name.endswith(".partial"))
    if not found:
        raise BagError(f"{root}: no episode bags here; make some with `ros2 run sf_training demonstrations` or the recorder")
    return found


@functools.lru_cache(maxsize=8)  # most bags of a set carry the same contract
def _contract(text: str, urdf_xml: str) -> Contract:
    return parse_contract(text, urdf_xml, CONTRACT_ATTACHMENT)


def _find_mcap(path: Path) -> Path:
    if not path.exists():
        raise BagError(f"{path}: does not exist; check the path")
    if path.is_file():
        if path.suffix == ".db3":
            raise BagError(_sqlite(path))
        return path
    if path.name.endswith(".partial"):
        raise BagError(f"{path}: was never finished; {_recover(path)}")
    files = sorted(path.glob("*.mcap"))
    if not files:
        raise BagError(_sqlite(path) if list(path.glob("*.db3")) else f"{path}: holds no .mcap file; check the path")
    if len(files) > 1:
        raise BagError(f"{path}: is split into {len(files)} files; merge them with `ros2 bag convert`, or record without splitting")
    return files[0]


def _custom_data(path: Path) -> dict[str, str]:
    """What metadata.yaml says about an episode; checks that it is there, and that it is about MCAP."""
    if not path.is_dir() or path.name.endswith(".partial"):
        return {}
    metadata = path / "metadata.yaml"
    try:
        information = yaml.load(metadata.read_text(encoding="utf-8"), Loader=_Loader)["rosbag2_bagfile_information"]
    except OSError:
        if list(path.glob("*.db3")):
            raise BagError(_sqlite(path)) from None
        raise BagError(f"{path}: has no metadata.yaml, so the recording was cut off; {_recover(path)}") from None
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise BagError(f"{metadata}: is not a rosbag2 description; restore it with `ros2 bag reindex`") from None
    if information.get("storage_identifier") != "mcap":
        raise BagError(_sqlite(path))
    return information.get("custom_data") or {}


def _sqlite(path: Path) -> str:
    target = path.with_name(path.stem + "_mcap")
    return f"{path}: is a sqlite3 bag; convert it with `rosbags-convert --src {path} --dst {target} --dst-storage mcap`"


def _recover(path: Path) -> str:
    source = next(iter(path.glob("*.mcap")), path) if path.is_dir() else path
    return f"save what is left with `mcap recover {source} -o recovered.mcap`, or record it again"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
