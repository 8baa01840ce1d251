"""``nano``: a vision-language-action model small enough to train on a laptop's processor.

A plain VLA: visual, text, state and action tokens in one transformer with full attention. The text
also scales and shifts all visual tokens alike (FiLM, arXiv 1709.07871). There is no spatial
attention by design, so that the effect of Spatial Forcing can be measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sf_policy_node.vla.backbones.visual_layout import VisualLayout
from sf_policy_node.vla.flow import FlowHead
from sf_policy_node.vla.preprocessing import Fit
from sf_policy_node.vla.transformer import Block


@dataclass(frozen=True)
class NanoConfig:
    """Sizes of the model."""

    cameras: int
    state_size: int
    action_size: int
    horizon: int
    image_size: int = 96  # pixels, square
    patch: int = 16  # pixels, square
    stem_stride: int = 4
    stem_width: int = 64
    text_size: int = 384
    text_tokens: int = 4
    width: int = 96
    layers: int = 4
    heads: int = 4
    head: Literal["regression", "flow"] = "regression"
    head_layers: int = 2  # of a flow head
    rows_per_query: int = 1  # steps of the chunk that one action token predicts
    # State column of the joint that each action column commands, or -1. The head then starts from
    # the measured joint positions and learns the difference to absolute joint targets. Empty: the
    # head does not see the state.
    measured: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.image_size % self.patch or self.patch % self.stem_stride:
            raise ValueError(
                f"image_size {self.image_size}, patch {self.patch} and stem_stride"
                f" {self.stem_stride} must divide each other"
            )
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 4 * heads ({4 * self.heads})"
            )
        if self.head not in ("regression", "flow"):
            raise ValueError(f"head {self.head!r} is not known; it is regression or flow")
        if self.horizon % self.rows_per_query:
            raise ValueError(
                f"rows_per_query {self.rows_per_query} must divide the horizon {self.horizon}"
            )
        object.__setattr__(self, "measured", tuple(self.measured))  # a list in config.json
        if self.head == "flow" and (self.rows_per_query > 1 or self.measured):
            raise ValueError("rows_per_query, measured: a flow head has neither")
        if self.measured and len(self.measured) != self.action_size:
            raise ValueError(f"measured: needs {self.action_size} values, one for each column")

    @property
    def fit(self) -> Fit:
        """The model sees the centre square of an image."""
        return "crop"

    @property
    def queries(self) -> int:
        """Number of action tokens."""
        return self.horizon // self.rows_per_query

    @property
    def grid(self) -> int:
        """Patches along one side of an image."""
        return self.image_size // self.patch

    def to_dict(self) -> dict[str, int | str]:
        """Return plain values for ``config.json``."""
        return asdict(self)


class RowsHead(nn.Linear):
    """Maps action tokens (B, Q, width), with the state appended, to actions (B, H, A)."""

    def __init__(self, config: NanoConfig) -> None:
        self._shape = (config.rows_per_query, config.action_size)
        state_size = config.state_size if config.measured else 0
        super().__init__(config.width + state_size, config.rows_per_query * config.action_size)
        with torch.no_grad():
            weights = self.weight.view(*self._shape, -1)[..., config.width :]
            weights.zero_()
            for column, state_column in enumerate(config.measured):
                if state_column >= 0:
                    weights[:, column, state_column] = 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the steps of every action token."""
        return super().forward(tokens).unflatten(-1, self._shape).flatten(-3, -2)


class Nano(nn.Module):
    """Maps images, instruction and robot state to a chunk of normalised actions."""

    kind = "nano"
    can_mask_cameras = True
    words = None  # reads sentence embeddings, not tokens

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Conv2d(3, config.stem_width, config.stem_stride, config.stem_stride)
        ratio = config.patch // config.stem_stride
        self.patch = nn.Conv2d(config.stem_width, width, ratio, ratio)
        self.place = nn.Parameter(
            0.5 * sin_cos_grid(config.grid, width).repeat(config.cameras, 1, 1)
        )
        self.camera = nn.Parameter(torch.randn(config.cameras, 1, width) * 0.3)
        self.text = nn.Linear(config.text_size, width * config.text_tokens)
        self.text_summary = nn.Linear(config.text_size, width)
        self.film = nn.Linear(width, 2 * width)
        self.state = nn.Linear(config.state_size, width)
        self.query = nn.Parameter(torch.randn(config.queries, width) * 0.5)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head: nn.Module
        if config.head == "flow":
            self.head = FlowHead(
                width, config.heads, config.head_layers, config.horizon, config.action_size
            )
        else:
            self.head = RowsHead(config)

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens.

        They come first in the sequence: cameras in order, patches row by row.
        """
        return self.config.cameras * self.config.grid**2

    def visual_layout(self) -> VisualLayout:
        """Return where the visual tokens are."""
        config = self.config
        length = self.visual_tokens + config.text_tokens + 1 + config.queries
        mask = torch.arange(length, device=self.query.device) < self.visual_tokens
        return VisualLayout(
            self.blocks, mask, (config.grid, config.grid), config.cameras, config.width
        )

    def forward(
        self,
        images: Tensor,
        state: Tensor,
        text: Tensor,
        *,
        rows: Tensor | None = None,
        tap: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict chunks with a regression head; arguments as for :meth:`encode`.

        Returns:
            Normalised actions (B, horizon, action_size), and the tapped visual tokens or None.
        """
        tokens, tapped = self.encode(images, state, text, rows=rows, tap=tap)
        return self.head(tokens), tapped

    def context(
        self,
        images: Tensor,
        state: Tensor,
        text: Tensor,
        *,
        rows: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Return action tokens (B, queries, ...) for the head; arguments as for :meth:`encode`."""
        return self.encode(images, state, text, rows=rows, present=present)[0]

    def encode(
        self,
        images: Tensor,
        state: Tensor,
        text: Tensor,
        *,
        rows: Tensor | None = None,
        tap: int | None = None,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the model up to its head.

        Args:
            images: (F, V, 3, S, S) uint8 or float in [0, 255].
            state: (B, state_size), normalised.
            text: (B, text_size), normalised sentence embedding.
            rows: (B,) index into ``images`` for each row of ``state`` and ``text``; None when F
                equals B. Several rows may share an image, for which the stem runs once.
            tap: number of blocks after which to read the visual tokens, 0 to layers; None reads
                none.
            present: (B, V), False where a camera is missing: nothing attends to its tokens. None:
                no camera is missing.

        Returns:
            Action tokens (B, queries, ...) for the head, and the tapped visual tokens (B, V *
            grid^2, width) or None.
        """
        batch = state.shape[0]
        pixels = images.flatten(0, 1).float().div(127.5).sub(1.0)
        patches = self.patch(
            functional.relu(self.stem(pixels.contiguous(memory_format=torch.channels_last)))
        )
        visual = (
            patches.flatten(2)
            .transpose(1, 2)
            .reshape(images.shape[0], self.config.cameras, -1, self.config.width)
        )
        if rows is not None:
            visual = visual[rows]

        summary = self.text_summary(text)
        scale, shift = self.film(summary)[:, None, None].chunk(2, -1)
        visual = (visual * (1 + scale) + shift + self.place + self.camera).flatten(1, 2)
        words = self.text(text).view(batch, self.config.text_tokens, -1)
        state_token = self.state(state)[:, None]
        query = self.query + summary[:, None] + state_token
        x = torch.cat([visual, words, state_token, query], 1)
        mask = None
        if present is not None:
            mask = present.repeat_interleave(self.config.grid**2, 1)
            mask = functional.pad(mask, (0, x.shape[1] - mask.shape[1]), value=True)[:, None, None]

        tapped = x[:, : self.visual_tokens] if tap == 0 else None
        for number, block in enumerate(self.blocks, 1):
            x = block(x, mask)
            if tap == number:
                tapped = x[:, : self.visual_tokens]
        actions = self.norm(x[:, -self.config.queries :])
        if self.config.measured:
            states = state[:, None].expand(-1, self.config.queries, -1)
            actions = torch.cat([actions, states], -1)
        return actions, tapped


def sin_cos_grid(grid: int, width: int, octaves: float = 5.0) -> Tensor:
    """Return a fixed two-dimensional position embedding (grid * grid, width), patches row by row.

    Channels are [sin y, cos y, sin x, cos x], width / 4 each, with y and x from 0 to 1 at patch
    centres and frequencies pi 2^(octaves k / (width / 4)) for k = 0 ... width / 4 - 1. ``width``
    must be a multiple of 4.
    """
    centres = (torch.arange(grid) + 0.5) / grid
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    frequency = torch.pi * 2 ** (torch.arange(width // 4) / (width // 4) * octaves)
    return torch.cat(
        [
            wave(axis.reshape(-1, 1) * frequency)
            for axis in (rows, columns)
            for wave in (torch.sin, torch.cos)
        ],
        1,
    )
