"""Weights and inputs made in code from a seed, the same on every machine: what golden values are
computed from.
"""

import numpy as np
import torch

from sf_training.spatial_forcing.depth_anything3 import DepthAnything3, DepthAnything3Config
from sf_training.spatial_forcing.vggt import VggtAggregator, VggtConfig

TINY_VGGT = VggtConfig(
    width=32, pairs=3, encoder_blocks=2, head_size=8, registers=2, patch=14, grid=4
)


def seeded(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normal values; NumPy's old generator is frozen for good."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape) * scale).float()


def seeded_images(seed: int, *shape: int) -> torch.Tensor:
    """Uniform values in [0, 1]."""
    return torch.from_numpy(np.random.RandomState(seed).uniform(size=shape)).float()


def vggt_weights(
    config: VggtConfig = TINY_VGGT, prefix: str = "aggregator."
) -> dict[str, torch.Tensor]:
    """All tensors of an aggregator under the official names, none of them near its initial
    value.
    """
    with torch.device("meta"):
        shapes = {
            name: tuple(value.shape) for name, value in VggtAggregator(config).state_dict().items()
        }
    shapes["patch_embed.mask_token"] = (1, config.width)
    tensors = {}
    for seed, name in enumerate(sorted(shapes)):
        scale = (
            0.5
            if "token" in name or "pos_embed" in name
            else 0.3
            if len(shapes[name]) == 1
            else 0.15
        )
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        tensors[prefix + name] = centre + seeded(seed, *shapes[name], scale=scale)
    return tensors


def da3_weights(prefix: str = "model.backbone.pretrained.") -> dict[str, torch.Tensor]:
    """All tensors of a tiny backbone of Depth Anything 3 under the official names."""
    config = DepthAnything3Config(width=32, blocks=6, alternating=2, grid=4, patch=14, head_size=8)
    with torch.device("meta"):
        network = DepthAnything3(config)
    tensors = {}
    for seed, (name, value) in enumerate(sorted(network.state_dict().items())):
        drawn = seeded(1000 + seed, *value.shape)
        norm = name.endswith("weight") and value.ndim == 1
        tensors[prefix + name] = 1 + 0.1 * drawn if norm else 0.3 * drawn
    return tensors
