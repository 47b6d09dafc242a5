"""The parts of which the published U-Nets and autoencoders are built: residual blocks, attention over positions, steps
between sizes, the embedding of time. Names of modules are those of the published layout.

Letters: B batch, C channels, H W height and width, D width of a head or of the embedding of time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import GroupNorm, zeroed

Activation = Callable[[Tensor], Tensor]


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else holds: in its place, unless gradients need what it was."""
    return F.silu(x, inplace=not x.requires_grad)


class ResBlock(nn.Module):
    """Residual block [B, C, H, W] -> [B, out_channels, H, W] (Ho et al. 2020, appendix B).

    time_width: D of the embedding of time, which is added between the convolutions, or (`scale_shift`) scales and
    shifts the second norm; None where there is none, as in autoencoders. resize: halves (by averages) or doubles (by
    repetition) height and width of both branches before the first convolution. act: after each norm; it may compute in
    the place of what it gets. out_scale: what
    the sum of both branches is divided by.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        time_width: int | None,
        groups: int = 32,
        eps: float = 1e-6,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resize: Literal["down", "up"] | None = None,
        act: Activation = silu,
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resize, self.act, self.out_scale = scale_shift, resize, act, out_scale
        self.norm1 = GroupNorm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        if time_width is not None:
            self.time_emb_proj = nn.Linear(time_width, out_channels * (2 if scale_shift else 1))
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.conv_shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """emb: the embedding of time [B, D], already activated; None where the block takes none."""
        h = self.act(self.norm1(x))
        if self.resize == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resize == "up":
            h, x = F.interpolate(h, scale_factor=2.0), F.interpolate(x, scale_factor=2.0)  # nearest
        h = self.conv1(h)
        if emb is None:
            h = self.norm2(h)
        else:
            time = self.time_emb_proj(emb)[:, :, None, None]  # B C 1 1
            if self.scale_shift:
                scale, shift = time.chunk(2, dim=1)
                h = self.norm2(h)
                h = torch.addcmul(shift, h, 1 + scale)
            else:
                h += time
                h = self.norm2(h)
        h = self.act(h)
        h = self.conv2(self.dropout(h))
        h += self.conv_shortcut(x)
        out: Tensor = h if self.out_scale == 1 else h / self.out_scale
        return out


class Attention(nn.Module):
    """Self-attention over positions [B, C, H, W] -> the same; the rows of each projection are its heads, in turn.

    groups: of the norm before it; None where there is no norm.
    """

    def __init__(self, channels: int, *, heads: int = 1, groups: int | None = 32, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.group_norm = nn.Identity() if groups is None else GroupNorm(groups, channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([zeroed(nn.Linear(channels, channels))])

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        flat = self.group_norm(x).flatten(2).transpose(1, 2)  # B HW C
        q, k, v = (
            project(flat).view(b, height * width, self.heads, -1).transpose(1, 2)  # B heads HW D
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, height * width, c)
        out: Tensor = x + self.to_out[0](mixed).transpose(1, 2).reshape(b, c, height, width)
        return out


class Level(nn.Module):
    """Residual blocks of one size, with attention after each, or after the first so many."""

    def __init__(self, resnets: list[ResBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)

    def layer(self, number: int, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """A residual block and the attention after it."""
        x = self.resnets[number](x, emb)
        return self.attentions[number](x) if number < len(self.attentions) else x


class Downsample(nn.Module):
    """Halves height and width by a convolution. padding: 1 all around, or 0 for zeros at the bottom and right alone."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.conv.padding != (0, 0) else F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles height and width by repetition, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0))  # nearest
        return out


class TimeEmbedding(nn.Module):
    """Two layers over the sinusoids of time [B, C] -> [B, D]."""

    def __init__(self, channels: int, width: int, *, act: Activation = F.silu) -> None:
        super().__init__()
        self.act = act
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, waves: Tensor) -> Tensor:
        out: Tensor = self.linear_2(self.act(self.linear_1(waves)))
        return out
