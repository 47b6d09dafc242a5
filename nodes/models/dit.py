"""DiT: a transformer over patches of latents, told a class, in the published layout of facebook/DiT-XL-2-*.

Letters: B N batch, C channels, H W height and width, L tokens (patches), P side of a patch, D features, K blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact, Kind
from ...errors import InputError, PortError
from ..kinds import LATENT_SPACE, SCALED, SPACE, Condition, Prediction, Sample, Timestep
from .blocks import check_tensor, sinusoid, timestep_rows, zeroed
from .resnet import TimeEmbedding

TIME_CHANNELS = 256  # sinusoids of time
EPS = 1e-6  # of the norms before attention and before the output
Count = Annotated[int, Bound(ge=1)]
Features = Annotated[Tensor, Kind("Features")]  # numbers that only the network itself can read


@dataclass(frozen=True)
class DiTConfig:
    """The published config of such a network; the defaults are what a key left out of it means, DiT-XL/2 at 256 x 256.

    num_attention_heads, attention_head_dim: heads, and the width of one; D is their product. in_channels: of the
    sample. out_channels: as many, or twice as many where a variance is learned; None is as many. num_layers: K.
    dropout: while training. attention_bias: queries, keys and values have one. sample_size: height and width of the
    sample. patch_size: P. num_embeds_ada_norm: classes; one more stands for none. norm_eps: of the norm before each
    feed-forward layer. freq_shift: of the embedding of time. The published networks were trained with a norm_eps of
    1e-6 and a freq_shift of 0; the library in whose layout they are computes with 1e-5 and 1, and so does this one,
    where nothing else is said beside the weights. What follows freq_shift is said by older configs alone.
    """

    num_attention_heads: Count = 16
    attention_head_dim: Count = 72
    in_channels: Count = 4
    out_channels: Count | None = None
    num_layers: Count = 28
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    attention_bias: bool = True
    sample_size: Count = 32
    patch_size: Count = 2
    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    num_embeds_ada_norm: Count = 1000
    upcast_attention: Literal[False] = False
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    norm_elementwise_affine: Literal[False] = False
    norm_eps: Annotated[float, Bound(gt=0)] = 1e-5
    freq_shift: Annotated[float, Bound(ge=0, lt=TIME_CHANNELS // 2)] = 1
    attention_type: Literal["default"] = "default"
    caption_channels: None = None
    cross_attention_dim: None = None
    double_self_attention: Literal[False] = False
    interpolation_scale: None = None
    num_vector_embeds: None = None
    only_cross_attention: Literal[False] = False

    def __post_init__(self) -> None:
        if self.out_channels not in (None, self.in_channels, 2 * self.in_channels):
            raise InputError(
                f"out_channels: {self.out_channels}, but the sample has {self.in_channels}; expected as many, or twice "
                "as many where a variance is learned"
            )
        if self.width % 4:
            raise InputError(
                f"num_attention_heads, attention_head_dim: their product, {self.width}, is not a multiple of 4, as the "
                "sines and cosines of rows and columns need"
            )
        if self.sample_size % self.patch_size:
            raise InputError(f"sample_size: {self.sample_size} is not a multiple of patch_size, {self.patch_size}")

    @property
    def width(self) -> int:
        """D, the features of a token."""
        return self.num_attention_heads * self.attention_head_dim


class DiTCondition(NamedTuple):
    """What a DiT is told beside x_t and t. `classes`: what each block knows of the class of a row, [N, K, D]."""

    classes: Features


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Adaptive layer norm [B, L, D] -> the same, in fp32 at least: scaled and shifted, both [B, 1, D], by condition."""
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = F.layer_norm(x.to(wide), x.shape[-1:], eps=eps).to(x.dtype)
    return torch.addcmul(shift, normed, 1 + scale)


class Embedding(nn.Module):
    """What a block knows of time and class; the published networks hold the same one in each block."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.timestep_embedder = TimeEmbedding(TIME_CHANNELS, width)
        self.class_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, width)})  # the last is none

    def classes(self, ids: Tensor) -> Tensor:
        """Ids [N] -> [N, D]."""
        found: Tensor = self.class_embedder["embedding_table"](ids)
        return found

    def forward(self, waves: Tensor, classes: Tensor) -> Tensor:
        """waves: of time, [B, TIME_CHANNELS]; classes [B, D]. Returns their sum, activated, [B, D]."""
        return F.silu(self.timestep_embedder(waves) + classes)


class AdaNorm(nn.Module):
    """Shift, scale and gate of both branches of a block; at first all are zero, so that a block begins as nothing."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.emb = Embedding(width, classes)
        self.linear = zeroed(nn.Linear(width, 6 * width))

    def forward(self, waves: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        six: Tensor = self.linear(self.emb(waves, classes))
        return six[:, None].chunk(6, dim=2)  # each B 1 D


class Attention(nn.Module):
    """Self-attention over tokens [B, L, D] -> the same."""

    def __init__(self, width: int, heads: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(width, width, bias=bias)
        self.to_v = nn.Linear(width, width, bias=bias)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # B heads L D/heads
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # B L D
        out: Tensor = self.to_out(mixed)
        return out


class FeedForward(nn.Module):
    """Two layers, four times as wide between them, with the tanh form of GELU. [B, L, D] -> the same."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        first = nn.ModuleDict({"proj": nn.Linear(width, 4 * width)})
        self.net = nn.ModuleList([first, nn.Dropout(dropout), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        first, dropout, second = self.net
        out: Tensor = second(dropout(F.gelu(first["proj"](x), approximate="tanh")))  # type: ignore[index]
        return out


class Block(nn.Module):
    """A block with adaLN-Zero (section 3.2, figure 3): attention, then feed-forward, each normed, gated and added."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.norm1 = AdaNorm(config.width, config.num_embeds_ada_norm)
        self.attn1 = Attention(
            config.width, config.num_attention_heads, bias=config.attention_bias, dropout=config.dropout
        )
        self.ff = FeedForward(config.width, config.dropout)

    def forward(self, x: Tensor, waves: Tensor, classes: Tensor) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.norm1(waves, classes)
        x = torch.addcmul(x, gate, self.attn1(modulated(x, shift, scale, EPS)))
        return torch.addcmul(x, ff_gate, self.ff(modulated(x, ff_shift, ff_scale, self.eps)))


class Patches(nn.Module):
    """A sample [B, C, H, W] as tokens [B, L, D], row by row, each with its position (section 3.2, "Patchify")."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.proj(x)  # B D H/P W/P
        side = tokens.shape[-1]
        place = torch.arange(side, device=x.device)
        waves = sinusoid(place, tokens.shape[1] // 2, cosine_first=False, frequency_shift=0)  # H/P D/2
        table = torch.cat([waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)], dim=1)  # L D, column first
        out: Tensor = tokens.flatten(2).transpose(1, 2).contiguous() + table.to(x.dtype)
        return out


class DiT(nn.Module, Component, version=1):
    """Class-conditional diffusion transformer (Peebles and Xie 2022, arXiv:2212.09748).

    Reads facebook/DiT-XL-2-256 and -512, and every DiTTransformer2DModel. Their samples are latents of the autoencoder
    beside them. Those two were trained with other constants than the library computes with; `norm_eps: 1e-6` and
    `freq_shift: 0`, given beside the weights, make the numbers those of the authors' own code.
    """

    Config = DiTConfig
    published = ("DiTTransformer2DModel", "Transformer2DModel")
    files = ("diffusion_pytorch_model",)
    attributes: ClassVar = {"sample_shape": "in_channels sample_size sample_size"}
    facts: ClassVar = {"conditioned": "yes"}
    siblings: ClassVar = {
        "prediction": "scheduler_config.json:$prediction_type",
        "space": LATENT_SPACE,
        "schedule": "scheduler_config.json:$beta_schedule $beta_start $beta_end $num_train_timesteps",
    }
    keys = ((r"^pos_embed\.pos_embed$", ""),)  # the table of positions, which some files hold; it is computed
    ignored = frozenset({"norm_num_groups", "use_additional_conditions", "use_linear_projection"})  # of other networks

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_shape = [config.in_channels, config.sample_size, config.sample_size]
        self.out_channels = config.out_channels or config.in_channels
        self.pos_embed = Patches(config.in_channels, config.width, config.patch_size)
        self.transformer_blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.proj_out_1 = zeroed(nn.Linear(config.width, 2 * config.width))
        self.proj_out_2 = zeroed(nn.Linear(config.width, config.patch_size**2 * self.out_channels))

    def condition(
        self, label: list[Annotated[int, Bound(ge=0)]] | None = None
    ) -> Annotated[Condition, "N", Fact(model="@self")]:
        """What the blocks know of classes.

        label: the class of each row, 0 to num_embeds_ada_norm - 1; num_embeds_ada_norm itself stands for none, as does
        leaving label out, which gives one row: the other side of classifier-free guidance.
        Returns a DiTCondition of N rows. Raises PortError where the list is empty, or a class is not known.
        """
        classes = self.config.num_embeds_ada_norm
        rows = [classes] if label is None else label
        if not isinstance(rows, list | tuple) or not rows:
            raise PortError("label", f"must be a list of classes, one a row, not {label!r}", hint="such as [207]")
        for number in rows:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= classes:
                raise PortError("label", f"{number!r} is no class; known: 0 to {classes - 1}, and {classes} for none")
        ids = torch.tensor(rows, device=self.proj_out_1.weight.device)
        return DiTCondition(torch.stack([block.norm1.emb.classes(ids) for block in self._blocks()], dim=1))  # N K D

    def forward(
        self,
        sample: Annotated[Sample, "B in_channels sample_size sample_size", SPACE, SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")],
    ) -> Annotated[Prediction, "B in_channels sample_size sample_size"]:
        """Predicts epsilon, or what it was trained to predict, and, where it is learned, the variance, from x_t and t.

        sample: x_t [B, C, H, W] of any floating-point dtype; the prediction has it too. timestep: index of the training
        schedule, 0 or more: a number, or [B]. condition: what this network's `condition` gave, B rows.
        Raises PortError where one of them has another shape, dtype or device, or the condition is another network's.
        """
        config, weight = self.config, self.proj_out_1.weight
        check_tensor("sample", sample, (None, *self.sample_shape), weight.device)
        classes = self._checked(condition, sample.shape[0]).unbind(1)  # each B D
        time = timestep_rows("timestep", timestep, sample.shape[0], weight.device)
        waves = sinusoid(time, TIME_CHANNELS, cosine_first=True, frequency_shift=config.freq_shift).to(weight.dtype)

        x = self.pos_embed(sample.to(weight.dtype))  # B L D
        blocks = self._blocks()
        for block, known in zip(blocks, classes, strict=True):
            x = block(x, waves, known)
        last = self.proj_out_1(blocks[0].norm1.emb(waves, classes[0]))
        shift, scale = last[:, None].chunk(2, dim=2)  # B 1 D
        x = self.proj_out_2(modulated(x, shift, scale, EPS))  # B L P*P*C

        side, patch = config.sample_size // config.patch_size, config.patch_size
        x = x.view(-1, side, side, patch, patch, self.out_channels)  # B H/P W/P P P C
        x = x.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, *self.sample_shape[1:])  # B C H W
        return Prediction(*x.to(sample.dtype).split(config.in_channels, dim=1))

    def _blocks(self) -> list[Block]:
        return [block for block in self.transformer_blocks if isinstance(block, Block)]

    def _checked(self, condition: object, rows: int) -> Tensor:
        """The classes [rows, K, D] of a condition, if it is of this network and has these rows."""
        if not isinstance(condition, DiTCondition):
            raise PortError("condition", f"is a {type(condition).__name__}, not what this network's `condition` gives")
        found = list(condition.classes.shape)
        if found[1:] != [self.config.num_layers, self.config.width]:
            raise PortError("condition", "is of another network", hint="wire what this network's `condition` gives")
        if found[0] != rows:
            raise PortError(
                "condition", f"has {found[0]} rows, the sample {rows}", hint="Expand it to the rows of the sample"
            )
        check_tensor("condition", condition.classes, (rows, *found[1:]), self.proj_out_1.weight.device)
        return condition.classes.to(self.proj_out_1.weight.dtype)
