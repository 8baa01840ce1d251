"""Episode bags to LeRobot frames: the observations that training takes from them, at a fixed
rate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.clock import cut_at_clock_steps
from sf_training.data.commands import Commands, command_topic, operators_time
from sf_training.data.episode_cameras import usable_images
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.instructions import Instructions
from sf_training.data.one_clock import check_clocks, with_one_clock
from sf_training.data.plausibility import (
    check_all_joints,
    check_commands_are_near,
    check_joints,
    check_one_source,
)
from sf_training.data.synchronisation import JointStream, Observations, align_cameras
from sf_training.lerobot import layout
from sf_training.lerobot.dataset_writer import DatasetWriter
from sf_training.lerobot.export_extras import depth_cameras, depth_indices, efforts
from sf_training.lerobot.layout import LeRobotError
from sf_training.recording.topics import absolute

ActionSource = Literal["commanded", "measured"]


@dataclass(frozen=True)
class Stretch:
    """N frames of an episode without a hole: ``indices`` (N, V) of the cameras' messages, joints
    (N, J), times (N,) [s].

    ``filled`` of the frames repeat the one before; ``tasks`` are the N instructions in force.
    ``depths`` (N, D) are indices of depth messages, -1 for none, and ``effort`` (N, J), where they
    were asked for.
    """

    indices: np.ndarray
    state: np.ndarray
    action: np.ndarray
    stamps: np.ndarray
    filled: int
    tasks: list[str]
    depths: np.ndarray | None = None
    effort: np.ndarray | None = None


def frames_per_second(contract: Contract, fps: int | None) -> int:
    """The dataset's rate: ``fps``, or that of the contract's policy.

    Raises:
        LeRobotError: the policy's rate is not a whole number, which LeRobot needs.
    """
    rate = 1.0 / contract.action.step_s
    if fps is None and abs(rate - round(rate)) > 1e-3:
        raise LeRobotError(
            f"action.step_s {contract.action.step_s}: {rate:.3f} frames per second are no whole"
            " number; choose with --fps"
        )
    return fps or round(rate)


def stretches(
    reader: EpisodeReader,
    fps: int,
    source: ActionSource,
    hold: int,
    command_age_s: float,
    *,
    depth: bool = False,
    effort: bool = False,
) -> list[Stretch]:
    """The frames of one bag; a hole of more than ``hold`` frames ends a stretch, a shorter one is
    filled.

    ``observation.state`` are the joints measured at the observation. ``action`` is, with
    "commanded", the operator's command in force one frame later (row 0 of a training target, as
    joint positions), with "measured" the joints measured one frame later. Where a policy led the
    arm there is no command, and a stretch ends; one ends at a clock step, too.

    Raises:
        BagError: no usable observation, or no commands.
    """
    contract = reader.contract
    cameras = [absolute(camera.topic) for camera in contract.cameras]
    joints, given, control = (
        absolute(contract.topics.joint_states),
        command_topic(reader),
        absolute(contract.topics.control_source),
    )
    said = absolute(contract.topics.instruction)
    depths = [absolute(camera.depth_topic) for camera in depth_cameras(contract)] if depth else []
    read = with_one_clock(
        reader.read({*cameras, *depths, joints, given, control, said}), [*cameras, joints]
    )
    if source == "commanded" and not len(read[given].stamps):
        raise BagError(
            f"{reader.path}: no message on {given}; export the joints that were reached with"
            " --action measured"
        )
    start = min(int(read[topic].stamps.min()) for topic in cameras)
    texts = Instructions.of_recording(reader, read)
    found = []
    try:
        check_one_source(reader, read[joints])
        check_one_source(reader, read[given])
        check_all_joints(reader, read[joints])
        check_clocks(
            contract,
            read,
            {topic: reader.recorded_name(topic) for topic in (*cameras, joints, given)},
        )
        commands = Commands(reader, given, read[given]) if source == "commanded" else None
        for part in cut_at_clock_steps(read, [*cameras, joints], joints):
            if all(len(part[topic].stamps) for topic in (*cameras, joints)):
                found += _part(
                    reader,
                    read,
                    part,
                    fps,
                    hold,
                    commands,
                    command_age_s,
                    texts,
                    start,
                    depth=depth,
                )
    except BagError:
        raise
    except ValueError as error:
        raise BagError(f"{reader.path}: {error}") from None
    if not found:
        raise BagError(
            f"{reader.path}: no frame has all cameras, joints and a command; `sf_training lint`"
            " tells which is missing"
        )
    if effort:
        found = [
            replace(
                part,
                effort=efforts(
                    reader, read[joints].stamps, np.rint(part.stamps * 1e9).astype(np.int64)
                ),
            )
            for part in found
        ]
    return found


def _part(
    reader: EpisodeReader,
    read: dict[str, Stream],
    part: dict[str, Stream],
    fps: int,
    hold: int,
    commands: Commands | None,
    command_age_s: float,
    texts: Instructions,
    start: int,
    *,
    depth: bool,
) -> list[Stretch]:
    """Return the stretches of a part of the recording that has one time line; without ``commands``
    the action is what was measured.
    """
    contract = _at_rate(reader.contract, fps)
    cameras = [absolute(camera.topic) for camera in contract.cameras]
    seen = align_cameras([part[topic].stamps for topic in cameras], contract)
    stream = part[absolute(contract.topics.joint_states)]
    whole = read[absolute(contract.topics.joint_states)]
    joints = JointStream.of_part(
        stream.stamps, stream.messages, contract.command_joints, lambda: whole.messages
    )
    if joints is None or not len(seen.stamps):
        return []
    states = reader.recorded_name(absolute(contract.topics.joint_states))
    check_joints(reader, joints, states, start)
    good, _ = usable_images(reader, part, seen, start)
    seen = Observations(*(getattr(seen, each.name)[good] for each in fields(seen)))
    step = round(1e9 / fps)  # the grid of align_cameras, which begins at the first observation
    cells = (seen.complete - seen.complete[:1] + step // 2) // step
    state = joints.measured(
        seen.stamps, seen.complete, [round(age * 1e9) for age in contract.joint_ages_s]
    )
    if commands is not None:
        given = command_topic(reader)
        held = commands.stream(part[given], stream)
        if held is not None and given != absolute(contract.topics.joint_states):
            check_commands_are_near(
                reader, held.held(seen.stamps), state, reader.recorded_name(given)
            )
        action = _commands(reader, read, part, seen, fps, commands, command_age_s, start)
    else:
        action = np.concatenate([state[1:], np.full_like(state[:1], np.nan)])
        action[np.append(np.diff(cells) != 1, True)] = (
            np.nan
        )  # before a hole nobody knows the joints of one frame later
    rows = np.flatnonzero(np.isfinite(state).all(axis=1) & np.isfinite(action).all(axis=1))
    if not len(rows):
        return []
    # Messages are counted over the whole recording.
    numbers = [np.searchsorted(read[topic].order, part[topic].order) for topic in cameras]
    indices = np.stack(
        [number[column] for number, column in zip(numbers, seen.indices.T, strict=True)], axis=1
    )
    near = depth_indices(contract, read, part, seen) if depth else None
    cells = cells[rows]
    found = []
    for piece in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(cells) > hold + 1) + 1):
        places = cells[piece] - cells[piece][0]
        # Newest frame at or before each place: a filled one repeats what was seen last.
        kept = rows[piece][np.searchsorted(places, np.arange(places[-1] + 1), side="right") - 1]
        filled, tasks = len(kept) - len(piece), texts.at(seen.stamps[kept])
        depths = None if near is None else near[kept]
        found.append(
            Stretch(
                indices[kept],
                state[kept],
                action[kept],
                seen.stamps[kept] * 1e-9,
                filled,
                tasks,
                depths,
            )
        )
    return found


def write_sources(root: Path, contract: Contract, bags: list[dict]) -> None:
    """Keep contract, URDF and where every episode came from with the dataset."""
    folder = root / layout.SOURCES
    folder.mkdir(parents=True)
    (folder / "contract.yaml").write_text(contract.to_yaml(), encoding="utf-8")
    (folder / contract.urdf).write_text(contract.urdf_xml, encoding="utf-8")
    (folder / "episodes.json").write_text(
        json.dumps(bags, indent=1, ensure_ascii=False), encoding="utf-8"
    )


def open_dataset(
    directory: Path,
    contract: Contract,
    fps: int,
    codec: str,
    *,
    depth: bool = False,
    effort: bool = False,
) -> DatasetWriter:
    """A writer with the cameras and joints of a contract."""
    cameras = {camera.name: (camera.width, camera.height) for camera in contract.cameras}
    depths = (
        {
            camera.name + layout.DEPTH_SUFFIX: (camera.width, camera.height)
            for camera in depth_cameras(contract)
        }
        if depth
        else {}
    )
    if depth and not depths:
        raise LeRobotError("--depth: no camera of the contract has a depth_topic; leave it out")
    names = contract.command_joints
    return DatasetWriter(
        directory,
        fps=fps,
        robot=contract.robot,
        joints=names,
        cameras=cameras,
        codec=codec,
        depths=depths,
        effort=effort,
    )


def _at_rate(contract: Contract, fps: int) -> Contract:
    """The same robot with another time between two rows: observations are taken on that grid."""
    action = contract.action.model_copy(update={"step_s": 1.0 / fps})
    return contract.model_copy(update={"action": action})


def _commands(
    reader: EpisodeReader,
    read: dict[str, Stream],
    part: dict[str, Stream],
    seen: Observations,
    fps: int,
    commands: Commands,
    age_s: float,
    start: int,
) -> np.ndarray:
    """Return the command in force one frame after each observation (N, J).

    NaN where there is none, only an old one, or none of the operator.
    """
    topics = reader.contract.topics
    topic, states, control = (
        command_topic(reader),
        absolute(topics.joint_states),
        absolute(topics.control_source),
    )
    given = commands.stream(part[topic], part[states])
    if given is None:
        return np.full((len(seen.stamps), len(reader.contract.command_joints)), np.nan)
    check_joints(reader, given, reader.recorded_name(topic), start)
    later = seen.stamps + round(1e9 / fps)
    usable = (seen.stamps < given.last) & (later - given.newest(later) <= age_s * 1e9)
    usable &= later <= operators_time(seen.stamps, read[control], part[control])
    return np.where(usable[:, None], given.held(later), np.nan)
