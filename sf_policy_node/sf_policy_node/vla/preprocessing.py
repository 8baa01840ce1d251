"""Camera images to model input: one code path for training and for the robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np


def crop_square(image: np.ndarray) -> np.ndarray:
    """The largest centred square of an image (H, W, ...), as a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def prepare(images: Mapping[str, np.ndarray], camera_names: Sequence[str], size: int) -> np.ndarray:
    """Crop to the centre square and shrink by area, camera by camera.

    Args:
        images: camera name to (H, W, 3) uint8 RGB.
        camera_names: cameras in the order of the contract.
        size: side of the result [pixels].

    Returns:
        (V, 3, size, size) uint8.

    Raises:
        ValueError: when a camera is missing or an image is not (H, W, 3) uint8.
    """
    prepared = np.empty((len(camera_names), 3, size, size), np.uint8)
    for index, name in enumerate(camera_names):
        image = images.get(name)
        if image is None:
            raise ValueError(f"camera {name}: no image; the policy needs {', '.join(camera_names)}")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"camera {name}: got {image.shape} {image.dtype}, needs (H, W, 3) uint8 RGB")
        prepared[index] = cv2.resize(crop_square(image), (size, size), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    return prepared


def prepare_depth(depth: np.ndarray, size: int) -> np.ndarray:
    """Depth (H, W) [m] over the same square, by nearest neighbour: (size, size) float32."""
    return cv2.resize(crop_square(depth), (size, size), interpolation=cv2.INTER_NEAREST)


def prepare_intrinsics(camera_matrix: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Camera matrix K (3, 3) of the prepared image, from that of the (width x height) original."""
    side = min(height, width)
    scale = size / side
    shift = np.array([[1.0, 0.0, -((width - side) // 2)], [0.0, 1.0, -((height - side) // 2)], [0.0, 0.0, 1.0]])
    return np.diag([scale, scale, 1.0]) @ shift @ camera_matrix
