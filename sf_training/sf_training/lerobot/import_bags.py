"""LeRobot datasets to episode bags of a robot: cameras and joints are found by name, units are converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.lerobot.dataset_reader import DatasetEpisode, DatasetReader
from sf_training.lerobot.layout import LeRobotError
from sf_training.recording import messages
from sf_training.recording.episode_writer import EpisodeWriter
from sf_training.recording.topics import absolute

COMMAND_DELAY_S = 0.002  # an action is a command given just after its frame, in force when the next one is seen
FIRST_STAMP_S = 1_000_000_000.0  # where a dataset has no times of its own
_SUFFIXES = (".pos", ".position", "_joint")


@dataclass(frozen=True)
class Mapped:
    """How a dataset becomes a robot: ``cameras`` ours to theirs; per joint its column in state and action and a line."""

    cameras: dict[str, str]
    state_columns: list[int]
    action_columns: list[int]
    scale: np.ndarray
    offset: np.ndarray


def mapping(
    reader: DatasetReader,
    contract: Contract,
    cameras: Mapping[str, str],
    joints: Mapping[str, str],
    unit: Literal["rad", "deg"],
    gripper: tuple[float, float] | None,
) -> Mapped:
    """Find every camera and joint of the contract in the dataset.

    Args:
        cameras, joints: ours to theirs, where the names differ.
        unit: of the dataset's arm joints.
        gripper: the dataset's values for closed and open; None when it has the contract's own.

    Raises:
        LeRobotError: something is not found, or pictures have another size.
    """
    views = {}
    for camera in contract.cameras:
        name = cameras.get(camera.name, camera.name)
        if name not in reader.cameras:
            known = ", ".join(reader.cameras) or "none"
            cure = f"say which is {camera.name} with --cameras {camera.name}=NAME"
            raise LeRobotError(f"{reader.directory}: has no camera {name!r} (it has {known}); {cure}")
        if reader.size(name) != (camera.width, camera.height):
            width, height = reader.size(name)
            said = f"{camera.width}x{camera.height}"
            raise LeRobotError(f"{reader.directory}: camera {name} is {width}x{height}, the contract says {said}; correct the contract")
        views[camera.name] = name
    named = ((reader.state_names, "state"), (reader.action_names, "action"))
    columns = [_columns(reader, names, what, contract, joints) for names, what in named]
    scale = np.ones(len(contract.command_joints))
    if unit == "deg":
        scale[: len(contract.joints)] = [np.pi / 180 if joint.unit == "rad" else 1.0 for joint in contract.joints]
    offset = np.zeros(len(scale))
    if contract.gripper and gripper:
        closed, opened = gripper
        if closed == opened:
            raise LeRobotError("--gripper: closed and open must differ")
        scale[-1] = (contract.gripper.open - contract.gripper.closed) / (opened - closed)
        offset[-1] = contract.gripper.closed - closed * scale[-1]
    return Mapped(views, *columns, scale, offset)


def write_episode(reader: DatasetReader, position: int, contract: Contract, mapped: Mapped, out: Path, name: str) -> Path:
    """One episode as a bag; returns its directory.

    Raises:
        LeRobotError, EpisodeWriteError: it cannot be read or written.
    """
    episode = reader.episode(position)
    stamps = _stamps(episode, reader.fps)
    state = episode.state[:, mapped.state_columns] * mapped.scale + mapped.offset
    action = episode.action[:, mapped.action_columns] * mapped.scale + mapped.offset
    topics = contract.topics
    with EpisodeWriter(out, contract, instruction=episode.task, operator=f"lerobot {reader.directory.name}", name=name) as writer:
        for camera in contract.cameras:
            writer.add_topic(absolute(camera.topic), messages.IMAGE)
        for topic in (topics.joint_states, topics.teleop_command):
            writer.add_topic(absolute(topic), messages.JOINT_STATE)
        frames = zip(*(reader.pictures(position, theirs) for theirs in mapped.cameras.values()), strict=True)
        for stamp, joints, command, pictures in zip(stamps, state, action, frames, strict=True):
            for camera, pixels in zip(contract.cameras, pictures, strict=True):
                _write(writer, camera.topic, messages.image(stamp, camera.frame, pixels), stamp)
            _write(writer, topics.joint_states, messages.joint_state(stamp, contract.command_joints, joints), stamp)
            given = stamp + COMMAND_DELAY_S
            _write(writer, topics.teleop_command, messages.joint_state(given, contract.command_joints, command), given)
        return writer.finish("success", note=f"imported from {reader.directory.name}, episode {episode.index}")


def _write(writer: EpisodeWriter, topic: str, data: memoryview, stamp_s: float) -> None:
    writer.write(absolute(topic), data, messages.nanoseconds(stamp_s))


def _stamps(episode: DatasetEpisode, fps: float) -> np.ndarray:
    """Recorded times where the dataset holds them, rising; else made up, so that no two episodes share a moment."""
    if episode.stamps is not None and (np.diff(episode.stamps) > 0).all():
        return episode.stamps
    return FIRST_STAMP_S + 1000.0 * episode.index + episode.timestamps


def _columns(reader: DatasetReader, names: Sequence[str], what: str, contract: Contract, joints: Mapping[str, str]) -> list[int]:
    """The column of every joint of the contract."""
    plain = [_plain(name) for name in names]
    found = []
    for joint in contract.command_joints:
        wanted = joints.get(joint, joint)
        if wanted in names:
            found.append(list(names).index(wanted))
        elif wanted.isdigit() and joint in joints:
            found.append(int(wanted))
        elif plain.count(_plain(wanted)) == 1:
            found.append(plain.index(_plain(wanted)))
        else:
            raise LeRobotError(
                f"{reader.directory}: {what} has no column {wanted!r} (it has {', '.join(names) or 'no names'}); say which is {joint} with "
                f"--joints {joint}=NAME, or {joint}=NUMBER from 0"
            )
    return found


def _plain(name: str) -> str:
    """A joint's name without what only LeRobot adds."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.casefold().replace("_", "")
