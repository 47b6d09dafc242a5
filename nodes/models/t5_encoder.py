"""T5's encoder, in the published layout.

Letters: B batch, L tokens, D features, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact
from ...errors import InputError
from ..kinds import TextEmbeds, Tokens
from .text_blocks import LIBRARY_KEYS, checked_tokens

Count = Annotated[int, Bound(ge=1)]


@dataclass(frozen=True)
class T5EncoderConfig:
    """The published config of such an encoder; the defaults are what a key left out of it means.

    vocab_size: how many ids there are. d_model, num_layers, num_heads, d_kv, d_ff: D, the blocks, the heads of each and
    their width, and the width inside of the feed-forward layer. feed_forward_proj: ReLU for T5, GELU with a gate for
    T5 v1.1. relative_attention_num_buckets, relative_attention_max_distance: how finely distances are told apart, and
    from where on no more. layer_norm_epsilon: of the norms. dropout_rate: while training.
    """

    vocab_size: Count = 32128
    d_model: Count = 512
    d_kv: Count = 64
    d_ff: Count = 2048
    num_layers: Count = 6
    num_heads: Count = 8
    feed_forward_proj: Literal["relu", "gated-gelu"] = "relu"
    relative_attention_num_buckets: Count = 32
    relative_attention_max_distance: Count = 128
    layer_norm_epsilon: Annotated[float, Bound(gt=0)] = 1e-6
    dropout_rate: Annotated[float, Bound(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        buckets = self.relative_attention_num_buckets
        if buckets % 4 or self.relative_attention_max_distance <= buckets // 4:
            raise InputError(
                f"relative_attention_num_buckets: {buckets} up to a distance of {self.relative_attention_max_distance}; "
                "expected a multiple of 4, and a distance above a fourth of it"
            )


def bucket(distance: int, buckets: int, max_distance: int) -> int:
    """The bucket of a key that is `distance` places after the query (Raffel et al. 2020, section 2.1).

    Half of the buckets are for keys after the query. Of each half, half are for one distance each, and half for ranges
    that grow as powers up to max_distance, e + floor(e ln(n / e) / ln(max / e)), worked out in whole numbers.
    """
    half, exact = buckets // 2, buckets // 4
    number = abs(distance)
    if number >= exact:
        steps = half - exact
        powers = (exact**steps * max_distance**k <= number**steps * exact**k for k in range(1, steps))
        number = exact + sum(powers)
    return number + half * (distance > 0)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), scaled: no mean is taken away, nothing added [B, L, D] -> [B, L, D].

    Computed in fp32 at least; the result has the dtype of the weights.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * (x * scale).to(self.weight.dtype)


class SelfAttention(nn.Module):
    """Attention without 1/sqrt(d), to which what a distance adds is given [B, L, D] -> [B, L, D]."""

    def __init__(self, config: T5EncoderConfig, first: bool) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_heads, config.dropout_rate
        inner = self.heads * config.d_kv
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if first:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))  # B H L D
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0)
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out


class DenseReluDense(nn.Module):
    """The feed-forward layer [B, L, D] -> [B, L, D]; its result is fp32 where the weights are fp16, which it overflows."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__()
        self.gated, self.dropout = config.feed_forward_proj == "gated-gelu", config.dropout_rate
        if self.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.wo.weight.float() if self.wo.weight.dtype == torch.float16 else self.wo.weight
        if self.gated:
            x = F.gelu(self.wi_0(x), approximate="tanh").to(weight.dtype) * self.wi_1(x)
        else:
            x = F.relu(self.wi(x)).to(weight.dtype)
        return F.linear(F.dropout(x, self.dropout, self.training), weight)


class AttentionLayer(nn.Module):
    """The first half of a block: what attention adds to x [B, L, D]."""

    def __init__(self, config: T5EncoderConfig, first: bool) -> None:
        super().__init__()
        self.dropout = config.dropout_rate
        self.SelfAttention = SelfAttention(config, first)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return F.dropout(self.SelfAttention(self.layer_norm(x), bias), self.dropout, self.training)


class FeedForwardLayer(nn.Module):
    """The second half of a block: what the feed-forward layer adds to x [B, L, D]."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__()
        self.dropout = config.dropout_rate
        self.DenseReluDense = DenseReluDense(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.DenseReluDense(self.layer_norm(x)), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then the feed-forward layer [B, L, D] -> [B, L, D]."""

    def __init__(self, config: T5EncoderConfig, first: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config, first), FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.layer[0](x, bias)
        out: Tensor = x + self.layer[1](x)
        return out


class Stack(nn.Module):
    """The blocks and the norm at the end; `embed_tokens` is the table that the whole model shares."""

    def __init__(self, config: T5EncoderConfig, table: nn.Embedding) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = table
        self.block = nn.ModuleList(Block(config, first=number == 0) for number in range(config.num_layers))
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def bias(self, mask: Tensor) -> Tensor:
        """What is added to the scores [B, H, L, L] of queries and keys: by distance, and so low for padding that it is
        not seen.
        """
        config, length = self.config, mask.shape[1]
        distances = range(1 - length, length)
        numbers = [
            bucket(d, config.relative_attention_num_buckets, config.relative_attention_max_distance) for d in distances
        ]
        table = self.get_submodule("block.0.layer.0.SelfAttention.relative_attention_bias")
        by_distance: Tensor = table(torch.tensor(numbers, device=mask.device)).T  # H 2L-1
        place = torch.arange(length, device=mask.device)
        bias = by_distance[:, place[None, :] - place[:, None] + length - 1]  # H L L
        return bias.expand(len(mask), -1, -1, -1).masked_fill(~mask[:, None, None, :], torch.finfo(bias.dtype).min)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask [B, L] -> [B, L, D]. The sum of the branches is in fp32 at least."""
        bias = self.bias(mask)
        x = self.embed_tokens(ids)
        x = F.dropout(x.to(torch.promote_types(x.dtype, torch.float32)), self.config.dropout_rate, self.training)
        for block in self.block:
            x = block(x, bias)
        return F.dropout(self.final_layer_norm(x), self.config.dropout_rate, self.training)


class T5Encoder(nn.Module, Component, version=1):
    """The encoder of T5 (Raffel et al. 2020, arXiv:1910.10683, section 2.1) and of T5 v1.1, of any size.

    Of a whole T5 only the encoder is read. In fp16, where the feed-forward layers of T5 overflow, these end in fp32,
    and so does the sum of all branches.
    """

    Config = T5EncoderConfig
    published = ("T5EncoderModel", "T5ForConditionalGeneration", "T5Model", "T5WithLMHeadModel")
    files = ("model",)
    metadata: Mapping[str, Any] = {"architectures": ["T5EncoderModel"], "model_type": "t5"}
    keys = ((r"^(decoder\..*|lm_head\.weight)$", ""),)
    ignored = LIBRARY_KEYS | {
        "dense_act_fn",
        "is_gated_act",
        "scale_decoder_outputs",
    }  # the first two say feed_forward_proj again

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, self.shared)

    def forward(
        self, tokens: Annotated[Tokens, "B L", Fact(vocabulary="sentencepiece")]
    ) -> Annotated[TextEmbeds, "B L d_model"]:
        """What the text means, a vector [B, L, D] for each token.

        tokens: ids and mask of any length; padding is not attended to, and what comes out for it means nothing.
        Raises PortError where the tokens do not fit.
        """
        ids, mask = checked_tokens(tokens, self.config.vocab_size, self.shared.weight.device, length=None)
        return TextEmbeds(self.encoder(ids, mask), mask)
