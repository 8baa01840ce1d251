"""Make weights and inputs from a seed, equal on every machine, for golden values."""

import numpy as np
import torch

from sf_training.spatial_forcing.depth_anything3 import DepthAnything3, DepthAnything3Config
from sf_training.spatial_forcing.vggt import VggtAggregator, VggtConfig

TINY_VGGT = VggtConfig(
    width=32, pairs=3, encoder_blocks=2, head_size=8, registers=2, patch=14, grid=4
)


def seeded(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Return a source of normal values; NumPy's legacy generator is frozen."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape) * scale).float()


def seeded_images(seed: int, *shape: int) -> torch.Tensor:
    """Return uniform values in [0, 1]."""
    return torch.from_numpy(np.random.RandomState(seed).uniform(size=shape)).float()


def vggt_weights(
    config: VggtConfig = TINY_VGGT, prefix: str = "aggregator."
) -> dict[str, torch.Tensor]:
    """Return all tensors of an aggregator under the official names, far from initial values."""
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
    """Return all tensors of a tiny Depth Anything 3 backbone under the official names."""
    config = DepthAnything3Config(width=32, blocks=6, alternating=2, grid=4, patch=14, head_size=8)
    with torch.device("meta"):
        network = DepthAnything3(config)
    tensors = {}
    for seed, (name, value) in enumerate(sorted(network.state_dict().items())):
        drawn = seeded(1000 + seed, *value.shape)
        norm = name.endswith("weight") and value.ndim == 1
        tensors[prefix + name] = 1 + 0.1 * drawn if norm else 0.3 * drawn
    return tensors
