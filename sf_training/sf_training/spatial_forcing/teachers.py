"""Where alignment targets come from: the ``pointmap`` teacher and its controls.

A result about Spatial Forcing is reported only beside its controls:

* ``pointmap``: points in the robot's base frame, from depth and camera pose. Depends on the image,
  holds geometry.
* ``rgb``: patch colours through the same code and projection. Depends on the image, holds no
  geometry.
* ``mean``: the pointmap features averaged over the data, patch by patch. Layout of the view, no
  image.
* ``random``: a fixed random code per patch. Neither.

The frozen vision models ``vggt`` and ``hf`` and their controls are in ``vision_targets.py``.
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
FEATURE_SIZE = 96
Patch = int | tuple[int, int]
_SUB_CELLS = 2  # along one side of a patch: where inside the patch things are
_OCTAVES = 4
_POINT_CENTRE = np.array([0.3, 0.0, 0.1], np.float32)  # m: the middle of what the cameras see
_POINT_SCALE = 0.5  # m
_POINT_BOX = (np.array([-0.4, -0.7, -0.4], np.float32), np.array([1.0, 0.7, 0.6], np.float32))
_DEPTH_MAX = 1.6  # m
_PROJECTION_SEED = 1234
_CODE_SEED = 7
_PART = 512  # frames that are computed at once


class TeacherError(ValueError):
    """A teacher lacks what it needs; the message says what."""


@dataclass(frozen=True)
class View:
    """Geometry of the prepared images of one camera, frame by frame.

    ``intrinsics`` (F, 3, 3) [pixels of the prepared image]; ``rotation`` (F, 3, 3) and ``position``
    (F, 3) [m] of the optical frame in the base frame.
    """

    intrinsics: np.ndarray
    rotation: np.ndarray
    position: np.ndarray


def points_from_depth(depth: np.ndarray, view: View) -> np.ndarray:
    """Points (F, H, W, 3) in the base frame [m] from depth (F, H, W) [m]; pixels without depth lie
    at the camera.
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
    """Features (F, gh, gw, C) of one camera from its depth (F, H, W) [m]; patch is in pixels."""
    depth = np.clip(np.nan_to_num(depth.astype(np.float32)), 0.0, _DEPTH_MAX)
    points = np.clip(points_from_depth(depth, view), *_POINT_BOX)
    return _encode((points - _POINT_CENTRE) / _POINT_SCALE, patch)


def rgb_features(images: np.ndarray, patch: Patch, width: int = FEATURE_SIZE) -> np.ndarray:
    """Features (F, gh, gw, width) of one camera from its colours (F, 3, H, W) uint8, coded exactly
    as points are.
    """
    return _encode(images.transpose(0, 2, 3, 1).astype(np.float32) / 127.5 - 1.0, patch, width)


def random_code(cameras: int, grid: tuple[int, int], width: int = FEATURE_SIZE) -> np.ndarray:
    """A fixed code for each patch, (1, V, rows, columns, width) float16."""
    return (
        np.random.default_rng(_CODE_SEED).normal(size=(1, cameras, *grid, width)).astype(np.float16)
    )


def standardise(features: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance per channel over all frames, views and patches. Cosine needs it:
    else all targets look alike.
    """
    axes = tuple(range(features.ndim - 1))
    centre = features.mean(axes, dtype=np.float64)
    parts = [
        slice(start, start + _PART) for start in range(0, len(features), _PART)
    ]  # a copy of all in float64 may not fit
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
) -> np.ndarray:
    """Targets (F, V, gh, gw, C) float16 for a whole data set.

    Args:
        images: (F, V, 3, H, W) uint8; depth: (F, V, H, W) [m]. Arrays, or anything that gives
            ``images[indices]``.
        patch: height and width of a patch, or the side of a square one [pixels]; pixels beyond the
            last whole patch are left out.

    Raises:
        TeacherError: for a teacher that needs depth when there is none, and where the targets do
            not fit into memory.
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
            f" memory, {free / 1e9:.1f} GB are free; take fewer episodes, vggt or hf, whose"
            " features lie on the disk, or teacher none"
        )
    if teacher == "rgb":
        return standardise(
            _features(
                frames, cameras, grid, lambda part, view: rgb_features(images[part][:, view], patch)
            )
        )
    if depth is None:
        raise TeacherError(
            f"teacher {teacher}: the data hold no depth; record depth, or take teacher none or rgb"
        )

    def pointmap(part: np.ndarray, view: int) -> np.ndarray:
        return pointmap_features(depth[part][:, view], _of_frames(views[view], part), patch)

    targets = standardise(_features(frames, cameras, grid, pointmap))
    if teacher == "mean":
        mean = targets.mean(0, keepdims=True, dtype=np.float32).astype(np.float16)
        return np.broadcast_to(mean, targets.shape)
    return targets


def _encode(values: np.ndarray, patch: Patch, size: int = FEATURE_SIZE) -> np.ndarray:
    """Average over sub-cells, Fourier features, fixed random projection: (F, H, W, 3) to (F, gh,
    gw, size).
    """
    rows, columns = (
        side // one for side, one in zip(values.shape[1:3], _sides(patch), strict=True)
    )
    pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(0, 3, 1, 2)
    cells = functional.adaptive_avg_pool2d(
        pixels, (rows * _SUB_CELLS, columns * _SUB_CELLS)
    ).numpy()  # a patch may be odd
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
    """(F, V, rows, columns, C) float32 from ``compute(frames, view)``, part by part."""
    found = np.empty((frames, cameras, *grid, FEATURE_SIZE), np.float32)
    for start in range(0, frames, _PART):
        part = np.arange(start, min(start + _PART, frames))
        for view in range(cameras):
            found[part, view] = compute(part, view)
    return found
