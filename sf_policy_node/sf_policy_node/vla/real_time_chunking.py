"""Real-time chunking (arXiv 2506.07339): a flow policy's next chunk goes on where the last one will
be when it arrives.

While a chunk is being made the arm follows the one before. Rows of that one which will have been
executed are frozen, later ones
pull with falling weight, and the last ones of the new chunk are free: inpainting, by guidance of
the sampling.

ONE convention of time holds in here: ``tau`` runs from 0 (noise) to 1 (action), the velocity is
``action - noise`` and the clean estimate ``x + (1 - tau) v``. openpi and transformers run ``t``
from 1 (noise) to 0 with the velocity ``noise - action``; their models go through :func:`ascending`.
With one sign wrong, guidance would push AWAY from the last chunk and still look plausible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""(noisy chunk (B, H, A), tau) to its velocity (B, H, A)."""

STEPS = 5
MAX_GUIDANCE = 5.0


@dataclass(frozen=True)
class Guidance:
    """What a chunk is drawn towards: rows (H, A) or (B, H, A) in the model's own units, with
    weights (H,) from :func:`soft_mask`.
    """

    rows: Tensor
    weights: Tensor
    max_weight: float = MAX_GUIDANCE


def sample(
    velocity: Velocity, noise: Tensor, steps: int = STEPS, guidance: Guidance | None = None
) -> Tensor:
    """Integrate from noise (B, H, A) to a chunk by Euler's method; guided, each step needs one
    backward pass through ``velocity``.

    Args:
        velocity: at tau = 0, 1 / steps, ... ; never asked at tau = 1.

    Raises:
        ValueError: ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    x = noise
    for step in range(steps):
        tau = step / steps
        v = velocity(x, tau) if guidance is None else guided_velocity(velocity, x, tau, guidance)
        x = x + v / steps
    return x


def guided_velocity(velocity: Velocity, x: Tensor, tau: float, guidance: Guidance) -> Tensor:
    """Velocity (B, H, A) plus the pull towards ``guidance.rows``: how far the clean estimate is
    from them, through its Jacobian.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_(True)
        v = velocity(x, tau)
        clean = x + (1.0 - tau) * v
        difference = (guidance.rows - clean.detach()) * guidance.weights[:, None]
        (pull,) = torch.autograd.grad(clean, x, difference)
    return v.detach() + guidance_weight(tau, guidance.max_weight) * pull


def guidance_weight(tau: float, max_weight: float = MAX_GUIDANCE) -> float:
    """min(max_weight, (1 - tau) / (tau r^2)) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2), for 0
    <= tau < 1.
    """
    if tau <= 0.0:
        return max_weight
    return min(max_weight, (tau**2 + (1.0 - tau) ** 2) / (tau * (1.0 - tau)))


def soft_mask(horizon: int, delay: int, overlap: int) -> Tensor:
    """Weights (horizon,): 1 before row ``delay``, falling to 0 at row ``overlap`` (H - s in the
    paper), 0 from there on.

    Args:
        delay: rows that will have been executed when the chunk arrives (d).
        overlap: rows of the last chunk that are still ahead.

    Raises:
        ValueError: not 0 <= delay <= overlap <= horizon.
    """
    if not 0 <= delay <= overlap <= horizon:
        raise ValueError(
            f"needs 0 <= delay <= overlap <= horizon, got {delay}, {overlap}, {horizon}"
        )
    weights = torch.zeros(horizon)
    weights[:delay] = 1.0
    for row in range(delay, overlap):
        c = (overlap - row) / (overlap - delay + 1)
        weights[row] = c * math.expm1(c) / (math.e - 1.0)
    return weights


def ascending(velocity: Velocity) -> Velocity:
    """A velocity of the openpi convention (t from 1 to 0, ``noise - action``, asked as
    ``velocity(x, t)``) in the one of this module.
    """
    return lambda x, tau: -velocity(x, 1.0 - tau)
