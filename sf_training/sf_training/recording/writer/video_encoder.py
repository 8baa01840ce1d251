"""Encode camera images as H.264 for recording: much smaller than raw images, with a small error.

Every image is a key frame. It can be decoded alone, which random access, cutting and recovery of
episodes need. A video with fewer key frames would be smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np

from sf_policy_node.contract import Contract
from sf_policy_node.perception.images import ImageError, decode_image
from sf_training.recording import messages
from sf_training.recording.topics import absolute

QUALITY = 18  # constant rate factor of x264: 0 is lossless, 23 its default
_PIXELS = "yuv420p"
_OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "g": "1", "crf": str(QUALITY)}
_KEY_FRAME = 1  # AV_PKT_FLAG_KEY


class VideoEncoder:
    """Convert the images of one camera to ``FFMPEGPacket``, for width and height that are even."""

    def __init__(self) -> None:
        self._context: av.VideoCodecContext | None = None

    def packet(self, image: bytes | memoryview) -> memoryview:
        """Return the packet of a serialised ``sensor_msgs/Image``, with the same header.

        Raises:
            ImageError: the image cannot be decoded, or has an odd width or height.
        """
        message = messages.deserialize(image, messages.IMAGE)
        shape = (message.encoding, message.height, message.width, message.step)
        pixels = decode_image(*shape, message.data, source=message.header.frame_id)
        height, width = pixels.shape[:2]
        if width % 2 or height % 2:
            raise ImageError(f"an image of {width}x{height} cannot be H.264; record it raw")
        context = self._context
        if context is None or (context.width, context.height) != (width, height):
            context = self._context = _encoder(width, height)
        stamp = message.header.stamp
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts = None
        (packet,) = context.encode(frame)
        return messages.video_packet(
            message.header,
            (width, height),
            f"h264;{_PIXELS};rgb8;{message.encoding}",
            stamp.sec * 1_000_000_000 + stamp.nanosec,
            _KEY_FRAME if packet.is_keyframe else 0,
            np.frombuffer(bytes(packet), np.uint8),
        )


def _encoder(width: int, height: int) -> av.VideoCodecContext:
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, _PIXELS
    context.time_base, context.framerate = Fraction(1, 1000), Fraction(30)
    context.options, context.thread_count = _OPTIONS, 1
    return context


def video_encoders(contract: Contract) -> dict[str, Callable[[bytes], memoryview]]:
    """Return for each topic with raw colour images what converts them to H.264.

    Raises:
        ValueError: a camera has an odd width or height.
    """
    found: dict[str, Callable[[bytes], memoryview]] = {}
    for camera in contract.cameras:
        if camera.transport != "raw":
            continue
        if camera.width % 2 or camera.height % 2:
            raise ValueError(
                f"image_codec: H.264 needs even sizes, camera {camera.name} has"
                f" {camera.width}x{camera.height}; set image_codec to raw"
            )
        found[absolute(camera.topic)] = VideoEncoder().packet
    return found
