"""Camera images to model input: one code path for training and for the robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np

Fit = Literal["crop", "letterbox", "stretch"]
"""crop: the centre square of the picture. letterbox: all of it, black bars beside. stretch: all of it, out of shape."""


def crop_square(image: np.ndarray) -> np.ndarray:
    """The largest centred square of an image (H, W, ...), as a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def prepare(images: Mapping[str, np.ndarray], camera_names: Sequence[str], size: int | tuple[int, int], fit: Fit = "crop") -> np.ndarray:
    """Fit and shrink by area, camera by camera.

    Args:
        images: camera name to (H, W, 3) uint8 RGB.
        camera_names: cameras in the order of the contract.
        size: side of the result, or (height, width) [pixels].
        fit: how a picture of another shape is fitted.

    Returns:
        (V, 3, height, width) uint8.

    Raises:
        ValueError: when a camera is missing or an image is not (H, W, 3) uint8.
    """
    height, width = (size, size) if isinstance(size, int) else size
    prepared = np.zeros((len(camera_names), 3, height, width), np.uint8)
    for index, name in enumerate(camera_names):
        image = images.get(name)
        if image is None:
            raise ValueError(f"camera {name}: no image; the policy needs {', '.join(camera_names)}")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"camera {name}: got {image.shape} {image.dtype}, needs (H, W, 3) uint8 RGB")
        image = crop_square(image) if fit == "crop" else image
        rows, columns = fitted(image.shape[:2], (height, width), fit)
        shape = (columns.stop - columns.start, rows.stop - rows.start)
        prepared[index, :, rows, columns] = cv2.resize(image, shape, interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    return prepared


def fitted(shape: tuple[int, int], size: tuple[int, int], fit: Fit) -> tuple[slice, slice]:
    """Rows and columns of a prepared picture (height, width) that hold the picture of ``shape``; beside them are bars."""
    if fit != "letterbox":
        return slice(0, size[0]), slice(0, size[1])
    scale = min(size[0] / shape[0], size[1] / shape[1])
    inner = [max(1, min(whole, round(side * scale))) for side, whole in zip(shape, size, strict=True)]
    (top, rows), (left, columns) = [((whole - side) // 2, side) for side, whole in zip(inner, size, strict=True)]
    return slice(top, top + rows), slice(left, left + columns)


def picture_area(shapes: Sequence[tuple[int, int]], size: tuple[int, int], fit: Fit) -> np.ndarray:
    """Where prepared pictures show something, (V, height, width) bool: False in the bars of a letterbox.

    Args:
        shapes: (height, width) of each camera.
    """
    area = np.zeros((len(shapes), *size), bool)
    for view, shape in zip(area, shapes, strict=True):
        view[fitted(shape, size, fit)] = True
    return area


def prepare_depth(depth: np.ndarray, size: int) -> np.ndarray:
    """Depth (H, W) [m] over the same square, by nearest neighbour: (size, size) float32."""
    return cv2.resize(crop_square(depth), (size, size), interpolation=cv2.INTER_NEAREST)


def prepare_intrinsics(camera_matrix: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Camera matrix K (3, 3) of the prepared image, from that of the (width x height) original."""
    side = min(height, width)
    scale = size / side
    shift = np.array([[1.0, 0.0, -((width - side) // 2)], [0.0, 1.0, -((height - side) // 2)], [0.0, 0.0, 1.0]])
    return np.diag([scale, scale, 1.0]) @ shift @ camera_matrix
