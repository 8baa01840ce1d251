"""Export depth at the frames of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from sf_policy_node.contract import Camera, Contract
from sf_training.data.episode_cameras import depth_rows
from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.stream import Stream
from sf_training.data.synchronisation import Observations
from sf_training.lerobot.layout import DEPTH_SUFFIX
from sf_training.recording.topics import absolute


def depth_cameras(contract: Contract) -> list[Camera]:
    """Return the cameras that have a depth topic."""
    return [camera for camera in contract.cameras if camera.depth_topic]


def depth_indices(
    contract: Contract,
    read: Mapping[str, Stream],
    section: Mapping[str, Stream],
    observations: Observations,
) -> np.ndarray:
    """Find the depth image of each colour image, by the nearest stamp within the skew budget.

    Returns:
        (N, D) message index of each camera with depth; -1 where no image is near.
    """
    columns = []
    for view, camera in enumerate(contract.cameras):
        if not camera.depth_topic:
            continue
        topic = absolute(camera.depth_topic)
        rows = depth_rows(contract, view, observations, section)
        near = rows >= 0
        rows[near] = np.searchsorted(read[topic].order, section[topic].order)[rows[near]]
        columns.append(rows)
    return np.stack(columns, axis=1) if columns else np.empty((len(observations.stamps), 0), int)


def depth_in_rows(reader: EpisodeReader, indices: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (NAME_depth, (H, W) float32 [m]) of every row and camera, each camera in order; zeros
    where there is no image.

    Args:
        indices: (N, D) of the messages of :func:`depth_cameras`, -1 for none.

    Raises:
        BagError: an image cannot be decoded.
    """
    for column, camera in zip(indices.T, depth_cameras(reader.contract), strict=True):
        assert camera.depth_topic is not None  # of depth_cameras
        topic = absolute(camera.depth_topic)
        nothing = np.zeros((camera.height, camera.width), np.float32)
        # Message index to the last row that needs it; then the image is released.
        last_row = {int(index): row for row, index in enumerate(column) if index >= 0}
        frames, decoded = reader.frames({topic: list(last_row)}), {}
        for row, wanted in enumerate(column.tolist()):
            while wanted >= 0 and wanted not in decoded:
                _, index, pixels = next(frames)
                decoded[index] = pixels
            yield camera.name + DEPTH_SUFFIX, decoded[wanted] if wanted >= 0 else nothing
            if wanted >= 0 and last_row[wanted] == row:
                del decoded[wanted]
