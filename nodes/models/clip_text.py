"""CLIP's text encoder, with and without its projection, in the published layout.

Letters: B batch, L tokens, D features, P features of the projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact
from ...errors import InputError, PortError
from ..kinds import TextEmbeds, Tokens
from .blocks import LayerNorm
from .text_blocks import LIBRARY_KEYS, checked_tokens

Count = Annotated[int, Bound(ge=1)]
LEGACY_END = 2  # what configs written before July 2023 call the end token; it is the largest id of every text


@dataclass(frozen=True)
class CLIPTextConfig:
    """The published config of such an encoder; the defaults are what a key left out of it means.

    architectures: whether `pooled` is projected. vocab_size, max_position_embeddings: how many ids there are, and L.
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: D, the blocks, the heads of each, and the
    width inside of its perceptron. projection_dim: P. hidden_act: x sigmoid(1.702 x) for OpenAI's models, or GELU.
    attention_dropout: while training. eos_token_id: where `pooled` is taken.
    """

    architectures: tuple[Literal["CLIPTextModel", "CLIPTextModelWithProjection"]] = ("CLIPTextModel",)
    vocab_size: Count = 49408
    hidden_size: Count = 512
    intermediate_size: Count = 2048
    projection_dim: Count = 512
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 8
    max_position_embeddings: Count = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Annotated[float, Bound(gt=0)] = 1e-5
    attention_dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    eos_token_id: Annotated[int, Bound(ge=0)] = 49407

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise InputError(f"hidden_size: {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")


class Embeddings(nn.Module):
    """Ids [B, L] -> learned vectors of the ids and of their places, added [B, L, D]."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.token_embedding(ids) + self.position_embedding.weight
        return out


class CausalAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it [B, L, D] -> [B, L, D]."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # B heads L D
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Perceptron(nn.Module):
    """Two layers with an activation between them [B, L, D] -> [B, L, D]."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.quick = config.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        out: Tensor = self.fc2(x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))
        return out


class Layer(nn.Module):
    """A block, normalised before each of its branches [B, L, D] -> [B, L, D]."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.self_attn = CausalAttention(config)
        self.layer_norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Perceptron(config)
        self.layer_norm2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Encoder(nn.Module):
    """The blocks, of which `CLIPText` runs each."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class TextTransformer(nn.Module):
    """What the published names call `text_model`."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor, skip: int) -> tuple[Tensor, Tensor]:
        """The normalised state [B, L, D] before the last `skip` blocks, and after all of them."""
        x = self.embeddings(ids)
        states = [x]
        for layer in self.encoder.layers:
            states.append(layer(states[-1]))
        last: Tensor = self.final_layer_norm(states[-1])
        return self.final_layer_norm(states[-1 - skip]) if skip else last, last


class CLIPText(nn.Module, Component, version=1):
    """The text encoder of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4): a causal transformer.

    Reads ViT-L/14's of Stable Diffusion 1, OpenCLIP's ViT-H of Stable Diffusion 2 (23 of its 24 layers are published,
    so that its end is the last but one), and those with a projection. Padding is attended to by what follows it, as in
    training: the mask is handed on, not used.
    """

    Config = CLIPTextConfig
    published = ("CLIPTextModel", "CLIPTextModelWithProjection")
    files = ("model",)
    metadata: Mapping[str, Any] = {"model_type": "clip_text_model"}
    keys = (
        (r"^(?=embeddings\.|encoder\.|final_layer_norm\.)", "text_model."),
        (r"^text_model\.embeddings\.position_ids$", ""),
    )
    ignored = (LIBRARY_KEYS | {"dropout"}) - {"eos_token_id"}

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)
        if self.projects:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    @property
    def projects(self) -> bool:
        """Whether `pooled` is projected into the space that texts and images share."""
        return "CLIPTextModelWithProjection" in self.config.architectures

    def forward(
        self,
        tokens: Annotated[Tokens, "B max_position_embeddings", Fact(vocabulary="clip-bpe")],
        skip: Annotated[int, Bound(ge=0)] = 0,
    ) -> Annotated[TextEmbeds, "B max_position_embeddings hidden_size"]:
        """What the text means, a vector [B, L, D] for each token, and one [B, P] (or [B, D]) for all of it.

        tokens: padded ids. skip: how many of the last blocks `hidden` leaves out ("clip skip"); it is normalised as the
        last is. `pooled` is always the last state at the end token, projected where the published class does. Raises
        PortError where the tokens do not fit, or skip leaves no block.
        """
        config, device = self.config, self.text_model.final_layer_norm.weight.device
        if not 0 <= skip < config.num_hidden_layers:
            raise PortError("skip", f"is {skip}; this encoder has {config.num_hidden_layers} blocks")
        ids, mask = checked_tokens(tokens, config.vocab_size, device, length=config.max_position_embeddings)
        hidden, last = self.text_model(ids, skip)  # B L D
        pooled = last[torch.arange(len(ids), device=device), self._ends(ids)]  # B D
        if self.projects:
            pooled = self.text_projection(pooled)  # B P
        return TextEmbeds(hidden, mask, pooled)

    def _ends(self, ids: Tensor) -> Tensor:
        """The place [B] of each text's first end token."""
        if self.config.eos_token_id == LEGACY_END:
            return ids.argmax(dim=1)
        found: Tensor = ids == self.config.eos_token_id
        if not bool(found.any(dim=1).all()):
            raise PortError(
                "tokens",
                f"a text has no end token (id {self.config.eos_token_id}), so nothing says where it ends",
                hint="use the tokenizer of the encoder's own repository",
            )
        return found.int().argmax(dim=1)
