"""What the autoencoders share: encoder and decoder (Esser, Rombach, Ommer 2021, arXiv:2012.09841, appendix A), in the
published layout of the Hub's `vae/` and `vqvae/` folders, and the names that taming and latent-diffusion gave the same.

Letters: B batch, C channels, H W height and width of the latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...authoring import Bound, Component
from ...errors import InputError, PortError
from .blocks import GroupNorm, check_tensor
from .resnet import Attention, Downsample, Level, ResBlock, Upsample, silu

Count = Annotated[int, Bound(ge=1)]
EncoderBlockType = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
DecoderBlockType = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]
EPS = 1e-6  # of every group norm


@dataclass(frozen=True)
class AutoencoderConfig:
    """The part of the published configs that all autoencoders have; the defaults are what a key left out means.

    in_channels, out_channels: of images, before and after. down_block_types, up_block_types: levels with attention or
    without, in the order in which they are passed. block_out_channels: widths, one a level; each level but one halves
    the size. layers_per_block: residual blocks a level of the encoder; the decoder has one more. latent_channels: of
    the latents. norm_num_groups: of the group norms. scaling_factor: what latents are multiplied by, for a variance
    near one. force_upcast: weights in fp16 compute in fp32, because activations may exceed what fp16 can hold.
    mid_block_add_attention: the lowest level attends.
    """

    in_channels: Count = 3
    out_channels: Count = 3
    down_block_types: tuple[EncoderBlockType, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[DecoderBlockType, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[Count, ...] = (64,)
    layers_per_block: Count = 1
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: Count = 4
    norm_num_groups: Count = 32
    scaling_factor: Annotated[float, Bound(gt=0)] = 0.18215
    force_upcast: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if not levels == len(self.down_block_types) == len(self.up_block_types):
            raise InputError(
                f"block_out_channels, down_block_types and up_block_types: {levels}, {len(self.down_block_types)} and "
                f"{len(self.up_block_types)} levels; expected as many in each"
            )
        if not levels:
            raise InputError("block_out_channels: expected widths of at least one level")
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise InputError(
                    f"block_out_channels: {width} is not a multiple of norm_num_groups, {self.norm_num_groups}"
                )


class CoderLevel(Level):
    """Residual blocks of one size, attention after each where there is any, then the step to the next size."""

    def __init__(
        self, config: AutoencoderConfig, kind: str, channels: int, width: int, count: int, step: nn.Module | None = None
    ) -> None:
        attends = kind.startswith("Attn")
        super().__init__(
            [_block(config, width if number else channels, width) for number in range(count)],
            [_attention(config, width) for _ in range(count if attends else 0)],
        )
        self.downsamplers = nn.ModuleList([step] if isinstance(step, Downsample) else [])
        self.upsamplers = nn.ModuleList([step] if isinstance(step, Upsample) else [])

    def forward(self, x: Tensor) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, x)
        for step in (*self.downsamplers, *self.upsamplers):
            x = step(x)
        return x


class MidLevel(Level):
    """The lowest level: block, attention, block."""

    def __init__(self, config: AutoencoderConfig) -> None:
        width = config.block_out_channels[-1]
        attends = config.mid_block_add_attention
        super().__init__(
            [_block(config, width, width) for _ in range(2)], [_attention(config, width)] if attends else []
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(1, self.layer(0, x))


def _block(config: AutoencoderConfig, channels: int, width: int) -> ResBlock:
    return ResBlock(channels, width, time_width=None, groups=config.norm_num_groups, eps=EPS)


def _attention(config: AutoencoderConfig, width: int) -> Attention:
    return Attention(width, groups=config.norm_num_groups, eps=EPS)  # one head


class Encoder(nn.Module):
    """Images [B, in_channels, factor*H, factor*W] -> features [B, out_channels, H, W]."""

    def __init__(self, config: AutoencoderConfig, out_channels: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        channels = widths[0]
        for number, (kind, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
            step = Downsample(width, padding=0) if number < len(widths) - 1 else None
            self.down_blocks.append(CoderLevel(config, kind, channels, width, config.layers_per_block, step))
            channels = width
        self.mid_block = MidLevel(config)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels, EPS)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        x = self.mid_block(x)
        out: Tensor = self.conv_out(silu(self.conv_norm_out(x)))
        return out


class Decoder(nn.Module):
    """Latents [B, latent_channels, H, W] -> images [B, out_channels, factor*H, factor*W]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidLevel(config)
        self.up_blocks = nn.ModuleList()
        channels = widths[0]
        for number, (kind, width) in enumerate(zip(config.up_block_types, widths, strict=True)):
            step = Upsample(width) if number < len(widths) - 1 else None
            self.up_blocks.append(CoderLevel(config, kind, channels, width, config.layers_per_block + 1, step))
            channels = width
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels, EPS)
        self.conv_out = nn.Conv2d(channels, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        out: Tensor = self.conv_out(silu(self.conv_norm_out(x)))
        return out


class Autoencoder(nn.Module, Component):
    """What the autoencoders have in common. `factor`: how much smaller latents are than images, in height and width."""

    files = ("diffusion_pytorch_model",)
    attributes: ClassVar = {"factor": "2**#block_out_channels/2"}
    keys = (
        (r"^first_stage_model\.", ""),  # in the checkpoint of a whole system
        (r"^(loss|model_ema)\..*", ""),  # of the training: the discriminator, running means
        (r"^encoder\.down\.", "encoder.down_blocks."),
        (r"^decoder\.up\.(\d{1,2})\.", r"decoder.up_blocks.{last-\1}."),  # the original counts from the largest
        (r"\.block\.(\d+)\.", r".resnets.\1."),
        (r"\.attn\.", ".attentions."),
        (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
        (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
        (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
        (r"\.(down|up)sample\.", r".\1samplers.0."),
        (r"\.nin_shortcut\.", ".conv_shortcut."),
        (r"coder\.norm_out\.", "coder.conv_norm_out."),
        (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
        (r"(\.attentions\.\d+)\.(q|query)\.", r"\1.to_q."),
        (r"(\.attentions\.\d+)\.(k|key)\.", r"\1.to_k."),
        (r"(\.attentions\.\d+)\.(v|value)\.", r"\1.to_v."),
        (r"(\.attentions\.\d+)\.(proj_out|proj_attn)\.", r"\1.to_out.0."),
    )

    ignored = frozenset({"sample_size"})  # the size of tiles, where the library decodes in tiles

    def __init__(self, config: Any, encoded_channels: int) -> None:
        super().__init__()
        self.config = config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.encoder = Encoder(config, encoded_channels)
        self.decoder = Decoder(config)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.encoder.conv_in.weight.device

    def _run(self, part: nn.Module, x: Tensor) -> Tensor:
        """What a part makes of x, in the dtype of the weights, or in fp32 where that is fp16 and may overflow."""
        dtype = self.encoder.conv_in.weight.dtype
        if dtype == torch.float16 and self.config.force_upcast:
            wide = {name: value.float() for name, value in part.named_parameters()}
            out: Tensor = functional_call(part, wide, x.float())
        else:
            out = part(x.to(dtype))
        return out

    def _check_image(self, image: Tensor) -> None:
        check_tensor("image", image, (None, self.config.in_channels, None, None), self.device)
        height, width = image.shape[2:]
        if not height or not width or height % self.factor or width % self.factor:
            raise PortError(
                "image",
                f"is {height} by {width}; height and width must be multiples of {self.factor}",
                hint="resize or crop it",
            )

    def _check_latents(self, latents: Tensor) -> None:
        check_tensor("latents", latents, (None, self.config.latent_channels, None, None), self.device)
