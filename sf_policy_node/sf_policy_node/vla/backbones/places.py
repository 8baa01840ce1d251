"""Where a model keeps its visual tokens: what Spatial Forcing's hooks need to know."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class VisualPlaces:
    """The same for every sample, because sequences have a fixed layout.

    ``mask`` marks the visual tokens in a sequence: cameras in the contract's order, patches row by
    row.
    """

    blocks: nn.ModuleList
    mask: Tensor  # (T,) bool
    grid: tuple[int, int]  # rows, columns of one view
    views: int
    width: int  # of a hidden state
