"""The transformer block that trunk and heads share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Pre-norm transformer block with full attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        nn.init.zeros_(self.out.bias)
        nn.init.normal_(self.down.weight, std=0.02)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, N, width) to the same shape. Where ``seen`` (B, 1, 1, N) is False nothing attends to
        that token.
        """
        batch, tokens, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(
            batch, tokens, 3, self.heads, width // self.heads
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, seen)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        # ReLU: its backward is much cheaper than GELU's on a processor.
        return x + self.down(functional.relu(self.up(self.mlp_norm(x))))
