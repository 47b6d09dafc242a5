"""The transformer of latent diffusion: positions attend to each other, then to a text, then pass a gated layer.

Rombach et al. 2022, arXiv:2112.10752, section 3.3 and appendix E.2.1. Names of modules are those of the published layout.
Letters: B batch, C channels, H W height and width, L tokens of a text, T positions, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import GroupNorm, LayerNorm, zeroed


class TokenAttention(nn.Module):
    """Positions [B, T, C] attend to each other, or to a context [N, L, context_width] -> [B, T, C]."""

    def __init__(self, channels: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        width = channels if context_width is None else context_width
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(width, channels, bias=False)
        self.to_v = nn.Linear(width, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def keys_values(self, context: Tensor) -> Tensor:
        """The keys and the values of a context [N, L, context_width] -> [N, 2, heads, L, D]."""
        return torch.stack([self._heads(self.to_k(context)), self._heads(self.to_v(context))], dim=1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """context: what `keys_values` gave. With N rows, fewer than B, each serves B/N neighbours: frames of a film."""
        b, positions, channels = x.shape
        if context is None:
            k, v = self._heads(self.to_k(x)), self._heads(self.to_v(x))  # B heads T D
        else:
            k, v = context.unbind(1)  # N heads L D
        q = self._heads(self.to_q(x).view(k.shape[0], -1, channels))  # N heads T*B/N D
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, positions, channels)
        out: Tensor = self.to_out[0](mixed)
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # B T C -> B heads T D


class GEGLU(nn.Module):
    """One half of a linear layer, gated by the GELU of the other half (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out


class FeedForward(nn.Module):
    """A gated layer four times as wide, and back. [B, T, C] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net[2](self.net[0](x))
        return out


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to a context, gated layer, each after a norm and added to its input.

    context_width: of the context; None: the second attention is over the positions too.
    """

    def __init__(self, channels: int, heads: int, context_width: int | None) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn1 = TokenAttention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.attn2 = TokenAttention(channels, heads, context_width)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x: [B, T, C]. context: what `attn2.keys_values` gave; None where the second attention has none."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class Transformer2D(nn.Module):
    """One such block over the positions of a feature map [B, C, H, W] -> the same, added to its input.

    linear: the projections around the block are linear layers; else 1x1 convolutions, which compute the same.
    """

    def __init__(
        self, channels: int, heads: int, context_width: int, *, groups: int = 32, linear: bool = False
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(channels, heads, context_width)])
        self.proj_out = zeroed(nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1))
        self.heads_width = (heads, channels // heads)

    def keys_values(self, text: Tensor) -> Tensor:
        """What a text [N, L, context_width] says to this layer, [N, 2, heads, L, D]; the same at every step."""
        block: Any = self.transformer_blocks[0]
        found: Tensor = block.attn2.keys_values(text)
        return found

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """context: what `keys_values` gave."""
        h = self.norm(x).flatten(2).transpose(1, 2)  # B HW C
        h = F.linear(h, self.proj_in.weight.flatten(1), self.proj_in.bias)
        h = self.transformer_blocks[0](h, context)
        h = F.linear(h, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + h.transpose(1, 2).reshape(x.shape)  # B C H W
