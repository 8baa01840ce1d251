"""MP4 files of several episodes: written frame by frame, read from any moment on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import numpy as np

from sf_training.lerobot.layout import LeRobotError

Codec = Literal["h264", "av1"]
_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
# A key frame every second frame, as lerobot has it: random access decodes two frames at most.
_OPTIONS: dict[str, dict[str, str]] = {
    "h264": {"g": "2", "crf": "18", "preset": "veryfast"},
    "av1": {"g": "2", "crf": "30", "preset": "10"},
}


class VideoFile:
    """One MP4, open for writing; ``frames`` and ``bytes`` are what it holds so far."""

    def __init__(self, path: Path, fps: int, width: int, height: int, codec: Codec) -> None:
        if width % 2 or height % 2:
            raise LeRobotError(f"{path.parent.parent.name}: pictures of {width}x{height} cannot be encoded; crop them to even numbers")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frames = 0
        self.bytes = 0
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(_ENCODERS[codec], rate=fps, options=_OPTIONS[codec])
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"

    def add(self, rgb: np.ndarray) -> None:
        """One frame (H, W, 3) uint8."""
        self._mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
        self.frames += 1

    def close(self) -> None:
        """Complete the file."""
        self._mux(self._stream.encode(None))
        self._container.close()

    def _mux(self, packets: list) -> None:
        for packet in packets:
            self.bytes += packet.size
            self._container.mux(packet)


def read_frames(path: Path, start_s: float, count: int, fps: float) -> Iterator[np.ndarray]:
    """``count`` frames (H, W, 3) uint8 RGB from ``start_s`` on.

    Raises:
        LeRobotError: the file is missing, damaged or shorter than that.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            container.seek(max(0, int((start_s - 0.5 / fps) / stream.time_base)), stream=stream)
            left = count
            for frame in container.decode(stream):
                if left and frame.pts * stream.time_base >= start_s - 0.5 / fps:
                    yield frame.to_ndarray(format="rgb24")
                    left -= 1
                if not left:
                    return
    except (OSError, IndexError, av.error.FFmpegError) as error:
        raise LeRobotError(f"{path}: cannot be read as a video ({error}); fetch the dataset again") from None
    raise LeRobotError(f"{path}: ends {left} frames too early; fetch the dataset again")
