"""A flow-matching head: it turns noise into a chunk of actions, given the trunk's action tokens.

Time ``tau`` runs from 0 (noise) to 1 (action) everywhere in this package; ``x_tau = (1 - tau) noise
+ tau action`` and the velocity is ``action - noise`` (Lipman et al. 2023). The network estimates
the action itself and the velocity follows from it, which a small network learns much more exactly
where demonstrations leave little choice (Li and He, arXiv 2511.13720).

Every row of a chunk has a time of its own: rows at ``tau = 1`` are given, and the others continue
them (training-time real-time chunking, arXiv 2512.05964).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sf_policy_node.vla.real_time_chunking import STEPS
from sf_policy_node.vla.transformer import Block

_FREQUENCIES = 12
_PREFIX_SHARE = 0.5  # of the draws in training that have given rows
_LAST_TIME = 0.99  # a velocity at tau = 1 would be 0 / 0


class FlowHead(nn.Module):
    """Estimates the action behind a noisy chunk; two transformer blocks over the rows of the
    chunk.
    """

    steps = STEPS
    keeps_given = True  # rows have times of their own

    def __init__(self, width: int, heads: int, layers: int, horizon: int, action_size: int) -> None:
        super().__init__()
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
        """Of a chunk."""
        return self.leave.out_features

    def forward(self, tokens: Tensor, noisy: Tensor, tau: Tensor) -> Tensor:
        """The clean chunk (B, H, A) behind ``noisy`` (B, H, A), for action tokens (B, H, width) and
        times (B, H) of its rows.
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
        """Velocity (B, H, A) at time ``tau`` below 1; the first ``given`` rows of ``noisy`` are
        clean and stand still.
        """
        times = noisy.new_full(noisy.shape[:2], tau)
        times[:, :given] = 1.0
        moving = (torch.arange(noisy.shape[1], device=noisy.device) >= given)[:, None]
        # Given rows are no variables: guidance must not move them in favour of the others.
        clean = self(tokens, torch.where(moving, noisy, noisy.detach()), times)
        return torch.where(moving, (clean - noisy) / (1.0 - tau), torch.zeros_like(noisy))


@dataclass(frozen=True)
class FlowDraws:
    """Noises, times and given rows of a batch of B chunks, several draws of each: (draws, B, ...),
    on the processor.

    ``free`` is the number of rows that are not given, over the whole batch: parts of it weigh as
    they do in the whole.
    """

    noise: Tensor  # (D, B, H, A)
    tau: Tensor  # (D, B, 1)
    given: Tensor  # (D, B, 1)
    free: int
    parts: int = 1

    @classmethod
    def draw(
        cls, count: int, horizon: int, columns: int, draws: int, generator: torch.Generator
    ) -> FlowDraws:
        """For ``count`` chunks. Drawn on the processor whatever the device: every device draws
        alike.
        """
        whole = count * draws
        noise = torch.randn(whole, horizon, columns, generator=generator)
        tau = _LAST_TIME * torch.rand(whole, 1, generator=generator)
        given = torch.randint(1, horizon // 2 + 1, (whole, 1), generator=generator)
        given = torch.where(torch.rand(whole, 1, generator=generator) < _PREFIX_SHARE, given, 0)
        free = int((horizon - given).sum())
        return cls(
            noise.unflatten(0, (draws, count)),
            tau.unflatten(0, (draws, count)),
            given.unflatten(0, (draws, count)),
            free,
        )

    def select(self, indices: Tensor, parts: int) -> FlowDraws:
        """Return the draws of some chunks of a batch that is split into ``parts`` equal parts.

        The mean of the losses of the parts is the loss of the batch.
        """
        return FlowDraws(
            self.noise[:, indices],
            self.tau[:, indices],
            self.given[:, indices],
            self.free,
            parts,
        )


def flow_loss(
    head: FlowHead, tokens: Tensor, chunks: Tensor, weight: Tensor, drawn: FlowDraws
) -> Tensor:
    """Mean squared error of the clean estimate, over several noises and times for each chunk.

    Several draws for one pass of the trunk: the head costs little, and a single draw makes a noisy
    gradient.

    Args:
        tokens: action tokens (B, H, width).
        chunks: normalised actions (B, H, A).
        weight: (A,) of the columns.
    """
    draws, horizon = len(drawn.noise), chunks.shape[1]
    tokens, chunks = tokens.repeat(draws, 1, 1), chunks.repeat(draws, 1, 1)
    device = chunks.device
    free = (torch.arange(horizon) >= drawn.given.flatten(0, 1)).to(device)
    tau = torch.where(free, drawn.tau.flatten(0, 1).to(device).expand(-1, horizon), 1.0)
    noisy = torch.lerp(drawn.noise.flatten(0, 1).to(device), chunks, tau[..., None])
    error = (head(tokens, noisy, tau) - chunks).square() * weight
    return error[free].sum() * (drawn.parts / (drawn.free * chunks.shape[2]))
