"""Convert LeRobot and RLDS datasets to episode bags of a robot: map cameras and joints by name, and
convert units.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sf_policy_node.contract import Camera, Contract
from sf_policy_node.perception.observation import validate_instruction
from sf_training.lerobot.dataset_reader import DatasetEpisode, DatasetReader
from sf_training.lerobot.layout import LeRobotError
from sf_training.lerobot.rlds_reader import RldsReader
from sf_training.lerobot.units import Conversion, Units, conversion
from sf_training.recording import messages
from sf_training.recording.topics import Delivery, absolute
from sf_training.recording.writer.episode_writer import EpisodeWriter
from sf_training.recording.writer.qos_profiles import offered_qos

Reader = DatasetReader | RldsReader

# An action becomes a command just after its frame, so that it is in force at the next one.
COMMAND_DELAY_S = 0.002
FIRST_STAMP_S = 1_000_000_000.0  # for datasets without times
_LAST_STAMP_S = 2**31 - 1  # of a ROS message
_SUFFIXES = (".pos", ".position", "_joint")
_EPISODES_SAMPLED = 50  # to judge the units


@dataclass(frozen=True)
class Mapped:
    """Mapping from a dataset to a robot.

    Attributes:
        cameras, depths: camera of the contract to name in the dataset; depths where both have them.
        state_columns, action_columns: column of each command joint.
        values: conversion of the units.
    """

    cameras: dict[str, str]
    depths: dict[str, str]
    state_columns: list[int]
    action_columns: list[int]
    values: Conversion


def mapping(
    reader: Reader,
    contract: Contract,
    cameras: Mapping[str, str],
    joints: Mapping[str, str],
    units: Units,
    gripper: tuple[float, float] | None,
    *,
    exported: bool = False,
) -> Mapped:
    """Find every camera and joint of the contract in the dataset, and the conversion of units.

    Args:
        cameras, joints: name in the contract to name in the dataset, where they differ.
        units: of the arm joints in the dataset.
        gripper: values for closed and open in the dataset; None means as the units imply.
        exported: the dataset was exported with this contract, so its values are in its units.

    Raises:
        LeRobotError: a camera or joint is missing or named twice, images have another size, or
            values do not fit the units.
    """
    for option, given, known in (
        ("--cameras", cameras, contract.camera_names),
        ("--joints", joints, contract.command_joints),
    ):
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            raise LeRobotError(
                f"{option}: the contract has no {unknown!r}; name one of {', '.join(known)}"
            )
    views = {
        camera.name: _camera(reader, camera, cameras, alone=len(contract.cameras) == 1)
        for camera in contract.cameras
    }
    for one, other in itertools.combinations(views, 2):
        if views[one] == views[other]:
            raise LeRobotError(
                f"{reader.directory}: cameras {one} and {other} are both {views[one]!r}; correct"
                " --cameras"
            )
    sides = (
        (reader.state_names, reader.state_width, "state"),
        (reader.action_names, reader.action_width, "action"),
    )
    state, action = (
        _columns(reader, names, width, what, contract, joints) for names, width, what in sides
    )
    depths = _depths(reader, contract, views)
    if exported and units == "auto" and gripper is None:
        # A simulated gripper overshoots its open position: that is no other unit.
        return Mapped(views, depths, state, action, Conversion.unchanged(len(state)))
    lowest, highest = _extremes(reader, state, action)
    names = [reader.state_names[column] if reader.state_names else str(column) for column in state]
    try:
        values = conversion(contract, units, gripper, names, lowest, highest)
    except LeRobotError as error:
        raise LeRobotError(f"{reader.directory}: {error}") from None
    return Mapped(views, depths, state, action, values)


def write_episode(
    reader: Reader,
    position: int,
    contract: Contract,
    mapped: Mapped,
    out: Path,
    name: str,
    notes: list[str],
) -> Path:
    """Write one episode as a bag; return its directory.

    Args:
        notes: a sentence about efforts that are left out is added to it.

    Raises:
        LeRobotError, EpisodeWriteError: the episode cannot be read or written.
    """
    episode = reader.episode(position)
    stamps = _stamps(episode, FIRST_STAMP_S + reader.start_s(position))
    state, action = (
        mapped.values.apply(values[:, columns])
        for values, columns in (
            (episode.state, mapped.state_columns),
            (episode.action, mapped.action_columns),
        )
    )
    texts = dict(_checked(reader, episode))
    efforts = None if episode.effort is None else episode.effort[:, mapped.state_columns]
    if efforts is not None and not np.isfinite(efforts).all():
        unknown = ~np.isfinite(efforts)
        joint = contract.command_joints[int(unknown.sum(axis=0).argmax())]
        notes.append(
            f"{reader.directory}: episode {episode.index}: observation.effort is not finite in"
            f" {unknown.any(axis=1).sum()} of {len(unknown)} frames (most often of {joint}); these"
            " efforts are left out"
        )
    topics, joints = contract.topics, contract.command_joints
    operator = f"lerobot {reader.directory.resolve().name}"
    with EpisodeWriter(out, contract, instruction=texts[0], operator=operator, name=name) as writer:
        writer.add_topic(
            absolute(topics.instruction), messages.STRING, offered_qos(Delivery.LATCHED)
        )
        for camera in contract.cameras:
            writer.add_topic(absolute(camera.topic), messages.IMAGE, offered_qos(Delivery.SENSOR))
        measured = [
            (camera, camera.depth_topic)
            for camera in contract.cameras
            if camera.name in mapped.depths and camera.depth_topic
        ]
        for _, topic in measured:
            writer.add_topic(absolute(topic), messages.IMAGE, offered_qos(Delivery.SENSOR))
        writer.add_topic(
            absolute(topics.joint_states), messages.JOINT_STATE, offered_qos(Delivery.SENSOR)
        )
        writer.add_topic(
            absolute(topics.teleop_command), messages.JOINT_STATE, offered_qos(Delivery.RELIABLE)
        )
        frames = zip(
            *(
                _images(reader, position, camera, mapped.cameras[camera.name])
                for camera in contract.cameras
            ),
            strict=True,
        )
        depths = [
            _images(reader, position, camera, mapped.depths[camera.name], depth=True)
            for camera, _ in measured
        ]
        for frame, (stamp, colour, *metres) in enumerate(zip(stamps, frames, *depths, strict=True)):
            if frame in texts:
                _write(writer, topics.instruction, messages.string(texts[frame]), stamp)
            for camera, pixels in zip(contract.cameras, colour, strict=True):
                _write(writer, camera.topic, messages.image(stamp, camera.frame, pixels), stamp)
            for (camera, topic), pixels in zip(measured, metres, strict=True):
                _write(writer, topic, messages.depth_image(stamp, camera.frame, pixels), stamp)
            effort = None if efforts is None else efforts[frame]
            _write(
                writer,
                topics.joint_states,
                messages.joint_state(stamp, joints, state[frame], efforts=effort),
                stamp,
            )
            given = stamp + COMMAND_DELAY_S
            _write(
                writer,
                topics.teleop_command,
                messages.joint_state(given, joints, action[frame]),
                given,
            )
        return writer.finish(
            "success",
            note=f"imported from {reader.directory.resolve().name}, episode {episode.index}",
        )


def _write(writer: EpisodeWriter, topic: str, data: memoryview, stamp_s: float) -> None:
    writer.write(absolute(topic), data, messages.nanoseconds(stamp_s))


def _checked(reader: Reader, episode: DatasetEpisode) -> list[tuple[int, str]]:
    try:
        return [(frame, validate_instruction(text)) for frame, text in episode.segments]
    except ValueError as error:
        cure = "correct it, or give another with --instruction TEXT"
        raise LeRobotError(
            f"{reader.directory}: episode {episode.index}: {error}; {cure}"
        ) from None


def _images(
    reader: Reader, position: int, camera: Camera, theirs: str, *, depth: bool = False
) -> Iterator[np.ndarray]:
    if depth:
        assert isinstance(reader, DatasetReader)  # RLDS names no depths
        frames = reader.depth_images(position, theirs)
    else:
        frames = reader.images(position, theirs)
    for pixels in frames:
        height, width = pixels.shape[:2]
        if (width, height) != (camera.width, camera.height):
            raise LeRobotError(
                f"{reader.directory}: episode {reader.number(position)}: {theirs} is"
                f" {width}x{height} instead of {camera.width}x{camera.height}; fetch the dataset"
                " again"
            )
        yield pixels


def _stamps(episode: DatasetEpisode, begin_s: float) -> np.ndarray:
    """Return the recorded times (N,) [s] if the dataset has usable ones, else times from
    ``begin_s`` on, so that episodes do not overlap.
    """
    stamps = episode.stamps
    if (
        stamps is not None
        and (np.diff(stamps) > 0).all()
        and stamps[0] >= 0
        and stamps[-1] < _LAST_STAMP_S
    ):
        return stamps
    if not (episode.timestamps[0] >= 0 and begin_s + episode.timestamps[-1] < _LAST_STAMP_S):
        raise LeRobotError(
            f"episode {episode.index}: its timestamps go up to {episode.timestamps[-1]:g} s;"
            " correct them"
        )
    return begin_s + episode.timestamps


def _extremes(
    reader: Reader, state_columns: list[int], action_columns: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value (J,) of each command joint in up to 50 evenly spaced
    episodes.
    """
    sampled = np.unique(
        np.linspace(0, reader.episodes - 1, _EPISODES_SAMPLED).round().astype(int)
    ).tolist()
    arrays = [
        values
        for position in sampled
        for values in _values(reader, position, state_columns, action_columns)
    ]
    lowest = np.min([values.min(axis=0) for values in arrays], axis=0)
    return lowest, np.max([values.max(axis=0) for values in arrays], axis=0)


def _values(
    reader: Reader, position: int, state_columns: list[int], action_columns: list[int]
) -> list[np.ndarray]:
    values = [
        side[:, columns]
        for side, columns in zip(
            reader.values(position), (state_columns, action_columns), strict=True
        )
    ]
    # `DatasetReader.episode` reports values that are not finite.
    finite = [side[np.isfinite(side).all(axis=1)] for side in values]
    return [side if len(side) else np.zeros((1, side.shape[1])) for side in finite]


def _camera(reader: Reader, camera: Camera, given: Mapping[str, str], *, alone: bool) -> str:
    """Return the name of a camera in the dataset. ``alone``: the contract has no other camera."""
    wanted = given.get(camera.name, camera.name)
    keys = {key: name for name, key in reader.cameras.items()}
    name = keys.get(wanted, wanted)
    if (
        name not in reader.cameras
        and camera.name not in given
        and alone
        and len(reader.cameras) == 1
    ):
        name = next(iter(reader.cameras))
    if name not in reader.cameras:
        known = ", ".join(reader.cameras) or "none"
        cure = f"name {camera.name} with --cameras {camera.name}=NAME"
        raise LeRobotError(f"{reader.directory}: has no camera {wanted!r} (it has {known}); {cure}")
    width, height = reader.size(name)
    if (width, height) != (camera.width, camera.height):
        expected = f"{camera.width}x{camera.height}"
        raise LeRobotError(
            f"{reader.directory}: camera {name} is {width}x{height}, the contract says {expected};"
            " correct the contract"
        )
    return name


def _depths(reader: Reader, contract: Contract, views: Mapping[str, str]) -> dict[str, str]:
    """Return camera to name of its depth in the dataset, for cameras with a depth topic."""
    found = {}
    plain = {
        name.casefold().replace(".", "_").removeprefix("depth_").removesuffix("_depth"): name
        for name in reader.depths
    }
    for camera in contract.cameras:
        theirs = plain.get(views[camera.name].casefold()) or plain.get(camera.name.casefold())
        if camera.depth_topic and theirs and reader.size(theirs) == (camera.width, camera.height):
            found[camera.name] = theirs
    return found


def _columns(
    reader: Reader,
    names: Sequence[str],
    width: int,
    what: str,
    contract: Contract,
    joints: Mapping[str, str],
) -> list[int]:
    """Return the column of every command joint of the contract.

    Args:
        names, width: names and number of the columns.
        what: "state" or "action", for messages.
        joints: joint to name or number of its column, from the user.
    """
    plain = [_plain(name) for name in names]
    found: list[int] = []
    for joint in contract.command_joints:
        wanted = joints.get(joint, joint)
        if wanted in names:
            found.append(list(names).index(wanted))
        elif wanted.isdecimal() and joint in joints:
            if int(wanted) >= width:
                raise LeRobotError(
                    f"{reader.directory}: {what} has no column {wanted} for {joint}; give one of 0"
                    f" to {width - 1}"
                )
            found.append(int(wanted))
        elif plain.count(_plain(wanted)) == 1:
            found.append(plain.index(_plain(wanted)))
        else:
            held = ", ".join(names) or f"{width} columns without usable names"
            raise LeRobotError(
                f"{reader.directory}: {what} has no column {wanted!r} (it has {held}); map {joint}"
                f" with --joints {joint}=NAME, or {joint}=NUMBER from 0"
            )
    twice = next(
        (joint for row, joint in enumerate(contract.command_joints) if found[row] in found[:row]),
        None,
    )
    if twice is not None:
        other = contract.command_joints[found.index(found[contract.command_joints.index(twice)])]
        raise LeRobotError(
            f"{reader.directory}: {other} and {twice} are the same column of {what}; correct"
            " --joints"
        )
    return found


def _plain(name: str) -> str:
    """Return the name of a joint without the suffixes that LeRobot adds."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.casefold().replace("_", "")
