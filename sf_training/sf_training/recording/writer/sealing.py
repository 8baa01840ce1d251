"""Complete an episode, recorded or recovered: write summary, metadata.yaml and checksum, read the
file back, and rename the directory to its final name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml
from mcap.exceptions import McapError
from mcap.reader import make_reader

from sf_training.recording.writer.mcap_file import McapFile

# Name of the MCAP metadata record. A file holds two: one from its start, one from its end. The last
# one counts.
EPISODE_RECORD = "sf_episode"
METADATA_FILE = "metadata.yaml"
PARTIAL = ".partial"
_READ_ONLY = 0o444
_DISTRIBUTIONS = {"3": "humble", "4": "iron", "7": "jazzy", "9": "kilted"}  # major version of rclpy


class SealError(RuntimeError):
    """The episode could not be completed and keeps its .partial name; the message is one
    sentence.
    """


@dataclass(frozen=True)
class TopicRecord:
    """A recorded topic.

    Attributes:
        channel: id of its MCAP channel.
        type_name: for example ``sensor_msgs/msg/Image``.
        qos_yaml: offered QoS profiles in the format of rosbag2.
        type_hash: RIHS01 hash of the type.
    """

    channel: int
    name: str
    type_name: str
    qos_yaml: str
    type_hash: str


def seal(
    mcap: McapFile,
    file: Path,
    final: Path,
    episode: Mapping[str, str],
    topics: Sequence[TopicRecord],
) -> Path:
    """Complete the file, read its summary back, make the files read-only, and rename the directory.

    Args:
        mcap: open file with all messages.
        file: its path in the ``.partial`` directory.
        final: final directory of the episode; must not exist.
        episode: values of the episode record.
        topics: recorded topics, for metadata.yaml.

    Returns:
        ``final``.

    Raises:
        SealError: the summary cannot be read back, or another process created ``final``.
        OSError: the disk is full, or cannot be written.
    """
    mcap.add_metadata(EPISODE_RECORD, dict(episode))
    information = _bag_information(mcap, file.name, topics, episode)
    mcap.add_metadata("rosbag2", {"serialized_metadata": to_yaml(information)})
    mcap.close()
    _check(file, sum(mcap.counts.values()))
    information["custom_data"] = {**episode, "sha256": mcap.sha256}
    _write_synced(
        file.parent / METADATA_FILE, to_yaml({"rosbag2_bagfile_information": information})
    )
    for path in (file, file.parent / METADATA_FILE):
        path.chmod(_READ_ONLY)
    sync_directory(file.parent)
    if final.exists():  # rename would replace an empty directory
        raise SealError(f"{final}: another process created it meanwhile; choose another name")
    file.parent.rename(final)
    sync_directory(final.parent)
    return final


@functools.cache
def ros_distro() -> str:
    """Return the ROS distribution from ROS_DISTRO or the version of rclpy; else "unknown"."""
    if os.environ.get("ROS_DISTRO"):
        return os.environ["ROS_DISTRO"]
    try:
        major = version("rclpy").partition(".")[0]
    except PackageNotFoundError:
        return "unknown"
    return _DISTRIBUTIONS.get(major, "unknown")


def sync_directory(path: Path) -> None:
    """Wait until the entries of a directory are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_yaml(value: dict) -> str:
    """Return YAML text in the layout that rosbag2 reads."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml where PyYAML was built with it
    return yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True)


def _check(file: Path, messages: int) -> None:
    """Read the summary back like any reader, while the operator can still repeat the episode."""
    try:
        with file.open("rb") as stream:
            summary = make_reader(stream).get_summary()
    except McapError as error:
        raise SealError(
            f"{file}: does not read back ({error}); check the disk and record it again"
        ) from None
    if summary is None or summary.statistics is None:
        raise SealError(
            f"{file}: does not read back (no summary); check the disk and record it again"
        )
    found = summary.statistics.message_count
    if found != messages:
        raise SealError(
            f"{file}: {found} of {messages} messages read back; check the disk and record it again"
        )


def _bag_information(
    mcap: McapFile, file_name: str, topics: Sequence[TopicRecord], episode: Mapping[str, str]
) -> dict:
    first, last = mcap.time_range
    total = sum(mcap.counts.values())
    return {
        "version": 9,
        "storage_identifier": "mcap",
        "starting_time": {"nanoseconds_since_epoch": first},
        "duration": {"nanoseconds": last - first},
        "message_count": total,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type_name,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": yaml.safe_load(topic.qos_yaml) or [],
                    "type_description_hash": topic.type_hash,
                },
                "message_count": mcap.counts[topic.channel],
            }
            for topic in topics
        ],
        # MCAP compresses its chunks itself; these two fields are about compression by rosbag2.
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file_name],
        "files": [
            {
                "path": file_name,
                "starting_time": {"nanoseconds_since_epoch": first},
                "duration": {"nanoseconds": last - first},
                "message_count": total,
            }
        ],
        "custom_data": dict(episode),
        "ros_distro": ros_distro(),
    }


def _write_synced(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # left by an interrupted recovery
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
