"""The forward pass of training as one module, so that whatever wraps it (DDP, FSDP2) sees every
gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sf_policy_node.contract import Contract
from sf_policy_node.vla.objective import PI0_KINDS, action_loss
from sf_policy_node.vla.preprocessing import picture_area
from sf_policy_node.vla.real_time_chunking import sample
from sf_training.spatial_forcing.alignment import Alignment, AlignmentConfig, token_mask
from sf_training.spatial_forcing.student_tokens import StudentTokens, visual_tokens
from sf_training.training.students import Student


@dataclass(frozen=True)
class Inputs:
    """F frames with B rows; ``targets`` is empty without a teacher, ``chunks`` None where actions
    are asked for.

    ``images`` (F, V, 3, H, W) uint8, ``rows`` (B,), ``states`` (B, N), ``text`` (B, ...),
    ``chunks`` (B, H, A), each of ``targets`` (B, tokens, C), ``drawn`` what
    :func:`sf_policy_node.vla.objective.draw` gave for the rows.
    """

    images: Tensor
    rows: Tensor
    states: Tensor
    text: Tensor
    chunks: Tensor | None = None
    targets: tuple[Tensor, ...] = ()
    drawn: Any = None


class TrainingStep(nn.Module):
    """A student, and what is trained beside it.

    Args:
        model: a ``Nano``, ``HfVla`` or ``Pi0``.
        config: of the alignment; None without a teacher.
        channels: of the teacher's targets.
        weight: (A,) of the action columns.
        valid: (N,) visual tokens that show a picture and not a letterbox bar; None: all do.
    """

    def __init__(
        self,
        model: Any,
        config: AlignmentConfig | None,
        channels: int,
        weight: Tensor,
        valid: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.alignment = self._tokens = None
        if config is not None:
            places = model.visual_places()
            self.alignment = Alignment(config, places.width, channels)
            self._tokens = StudentTokens(model, config.student_layers, places.blocks)
            self._places = _slice(places.mask)
        # Noise hides for long which object is meant. A linear readout of the head's input, in
        # training only, teaches the trunk that as quickly as a regression head does.
        flow = model.kind not in PI0_KINDS and model.config.head == "flow"
        width = {"nano": "width", "hf": "head_width"}.get(model.kind, "")
        self.readout = (
            nn.Linear(getattr(model.config, width), model.config.action_size) if flow else None
        )
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def forward(
        self, inputs: Inputs, *, aligned: bool = True, noise: Tensor | None = None
    ) -> dict[str, Tensor] | Tensor:
        """Losses ``action`` and ``alignment``; normalised chunks (B, H, A) where ``inputs.chunks``
        is None.

        Args:
            aligned: off leaves the alignment out, to measure what it costs.
            noise: of a flow that is sampled.
        """
        if inputs.chunks is None:
            return self._predict(inputs, noise)
        if self._tokens is None or not aligned:
            return {"action": self._action(self._context(inputs), inputs)}
        with self._tokens.recording():
            context = self._context(inputs)
        config = self.alignment.config
        positions = self._places
        if isinstance(positions, Tensor):
            positions = positions.to(inputs.rows.device).expand(len(inputs.rows), -1)
        tokens = {
            layer: visual_tokens(self._tokens[layer], positions, config.token_shift)
            for layer in config.student_layers
        }
        self._tokens.clear()
        mask = None if self.valid is None else self.valid.expand(len(inputs.rows), -1)
        losses = {
            "action": self._action(context, inputs),
            "alignment": self.alignment(tokens, inputs.targets, mask),
        }
        return losses

    def _context(self, inputs: Inputs) -> Any:
        return self.model.context(inputs.images, inputs.states, inputs.text, rows=inputs.rows)

    def _action(self, context: Any, inputs: Inputs) -> Tensor:
        loss = action_loss(self.model, context, inputs.chunks, self.weight, inputs.drawn)
        if self.readout is not None:
            loss = loss + ((self.readout(context) - inputs.chunks).abs() * self.weight).mean()
        return loss

    def _predict(self, inputs: Inputs, noise: Tensor | None) -> Tensor:
        context, head = self._context(inputs), self.model.head
        if self.model.config.head != "flow":
            return head(context)
        return sample(partial(head.velocity, context), noise, head.steps)[
            ..., : self.model.config.action_size
        ]


def _slice(mask: Tensor) -> slice | Tensor:
    """Places of the visual tokens: a slice where they are together, else (1, N)."""
    places = mask.nonzero().flatten()
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places[None]


def valid_tokens(contract: Contract, student: Student, grid: tuple[int, int]) -> Tensor | None:
    """Visual tokens (N,) outside of letterbox bars; None where there are none."""
    shapes = [(camera.height, camera.width) for camera in contract.cameras]
    valid = torch.from_numpy(picture_area(shapes, student.image_size, student.model.config.fit))[
        None
    ]
    mask = token_mask(torch.ones(1, len(shapes), dtype=torch.bool), grid, valid)[0]
    return None if mask.all() else mask
