"""The end of every episode, recorded or recovered: summary, check, metadata.yaml, checksum, and its
final name in one step.
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

EPISODE_RECORD = "sf_episode"  # MCAP metadata record; the last one of a file counts
METADATA_FILE = "metadata.yaml"
PARTIAL = ".partial"
_READ_ONLY = 0o444
_DISTRIBUTIONS = {"3": "humble", "4": "iron", "7": "jazzy", "9": "kilted"}  # major version of rclpy


class SealError(RuntimeError):
    """The episode is not whole and keeps its .partial name; one sentence."""


@dataclass(frozen=True)
class TopicRecord:
    """A recorded topic: MCAP channel, name, type, offered QoS as rosbag2 writes it, RIHS01 type
    hash.
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
    """Complete the file, check it, and give its directory the final name; from then on both files
    are read-only.

    Args:
        mcap: all messages written.
        file: in the ``.partial`` directory.
        final: the episode's directory; must not exist.
        episode: values of the episode's record.

    Returns:
        ``final``.

    Raises:
        SealError: the file does not read back, or ``final`` was made by somebody else.
        OSError: the disk refused.
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
        raise SealError(f"{final}: was made by somebody else meanwhile; choose another name")
    file.parent.rename(final)
    sync_directory(final.parent)
    return final


@functools.cache
def ros_distro() -> str:
    """Names the ROS distribution: ROS_DISTRO, or that of the installed rclpy; "unknown" without
    either.
    """
    if os.environ.get("ROS_DISTRO"):
        return os.environ["ROS_DISTRO"]
    try:
        major = version("rclpy").partition(".")[0]
    except PackageNotFoundError:
        return "unknown"
    return _DISTRIBUTIONS.get(major, "unknown")


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_yaml(value: dict) -> str:
    """YAML as rosbag2 reads it."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml where PyYAML was built with it
    return yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True)


def _check(file: Path, messages: int) -> None:
    """Read the summary back, as every reader will: a second later it may be too late to record
    again.
    """
    try:
        with file.open("rb") as stream:
            statistics = make_reader(stream).get_summary().statistics
    except (McapError, AttributeError) as error:
        raise SealError(
            f"{file}: does not read back ({error}); check the disk and record it again"
        ) from None
    if statistics.message_count != messages:
        raise SealError(
            f"{file}: {statistics.message_count} of {messages} messages read back; check the disk"
            " and record it again"
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
        # Chunk compression is the storage's own matter: for rosbag2 the bag is not compressed.
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
    path.unlink(missing_ok=True)  # left by a recovery that was cut off itself
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
