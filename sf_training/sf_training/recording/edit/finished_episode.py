"""Open a finished episode of this suite to copy messages from it. No rclpy here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from mcap.exceptions import McapError
from mcap.reader import McapReader, make_reader
from mcap.records import Channel, Message, Schema

from sf_policy_node.contract import Contract, ContractError, parse_contract
from sf_policy_node.programs import command
from sf_training.recording import messages
from sf_training.recording.labels import LabelError, Labels, read_labels
from sf_training.recording.recover.verification import ChecksumError, verify_episode
from sf_training.recording.topics import absolute
from sf_training.recording.writer.episode_writer import CONTRACT_ATTACHMENT
from sf_training.recording.writer.sealing import EPISODE_RECORD, METADATA_FILE, PARTIAL


class EditError(ValueError):
    """An episode cannot be edited, and nothing was changed; the message is one sentence that names
    the episode and the cure.
    """


@dataclass(frozen=True)
class FinishedEpisode:
    """A finished episode with its contract, record, labels and instructions.

    Attributes:
        path: its directory.
        file: its MCAP file.
        record: the episode record as it was recorded.
        labels: the newest label given after recording; None without one.
        begin, end: log times of the first and the last message [ns].
        segments: start time [ns] and text of each instruction, the first at ``begin``. Labels
            replace the recorded instructions.
    """

    path: Path
    file: Path
    contract: Contract
    record: dict[str, str]
    labels: Labels | None
    begin: int
    end: int
    segments: tuple[tuple[int, str], ...]

    @property
    def outcome(self) -> str:
        """Outcome of the newest label, else the recorded one."""
        return (self.labels and self.labels.outcome) or self.record.get("outcome", "")

    @property
    def seconds(self) -> float:
        """Time from the first to the last message [s]."""
        return (self.end - self.begin) * 1e-9

    def instruction_at(self, time_ns: int) -> str:
        """Return the instruction in force at a time [ns]."""
        return next(
            text for begin, text in reversed(self.segments) if begin <= max(time_ns, self.begin)
        )

    def messages(self) -> Iterator[tuple[Schema, Channel, Message]]:
        """Yield all messages in the order of their log times.

        Raises:
            EditError: the file is damaged.
        """
        with _open_mcap(self.file) as reader:
            for schema, channel, message in reader.iter_messages():
                assert schema is not None  # the recorder writes one for every channel
                yield schema, channel, message


def open_finished(path: Path) -> FinishedEpisode:
    """Open the episode in a directory, after verifying its checksum.

    Raises:
        EditError: the directory is no finished episode of this suite, or its file was changed.
    """
    if path.name.endswith(PARTIAL):
        raise EditError(
            f"{path}: was never finished; recover it first with"
            f" `{command('sf_training sf_training', 'sf_training')} recover {path}`"
        )
    if not (path / METADATA_FILE).is_file():
        raise EditError(f"{path}: is not a finished episode; give the directory of one")
    if not _custom_data(path).get("sha256"):
        raise EditError(
            f"{path}: was not recorded by sf_training, only its own episodes can be trimmed, split"
            " or merged; choose instructions in time with `relabel --at`, or cut it with its"
            " recorder's tools"
        )
    try:
        verify_episode(path)
        labels = read_labels(path)
    except (ChecksumError, LabelError) as error:
        raise EditError(str(error)) from None
    file = path / _information(path)["relative_file_paths"][0]
    with _open_mcap(file) as reader:
        attachments = {entry.name: entry.data for entry in reader.iter_attachments()}
        records = [
            entry.metadata for entry in reader.iter_metadata() if entry.name == EPISODE_RECORD
        ]
        if not records or CONTRACT_ATTACHMENT not in attachments:
            raise EditError(
                f"{path}: holds no episode record or no contract, so this suite did not record it;"
                " only its own episodes can be edited"
            )
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None  # its checksum is right
        statistics = summary.statistics
        begin, end = statistics.message_start_time, statistics.message_end_time
        contract = _contract(path, attachments)
        segments = _segments(reader, contract, records[-1], labels, begin)
    return FinishedEpisode(path, file, contract, records[-1], labels, begin, end, segments)


def duration_s(path: Path) -> float:
    """Return the time from the first to the last message of a bag of any recorder [s].

    Raises:
        EditError: metadata.yaml does not tell, or an own episode was changed.
    """
    if _custom_data(path).get("sha256"):
        return open_finished(path).seconds
    try:
        return float(_information(path)["duration"]["nanoseconds"]) * 1e-9
    except (KeyError, TypeError, ValueError):
        raise EditError(
            f"{path / METADATA_FILE}: names no duration; restore it with `ros2 bag reindex`"
        ) from None


def _custom_data(path: Path) -> dict:
    found = _information(path).get("custom_data")
    return found if isinstance(found, dict) else {}


def _information(path: Path) -> dict:
    """Return the description of the bag in metadata.yaml."""
    try:
        content = yaml.safe_load((path / METADATA_FILE).read_text(encoding="utf-8"))
        information = content["rosbag2_bagfile_information"]
        if isinstance(information, dict):
            return information
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        pass
    raise EditError(f"{path}: its {METADATA_FILE} cannot be read; restore the episode from a copy")


def _contract(path: Path, attachments: dict[str, bytes]) -> Contract:
    urdf = next((data for name, data in attachments.items() if name != CONTRACT_ATTACHMENT), b"")
    try:
        return parse_contract(
            attachments[CONTRACT_ATTACHMENT].decode(),
            urdf.decode(),
            CONTRACT_ATTACHMENT,
            stored=True,
        )
    except ContractError as error:
        raise EditError(f"{path}: {error}") from None


def _segments(
    reader: McapReader,
    contract: Contract,
    record: dict[str, str],
    labels: Labels | None,
    begin: int,
) -> tuple[tuple[int, str], ...]:
    if labels and labels.segments:
        return tuple((begin + round(seconds * 1e9), text) for seconds, text in labels.segments)
    if labels and labels.instruction:
        return ((begin, labels.instruction),)
    found = [(begin, record.get("instruction", ""))]
    for _, _, message in reader.iter_messages(topics=[absolute(contract.topics.instruction)]):
        text = messages.deserialize(message.data, messages.STRING).data.strip()
        if text and text != found[-1][1]:
            found.append((message.log_time, text))
    return tuple(found)


@contextmanager
def _open_mcap(file: Path) -> Iterator[McapReader]:
    try:
        with file.open("rb") as stream:
            yield make_reader(stream, validate_crcs=True)
    except OSError as error:
        raise EditError(
            f"{file}: cannot be read ({error.strerror}); check path and permissions"
        ) from None
    except McapError as error:
        raise EditError(f"{file}: is damaged ({error}); restore the episode from a copy") from None
