"""MP4 of an episode: cameras side by side, and below them, if wanted, the curves with a moving
cursor.
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
    """(H, width, 3) uint8 for every moment: all cameras at one height, their names in the
    corners.
    """
    cameras = episode.reader.contract.cameras
    height = int(width / sum(camera.width / camera.height for camera in cameras))
    edges = np.round(
        np.cumsum([0.0] + [camera.width / camera.height for camera in cameras]) * height
    ).astype(int)
    edges[-1] = width
    places = {camera.name: view for view, camera in enumerate(cameras)}
    rows: list[list[np.ndarray]] = [
        [] for _ in cameras
    ]  # cameras take turns as they lie in the bag
    for name, pixels in images_in_rows(episode.reader, episode.indices):
        view = places[name]
        size = (int(edges[view + 1] - edges[view]), height)
        narrower = size[0] < pixels.shape[1]
        small = cv2.resize(
            pixels, size, interpolation=cv2.INTER_AREA if narrower else cv2.INTER_LINEAR
        )
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                small, name, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA
            )
        rows[view].append(small)
        while all(rows):
            yield np.concatenate([waiting.pop(0) for waiting in rows], axis=1)


def with_curves(episode: Episode, width: int) -> Iterator[np.ndarray]:
    """The same with a caption above, and the curves with a cursor below."""
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
    """Encode frames as H.264, playable in browsers; returns how many there were. OSError passes
    through.
    """
    count = 0
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"crf": "23", "preset": "veryfast"}
        )
        for rgb in frames:
            even = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]  # H.264 in 4:2:0
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
