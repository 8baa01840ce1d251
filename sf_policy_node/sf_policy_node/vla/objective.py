"""What a model's actions are trained with, one call for every kind of model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sf_policy_node.vla.flow import flow_loss


def action_loss(model: Any, context: Any, chunks: Tensor, weight: Tensor, generator: torch.Generator, draws: int = 4) -> Tensor:
    """L1 for a regression head; for a flow what that flow is trained with.

    Args:
        model: a ``Nano``, ``HfVla`` or ``Pi0``.
        context: what ``model.context`` gave for the batch.
        chunks: normalised actions (B, H, A).
        weight: (A,) of the columns.
        generator: of noise and times, on the processor.
        draws: noises and times for each chunk; pi0 takes one.
    """
    if model.kind == "pi0":
        return model.flow_loss(context, chunks, weight, generator=generator)
    if model.config.head == "flow":
        return flow_loss(model.head, context, chunks, weight, draws, generator)
    return ((model.head(context) - chunks).abs() * weight).mean()
