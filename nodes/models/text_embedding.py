"""A text as one vector, which published U-Nets add to the embedding of time (`addition_embed_type: text`).

Letters: N batch, L tokens, D features. Names of modules are the published ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import LayerNorm


class AttentionPooling(nn.Module):
    """A text [N, L, D] as one vector [N, D]: what its mean, moved by a learned vector, sees in the mean and the text."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(1, width).normal_(std=width**-0.5))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)

    def forward(self, text: Tensor) -> Tensor:
        mean = text.mean(dim=1, keepdim=True) + self.positional_embedding  # N 1 D
        both = torch.cat([mean, text], dim=1)  # N L+1 D
        q, k, v = (
            project(part).unflatten(2, (self.heads, -1)).transpose(1, 2)  # N heads . D/heads
            for project, part in ((self.q_proj, mean), (self.k_proj, both), (self.v_proj, both))
        )
        return F.scaled_dot_product_attention(q, k, v).flatten(1)


class TextEmbedding(nn.Module):
    """The pooled text, added to the embedding of time. [N, L, text_width] -> [N, width]"""

    def __init__(self, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(text_width)
        self.pool = AttentionPooling(text_width, heads)
        self.proj = nn.Linear(text_width, width)
        self.norm2 = LayerNorm(width)

    def forward(self, text: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.proj(self.pool(self.norm1(text))))
        return out
