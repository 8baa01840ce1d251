"""Pictures of several cameras in rows that belong together, decoded in one pass; only what is still
needed is held.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sf_training.data.episode_reader import BagError, EpisodeReader
from sf_training.recording.topics import absolute


def pictures_in_rows(
    reader: EpisodeReader, indices: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """(camera, (H, W, 3) uint8) of every row, each camera's in order of the rows; cameras take
    turns as they lie in the bag.

    Args:
        indices: (N, V) of the messages of the contract's cameras.

    Raises:
        BagError: a picture cannot be decoded, or has not the contract's size.
    """
    cameras = {
        absolute(camera.topic): (view, camera)
        for view, camera in enumerate(reader.contract.cameras)
    }
    last = {
        topic: {index: row for row, index in enumerate(indices[:, view].tolist())}
        for topic, (view, _) in cameras.items()
    }
    waiting: dict[str, dict[int, np.ndarray]] = {topic: {} for topic in cameras}
    following = dict.fromkeys(cameras, 0)
    for topic, index, pixels in reader.frames({topic: list(rows) for topic, rows in last.items()}):
        view, camera = cameras[topic]
        height, width = pixels.shape[:2]
        if (width, height) != (camera.width, camera.height):
            said = f"{camera.width}x{camera.height}"
            raise BagError(
                f"{reader.path}: {topic}: image is {width}x{height}, the contract says {said};"
                " correct one of them"
            )
        waiting[topic][index] = pixels
        while (
            following[topic] < len(indices)
            and (wanted := int(indices[following[topic], view])) in waiting[topic]
        ):
            yield camera.name, waiting[topic][wanted]
            if last[topic][wanted] == following[topic]:
                del waiting[topic][wanted]
            following[topic] += 1
