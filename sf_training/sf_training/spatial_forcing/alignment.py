"""Spatial Forcing's loss (arXiv 2510.12276): intermediate visual tokens are drawn towards features of a frozen 3D teacher.

Used in training only. The policy that runs on the robot holds neither projector nor teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of the loss, named as in the paper's code."""

    layer: int = 2
    """Blocks after which the student's visual tokens are read; 0 reads the embeddings."""
    coefficient: float = 0.5
    """alpha: weight of the alignment loss beside the action loss."""
    norm: Literal["layer", "batch", "none"] = "layer"
    """On the student's tokens, before the projector: the paper writes batch, its code has layer."""
    position_scale: float = 0.1
    """Size of the positional embedding added to the teacher's features; 0 adds none."""


class Projector(nn.Module):
    """Norm, Linear, GELU, Linear: student width to teacher width, Xavier-uniform with zero bias."""

    def __init__(self, student: int, teacher: int, norm: Literal["layer", "batch", "none"] = "layer") -> None:
        super().__init__()
        self.norm = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "none": nn.Identity}[norm](student)
        self.hidden = nn.Linear(student, teacher)
        self.out = nn.Linear(teacher, teacher)
        for linear in (self.hidden, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, student) to (B, N, teacher)."""
        flat = self.norm(tokens.flatten(0, 1))
        return self.out(functional.gelu(self.hidden(flat))).unflatten(0, tokens.shape[:2])


def alignment_loss(student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over samples of the mean over tokens of 1 - cosine.

    Args:
        student: projected tokens (B, N, C).
        target: teacher features (B, N, C); no gradient flows into them.
        mask: (B, N), True where a token counts. A sample without any counts as zero.
    """
    distance = 1.0 - functional.cosine_similarity(student.float(), target.detach().float(), dim=-1)
    if mask is None:
        return distance.mean()
    weight = mask.to(distance.dtype)
    return ((distance * weight).sum(1) / weight.sum(1).clamp(min=1.0)).mean()


def position_embedding(rows: int, columns: int, width: int, aspect: float = 1.0) -> Tensor:
    """Fixed sine and cosine code of a patch grid, (rows, columns, width), as VGGT's dense head uses it.

    Coordinates span the image scaled by its diagonal; half of the channels code x, half y, each as
    sines then cosines of frequencies 100^(-k / (width / 4)).

    Args:
        aspect: image width over height.

    Raises:
        ValueError: when ``width`` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"position embedding: width {width} must be a multiple of 4")
    diagonal = (aspect**2 + 1) ** 0.5
    x = torch.linspace(-1, 1, columns, dtype=torch.float64) * (aspect / diagonal) * (columns - 1) / columns
    y = torch.linspace(-1, 1, rows, dtype=torch.float64) * (1 / diagonal) * (rows - 1) / rows
    frequency = 100.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def code(values: Tensor) -> Tensor:
        angle = values[..., None] * frequency
        return torch.cat([angle.sin(), angle.cos()], -1)

    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.cat([code(grid_x), code(grid_y)], -1).float()


def prepare_target(features: Tensor, grid: int, position_scale: float) -> Tensor:
    """Teacher features as alignment targets: positional embedding added, then resized to the student's grid.

    Args:
        features: (B, V, gh, gw, C).
        grid: patches along one side of the student's images.

    Returns:
        (B, V * grid^2, C), cameras in order, patches row by row.
    """
    batch, views, rows, columns, width = features.shape
    if position_scale:
        features = features + position_scale * position_embedding(rows, columns, width).to(features)
    if (rows, columns) != (grid, grid):
        flat = features.flatten(0, 1).permute(0, 3, 1, 2)
        flat = functional.interpolate(flat, (grid, grid), mode="bilinear", align_corners=True)
        features = flat.permute(0, 2, 3, 1).unflatten(0, (batch, views))
    return features.reshape(batch, views * grid * grid, width)
