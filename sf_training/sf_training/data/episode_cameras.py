"""What an episode's cameras give besides colour: depth, camera matrices and poses; and which of
their images can be used.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sf_policy_node.contract import Camera, Contract
from sf_training.data.bag_files import BagError
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.picture_checks import image_is_readable
from sf_training.data.stream import Stream
from sf_training.data.synchronisation import SAME_STAMP_NS, Observations, nearest
from sf_training.recording import messages
from sf_training.recording.topics import absolute, camera_pose_topic

_NOWHERE = (-1, 0, 0)


def usable_images(
    reader: EpisodeReader, streams: Mapping[str, Stream], seen: Observations, start: int
) -> tuple[np.ndarray, list[str]]:
    """Return which observations (N,) have images of the contract's size that can be decoded, and a
    sentence about the others.

    Compressed images are decoded for this, of raw ones the header and the number of bytes are
    compared.

    Args:
        start: beginning of the recording [ns].

    Raises:
        BagError: no image of a camera can be used.
    """
    good, notes = np.ones(len(seen.stamps), bool), []
    with reader.places(np.array(reader.blocks, np.int64).reshape(-1, 5)) as places:
        for view, camera in enumerate(reader.contract.cameras):
            topic = absolute(camera.topic)
            stream, rows = streams[topic], seen.indices[:, view]
            sizes = stream.sizes[rows]
            fits = (sizes == (camera.width, camera.height)).all(axis=1)
            usable = fits.copy()
            if reader.topics[topic] == messages.COMPRESSED_IMAGE:
                order = np.lexsort(stream.places[rows].T[1::-1])
                for place in order[fits[order]].tolist():
                    usable[place] = image_is_readable(
                        places.read(*stream.places[rows[place]].tolist())
                    )
            if usable.all():
                continue
            first = int(np.flatnonzero(~usable)[0])
            told = _told(reader, topic, camera, tuple(sizes[first].tolist()), bool(fits[first]))
            if sizes[first, 0] < 0 or fits[first]:
                told = _why(reader, topic, places.read(*stream.places[rows[first]].tolist()), told)
            if not usable.any():
                raise BagError(f"{reader.path}: {topic}: {told}")
            at = (int(stream.stamps[rows[first]]) - start) * 1e-9
            notes.append(
                f"{topic} at {at:.2f} s: {told} ({(~usable).sum()} of {len(usable)} observations"
                " are left out)"
            )
            good &= usable
    return good, notes


def _why(reader: EpisodeReader, topic: str, data: bytes | memoryview, else_told: str) -> str:
    """Return why an image cannot be decoded."""
    try:
        reader.picture(topic, data)
    except BagError as error:
        reason = str(error).split(f"{topic}: ", 1)[-1]
        return f"an image cannot be decoded: {reason}"
    return else_told


def _told(
    reader: EpisodeReader, topic: str, camera: Camera, size: tuple[int, int], fits: bool
) -> str:
    if fits or size[0] < 0:
        return "an image cannot be decoded; check the camera's driver"
    return (
        f"image is {size[0]}x{size[1]}, the contract says {camera.width}x{camera.height}; correct"
        " one of them"
    )


def check_first_images(
    reader: EpisodeReader, blocks: np.ndarray, colour: np.ndarray, depth: np.ndarray
) -> None:
    """Decode the first image of every stream as training does.

    Args:
        colour, depth: (N, V, 3) places; block -1 where there is none.

    Raises:
        BagError: one cannot be decoded, or has not the contract's size.
    """
    with reader.places(blocks) as places:
        for view, camera in enumerate(reader.contract.cameras):
            for topic, rows in (
                (camera.topic, colour[:, view]),
                (camera.depth_topic, depth[:, view]),
            ):
                there = rows[rows[:, 0] >= 0]
                if len(there):
                    checked_size(
                        reader,
                        camera,
                        absolute(topic),
                        reader.picture(absolute(topic), places.read(*there[0].tolist())),
                    )


def checked_size(
    reader: EpisodeReader, camera: Camera, topic: str, pixels: np.ndarray
) -> np.ndarray:
    """Return the picture, when it has the contract's size.

    Raises:
        BagError: otherwise.
    """
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise BagError(
            f"{reader.path}: {topic}: image is {width}x{height}, the contract says"
            f" {camera.width}x{camera.height}; correct one of them"
        )
    return pixels


def depth_places(
    contract: Contract, view: int, seen: Observations, part: dict[str, Stream]
) -> np.ndarray:
    """(N, 3): the depth images that belong to the colour images, by the nearest stamp within the
    skew budget.
    """
    camera = contract.cameras[view]
    places = np.tile(np.array(_NOWHERE, np.int64), (len(seen.stamps), 1))
    stream = part[absolute(camera.depth_topic)] if camera.depth_topic else None
    if stream is None or not len(stream.stamps):
        return places
    wanted = part[absolute(camera.topic)].stamps[seen.indices[:, view]]
    index = nearest(stream.stamps, wanted)
    close = np.abs(stream.stamps[index] - wanted) <= round(contract.budgets.camera_skew_s * 1e9)
    fits = (stream.sizes[index] == (camera.width, camera.height)).all(axis=1)
    close &= (
        fits | ~fits.any()
    )  # an odd one is left out; where all are of another size, that is said
    places[close] = stream.places[index[close]]
    return places


def camera_matrices(contract: Contract, streams: dict[str, Stream]) -> np.ndarray:
    """(V, 3, 3) camera matrices; NaN for a camera without CameraInfo."""
    matrices = np.full((len(contract.cameras), 3, 3), np.nan)
    for view, camera in enumerate(contract.cameras):
        stream = streams.get(absolute(camera.info_topic)) if camera.info_topic else None
        if stream and stream.messages:
            matrices[view] = np.asarray(stream.messages[0].k).reshape(3, 3)
    return matrices


def camera_poses(
    reader: EpisodeReader, seen: Observations, streams: dict[str, Stream]
) -> np.ndarray:
    """(N, V, 4, 4) optical frame in the base frame, newest at or before the image; NaN where it is
    not recorded.
    """
    contract = reader.contract
    poses = np.full((len(seen.stamps), len(contract.cameras), 4, 4), np.nan, np.float32)
    for view, camera in enumerate(contract.cameras):
        topic = camera_pose_topic(camera.name)
        stream = streams[topic]
        if not len(stream.stamps):
            continue
        wrong = {message.header.frame_id for message in stream.messages} - {contract.base_frame}
        if wrong:
            raise BagError(
                f"{reader.path}: {topic}: poses are in frame {wrong.pop()!r}; publish them in"
                f" {contract.base_frame!r}"
            )
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
