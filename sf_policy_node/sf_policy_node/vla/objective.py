"""What a model's actions are trained with, one call for every kind of model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sf_policy_node.vla.flow import FlowDraws, flow_loss

PI0_KINDS = ("pi0", "pi05")
"""Kinds of model with pi0's flow expert."""


@dataclass(frozen=True)
class Pi0Draws:
    """Noise (B, H, columns) and time (B,) of a batch, on the processor."""

    noise: Tensor
    time: Tensor

    def select(self, indices: Tensor, parts: int) -> Pi0Draws:
        """Return the draws of some chunks of the batch; the loss needs no ``parts``."""
        return Pi0Draws(self.noise[indices], self.time[indices])


def draw(
    model: Any, count: int, generator: torch.Generator, draws: int = 4
) -> FlowDraws | Pi0Draws | None:
    """What chance decides in the loss of ``count`` chunks; None for a regression head.

    Drawn for a whole batch, so that parts of it (processes, accumulation) give what the whole
    gives.

    Args:
        model: a ``Nano``, ``HfVla`` or ``Pi0``.
        generator: on the processor.
        draws: noises and times for each chunk; pi0 takes one.
    """
    config = model.config
    if model.kind in PI0_KINDS:
        return Pi0Draws(*model.draw_noise(count, generator))
    if config.head == "flow":
        return FlowDraws.draw(count, config.horizon, config.action_size, draws, generator)
    return None


def action_loss(
    model: Any, context: Any, chunks: Tensor, weight: Tensor, drawn: FlowDraws | Pi0Draws | None
) -> Tensor:
    """L1 for a regression head; for a flow what that flow is trained with.

    Args:
        model: a ``Nano``, ``HfVla`` or ``Pi0``.
        context: what ``model.context`` gave for the batch.
        chunks: normalised actions (B, H, A).
        weight: (A,) of the columns.
        drawn: what :func:`draw` gave for these chunks.
    """
    if isinstance(drawn, Pi0Draws):
        return model.flow_loss(
            context, chunks, weight, noise=drawn.noise.to(chunks), time=drawn.time.to(chunks.device)
        )
    if drawn is not None:
        return flow_loss(model.head, context, chunks, weight, drawn)
    return ((model.head(context) - chunks).abs() * weight).mean()
