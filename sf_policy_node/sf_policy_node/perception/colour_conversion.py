"""Convert images of any colour encoding to RGB, with ``cv_bridge`` if it is installed and works,
else with OpenCV.

``cv_bridge`` is compiled for the NumPy of its ROS distribution. With another NumPy in a virtual
environment its import fails or crashes. It is therefore first tried in a separate process, and used
only for the encodings that it converts correctly there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

# encoding -> (bytes per pixel, OpenCV conversion to RGB; None when it is RGB already).
# 8UC3 and 8UC4 do not define the order of colours; drivers that use them send OpenCV's BGR.
COLOUR = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by its second row: rggb is its "BG".
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
# cv_bridge does not convert these generic encodings.
_NAMES_IN_CV_BRIDGE = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8"}
_TRIAL_S = 30.0
_TRIAL = "from sf_policy_node.perception.colour_conversion import print_trial; print_trial()"


def to_rgb(encoding: str, pixels: np.ndarray) -> np.ndarray:
    """Convert an image of a key of :data:`COLOUR` to RGB.

    Args:
        encoding: of ``pixels``.
        pixels: (H, W) or (H, W, C) uint8; rows may be padded.

    Returns:
        (H, W, 3) uint8; ``pixels`` itself if it is already RGB.
    """
    if COLOUR[encoding][1] is None:
        return pixels
    return (
        by_cv_bridge(encoding, pixels)
        if encoding in cv_bridge_encodings()
        else by_opencv(encoding, pixels)
    )


def by_opencv(encoding: str, pixels: np.ndarray) -> np.ndarray:
    """Convert with OpenCV; see :func:`to_rgb`."""
    conversion = COLOUR[encoding][1]
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def by_cv_bridge(encoding: str, pixels: np.ndarray) -> np.ndarray:
    """Convert with ``cv_bridge``; see :func:`to_rgb`. Only for encodings of
    :func:`cv_bridge_encodings`.
    """
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    name = _NAMES_IN_CV_BRIDGE.get(encoding, encoding)
    message = SimpleNamespace(
        encoding=name,
        height=height,
        width=width,
        step=pixels.strides[0],
        is_bigendian=0,
        data=pixels.reshape(-1),
    )
    return _bridge().imgmsg_to_cv2(message, "rgb8")


@cache
def cv_bridge_encodings() -> frozenset[str]:
    """Return the encodings that ``cv_bridge`` converts on this machine; empty if it is not
    installed or does not work.

    If ``cv_bridge`` is installed, the first call takes up to a second.
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return frozenset()
    command = [sys.executable, "-c", _TRIAL]
    try:
        trial = subprocess.run(
            command,
            capture_output=True,
            timeout=_TRIAL_S,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return frozenset(json.loads(trial.stdout)) if trial.returncode == 0 else frozenset()
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return frozenset()


def print_trial() -> None:
    """Print the encodings for which ``cv_bridge`` and OpenCV agree, as JSON. The process may crash
    in ``cv_bridge``.
    """
    works = []
    for encoding, (channels, _) in COLOUR.items():
        pixels = np.arange(4 * 4 * channels, dtype=np.uint8).reshape(
            (4, 4) if channels == 1 else (4, 4, channels)
        )
        try:
            if np.array_equal(by_cv_bridge(encoding, pixels), by_opencv(encoding, pixels)):
                works.append(encoding)
        except Exception:  # of any kind, from a compiled library: OpenCV converts these
            continue
    print(json.dumps(works))


@cache
def _bridge() -> Any:  # a cv_bridge.CvBridge, where it is installed
    from cv_bridge import CvBridge

    return CvBridge()
