"""Measure brightness, sharpness and frozen frames of the cameras, and make thumbnails."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sf_training.data.episode_reader import EpisodeReader, Stream
from sf_training.recording.topics import absolute

if TYPE_CHECKING:
    from sf_training.lint.motion import Motion

THUMBNAILS = 4
_THUMBNAIL_WIDTH = 132  # pixels
# pixels: wider images are reduced before sharpness is measured, so that noise counts less
_SHARPNESS_WIDTH = 320
# rad or m of any joint between two frames: a camera on or facing the arm must show a difference
_MOVED = 0.02


@dataclass(frozen=True)
class CameraMeasure:
    """Measures of n frames of one camera, evenly spread over the episode.

    Attributes:
        times: (n,) [s after the first image].
        brightness: (n,) mean grey value, 0 to 255.
        sharpness: (n,) variance of the Laplacian.
        frozen: share of frames that equal the previous one although a joint moved.
        thumbnails: JPEG files.
        first: (12, 16) uint8, the first frame in grey, for comparisons.
    """

    name: str
    times: np.ndarray
    brightness: np.ndarray
    sharpness: np.ndarray
    frozen: float
    thumbnails: list[bytes]
    first: np.ndarray


def measure_cameras(
    reader: EpisodeReader,
    read: dict[str, Stream],
    motion: Motion | None,
    start: int,
    frames: int,
    good: Mapping[str, np.ndarray],
) -> list[CameraMeasure]:
    """Decode and measure some frames of every camera with decodable images.

    Args:
        motion: of the episode; None if there is none.
        start: first image of the episode [ns].
        frames: number of frames per camera.
        good: topic to (N,) which of its images can be decoded.

    Raises:
        BagError: an image cannot be decoded.
    """
    cameras = {absolute(camera.topic): camera.name for camera in reader.contract.cameras}
    cameras = {
        topic: name for topic, name in cameras.items() if topic in good and good[topic].any()
    }
    decodable = {topic: np.flatnonzero(good[topic]) for topic in cameras}
    wanted = {
        topic: decodable[topic][_spread(len(decodable[topic]), max(frames, THUMBNAILS))]
        for topic in cameras
    }
    shown = {
        topic: set(wanted[topic][_spread(len(wanted[topic]), THUMBNAILS)].tolist())
        for topic in cameras
    }
    found: dict[str, list[tuple[int, float, float, int]]] = {topic: [] for topic in cameras}
    thumbnails: dict[str, list[bytes]] = {topic: [] for topic in cameras}
    first: dict[str, np.ndarray] = {}
    for topic, index, pixels in reader.frames(wanted):
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        sharpness = float(cv2.Laplacian(_narrowed(grey, _SHARPNESS_WIDTH), cv2.CV_32F).var())
        found[topic].append(
            (
                int(read[topic].stamps[index]),
                float(grey.mean()),
                sharpness,
                zlib.crc32(np.ascontiguousarray(pixels).data),
            )
        )
        first.setdefault(topic, cv2.resize(grey, (16, 12), interpolation=cv2.INTER_AREA))
        if index in shown[topic]:
            thumbnails[topic].append(jpeg(_narrowed(pixels, _THUMBNAIL_WIDTH)))
    return [
        CameraMeasure(
            name=name,
            times=np.array([(stamp - start) * 1e-9 for stamp, *_ in found[topic]]),
            brightness=np.array([brightness for _, brightness, _, _ in found[topic]]),
            sharpness=np.array([sharpness for _, _, sharpness, _ in found[topic]]),
            frozen=_frozen(found[topic], motion, start),
            thumbnails=thumbnails[topic],
            first=first[topic],
        )
        for topic, name in cameras.items()
    ]


def jpeg(rgb: np.ndarray, quality: int = 72) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a JPEG file."""
    return cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1].tobytes()


def _spread(count: int, wanted: int) -> np.ndarray:
    """Return at most ``wanted`` evenly spaced indices below ``count``, with the first and the
    last.
    """
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def _narrowed(pixels: np.ndarray, width: int) -> np.ndarray:
    height = round(pixels.shape[0] * width / pixels.shape[1])
    return (
        pixels
        if pixels.shape[1] <= width
        else cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    )


def _frozen(
    frames: list[tuple[int, float, float, int]], motion: Motion | None, start: int
) -> float:
    if motion is None or len(frames) < 2 or len(motion.times) < 2:
        return 0.0
    seconds = (np.array([stamp for stamp, *_ in frames]) - start) * 1e-9
    joints = np.stack(
        [np.interp(seconds, motion.times, column) for column in motion.positions.T], axis=1
    )
    moved = (np.abs(np.diff(joints, axis=0)) > _MOVED).any(axis=1)
    same = np.array([one[3] == following[3] for one, following in itertools.pairwise(frames)])
    return float((same & moved).sum() / max(moved.sum(), 1))
