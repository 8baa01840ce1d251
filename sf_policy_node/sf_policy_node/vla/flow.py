"""Flow-matching head: generates a chunk of actions from noise.

Legend: epsilon (H, A) is Gaussian noise, a (H, A) the normalised action chunk, tau in [0, 1] the
flow time, 0 at noise and 1 at the action, in the whole package.

* Interpolant ``x_tau = (1 - tau) epsilon + tau a`` and velocity ``v = a - epsilon`` (Lipman et al.,
  arXiv 2210.02747, the optimal-transport path with sigma_min = 0).
* The network estimates ``a``, and ``v = (a - x_tau) / (1 - tau)`` follows. A small network learns
  ``a`` much more exactly than ``v`` where demonstrations leave little choice (Li and He, arXiv
  2511.13720).

Every step of a chunk has a time of its own. Steps at ``tau = 1`` are a given prefix, which the
other steps continue (training-time real-time chunking, arXiv 2512.05964).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sf_policy_node.vla.real_time_chunking import STEPS
from sf_policy_node.vla.transformer import Block

_FREQUENCIES = 12
_PREFIX_SHARE = 0.5  # of the draws in training that have given steps
_LAST_TIME = 0.99  # a velocity at tau = 1 would be 0 / 0


class FlowHead(nn.Module):
    """Estimates the clean chunk behind a noisy one.

    Transformer blocks over the steps of the chunk.
    """

    frequencies: Tensor  # buffer
    steps = STEPS
    keeps_given = True  # each step has its own time, so a prefix can be given

    def __init__(self, width: int, heads: int, layers: int, horizon: int, action_size: int) -> None:
        super().__init__()
        # Names of weights in checkpoints: enter and leave are the projections of noisy and clean
        # actions, place is the positional embedding of the steps.
        self.enter = nn.Linear(action_size, width)
        self.place = nn.Parameter(torch.randn(horizon, width) * 0.1)
        self.time_in = nn.Linear(2 * _FREQUENCIES, width)
        self.time_out = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, action_size)
        self.register_buffer(
            "frequencies", torch.pi * 2.0 ** torch.linspace(-1, 4, _FREQUENCIES), persistent=False
        )

    @property
    def columns(self) -> int:
        """Number of action columns of a chunk."""
        return self.leave.out_features

    def forward(self, tokens: Tensor, noisy: Tensor, tau: Tensor) -> Tensor:
        """Estimate the clean chunk (B, H, A).

        Args:
            tokens: action tokens (B, H, width) of the trunk.
            noisy: (B, H, A).
            tau: (B, H) flow time of each step.
        """
        angle = tau[..., None] * self.frequencies
        time = self.time_out(
            functional.silu(self.time_in(torch.cat([angle.sin(), angle.cos()], -1)))
        )
        x = tokens + self.enter(noisy) + time + self.place
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x))

    def velocity(self, tokens: Tensor, noisy: Tensor, tau: float, given: int = 0) -> Tensor:
        """Return the velocity (B, H, A) at time ``tau`` < 1.

        Args:
            given: number of steps at the start of ``noisy`` that are clean; their velocity is zero.
        """
        times = noisy.new_full(noisy.shape[:2], tau)
        times[:, :given] = 1.0
        is_free = (torch.arange(noisy.shape[1], device=noisy.device) >= given)[:, None]
        # Guidance must not change given steps in favour of the others: no gradient for them.
        clean = self(tokens, torch.where(is_free, noisy, noisy.detach()), times)
        return torch.where(is_free, (clean - noisy) / (1.0 - tau), torch.zeros_like(noisy))


@dataclass(frozen=True)
class FlowDraws:
    """Random numbers of the flow loss for a batch of B chunks, D draws for each, on the processor.

    Attributes:
        noise: (D, B, H, A).
        tau: (D, B, 1) flow time of the steps after the given prefix.
        given: (D, B, 1) number of given steps.
        free_steps: number of steps after the prefixes, over the whole batch; the loss is their
            mean.
        parts: number of equal parts into which the batch is split.
    """

    noise: Tensor
    tau: Tensor
    given: Tensor
    free_steps: int
    parts: int = 1

    @classmethod
    def draw(
        cls, count: int, horizon: int, columns: int, draws: int, generator: torch.Generator
    ) -> FlowDraws:
        """Draw for ``count`` chunks; on the processor, so every device gets the same numbers."""
        total = count * draws
        noise = torch.randn(total, horizon, columns, generator=generator)
        tau = _LAST_TIME * torch.rand(total, 1, generator=generator)
        given = torch.randint(1, horizon // 2 + 1, (total, 1), generator=generator)
        given = torch.where(torch.rand(total, 1, generator=generator) < _PREFIX_SHARE, given, 0)
        free_steps = int((horizon - given).sum())
        return cls(
            noise.unflatten(0, (draws, count)),
            tau.unflatten(0, (draws, count)),
            given.unflatten(0, (draws, count)),
            free_steps,
        )

    def select(self, indices: Tensor, parts: int) -> FlowDraws:
        """Return the draws of some chunks of a batch that is split into ``parts`` equal parts.

        The mean of the losses of the parts is the loss of the batch.
        """
        return FlowDraws(
            self.noise[:, indices],
            self.tau[:, indices],
            self.given[:, indices],
            self.free_steps,
            parts,
        )


def flow_loss(
    head: FlowHead, tokens: Tensor, chunks: Tensor, column_weights: Tensor, drawn: FlowDraws
) -> Tensor:
    """Return the mean squared error of the estimated clean chunk over the free steps.

    Several draws share one forward pass of the trunk: the head costs little, and the gradient of a
    single draw is noisy.

    Args:
        tokens: action tokens (B, H, width).
        chunks: normalised actions (B, H, A).
        column_weights: (A,) weight of each action column.
        drawn: of these chunks.
    """
    draws, horizon = len(drawn.noise), chunks.shape[1]
    tokens, chunks = tokens.repeat(draws, 1, 1), chunks.repeat(draws, 1, 1)
    device = chunks.device
    is_free = (torch.arange(horizon) >= drawn.given.flatten(0, 1)).to(device)
    tau = torch.where(is_free, drawn.tau.flatten(0, 1).to(device).expand(-1, horizon), 1.0)
    noisy = torch.lerp(drawn.noise.flatten(0, 1).to(device), chunks, tau[..., None])
    error = (head(tokens, noisy, tau) - chunks).square() * column_weights
    return error[is_free].sum() * (drawn.parts / (drawn.free_steps * chunks.shape[2]))
