"""A decoder-only Transformer for text, character by character."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.models.init import truncated_normal_, variance_scaling_


class Attention(nn.Module):
    """Causal self-attention with ``heads`` heads of ``key_size`` each, which needn't multiply to ``width``."""

    def __init__(self, width: int, heads: int, key_size: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * key_size)
        self.out = nn.Linear(heads * key_size, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, length, width)`` to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each after a layer norm and with a shortcut."""

    def __init__(self, width: int, heads: int, key_size: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, key_size)
        self.norm2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, length, width)`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Transformer(nn.Module):
    """The character model of Long & Bartlett 2024: pre-norm, learned positions, untied output.

    Attention and feed-forward weights have variance 2 / (layers · fan_in), embeddings standard deviation 0.02,
    the output layer 1/√width, all truncated normal; biases are zero.

    Args:
        symbols: size of the alphabet.
        length: largest number of characters in a window.
        layers: number of blocks.
        width: width of the residual stream.
        heads: number of attention heads.
        key_size: size of each head's keys.
    """

    def __init__(self, symbols: int, length: int, layers: int, width: int, heads: int, key_size: int):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, key_size) for _ in range(layers)))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, symbols)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                # Queries, keys and values have the same fan-in, so one draw initializes all three.
                variance_scaling_(module.weight, 2 / layers)
                nn.init.zeros_(module.bias)
        truncated_normal_(self.embedding.weight, 0.02)
        truncated_normal_(self.positions.weight, 0.02)
        truncated_normal_(self.output.weight, width**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(n, length, symbols)`` of the next character for ``tokens`` ``(n, length)``, int64."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.positions(positions)
        return self.output(self.norm(self.blocks(x)))
