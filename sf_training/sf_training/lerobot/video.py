"""Write MP4 files of several episodes frame by frame, and read them from any time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import av
import numpy as np

from sf_training.lerobot.layout import LeRobotError

_SAME_S = 1e-6  # s: rounding of times to the time base of the video
_FETCH = "fetch the dataset again"
Codec = Literal["h264", "av1"]
DEPTH = "depth"  # lossless HEVC of 12 bits
_ENCODERS = {"h264": "libx264", "av1": "libsvtav1", DEPTH: "libx265"}
# A key frame every second frame, as in lerobot, so that random access decodes at most two frames.
_OPTIONS: dict[str, dict[str, str]] = {
    "h264": {"g": "2", "crf": "18", "preset": "veryfast"},
    "av1": {"g": "2", "crf": "30", "preset": "10"},
    DEPTH: {"g": "2", "preset": "ultrafast", "x265-params": "lossless=1:log-level=none"},
}


class VideoFile:
    """An MP4 file open for writing; ``frames`` and ``bytes`` count what was written so far."""

    def __init__(self, path: Path, fps: int, width: int, height: int, codec: str) -> None:
        if width % 2 or height % 2:
            raise LeRobotError(
                f"{path.parent.parent.name}: images of {width}x{height} cannot be encoded; crop"
                " them to even numbers"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._name = path.parent.parent.name
        self.frames = 0
        self.bytes = 0
        self._container = av.open(str(path), "w")
        stream = self._container.add_stream(_ENCODERS[codec], rate=fps, options=_OPTIONS[codec])
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt, self._format = (
            ("gray12le", "gray12le") if codec == DEPTH else ("yuv420p", "rgb24")
        )

    def add(self, pixels: np.ndarray) -> None:
        """Encode one frame: (H, W, 3) uint8 RGB, or depth levels (H, W) uint16."""
        height, width = pixels.shape[:2]
        if (width, height) != (self._stream.width, self._stream.height):  # av would scale it
            expected = f"{self._stream.width}x{self._stream.height}"
            raise LeRobotError(
                f"{self._name}: an image is {width}x{height}, the video {expected}; correct the"
                " contract"
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=self._format)
        try:
            self._mux(self._stream.encode(frame))
        except av.error.ArgumentError as error:  # raised when the encoder starts
            raise LeRobotError(
                f"{self._name}: {frame.width}x{frame.height} cannot be encoded ({error.strerror});"
                " leave it out"
            ) from None
        self.frames += 1

    def close(self) -> None:
        """Complete the file."""
        self._mux(self._stream.encode(None))
        self._container.close()

    def _mux(self, packets: list) -> None:
        for packet in packets:
            self.bytes += packet.size
            self._container.mux(packet)


def as_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 RGB of a frame."""
    return frame.to_ndarray(format="rgb24")


def read_frames(
    path: Path,
    start_s: float,
    count: int,
    fps: float,
    pixels: Callable[[av.VideoFrame], np.ndarray] = as_rgb,
) -> Iterator[np.ndarray]:
    """Yield ``count`` frames, one every 1 / ``fps`` seconds from ``start_s`` on.

    Other frames, as in a video of twice the rate, are skipped.

    Args:
        pixels: converts a frame to what is yielded.

    Raises:
        LeRobotError: the file is missing, damaged, too short, or lacks a frame.
    """
    half = 0.5 / fps
    done = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            time_base = stream.time_base
            assert time_base is not None  # known once the file is open
            container.seek(max(0, int((start_s - half) / time_base)), stream=stream)
            before: tuple[float, av.VideoFrame] | None = None
            for frame in container.decode(stream):
                now = (float((frame.pts or 0) * time_base) - start_s, frame)
                while done < count and now[0] >= done / fps - _SAME_S:
                    nearest = min(
                        (each for each in (before, now) if each),
                        key=lambda each: abs(each[0] - done / fps),
                    )
                    if abs(nearest[0] - done / fps) > half + _SAME_S:
                        raise LeRobotError(
                            f"{path}: has no frame at {start_s + done / fps:.3f} s; {_FETCH}"
                        )
                    yield pixels(nearest[1])
                    done += 1
                if done == count:
                    return
                before = now
            if before and abs(before[0] - done / fps) <= half:  # the last frame is a little early
                yield pixels(before[1])
                done += 1
    except (
        OSError,
        ValueError,
        IndexError,
        OverflowError,
        MemoryError,
        av.error.FFmpegError,
    ) as error:
        if isinstance(error, LeRobotError):
            raise
        raise LeRobotError(f"{path}: cannot be read as a video ({error}); {_FETCH}") from None
    if done < count:
        raise LeRobotError(f"{path}: ends {count - done} frames too early; {_FETCH}")
