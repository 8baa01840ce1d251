"""Write an MP4 of an episode: cameras side by side, and optionally the curves with a moving
cursor below.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from sf_training.data.image_rows import images_in_rows
from sf_training.view.drawing import LEFT, RIGHT, draw, to_pixels
from sf_training.view.episode import Episode

_CAPTION = 30  # pixels
_INK, _CURSOR = (36, 36, 27), (179, 38, 30)


def side_by_side(episode: Episode, width: int) -> Iterator[np.ndarray]:
    """Yield video frames (H, width, 3) uint8 RGB: all cameras at one height, with names.
    An image that cannot be decoded is black.
    """
    cameras = episode.reader.contract.cameras
    height = int(width / sum(camera.width / camera.height for camera in cameras))
    edges = np.round(
        np.cumsum([0.0] + [camera.width / camera.height for camera in cameras]) * height
    ).astype(int)
    edges[-1] = width
    views = {camera.name: view for view, camera in enumerate(cameras)}
    waiting: list[list[np.ndarray]] = [[] for _ in cameras]  # cameras alternate irregularly
    for name, pixels in images_in_rows(episode.reader, episode.indices, any_image=True):
        view = views[name]
        size = (int(edges[view + 1] - edges[view]), height)
        narrower = size[0] < pixels.shape[1]
        small = cv2.resize(
            pixels, size, interpolation=cv2.INTER_AREA if narrower else cv2.INTER_LINEAR
        )
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                small, name, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA
            )
        waiting[view].append(small)
        while all(waiting):
            yield np.concatenate([frames.pop(0) for frames in waiting], axis=1)


def with_curves(episode: Episode, width: int) -> Iterator[np.ndarray]:
    """Yield the frames of :func:`side_by_side` with a caption above, and curves with a cursor
    below.
    """
    curves = to_pixels(draw(episode, width / 100), width)
    for number, cameras in enumerate(side_by_side(episode, width)):
        at = number / episode.fps
        caption = np.full((_CAPTION, width, 3), 255, np.uint8)
        text = (
            f"{at:6.2f} s  {episode.reader.instruction}  ({episode.reader.name},"
            f" {episode.reader.outcome})"
        )
        plain = text.encode("ascii", "replace").decode()  # OpenCV's font has no other letters
        cv2.putText(caption, plain, (8, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
        below = curves.copy()
        column = round((LEFT + (RIGHT - LEFT) * min(at / episode.duration_s, 1.0)) * width)
        cv2.line(below, (column, 0), (column, len(below)), _CURSOR, 1)
        yield np.concatenate([caption, cameras, below])


def write_film(path: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    """Encode frames as H.264 for browsers; return their number. OSError passes through."""
    count = 0
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"crf": "23", "preset": "veryfast"}
        )
        for rgb in frames:
            # yuv420p needs an even width and height.
            even = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
            if not count:
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                )
            )
            count += 1
        container.mux(stream.encode(None))
    return count
