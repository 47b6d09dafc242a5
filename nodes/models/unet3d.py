"""The U-Net of text to video: latent diffusion's, with convolutions and attention over time after those over pictures.

Letters: B N batch, F frames, C channels, H W height and width, T positions, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact
from ...errors import InputError
from ..kinds import LATENT_SPACE, SCALED, SPACE, Condition, Prediction, Sample, TextEmbeds, Timestep
from .blocks import GroupNorm, timestep_rows, zeroed
from .resnet import Downsample, ResBlock, Upsample
from .text_unet import (
    Count,
    DownLevel,
    Level,
    MidLevel,
    Plan,
    TextCondition,
    TextUNet,
    UpLevel,
    check_levels,
    check_multiples,
)
from .transformer2d import BasicTransformerBlock, Transformer2D

HEADS_IN = 8  # of the attention over time before the first level
DROPOUT = 0.1  # of the convolutions over time, while training
DownBlockType = Literal["CrossAttnDownBlock3D", "DownBlock3D"]
UpBlockType = Literal["UpBlock3D", "CrossAttnUpBlock3D"]


@dataclass(frozen=True)
class UNet3DConfig:
    """The published config of such a network; the defaults are what a key left out of it means.

    sample_size: height and width that it was trained with. num_frames: so many frames a sample has where a graph makes
    one; published configs leave it out. in_channels, out_channels: of the sample, and as many predicted.
    down_block_types, up_block_types: levels that attend or do not, in the order in which they are passed.
    block_out_channels: widths, one a level. layers_per_block: residual blocks a level on the way down; one more on the
    way up. downsample_padding: 1 all around, or 0 for zeros at the bottom and the right alone. norm_num_groups,
    norm_eps: of the group norms. cross_attention_dim: width of the text's embeddings. attention_head_dim: width of a
    head.
    """

    sample_size: Count
    num_frames: Count = 16
    in_channels: Count = 4
    out_channels: Count = 4
    down_block_types: tuple[DownBlockType, ...] = (
        "CrossAttnDownBlock3D",
        "CrossAttnDownBlock3D",
        "CrossAttnDownBlock3D",
        "DownBlock3D",
    )
    up_block_types: tuple[UpBlockType, ...] = (
        "UpBlock3D",
        "CrossAttnUpBlock3D",
        "CrossAttnUpBlock3D",
        "CrossAttnUpBlock3D",
    )
    block_out_channels: tuple[Count, ...] = (320, 640, 1280, 1280)
    layers_per_block: Count = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: Annotated[float, Bound(ge=1, le=1)] = 1
    act_fn: Literal["silu", "swish"] = "silu"
    norm_num_groups: Count = 32
    norm_eps: Annotated[float, Bound(gt=0)] = 1e-5
    cross_attention_dim: Count = 1024
    attention_head_dim: Count = 64
    num_attention_heads: None = None
    time_cond_proj_dim: None = None

    def __post_init__(self) -> None:
        widths = self.block_out_channels
        check_levels(widths, down_block_types=self.down_block_types, up_block_types=self.up_block_types)
        if self.out_channels != self.in_channels:
            raise InputError(
                f"out_channels: {self.out_channels}, but the sample has {self.in_channels}; expected as many"
            )
        check_multiples(
            ("sample_size", self.sample_size, 2 ** (len(widths) - 1)),
            *(("block_out_channels", width, self.norm_num_groups) for width in widths),
            *(("block_out_channels", width, self.attention_head_dim) for width in widths),
        )


def film(x: Tensor, frames: int) -> Tensor:
    """Pictures in a row as films: [B*F, C, H, W] -> [B, C, F, H, W]."""
    return x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)


def pictures(x: Tensor) -> Tensor:
    """Films as pictures in a row: [B, C, F, H, W] -> [B*F, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


class TemporalConv(nn.Module):
    """Four convolutions over three neighbouring frames each, added to their input, [B*F, C, H, W] -> the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()

        def stage(*dropout: nn.Module) -> nn.Sequential:
            conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
            return nn.Sequential(GroupNorm(groups, channels), nn.SiLU(), *dropout, conv)

        self.conv1 = stage()
        self.conv2 = stage(nn.Dropout(DROPOUT))
        self.conv3 = stage(nn.Dropout(DROPOUT))
        self.conv4 = stage(nn.Dropout(DROPOUT))
        zeroed(self.conv4[-1])

    def forward(self, x: Tensor, frames: int) -> Tensor:
        h = film(x, frames)  # B C F H W
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4):
            h = stage(h)
        return x + pictures(h)


class TemporalTransformer(nn.Module):
    """Frames attend to each other, twice, at each position of the picture alone. [B*F, C, H, W] -> the same.

    width: heads times the width of one, which the projections lead to and from.
    """

    def __init__(self, channels: int, heads: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Linear(channels, width)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(width, heads, None)])
        self.proj_out = zeroed(nn.Linear(width, channels))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        h = self.norm(film(x, frames))  # B C F H W
        b, c, _, height, width = h.shape
        h = h.permute(0, 3, 4, 2, 1).reshape(b * height * width, frames, c)  # BHW F C
        h = self.proj_out(self.transformer_blocks[0](self.proj_in(h)))
        h = h.view(b, height, width, frames, c).permute(0, 3, 4, 1, 2)  # B F C H W
        out: Tensor = x + h.reshape(x.shape)
        return out


class FilmLevel(Level):
    """A level whose every layer goes on over time: block, convolution over time, and where the level has any, attention
    to the text, then over time. What comes in is B*F pictures, and an embedding of time a film.
    """

    def __init__(self, resnets: list[ResBlock], attentions: list[Any], *step: nn.Module | None) -> None:
        super().__init__(resnets, attentions, *step)
        channels, groups = resnets[-1].norm2.num_channels, resnets[-1].norm2.num_groups
        self.temp_convs = nn.ModuleList([TemporalConv(channels, groups) for _ in resnets])
        if attentions:
            self.temp_attentions = nn.ModuleList(
                [TemporalTransformer(channels, layer.heads_width[0], channels, groups) for layer in attentions]
            )

    def layer(self, number: int, x: Tensor, emb: Tensor, texts: Iterator[Tensor]) -> Tensor:
        """A residual block and all that follows it. emb: [B, D]."""
        frames = x.shape[0] // emb.shape[0]
        x = self.temp_convs[number](self.resnets[number](x, emb.repeat_interleave(frames, dim=0)), frames)
        if number < len(self.attentions):
            x = self.temp_attentions[number](self.attentions[number](x, next(texts)), frames)
        return x


class FilmDownLevel(FilmLevel, DownLevel):
    """Such a level on the way down."""


class FilmMidLevel(FilmLevel, MidLevel):
    """The lowest such level."""


class FilmUpLevel(FilmLevel, UpLevel):
    """Such a level on the way up."""


class UNet3D(TextUNet, Component, version=1):
    """Text-conditioned U-Net of video (ModelScope text to video: Wang et al. 2023, arXiv:2308.06571, section 3).

    It is Rombach et al.'s (2022, arXiv:2112.10752), each layer followed by one over time. Reads
    ali-vilab/text-to-video-ms-1.7b. It takes any number of frames, of any height and width that its levels can halve.
    """

    Config = UNet3DConfig
    level_types = (FilmDownLevel, FilmMidLevel, FilmUpLevel)
    published = ("UNet3DConditionModel",)
    files = ("diffusion_pytorch_model",)
    attributes: ClassVar = {"sample_shape": "in_channels num_frames sample_size sample_size"}
    facts: ClassVar = {"conditioned": "yes"}
    siblings: ClassVar = {
        "prediction": "scheduler_config.json:$prediction_type",
        "space": LATENT_SPACE,
        "schedule": "scheduler_config.json:$beta_schedule $beta_start $beta_end $num_train_timesteps",
    }

    def __init__(self, config: UNet3DConfig) -> None:
        widths, groups = config.block_out_channels, config.norm_num_groups
        time_width, head = 4 * widths[0], config.attention_head_dim

        def resnet(channels: int, out_channels: int) -> ResBlock:
            return ResBlock(channels, out_channels, time_width=time_width, groups=groups, eps=config.norm_eps)

        def attention(level: int) -> Transformer2D:
            width = widths[level]
            return Transformer2D(width, width // head, config.cross_attention_dim, groups=groups, linear=True)

        plan = Plan(
            widths=widths,
            layers=(config.layers_per_block,) * len(widths),
            down=[kind.startswith("CrossAttn") for kind in config.down_block_types],
            up=[kind.startswith("CrossAttn") for kind in config.up_block_types],
            time_width=time_width,
            groups=groups,
            eps=config.norm_eps,
            act=F.silu,
            resnet=resnet,
            middle=resnet,
            attention=attention,
            middle_attention=lambda: attention(len(widths) - 1),
            shrink=lambda width: Downsample(width, config.downsample_padding),
            enlarge=Upsample,
        )
        super().__init__(config.in_channels, config.out_channels, plan)
        self.config = config
        self.sample_shape = [config.in_channels, config.num_frames, config.sample_size, config.sample_size]
        self.transformer_in = TemporalTransformer(widths[0], HEADS_IN, HEADS_IN * head, groups)

    def condition(
        self, text: Annotated[TextEmbeds, "N L cross_attention_dim"]
    ) -> Annotated[Condition, "N", Fact(model="@self")]:
        """What the text says to each attention layer, the same at every step and for every frame.

        text: its hidden states are read, those of padding too, as in training; L is any.
        Returns a TextCondition of N rows. Raises PortError where the text has another width, or is none.
        """
        hidden = self.checked_text(text, self.config.cross_attention_dim)
        return TextCondition(self.text_keys_values(hidden), None, None)

    def forward(
        self,
        sample: Annotated[Sample, "B in_channels F H W", SPACE, SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")],
    ) -> Annotated[Prediction, "B in_channels F H W", SPACE]:
        """Predicts epsilon, or what it was trained to predict, from x_t and t.

        sample: x_t [B, C, F, H, W] of any floating-point dtype; the prediction has it too. timestep: index of the
        training schedule, 0 or more: a number, or [B]. condition: what this network's `condition` gave, B rows.
        Raises PortError where one of them has another shape, dtype or device, or the condition is another network's.
        """
        x, frames = self.checked_sample(sample, self.config.in_channels, None), sample.shape[2]
        told = self.checked_condition(condition, sample, 0)
        time = timestep_rows("timestep", timestep, sample.shape[0], self.device)
        emb = F.silu(self.time_embedding(self.waves(time)))  # B D
        x = self.transformer_in(self.conv_in(pictures(x)), frames)  # B*F C H W
        return Prediction(film(self.levels(x, emb, told), frames).to(sample.dtype))
