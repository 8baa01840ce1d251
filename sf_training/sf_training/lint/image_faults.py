"""Find the images of a bag that cannot be used: every header is read, and every compressed image is
decoded to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sf_training.data.episode_reader import EpisodeReader
from sf_training.data.stream import Stream
from sf_training.recording import messages
from sf_training.recording.topics import absolute


@dataclass(frozen=True)
class ImageFaults:
    """N images of one topic: colour or depth of a camera.

    Attributes:
        readable: (N,) False where an image cannot be decoded.
        fits: (N,) False where the size of an image is not that of the contract.
        times: (N,) [s] from the first image.
        sizes: (N, 2) width and height [pixels], -1 where unknown.
        wanted: width and height in the contract [pixels].
    """

    name: str
    topic: str
    readable: np.ndarray
    fits: np.ndarray
    times: np.ndarray
    sizes: np.ndarray
    wanted: tuple[int, int]


def image_faults(
    reader: EpisodeReader, streams: Mapping[str, Stream], start: int
) -> list[ImageFaults]:
    """Check all images, colour and depth, of all cameras that are not missing.

    Args:
        start: first image of the episode [ns].

    Raises:
        BagError: the bag is damaged.
    """
    found = []
    with reader.random_access(np.array(reader.blocks, np.int64).reshape(-1, 5)) as access:
        for camera in reader.recorded_cameras:
            size = (camera.width, camera.height)
            for name, topic in (
                (f"{camera.name} camera", absolute(camera.topic)),
                (f"{camera.name} depth", absolute(camera.depth_topic or "")),
            ):
                stream = streams.get(topic)
                if stream is None or not len(stream.stamps):
                    continue
                readable = np.all(stream.sizes > 0, axis=1)
                if reader.topics[topic] != messages.IMAGE:
                    for row in np.flatnonzero(readable).tolist():
                        data = access.read(*stream.locations[row].tolist())
                        readable[row] = reader.image_is_readable(topic, data)
                fits = np.all(stream.sizes == size, axis=1)
                times = (stream.stamps - start) * 1e-9
                found.append(
                    ImageFaults(name, topic, readable, fits | ~readable, times, stream.sizes, size)
                )
    return found
