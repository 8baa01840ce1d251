"""Decode images to arrays, for the live policy and the bag reader, so that both get the same
pixels.

The functions take the fields of ``sensor_msgs/Image`` and ``sensor_msgs/CompressedImage`` and need
neither rclpy nor a bag. Encodings are named as in ``sensor_msgs/image_encodings.hpp``; depth units
follow REP 118. Colours are converted by :mod:`sf_policy_node.perception.colour_conversion`.
"""

from __future__ import annotations

import sys
from array import array

import cv2
import numpy as np

from sf_policy_node.perception.colour_conversion import COLOUR, to_rgb

Buffer = bytes | bytearray | memoryview | array | np.ndarray

_DEPTH_HEADER = 12  # bytes of compressedDepth before its PNG
_DEPTH: dict[str, np.dtype] = {
    "32FC1": np.dtype(np.float32),
    "16UC1": np.dtype(np.uint16),
    "mono16": np.dtype(np.uint16),
}


class ImageError(ValueError):
    """Raised for an image that cannot be decoded; names the topic, the encoding and the cure."""


def bytes_per_pixel(encoding: str, *, is_depth: bool) -> int:
    """Return the bytes of a pixel of a raw colour or depth image; 0 for an encoding that is not
    decoded.
    """
    if is_depth:
        return _DEPTH[encoding].itemsize if encoding in _DEPTH else 0
    return COLOUR[encoding][0] if encoding in COLOUR else 0


def decode_image(
    encoding: str, height: int, width: int, step: int, data: Buffer, *, source: str = "image"
) -> np.ndarray:
    """Decode a ``sensor_msgs/Image`` to RGB pixels.

    Args:
        encoding: one of ``sensor_msgs/image_encodings.hpp``.
        height, width: in pixels.
        step: bytes per row, padding included.
        data: the bytes, any buffer.
        source: topic or camera, for the error message.

    Returns:
        (height, width, 3) uint8. For rgb8 it may share memory with ``data``: copy it before
        ``data`` changes.

    Raises:
        ImageError: unknown encoding, or fewer bytes than the size says.
    """
    try:
        channels, _ = COLOUR[encoding]
    except KeyError:
        cure = (
            "use it as a depth_topic"
            if encoding in _DEPTH
            else f"set the driver to one of {', '.join(COLOUR)}"
        )
        raise ImageError(
            f"{source}: encoding {encoding!r} is not a colour image that can be read; {cure}"
        ) from None
    rows = _rows(encoding, height, width, step, data, channels, source)
    return to_rgb(
        encoding,
        rows.reshape(height, width) if channels == 1 else rows.reshape(height, width, channels),
    )


def decode_depth(
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: Buffer,
    *,
    is_bigendian: bool = False,
    source: str = "depth",
) -> np.ndarray:
    """Decode a depth ``sensor_msgs/Image`` (along the optical axis): 32FC1 in metres or 16UC1 in
    millimetres.

    Returns:
        (height, width) float32 [m]; NaN where 16UC1 is 0 (no measurement). 32FC1 is returned
        unchanged.

    Raises:
        ImageError: unknown encoding, or fewer bytes than the size says.
    """
    try:
        dtype = _DEPTH[encoding]
    except KeyError:
        raise ImageError(
            f"{source}: encoding {encoding!r} is not depth; publish 32FC1 (metres) or 16UC1"
            " (millimetres)"
        ) from None
    rows = _rows(encoding, height, width, step, data, dtype.itemsize, source)
    values = np.ascontiguousarray(rows).view(dtype)
    if bool(is_bigendian) != (sys.byteorder == "big"):
        values = values.byteswap()
    if dtype == np.float32:
        return values
    metres = values.astype(np.float32) * np.float32(0.001)
    metres[values == 0] = np.nan
    return metres


def decode_compressed(format: str, data: Buffer, *, source: str = "image") -> np.ndarray:
    """Decode a ``sensor_msgs/CompressedImage`` (JPEG, PNG) to (H, W, 3) uint8 RGB.

    Raises:
        ImageError: depth transports, or bytes that are no image.
    """
    if "compressedDepth" in format or format.startswith(tuple(_DEPTH)):
        raise ImageError(
            f"{source}: format {format!r} is compressed depth; use it as a depth_topic"
        )
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if len(data) else None
    except cv2.error:  # for example a wrong size in a damaged header
        pixels = None
    if pixels is None:
        raise ImageError(
            f"{source}: {len(data)} bytes of format {format!r} are no JPEG or PNG image; check the"
            " camera driver"
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def decode_compressed_depth(format: str, data: Buffer, *, source: str = "depth") -> np.ndarray:
    """Decode the depth of a ``sensor_msgs/CompressedImage``: a 16-bit PNG in millimetres, or the
    transport ``compressedDepth``.

    That transport writes 12 bytes before its PNG. For 32FC1 the last 8 are float32 coefficients a
    and b: depth = a / (pixel - b) (``compressed_depth_image_transport``, ``codec.cpp``).

    Returns:
        (H, W) float32 [m]; NaN where nothing was measured.

    Raises:
        ImageError: another format, or bytes that are no such image.
    """
    flat = np.frombuffer(data, np.uint8)
    is_transport = "compressedDepth" in format
    if is_transport and "rvl" in format.lower():
        raise ImageError(
            f"{source}: format {format!r} is not read; record raw depth, or compressedDepth with"
            " format png"
        )
    image = flat[_DEPTH_HEADER:] if is_transport else flat
    try:
        pixels = cv2.imdecode(image, cv2.IMREAD_UNCHANGED) if len(image) else None
    except cv2.error:  # for example a wrong size in a damaged header
        pixels = None
    if pixels is None or pixels.ndim != 2 or pixels.dtype != np.uint16:
        what = (
            "no PNG image"
            if pixels is None
            else f"{pixels.dtype} in {1 if pixels.ndim == 2 else pixels.shape[2]} channels"
        )
        raise ImageError(
            f"{source}: {len(flat)} bytes of format {format!r} hold {what}; record depth as 16-bit"
            " PNG in millimetres"
        )
    if is_transport and format.startswith("32FC1"):
        quant_a, quant_b = flat[4:_DEPTH_HEADER].view(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            metres = quant_a / (pixels.astype(np.float32) - quant_b)
    else:
        metres = pixels.astype(np.float32) * np.float32(0.001)
    metres[pixels == 0] = np.nan
    return metres


def _rows(
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: Buffer,
    bytes_per_pixel: int,
    source: str,
) -> np.ndarray:
    """Return the bytes (height, width * bytes_per_pixel) without padding at the row ends."""
    used = width * bytes_per_pixel
    flat = np.frombuffer(data, np.uint8)
    if height <= 0 or width <= 0 or step < used or flat.size < step * (height - 1) + used:
        raise ImageError(
            f"{source}: {flat.size} bytes do not hold {width}x{height} {encoding} with step {step};"
            " check width, height and step in the driver"
        )
    if step == used:
        return flat[: height * used].reshape(height, used)
    return np.lib.stride_tricks.as_strided(flat, (height, used), (step, 1), writeable=False)
