"""Spatial Forcing for the training loop of another project.

Needs only torch and ``sf_training.spatial_forcing``; the policy's code does not change.
``sf_training/examples`` has the loops of openpi and LeRobot.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from sf_training.spatial_forcing.alignment import (
    Alignment,
    AlignmentConfig,
    prepare_target,
    token_mask,
)
from sf_training.spatial_forcing.student_tokens import StudentTokens
from sf_training.spatial_forcing.vision import Teacher


class SpatialForcing(nn.Module):
    """Projector, hooks and loss for a policy whose sequence starts with its image tokens.

    Its parameters are those of the projector: add them to the optimiser, and save them with the
    policy where training is resumed. Inference needs none of it.

    Args:
        policy: the trained model, wrapped or not; it does not become a submodule.
        teacher: see :func:`sf_training.spatial_forcing.vision_targets.open_teacher`.
        width: of the language model's hidden states.
        grid: rows and columns of the image tokens of one camera.
        config: settings; ``layer`` counts blocks, ``teacher_layers`` are those of ``teacher``.
        blocks: dotted name of the list of blocks (its last part is enough), or the blocks.
        first: position of the first image token in the sequence.
    """

    def __init__(
        self,
        policy: nn.Module,
        teacher: Teacher,
        width: int,
        *,
        grid: tuple[int, int] = (16, 16),
        config: AlignmentConfig | None = None,
        blocks: str | Sequence[nn.Module] | None = "language_model.layers",
        first: int = 0,
    ) -> None:
        super().__init__()
        self.config = config or AlignmentConfig(layer=12)
        self.alignment = Alignment(self.config, width, teacher.feature_size)
        self._grid, self._first, self._teacher = grid, first, (teacher,)  # no submodule
        self._tokens: Any = StudentTokens(policy, self.config.student_layers, blocks)

    def recording(self) -> AbstractContextManager[None]:
        """Return a context to open around the policy's forward pass in training."""
        return self._tokens.recording()

    def loss(self, images: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the loss to add to the action loss, including the coefficient.

        Args:
            images: (B, V, 3, H, W) in [0, 1], as the policy saw them and in its order.
            present: (B, V), False where a camera is missing; None: no camera is missing.

        Raises:
            StudentTokensError: the forward pass was not recorded, or nothing below the layer is
                trained.
        """
        present = images.new_ones(images.shape[:2]).bool() if present is None else present.bool()
        with torch.no_grad():
            features = self._teacher[0].features(images, present)
            targets = [
                prepare_target(
                    each.to(images.device),
                    self._grid,
                    self.config.position_scale,
                    position=self.config.position,
                    resize=self.config.resize,
                )
                for each in features
            ]
        end = self._first + images.shape[1] * self._grid[0] * self._grid[1]
        tokens = {
            layer: self._tokens[layer][:, self._first : end] for layer in self.config.student_layers
        }
        self._tokens.clear()
        mask = token_mask(present, self._grid).to(images.device)
        return self.config.coefficient * self.alignment(tokens, targets, mask)
