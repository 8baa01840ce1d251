"""Sources of alignment targets: the ``pointmap`` teacher and its controls.

A result about Spatial Forcing is reported only beside its controls:

* ``pointmap``: points in the robot's base frame, from depth and camera pose. Depends on the image,
  contains geometry.
* ``rgb``: patch colours in the same encoding. Depends on the image, contains no geometry.
* ``mean``: pointmap features averaged over the data, patch by patch. Layout of the view, no image.
* ``random``: a fixed random code for each patch. Neither.

The frozen vision models ``vggt``, ``da3`` and ``hf`` and their controls are in
``vision_targets.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import psutil
import torch
from torch.nn import functional

TeacherName = Literal["none", "pointmap", "mean", "random", "rgb", "vggt", "da3", "hf"]
TEACHERS = get_args(TeacherName)
DEPTH_TEACHERS = ("pointmap", "mean")
FEATURE_SIZE = 96
Patch = int | tuple[int, int]
_SUB_CELLS = 2  # along one side of a patch: position inside the patch
_OCTAVES = 4
_POINT_CENTRE = np.array([0.3, 0.0, 0.1], np.float32)  # centre of the usual workspace [m]
_POINT_SCALE = 0.5  # m
_POINT_BOX = (np.array([-0.4, -0.7, -0.4], np.float32), np.array([1.0, 0.7, 0.6], np.float32))
_DEPTH_MAX = 1.6  # m
_PROJECTION_SEED = 1234
_CODE_SEED = 7
_FRAMES_AT_ONCE = 512


class TeacherError(ValueError):
    """A teacher cannot be used, or lacks its input; the message says why."""


@dataclass(frozen=True)
class View:
    """Geometry of one camera's prepared images, frame by frame.

    Attributes:
        intrinsics: (F, 3, 3) [pixels of the prepared image].
        rotation: (F, 3, 3) of the optical frame in the base frame.
        position: (F, 3) [m] of the optical frame in the base frame.
    """

    intrinsics: np.ndarray
    rotation: np.ndarray
    position: np.ndarray


def points_from_depth(depth: np.ndarray, view: View) -> np.ndarray:
    """Return points (F, H, W, 3) in the base frame [m] from depth (F, H, W) [m].

    p = R [(u - c_x) z / f_x, (v - c_y) z / f_y, z] + t for the pixel centre (u, v) with depth z,
    focal lengths f and principal point c [pixels], rotation R and position t of the view. Pixels
    with depth 0 map to the camera's position.
    """
    rows, columns = (np.arange(side, dtype=np.float32) + 0.5 for side in depth.shape[1:])
    focal, centre = view.intrinsics[:, [0, 1], [0, 1]], view.intrinsics[:, :2, 2]
    x = (columns[None, None, :] - centre[:, 0, None, None]) / focal[:, 0, None, None] * depth
    y = (rows[None, :, None] - centre[:, 1, None, None]) / focal[:, 1, None, None] * depth
    camera = np.stack(
        [np.broadcast_to(x, depth.shape), np.broadcast_to(y, depth.shape), depth], -1
    ).astype(np.float32)
    return np.einsum("fhwc,fdc->fhwd", camera, view.rotation.astype(np.float32)) + view.position[
        :, None, None
    ].astype(np.float32)


def pointmap_features(depth: np.ndarray, view: View, patch: Patch) -> np.ndarray:
    """Return features (F, gh, gw, C) of one camera's depth (F, H, W) [m]; patch in pixels."""
    depth = np.clip(np.nan_to_num(depth.astype(np.float32)), 0.0, _DEPTH_MAX)
    points = np.clip(points_from_depth(depth, view), *_POINT_BOX)
    return _encode((points - _POINT_CENTRE) / _POINT_SCALE, patch)


def rgb_features(images: np.ndarray, patch: Patch, width: int = FEATURE_SIZE) -> np.ndarray:
    """Return features (F, gh, gw, width) of one camera's colours (F, 3, H, W) uint8.

    They are encoded as points are.
    """
    return _encode(images.transpose(0, 2, 3, 1).astype(np.float32) / 127.5 - 1.0, patch, width)


def random_code(cameras: int, grid: tuple[int, int], width: int = FEATURE_SIZE) -> np.ndarray:
    """Return a fixed code for each patch, (1, V, rows, columns, width) float16."""
    return (
        np.random.default_rng(_CODE_SEED).normal(size=(1, cameras, *grid, width)).astype(np.float16)
    )


def standardise(features: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
    """Scale to zero mean and unit variance per channel over all frames, views and patches.

    Without it all targets would have a similar direction, and the cosine would be high for any
    student.

    Args:
        features: (F, V, ..., C).
        present: (F, V), False where a camera is missing: it does not count, and its result is zero.
            None: no camera is missing.
    """
    if present is not None:
        found = np.zeros(features.shape, np.float16)
        found[present] = standardise(features[present])
        return found
    axes = tuple(range(features.ndim - 1))
    centre = features.mean(axes, dtype=np.float64)
    # In parts: a float64 copy of all features may not fit into memory.
    parts = [
        slice(start, start + _FRAMES_AT_ONCE) for start in range(0, len(features), _FRAMES_AT_ONCE)
    ]
    spread = (
        np.sqrt(
            sum(np.square(features[part] - centre).sum(axes) for part in parts)
            / (features.size // features.shape[-1])
        )
        + 1e-4
    )
    found = np.empty(features.shape, np.float16)
    for part in parts:
        found[part] = (features[part] - centre) / spread
    return found


def build_targets(
    teacher: TeacherName,
    images: np.ndarray,
    depth: np.ndarray | None,
    views: list[View],
    patch: Patch,
    present: np.ndarray | None = None,
) -> np.ndarray:
    """Return targets (F, V, gh, gw, C) float16 for a data set.

    Args:
        images: (F, V, 3, H, W) uint8: an array, or an object with ``images[indices]``.
        depth: (F, V, H, W) [m], as ``images``; None where not recorded.
        patch: height and width of a patch, or the side of a square one [pixels]; pixels beyond the
            last full patch are left out.
        present: (F, V), False where a camera is missing; None: no camera is missing.

    Raises:
        TeacherError: a teacher needs depth and there is none, or the targets do not fit into
            memory.
    """
    frames, cameras = images.shape[:2]
    rows, columns = _sides(patch)
    grid = (images.shape[-2] // rows, images.shape[-1] // columns)
    if teacher == "random":
        code = random_code(cameras, grid)
        return np.broadcast_to(code, (frames, *code.shape[1:]))
    needed, free = (
        6 * frames * cameras * grid[0] * grid[1] * FEATURE_SIZE,
        psutil.virtual_memory().available,
    )
    if needed > free:
        raise TeacherError(
            f"teacher {teacher}: its targets for {frames} frames take {needed / 1e9:.1f} GB of"
            f" memory, {free / 1e9:.1f} GB are free; take fewer episodes, vggt, da3 or hf,"
            " whose features are cached on disk, or teacher none"
        )
    if teacher == "rgb":
        return standardise(
            _features(
                frames, cameras, grid, lambda part, view: rgb_features(images[part][:, view], patch)
            ),
            present,
        )
    if depth is None:
        raise TeacherError(
            f"teacher {teacher}: the data hold no depth; record depth, or take teacher none or rgb"
        )

    def pointmap(part: np.ndarray, view: int) -> np.ndarray:
        return pointmap_features(depth[part][:, view], _of_frames(views[view], part), patch)

    targets = standardise(_features(frames, cameras, grid, pointmap), present)
    if teacher == "mean":  # zeros of a missing camera change the length alone, not the direction
        mean = targets.mean(0, keepdims=True, dtype=np.float32).astype(np.float16)
        return np.broadcast_to(mean, targets.shape)
    return targets


def _encode(values: np.ndarray, patch: Patch, size: int = FEATURE_SIZE) -> np.ndarray:
    """Encode (F, H, W, 3) to (F, gh, gw, size): Fourier features and a random projection.

    With the means m (12,) of 2 x 2 sub-cells: [m, sin(pi 2^k m), cos(pi 2^k m)] for k = 0 ... 3,
    times a fixed Gaussian matrix.
    """
    rows, columns = (
        side // step for side, step in zip(values.shape[1:3], _sides(patch), strict=True)
    )
    pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(0, 3, 1, 2)
    # Adaptive, because the side of a patch may be odd.
    cells = functional.adaptive_avg_pool2d(
        pixels, (rows * _SUB_CELLS, columns * _SUB_CELLS)
    ).numpy()
    cells = cells.reshape(-1, 3, rows, _SUB_CELLS, columns, _SUB_CELLS)
    means = cells.transpose(0, 2, 4, 3, 5, 1).reshape(-1, rows, columns, 3 * _SUB_CELLS**2)
    waves = [
        wave(means * np.float32(np.pi * 2**octave))
        for octave in range(_OCTAVES)
        for wave in (np.sin, np.cos)
    ]
    code = np.concatenate([means, *waves], -1)
    width = code.shape[-1]
    projection = (
        np.random.default_rng(_PROJECTION_SEED)
        .normal(0.0, width**-0.5, (width, size))
        .astype(np.float32)
    )
    return code @ projection


def _sides(patch: Patch) -> tuple[int, int]:
    return (patch, patch) if isinstance(patch, int) else patch


def _of_frames(view: View, frames: np.ndarray) -> View:
    return View(view.intrinsics[frames], view.rotation[frames], view.position[frames])


def _features(
    frames: int,
    cameras: int,
    grid: tuple[int, int],
    compute: Callable[[np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """Return (F, V, rows, columns, C) float32 of ``compute(frames, view)``.

    It is called for some frames at a time.
    """
    found = np.empty((frames, cameras, *grid, FEATURE_SIZE), np.float32)
    for start in range(0, frames, _FRAMES_AT_ONCE):
        part = np.arange(start, min(start + _FRAMES_AT_ONCE, frames))
        for view in range(cameras):
            found[part, view] = compute(part, view)
    return found
