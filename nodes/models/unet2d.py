"""The U-Net of DDPM, in the published layout of google/ddpm-*.

Letters: B N batch, C channels, H W height and width, D width of a head or of the embedding of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact, Kind
from ...errors import InputError, PortError
from ..kinds import LATENT_SPACE, SCALED, SPACE, Condition, Image, Prediction, Sample, Timestep
from .blocks import GroupNorm, check_tensor, sinusoid, timestep_rows, zeroed
from .resnet import Attention, Downsample, Level, ResBlock, TimeEmbedding, Upsample, silu

Count = Annotated[int, Bound(ge=1)]
Features = Annotated[Tensor, Kind("Features")]  # numbers that only the network itself can read
DownBlockType = Literal["DownBlock2D", "AttnDownBlock2D"]
UpBlockType = Literal["UpBlock2D", "AttnUpBlock2D"]


@dataclass(frozen=True)
class UNet2DConfig:
    """The published config of such a network; the defaults are what a key left out of it means.

    sample_size: height and width of the sample. out_channels: of the sample, and as many predicted. in_channels: as many,
    or more: the rest is of a low-resolution image beside the sample, which a network of super-resolution sees.
    center_input_sample: the sample comes in [0, 1] and is moved to [-1, 1]. time_embedding_dim: where not given, four
    times the first width. freq_shift, flip_sin_to_cos: of the embedding of time; 1 and false (sines first) in DDPM.
    down_block_types, up_block_types: levels with attention or without, in the order in which they are passed.
    block_out_channels: widths, one a level. layers_per_block: residual blocks a level on the way down; one more on the
    way up. downsample_padding: 1 all around, or 0 for zeros at the bottom and the right alone. dropout: while training.
    attention_head_dim: width of a head; None is one head. norm_num_groups, norm_eps: of the group norms;
    attn_norm_num_groups: of the middle attention's. resnet_time_scale_shift: time is added between the convolutions, or
    scales and shifts the second norm. add_attention: the middle has it.
    """

    sample_size: Count
    in_channels: Count = 3
    out_channels: Count = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Count | None = None
    freq_shift: Annotated[float, Bound(ge=0)] = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[DownBlockType, ...] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    up_block_types: tuple[UpBlockType, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    block_out_channels: tuple[Count, ...] = (224, 448, 672, 896)
    layers_per_block: Count = 2
    mid_block_scale_factor: Annotated[float, Bound(ge=1, le=1)] = 1
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    attention_head_dim: Count | None = 8
    norm_num_groups: Count = 32
    attn_norm_num_groups: Count | None = None
    norm_eps: Annotated[float, Bound(gt=0)] = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: None = None

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if not levels == len(self.down_block_types) == len(self.up_block_types):
            raise InputError(
                f"block_out_channels, down_block_types and up_block_types: {levels}, {len(self.down_block_types)} and "
                f"{len(self.up_block_types)} levels; expected as many in each"
            )
        if not levels:
            raise InputError("block_out_channels: expected widths of at least one level")
        if self.out_channels > self.in_channels:
            raise InputError(
                f"out_channels: {self.out_channels}, but the network sees {self.in_channels}; expected no more"
            )
        if self.freq_shift >= self.block_out_channels[0] // 2:
            raise InputError(f"freq_shift: {self.freq_shift:g} is not below half of the first width")
        if self.sample_size % 2 ** (levels - 1):
            raise InputError(f"sample_size: {self.sample_size} cannot be halved {levels - 1} times")
        middle = self.attn_norm_num_groups or self.norm_num_groups
        divisors = {(width, self.norm_num_groups) for width in self.block_out_channels}
        divisors |= {(self.block_out_channels[-1], middle)} if self.add_attention else set()
        for kinds, widths in (
            (self.down_block_types, self.block_out_channels),
            (self.up_block_types, self.block_out_channels[::-1]),
            (("Attn",) if self.add_attention else (), self.block_out_channels[-1:]),
        ):
            attend = (width for kind, width in zip(kinds, widths, strict=False) if kind.startswith("Attn"))
            divisors |= {(width, self.attention_head_dim or 1) for width in attend}
        for width, divisor in sorted(divisors):
            if width % divisor:
                raise InputError(f"block_out_channels: {width} is not a multiple of {divisor}, as this network needs")


class UNet2DHint(NamedTuple):
    """What a network of super-resolution is told beside x_t and t. low_res: [N, in_channels - out_channels, H, W]."""

    low_res: Annotated[Features, "N C H W"]


class DownLevel(Level):
    """A level on the way down; what each of its layers gives is kept in `skips`."""

    def __init__(self, resnets: list[ResBlock], attentions: list[Attention], step: Downsample | None) -> None:
        super().__init__(resnets, attentions)
        self.downsamplers = nn.ModuleList([] if step is None else [step])

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, x, emb)
            skips.append(x)
        for step in self.downsamplers:
            x = step(x)
            skips.append(x)
        return x


class MidLevel(Level):
    """The lowest level: block, attention, block."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.layer(1, self.layer(0, x, emb), emb)


class UpLevel(Level):
    """A level on the way up; each of its blocks sees the latest of `skips` beside its input, and takes it away."""

    def __init__(self, resnets: list[ResBlock], attentions: list[Attention], step: Upsample | None) -> None:
        super().__init__(resnets, attentions)
        self.upsamplers = nn.ModuleList([] if step is None else [step])

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, torch.cat([x, skips.pop()], dim=1), emb)
        for step in self.upsamplers:
            x = step(x)
        return x


class UNet2D(nn.Module, Component, version=2):
    """U-Net of DDPM (Ho, Jain, Abbeel 2020, arXiv:2006.11239, appendix B), told a low-resolution image at most.

    Reads google/ddpm-*, the `unet/` of CompVis/ldm-celebahq-256 and ldm-super-resolution-4x-openimages, and every
    UNet2DModel of plain convolutions and attention, whichever names the attention has. It takes samples of its own
    size; being convolutional it works at others, given as `sample_size` beside the weights.
    """

    Config = UNet2DConfig
    published = ("UNet2DModel",)
    files = ("diffusion_pytorch_model",)
    attributes: ClassVar = {"sample_shape": "out_channels sample_size sample_size"}
    facts: ClassVar = {"conditioned": "no"}
    siblings: ClassVar = {
        "prediction": "scheduler_config.json:$prediction_type",
        "space": LATENT_SPACE,
        "schedule": "scheduler_config.json:$beta_schedule $beta_start $beta_end $num_train_timesteps",
    }
    keys = (
        (r"\.query\.", ".to_q."),
        (r"\.key\.", ".to_k."),
        (r"\.value\.", ".to_v."),
        (r"\.proj_attn\.", ".to_out.0."),
    )
    ignored = frozenset({"num_train_timesteps"})  # read by the library for an embedding of time that is not positional

    def __init__(self, config: UNet2DConfig) -> None:
        super().__init__()
        self.config = config
        self.hint_channels = config.in_channels - config.out_channels
        self.sample_shape = [config.out_channels, config.sample_size, config.sample_size]
        widths, groups = config.block_out_channels, config.norm_num_groups
        time_width = config.time_embedding_dim or 4 * widths[0]
        last = len(widths) - 1

        common: dict[str, Any] = {
            "time_width": time_width, "groups": groups, "eps": config.norm_eps, "dropout": config.dropout,
            "scale_shift": config.resnet_time_scale_shift == "scale_shift",
        }  # fmt: skip

        def attention(channels: int, groups: int | None) -> Attention:
            heads = channels // (config.attention_head_dim or channels)
            return Attention(channels, heads=heads, groups=groups, eps=config.norm_eps)

        def resnets(pairs: list[tuple[int, int]]) -> list[ResBlock]:
            return [ResBlock(channels, out, **common) for channels, out in pairs]

        def attentions(kind: str, channels: int, count: int) -> list[Attention]:
            return [attention(channels, groups) for _ in range(count if kind.startswith("Attn") else 0)]

        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time_width)
        self.down_blocks = nn.ModuleList()
        channels, skips = widths[0], [widths[0]]
        for level, (kind, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
            blocks = resnets([(channels, width)] + [(width, width)] * (config.layers_per_block - 1))
            step = Downsample(width, config.downsample_padding) if level < last else None
            self.down_blocks.append(DownLevel(blocks, attentions(kind, width, len(blocks)), step))
            channels = width
            skips += [width] * (len(blocks) + (level < last))

        plain = config.resnet_time_scale_shift == "default"
        middle = config.attn_norm_num_groups or (groups if plain else None)
        self.mid_block = MidLevel(
            resnets([(channels, channels)] * 2), [attention(channels, middle)] if config.add_attention else []
        )
        self.up_blocks = nn.ModuleList()
        for level, (up_kind, width) in enumerate(zip(config.up_block_types, reversed(widths), strict=True)):
            pairs = []
            for _ in range(config.layers_per_block + 1):
                pairs.append((channels + skips.pop(), width))
                channels = width
            blocks = resnets(pairs)
            step_up = Upsample(width) if level < last else None
            self.up_blocks.append(UpLevel(blocks, attentions(up_kind, width, len(blocks)), step_up))
        self.conv_norm_out = GroupNorm(groups, channels, config.norm_eps)
        self.conv_out = zeroed(nn.Conv2d(channels, config.out_channels, 3, padding=1))

    def condition(
        self, low_res: Annotated[Image, "N in_channels-out_channels sample_size sample_size", Fact(space="pixel")]
    ) -> Annotated[Condition, "N", Fact(model="@self")]:
        """What a network of super-resolution is told: an image in [-1, 1] as large as the sample (Rombach et al. 2022,
        arXiv:2112.10752, section 4.4, where the sample is latents of an image four times as large).

        Returns a UNet2DHint of N rows. Raises PortError where the network takes none, or another shape.
        """
        if not self.hint_channels:
            raise PortError("low_res", "this network takes none", hint="leave it out, or use another network's weights")
        check_tensor("low_res", low_res, (None, self.hint_channels, *self.sample_shape[1:]), self.device)
        return UNet2DHint(low_res)

    def forward(
        self,
        sample: Annotated[Sample, "B out_channels sample_size sample_size", SPACE, SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")] | None = None,
    ) -> Annotated[Prediction, "B out_channels sample_size sample_size"]:
        """Predicts epsilon, or what it was trained to predict, from x_t and t.

        sample: x_t [B, C, H, W] of any floating-point dtype; the prediction has it too. timestep: index of the training
        schedule, 0 or more: a number, or [B]. condition: none; or for a network of super-resolution what its `condition`
        gave, B rows. Raises PortError where one of them has another shape, dtype or device, or the condition is another
        network's, or one is given where none is taken, or the reverse.
        """
        config, weight = self.config, self.conv_in.weight
        check_tensor("sample", sample, (None, *self.sample_shape), weight.device)
        time = timestep_rows("timestep", timestep, sample.shape[0], weight.device)
        waves = sinusoid(
            time, config.block_out_channels[0], cosine_first=config.flip_sin_to_cos, frequency_shift=config.freq_shift
        )
        emb = F.silu(self.time_embedding(waves.to(weight.dtype)))  # B D

        x = sample.to(weight.dtype)
        if (low_res := self._checked(condition, sample.shape[0])) is not None:
            x = torch.cat([x, low_res.to(weight.dtype)], dim=1)  # B in_channels H W
        x = self.conv_in(2 * x - 1 if config.center_input_sample else x)
        skips = [x]
        for level in self.down_blocks:
            x = level(x, emb, skips)
        x = self.mid_block(x, emb)
        for level in self.up_blocks:
            x = level(x, emb, skips)
        x = self.conv_out(silu(self.conv_norm_out(x)))
        return Prediction(x.to(sample.dtype))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.conv_in.weight.device

    def _checked(self, condition: object, rows: int) -> Tensor | None:
        """The low-resolution image of a condition, where this network takes one, with these rows."""
        if not self.hint_channels:
            if condition is not None:
                raise PortError("condition", "this network is unconditional", hint="leave condition out")
            return None
        fix = "wire what this network's `condition` gives"
        if condition is None:
            raise PortError("condition", "this network needs a low-resolution image", hint=fix)
        if not isinstance(condition, UNet2DHint):
            raise PortError("condition", f"is a {type(condition).__name__}, not what `condition` gives", hint=fix)
        if condition.low_res.shape[1:] != (self.hint_channels, *self.sample_shape[1:]):
            raise PortError("condition", "is of another network", hint=fix)
        if condition.low_res.shape[0] != rows:
            found = f"has {condition.low_res.shape[0]} rows, the sample {rows}"
            raise PortError("condition", found, hint="Expand the condition to the rows of the sample")
        return condition.low_res
