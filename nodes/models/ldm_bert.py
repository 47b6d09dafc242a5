"""The text encoder of latent diffusion, in the published layout.

Letters: B batch, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact
from ..kinds import TextEmbeds, Tokens
from .blocks import LayerNorm
from .text_blocks import LIBRARY_KEYS, checked_tokens

Count = Annotated[int, Bound(ge=1)]
Share = Annotated[float, Bound(ge=0, lt=1)]
INITIAL = 0.02  # standard deviation of embeddings at first, as in the original; at 1 a text is learnt many times slower


@dataclass(frozen=True)
class LDMBertConfig:
    """The published config of such an encoder; the defaults are what a key left out of it means.

    vocab_size, max_position_embeddings: how many ids there are, and L. d_model, encoder_layers,
    encoder_attention_heads, head_dim, encoder_ffn_dim: D, the blocks, the heads of each and their width, and the width
    inside of the feed-forward layer. dropout, attention_dropout, activation_dropout: while training, of what a branch
    adds, of attention, and inside of the feed-forward layer.
    """

    vocab_size: Count = 30522
    max_position_embeddings: Count = 77
    encoder_layers: Count = 32
    encoder_ffn_dim: Count = 5120
    encoder_attention_heads: Count = 8
    head_dim: Count = 64
    encoder_layerdrop: Annotated[float, Bound(ge=0, le=0)] = 0.0
    activation_function: Literal["gelu"] = "gelu"
    d_model: Count = 1280
    dropout: Share = 0.1
    attention_dropout: Share = 0.0
    activation_dropout: Share = 0.0
    scale_embedding: Literal[False] = False


class Attention(nn.Module):
    """Self-attention, all tokens seeing all, padding too [B, L, D] -> [B, L, D]; its heads together may be narrower."""

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.encoder_attention_heads, config.attention_dropout
        inner = self.heads * config.head_dim
        self.k_proj, self.v_proj, self.q_proj = (nn.Linear(config.d_model, inner, bias=False) for _ in range(3))
        self.out_proj = nn.Linear(inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # B heads L D
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """A block, normalised before each of its branches [B, L, D] -> [B, L, D]."""

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = LayerNorm(config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.self_attn(self.self_attn_layer_norm(x).to(self.fc1.weight.dtype))
        x = x + F.dropout(mixed, self.dropout, self.training)
        mixed = F.gelu(self.fc1(self.final_layer_norm(x).to(self.fc1.weight.dtype)))
        mixed = self.fc2(F.dropout(mixed, self.activation_dropout, self.training))
        return x + F.dropout(mixed, self.dropout, self.training)


class Encoder(nn.Module):
    """Ids [B, L] -> [B, L, D]. The sum of the branches is in fp32 at least."""

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        for table in (self.embed_tokens, self.embed_positions):
            nn.init.normal_(table.weight, std=INITIAL)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))
        self.layer_norm = LayerNorm(config.d_model)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids) + self.embed_positions.weight
        dtype = x.dtype
        x = F.dropout(x.to(torch.promote_types(dtype, torch.float32)), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.layer_norm(x)
        return out.to(dtype)


class LDMBert(nn.Module, Component, version=1):
    """The text encoder of latent diffusion's text-to-image model (Rombach et al. 2022, arXiv:2112.10752, section 4.3):
    a transformer over BERT's word pieces, trained with the U-Net.

    Padding is attended to, as in training: the mask is handed on, not used. The head that once predicted words,
    `to_logits`, is kept with the weights and computes nothing.
    """

    Config = LDMBertConfig
    published = ("LDMBertModel",)
    files = ("model",)
    metadata: Mapping[str, Any] = {"architectures": ["LDMBertModel"], "model_type": "ldmbert"}
    ignored = LIBRARY_KEYS | {"num_hidden_layers"}  # which says encoder_layers again

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config)
        self.to_logits = nn.Linear(config.d_model, config.vocab_size)

    def forward(
        self, tokens: Annotated[Tokens, "B max_position_embeddings", Fact(vocabulary="wordpiece")]
    ) -> Annotated[TextEmbeds, "B max_position_embeddings d_model"]:
        """What the text means, a vector [B, L, D] for each token.

        tokens: padded ids. Raises PortError where the tokens do not fit.
        """
        config, device = self.config, self.model.layer_norm.weight.device
        ids, mask = checked_tokens(tokens, config.vocab_size, device, length=config.max_position_embeddings)
        return TextEmbeds(self.model(ids), mask)
