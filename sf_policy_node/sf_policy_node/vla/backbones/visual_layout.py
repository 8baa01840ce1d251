"""Where the visual tokens are in a model's sequence: what the hooks of Spatial Forcing need."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class VisualLayout:
    """Layout of the visual tokens: the same for every sample, because sequences have a fixed one.

    Attributes:
        blocks: transformer blocks of the language model.
        mask: (T,) bool, True for visual tokens: cameras in the contract's order, patches row by
            row.
        grid: rows and columns of the visual tokens of one camera.
        views: number of cameras.
        width: size of a hidden state.
    """

    blocks: nn.ModuleList
    mask: Tensor
    grid: tuple[int, int]
    views: int
    width: int
