"""The U-Nets of DeepFloyd IF, which follow Imagen: text to a small image, and the step that enlarges it.

Letters: B N batch, C channels, H W height and width, L tokens, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact
from ...errors import InputError, PortError
from ..kinds import NOISY, SCALED, Condition, Prediction, Sample, TextEmbeds, Timestep
from .blocks import GroupNorm, timestep_rows, zeroed
from .resnet import ResBlock, TimeEmbedding
from .text_embedding import TextEmbedding
from .text_unet import Count, Plan, TextCondition, TextUNet, check_levels, check_multiples

TEXT_GROUPS = 32  # of the norm of text in every attention layer
DownBlockType = Literal["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"]
UpBlockType = Literal["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"]


@dataclass(frozen=True)
class UNetIFConfig:
    """The published config of such a network; the defaults are what a key left out of it means.

    sample_size: height and width of the image. in_channels: of the image, and twice that where a low-resolution image
    stands beside it. out_channels: of the prediction and its variance. block_out_channels: widths, one a level;
    down_block_types, up_block_types: levels that attend or do not, in the order in which they are passed.
    layers_per_block: residual blocks on the way down, of all levels or of each; one more on the way up. norm_num_groups,
    norm_eps: of the group norms. dropout: while training. attention_head_dim: width of a head. only_cross_attention:
    positions attend to the text alone, in all levels or in each; mid_block_only_cross_attention: in the middle, where
    not given as the one value for all levels says, else false. encoder_hid_dim: width of the text's embeddings, which
    are brought to cross_attention_dim. addition_embed_type_num_heads: of the pooling of text. time_embedding_dim: width
    of the embedding of time; where not given, four times the first. class_embed_type: "timestep" where the network is
    told how noisy its low-resolution image is. resnet_skip_time_act, time_embedding_act_fn: whether the embedding of
    time is activated once or in each block, which computes the same. resnet_out_scale_factor, mid_block_scale_factor:
    what the sum of both branches of a residual block is divided by.
    """

    sample_size: Count
    act_fn: Literal["gelu"]
    down_block_types: tuple[DownBlockType, ...]
    mid_block_type: Literal["UNetMidBlock2DSimpleCrossAttn"]
    up_block_types: tuple[UpBlockType, ...]
    encoder_hid_dim: Count
    addition_embed_type: Literal["text"]
    cross_attention_norm: Literal["group_norm"]
    resnet_time_scale_shift: Literal["scale_shift"]
    in_channels: Count = 4
    out_channels: Count = 4
    center_input_sample: Literal[False] = False
    flip_sin_to_cos: Literal[True] = True
    freq_shift: Annotated[float, Bound(ge=0, le=0)] = 0
    block_out_channels: tuple[Count, ...] = (320, 640, 1280, 1280)
    layers_per_block: Count | tuple[Count, ...] = 2
    mid_block_scale_factor: Annotated[float, Bound(gt=0)] = 1
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    norm_num_groups: Count = 32
    norm_eps: Annotated[float, Bound(gt=0)] = 1e-5
    cross_attention_dim: Count = 1280
    encoder_hid_dim_type: Literal["text_proj"] | None = None
    attention_head_dim: Count = 8
    num_attention_heads: None = None
    only_cross_attention: bool | tuple[bool, ...] = False
    mid_block_only_cross_attention: bool | None = None
    dual_cross_attention: Literal[False] = False
    class_embed_type: Literal["timestep"] | None = None
    addition_embed_type_num_heads: Count = 64
    addition_time_embed_dim: None = None
    num_class_embeds: None = None
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: Annotated[float, Bound(gt=0)] = 1.0
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Count | None = None
    time_embedding_act_fn: Literal["gelu"] | None = None
    timestep_post_act: None = None
    time_cond_proj_dim: None = None
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    projection_class_embeddings_input_dim: None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False

    def __post_init__(self) -> None:
        widths = self.block_out_channels
        check_levels(
            widths,
            down_block_types=self.down_block_types,
            up_block_types=self.up_block_types,
            layers_per_block=self.layers,
            only_cross_attention=self.text_only,
        )
        if self.out_channels % 2 or self.in_channels not in (self.out_channels // 2, self.out_channels):
            raise InputError(
                f"in_channels: {self.in_channels} and out_channels: {self.out_channels}; expected 3 and 6, or 6 and 6 "
                "with a low-resolution image beside the sample"
            )
        if (self.class_embed_type is not None) != (self.in_channels == self.out_channels):
            raise InputError(
                f"class_embed_type: {self.class_embed_type}; expected 'timestep' with a low-resolution image beside the "
                "sample, and none without"
            )
        if self.resnet_skip_time_act != (self.time_embedding_act_fn is not None):
            raise InputError("resnet_skip_time_act: expected true with a time_embedding_act_fn, and false without")
        last, heads = len(widths) - 1, self.attention_head_dim
        check_multiples(
            ("sample_size", self.sample_size, 2**last),
            ("encoder_hid_dim", self.encoder_hid_dim, self.addition_embed_type_num_heads),
            ("cross_attention_dim", self.cross_attention_dim, TEXT_GROUPS),
            *(("block_out_channels", width, self.norm_num_groups) for width in widths),
            *(
                ("block_out_channels", width, heads)
                for level, width in enumerate(widths)
                if level == last or self.attends_down[level] or self.attends_up[last - level]
            ),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Residual blocks of each level."""
        given = self.layers_per_block
        return (given,) * len(self.block_out_channels) if isinstance(given, int) else given

    @property
    def text_only(self) -> tuple[bool, ...]:
        """Whether the positions of each level attend to the text alone."""
        given = self.only_cross_attention
        return (given,) * len(self.block_out_channels) if isinstance(given, bool) else given

    @property
    def middle_text_only(self) -> bool:
        """Whether those of the middle do."""
        if self.mid_block_only_cross_attention is None:
            return self.only_cross_attention is True
        return self.mid_block_only_cross_attention

    @property
    def attends_down(self) -> tuple[bool, ...]:
        """Which levels attend on the way down."""
        return tuple(kind.startswith("SimpleCrossAttn") for kind in self.down_block_types)

    @property
    def attends_up(self) -> tuple[bool, ...]:
        """Which levels attend on the way up, from the smallest."""
        return tuple(kind.startswith("SimpleCrossAttn") for kind in self.up_block_types)


class TextAttention(nn.Module):
    """Every position attends to the text's keys and values, set before those of all positions, in one softmax.

    text_only: those of positions are left out. Rows of each projection are its heads, in turn.
    """

    def __init__(self, channels: int, text_width: int, *, head_width: int, groups: int, text_only: bool) -> None:
        super().__init__()
        self.heads_width = (channels // head_width, head_width)
        self.text_only = text_only
        self.group_norm = GroupNorm(groups, channels)
        self.norm_cross = GroupNorm(TEXT_GROUPS, text_width)
        self.to_q = nn.Linear(channels, channels)
        if not text_only:
            self.to_k = nn.Linear(channels, channels)
            self.to_v = nn.Linear(channels, channels)
        self.add_k_proj = nn.Linear(text_width, channels)
        self.add_v_proj = nn.Linear(text_width, channels)
        self.to_out = nn.ModuleList([zeroed(nn.Linear(channels, channels))])

    def keys_values(self, text: Tensor) -> Tensor:
        """What a text [N, L, text_width] says to this layer, [N, 2, heads, L, D]; its norm runs over all tokens."""
        text = self.norm_cross(text.transpose(1, 2)).transpose(1, 2)  # N L D
        return torch.stack([self._heads(self.add_k_proj(text)), self._heads(self.add_v_proj(text))], dim=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """context: what `keys_values` gave."""
        flat = self.group_norm(x).flatten(2).transpose(1, 2)  # B HW C
        k, v = context.unbind(1)  # B heads L D
        if not self.text_only:
            k = torch.cat([k, self._heads(self.to_k(flat))], dim=2)
            v = torch.cat([v, self._heads(self.to_v(flat))], dim=2)
        mixed = F.scaled_dot_product_attention(self._heads(self.to_q(flat)), k, v)  # B heads HW D
        out = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return x.add(out.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], *self.heads_width).transpose(1, 2)  # B L C -> B heads L D


class UNetIF(TextUNet, Component, version=1):
    """Text-conditioned U-Net of DeepFloyd IF, after Imagen (Saharia et al. 2022, arXiv:2205.11487, section 2 and B.1).

    One class for both stages: text to image (IF-I), and the efficient U-Net that enlarges an image (IF-II, with
    `class_embed_type: timestep`). The text is that of a T5 encoder; padding is attended to, as in training. They take
    samples of any height and width that is a `multiple`, the number that their levels can halve.
    """

    Config = UNetIFConfig
    published = ("UNet2DConditionModel",)
    files = ("diffusion_pytorch_model",)
    attributes: ClassVar = {
        "sample_shape": "out_channels/2 sample_size sample_size",
        "multiple": "2**#block_out_channels/2",
    }
    facts: ClassVar = {"space": "pixel", "conditioned": "yes"}
    siblings: ClassVar = {
        "prediction": "scheduler_config.json:$prediction_type",
        "schedule": "scheduler_config.json:$beta_schedule $beta_start $beta_end $num_train_timesteps",
    }
    ignored = frozenset(
        {
            "downsample_padding",  # levels are averaged to half, which pads nothing
            "transformer_layers_per_block", "reverse_transformer_layers_per_block", "use_linear_projection",  # no transformers
            "upcast_attention",  # scores are summed in fp32 here in any case
        }
    )  # fmt: skip

    def __init__(self, config: UNetIFConfig) -> None:
        widths, groups = config.block_out_channels, config.norm_num_groups
        time_width = config.time_embedding_dim or 4 * widths[0]
        blocks: dict[str, Any] = {
            "time_width": time_width, "groups": groups, "eps": config.norm_eps, "dropout": config.dropout,
            "scale_shift": True, "act": F.gelu,
        }  # fmt: skip

        def resnet(channels: int, out_channels: int, resize: Literal["down", "up"] | None = None) -> ResBlock:
            return ResBlock(channels, out_channels, resize=resize, out_scale=config.resnet_out_scale_factor, **blocks)

        def attention(channels: int, text_only: bool) -> TextAttention:
            return TextAttention(
                channels,
                config.cross_attention_dim,
                head_width=config.attention_head_dim,
                groups=groups,
                text_only=text_only,
            )

        plan = Plan(
            widths=widths,
            layers=config.layers,
            down=config.attends_down,
            up=config.attends_up,
            time_width=time_width,
            groups=groups,
            eps=config.norm_eps,
            act=F.gelu,
            resnet=resnet,
            middle=lambda channels, out: ResBlock(channels, out, out_scale=config.mid_block_scale_factor, **blocks),
            attention=lambda level: attention(widths[level], config.text_only[level]),
            middle_attention=lambda: attention(widths[-1], config.middle_text_only),
            shrink=lambda width: resnet(width, width, "down"),
            enlarge=lambda width: resnet(width, width, "up"),
        )
        super().__init__(config.in_channels, config.out_channels, plan)
        self.config = config
        self.channels = config.out_channels // 2
        self.sample_shape = [self.channels, config.sample_size, config.sample_size]
        self.encoder_hid_proj = nn.Linear(config.encoder_hid_dim, config.cross_attention_dim)
        self.add_embedding = TextEmbedding(config.encoder_hid_dim, time_width, config.addition_embed_type_num_heads)
        if config.class_embed_type is not None:
            self.class_embedding = TimeEmbedding(widths[0], time_width, act=F.gelu)

    def condition(
        self,
        text: Annotated[TextEmbeds, "N L encoder_hid_dim"],
        low_res: Annotated[Sample, "N out_channels/2 multiple*H multiple*W", Fact(space="pixel"), NOISY] | None = None,
        aug_level: Timestep | None = None,
    ) -> Annotated[Condition, "N", Fact(model="@self")]:
        """All that stays the same while denoising: what the text says to each attention layer, and pooled, to all.

        text: its hidden states are read, those of padding too; L is any. low_res: for a network that enlarges, the small
        image resized to the size of the sample (bilinear, corners aligned, as in training) and noised; neither is done
        here, since the noise comes from a stream of its own. aug_level: the training index of that noise (250 is usual),
        of the schedule that made it: a number, or [N].
        Returns a TextCondition of N rows. Raises PortError where an input is missing, not taken here, or misshapen.
        """
        enlarges = self.config.class_embed_type is not None
        hidden = self.checked_text(text, self.config.encoder_hid_dim)
        for port, value in (("low_res", low_res), ("aug_level", aug_level)):
            if enlarges and value is None:
                raise PortError(port, "this network enlarges an image and needs it", hint=f"wire {port}")
            if not enlarges and value is not None:
                raise PortError(port, "this network takes none", hint="leave it out, or use one of the second stage")
        embedding = self.add_embedding(hidden)  # N D
        hint = None
        if low_res is not None and aug_level is not None:
            hint = self.checked_beside("low_res", low_res, hidden.shape[0], self.channels)
            level = timestep_rows("aug_level", aug_level, hidden.shape[0], self.device)
            embedding = embedding + self.class_embedding(self.waves(level))
        return TextCondition(self.text_keys_values(self.encoder_hid_proj(hidden)), embedding, hint)

    def forward(
        self,
        sample: Annotated[Sample, "B out_channels/2 multiple*H multiple*W", Fact(space="pixel"), SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")],
    ) -> Annotated[Prediction, "B out_channels/2 multiple*H multiple*W"]:
        """Predicts epsilon, or what it was trained to predict, and the variance, from x_t and t.

        sample: x_t [B, C, H, W] of any floating-point dtype; the prediction has it too. timestep: index of the training
        schedule, 0 or more: a number, or [B]. condition: what this network's `condition` gave, B rows.
        Raises PortError where one of them has another shape, dtype or device, or the condition is another network's.
        """
        x = self.checked_sample(sample, self.channels)
        told = self.checked_condition(condition, sample, self.config.in_channels - self.channels)
        time = timestep_rows("timestep", timestep, sample.shape[0], self.device)
        emb = F.gelu(self.time_embedding(self.waves(time)) + told.embedding)  # B D
        value, variance = self.denoise(x, emb, told).to(sample.dtype).chunk(2, dim=1)
        return Prediction(value, variance)
