"""Decode images that were recorded as video: ``FFMPEGPacket`` of our recorder or of
``ffmpeg_image_transport``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sf_policy_node.perception.images import ImageError

_KEY_FRAME = 1  # AV_PKT_FLAG_KEY
# Packets of older versions name the encoder instead of the codec.
_DECODERS = {"libx264": "h264", "h264_nvenc": "h264", "libx265": "hevc", "hevc_nvenc": "hevc"}


def decode_packet(message: Any, source: str) -> np.ndarray:
    """Decode one packet to (H, W, 3) uint8 RGB, without the packets before it.

    Args:
        message: ``FFMPEGPacket``. The first token of its encoding, separated by semicolons, is the
            codec.
        source: topic, for error messages.

    Raises:
        ImageError: the packet depends on others, its codec is unknown, or it is damaged.
    """
    import av  # takes long, and most bags need no video decoder

    codec, data = message.encoding.split(";")[0], message.data
    if not message.flags & _KEY_FRAME:
        raise ImageError(
            f"{source}: is no key frame, so it depends on the images before it; record with a key"
            " frame for every image (gop_size: 1)"
        )
    try:
        decoder = av.CodecContext.create(_DECODERS.get(codec, codec), "r")
    except ValueError:
        raise ImageError(
            f"{source}: codec {codec!r} is not known; record h264, or raw images"
        ) from None
    try:
        decoder.thread_count = 1
        frames = [*decoder.decode(av.Packet(data.tobytes())), *decoder.decode(None)]
        intact = len(frames) == 1 and not frames[0].is_corrupt
        pixels = frames[0].to_ndarray(format="rgb24") if intact else None
    except (av.FFmpegError, ValueError, MemoryError, AttributeError):
        pixels = None
    if pixels is None:
        raise ImageError(
            f"{source}: {data.size} bytes of {message.encoding!r} are no image; check the encoder"
        )
    height, width = pixels.shape[:2]
    if (width, height) != (message.width, message.height):
        raise ImageError(
            f"{source}: a packet of {message.width}x{message.height} holds an image of"
            f" {width}x{height}; check the encoder"
        )
    return pixels
