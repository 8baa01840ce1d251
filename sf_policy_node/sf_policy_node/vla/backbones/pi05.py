"""``pi0.5`` (arXiv 2504.16054) on transformers' PI0.

Two differences from pi0, as in openpi's ``pi0_pytorch.py`` and ``gemma.py``:

* The flow time enters every norm of the expert (adaptive RMSNorm: scale, shift and gate from a
  linear layer on the embedding of the time) instead of the action tokens.
* The state is part of the prompt: each value as the number of one of 256 bins.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer

from sf_policy_node.vla.backbones.words import PADDING, Words, WordsError

PROMPT = "Task: {instruction}, State:"
_TAIL = ";\nAction: "
_BINS = 256
_PROBE = "pick the red cube"


class StateWords(Words):
    """Encodes instruction and state into one row: ``Task: ..., State: 12 200;\\nAction: ``.

    Values are encoded one by one, so the tokenizer must not merge across a space or before ``;``.

    Raises:
        WordsError: the tokenizer merges across these borders.
    """

    def __init__(self, tokenizer: Any, length: int, prompt: str, vocabulary: int) -> None:
        super().__init__(tokenizer, length, prompt, vocabulary)
        self._tail = self._ids(_TAIL)
        self._values = [self._ids(f" {value}") for value in range(-1, _BINS)]
        head = prompt.replace("{instruction}", _PROBE)
        joined = [*self._ids(head), *self._values[8], *self._values[201], *self._tail]
        if joined != self._ids(f"{head} 7 200{_TAIL}"):
            raise WordsError(
                "pi0.5: the tokenizer joins the state's numbers with the words around them; take"
                " PaliGemma's tokenizer"
            )

    def encode(self, instructions: list[str]) -> Tensor:
        """Return ids (B, length) int64 of the prompt up to the state; see :meth:`Words.encode`."""
        return super().encode([clean(text) for text in instructions])

    def with_state(self, text: Tensor, state: Tensor) -> Tensor:
        """Append the state to encoded instructions.

        Args:
            text: (B, length) from :meth:`encode`.
            state: (B, S), normalised; the bins cover -1 to 1.

        Returns:
            (B, length) int64 on the device of ``text``.

        Raises:
            WordsError: instruction and state are longer than the row.
        """
        rows = torch.full((len(text), self.length), PADDING)
        for row, head, bins in zip(rows, text.tolist(), discretise(state).tolist(), strict=True):
            ids = [token for token in head if token != PADDING]
            for number in bins:
                ids += self._values[number + 1]
            ids += self._tail
            if len(ids) > self.length:
                raise WordsError(
                    f"instruction and state: {len(ids)} tokens, the model takes {self.length};"
                    " shorten the instruction, or raise --student.text-tokens"
                )
            row[: len(ids)] = torch.tensor(ids)
        return rows.to(text.device)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def clean(instruction: str) -> str:
    """Replace underscores and line feeds by spaces, as openpi's tokenizer does."""
    return instruction.strip().replace("_", " ").replace("\n", " ")


def discretise(state: Tensor) -> Tensor:
    """Return the bin (B, S) of each value: 0 to 255 for -1 to 1, -1 below (openpi's digitize)."""
    edges = torch.linspace(-1, 1, _BINS + 1, dtype=torch.float64)[:-1]
    return torch.bucketize(state.detach().double().cpu(), edges, right=True) - 1


class _Conditioned(nn.Module):
    """RMSNorm whose scale, shift and gate depend on :attr:`condition` (B, width)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.dense = nn.Linear(width, 3 * width)
        self.condition: Tensor | None = None

    def _normed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift, gate = self.dense(self.condition)[:, None].chunk(3, -1)
        normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return (normed * (1 + scale.float()) + shift.float()).to(x.dtype), gate.to(x.dtype)


class AdaptiveNorm(_Conditioned):
    """The norm before attention, and before the MLP."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise (B, T, width); return it and the gate (B, 1, width) of what follows."""
        return self._normed(x)


class _LastNorm(_Conditioned):
    """The norm after the last block, which has no gate."""

    def forward(self, x: Tensor) -> Tensor:
        return self._normed(x)[0]


class AdaptiveLayer(GemmaDecoderLayer):
    """A block of the expert with adaptive norms and gated residuals."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        width, eps = config.hidden_size, config.rms_norm_eps
        # They replace norms of another class.
        self.input_layernorm = AdaptiveNorm(width, eps)  # type: ignore[assignment]
        self.post_attention_layernorm = AdaptiveNorm(width, eps)  # type: ignore[assignment]

    def forward(  # type: ignore[override]  # Gemma passes the others by name
        self, hidden_states: Tensor, **kwargs: Any
    ) -> Tensor:
        """Run the block; arguments as transformers' Gemma passes them."""
        normed, gate = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(hidden_states=normed, **kwargs)
        hidden_states = hidden_states + gate * attended
        normed, gate = self.post_attention_layernorm(hidden_states)
        return hidden_states + gate * self.mlp(normed)


class Pi05Embedding(nn.Module):
    """Embeds noisy actions, and the flow time for the norms."""

    def __init__(self, columns: int, width: int, periods: tuple[float, float]) -> None:
        super().__init__()
        self.action_in_proj = nn.Linear(columns, width)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self._width, self._periods = width, periods

    def forward(self, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return action tokens (B, H, width), and the condition (B, width) for times (B,).

        The time is embedded as [sin, cos] of ``2 pi t / p_k`` with periods p_k from ``periods[0]``
        to ``periods[1]`` in geometric progression (openpi's ``create_sinusoidal_pos_embedding``).
        """
        low, high = self._periods
        share = torch.linspace(0.0, 1.0, self._width // 2, dtype=torch.float64, device=time.device)
        angle = time.double()[:, None] * (2 * math.pi / (low * (high / low) ** share))
        embedded = torch.cat([angle.sin(), angle.cos()], 1).to(noisy.dtype)
        hidden = functional.silu(self.time_mlp_in(embedded))
        return self.action_in_proj(noisy), functional.silu(self.time_mlp_out(hidden))


def make_adaptive(backbone: Any) -> None:
    """Turn a new PI0 model of transformers into pi0.5's, in place; the new layers are random."""
    config, dit = backbone.config, backbone.model.dit
    dtype, width = next(backbone.parameters()).dtype, dit.config.hidden_size
    dit.layers = nn.ModuleList(
        AdaptiveLayer(dit.config, index) for index in range(dit.config.num_hidden_layers)
    ).to(dtype)
    dit.norm = _LastNorm(width, dit.config.rms_norm_eps).to(dtype)
    backbone.embed_action_time = Pi05Embedding(
        config.max_action_dim, width, (config.min_period, config.max_period)
    ).to(dtype)


def velocity(backbone: Any, cache: Any, prefix: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
    """Return the velocity (B, H, columns) in transformers' convention; extends ``cache``.

    Args:
        prefix: (B, T), 1 where a token of the prefix is not padding.
        noisy: (B, H, columns).
        time: (B,), 1 is noise.
    """
    embedded, condition = backbone.embed_action_time(noisy, time)
    dit, steps = backbone.model.dit, noisy.shape[1]
    for module in dit.modules():
        if isinstance(module, _Conditioned):
            module.condition = condition
    mask = torch.cat([prefix.bool(), prefix.new_ones(len(noisy), steps).bool()], 1)
    offset = prefix.sum(1, keepdim=True)
    hidden = dit(
        inputs_embeds=embedded,
        attention_mask=mask[:, None, None, :].expand(-1, 1, steps, -1),
        position_ids=offset + torch.arange(steps, device=noisy.device),
        past_key_values=cache,
    ).last_hidden_state
    return backbone.action_out_proj(hidden)
