"""Real-time chunking (arXiv 2506.07339): a flow policy continues the chunk that is being executed.

During inference the arm executes the previous chunk. Steps of it that will have been executed when
the new chunk arrives are frozen. Later steps guide the new chunk with falling weight, and its last
steps are free: inpainting by guided sampling.

Convention in this module: flow time ``tau`` runs from 0 (noise) to 1 (action), the velocity is
``action - noise`` and the clean estimate is ``x + (1 - tau) v``. openpi and transformers use ``t``
from 1 (noise) to 0 and the velocity ``noise - action``; :func:`ascending` converts theirs. With a
wrong sign, guidance pushes away from the previous chunk and still looks plausible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""Maps a noisy chunk (B, H, A) and ``tau`` to its velocity (B, H, A)."""

STEPS = 5
MAX_GUIDANCE = 5.0


@dataclass(frozen=True)
class Guidance:
    """Target of the guidance.

    Attributes:
        rows: (H, A) or (B, H, A) normalised steps of the previous chunk.
        step_weights: (H,) from :func:`soft_mask`.
        max_weight: upper limit of the guidance weight (beta in the paper).
    """

    rows: Tensor
    step_weights: Tensor
    max_weight: float = MAX_GUIDANCE


def sample(
    velocity: Velocity, noise: Tensor, steps: int = STEPS, guidance: Guidance | None = None
) -> Tensor:
    """Integrate from noise (B, H, A) to a chunk by Euler's method.

    With guidance each step needs one backward pass through ``velocity``.

    Args:
        velocity: called at tau = 0, 1 / steps, ..., never at tau = 1.

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
    """Return the guided velocity (B, H, A): pseudoinverse guidance of arXiv 2506.07339.

    ``v + w(tau) ((Y - a) diag(W)) da/dx`` with the clean estimate ``a = x + (1 - tau) v(x, tau)``
    (B, H, A), the target steps Y (``guidance.rows``), their weights W (``step_weights``) and w from
    :func:`guidance_weight`; da/dx is the Jacobian of the estimate.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_(True)
        v = velocity(x, tau)
        clean = x + (1.0 - tau) * v
        difference = (guidance.rows - clean.detach()) * guidance.step_weights[:, None]
        (pull,) = torch.autograd.grad(clean, x, difference)
    return v.detach() + guidance_weight(tau, guidance.max_weight) * pull


def guidance_weight(tau: float, max_weight: float = MAX_GUIDANCE) -> float:
    """Return ``min(max_weight, (1 - tau) / (tau r^2))`` for 0 <= tau < 1.

    ``r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2)`` (arXiv 2506.07339, clipped guidance weight).
    """
    if tau <= 0.0:
        return max_weight
    return min(max_weight, (tau**2 + (1.0 - tau) ** 2) / (tau * (1.0 - tau)))


def soft_mask(horizon: int, delay: int, overlap: int) -> Tensor:
    """Return guidance weights W (horizon,) of the steps (arXiv 2506.07339, soft masking).

    1 for steps before ``delay``; ``c (e^c - 1) / (e - 1)`` with ``c = (overlap - i) / (overlap -
    delay + 1)`` for step i from ``delay`` to ``overlap``; 0 from ``overlap`` on. In the paper
    ``delay`` is d and ``overlap`` is H - s.

    Args:
        delay: steps that will have been executed when the chunk arrives.
        overlap: steps of the previous chunk that are not executed yet.

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
    """Convert a velocity of openpi's convention to that of this module.

    openpi: t from 1 to 0, ``noise - action``.
    """
    return lambda x, tau: -velocity(x, 1.0 - tau)
