"""Index one episode bag: observations, labels and the locations of the images, without pixels."""

from __future__ import annotations

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
    clock_offsets,
    clock_steps,
    commands,
    efforts,
    episode_cameras,
    image_checks,
    instructions,
    plausibility,
    synchronisation,
    targets,
    tool_commands,
    trajectories,
)
from sf_training.data.bag_files import BagError
from sf_training.data.clock_offsets import ClocksDiffer, check_clocks, with_one_clock
from sf_training.data.clock_steps import cut_at_clock_steps, section_note
from sf_training.data.code_hash import code_hash
from sf_training.data.commands import Commands, command_topic, teleoperated_until
from sf_training.data.efforts import measured_efforts
from sf_training.data.episode_cameras import (
    BROKEN_IMAGE,
    camera_matrices,
    camera_poses,
    check_first_images,
    colour_locations,
    depth_locations,
    usable_images,
)
from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.data.instructions import Instructions
from sf_training.data.plausibility import (
    check_all_joints,
    check_commands_are_near,
    check_joints,
    check_one_source,
)
from sf_training.data.synchronisation import JointStream, Observations, align_cameras
from sf_training.data.targets import (
    UNLABELLED_SHARE,
    Pairs,
    expert_pairs,
    no_labels,
    operator_pairs,
    unlabelled,
)
from sf_training.recording.messages import to_chunk
from sf_training.recording.topics import absolute, camera_pose_topic

# Arrays of the index with one row for each observation.
_PER_OBSERVATION = (
    "colour",
    "depth",
    "joint_positions",
    "joint_efforts",
    "stamps",
    "camera_poses",
)


@dataclass(frozen=True)
class EpisodeIndex:
    """N observations of one episode with V cameras and J joints, and its labels.

    Attributes:
        blocks: (C, 5), rows as ``mcap_blocks.Block``.
        colour, depth: (N, V, 3) locations of the images: block (-1 where there is none, -2 where
            depth cannot be used), offset, length. Colour images are missing only if the episode has
            none of that camera.
        joint_positions: (N, J) float32 [rad, m], measured.
        joint_efforts: (N, J) float32 [N m, N], measured; NaN where unknown.
        stamps: (N,) float64 [s], time of the oldest image of each observation.
        matrices: (V, 3, 3) camera matrices of the recorded images [pixels]; NaN where unknown.
        camera_poses: (N, V, 4, 4) float32, optical frame in the base frame [m]; NaN where unknown.
        pairs: the labels.
        notes: one sentence for each anomaly, and for what was left out.
    """

    blocks: np.ndarray
    colour: np.ndarray
    depth: np.ndarray
    joint_positions: np.ndarray
    joint_efforts: np.ndarray
    stamps: np.ndarray
    matrices: np.ndarray
    camera_poses: np.ndarray
    pairs: Pairs
    notes: list[str] = field(default_factory=list)

    def with_usable_depth(self) -> EpisodeIndex:
        """Return the index without the observations whose depth is recorded and cannot be used."""
        kept = ~(self.depth[..., 0] == BROKEN_IMAGE[0]).any(axis=1)
        if kept.all():
            return self
        arrays = {name: getattr(self, name)[kept] for name in _PER_OBSERVATION}
        return replace(self, pairs=self.pairs.of(kept), **arrays)

    def save(self, path: Path) -> None:
        """Write the index to a file, atomically. OSError passes through."""
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
        """Read the index from a file; None if the file does not exist or is damaged."""
        try:
            with safetensors.safe_open(path, "numpy") as file:
                names = file.keys()  # not a dict: it cannot be iterated
                arrays = {name: file.get_tensor(name) for name in names}
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


def _code_hash() -> str:
    """Return a hash of the code that makes an index, so that cached ones follow its changes."""
    modules = (
        clock_steps,
        commands,
        efforts,
        episode_cameras,
        image_checks,
        instructions,
        clock_offsets,
        plausibility,
        synchronisation,
        targets,
        tool_commands,
        trajectories,
    )
    return code_hash(*modules, inspect.getmodule(index_episode))


def index_key(reader: EpisodeReader) -> str:
    """Return a key of everything that an index depends on: bag, labels, contract and code."""
    contract = reader.contract
    parts = (
        reader.checksum,
        reader.instruction,
        repr(reader.label_segments),
        contract.model_dump_json(),
        contract.urdf_xml,
        _code_hash(),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def index_episode(reader: EpisodeReader) -> EpisodeIndex:
    """Read an episode once and index it.

    Raises:
        BagError: there is no usable observation or no command, or joints, clocks or images cannot
            be used.
    """
    recording = _Recording.read(reader)
    found, empty, left_out = [], "", []
    try:
        sections = cut_at_clock_steps(recording.streams, _clocks(reader), reader.contract)
        for number, section in enumerate(sections):
            try:
                found.append(_observe(recording, section, last=number == len(sections) - 1))
            except (_NoObservation, ClocksDiffer) as error:
                empty = empty or str(error)
                left_out += section_note(
                    _image_stamps(reader, section), recording.start, str(error)
                )
    except BagError:
        raise
    except ValueError as error:
        raise BagError(f"{reader.path}: {error}") from None
    if not found:
        raise BagError(f"{reader.path}: {empty}")
    joined = {
        name: np.concatenate([getattr(index, name) for index in found]) for name in _PER_OBSERVATION
    }
    index = EpisodeIndex(
        blocks=np.array(reader.blocks, np.int64).reshape(-1, 5),
        matrices=camera_matrices(reader.contract, recording.streams),
        pairs=Pairs.joined(
            [index.pairs for index in found], [len(index.stamps) for index in found]
        ),
        notes=list(dict.fromkeys([note for index in found for note in index.notes] + left_out)),
        **joined,
    )
    if recording.texts.note:
        index.notes.append(recording.texts.note)
    check_first_images(reader, index.blocks, index.colour, index.depth)
    index.notes.extend(no_labels(np.isin(np.arange(len(index.stamps)), index.pairs.frame)))
    return index


@dataclass(frozen=True)
class _Recording:
    """A recording on one clock.

    Attributes:
        streams: topic to messages.
        start: first image [ns].
        texts: instructions.
        commands: of the operator.
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
        recorded = [absolute(camera.topic) for camera in reader.recorded_cameras]
        start = min(int(streams[topic].stamps.min()) for topic in recorded)
        check_one_source(reader, streams[states])
        check_one_source(reader, streams[topic])
        check_all_joints(reader, streams[states])
        texts = Instructions.of_recording(reader, streams)
        return cls(reader, streams, start, texts, Commands(reader, topic, streams[topic], start))


def missing_camera_notes(reader: EpisodeReader) -> list[str]:
    """Return a sentence for each camera without images."""
    return [
        f"camera {name}: {sentence} (training masks this view; it refuses data in which no episode"
        " has it)"
        for name, sentence in reader.missing_cameras.items()
    ]


class _NoObservation(ValueError):
    """A section of a recording has no usable observation."""


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


def _image_stamps(reader: EpisodeReader, section: dict[str, Stream]) -> np.ndarray:
    """Return the stamps of all images of a section [ns]."""
    return np.concatenate(
        [section[absolute(camera.topic)].stamps for camera in reader.recorded_cameras]
    )


def _clocks(reader: EpisodeReader) -> list[str]:
    contract = reader.contract
    names = [contract.topics.joint_states, *(camera.topic for camera in contract.cameras)]
    return [*map(absolute, names), command_topic(reader)]


def _observe(recording: _Recording, section: dict[str, Stream], *, last: bool) -> EpisodeIndex:
    """Index one section of a recording; ``last`` if no section follows it."""
    reader = recording.reader
    contract = reader.contract
    states = absolute(contract.topics.joint_states)
    recorded_names = {topic: reader.recorded_name(topic) for topic in _clocks(reader)}
    notes = check_clocks(reader, section, recorded_names)
    chunks = section[absolute(contract.topics.expert_chunk)]
    views = range(len(contract.cameras))
    observations = align_cameras(
        [section[absolute(camera.topic)].stamps for camera in contract.cameras],
        contract,
        chunks.stamps if len(chunks.stamps) else None,
        missing=[camera.name in reader.missing_cameras for camera in contract.cameras],
    )
    observations, joints, joint_notes = _with_joints(
        recording, observations, section[states], recorded_names[states]
    )
    usable, broken, about_images = usable_images(reader, section, observations, recording.start)
    observations, joints = (
        Observations(*(getattr(observations, each.name)[usable] for each in fields(observations))),
        joints[usable],
    )
    efforts_now = measured_efforts(
        contract, section, observations.stamps, observations.complete, observations.arrived
    )
    pairs, about_commands = _pairs(recording, observations, joints, section, last=last)
    return EpisodeIndex(
        blocks=np.empty((0, 5), np.int64),
        colour=np.stack(
            [colour_locations(reader, view, observations, section) for view in views], axis=1
        ),
        depth=np.stack(
            [
                depth_locations(reader, view, observations, section, broken[usable, view])
                for view in views
            ],
            axis=1,
        ),
        joint_positions=joints.astype(np.float32),
        joint_efforts=efforts_now,
        stamps=observations.stamps * 1e-9,
        matrices=np.empty(0),
        camera_poses=camera_poses(reader, observations, section),
        pairs=pairs,
        notes=[*missing_camera_notes(reader), *notes, *joint_notes, *about_images, *about_commands],
    )


def _with_joints(
    recording: _Recording, observations: Observations, stream: Stream, name: str
) -> tuple[Observations, np.ndarray, list[str]]:
    """Return the observations with fresh joint positions, the positions (N, J), and notes.

    Args:
        stream: joint states of the section.
        name: their topic in the bag, for the notes.

    Raises:
        _NoObservation: there is none.
    """
    contract = recording.reader.contract
    all_states = recording.streams[absolute(contract.topics.joint_states)]
    names, notes = contract.command_joints, []
    states = (
        JointStream.of_section(stream.stamps, stream.messages, names, lambda: all_states.messages)
        if len(stream.stamps)
        else None
    )
    if states is not None:
        notes = check_joints(recording.reader, states, name, recording.start)
        ages = [round(seconds * 1e9) for seconds in contract.joint_ages_s]
        joints = states.measured(
            observations.stamps, observations.complete, ages, observations.arrived
        )
    else:
        joints = np.full((len(observations.stamps), len(contract.command_joints)), np.nan)
    known = np.isfinite(joints).all(axis=1)
    if states is None and len(stream.stamps) and len(known):
        lacking = [name for name in names if not len(stream.joint_messages.column(name)[0])]
        raise _NoObservation(f"{name}: {', '.join(lacking)} has no position in it")
    if not known.any():
        budgets = contract.budgets
        raise _NoObservation(
            f"holds no usable observation: {len(known)} with all cameras within"
            f" {budgets.camera_skew_s} s, of these none with joint states within"
            f" {budgets.joint_state_age_s} s; check the stamps of the cameras and of joint_states"
        )
    if (~known).sum() > UNLABELLED_SHARE * len(known):
        notes.append(
            f"{name}: {(~known).sum()} of {len(known)} observations are left out, because a joint"
            f" has no position within {contract.budgets.joint_state_age_s:g} s; check its rate and"
            " its stamps"
        )
    return (
        Observations(*(getattr(observations, each.name)[known] for each in fields(observations))),
        joints[known],
        notes,
    )


def _pairs(
    recording: _Recording,
    observations: Observations,
    joints: np.ndarray,
    section: dict[str, Stream],
    *,
    last: bool,
) -> tuple[Pairs, list[str]]:
    """Return the labels of a section, from the expert's chunks or the operator's commands, and
    notes.
    """
    reader, streams = recording.reader, recording.streams
    contract = reader.contract
    expert = absolute(contract.topics.expert_chunk)
    if len(streams[expert].stamps):
        chunks = [to_chunk(message) for message in section[expert].messages]
        # A label given afterwards renames the instruction of the episode, not the other
        # instructions for which the expert gave a chunk at the same observation.
        renamed = {reader.recorded_instruction: reader.instruction}
        chunks = [
            replace(chunk, instruction=renamed.get(chunk.instruction, chunk.instruction))
            for chunk in chunks
        ]
        return expert_pairs(contract, observations.stamps, chunks, section[expert].stamps), []
    topic = command_topic(reader)
    if not len(streams[topic].stamps):
        raise ValueError(
            f"holds no actions: no message on {absolute(contract.topics.expert_chunk)} or"
            f" {absolute(contract.topics.teleop_command)}; record the operator's commands"
        )
    stream = recording.commands.stream(
        section[topic], section[absolute(contract.topics.joint_states)]
    )
    if stream is None:
        joints_without = recording.commands.uncommanded(
            section[topic], section[absolute(contract.topics.joint_states)]
        )
        notes = section_note(
            observations.stamps,
            recording.start,
            f"its {len(observations.stamps)} observations have no label, because it holds no"
            f" command of {', '.join(joints_without)}; command all joints without pause, or at"
            " least after each gap",
        )
        return expert_pairs(contract, observations.stamps, [], np.empty(0, np.int64)), notes
    is_measured = topic == absolute(contract.topics.joint_states)
    notes = (
        []
        if is_measured
        else check_joints(reader, stream, reader.recorded_name(topic), recording.start)
    )
    notes += unlabelled(contract, observations.stamps, stream, recording.start)
    if not is_measured:
        held = stream.held(observations.stamps)
        check_commands_are_near(reader, held, joints, reader.recorded_name(topic))
    sources = absolute(contract.topics.control_source)
    until = teleoperated_until(observations.stamps, streams[sources], section[sources])
    if not last:  # the command after the cut is unknown, so the last one must not be held
        until = np.minimum(until, stream.last)
    return (
        operator_pairs(
            contract,
            observations.stamps,
            joints,
            stream,
            recording.texts.at(observations.stamps),
            until,
        ),
        notes,
    )
