"""The U-Net of latent diffusion that sees a text, in the published layout of Stable Diffusion.

Letters: B N batch, C channels, H W height and width, L tokens, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact
from ...errors import InputError, PortError
from ..kinds import CLEAN, LATENT_SPACE, SCALED, SPACE, Condition, Mask, Prediction, Sample, TextEmbeds, Timestep
from .blocks import timestep_rows
from .resnet import Downsample, ResBlock, Upsample
from .text_embedding import TextEmbedding
from .text_unet import Count, Plan, TextCondition, TextUNet, check_levels, check_multiples
from .transformer2d import Transformer2D

DownBlockType = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
UpBlockType = Literal["UpBlock2D", "CrossAttnUpBlock2D"]


@dataclass(frozen=True)
class UNet2DConditionConfig:
    """The published config of such a network; the defaults are what a key left out of it means.

    sample_size: height and width that it was trained with. in_channels: of the sample, or for inpainting of the sample,
    a mask and a masked image. out_channels: of the sample, and as many predicted. freq_shift, flip_sin_to_cos: of the
    embedding of time; time_embedding_dim: its width; where not given, four times the first. down_block_types,
    up_block_types: levels that attend or do not, in the order in which they are passed. block_out_channels: widths, one
    a level. layers_per_block: residual blocks a level on the way down; one more on the way up. downsample_padding: 1
    all around, or 0 for zeros at the bottom and the right alone. dropout: while training. norm_num_groups, norm_eps: of
    the group norms. cross_attention_dim: width of the text's embeddings. attention_head_dim: despite its name the number
    of heads, one for all or one a level. use_linear_projection: linear layers around each transformer, not convolutions.
    addition_embed_type: "text" adds the text, pooled by addition_embed_type_num_heads heads, to the embedding of time.
    resnet_time_scale_shift: that embedding is added in each block, or scales and shifts what is there.
    """

    sample_size: Count
    in_channels: Count = 4
    out_channels: Count = 4
    center_input_sample: Literal[False] = False
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Bound(ge=0)] = 0
    down_block_types: tuple[DownBlockType, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[UpBlockType, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    only_cross_attention: Literal[False] = False
    block_out_channels: tuple[Count, ...] = (320, 640, 1280, 1280)
    layers_per_block: Count = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: Annotated[float, Bound(ge=1, le=1)] = 1
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    norm_num_groups: Count = 32
    norm_eps: Annotated[float, Bound(gt=0)] = 1e-5
    cross_attention_dim: Count = 1280
    transformer_layers_per_block: Literal[1] = 1
    reverse_transformer_layers_per_block: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: Count | tuple[Count, ...] = 8
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    use_linear_projection: bool = False
    class_embed_type: None = None
    addition_embed_type: Literal["text"] | None = None
    addition_embed_type_num_heads: Count = 64
    addition_time_embed_dim: None = None
    num_class_embeds: None = None
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    resnet_skip_time_act: Literal[False] = False
    resnet_out_scale_factor: Annotated[float, Bound(ge=1, le=1)] = 1.0
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Count | None = None
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    time_cond_proj_dim: None = None
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    projection_class_embeddings_input_dim: None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    mid_block_only_cross_attention: Literal[False] | None = None
    cross_attention_norm: None = None

    def __post_init__(self) -> None:
        widths, heads = self.block_out_channels, self.heads
        check_levels(
            widths,
            down_block_types=self.down_block_types,
            up_block_types=self.up_block_types,
            attention_head_dim=heads,
        )
        if self.in_channels not in (self.out_channels, 2 * self.out_channels + 1):
            raise InputError(
                f"in_channels: {self.in_channels}; expected {self.out_channels}, those of the sample, or for inpainting "
                f"{2 * self.out_channels + 1}: the sample, a mask and a masked image"
            )
        if self.freq_shift >= widths[0] // 2:
            raise InputError(f"freq_shift: {self.freq_shift:g} is not below half of the first width")
        check_multiples(
            ("sample_size", self.sample_size, 2 ** (len(widths) - 1)),
            ("cross_attention_dim", self.cross_attention_dim, self.pooling_heads or 1),
            *(("block_out_channels", width, self.norm_num_groups) for width in widths),
            *(
                ("block_out_channels", width, count)
                for level, (width, count) in enumerate(zip(widths, heads, strict=True))
                if level == len(widths) - 1 or self.attends_down[level] or self.attends_up[-1 - level]
            ),
        )

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each level."""
        given = self.attention_head_dim
        return (given,) * len(self.block_out_channels) if isinstance(given, int) else given

    @property
    def pooling_heads(self) -> int:
        """Heads of the pooling of text; none where the text is not added to the embedding of time."""
        return self.addition_embed_type_num_heads if self.addition_embed_type else 0

    @property
    def attends_down(self) -> tuple[bool, ...]:
        """Which levels attend on the way down."""
        return tuple(kind.startswith("CrossAttn") for kind in self.down_block_types)

    @property
    def attends_up(self) -> tuple[bool, ...]:
        """Which levels attend on the way up, from the smallest."""
        return tuple(kind.startswith("CrossAttn") for kind in self.up_block_types)


class UNet2DCondition(TextUNet, Component, version=1):
    """Text-conditioned U-Net of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, section 3.3, table 15).

    Reads CompVis/ldm-text2im-large-256 and Stable Diffusion 1 and 2, with their inpainting forms. It takes samples of
    any height and width that its levels can halve, those that are a `multiple`; it was trained with `sample_size`.
    """

    Config = UNet2DConditionConfig
    published = ("UNet2DConditionModel",)
    files = ("diffusion_pytorch_model",)
    attributes: ClassVar = {
        "sample_shape": "out_channels sample_size sample_size",
        "multiple": "2**#block_out_channels/2",
    }
    facts: ClassVar = {"conditioned": "yes"}
    siblings: ClassVar = {
        "prediction": "scheduler_config.json:$prediction_type",
        "space": LATENT_SPACE,
        "schedule": "scheduler_config.json:$beta_schedule $beta_start $beta_end $num_train_timesteps",
    }
    ignored = frozenset({"upcast_attention"})  # scores are summed in fp32 here in any case

    def __init__(self, config: UNet2DConditionConfig) -> None:
        widths, groups = config.block_out_channels, config.norm_num_groups
        time_width = config.time_embedding_dim or 4 * widths[0]
        common: dict[str, Any] = {
            "groups": groups, "eps": config.norm_eps, "dropout": config.dropout,
            "scale_shift": config.resnet_time_scale_shift == "scale_shift",
        }  # fmt: skip

        def resnet(channels: int, out_channels: int) -> ResBlock:
            return ResBlock(channels, out_channels, time_width=time_width, **common)

        def attention(level: int) -> Transformer2D:
            return Transformer2D(
                widths[level],
                config.heads[level],
                config.cross_attention_dim,
                groups=groups,
                linear=config.use_linear_projection,
            )

        plan = Plan(
            widths=widths,
            layers=(config.layers_per_block,) * len(widths),
            down=config.attends_down,
            up=config.attends_up,
            time_width=time_width,
            groups=groups,
            eps=config.norm_eps,
            act=F.silu,
            resnet=resnet,
            middle=resnet,
            attention=attention,
            middle_attention=lambda: attention(-1),
            shrink=lambda width: Downsample(width, config.downsample_padding),
            enlarge=Upsample,
        )
        super().__init__(config.in_channels, config.out_channels, plan)
        self.config = config
        if config.pooling_heads:
            self.add_embedding = TextEmbedding(config.cross_attention_dim, time_width, config.pooling_heads)
        self.sample_shape = [config.out_channels, config.sample_size, config.sample_size]
        self.hint_channels = config.in_channels - config.out_channels

    def condition(
        self,
        text: Annotated[TextEmbeds, "N L cross_attention_dim"],
        mask: Annotated[Mask, "N 1 multiple*H multiple*W"] | None = None,
        masked: Annotated[Sample, "N out_channels multiple*H multiple*W", SPACE, CLEAN] | None = None,
    ) -> Annotated[Condition, "N", Fact(model="@self")]:
        """All that stays the same while denoising: what the text says to each attention layer (section 3.3).

        text: its hidden states are read, those of padding too, as in training; L is any. mask: for an inpainting
        network, at the size of the latents, 1 where they are repainted. masked: the latents of the image without what
        is repainted (0 in [-1, 1] there), in the space of the sample.
        Returns a TextCondition of N rows. Raises PortError where an input is missing, not taken here, or misshapen.
        """
        hidden = self.checked_text(text, self.config.cross_attention_dim)
        rows, inpaints = hidden.shape[0], bool(self.hint_channels)
        for port, value in (("mask", mask), ("masked", masked)):
            if inpaints and value is None:
                raise PortError(port, "this network inpaints and needs it", hint=f"wire {port}")
            if not inpaints and value is not None:
                raise PortError(port, "this network takes none", hint="leave it out, or use an inpainting network")
        hint = None
        if mask is not None and masked is not None:
            shown = self.checked_beside("masked", masked, rows, self.config.out_channels)
            where = self.checked_beside("mask", mask, rows, 1)
            if where.shape[2:] != shown.shape[2:]:
                raise PortError(
                    "mask",
                    f"is {list(where.shape[2:])}, masked {list(shown.shape[2:])}; expected the size of the latents",
                    hint="Resize the mask to the size of the latents, mode: nearest",
                )
            if not bool(((where >= 0) & (where <= 1)).all()):
                raise PortError("mask", "has values outside [0, 1]", hint="1 is repainted, 0 is kept")
            hint = torch.cat([where, shown], dim=1)  # N C H W
        embedding = self.add_embedding(hidden) if self.config.pooling_heads else None  # N D
        return TextCondition(self.text_keys_values(hidden), embedding, hint)

    def forward(
        self,
        sample: Annotated[Sample, "B out_channels multiple*H multiple*W", SPACE, SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")],
    ) -> Annotated[Prediction, "B out_channels multiple*H multiple*W", SPACE]:
        """Predicts epsilon, or what it was trained to predict, from x_t and t.

        sample: x_t [B, C, H, W] of any floating-point dtype; the prediction has it too. timestep: index of the training
        schedule, 0 or more: a number, or [B]. condition: what this network's `condition` gave, B rows.
        Raises PortError where one of them has another shape, dtype or device, or the condition is another network's.
        """
        config = self.config
        x = self.checked_sample(sample, config.out_channels)
        told = self.checked_condition(condition, sample, self.hint_channels)
        time = timestep_rows("timestep", timestep, sample.shape[0], self.device)
        waves = self.waves(time, cosine_first=config.flip_sin_to_cos, frequency_shift=config.freq_shift)
        emb = self.time_embedding(waves)  # B D
        emb = F.silu(emb if told.embedding is None else emb + told.embedding)
        return Prediction(self.denoise(x, emb, told).to(sample.dtype))
