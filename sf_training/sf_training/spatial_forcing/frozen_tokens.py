"""Visual tokens of a frozen policy, and those of the controls of a depth probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sf_policy_node.vla.backbones.hf import HfVla
from sf_policy_node.vla.normalisation import Normalisation
from sf_policy_node.vla.text import text_encoder
from sf_training.spatial_forcing.student_tokens import StudentTokens, visual_tokens

_BATCH = 64  # frames
_RGB_SIDE = 16  # maximum side of a patch [pixels]; larger ones are averaged


@torch.no_grad()
def frozen_tokens(
    model: Any,
    layer: int,
    images: np.ndarray,
    states: torch.Tensor,
    texts: torch.Tensor,
    progress: Callable[[int], None] = lambda frames: None,
) -> np.ndarray:
    """Return visual tokens (F, V, rows, columns, D) float32 after ``layer`` blocks.

    Args:
        model: a ``Nano``, ``HfVla``, ``Pi0`` or ``OpenVlaOft``, on its device.
        images: (F, V, 3, H, W) uint8, prepared for the model.
        states: (F, N), normalised.
        texts: (F, ...) text input of the model.
        progress: called with the number of frames done.

    Raises:
        StudentTokensError: the model has no such layer.
    """
    layout = model.visual_layout()
    tokens = StudentTokens(model, (layer,), layout.blocks, require_gradient=False)
    device = next(model.parameters()).device
    parts = []
    try:
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            pixels = torch.from_numpy(np.ascontiguousarray(images[part])).to(device)
            with tokens.recording():
                model.context(pixels, states[part].to(device), texts[part].to(device))
            positions = layout.mask.nonzero()[:, 0].expand(len(pixels), -1)
            parts.append(visual_tokens(tokens[layer], positions).float().cpu().numpy())
            tokens.clear()
            progress(min(start + _BATCH, len(images)))
    finally:
        tokens.close()
    return np.concatenate(parts).reshape(len(images), layout.views, *layout.grid, -1)


def text_rows(model: Any, normalisation: Normalisation, sentences: Sequence[str]) -> torch.Tensor:
    """Return the model's text input, one row for each sentence."""
    if model.words is not None:
        return model.words.encode(list(sentences))
    return torch.from_numpy(normalisation.text.normalise(text_encoder().encode(list(sentences))))


def random_twin(model: Any, seed: int) -> Any:
    """Return a model of the same architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = (
            type(model)(model.config, model.words)
            if model.words is not None
            else type(model)(model.config)
        )
        if isinstance(twin, HfVla):
            twin.fill_zeros()
    return twin.eval()


def rgb_tokens(images: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the pixels of each patch (F, V, rows, columns, D) float32 in [-1, 1].

    Patches larger than 16 pixels are resized by area averaging.
    """
    frames, views, _, height, width = images.shape
    rows, columns = grid
    side = [
        min(_RGB_SIDE, max(1, pixels // cells))
        for pixels, cells in zip((height, width), grid, strict=True)
    ]
    pixels = torch.from_numpy(np.ascontiguousarray(images)).flatten(0, 1).float() / 127.5 - 1.0
    size = (rows * side[0], columns * side[1])
    if tuple(pixels.shape[2:]) != size:
        pixels = functional.interpolate(pixels, size, mode="area")
    patches = pixels.view(-1, 3, rows, side[0], columns, side[1]).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(frames, views, rows, columns, -1).numpy()
