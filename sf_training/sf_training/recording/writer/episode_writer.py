"""Write one episode as a rosbag2 MCAP bag. The recorder, the simulator and the LeRobot import use
it; no rclpy here.

During recording an episode is the directory ``<name>.partial/``. :meth:`EpisodeWriter.finish`
completes it and renames it atomically, so a directory with its final name is complete. The bag
holds contract, URDF, instruction, operator, outcome, verdict, software versions and drop counts.
"""

from __future__ import annotations

import errno
import functools
import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

from sf_policy_node.contract import Contract
from sf_policy_node.programs import command
from sf_training.recording.messages import STRING, definition
from sf_training.recording.topics import Delivery
from sf_training.recording.writer.episode_message import EPISODE_TOPIC, episode_message
from sf_training.recording.writer.mcap_file import McapFile
from sf_training.recording.writer.qos_profiles import offered_qos
from sf_training.recording.writer.sealing import (
    EPISODE_RECORD,
    PARTIAL,
    SealError,
    TopicRecord,
    ros_distro,
    seal,
    sync_directory,
)

Outcome = Literal["success", "failure", "discarded"]
OUTCOMES: tuple[Outcome, ...] = ("success", "failure", "discarded")
UNFINISHED = "unfinished"  # outcome in the file until ``finish`` is called
CONTRACT_ATTACHMENT = "contract.yaml"
MIN_FREE_BYTES = 64 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PACKAGES = ("sf_training", "mcap", "rosbags", "numpy", "mujoco")
_SAME_NAME_TRIES = 20


class EpisodeWriteError(RuntimeError):
    """The episode was not written; the message names the file, what is left of it, and the cure."""


class EpisodeWriter:
    """Write one episode. Call :meth:`finish` or :meth:`abort`; leaving a ``with`` block aborts an
    episode that is not finished.

    Args:
        directory: parent directory of the episodes; created if missing.
        contract: of the robot; embedded in the bag together with its URDF.
        instruction: what the operator was asked to do.
        operator: who or what commanded the arm.
        name: of the episode; by default robot and UTC time.
        keep: on a disk error, keep the messages written so far as ``<name>.partial/`` for
            ``sf_training recover``. Without it the episode is deleted.

    Raises:
        EpisodeWriteError: the name is taken, the directory cannot be written, or less than 64 MB
            are free.
    """

    def __init__(
        self,
        directory: str | Path,
        contract: Contract,
        *,
        instruction: str,
        operator: str,
        name: str | None = None,
        keep: bool = False,
    ) -> None:
        self.name = name or f"{contract.robot}_{datetime.now(UTC):%Y%m%d_%H%M%S_%f}"
        self._final = Path(directory) / self.name
        self._keep_on_error, self._contract = keep, contract
        self._topics: dict[str, TopicRecord] = {}
        self._schemas: dict[str, int] = {}
        self._mcap: McapFile | None = None
        self._open = False
        with self._disk_errors():
            Path(directory).mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(directory).free
            if free < MIN_FREE_BYTES:
                raise EpisodeWriteError(
                    f"{self._final}: only {free / 1e6:.0f} MB are free, an episode needs at least"
                    f" {MIN_FREE_BYTES / 1e6:.0f} MB; free some disk space"
                )
            self._make_directory(given=name is not None)
            self._open = True
            self._file = self._partial / f"{self.name}_0.mcap"
            self._mcap = McapFile(self._file, library="sf_training")
            self._episode = {
                "schema_version": "1",
                "robot": contract.robot,
                "contract_hash": contract.hash,
                "instruction": instruction,
                "operator": operator,
                "software": json.dumps(_software()),
            }
            # First in the file, so that a truncated file still holds its contract.
            self._writing.attach(
                CONTRACT_ATTACHMENT, "application/yaml", contract.to_yaml().encode()
            )
            self._writing.attach(contract.urdf, "application/xml", contract.urdf_xml.encode())
            self._writing.add_metadata(EPISODE_RECORD, {**self._episode, "outcome": UNFINISHED})
            sync_directory(self._partial)
            sync_directory(self._partial.parent)

    @property
    def _writing(self) -> McapFile:
        """The open file; the constructor makes it."""
        assert self._mcap is not None
        return self._mcap

    @property
    def path(self) -> Path:
        """Final directory of the episode; it exists after :meth:`finish`."""
        return self._final

    @property
    def size(self) -> int:
        """Number of bytes written to the file so far."""
        return self._writing.size

    def set_instruction(self, instruction: str) -> None:
        """Replace the instruction of the episode record. Call it before :meth:`finish`."""
        self._episode["instruction"] = instruction

    def add_topic(
        self,
        topic: str,
        type_name: str,
        qos_yaml: str = "",
        described: tuple[str, str] | None = None,
    ) -> None:
        """Declare a topic before its first message.

        Args:
            topic: absolute name.
            type_name: for example ``sensor_msgs/msg/Image``.
            qos_yaml: offered QoS profiles in the format of rosbag2, for ``ros2 bag play``.
            described: message definition and type hash, for messages copied from another bag. By
                default those of the installed interfaces.

        Raises:
            EpisodeWriteError: the type is unknown, or the topic is declared with another type. The
                episode stays open.
        """
        if topic in self._topics:
            known = self._topics[topic].type_name
            if known != type_name:
                raise EpisodeWriteError(
                    f"{topic}: is already recorded as {known}, not {type_name}; publish one type"
                    " per topic"
                )
            return
        try:
            text, type_hash = described or definition(type_name)
        except KeyError:
            raise EpisodeWriteError(
                f"{topic}: message type {type_name} is unknown; use the types of the common"
                " interfaces or of sf_msgs"
            ) from None
        with self._disk_errors():
            if type_name not in self._schemas:
                self._schemas[type_name] = self._writing.add_schema(type_name, text)
            metadata = {"offered_qos_profiles": qos_yaml, "topic_type_hash": type_hash}
            channel = self._writing.add_channel(topic, self._schemas[type_name], metadata)
        self._topics[topic] = TopicRecord(channel, topic, type_name, qos_yaml, type_hash)

    def set_qos(self, topic: str, qos_yaml: str) -> None:
        """Replace the QoS profiles of a topic in metadata.yaml; an empty text changes nothing."""
        if qos_yaml:
            self._topics[topic] = replace(self._topics[topic], qos_yaml=qos_yaml)

    def write(
        self,
        topic: str,
        serialized_cdr: bytes | memoryview,
        log_time_ns: int,
        publish_time_ns: int | None = None,
    ) -> None:
        """Add one serialized message without changing it.

        Args:
            serialized_cdr: is written later; do not modify it.
            log_time_ns: time of receipt [ns].
            publish_time_ns: time of publication [ns]; None if unknown.

        Raises:
            EpisodeWriteError: the disk is full, or the topic was not declared with ``add_topic``.
        """
        try:
            channel = self._topics[topic].channel
        except KeyError:
            raise EpisodeWriteError(
                f"{topic}: is not declared; call add_topic before write"
            ) from None
        with self._disk_errors():
            self._writing.write(
                channel,
                serialized_cdr,
                log_time_ns,
                log_time_ns if publish_time_ns is None else publish_time_ns,
            )

    def flush(self) -> None:
        """Write buffered messages to the operating system, where they survive a crash of this
        process.
        """
        with self._disk_errors():
            self._writing.flush()

    def sync(self) -> None:
        """Wait until flushed messages are on the disk, where they survive a power failure."""
        with self._disk_errors():
            self._writing.sync()

    def finish(
        self,
        outcome: Outcome,
        note: str = "",
        drops: Mapping[str, int] | None = None,
        verdict: str = "",
        reasons: Sequence[str] = (),
        write_delay_ms: Mapping[str, float] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Path:
        """Complete the episode and rename it to its final name.

        Args:
            outcome: training uses ``success`` only by default; the others are kept.
            note: free text of the operator.
            drops: number of lost messages per topic; topics that are not listed lost none.
            verdict: PASS, WARN or FAIL; empty if the streams were not monitored.
            reasons: one sentence for each reason why the verdict is not PASS.
            write_delay_ms: percentiles of the delay from receipt of a message to its write [ms].
            more: further entries of the episode record.

        Returns:
            The directory of the bag.

        Raises:
            EpisodeWriteError: no message was written, or the disk is full.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome: must be one of {', '.join(OUTCOMES)}, got {outcome!r}")
        lost = {topic: (drops or {}).get(topic, 0) for topic in self._topics}
        self._episode |= {"outcome": outcome, "note": note, "drops": json.dumps(lost)}
        if verdict:
            self._episode |= {
                "verdict": verdict,
                "reasons": json.dumps(list(reasons), ensure_ascii=False),
            }
        self._episode |= dict(more or {})
        if write_delay_ms:
            self._episode["write_delay_ms"] = json.dumps(dict(write_delay_ms))
        with self._disk_errors():
            self._writing.flush()
            if not any(self._writing.counts.values()):
                self.abort()
                raise EpisodeWriteError(
                    f"{self._final}: no message arrived; check that the robot publishes the"
                    " contract's topics"
                )
            self.add_topic(EPISODE_TOPIC, STRING, offered_qos(Delivery.LATCHED))
            self.write(
                EPISODE_TOPIC,
                episode_message(self._contract, self._episode),
                self._writing.time_range[1],
            )
            seal(self._writing, self._file, self._final, self._episode, list(self._topics.values()))
        self._open = False
        return self._final

    def abort(self) -> None:
        """Delete the episode. Does nothing after :meth:`finish` or an earlier ``abort``."""
        if self._open:
            self._open = False
            if self._mcap:
                self._mcap.abort()
            shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _make_directory(self, given: bool) -> None:
        """Create the ``.partial`` directory, and with it reserve the name.

        Another recorder may choose the same name at the same time. Unless the name was ``given``,
        a number is then appended.
        """
        base = self.name
        for self.name in (
            [base]
            if given
            else [base, *(f"{base}_{number}" for number in range(2, _SAME_NAME_TRIES))]
        ):
            self._final = self._final.with_name(self.name)
            self._partial = self._final.with_name(self.name + PARTIAL)
            if self._final.exists():
                taken = f"{self._final}: already exists; choose another name or directory"
                continue
            try:
                self._partial.mkdir()
                return
            except FileExistsError:
                taken = (
                    f"{self._partial}: already exists; another recorder writes it, or one was"
                    " killed: recover or delete it"
                )
        raise EpisodeWriteError(taken)

    def _give_up(self) -> str:
        """End the episode after an error; return a clause that says what is left of it."""
        with suppress(OSError):
            if not (
                self._keep_on_error
                and self._open
                and self._mcap
                and any(self._mcap.counts.values())
            ):
                self.abort()
                return "the episode was deleted"
            self._open = False
            self._writing.abort()
        return f"the messages written so far are in {self._partial}"

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn disk errors into one sentence, and delete the episode unless it is kept."""
        try:
            yield
        except EpisodeWriteError:
            raise
        except SealError as error:
            raise EpisodeWriteError(f"{error}; {self._give_up()}") from None
        except OSError as error:
            left = self._give_up()
            recover = (
                f"then `{command('sf_training sf_training', 'sf_training')} recover"
                f" {self._partial}`"
                if left.startswith("the messages")
                else "record it again"
            )
            if error.errno in _DISK_FULL:
                raise EpisodeWriteError(
                    f"{self._final}: the disk is full, {left}; free some space and {recover}"
                ) from None
            cure = (
                "check the directory and its"
                f" permissions{', ' + recover if left.startswith('the messages') else ''}"
            )
            raise EpisodeWriteError(
                f"{self._final}: cannot be written ({error.strerror}); {cure}"
            ) from None


@functools.cache
def _software() -> dict[str, str]:
    versions = {"python": platform.python_version(), "ros_distro": ros_distro()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
