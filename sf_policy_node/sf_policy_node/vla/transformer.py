"""The transformer block of nano's trunk and of the flow heads."""

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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, width) to the same shape.

        Args:
            mask: (B, 1, 1, N) bool, False for tokens that nothing attends to; None: all are
                attended to.
        """
        batch, tokens, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(
            batch, tokens, 3, self.heads, width // self.heads
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, mask)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        # ReLU: its backward is much cheaper than GELU's on a processor.
        return x + self.down(functional.relu(self.up(self.mlp_norm(x))))
