"""Image input of each family: size, token grid, normalisation, tensor layout.

This is tensor code of this package instead of transformers' processors: several of those need
torchvision, and the same code must run in training and on the robot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

_HALF = (0.5, 0.5, 0.5)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_QWEN_SIDE = 224  # these models take any size; about that of the others

Order = Literal["views", "flat", "patches"]


@dataclass(frozen=True)
class Pixels:
    """Image input of one family.

    Attributes:
        size: (height, width) of an image [pixels].
        grid: rows and columns of the visual tokens of one image.
        order: tensor layout: ``views`` (B, V, 3, H, W), ``flat`` (B * V, 3, H, W) or ``patches``
            (see :func:`flat_patches`).
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF
    order: Order = "flat"
    before: tuple[str | int, ...] = ()
    """Tokens before each image: ids, or words that the tokenizer may know."""
    after: tuple[str | int, ...] = ()


def pixels_of(config: Any, size: tuple[int, int] | None = None) -> Pixels:
    """Return the image input of a transformers ``config``; unknown families are treated like LLaVA.

    Args:
        size: (height, width) of the images for models that take any size; None takes the model's
            own.

    Raises:
        ValueError: the size does not fit the model.
    """
    vision, family = config.vision_config, config.model_type
    if family.startswith("qwen"):
        cell = vision.patch_size * vision.spatial_merge_size
        size = size or (_QWEN_SIDE // cell * cell,) * 2
        mean, std = _CLIP if family.startswith("qwen2") else (_HALF, _HALF)
        fences = {"before": (config.vision_start_token_id,), "after": (config.vision_end_token_id,)}
        return Pixels(size, _grid(size, (cell, cell), family), mean, std, "patches", **fences)
    own, patch = _pair(vision.image_size), _pair(vision.patch_size)
    if family in ("smolvlm", "idefics3"):
        cell = tuple(side * config.scale_factor for side in patch)
        fence = "<fake_token_around_image>"
        return Pixels(
            size or own,
            _grid(size or own, cell, family),
            order="views",
            before=(fence, "<global-img>"),
            after=(fence,),
        )
    if size not in (None, own):
        raise ValueError(f"image size {size}: a {family} model with these weights takes {own}")
    if family == "gemma3":
        side = round(config.mm_tokens_per_image**0.5)
        return Pixels(
            own, (side, side), before=(config.boi_token_id,), after=(config.eoi_token_id,)
        )
    if family == "internvl":
        cell = tuple(round(side / config.downsample_ratio) for side in patch)
        return Pixels(
            own, _grid(own, cell, family), *_IMAGENET, before=("<img>",), after=("</img>",)
        )
    mean, std = (_HALF, _HALF) if family == "paligemma" or "siglip" in vision.model_type else _CLIP
    return Pixels(own, _grid(own, patch, family), mean, std)


def flat_patches(images: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Cut images (N, 3, H, W) into patches for the Qwen families.

    Returns:
        (N * patches, 3 * frames * patch^2); patches of a merge x merge block follow each other.
    """
    count, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cut = images.reshape(
        count, channels, rows // merge, merge, patch, columns // merge, merge, patch
    )
    # One image is a video of equal frames.
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    cut = cut.expand(*cut.shape[:6], frames, *cut.shape[7:])
    return cut.reshape(count * rows * columns, channels * frames * patch * patch)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _grid(size: tuple[int, int], cell: tuple[int, int], family: str) -> tuple[int, int]:
    if size[0] % cell[0] or size[1] % cell[1]:
        raise ValueError(
            f"image size {size}: {family} needs multiples of {cell[0]} x {cell[1]} pixels"
        )
    return size[0] // cell[0], size[1] // cell[1]
