"""Decode the images of several observations in one pass, with few of them in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.recording.topics import absolute


def images_in_rows(
    reader: EpisodeReader, indices: np.ndarray, *, any_image: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (camera name, (H, W, 3) uint8 RGB) for every row and camera.

    The images of each camera come in the order of the rows. How cameras alternate depends on the
    bag.

    Args:
        indices: (N, V) message index of each camera in each row; a message may occur repeatedly.
        any_image: accept images of any size, and yield a black pixel for one that cannot be
            decoded.

    Raises:
        BagError: an image cannot be decoded, or its size is not that of the contract.
    """
    cameras = {
        absolute(camera.topic): (view, camera)
        for view, camera in enumerate(reader.contract.cameras)
    }
    last_row = {
        topic: {index: row for row, index in enumerate(indices[:, view].tolist())}
        for topic, (view, _) in cameras.items()
    }
    waiting: dict[str, dict[int, np.ndarray]] = {topic: {} for topic in cameras}
    following = dict.fromkeys(cameras, 0)
    wanted_indices = {topic: list(rows) for topic, rows in last_row.items()}
    for topic, index, pixels in reader.frames(wanted_indices, black_where_broken=any_image):
        view, camera = cameras[topic]
        height, width = pixels.shape[:2]
        if (width, height) != (camera.width, camera.height) and not any_image:
            expected = f"{camera.width}x{camera.height}"
            raise BagError(
                f"{reader.path}: {topic}: image is {width}x{height}, the contract says {expected};"
                " correct one of them"
            )
        waiting[topic][index] = pixels
        while (
            following[topic] < len(indices)
            and (wanted := int(indices[following[topic], view])) in waiting[topic]
        ):
            yield camera.name, waiting[topic][wanted]
            if last_row[topic][wanted] == following[topic]:
                del waiting[topic][wanted]
            following[topic] += 1
