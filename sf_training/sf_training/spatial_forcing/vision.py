"""The interface of a frozen vision model as a teacher, and what the teachers have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from sf_training.spatial_forcing.teachers import TeacherError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Teacher(Protocol):
    """A frozen model that maps simultaneous views to patch features.

    Attributes:
        description: the model in a few words.
        licence: of its weights, one line.
        identity: changes with everything that its features depend on.
        feature_size: channels C of a feature.
        pixels: maximum number of pixels of one of its input images.
    """

    description: str
    licence: str
    identity: str
    feature_size: int
    pixels: int

    def features(self, images: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the features of each requested layer, float32, without gradient.

        Args:
            images: (B, V, 3, H, W) in [0, 1], the main camera first.
            present: (B, V), False where a camera is missing: the model does not see it, its
                features are zero.

        Returns:
            (B, V, gh, gw, C) for each layer.
        """


def resize(images: Tensor, size: int, patch: int) -> Tensor:
    """Resize (B, V, 3, H, W) bicubically, as in the paper's code.

    The longer side becomes ``size``, both sides multiples of ``patch`` [pixels].
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


def features_by_cameras(
    run: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, present: Tensor | None
) -> tuple[Tensor, ...]:
    """Run a teacher once for each set of present cameras; a missing camera is left out.

    Otherwise the teacher would see a missing camera as a view.

    Args:
        run: maps images (b, v, 3, H, W) to features (b, v, gh, gw, C) of each layer.
        images: (B, V, 3, H, W).
        present: (B, V), False where a camera is missing; None: no camera is missing.

    Returns:
        (B, V, gh, gw, C) for each layer; zero where a camera is missing.
    """
    if present is None or bool(present.all()):
        return run(images)
    features: tuple[Tensor, ...] = ()
    for pattern in present.unique(dim=0):
        if not pattern.any():
            continue
        samples = (present == pattern).all(1).nonzero()[:, 0]
        views = pattern.nonzero()[:, 0]
        found = run(images[samples][:, views])
        if not features:
            features = tuple(
                layer.new_zeros(*images.shape[:2], *layer.shape[2:]) for layer in found
            )
        for layer, values in zip(features, found, strict=True):
            layer[samples[:, None], views] = values
    if not features:  # no sample has a camera: one run gives the shapes
        features = tuple(
            layer.new_zeros(*images.shape[:2], *layer.shape[2:]) for layer in run(images[:1])
        )
    return features


def layer_indices(layers: Sequence[int], count: int, source: str) -> tuple[int, ...]:
    """Return layers as indices from 0; negative ones count from the end.

    Args:
        count: number of layers of the model.
        source: name of the weights, for the message.

    Raises:
        TeacherError: there is no such layer, or none is named.
    """
    outside = [layer for layer in layers if not -count <= layer < count]
    if outside or not layers:
        raise TeacherError(
            f"{source}: layer {outside[0] if outside else 'none'}: this model has {count} layers,"
            f" {-count} to {count - 1}"
        )
    return tuple(layer % count for layer in layers)
