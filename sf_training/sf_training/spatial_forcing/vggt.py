"""The aggregator of VGGT (arXiv 2503.11651).

Implemented from the architecture, with the parameter names of the official checkpoints. Only what
Spatial Forcing needs: no heads, and no block above the deepest requested layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sf_training.spatial_forcing.vision import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class VggtConfig:
    """Sizes; the defaults are those of VGGT-1B."""

    width: int = 1024
    pairs: int = 24
    """Number of layers; each is a block of frame attention and a block of global attention."""
    encoder_blocks: int = 24
    head_size: int = 64
    """Channels of an attention head, in encoder and pairs."""
    registers: int = 4
    """Register tokens of a view, in encoder and pairs."""
    patch: int = 14
    """Side of a patch [pixels]."""
    grid: int = 37
    """Side of the encoder's position embedding [patches]; it is interpolated to other sizes."""
    expansion: int = 4
    """Ratio of the feed-forward layers' width to ``width``."""
    rotation_base: float = 100.0

    def __post_init__(self) -> None:
        if self.width % self.head_size or self.head_size % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of head_size {self.head_size}, and that"
                " of 4"
            )

    def layer_index(self, layer: int) -> int:
        """Return the index of a layer from 0; negative ones count from the end.

        Raises:
            ValueError: there is no such layer.
        """
        if not -self.pairs <= layer < self.pairs:
            raise ValueError(
                f"layer {layer}: this aggregator has {self.pairs} layers, {-self.pairs} to"
                f" {self.pairs - 1}"
            )
        return layer % self.pairs

    @staticmethod
    def from_shapes(shapes: Mapping[str, Sequence[int]]) -> VggtConfig:
        """Return the sizes of the aggregator whose tensors have these names and shapes.

        Raises:
            KeyError: a tensor that gives a size is missing.
            ValueError: the sizes do not fit together.
        """
        width = shapes["camera_token"][-1]
        positions = shapes["patch_embed.pos_embed"][1] - 1
        grid = round(positions**0.5)
        if grid**2 != positions:
            raise ValueError(
                f"patch_embed.pos_embed holds {positions} positions, which is not a square"
            )
        return VggtConfig(
            width=width,
            pairs=_count(shapes, "frame_blocks."),
            encoder_blocks=_count(shapes, "patch_embed.blocks."),
            head_size=shapes["frame_blocks.0.attn.q_norm.weight"][0],
            registers=shapes["register_token"][2],
            patch=shapes["patch_embed.patch_embed.proj.weight"][-1],
            grid=grid,
            expansion=shapes["frame_blocks.0.mlp.fc1.weight"][0] // width,
        )


class VggtAggregator(nn.Module):
    """DINOv2 patches of V views, then alternating attention.

    Frame blocks attend within a view, global blocks across all views.

    Args:
        config: sizes.
        layers: requested layers, from 0 or, if negative, from the end. Deeper pairs are not built.
    """

    def __init__(self, config: VggtConfig, layers: Sequence[int] = (-1,)) -> None:
        super().__init__()
        self.config = config
        self.layers = tuple(config.layer_index(layer) for layer in layers)
        if not self.layers:
            raise ValueError("layers: name at least one")
        width, built = config.width, max(self.layers) + 1
        self.patch_embed = _Encoder(config)
        # One camera token for the first view, the reference, and one for all others; registers too.
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, width) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, config.registers, width) * 1e-6)
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(Block(width, config, eps=1e-5, normed_heads=True) for _ in range(built))
            for _ in range(2)
        )

    @property
    def feature_size(self) -> int:
        """Channels of a feature: those of the frame block, then those of the global block."""
        return 2 * self.config.width

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the patches, without camera and register tokens.

        Args:
            images: (B, V, 3, H, W) in [0, 1], H and W multiples of ``config.patch``; the first view
                is the reference.

        Returns:
            (B, V, H / patch, W / patch, feature_size) for each requested layer.

        Raises:
            ValueError: the images have another shape.
        """
        batch, views, channels, height, width = images.shape
        side = self.config.patch
        if channels != 3 or height % side or width % side:
            raise ValueError(
                f"images are {channels}x{height}x{width}, wanted 3 channels and multiples of {side}"
                " pixels"
            )
        rows, columns = height // side, width // side
        mean, std = (
            images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        patches = self.patch_embed(((images - mean) / std).flatten(0, 1))
        tokens = torch.cat([self._special_tokens(batch, views).to(patches), patches], 1)
        special, length = tokens.shape[1] - rows * columns, tokens.shape[1]
        rotation = patch_rotation(rows, columns, special, self.config, images.device)
        global_rotation = rotation.repeat(1, views, 1, 1)
        found: dict[int, Tensor] = {}
        for index, (frame_block, global_block) in enumerate(
            zip(self.frame_blocks, self.global_blocks, strict=True)
        ):
            framed = frame_block(tokens.view(batch * views, length, -1), rotation)
            tokens = global_block(framed.view(batch, views * length, -1), global_rotation)
            if index in self.layers:
                both = [
                    part.view(batch, views, length, -1)[:, :, special:] for part in (framed, tokens)
                ]
                found[index] = torch.cat(both, -1).unflatten(2, (rows, columns))
        return tuple(found[layer] for layer in self.layers)

    def _special_tokens(self, batch: int, views: int) -> Tensor:
        """Return camera and register tokens, (B * V, 1 + registers, width)."""
        tokens = torch.cat([self.camera_token, self.register_token], 2)
        of_view = [0] + [1] * (views - 1)
        return tokens[:, of_view].expand(batch, -1, -1, -1).flatten(0, 1)


class _Encoder(nn.Module):
    """DINOv2 with registers: normalised tokens of the patches."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        projection = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.width) * 1e-6)
        self.register_tokens = nn.Parameter(torch.randn(1, config.registers, config.width) * 1e-6)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.grid**2, config.width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(config.width, config, eps=1e-6, normed_heads=False)
            for _ in range(config.encoder_blocks)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (N, 3, H, W) to (N, P, width), patches row by row."""
        patches = self.patch_embed["proj"](images)
        position = self.pos_embed[:, 1:]
        if patches.shape[-2:] != (self.config.grid, self.config.grid):
            table = position.float().unflatten(1, (self.config.grid, -1)).permute(0, 3, 1, 2)
            table = functional.interpolate(
                table, patches.shape[-2:], mode="bicubic", antialias=True
            )
            position = table.flatten(2).transpose(1, 2)
        patches = patches.flatten(2).transpose(1, 2) + position
        first = torch.cat([self.cls_token + self.pos_embed[:, :1], self.register_tokens], 1).to(
            patches
        )
        tokens = torch.cat([first.expand(len(patches), -1, -1), patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, first.shape[1] :])


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection scaled per channel."""

    def __init__(self, width: int, config: VggtConfig, *, eps: float, normed_heads: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = _Attention(width, config.head_size, normed_heads)
        self.ls1 = _Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        first = nn.Linear(width, config.expansion * width)
        last = nn.Linear(config.expansion * width, width)
        self.mlp = nn.ModuleDict({"fc1": first, "fc2": last})
        self.ls2 = _Scale(width)

    def forward(self, tokens: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Map tokens (N, T, width) to the same shape.

        ``rotation`` as from :func:`patch_rotation`.
        """
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rotation))
        first, last = self.mlp["fc1"], self.mlp["fc2"]
        return tokens + self.ls2(last(functional.gelu(first(self.norm2(tokens)))))


class _Attention(nn.Module):
    """Full self-attention, with normalised heads and rotary embedding where the block has them."""

    def __init__(self, width: int, head_size: int, normed_heads: bool) -> None:
        super().__init__()
        self.head_size = head_size
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = (
            nn.LayerNorm(head_size) if normed_heads else nn.Identity() for _ in range(2)
        )
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: Tensor | None) -> Tensor:
        query, key, value = (
            self.qkv(tokens).unflatten(-1, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4)
        )
        query, key = self.q_norm(query), self.k_norm(key)
        if rotation is not None:
            query, key = _rotate(query, rotation), _rotate(key, rotation)
        mixed = functional.scaled_dot_product_attention(query.to(value), key.to(value), value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _Scale(nn.Module):
    """A factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.01))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


def patch_rotation(
    rows: int, columns: int, special: int, config: VggtConfig, device: torch.device
) -> Tensor:
    """Return cosines and sines (2, T, 2, head_size / 4) of the rotary angles of rows and columns.

    Angles are p b^(-k / (head_size / 4)) for position p, base b = ``rotation_base`` and k = 0 ...
    head_size / 4 - 1. Patches count from 1; special tokens have position 0, so they are not
    rotated.
    """
    quarter = config.head_size // 4
    frequency = config.rotation_base ** -(
        torch.arange(quarter, device=device, dtype=torch.float32) / quarter
    )
    position = torch.cartesian_prod(
        torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device)
    )
    angle = torch.cat([position.new_zeros(special, 2), position])[..., None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


def _rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Apply the two-dimensional rotary embedding.

    The first half of the channels is rotated by row, the second by column.

    Args:
        heads: (N, heads, T, head_size); in each half, channel k is paired with channel k +
            head_size / 4.
    """
    cosine, sine = rotation.to(heads.dtype)
    left, right = heads.unflatten(-1, (2, 2, -1)).unbind(-2)
    return torch.stack([left * cosine - right * sine, right * cosine + left * sine], -2).flatten(-3)


def _count(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    """Return the number of blocks whose names begin with ``prefix`` and an index."""
    return 1 + max(
        (int(name[len(prefix) :].partition(".")[0]) for name in shapes if name.startswith(prefix)),
        default=-1,
    )
