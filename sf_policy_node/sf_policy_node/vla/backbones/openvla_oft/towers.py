"""The two vision towers of OpenVLA, DINOv2 and SigLIP.

Both see the same image; their patches are concatenated by channel. The blocks are transformers'.
Embeddings are laid out as in timm, whose weights are published: DINOv2's position embedding covers
the patches alone. Features are those of the last block but one, without the final norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Tower(nn.Module):
    """One vision transformer up to its last block but one.

    Args:
        config: transformers' ``Dinov2WithRegistersConfig`` or ``SiglipVisionConfig``; one block
            less than its ``num_hidden_layers`` runs.
        film: width of the instruction's embedding, which scales and shifts the features in each
            block (FiLM); 0: no FiLM.
    """

    film: nn.ModuleList | None

    def __init__(self, config: Any, film: int = 0) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        width, side = config.hidden_size, config.image_size // config.patch_size
        self.grid = (side, side)
        self.patches = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.position = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        self._prefix = 0
        count = config.num_hidden_layers - 1
        if config.model_type == "siglip_vision_model":
            from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

            self.blocks = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(count))
        else:
            from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
                Dinov2WithRegistersLayer,
            )

            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
            self.registers = nn.Parameter(torch.zeros(1, config.num_register_tokens, width))
            self._prefix = 1 + config.num_register_tokens
            self.blocks = nn.ModuleList(Dinov2WithRegistersLayer(config) for _ in range(count))
        self.film = nn.ModuleList(Film(film, width) for _ in range(count)) if film else None

    def forward(self, images: Tensor, instruction: Tensor | None = None) -> Tensor:
        """Encode normalised images.

        Args:
            images: (N, 3, H, W).
            instruction: mean embedding (N, film) of the instruction; with FiLM only.

        Returns:
            (N, patches, width), row by row.
        """
        x = self.patches(images).flatten(2).transpose(1, 2) + self.position
        if self._prefix:
            x = torch.cat(
                [self.class_token.expand(len(x), -1, -1), self.registers.expand(len(x), -1, -1), x],
                1,
            )
        for number, block in enumerate(self.blocks):
            if self.film is None:
                x = block(x, None)
            else:
                assert instruction is not None  # FiLM needs it
                x = self._modulated(block, self.film[number], x, instruction)
        return x[:, self._prefix :]

    def _modulated(self, block: Any, film: nn.Module, x: Tensor, instruction: Tensor) -> Tensor:
        """Run a block with FiLM between its attention and its MLP.

        Handles both layouts of transformers.
        """
        if self._prefix:
            x = x + block.layer_scale1(block.attention(block.norm1(x))[0])
            x = film(x, instruction)
            return x + block.layer_scale2(block.mlp(block.norm2(x)))
        x = x + block.self_attn(block.layer_norm1(x), None)[0]
        x = film(x, instruction)
        return x + block.mlp(block.layer_norm2(x))


class Film(nn.Module):
    """Feature-wise linear modulation (arXiv 1709.07871).

    (1 + scale) x + shift, both linear in the instruction's embedding.
    """

    def __init__(self, instruction: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Linear(instruction, width)
        self.shift = nn.Linear(instruction, width)

    def forward(self, x: Tensor, instruction: Tensor) -> Tensor:
        """Modulate tokens (N, T, width) by embeddings (N, instruction)."""
        return x * (1 + self.scale(instruction)[:, None]) + self.shift(instruction)[:, None]


class PatchProjector(nn.Module):
    """Maps the channels of both towers to the language model's width.

    Three linear layers with GELU between.
    """

    def __init__(self, vision: int, language: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision, 4 * vision)
        self.fc2 = nn.Linear(4 * vision, language)
        self.fc3 = nn.Linear(language, language)

    def forward(self, patches: Tensor) -> Tensor:
        """Map (..., vision) to (..., language)."""
        return self.fc3(nn.functional.gelu(self.fc2(nn.functional.gelu(self.fc1(patches)))))


class StateProjector(nn.Module):
    """Maps the robot's state to one token."""

    def __init__(self, state: int, language: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(state, language)
        self.fc2 = nn.Linear(language, language)

    def forward(self, state: Tensor) -> Tensor:
        """Map (B, state) to (B, language)."""
        return self.fc2(nn.functional.gelu(self.fc1(state)))


class ActionHead(nn.Module):
    """Maps the hidden states of one step's slots to the actions of that step.

    An MLP with residual blocks.

    Args:
        width: of a hidden state.
        actions: columns of a chunk, each with its own slot.
    """

    def __init__(self, width: int, actions: int, blocks: int = 2) -> None:
        super().__init__()
        self.actions = actions
        self.layer_norm1 = nn.LayerNorm(width * actions)
        self.fc1 = nn.Linear(width * actions, width)
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, actions)

    def forward(self, slots: Tensor) -> Tensor:
        """Map hidden states (B, horizon * actions, width) to chunks (B, horizon, actions)."""
        x = slots.unflatten(1, (-1, self.actions)).flatten(2)
        x = nn.functional.relu(self.fc1(self.layer_norm1(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)
