"""Image augmentation in training, with the ranges of OpenVLA-OFT and of openpi.

Each image of each camera has its own random numbers. They depend on seed and step alone, so a
resumed run, several processes and gradient accumulation see the same images. OpenVLA-OFT (through
dlimp) seeds all operations with one number, which couples them; here they are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

AugmentationName = Literal["none", "openvla", "openvla_colour", "openpi", "openpi_colour"]
_DRAWS = 7  # of an image: position of the crop (2), rotation, brightness, contrast, saturation, hue
_STREAM = 1  # distinguishes these numbers from others of the same seed and step


@dataclass(frozen=True)
class _Ranges:
    crop: float  # side of the crop as a share of the image's; 1: none
    rotation: float = 0.0  # at most, either way [degrees]
    brightness: float = 0.2  # added (openvla), or a factor 1 +- this (openpi)
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0  # of the whole circle


_OPENVLA = _Ranges(crop=0.9**0.5, hue=0.05)  # 90 % of the area
_OPENPI = _Ranges(crop=0.95, rotation=5.0, brightness=0.3, contrast=0.4, saturation=0.5)


class Augmentation:
    """Augments the images of a batch.

    Args:
        name: whose ranges; ``..._colour`` leaves crop and rotation out.
        seed: of the run.
        camera_names: openpi crops and rotates no camera whose name contains ``wrist``.

    Attributes:
        geometric: whether images are cropped.
    """

    def __init__(self, name: AugmentationName, seed: int, camera_names: Sequence[str]) -> None:
        self._openpi = name.startswith("openpi")
        self._ranges = _OPENPI if self._openpi else _OPENVLA
        self.geometric = name in ("openvla", "openpi")
        self._seed = seed
        moved = [
            self.geometric and not (self._openpi and "wrist" in camera) for camera in camera_names
        ]
        self._moved = torch.tensor(moved)

    def draw(self, step: int, frames: int) -> Tensor:
        """Draw uniform numbers (frames, V, 7) in [0, 1) for a batch.

        On the processor, so that every device gets the same numbers.
        """
        generator = torch.Generator().manual_seed(mixed_seed(self._seed, step, _STREAM))
        return torch.rand(frames, len(self._moved), _DRAWS, generator=generator)

    def apply(self, images: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augment images.

        Args:
            images: (F, V, 3, H, W) uint8.
            draws: numbers of these frames (F, V, 7) from :meth:`draw`.

        Returns:
            Images of the student and of the teacher, each (F, V, 3, H, W) float32 in [0, 255]. Both
            have the same crop. With openpi's ranges only the student's colours change; with
            OpenVLA's the teacher sees the student's images.
        """
        flat, draws = images.flatten(0, 1).float() / 255.0, draws.flatten(0, 1).to(images.device)
        moved = self._moved.to(images.device).repeat(len(images))
        if self.geometric and moved.any():
            flat = torch.where(moved[:, None, None, None], self._move(flat, draws), flat)
        coloured = self._colour(flat, draws[:, 3:])
        shape = images.shape[:2]
        student, teacher = (
            255.0 * each.unflatten(0, shape)
            for each in (coloured, flat if self._openpi else coloured)
        )
        return student, teacher

    def _move(self, images: Tensor, draws: Tensor) -> Tensor:
        side = self._ranges.crop
        if not self._openpi:
            return _crop_and_resize(images, side, draws[:, :2])
        height, width = images.shape[-2:]
        sizes = torch.tensor([int(height * side), int(width * side)], device=images.device)
        free = torch.tensor([height, width], device=images.device) - sizes
        images = _crop_pixels(images, (draws[:, :2] * (free + 1)).floor().clamp(max=free), sizes)
        angle = (2.0 * draws[:, 2] - 1.0) * self._ranges.rotation
        return torch.where(
            (angle.abs() > 0.1)[:, None, None, None], _rotate(images, torch.deg2rad(angle)), images
        )

    def _colour(self, images: Tensor, draws: Tensor) -> Tensor:
        ranges = self._ranges
        spread = (2.0 * draws - 1.0)[:, :, None, None, None]
        brightness, contrast, saturation = (
            spread[:, index] * size
            for index, size in enumerate((ranges.brightness, ranges.contrast, ranges.saturation))
        )
        if self._openpi:
            images = images * (1.0 + brightness)
            mean = images.mean((1, 2, 3), keepdim=True)
            images = (images - mean) * (1.0 + contrast) + mean
            grey = images.mean(1, keepdim=True)
            return (grey + (images - grey) * (1.0 + saturation)).clamp(0, 1)
        images = (images + brightness).clamp(0, 1)
        mean = images.mean((2, 3), keepdim=True)
        images = ((images - mean) * (1.0 + contrast) + mean).clamp(0, 1)
        hue, chroma, value = _to_hsv(images)
        hue = (hue + spread[:, 3, 0] * ranges.hue) % 1.0
        return _from_hsv(hue, (chroma * (1.0 + saturation[:, 0])).clamp(0, 1), value)


def mixed_seed(*parts: int) -> int:
    """Mix numbers into a seed of 32 bits.

    torch's generator on the processor ignores all bits above.
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _crop_and_resize(images: Tensor, side: float, offsets: Tensor) -> Tensor:
    """Crop and resize to the full size, as TensorFlow's ``crop_and_resize``.

    The first and last samples lie on the corners of the crop.

    Args:
        side: side of the crop as a share of the image's.
        offsets: (N, 2) position (down, across) of the crop, as a share of the free range.
    """
    height, width = images.shape[-2:]
    begin = offsets * (1.0 - side)  # of the box, as a share of the image
    down, across = (
        2.0 * (begin[:, axis, None] + side * torch.linspace(0, 1, count, device=images.device))
        - 1.0
        for axis, count in ((0, height), (1, width))
    )
    grid = torch.stack(
        [across[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], -1
    )
    return functional.grid_sample(images, grid, mode="bilinear", align_corners=True)


def _crop_pixels(images: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """Crop and resize to the full size, as torch's ``interpolate`` without aligned corners.

    Args:
        begin: (N, 2) first pixel (down, across) of the crop.
        size: (2,) height and width of the crop [pixels].
    """
    height, width = images.shape[-2:]
    coordinates = []
    for axis, count in ((0, height), (1, width)):
        inside = (torch.arange(count, device=images.device) + 0.5) * size[axis] / count - 0.5
        pixels = begin[:, axis, None] + torch.minimum(inside.clamp(min=0), size[axis] - 1)
        coordinates.append(2.0 * pixels / (count - 1) - 1.0)
    grid = torch.stack(
        [
            coordinates[1][:, None, :].expand(-1, height, -1),
            coordinates[0][:, :, None].expand(-1, -1, width),
        ],
        -1,
    )
    return functional.grid_sample(images, grid, mode="bilinear", align_corners=True)


def _rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate images by angles (N,) [rad]; black outside the image."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=images.device),
        torch.linspace(-1, 1, width, device=images.device),
        indexing="ij",
    )
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    grid = torch.stack([x * cos - y * sin, x * sin + y * cos], -1)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue, saturation and value (N, H, W) in [0, 1] of RGB images (N, 3, H, W)."""
    value, brightest = images.max(1)
    spread = value - images.amin(1)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    red, green, blue = images.unbind(1)
    hues = torch.stack(
        [(green - blue) / safe % 6.0, (blue - red) / safe + 2.0, (red - green) / safe + 4.0], 1
    )
    hue = hues.gather(1, brightest[:, None])[:, 0] / 6.0
    saturation = spread / torch.where(value > 0, value, torch.ones_like(value))
    return torch.where(spread > 0, hue, torch.zeros_like(hue)), saturation, value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return RGB images (N, 3, H, W) from hue, saturation and value (N, H, W)."""
    channels = []
    for shift in (5.0, 3.0, 1.0):
        k = (shift + 6.0 * hue) % 6.0
        channels.append(value - value * saturation * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels, 1)
