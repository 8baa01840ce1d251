"""Convert episode bags to LeRobot frames: the observations that training would use, at a fixed
rate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from sf_policy_node.contract import Contract
from sf_training.data.clock_offsets import check_clocks, with_one_clock
from sf_training.data.clock_steps import cut_at_clock_steps, section_note
from sf_training.data.commands import Commands, command_topic, teleoperated_until
from sf_training.data.efforts import measured_efforts
from sf_training.data.episode_cameras import usable_images
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.instructions import Instructions
from sf_training.data.plausibility import (
    check_all_joints,
    check_commands_are_near,
    check_joints,
    check_one_source,
)
from sf_training.data.synchronisation import JointStream, Observations, align_cameras
from sf_training.data.targets import unlabelled
from sf_training.lerobot import layout
from sf_training.lerobot.dataset_writer import DatasetWriter
from sf_training.lerobot.export_depth import depth_cameras, depth_indices
from sf_training.lerobot.layout import LeRobotError
from sf_training.lerobot.video import Codec
from sf_training.recording.topics import absolute

ActionSource = Literal["commanded", "measured"]


@dataclass(frozen=True)
class Stretch:
    """N frames of an episode without a gap.

    Attributes:
        indices: (N, V) message index of each camera.
        state, action: (N, J) joint positions [rad, m].
        stamps: (N,) [s].
        filled: number of frames that repeat the previous one.
        tasks: N instructions in force.
        depths: (N, D) message index of each depth camera, -1 for none; None if not requested.
        effort: (N, J) [N m, N], NaN where unknown; None if not requested.
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
    """Return the rate of the dataset: ``fps``, or that of the policy in the contract.

    Raises:
        LeRobotError: the rate of the policy is not an integer, which LeRobot needs.
    """
    rate = 1.0 / contract.action.step_s
    if fps is None and abs(rate - round(rate)) > 1e-3:
        raise LeRobotError(
            f"action.step_s {contract.action.step_s}: {rate:.3f} frames per second are not an"
            " integer; choose a rate with --fps"
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
    notes: list[str] | None = None,
) -> list[Stretch]:
    """Return the frames of one bag, split at gaps of more than ``hold`` frames; shorter gaps are
    filled.

    ``observation.state`` holds the joints measured at the observation. With "commanded", ``action``
    is the operator's command in force one frame later (step 0 of a training target, as joint
    positions), with "measured" the joints measured one frame later. Frames are also split at clock
    steps and where the policy had control, because there is no command of the operator.

    Args:
        command_age_s: frames with an older command are left out.
        depth, effort: add them.
        notes: sentences about anomalies and about what is left out are added to it.

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
    instruction = absolute(contract.topics.instruction)
    depths = [
        absolute(camera.depth_topic)
        for camera in (depth_cameras(contract) if depth else ())
        if camera.depth_topic
    ]
    read = with_one_clock(
        reader.read({*cameras, *depths, joints, given, control, instruction}), [*cameras, joints]
    )
    if source == "commanded" and not len(read[given].stamps):
        raise BagError(
            f"{reader.path}: no message on {given}; export measured joints with --action measured"
        )
    start = min(int(read[topic].stamps.min()) for topic in cameras)
    texts = Instructions.of_recording(reader, read)
    found = []
    notes = [] if notes is None else notes
    notes += [texts.note] if texts.note else []
    try:
        check_one_source(reader, read[joints])
        check_one_source(reader, read[given])
        check_all_joints(reader, read[joints])
        notes += check_clocks(reader, read, (*cameras, joints, given))
        commands = Commands(reader, given, read[given], start) if source == "commanded" else None
        for section in cut_at_clock_steps(read, [*cameras, joints], contract):
            if all(len(section[topic].stamps) for topic in (*cameras, joints)):
                found += _stretches(
                    reader,
                    read,
                    section,
                    fps,
                    hold,
                    commands,
                    command_age_s,
                    texts,
                    start,
                    notes,
                    depth=depth,
                    effort=effort,
                )
    except BagError:
        raise
    except ValueError as error:
        raise BagError(f"{reader.path}: {error}") from None
    if not found:
        raise BagError(
            f"{reader.path}: no frame has all cameras, joints and a command; find what is missing"
            " with `python3 -m sf_training lint`"
        )
    efforts = [stretch.effort for stretch in found if stretch.effort is not None]
    if effort and not any(np.isfinite(each).any() for each in efforts):
        raise BagError(f"{reader.path}: {joints} holds no efforts; export without --effort")
    return found


def _stretches(
    reader: EpisodeReader,
    read: dict[str, Stream],
    section: dict[str, Stream],
    fps: int,
    hold: int,
    commands: Commands | None,
    command_age_s: float,
    texts: Instructions,
    start: int,
    notes: list[str],
    *,
    depth: bool,
    effort: bool,
) -> list[Stretch]:
    """Return the stretches of one section between clock steps; without ``commands`` the action is
    what was measured. Sentences about anomalies are added to ``notes``.
    """
    contract = _at_rate(reader.contract, fps)
    cameras = [absolute(camera.topic) for camera in contract.cameras]
    observations = align_cameras([section[topic].stamps for topic in cameras], contract)
    stream = section[absolute(contract.topics.joint_states)]
    all_states = read[absolute(contract.topics.joint_states)]
    joints = JointStream.of_section(
        stream.stamps, stream.messages, contract.command_joints, lambda: all_states.messages
    )
    if joints is None:
        notes += section_note(
            observations.stamps, start, "is left out, because a joint has no position in it"
        )
    if joints is None or not len(observations.stamps):
        return []
    states = reader.recorded_name(absolute(contract.topics.joint_states))
    notes += check_joints(reader, joints, states, start)
    good, broken_depth, about_images = usable_images(reader, section, observations, start)
    good &= ~broken_depth.any(axis=1)
    notes += about_images
    observations = Observations(
        *(getattr(observations, each.name)[good] for each in fields(observations))
    )
    step = round(1e9 / fps)  # the grid of align_cameras, which begins at the first observation
    cells = (observations.complete - observations.complete[:1] + step // 2) // step
    state = joints.measured(
        observations.stamps,
        observations.complete,
        [round(age * 1e9) for age in contract.joint_ages_s],
    )
    if commands is not None:
        given = command_topic(reader)
        held = commands.stream(section[given], stream)
        if held is not None and given != absolute(contract.topics.joint_states):
            check_commands_are_near(
                reader, held.held(observations.stamps), state, reader.recorded_name(given)
            )
        action = _commands(
            reader, read, section, observations, fps, commands, command_age_s, start, notes
        )
    else:
        action = np.concatenate([state[1:], np.full_like(state[:1], np.nan)])
        # Before a gap the joints of one frame later are unknown.
        action[np.append(np.diff(cells) != 1, True)] = np.nan
    rows = np.flatnonzero(np.isfinite(state).all(axis=1) & np.isfinite(action).all(axis=1))
    if not len(rows):
        return []
    # Message indices count over the recording, not the section.
    numbers = [np.searchsorted(read[topic].order, section[topic].order) for topic in cameras]
    indices = np.stack(
        [number[column] for number, column in zip(numbers, observations.indices.T, strict=True)],
        axis=1,
    )
    near = depth_indices(contract, read, section, observations) if depth else None
    efforts = (
        measured_efforts(contract, section, observations.stamps, observations.complete)
        if effort
        else None
    )
    cells = cells[rows]
    found = []
    for piece in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(cells) > hold + 1) + 1):
        offsets = cells[piece] - cells[piece][0]
        # Newest frame at or before each cell of the grid: a filled one repeats the previous one.
        frames = rows[piece][np.searchsorted(offsets, np.arange(offsets[-1] + 1), side="right") - 1]
        filled, tasks = len(frames) - len(piece), texts.at(observations.stamps[frames])
        depths, effort_rows = (
            None if array is None else array[frames] for array in (near, efforts)
        )
        found.append(
            Stretch(
                indices[frames],
                state[frames],
                action[frames],
                observations.stamps[frames] * 1e-9,
                filled,
                tasks,
                depths,
                effort_rows,
            )
        )
    return found


def write_sources(root: Path, contract: Contract, bags: list[dict]) -> None:
    """Write contract, URDF and the source of every episode to the dataset."""
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
    codec: Codec,
    *,
    depth: bool = False,
    effort: bool = False,
) -> DatasetWriter:
    """Return a writer for the cameras and joints of a contract."""
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
    """Return the contract with the step of the dataset, so that observations are on its grid."""
    action = contract.action.model_copy(update={"step_s": 1.0 / fps})
    return contract.model_copy(update={"action": action})


def _commands(
    reader: EpisodeReader,
    read: dict[str, Stream],
    section: dict[str, Stream],
    observations: Observations,
    fps: int,
    commands: Commands,
    age_s: float,
    start: int,
    notes: list[str],
) -> np.ndarray:
    """Return the command in force one frame after each observation (N, J) [rad, m].

    NaN where there is none, where it is older than ``age_s``, or where teleoperation has no
    control.
    """
    topics = reader.contract.topics
    topic, states, control = (
        command_topic(reader),
        absolute(topics.joint_states),
        absolute(topics.control_source),
    )
    given = commands.stream(section[topic], section[states])
    if given is None:
        lacking = ", ".join(commands.uncommanded(section[topic], section[states]))
        problem = f"is left out, because it holds no command of {lacking}"
        notes += section_note(observations.stamps, start, problem)
        return np.full((len(observations.stamps), len(reader.contract.command_joints)), np.nan)
    notes += check_joints(reader, given, reader.recorded_name(topic), start)
    notes += unlabelled(reader.contract, observations.stamps, given, start)
    later = observations.stamps + round(1e9 / fps)
    usable = (observations.stamps < given.last) & (later - given.newest(later) <= age_s * 1e9)
    usable &= later <= teleoperated_until(observations.stamps, read[control], section[control])
    return np.where(usable[:, None], given.held(later), np.nan)
