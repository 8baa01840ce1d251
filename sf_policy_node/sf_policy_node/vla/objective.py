"""The action loss of every model kind, behind one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sf_policy_node.vla.flow import FlowDraws, flow_loss

PI0_KINDS = ("pi0", "pi05")
"""Model kinds with pi0's flow expert."""


@dataclass(frozen=True)
class Pi0Draws:
    """Noise (B, H, columns) and flow time (B,) of a batch, on the processor."""

    noise: Tensor
    time: Tensor

    def select(self, indices: Tensor, parts: int) -> Pi0Draws:
        """Return the draws of some chunks of the batch; the loss needs no ``parts``."""
        return Pi0Draws(self.noise[indices], self.time[indices])


def draw(
    model: Any, count: int, generator: torch.Generator, draws: int = 4
) -> FlowDraws | Pi0Draws | None:
    """Draw the random numbers of the loss of ``count`` chunks; None for a regression head.

    They are drawn for the batch of all processes, so that micro-batches and processes add up to the
    loss of that batch.

    Args:
        model: a ``Nano``, ``HfVla``, ``Pi0`` or ``OpenVlaOft``.
        generator: on the processor.
        draws: noises and times for each chunk; pi0 uses one.
    """
    config = model.config
    if model.kind in PI0_KINDS:
        return Pi0Draws(*model.draw_noise(count, generator))
    if config.head == "flow":
        return FlowDraws.draw(count, config.horizon, config.action_size, draws, generator)
    return None


def action_loss(
    model: Any,
    context: Any,
    chunks: Tensor,
    column_weights: Tensor,
    drawn: FlowDraws | Pi0Draws | None,
) -> Tensor:
    """Return the L1 loss of a regression head, or the loss of a flow.

    Args:
        model: a ``Nano``, ``HfVla``, ``Pi0`` or ``OpenVlaOft``.
        context: result of ``model.context`` for the batch.
        chunks: normalised actions (B, H, A).
        column_weights: (A,) weight of each action column.
        drawn: result of :func:`draw` for these chunks.
    """
    if isinstance(drawn, Pi0Draws):
        return model.flow_loss(
            context,
            chunks,
            column_weights,
            noise=drawn.noise.to(chunks),
            time=drawn.time.to(chunks.device),
        )
    if drawn is not None:
        return flow_loss(model.head, context, chunks, column_weights, drawn)
    return ((model.head(context) - chunks).abs() * column_weights).mean()
