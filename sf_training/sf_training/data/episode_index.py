"""One episode bag without its pixels: observations, labels, and where the pictures lie in the
file.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save

from sf_policy_node.contract import Contract
from sf_training.data import (
    clock,
    commands,
    episode_cameras,
    instructions,
    one_clock,
    plausibility,
    synchronisation,
    targets,
    tool_commands,
    trajectories,
)
from sf_training.data.bag_files import BagError
from sf_training.data.clock import cut_at_clock_steps
from sf_training.data.commands import Commands, command_topic, operators_time
from sf_training.data.episode_cameras import (
    camera_matrices,
    camera_poses,
    check_first_images,
    depth_places,
    usable_images,
)
from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.data.instructions import Instructions
from sf_training.data.one_clock import ClocksDiffer, check_clocks, with_one_clock
from sf_training.data.plausibility import (
    check_all_joints,
    check_commands_are_near,
    check_joints,
    check_one_source,
)
from sf_training.data.synchronisation import JointStream, Observations, align_cameras
from sf_training.data.targets import Pairs, expert_pairs, no_labels, operator_pairs
from sf_training.recording.messages import to_chunk
from sf_training.recording.topics import absolute, camera_pose_topic


@dataclass(frozen=True)
class EpisodeIndex:
    """N observations of one episode with V cameras and J joints, and P labels.

    Attributes:
        blocks: (C, 5) of the files, see ``mcap_blocks.Block``.
        colour, depth: (N, V, 3) places of the pictures: block (-1 where there is none), offset,
        length.
        joint_positions: (N, J) float32; stamps: (N,) float64 [s].
        matrices: (V, 3, 3) camera matrices of the whole pictures [pixels]; NaN where unknown.
        camera_poses: (N, V, 4, 4) float32; NaN where unknown.
        pairs: the labels.
        notes: sentences about what is odd, and about what was left out.
    """

    blocks: np.ndarray
    colour: np.ndarray
    depth: np.ndarray
    joint_positions: np.ndarray
    stamps: np.ndarray
    matrices: np.ndarray
    camera_poses: np.ndarray
    pairs: Pairs
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write one file. OSError passes through."""
        arrays = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in ("pairs", "notes")
        }
        arrays |= {
            "pair_frame": self.pairs.frame,
            "pair_target": self.pairs.targets,
            "pair_idle": self.pairs.idle,
        }
        texts = sorted(set(self.pairs.instructions))
        arrays["pair_text"] = np.array(
            [texts.index(text) for text in self.pairs.instructions], np.int32
        )
        about = {"texts": json.dumps(texts), "notes": json.dumps(self.notes)}
        fresh = path.with_suffix(".new")
        fresh.write_bytes(
            save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, about)
        )
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> EpisodeIndex | None:
        """The reverse of :meth:`save`; None when there is no such file, or it is damaged."""
        try:
            with safetensors.safe_open(path, "numpy") as file:
                arrays = {
                    name: file.get_tensor(name) for name in file.keys()
                }  # noqa: SIM118 (not a dict)
                texts, notes = (json.loads(file.metadata()[key]) for key in ("texts", "notes"))
            instructions = [texts[number] for number in arrays.pop("pair_text").tolist()]
            pairs = Pairs(
                arrays.pop("pair_frame"),
                instructions,
                arrays.pop("pair_target"),
                arrays.pop("pair_idle"),
            )
            return cls(**arrays, pairs=pairs, notes=notes)
        except (OSError, ValueError, KeyError, IndexError, TypeError, safetensors.SafetensorError):
            return None


@functools.cache
def _rules() -> str:
    modules = (
        clock,
        commands,
        episode_cameras,
        instructions,
        one_clock,
        plausibility,
        synchronisation,
        targets,
        tool_commands,
        trajectories,
    )
    modules = (*modules, inspect.getmodule(index_episode))
    return hashlib.sha256(
        "".join(inspect.getsource(module) for module in modules).encode()
    ).hexdigest()


def index_key(reader: EpisodeReader) -> str:
    """Changes with everything that an index depends on: the file, what was said about it, the
    contract and the rules.
    """
    contract = reader.contract
    parts = (
        reader.checksum,
        reader.instruction,
        repr(reader.label_segments),
        contract.model_dump_json(),
        contract.urdf_xml,
        _rules(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def index_episode(reader: EpisodeReader) -> EpisodeIndex:
    """Read an episode once.

    Raises:
        BagError: no usable observation, no labels, wrong joints, clocks that differ, or images that
            cannot be read.
    """
    recording = _Recording.read(reader)
    found, empty = [], ""
    try:
        parts = cut_at_clock_steps(
            recording.streams, _clocks(reader), absolute(reader.contract.topics.joint_states)
        )
        for number, part in enumerate(parts):
            try:
                found.append(_observe(recording, part, last=number == len(parts) - 1))
            except (_NothingSeen, ClocksDiffer) as error:
                empty = empty or str(error)
    except BagError:
        raise
    except ValueError as error:
        raise BagError(f"{reader.path}: {error}") from None
    if not found:
        raise BagError(f"{reader.path}: {empty}")
    joined = {
        name: np.concatenate([getattr(part, name) for part in found])
        for name in ("colour", "depth", "joint_positions", "stamps", "camera_poses")
    }
    index = EpisodeIndex(
        blocks=np.array(reader.blocks, np.int64).reshape(-1, 5),
        matrices=camera_matrices(reader.contract, recording.streams),
        pairs=Pairs.joined([part.pairs for part in found], [len(part.stamps) for part in found]),
        notes=list(dict.fromkeys(note for part in found for note in part.notes)),
        **joined,
    )
    check_first_images(reader, index.blocks, index.colour, index.depth)
    index.notes.extend(no_labels(np.isin(np.arange(len(index.stamps)), index.pairs.frame)))
    return index


@dataclass(frozen=True)
class _Recording:
    """A whole recording on one clock: its streams, its beginning [ns], its instructions and the
    operator's commands.
    """

    reader: EpisodeReader
    streams: dict[str, Stream]
    start: int
    texts: Instructions
    commands: Commands

    @classmethod
    def read(cls, reader: EpisodeReader) -> _Recording:
        contract, topic = reader.contract, command_topic(reader)
        states = absolute(contract.topics.joint_states)
        cameras = [absolute(camera.topic) for camera in contract.cameras]
        streams = with_one_clock(reader.read(_topics(contract) + [topic]), [*cameras, states])
        start = min(int(streams[camera].stamps.min()) for camera in cameras)
        check_one_source(reader, streams[states])
        check_one_source(reader, streams[topic])
        check_all_joints(reader, streams[states])
        texts = Instructions.of_recording(reader, streams)
        return cls(reader, streams, start, texts, Commands(reader, topic, streams[topic]))


class _NothingSeen(ValueError):
    """No observation in a part of a recording."""


def _topics(contract: Contract) -> list[str]:
    topics = contract.topics
    names = [
        topics.joint_states,
        topics.teleop_command,
        topics.expert_chunk,
        topics.control_source,
        topics.instruction,
    ]
    for camera in contract.cameras:
        names += [name for name in (camera.topic, camera.depth_topic, camera.info_topic) if name]
        names.append(camera_pose_topic(camera.name))
    return [absolute(name) for name in names]


def _clocks(reader: EpisodeReader) -> list[str]:
    contract = reader.contract
    names = [contract.topics.joint_states, *(camera.topic for camera in contract.cameras)]
    return [*map(absolute, names), command_topic(reader)]


def _observe(recording: _Recording, part: dict[str, Stream], *, last: bool) -> EpisodeIndex:
    """Index one part of a recording with one time line."""
    reader = recording.reader
    contract = reader.contract
    states = absolute(contract.topics.joint_states)
    heard = {topic: reader.recorded_name(topic) for topic in _clocks(reader)}
    notes = check_clocks(contract, part, heard)
    chunks = part[absolute(contract.topics.expert_chunk)]
    cameras = [part[absolute(camera.topic)] for camera in contract.cameras]
    seen = align_cameras(
        [stream.stamps for stream in cameras],
        contract,
        chunks.stamps if len(chunks.stamps) else None,
    )
    seen, joints, told = _with_joints(recording, seen, part[states], heard[states])
    usable, about_images = usable_images(reader, part, seen, recording.start)
    seen, joints = (
        Observations(*(getattr(seen, each.name)[usable] for each in fields(seen))),
        joints[usable],
    )
    pairs, about_commands = _pairs(recording, seen, joints, part, last=last)
    return EpisodeIndex(
        blocks=np.empty((0, 5), np.int64),
        colour=np.stack(
            [stream.places[index] for stream, index in zip(cameras, seen.indices.T, strict=True)],
            axis=1,
        ),
        depth=np.stack(
            [depth_places(contract, view, seen, part) for view in range(len(cameras))], axis=1
        ),
        joint_positions=joints.astype(np.float32),
        stamps=seen.stamps * 1e-9,
        matrices=np.empty(0),
        camera_poses=camera_poses(reader, seen, part),
        pairs=pairs,
        notes=[*notes, *told, *about_images, *about_commands],
    )


def _with_joints(
    recording: _Recording, seen: Observations, stream: Stream, name: str
) -> tuple[Observations, np.ndarray, list[str]]:
    """Return the observations at which fresh joint positions are known, these (N, J), and sentences
    about them.
    """
    contract = recording.reader.contract
    whole = recording.streams[absolute(contract.topics.joint_states)]
    names, notes = contract.command_joints, []
    states = (
        JointStream.of_part(stream.stamps, stream.messages, names, lambda: whole.messages)
        if len(stream.stamps)
        else None
    )
    if states is not None:
        notes = check_joints(recording.reader, states, name, recording.start)
        ages = [round(seconds * 1e9) for seconds in contract.joint_ages_s]
        joints = states.measured(seen.stamps, seen.complete, ages, seen.arrived)
    else:
        joints = np.full((len(seen.stamps), len(contract.command_joints)), np.nan)
    known = np.isfinite(joints).all(axis=1)
    if not known.any():
        budgets = contract.budgets
        raise _NothingSeen(
            f"holds no usable observation: {len(known)} with all cameras within"
            f" {budgets.camera_skew_s} s, of these none with joint states within"
            f" {budgets.joint_state_age_s} s; check the stamps of the cameras and of joint_states"
        )
    return (
        Observations(*(getattr(seen, each.name)[known] for each in fields(seen))),
        joints[known],
        notes,
    )


def _pairs(
    recording: _Recording,
    seen: Observations,
    joints: np.ndarray,
    part: dict[str, Stream],
    *,
    last: bool,
) -> tuple[Pairs, list[str]]:
    reader, whole = recording.reader, recording.streams
    contract = reader.contract
    expert = absolute(contract.topics.expert_chunk)
    if len(whole[expert].stamps):
        chunks = [to_chunk(message) for message in part[expert].messages]
        # Of the answers at an observation only that to the episode's own instruction was meant by a
        # label given afterwards.
        renamed = {reader.recorded_instruction: reader.instruction}
        chunks = [
            replace(chunk, instruction=renamed.get(chunk.instruction, chunk.instruction))
            for chunk in chunks
        ]
        return expert_pairs(contract, seen.stamps, chunks, part[expert].stamps), []
    topic = command_topic(reader)
    if not len(whole[topic].stamps):
        raise ValueError(
            f"holds nothing to learn: no message on {absolute(contract.topics.expert_chunk)} or"
            f" {absolute(contract.topics.teleop_command)}; record the operator's commands"
        )
    stream = recording.commands.stream(
        part[topic], part[absolute(contract.topics.joint_states)]
    )
    if stream is None:
        return expert_pairs(contract, seen.stamps, [], np.empty(0, np.int64)), []
    is_measured = topic == absolute(contract.topics.joint_states)
    notes = (
        []
        if is_measured
        else check_joints(reader, stream, reader.recorded_name(topic), recording.start)
    )
    if not is_measured:
        held = stream.held(seen.stamps)
        check_commands_are_near(reader, held, joints, reader.recorded_name(topic))
    sources = absolute(contract.topics.control_source)
    until = operators_time(seen.stamps, whole[sources], part[sources])
    if not last:  # what came after the cut is not known: the last command does not hold
        until = np.minimum(until, stream.last)
    return (
        operator_pairs(
            contract, seen.stamps, joints, stream, recording.texts.at(seen.stamps), until
        ),
        notes,
    )
