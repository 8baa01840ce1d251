"""The forward pass of training as one module: DDP or FSDP2, which wrap it, see every gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sf_policy_node.contract import Contract
from sf_policy_node.vla.objective import PI0_KINDS, action_loss
from sf_policy_node.vla.preprocessing import image_area
from sf_policy_node.vla.real_time_chunking import sample
from sf_training.spatial_forcing.alignment import Alignment, AlignmentConfig, token_mask
from sf_training.spatial_forcing.student_tokens import StudentTokens, visual_tokens
from sf_training.training.loop.inputs import Inputs
from sf_training.training.students import Student


class TrainingModule(nn.Module):
    """A student with what is trained beside it: projector, gate and readout.

    Args:
        model: a ``Nano``, ``HfVla``, ``Pi0`` or ``OpenVlaOft``.
        config: complete settings of the alignment; None without a teacher.
        channels: channels of the teacher's targets.
        column_weights: (A,) weights of the action columns in the loss.
        valid: (N,) bool, False for visual tokens of letterbox bars; None: all are valid.
    """

    model: Any
    column_weights: Tensor
    valid: Tensor | None

    def __init__(
        self,
        model: Any,
        config: AlignmentConfig | None,
        channels: int,
        column_weights: Tensor,
        valid: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.alignment = self._tokens = None
        if config is not None:
            layout = model.visual_layout()
            self.alignment = Alignment(config, layout.width, channels)
            self._tokens = StudentTokens(model, config.student_layers, layout.blocks)
            self._positions, self._grid = _slice(layout.mask), layout.grid
        # With a flow head, noise hides for long which object the instruction names. A linear
        # readout of the head's input, in training only, teaches the trunk that as quickly as a
        # regression head does.
        is_own_flow = model.kind not in PI0_KINDS and model.config.head == "flow"
        width = {"nano": "width", "hf": "head_width"}.get(model.kind, "")
        self.readout = (
            nn.Linear(getattr(model.config, width), model.config.action_size)
            if is_own_flow
            else None
        )
        self.register_buffer("column_weights", column_weights, persistent=False)
        self.register_buffer("valid", valid, persistent=False)

    def forward(self, inputs: Inputs, *, noise: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        """Return the losses ``action`` and ``alignment``, or chunks where ``inputs`` has none.

        Args:
            noise: (B, H, columns) from which a flow is sampled.

        Returns:
            The losses; or normalised chunks (B, H, A) where ``inputs.chunks`` is None.
        """
        chunks = inputs.chunks
        if chunks is None:
            return self._predict(inputs, noise)
        if self._tokens is None or self.alignment is None:
            return {"action": self._action_loss(self._context(inputs), inputs, chunks)}
        with self._tokens.recording():
            context = self._context(inputs)
        config = self.alignment.config
        positions = self._positions
        if isinstance(positions, Tensor):
            positions = positions.to(inputs.rows.device).expand(len(inputs.rows), -1)
        tokens = {
            layer: visual_tokens(self._tokens[layer], positions, config.token_shift or 0)
            for layer in config.student_layers
        }
        self._tokens.clear()
        return {
            "action": self._action_loss(context, inputs, chunks),
            "alignment": self.alignment(tokens, inputs.targets, self._mask(inputs)),
        }

    def close(self) -> None:
        """Remove the hooks from the model, so that another run can take it."""
        if self._tokens is not None:
            self._tokens.close()

    def _mask(self, inputs: Inputs) -> Tensor | None:
        """Return which visual tokens (B, N) show a present camera outside letterbox bars."""
        valid = None if self.valid is None else self.valid.expand(len(inputs.rows), -1)
        if inputs.present is None:
            return valid
        mask = token_mask(inputs.present, self._grid)
        return mask if valid is None else mask & valid

    def _context(self, inputs: Inputs) -> Any:
        more = {} if inputs.present is None else {"present": inputs.present}
        return self.model.context(
            inputs.images, inputs.states, inputs.text, rows=inputs.rows, **more
        )

    def _action_loss(self, context: Any, inputs: Inputs, chunks: Tensor) -> Tensor:
        loss = action_loss(self.model, context, chunks, self.column_weights, inputs.drawn)
        if self.readout is not None:
            error = (self.readout(context) - chunks).abs()
            loss = loss + (error * self.column_weights).mean()
        return loss

    def _predict(self, inputs: Inputs, noise: Tensor | None) -> Tensor:
        context, head = self._context(inputs), self.model.head
        if self.model.config.head != "flow":
            return head(context)
        assert noise is not None
        return sample(partial(head.velocity, context), noise, head.steps)[
            ..., : self.model.config.action_size
        ]


def _slice(mask: Tensor) -> slice | Tensor:
    """Return the positions of the visual tokens: a slice where contiguous, else indices (1, N)."""
    positions = mask.nonzero().flatten()
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions[None]


def valid_tokens(contract: Contract, student: Student, grid: tuple[int, int]) -> Tensor | None:
    """Return which visual tokens (N,) lie outside letterbox bars; None where there are no bars."""
    shapes = [(camera.height, camera.width) for camera in contract.cameras]
    valid = torch.from_numpy(image_area(shapes, student.image_size, student.model.config.fit))[None]
    mask = token_mask(torch.ones(1, len(shapes), dtype=torch.bool), grid, valid)[0]
    return None if mask.all() else mask
