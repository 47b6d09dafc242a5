"""GLIDE's text transformer, the part of its U-Net that reads, in OpenAI's layout of keys.

Letters: N batch, L tokens, D features.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import LayerNorm


class TextAttention(nn.Module):
    """Self-attention of the text; rows of `c_qkv` are [head 0: q, k, v][head 1: ...]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.c_qkv(x).view(n, length, self.heads, 3, width // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)  # N heads L D
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(n, length, width))
        return out


class TextMLP(nn.Module):
    """Two layers, four times as wide between them, with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class TextBlock(nn.Module):
    """A layer of the text transformer, normalised before each branch [N, L, D] -> [N, L, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = TextAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = TextMLP(width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class TextTransformer(nn.Module):
    """The layers over the text, all positions seeing all: no causal mask, none over padding."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TextBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x
