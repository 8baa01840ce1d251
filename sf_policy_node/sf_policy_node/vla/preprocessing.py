"""Camera images to model input; training and the robot use the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np

Fit = Literal["crop", "letterbox", "stretch"]
"""crop: the centre square of the image. letterbox: the whole image between black bars. stretch: the
whole image, aspect ratio changed.
"""


def crop_square(image: np.ndarray) -> np.ndarray:
    """Return the largest centred square of an image (H, W, ...), as a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def prepare(
    images: Mapping[str, np.ndarray],
    camera_names: Sequence[str],
    size: int | tuple[int, int],
    fit: Fit = "crop",
) -> np.ndarray:
    """Fit images to the model's size and resize them by area averaging.

    Args:
        images: camera name to (H, W, 3) uint8 RGB.
        camera_names: cameras in the order of the contract.
        size: side of the result, or (height, width) [pixels].
        fit: how an image of another aspect ratio is fitted.

    Returns:
        (V, 3, height, width) uint8.

    Raises:
        ValueError: a camera is missing, or an image is not (H, W, 3) uint8.
    """
    height, width = (size, size) if isinstance(size, int) else size
    prepared = np.zeros((len(camera_names), 3, height, width), np.uint8)
    for index, name in enumerate(camera_names):
        image = images.get(name)
        if image is None:
            raise ValueError(f"camera {name}: no image; the policy needs {', '.join(camera_names)}")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"camera {name}: got {image.shape} {image.dtype}, needs (H, W, 3) uint8 RGB"
            )
        image = crop_square(image) if fit == "crop" else image
        rows, columns = fitted(image.shape[:2], (height, width), fit)
        shape = (columns.stop - columns.start, rows.stop - rows.start)
        prepared[index, :, rows, columns] = cv2.resize(
            image, shape, interpolation=cv2.INTER_AREA
        ).transpose(2, 0, 1)
    return prepared


def fitted(shape: tuple[int, int], size: tuple[int, int], fit: Fit) -> tuple[slice, slice]:
    """Return rows and columns of a prepared image (height, width) that show the original one."""
    if fit != "letterbox":
        return slice(0, size[0]), slice(0, size[1])
    scale = min(size[0] / shape[0], size[1] / shape[1])
    inner = [
        max(1, min(limit, round(side * scale))) for side, limit in zip(shape, size, strict=True)
    ]
    (top, rows), (left, columns) = [
        ((limit - side) // 2, side) for side, limit in zip(inner, size, strict=True)
    ]
    return slice(top, top + rows), slice(left, left + columns)


def image_area(shapes: Sequence[tuple[int, int]], size: tuple[int, int], fit: Fit) -> np.ndarray:
    """Return which pixels show the image, (V, height, width) bool: False in letterbox bars.

    Args:
        shapes: (height, width) of each camera.
        size: (height, width) of the prepared images.
    """
    area = np.zeros((len(shapes), *size), bool)
    for view, shape in zip(area, shapes, strict=True):
        view[fitted(shape, size, fit)] = True
    return area


def prepare_depth(depth: np.ndarray, size: int | tuple[int, int], fit: Fit = "crop") -> np.ndarray:
    """Fit depth (H, W) [m] as :func:`prepare` fits the colour image, by nearest neighbour.

    Returns:
        (height, width) float32; NaN in letterbox bars.
    """
    size = (size, size) if isinstance(size, int) else size
    depth = crop_square(depth) if fit == "crop" else depth
    rows, columns = fitted(depth.shape, size, fit)
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    prepared = np.full(size, np.nan, np.float32)
    prepared[rows, columns] = cv2.resize(depth, shape, interpolation=cv2.INTER_NEAREST)
    return prepared


def prepare_intrinsics(
    camera_matrix: np.ndarray,
    width: int,
    height: int,
    size: int | tuple[int, int],
    fit: Fit = "crop",
) -> np.ndarray:
    """Return the camera matrix K (3, 3) of the prepared image.

    Args:
        camera_matrix: K (3, 3) of the original image of ``width`` x ``height`` pixels.
        size, fit: as for :func:`prepare`.
    """
    size = (size, size) if isinstance(size, int) else size
    side = min(height, width)
    seen = (side, side) if fit == "crop" else (height, width)
    cut = np.array(
        [
            [1.0, 0.0, -((width - seen[1]) // 2)],
            [0.0, 1.0, -((height - seen[0]) // 2)],
            [0.0, 0.0, 1.0],
        ]
    )
    rows, columns = fitted(seen, size, fit)
    across, down = (columns.stop - columns.start) / seen[1], (rows.stop - rows.start) / seen[0]
    return (
        np.array([[across, 0.0, columns.start], [0.0, down, rows.start], [0.0, 0.0, 1.0]])
        @ cut
        @ camera_matrix
    )
