"""What a frozen vision model must offer as a teacher."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn import functional


class Teacher(Protocol):
    """A frozen model that turns views of one moment into patch features.

    Attributes:
        description: the model in a few words.
        licence: of its weights, one line.
        identity: changes with everything that its features depend on.
        feature_size: channels C of a feature.
        pixels: of an image as the model sees it, at most.
    """

    description: str
    licence: str
    identity: str
    feature_size: int
    pixels: int

    def features(self, images: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """Features of each layer asked for, float32, without gradient.

        Args:
            images: (B, V, 3, H, W) in [0, 1], the main camera first.
            present: (B, V), False where a camera is missing: it is kept from the model, its
                features are zero.

        Returns:
            One (B, V, gh, gw, C) for each layer.
        """


def resize(images: Tensor, size: int, patch: int) -> Tensor:
    """(B, V, 3, H, W) with the longer side ``size`` and both whole patches, bicubic as in the
    paper's code.
    """
    height, width = images.shape[-2:]
    scale = size / max(height, width)
    target = tuple(max(1, round(side * scale / patch)) * patch for side in (height, width))
    if target == (height, width):
        return images
    flat = functional.interpolate(
        images.flatten(0, 1).float(), target, mode="bicubic", align_corners=False
    )
    return flat.unflatten(0, images.shape[:2])
