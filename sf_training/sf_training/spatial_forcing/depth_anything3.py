"""The backbone of Depth Anything 3 (arXiv 2511.10647).

Implemented from the architecture on VGGT's blocks, with the parameter names of the official
checkpoints; sizes are read from the tensors. Only what Spatial Forcing needs: no heads, no given
cameras. The giant model (SwiGLU) is not supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sf_training.spatial_forcing.teachers import TeacherError
from sf_training.spatial_forcing.vggt import Block, VggtConfig, patch_rotation
from sf_training.spatial_forcing.vision import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    features_by_cameras,
    layer_indices,
    resize,
)
from sf_training.spatial_forcing.weights import Weights

PREFIXES = ("model.backbone.pretrained.", "backbone.pretrained.")
SIDE = 504  # pixels: the longer side that the authors' API resizes to
_HEAD_WIDTH = 64
_OFFSET = 0.1  # DINOv2's, when it interpolates its position embedding


@dataclass(frozen=True)
class DepthAnything3Config:
    """Sizes of a backbone."""

    width: int
    blocks: int
    alternating: int
    """First block with normalised heads and rotary embedding; from it on, odd blocks attend
    across all views. Equals ``blocks`` for models of one view (mono, metric).
    """
    grid: int
    patch: int
    head_size: int = _HEAD_WIDTH

    @staticmethod
    def from_shapes(shapes: Mapping[str, Sequence[int]]) -> DepthAnything3Config:
        """Return the sizes of the backbone with tensors of these names (without prefix) and shapes.

        Raises:
            KeyError: a tensor that gives a size is missing.
        """
        numbers = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
        normed = [name for name in shapes if name.endswith("attn.q_norm.weight")]
        blocks = 1 + max(numbers, default=-1)
        first = min((int(name.split(".")[1]) for name in normed), default=blocks)
        return DepthAnything3Config(
            width=shapes["cls_token"][-1],
            blocks=blocks,
            alternating=first,
            grid=round((shapes["pos_embed"][1] - 1) ** 0.5),
            patch=shapes["patch_embed.proj.weight"][-1],
            head_size=shapes[normed[0]][0] if normed else _HEAD_WIDTH,
        )


class DepthAnything3(nn.Module):
    """DINOv2 whose later blocks attend across views.

    A feature is the output of the last single-view block beside the normalised output.
    """

    def __init__(self, config: DepthAnything3Config) -> None:
        super().__init__()
        self.config, width = config, config.width
        projection = nn.Conv2d(3, width, config.patch, config.patch)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, width))
        if config.alternating < config.blocks:
            self.camera_token = nn.Parameter(torch.zeros(1, 2, width))
        sizes = VggtConfig(width=width, head_size=config.head_size)
        self.blocks = nn.ModuleList(
            Block(width, sizes, eps=1e-6, normed_heads=index >= config.alternating)
            for index in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self._sizes = sizes

    def forward(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Return features (B, V, H / patch, W / patch, 2 width) of the requested layers.

        Args:
            images: (B, V, 3, H, W), normalised; the first view is the reference.
            layers: from 0.
        """
        batch, views, _, height, width = images.shape
        rows, columns = height // self.config.patch, width // self.config.patch
        patches = self.patch_embed["proj"](images.flatten(0, 1)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        tokens = (tokens + self._positions(rows, columns).to(tokens)).unflatten(0, (batch, views))
        rotation = patch_rotation(rows, columns, 1, self._sizes, images.device)
        # Across views all patches have one position, and the class token another.
        shared = patch_rotation(1, 1, 1, self._sizes, images.device)
        shared = torch.cat([shared[:, :1], shared[:, 1:].expand(-1, rows * columns, -1, -1)], 1)
        single, found = tokens, {}
        for index, block in enumerate(self.blocks):
            if index == self.config.alternating:
                camera = self.camera_token[:, [0] + [1] * (views - 1)].to(tokens)
                tokens = torch.cat([camera.expand(batch, -1, -1)[:, :, None], tokens[:, :, 1:]], 2)
            later = index >= self.config.alternating
            if later and index % 2:
                together = tokens.flatten(1, 2)
                tokens = block(together, shared.repeat(1, views, 1, 1)).view_as(tokens)
            else:
                alone = block(tokens.flatten(0, 1), rotation if later else None)
                tokens = single = alone.unflatten(0, (batch, views))
            if index in layers:
                both = torch.cat([single, self.norm(tokens)], -1)[:, :, 1:]
                found[index] = both.unflatten(2, (rows, columns))
        return tuple(found[layer] for layer in layers)

    def _positions(self, rows: int, columns: int) -> Tensor:
        grid = self.config.grid
        if (rows, columns) == (grid, grid):
            return self.pos_embed
        table = self.pos_embed[:, 1:].float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        scale = ((rows + _OFFSET) / grid, (columns + _OFFSET) / grid)
        table = functional.interpolate(table, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], 1)


class DepthAnything3Teacher:
    """Depth Anything 3 as a teacher; small and base have weights for commercial use.

    With three views or more the authors' code selects a reference view; here it is always the
    first.

    Args:
        weights: see :func:`sf_training.spatial_forcing.weights.open_weights`.
        layers: of its blocks, from 0 or from the end.
        size: longer side of its input images [pixels].
        device: where it runs.
        dtype: of its matrices; all other weights are float32.

    Raises:
        TeacherError: the weights are not those of such a model, or there is no such layer.
    """

    def __init__(
        self,
        weights: Weights,
        layers: Sequence[int] = (-1,),
        size: int = SIDE,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        prefix = next((each for each in PREFIXES if f"{each}cls_token" in weights.shapes), None)
        if prefix is None:
            raise TeacherError(
                f"{weights.source}: not a Depth Anything 3 checkpoint: no {PREFIXES[0]}cls_token;"
                " give DA3-SMALL, DA3-BASE or DA3-LARGE"
            )
        shapes = {
            name.removeprefix(prefix): shape
            for name, shape in weights.shapes.items()
            if name.startswith(prefix)
        }
        if any(".mlp.w12." in name for name in shapes):
            raise TeacherError(f"{weights.source}: the giant model is not supported; take base")
        try:
            config = DepthAnything3Config.from_shapes(shapes)
            with torch.device("meta"):
                network = DepthAnything3(config)
        except (KeyError, ValueError) as error:
            raise TeacherError(
                f"{weights.source}: tensor {prefix}{error.args[0]} is missing or of another size;"
                " download the weights again"
            ) from None
        wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        given = {name: tuple(shape) for name, shape in shapes.items() if name != "mask_token"}
        wrong = sorted(set(wanted.items()) ^ set(given.items()))
        if wrong:
            names = sorted({name for name, _ in wrong})
            raise TeacherError(
                f"{weights.source}: {len(names)} tensors are missing, unknown or of another size,"
                f" {prefix}{names[0]} among them; download the weights again"
            )
        self._weights, self._prefix, self._network = weights, prefix, network
        self._loaded = False
        self._layers = layer_indices(layers, config.blocks, weights.source)
        self._size, self._dtype, self._device = size, dtype, torch.device(device)
        self.pixels, self.feature_size = size**2, 2 * config.width
        self.licence = weights.licence
        count = sum(each.numel() for each in network.parameters()) / 1e6
        self.description = (
            f"Depth Anything 3, {config.blocks} layers of width {config.width}, {count:.0f} M"
        )
        self.identity = f"da3 {weights.identity} layers {self._layers} size {size} {dtype}"

    @torch.no_grad()
    def features(self, images: Tensor, present: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return features; see :class:`~sf_training.spatial_forcing.vision.Teacher`."""
        self._load()
        patch = self._network.config.patch
        images = resize(images.to(self._device, torch.float32), self._size, patch)
        mean, std = (
            images.new_tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD)
        )
        images = (images - mean) / std
        return features_by_cameras(self._run, images, present)

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            return tuple(layer.float() for layer in self._network(images, self._layers))

    def _load(self) -> None:
        """Read the weights when the first images come.

        A run with cached features never needs them.
        """
        if self._loaded:
            return
        names = self._network.state_dict()
        self._network.load_state_dict(
            {name: self._weights[self._prefix + name].float() for name in names}, assign=True
        )
        for module in self._network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(self._dtype)
        self._network.to(self._device).eval().requires_grad_(False)
        self._loaded = True
