"""One episode bag without its pixels: observations, labels, and where the pictures lie in the file."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save

from sf_policy_node.contract import Camera, Contract
from sf_training.data import clock, commands, synchronisation, targets
from sf_training.data.bag_files import BagError
from sf_training.data.clock import cut_at_clock_steps
from sf_training.data.commands import as_joint_states, command_topic, operators_time
from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.data.mcap_blocks import BlockReader
from sf_training.data.synchronisation import SAME_STAMP_NS, JointStream, Observations, align_cameras, nearest
from sf_training.data.targets import Pairs, expert_pairs, operator_pairs
from sf_training.recording.messages import to_chunk
from sf_training.recording.topics import absolute, camera_pose_topic

_NOWHERE = (-1, 0, 0)


@dataclass(frozen=True)
class EpisodeIndex:
    """N observations of one episode with V cameras and J joints, and P labels.

    Attributes:
        blocks: (C, 4) of the file, see ``mcap_blocks.Block``.
        colour, depth: (N, V, 3) places of the pictures: block (-1 where there is none), offset, length.
        joint_positions: (N, J) float32; stamps: (N,) float64 [s].
        matrices: (V, 3, 3) camera matrices of the whole pictures [pixels]; NaN where unknown.
        camera_poses: (N, V, 4, 4) float32; NaN where unknown.
        pairs: the labels.
    """

    blocks: np.ndarray
    colour: np.ndarray
    depth: np.ndarray
    joint_positions: np.ndarray
    stamps: np.ndarray
    matrices: np.ndarray
    camera_poses: np.ndarray
    pairs: Pairs

    def save(self, path: Path) -> None:
        """Write one file. OSError passes through."""
        arrays = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "pairs"}
        arrays |= {"pair_frame": self.pairs.frame, "pair_target": self.pairs.targets, "pair_idle": self.pairs.idle}
        texts = sorted(set(self.pairs.instructions))
        arrays["pair_text"] = np.array([texts.index(text) for text in self.pairs.instructions], np.int32)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"texts": json.dumps(texts)}))
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> EpisodeIndex | None:
        """The reverse of :meth:`save`; None when there is no such file, or it is damaged."""
        try:
            with safetensors.safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                texts = json.loads(file.metadata()["texts"])
            instructions = [texts[number] for number in arrays.pop("pair_text").tolist()]
            pairs = Pairs(arrays.pop("pair_frame"), instructions, arrays.pop("pair_target"), arrays.pop("pair_idle"))
            return cls(**arrays, pairs=pairs)
        except (OSError, ValueError, KeyError, IndexError, TypeError, safetensors.SafetensorError):
            return None


@functools.cache
def _rules() -> str:
    modules = (clock, commands, synchronisation, targets, inspect.getmodule(index_episode))
    return hashlib.sha256("".join(inspect.getsource(module) for module in modules).encode()).hexdigest()


def index_key(reader: EpisodeReader) -> str:
    """Changes with everything that an index depends on: the file, what was said about it, the contract and the rules."""
    contract = reader.contract
    parts = (reader.checksum, reader.instruction, contract.model_dump_json(), contract.urdf_xml, _rules())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def index_episode(reader: EpisodeReader) -> EpisodeIndex:
    """Read an episode once.

    Raises:
        BagError: no usable observation, no labels, wrong joints, or pictures that cannot be read.
    """
    contract = reader.contract
    streams = reader.read(_topics(contract) + [command_topic(reader)])
    found, empty = [], ""
    try:
        parts = cut_at_clock_steps(streams, _clocks(reader), absolute(contract.topics.joint_states))
        for number, part in enumerate(parts):
            try:
                found.append(_observe(reader, streams, part, last=number == len(parts) - 1))
            except _NothingSeen as error:
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
        blocks=np.array(reader.blocks, np.int64).reshape(-1, 4),
        matrices=_matrices(contract, streams),
        pairs=Pairs.joined([part.pairs for part in found], [len(part.stamps) for part in found]),
        **joined,
    )
    _check_pictures(reader, index)
    return index


class _NothingSeen(ValueError):
    """No observation in a part of a recording."""


def _topics(contract: Contract) -> list[str]:
    names = [contract.topics.joint_states, contract.topics.teleop_command, contract.topics.expert_chunk, contract.topics.control_source]
    for camera in contract.cameras:
        names += [name for name in (camera.topic, camera.depth_topic, camera.info_topic) if name]
        names.append(camera_pose_topic(camera.name))
    return [absolute(name) for name in names]


def _clocks(reader: EpisodeReader) -> list[str]:
    contract = reader.contract
    names = [contract.topics.joint_states, *(camera.topic for camera in contract.cameras)]
    return [*map(absolute, names), command_topic(reader)]


def _observe(reader: EpisodeReader, whole: dict[str, Stream], part: dict[str, Stream], *, last: bool) -> EpisodeIndex:
    """One part of a recording with one time line."""
    contract = reader.contract
    chunks = part[absolute(contract.topics.expert_chunk)]
    cameras = [part[absolute(camera.topic)] for camera in contract.cameras]
    seen = align_cameras([stream.stamps for stream in cameras], contract, chunks.stamps if len(chunks.stamps) else None)
    states = absolute(contract.topics.joint_states)
    seen, joints = _with_joints(contract, seen, part[states], whole[states])
    colour = np.stack([stream.places[index] for stream, index in zip(cameras, seen.indices.T, strict=True)], axis=1)
    return EpisodeIndex(
        blocks=np.empty((0, 4), np.int64),
        colour=colour,
        depth=np.stack([_depth_places(contract, view, seen, part) for view in range(len(cameras))], axis=1),
        joint_positions=joints.astype(np.float32),
        stamps=seen.stamps * 1e-9,
        matrices=np.empty(0),
        camera_poses=_camera_poses(reader, seen, part),
        pairs=_pairs(reader, seen, joints, whole, part, last=last),
    )


def _with_joints(contract: Contract, seen: Observations, stream: Stream, whole: Stream) -> tuple[Observations, np.ndarray]:
    """The observations at which fresh joint positions are known, and these (N, J)."""
    names = contract.command_joints
    states = JointStream.of_part(stream.stamps, stream.messages, names, lambda: whole.messages) if len(stream.stamps) else None
    if states is not None:
        ages = [round(seconds * 1e9) for seconds in contract.joint_ages_s]
        joints = states.measured(seen.stamps, seen.complete, ages, seen.arrived)
    else:
        joints = np.full((len(seen.stamps), len(contract.command_joints)), np.nan)
    known = np.isfinite(joints).all(axis=1)
    if not known.any():
        budgets = contract.budgets
        raise _NothingSeen(
            f"holds no usable observation: {len(known)} with all cameras within {budgets.camera_skew_s} s, of these none with joint states "
            f"within {budgets.joint_state_age_s} s; check the stamps of the cameras and of joint_states"
        )
    return Observations(*(getattr(seen, each.name)[known] for each in fields(seen))), joints[known]


def _pairs(
    reader: EpisodeReader, seen: Observations, joints: np.ndarray, whole: dict[str, Stream], part: dict[str, Stream], *, last: bool
) -> Pairs:
    contract = reader.contract
    expert = absolute(contract.topics.expert_chunk)
    if len(whole[expert].stamps):
        chunks = [to_chunk(message) for message in part[expert].messages]
        # Of the answers at an observation only that to the episode's own instruction was meant by a label given afterwards.
        renamed = {reader.recorded_instruction: reader.instruction}
        chunks = [replace(chunk, instruction=renamed.get(chunk.instruction, chunk.instruction)) for chunk in chunks]
        return expert_pairs(contract, seen.stamps, chunks, part[expert].stamps)
    topic = command_topic(reader)
    if not len(whole[topic].stamps):
        raise ValueError(
            f"holds nothing to learn: no message on {contract.topics.expert_chunk} or {contract.topics.teleop_command}; "
            "record the operator's commands"
        )
    if not len(part[topic].stamps):
        return expert_pairs(contract, seen.stamps, [], np.empty(0, np.int64))
    commands = as_joint_states(reader, topic, part[topic])
    names = contract.command_joints
    stream = JointStream.of_part(part[topic].stamps, commands, names, lambda: as_joint_states(reader, topic, whole[topic]))
    if stream is None:
        return expert_pairs(contract, seen.stamps, [], np.empty(0, np.int64))
    sources = absolute(contract.topics.control_source)
    until = operators_time(seen.stamps, whole[sources], part[sources])
    if not last:  # what came after the cut is not known: the last command does not hold
        until = np.minimum(until, stream.last)
    return operator_pairs(contract, seen.stamps, joints, stream, reader.instruction, until)


def _depth_places(contract: Contract, view: int, seen: Observations, part: dict[str, Stream]) -> np.ndarray:
    """(N, 3): the depth images that belong to the colour images, by the nearest stamp within the skew budget."""
    camera = contract.cameras[view]
    places = np.tile(np.array(_NOWHERE, np.int64), (len(seen.stamps), 1))
    stream = part[absolute(camera.depth_topic)] if camera.depth_topic else None
    if stream is None or not len(stream.stamps):
        return places
    wanted = part[absolute(camera.topic)].stamps[seen.indices[:, view]]
    index = nearest(stream.stamps, wanted)
    close = np.abs(stream.stamps[index] - wanted) <= round(contract.budgets.camera_skew_s * 1e9)
    places[close] = stream.places[index[close]]
    return places


def _matrices(contract: Contract, streams: dict[str, Stream]) -> np.ndarray:
    """(V, 3, 3) camera matrices; NaN for a camera without CameraInfo."""
    matrices = np.full((len(contract.cameras), 3, 3), np.nan)
    for view, camera in enumerate(contract.cameras):
        stream = streams.get(absolute(camera.info_topic)) if camera.info_topic else None
        if stream and stream.messages:
            matrices[view] = np.asarray(stream.messages[0].k).reshape(3, 3)
    return matrices


def _check_pictures(reader: EpisodeReader, index: EpisodeIndex) -> None:
    """The first picture of every camera can be decoded and has the contract's size."""
    with reader.file.open("rb") as file:
        blocks = BlockReader(file, index.blocks)
        for view, camera in enumerate(reader.contract.cameras):
            for topic, places in ((camera.topic, index.colour[:, view]), (camera.depth_topic, index.depth[:, view])):
                there = places[places[:, 0] >= 0]
                if len(there):
                    checked_size(reader, camera, absolute(topic), reader.picture(absolute(topic), blocks.read(*there[0].tolist())))


def checked_size(reader: EpisodeReader, camera: Camera, topic: str, pixels: np.ndarray) -> np.ndarray:
    """The picture, when it has the contract's size.

    Raises:
        BagError: otherwise.
    """
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise BagError(
            f"{reader.path}: {topic}: image is {width}x{height}, the contract says {camera.width}x{camera.height}; correct one of them"
        )
    return pixels


def _camera_poses(reader: EpisodeReader, seen: Observations, streams: dict[str, Stream]) -> np.ndarray:
    """(N, V, 4, 4) optical frame in the base frame, newest at or before the image; NaN where it is not recorded."""
    contract = reader.contract
    poses = np.full((len(seen.stamps), len(contract.cameras), 4, 4), np.nan, np.float32)
    for view, camera in enumerate(contract.cameras):
        topic = camera_pose_topic(camera.name)
        stream = streams[topic]
        if not len(stream.stamps):
            continue
        wrong = {message.header.frame_id for message in stream.messages} - {contract.base_frame}
        if wrong:
            raise BagError(f"{reader.path}: {topic}: poses are in frame {wrong.pop()!r}; publish them in {contract.base_frame!r}")
        order = np.argsort(stream.stamps, kind="stable")
        times = streams[absolute(camera.topic)].stamps[seen.indices[:, view]]
        index = np.searchsorted(stream.stamps[order], times + SAME_STAMP_NS, side="right") - 1
        matrices = np.array([_matrix(stream.messages[position].pose) for position in order])
        poses[index >= 0, view] = matrices[index[index >= 0]]
    return poses


def _matrix(pose) -> np.ndarray:
    """(4, 4) from a geometry_msgs/Pose."""
    x, y, z, w = pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w
    norm = x * x + y * y + z * z + w * w
    s = 2.0 / norm if norm > 0 else 0.0
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w), pose.position.x],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w), pose.position.y],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y), pose.position.z],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
