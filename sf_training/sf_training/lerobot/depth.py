"""Convert depth to and from the format of LeRobot: 4096 logarithmic levels in a lossless 12-bit
video.

With depth d [m], range [d0, d1] = [0.01, 10] and shift s = 3.5:
level = round(4095 (log(d + s) - log(d0 + s)) / (log(d1 + s) - log(d0 + s))).
A level is 0.8 mm at 0.2 m and 3.0 mm at 10 m. Level 0 means "no measurement" here; lerobot shows it
as the smallest depth. Source: lerobot 0.6.2, ``datasets/depth_utils.py`` and ``configs/video.py``
(after BEHAVIOR-1K).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import av
import cv2
import numpy as np

from sf_training.lerobot.layout import LeRobotError

QUANTISER = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True}
HIGHEST = 4095
_MM = 1000.0


def to_codes(metres: np.ndarray) -> np.ndarray:
    """Convert depth (H, W) [m] to levels (H, W) uint16; values that are not finite or not positive
    become 0.
    """
    low, high, shift = (QUANTISER[name] for name in ("depth_min", "depth_max", "shift"))
    known = np.isfinite(metres) & (metres > 0)
    first, last = math.log(low + shift), math.log(high + shift)
    share = (np.log(np.where(known, metres, low) + shift) - first) / (last - first)
    return np.where(known, np.rint(share * HIGHEST).clip(0, HIGHEST), 0).astype(np.uint16)


def to_metres(codes: np.ndarray, quantiser: Mapping[str, Any]) -> np.ndarray:
    """Convert levels (H, W) to depth (H, W) float32 [m]; level 0 becomes 0.

    Args:
        quantiser: ``depth_min``, ``depth_max``, ``shift`` [m] and ``use_log``; missing keys have
            lerobot's defaults.
    """
    values = QUANTISER | {
        name: value for name, value in quantiser.items() if name in QUANTISER and value is not None
    }
    low, high, shift = (float(values[name]) for name in ("depth_min", "depth_max", "shift"))
    share = np.asarray(codes, np.float64) / HIGHEST
    if values["use_log"]:
        first, last = math.log(low + shift), math.log(high + shift)
        metres = np.exp(first + share * (last - first)) - shift
    else:
        metres = low + share * (high - low)
    return np.where(codes == 0, 0.0, metres).astype(np.float32)


def levels_m() -> np.ndarray:
    """Return the depth of every level (4096,) [m], as lerobot reads it."""
    metres = to_metres(np.arange(HIGHEST + 1), QUANTISER).astype(np.float64)
    metres[0] = QUANTISER["depth_min"]
    return metres


def of_frame(frame: av.VideoFrame, described: Mapping[str, Any]) -> np.ndarray:
    """Return the depth (H, W) float32 [m] of a video frame.

    Args:
        described: ``info`` of the feature, its keys without "video.". With ``depth_min`` the video
            holds levels. Without it, 16-bit pixels are millimetres.

    Raises:
        LeRobotError: the pixel format holds no depth.
    """
    name = frame.format.name
    if name not in ("gray12le", "gray16le", "yuv420p12le", "gray10le", "yuv420p10le"):
        raise LeRobotError(
            f"the pixel format of the video is {name}, which holds no depth; encode it as gray12le,"
            " yuv420p12le or gray16le"
        )
    codes = frame.to_ndarray()[: frame.height]  # the first plane of a planar format
    if described.get("depth_min") is None and name == "gray16le":
        return in_metres(codes, described)
    return to_metres(codes, described)


def of_image_file(data: bytes, described: Mapping[str, Any]) -> np.ndarray | None:
    """Return the depth (H, W) float32 [m] of a TIFF or PNG file; None if it is not an image with
    one channel.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        return None
    if pixels is None or pixels.ndim != 2:
        return None
    return in_metres(pixels, described)


def in_metres(values: np.ndarray, described: Mapping[str, Any]) -> np.ndarray:
    """Convert raw depth to metres by ``depth_unit``; without it, integers are millimetres and
    floats metres.
    """
    unit = described.get("depth_unit") or (
        "m" if np.issubdtype(values.dtype, np.floating) else "mm"
    )
    metres = values.astype(np.float32) / (_MM if unit == "mm" else 1.0)
    return np.where(np.isfinite(metres), metres, 0.0).astype(np.float32)


def feature(width: int, height: int, fps: float) -> dict[str, Any]:
    """Return the description of a depth camera for info.json."""
    information = {
        "video.height": height,
        "video.width": width,
        "video.codec": "hevc",
        "video.pix_fmt": "gray12le",
        "video.fps": fps,
        "video.channels": 1,
        "has_audio": False,
        "is_depth_map": True,
        "depth_unit": "m",
        **{f"video.{name}": value for name, value in QUANTISER.items()},
    }
    return {
        "dtype": "video",
        "shape": [height, width, 1],
        "names": ["height", "width", "channels"],
        "info": information,
    }
