"""Check the images of an episode, and find its depth images, camera matrices and camera poses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sf_policy_node.contract import Camera, Contract
from sf_training.data.bag_files import BagError
from sf_training.data.bag_storage import RandomAccess
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.stream import Stream
from sf_training.data.synchronisation import SAME_STAMP_NS, Observations, nearest
from sf_training.recording import messages
from sf_training.recording.topics import absolute, camera_pose_topic

_NO_IMAGE = (-1, 0, 0)  # location of an image that does not exist
BROKEN_IMAGE = (-2, 0, 0)  # of a depth image that cannot be used
LACKING_SHARE = 0.25  # of the observations: if more lack depth that is recorded, there is a note


def usable_images(
    reader: EpisodeReader, streams: Mapping[str, Stream], observations: Observations, start: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decode the images of N observations and V cameras.

    Compressed images are decoded. Of raw images the header and the number of bytes are checked.

    Args:
        streams: by topic; depth is checked if it was read.
        start: first image of the recording [ns].

    Returns:
        Which observations (N,) have colour images that can be decoded and have the contract's size;
        which depth images (N, V) are recorded and cannot be used; sentences about both.

    Raises:
        BagError: no colour image of a camera can be used.
    """
    count, cameras = len(observations.stamps), reader.contract.cameras
    good, broken_depth = np.ones(count, bool), np.zeros((count, len(cameras)), bool)
    notes: list[str] = []
    with reader.random_access(np.array(reader.blocks, np.int64).reshape(-1, 5)) as access:

        def check(camera: Camera, topic: str, rows: np.ndarray, consequence: str) -> np.ndarray:
            """Return which of the images ``rows`` (n,) can be used; a sentence is noted."""
            usable, problem = _usable(reader, access, camera, topic, streams[topic], rows)
            if usable.all():
                return usable
            if not usable.any() and topic == absolute(camera.topic):
                raise BagError(f"{reader.path}: {topic}: {problem}")
            at = (int(streams[topic].stamps[rows[~usable][0]]) - start) * 1e-9
            notes.append(
                f"{topic} at {at:.2f} s: {problem} ({(~usable).sum()} of {count} observations"
                f" {consequence})"
            )
            return usable

        for view, camera in enumerate(cameras):
            if camera.name in reader.missing_cameras or not count:
                continue
            colour = observations.indices[:, view]
            good &= check(camera, absolute(camera.topic), colour, "are left out")
            if not camera.depth_topic:
                continue
            topic = absolute(camera.depth_topic)
            depth = depth_rows(reader.contract, view, observations, streams)
            there = np.flatnonzero(depth >= 0)
            if 0 < len(there) < (1.0 - LACKING_SHARE) * count:
                notes.append(
                    f"{topic}: {count - len(there)} of {count} observations have no depth image"
                    f" within {reader.contract.budgets.camera_skew_s:g} s; check its rate and its"
                    " stamps"
                )
            if len(there):
                broken_depth[there, view] = ~check(
                    camera, topic, depth[there], "have no usable depth"
                )
    return good, broken_depth, notes


def _usable(
    reader: EpisodeReader,
    access: RandomAccess,
    camera: Camera,
    topic: str,
    stream: Stream,
    rows: np.ndarray,
) -> tuple[np.ndarray, str]:
    """Return which of the images ``rows`` (N,) can be used, and what is wrong with the first one
    that cannot, with the cure.
    """
    sizes = stream.sizes[rows]
    fits = (sizes == (camera.width, camera.height)).all(axis=1)
    usable = fits.copy()
    if reader.topics[topic] != messages.IMAGE:
        order = np.lexsort(stream.locations[rows].T[1::-1])
        for row in order[fits[order]].tolist():
            data = access.read(*stream.locations[rows[row]].tolist())
            usable[row] = reader.image_is_readable(topic, data)
    if usable.all():
        return usable, ""
    first = int(np.flatnonzero(~usable)[0])
    if sizes[first, 0] < 0 or fits[first]:
        data = access.read(*stream.locations[rows[first]].tolist())
        return usable, _decoding_problem(reader, topic, data)
    return usable, _size_problem(camera, *sizes[first].tolist())


def _decoding_problem(reader: EpisodeReader, topic: str, data: bytes | memoryview) -> str:
    """Return why an image cannot be decoded, and the cure."""
    try:
        reader.image(topic, data)
    except BagError as error:
        reason = str(error).split(f"{topic}: ", 1)[-1]
        return f"an image cannot be decoded: {reason}"
    return "an image cannot be decoded; check the camera's driver"


def _size_problem(camera: Camera, width: int, height: int) -> str:
    """Return that an image has another size than the contract, and the cure."""
    return (
        f"image is {width}x{height}, the contract says {camera.width}x{camera.height}; correct one"
        " of them"
    )


def check_first_images(
    reader: EpisodeReader, blocks: np.ndarray, colour: np.ndarray, depth: np.ndarray
) -> None:
    """Decode the first image of every stream as training does.

    Args:
        blocks: (C, 5) that the locations refer to.
        colour, depth: (N, V, 3) locations; block below 0 where there is no image.

    Raises:
        BagError: an image cannot be decoded, or its size is not that of the contract.
    """
    with reader.random_access(blocks) as access:
        for view, camera in enumerate(reader.contract.cameras):
            for topic, rows in (
                (camera.topic, colour[:, view]),
                (camera.depth_topic, depth[:, view]),
            ):
                there = rows[rows[:, 0] >= 0]
                if topic is not None and len(there):
                    checked_size(
                        reader,
                        camera,
                        absolute(topic),
                        reader.image(absolute(topic), access.read(*there[0].tolist())),
                    )


def checked_size(
    reader: EpisodeReader, camera: Camera, topic: str, pixels: np.ndarray
) -> np.ndarray:
    """Return ``pixels`` after a check of their size.

    Raises:
        BagError: the size is not that of the contract.
    """
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise BagError(f"{reader.path}: {topic}: {_size_problem(camera, width, height)}")
    return pixels


def colour_locations(
    reader: EpisodeReader, view: int, observations: Observations, section: dict[str, Stream]
) -> np.ndarray:
    """Return the locations (N, 3) of the images of one camera; block -1 if the camera is missing.

    Args:
        view: index of the camera.
    """
    camera = reader.contract.cameras[view]
    if camera.name in reader.missing_cameras:
        return np.tile(np.array(_NO_IMAGE, np.int64), (len(observations.stamps), 1))
    return section[absolute(camera.topic)].locations[observations.indices[:, view]]


def depth_locations(
    reader: EpisodeReader,
    view: int,
    observations: Observations,
    section: dict[str, Stream],
    broken: np.ndarray,
) -> np.ndarray:
    """Return the locations (N, 3) of the depth images of one camera; block -1 where there is none,
    :data:`BROKEN_IMAGE` where it cannot be used.

    Args:
        view: index of the camera.
        broken: (N,) which depth images cannot be used.
    """
    camera = reader.contract.cameras[view]
    locations = np.tile(np.array(_NO_IMAGE, np.int64), (len(observations.stamps), 1))
    if camera.depth_topic and camera.name not in reader.missing_cameras:
        rows = depth_rows(reader.contract, view, observations, section)
        near = rows >= 0
        locations[near] = section[absolute(camera.depth_topic)].locations[rows[near]]
        locations[broken] = BROKEN_IMAGE
    return locations


def depth_rows(
    contract: Contract, view: int, observations: Observations, section: Mapping[str, Stream]
) -> np.ndarray:
    """Return the index (N,) in its stream of the depth image of each colour image: that with the
    nearest stamp, within the skew budget; -1 where there is none.

    Args:
        view: index of a camera with a depth topic and with images.
        section: streams by topic; without the depth topic, no image has depth.
    """
    camera = contract.cameras[view]
    found = np.full(len(observations.stamps), -1)
    stream = section.get(absolute(str(camera.depth_topic)))
    if stream is None or not len(stream.stamps):
        return found
    wanted = section[absolute(camera.topic)].stamps[observations.indices[:, view]]
    index = nearest(stream.stamps, wanted)
    close = np.abs(stream.stamps[index] - wanted) <= round(contract.budgets.camera_skew_s * 1e9)
    return np.where(close, index, found)


def camera_matrices(contract: Contract, streams: dict[str, Stream]) -> np.ndarray:
    """Return the camera matrices (V, 3, 3) [pixels]; NaN for a camera without CameraInfo."""
    matrices = np.full((len(contract.cameras), 3, 3), np.nan)
    for view, camera in enumerate(contract.cameras):
        stream = streams.get(absolute(camera.info_topic)) if camera.info_topic else None
        if stream and stream.messages:
            matrices[view] = np.asarray(stream.messages[0].k).reshape(3, 3)
    return matrices


def camera_poses(
    reader: EpisodeReader, observations: Observations, streams: dict[str, Stream]
) -> np.ndarray:
    """Return the poses (N, V, 4, 4) of the optical frames in the base frame [m].

    The newest pose at or before each image is taken; NaN where there is none.

    Raises:
        BagError: poses are recorded in another frame than the base frame.
    """
    contract = reader.contract
    poses = np.full((len(observations.stamps), len(contract.cameras), 4, 4), np.nan, np.float32)
    for view, camera in enumerate(contract.cameras):
        topic = camera_pose_topic(camera.name)
        stream = streams[topic]
        if not len(stream.stamps) or camera.name in reader.missing_cameras:
            continue
        wrong = {message.header.frame_id for message in stream.messages} - {contract.base_frame}
        if wrong:
            raise BagError(
                f"{reader.path}: {topic}: poses are in frame {wrong.pop()!r}; publish them in"
                f" {contract.base_frame!r}"
            )
        order = np.argsort(stream.stamps, kind="stable")
        times = streams[absolute(camera.topic)].stamps[observations.indices[:, view]]
        index = np.searchsorted(stream.stamps[order], times + SAME_STAMP_NS, side="right") - 1
        matrices = np.array([_matrix(stream.messages[position].pose) for position in order])
        poses[index >= 0, view] = matrices[index[index >= 0]]
    return poses


def _matrix(pose: Any) -> np.ndarray:
    """Return the matrix (4, 4) of a ``geometry_msgs/Pose``; its quaternion may have any length.

    With q = (x, y, z, w) and s = 2 / |q|^2 the rotation is I + s [v]x (w I + [v]x), v = (x, y, z).
    """
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
