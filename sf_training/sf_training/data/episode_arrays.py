"""One episode bag as arrays that a model can be trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sf_policy_node.contract import Camera, Contract
from sf_policy_node.vla.preprocessing import Fit, prepare, prepare_depth, prepare_intrinsics
from sf_training.data.episode_reader import BagError, EpisodeReader, Stream
from sf_training.data.synchronisation import SAME_STAMP_NS, JointStream, Observations, align_cameras, nearest
from sf_training.data.targets import Pairs, expert_pairs, operator_pairs
from sf_training.recording.messages import to_chunk
from sf_training.recording.topics import absolute, camera_pose_topic


@dataclass(frozen=True)
class EpisodeArrays:
    """N observations of one episode with V cameras, and P labels; see ``Dataset`` for shapes and units."""

    images: np.ndarray
    depth: np.ndarray | None
    joint_positions: np.ndarray
    stamps: np.ndarray
    intrinsics: np.ndarray
    camera_poses: np.ndarray
    pairs: Pairs


def load_episode(reader: EpisodeReader, size: int | tuple[int, int], *, depth: bool, fit: Fit = "crop") -> EpisodeArrays:
    """Decode an episode to images of ``size``, a side or (height, width) [pixels].

    Raises:
        BagError: no usable observation, no labels, wrong joints, or an image that cannot be decoded.
    """
    with reader.kept_in_memory():
        return _load(reader, (size, size) if isinstance(size, int) else tuple(size), depth, fit)


def _load(reader: EpisodeReader, size: tuple[int, int], depth: bool, fit: Fit) -> EpisodeArrays:
    contract = reader.contract
    streams = reader.read(_topics(contract))
    chunks = streams[absolute(contract.topics.expert_chunk)]
    try:
        colour = [streams[absolute(camera.topic)].stamps for camera in contract.cameras]
        seen = align_cameras(colour, contract, chunks.stamps if len(chunks.stamps) else None)
        seen, joints = _with_joints(contract, seen, streams[absolute(contract.topics.joint_states)])
        pairs = _pairs(reader, seen, joints, streams, chunks)
    except ValueError as error:
        raise BagError(f"{reader.path}: {error}") from None
    images, depths, sizes = _pixels(reader, seen, streams, size, depth, fit)
    return EpisodeArrays(
        images=images,
        depth=depths,
        joint_positions=joints.astype(np.float32),
        stamps=seen.stamps * 1e-9,
        intrinsics=_intrinsics(contract, streams, sizes, size, fit, len(images)),
        camera_poses=_camera_poses(reader, seen, streams),
        pairs=pairs,
    )


def _topics(contract: Contract) -> list[str]:
    names = [contract.topics.joint_states, contract.topics.teleop_command, contract.topics.expert_chunk]
    for camera in contract.cameras:
        names += [name for name in (camera.topic, camera.depth_topic, camera.info_topic) if name]
        names.append(camera_pose_topic(camera.name))
    return [absolute(name) for name in names]


def _with_joints(contract: Contract, seen: Observations, stream: Stream) -> tuple[Observations, np.ndarray]:
    """The observations at which fresh joint positions are known, and these (N, J)."""
    states = JointStream(stream.stamps, stream.messages, contract.command_joints)
    joints = states.measured(seen.stamps, seen.complete, round(contract.budgets.joint_state_age_s * 1e9))
    known = np.isfinite(joints).all(axis=1)
    if not known.any():
        budgets = contract.budgets
        raise ValueError(
            f"holds no usable observation: {len(known)} with all cameras within {budgets.camera_skew_s} s, of these none with joint states "
            f"within {budgets.joint_state_age_s} s; check the stamps of the cameras and of joint_states"
        )
    return Observations(seen.indices[known], seen.stamps[known], seen.complete[known]), joints[known]


def _pairs(reader: EpisodeReader, seen: Observations, joints: np.ndarray, streams: dict[str, Stream], chunks: Stream) -> Pairs:
    contract = reader.contract
    if len(chunks.stamps):
        return expert_pairs(contract, seen.stamps, [to_chunk(message) for message in chunks.messages], chunks.stamps)
    commands = streams[absolute(contract.topics.teleop_command)]
    if not len(commands.stamps):
        raise ValueError(
            f"holds nothing to learn: no message on {contract.topics.expert_chunk} or {contract.topics.teleop_command}; "
            "record the operator's commands"
        )
    stream = JointStream(commands.stamps, commands.messages, contract.command_joints)
    return operator_pairs(contract, seen.stamps, joints, stream, reader.instruction)


def _pixels(
    reader: EpisodeReader, seen: Observations, streams: dict[str, Stream], size: tuple[int, int], depth: bool, fit: Fit
) -> tuple[np.ndarray, np.ndarray | None, dict[str, tuple[int, int]]]:
    """Images (N, V, 3, S, S), depth (N, V, S, S) or None, and each camera's (width, height)."""
    contract, count = reader.contract, len(seen.stamps)
    images = np.zeros((count, len(contract.cameras), 3, *size), np.uint8)
    depths = np.full((count, len(contract.cameras), *size), np.nan, np.float16) if depth else None
    places: dict[str, tuple[int, dict[int, list[int]]]] = {}
    for view, camera in enumerate(contract.cameras):
        places[absolute(camera.topic)] = (view, _frames_of(seen.indices[:, view]))
        if depth and camera.depth_topic:
            places[absolute(camera.depth_topic)] = (view, _depth_frames(contract, camera, seen, view, streams))
    sizes: dict[str, tuple[int, int]] = {}
    for topic, index, pixels in reader.frames({topic: frames for topic, (_, frames) in places.items()}):
        view, frames = places[topic]
        camera = contract.cameras[view]
        height, width = pixels.shape[:2]
        if (width, height) != (camera.width, camera.height):
            raise BagError(
                f"{reader.path}: {topic}: image is {width}x{height}, the contract says {camera.width}x{camera.height}; correct one of them"
            )
        if pixels.dtype == np.uint8:
            images[frames[index], view] = prepare({camera.name: pixels}, [camera.name], size, fit)[0]
            sizes[camera.name] = (width, height)
        else:
            depths[frames[index], view] = prepare_depth(pixels, size, fit)
    return images, depths, sizes


def _frames_of(indices: np.ndarray) -> dict[int, list[int]]:
    """Message index to the observations that show it."""
    frames: dict[int, list[int]] = {}
    for row, index in enumerate(indices.tolist()):
        frames.setdefault(index, []).append(row)
    return frames


def _depth_frames(contract: Contract, camera: Camera, seen: Observations, view: int, streams: dict[str, Stream]) -> dict[int, list[int]]:
    """Depth images that belong to the colour images, by the nearest stamp within the skew budget."""
    stamps = streams[absolute(camera.depth_topic)].stamps
    if not len(stamps):
        return {}
    wanted = streams[absolute(camera.topic)].stamps[seen.indices[:, view]]
    index = nearest(stamps, wanted)
    close = np.abs(stamps[index] - wanted) <= round(contract.budgets.camera_skew_s * 1e9)
    frames = _frames_of(np.where(close, index, -1))
    frames.pop(-1, None)
    return frames


def _intrinsics(
    contract: Contract, streams: dict[str, Stream], sizes: dict[str, tuple[int, int]], size: tuple[int, int], fit: Fit, count: int
) -> np.ndarray:
    """(N, V, 3, 3) for the prepared images; NaN for a camera without CameraInfo."""
    matrices = np.full((len(contract.cameras), 3, 3), np.nan, np.float32)
    for view, camera in enumerate(contract.cameras):
        stream = streams.get(absolute(camera.info_topic)) if camera.info_topic else None
        if stream and stream.messages and camera.name in sizes:
            matrices[view] = prepare_intrinsics(np.asarray(stream.messages[0].k).reshape(3, 3), *sizes[camera.name], size, fit)
    return np.broadcast_to(matrices, (count, *matrices.shape)).copy()


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
