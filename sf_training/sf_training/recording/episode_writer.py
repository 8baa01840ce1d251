"""One episode as a rosbag2 MCAP bag: the same writer for a robot, for the simulator and for tests. No rclpy here.

While it is written an episode is ``<name>.partial/``; ``finish`` completes it and renames it in one step, so whatever
has its final name is whole. Contract, URDF, instruction, operator, outcome, software versions and drop counts are inside.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

import yaml

from sf_policy_node.contract import Contract
from sf_training.recording.mcap_file import McapFile
from sf_training.recording.messages import definition

Outcome = Literal["success", "failure", "discarded"]
OUTCOMES: tuple[Outcome, ...] = ("success", "failure", "discarded")
EPISODE_RECORD = "sf_episode"  # MCAP metadata record; the last one of a file counts
CONTRACT_ATTACHMENT = "contract.yaml"
MIN_FREE_BYTES = 64 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PACKAGES = ("sf_training", "mcap", "rosbags", "numpy", "mujoco")


class EpisodeWriteError(RuntimeError):
    """The episode was not written, and nothing of it is left; the message names the file and the cure."""


class EpisodeWriter:
    """Writes one episode; call :meth:`finish` or :meth:`abort`, or use it in a ``with`` block, which aborts on an error.

    Args:
        directory: where episodes lie; created when missing.
        contract: of the robot; goes into the bag with its URDF.
        instruction: what the operator was asked to do.
        operator: who or what moved the arm.
        name: of the episode; by default robot and UTC time.

    Raises:
        EpisodeWriteError: the name is taken, the directory cannot be written, or less than 64 MB are free.
    """

    def __init__(self, directory: str | Path, contract: Contract, *, instruction: str, operator: str, name: str | None = None) -> None:
        self.name = name or f"{contract.robot}_{datetime.now(UTC):%Y%m%d_%H%M%S_%f}"
        self._final = Path(directory) / self.name
        self._partial = self._final.with_name(self.name + ".partial")
        self._topics: dict[str, tuple[int, str, str]] = {}
        self._schemas: dict[str, int] = {}
        self._mcap: McapFile | None = None
        self._open = False
        with self._disk_errors():
            Path(directory).mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(directory).free
            if free < MIN_FREE_BYTES:
                raise EpisodeWriteError(
                    f"{self._final}: only {free / 1e6:.0f} MB are free, an episode needs at least {MIN_FREE_BYTES / 1e6:.0f} MB; "
                    "free some disk space"
                )
            if self._final.exists():
                raise EpisodeWriteError(f"{self._final}: exists already; choose another name or directory")
            try:
                self._partial.mkdir()
            except FileExistsError:
                raise EpisodeWriteError(
                    f"{self._partial}: exists already; another recorder writes it, or one was killed: recover or delete it"
                ) from None
            self._open = True
            self._file_name = f"{self.name}_0.mcap"
            self._mcap = McapFile(self._partial / self._file_name, library="sf_training")
            self._episode = {
                "schema_version": "1",
                "robot": contract.robot,
                "contract_hash": contract.hash,
                "instruction": instruction,
                "operator": operator,
                "software": json.dumps(_software()),
            }
            # At the front, so that a file that was cut off still knows its contract.
            self._mcap.attach(CONTRACT_ATTACHMENT, "application/yaml", contract.to_yaml().encode())
            self._mcap.attach(contract.urdf, "application/xml", contract.urdf_xml.encode())
            self._mcap.add_metadata(EPISODE_RECORD, {**self._episode, "outcome": "unfinished"})

    @property
    def size(self) -> int:
        """Bytes on the disk so far."""
        return self._mcap.size

    def set_instruction(self, instruction: str) -> None:
        """Replace the instruction, as long as the episode is not finished."""
        self._episode["instruction"] = instruction

    def add_topic(self, topic: str, type_name: str, qos_yaml: str = "") -> None:
        """Announce a topic before its first message.

        Args:
            topic: absolute name.
            type_name: for example ``sensor_msgs/msg/Image``.
            qos_yaml: offered QoS profiles as rosbag2 writes them, for ``ros2 bag play``.

        Raises:
            EpisodeWriteError: unknown type, or the topic has another type already. The episode stays open.
        """
        if topic in self._topics:
            if self._topics[topic][1] != type_name:
                raise EpisodeWriteError(
                    f"{topic}: is recorded as {self._topics[topic][1]} already, not {type_name}; publish one type per topic"
                )
            return
        try:
            text, type_hash = definition(type_name)
        except KeyError:
            raise EpisodeWriteError(
                f"{topic}: message type {type_name} is unknown; use the types of the common interfaces or of sf_msgs"
            ) from None
        with self._disk_errors():
            if type_name not in self._schemas:
                self._schemas[type_name] = self._mcap.add_schema(type_name, text)
            metadata = {"offered_qos_profiles": qos_yaml, "topic_type_hash": type_hash}
            channel = self._mcap.add_channel(topic, self._schemas[type_name], metadata)
        self._topics[topic] = (channel, type_name, qos_yaml)

    def write(self, topic: str, serialized_cdr: bytes | memoryview, log_time_ns: int, publish_time_ns: int | None = None) -> None:
        """Add one message, untouched. ``serialized_cdr`` must not change afterwards.

        Args:
            log_time_ns: when it was received.
            publish_time_ns: when it was sent, if known.

        Raises:
            EpisodeWriteError: the disk is full or the topic was not announced.
        """
        try:
            channel = self._topics[topic][0]
        except KeyError:
            raise EpisodeWriteError(f"{topic}: was not announced; call add_topic before write") from None
        with self._disk_errors():
            self._mcap.write(channel, serialized_cdr, log_time_ns, log_time_ns if publish_time_ns is None else publish_time_ns)

    def flush(self) -> None:
        """Hand what is buffered to the operating system, where it survives the death of this process."""
        with self._disk_errors():
            self._mcap.flush()

    def finish(self, outcome: Outcome, note: str = "", drops: Mapping[str, int] | None = None) -> Path:
        """Complete the episode and give it its final name.

        Args:
            outcome: only ``success`` is trained on by default; the others are kept.
            note: free text of the operator.
            drops: messages lost per topic; absent topics lost none.

        Returns:
            The bag's directory.

        Raises:
            EpisodeWriteError: no message was written, or the disk is full.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome: must be one of {', '.join(OUTCOMES)}, got {outcome!r}")
        lost = {topic: (drops or {}).get(topic, 0) for topic in self._topics}
        self._episode |= {"outcome": outcome, "note": note, "drops": json.dumps(lost)}
        with self._disk_errors():
            self._mcap.flush()
            if not any(self._mcap.counts.values()):
                raise EpisodeWriteError(f"{self._final}: no message arrived; check that the robot publishes the contract's topics")
            self._mcap.add_metadata(EPISODE_RECORD, self._episode)
            information = self._bag_information()
            self._mcap.add_metadata("rosbag2", {"serialized_metadata": _to_yaml(information)})
            self._mcap.close()
            information["custom_data"] = {**self._episode, "sha256": self._mcap.sha256}
            _write_synced(self._partial / "metadata.yaml", _to_yaml({"rosbag2_bagfile_information": information}))
            _sync_directory(self._partial)
            if self._final.exists():  # rename would replace an empty directory
                raise EpisodeWriteError(f"{self._final}: was made by somebody else meanwhile; choose another name")
            self._partial.rename(self._final)
            _sync_directory(self._final.parent)
        self._open = False
        return self._final

    def abort(self) -> None:
        """Drop the episode: nothing of it is left. Harmless when it is finished or aborted already."""
        if self._open:
            self._open = False
            if self._mcap:
                self._mcap.abort()
            shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _bag_information(self) -> dict:
        first, last = self._mcap.time_range
        total = sum(self._mcap.counts.values())
        return {
            "version": 9,
            "storage_identifier": "mcap",
            "starting_time": {"nanoseconds_since_epoch": first},
            "duration": {"nanoseconds": last - first},
            "message_count": total,
            "topics_with_message_count": [
                {
                    "topic_metadata": {
                        "name": topic,
                        "type": type_name,
                        "serialization_format": "cdr",
                        "offered_qos_profiles": yaml.safe_load(qos) or [],
                        "type_description_hash": definition(type_name)[1],
                    },
                    "message_count": self._mcap.counts[channel],
                }
                for topic, (channel, type_name, qos) in self._topics.items()
            ],
            # Chunk compression is the storage's own matter: for rosbag2 the bag is not compressed.
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self._file_name],
            "files": [
                {
                    "path": self._file_name,
                    "starting_time": {"nanoseconds_since_epoch": first},
                    "duration": {"nanoseconds": last - first},
                    "message_count": total,
                }
            ],
            "custom_data": dict(self._episode),
            "ros_distro": os.environ.get("ROS_DISTRO", ""),
        }

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn what the disk says into one sentence, and leave nothing half-written."""
        try:
            yield
        except EpisodeWriteError:
            self.abort()
            raise
        except OSError as error:
            with suppress(OSError):
                self.abort()
            if error.errno in _FULL:
                raise EpisodeWriteError(
                    f"{self._final}: the disk is full, the episode was dropped; free some space and record it again"
                ) from None
            raise EpisodeWriteError(
                f"{self._final}: cannot be written ({error.strerror}); check the directory and its permissions"
            ) from None


@functools.cache
def _software() -> dict[str, str]:
    versions = {"python": platform.python_version(), "ros_distro": os.environ.get("ROS_DISTRO", "")}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _to_yaml(value: dict) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml where PyYAML was built with it
    return yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
