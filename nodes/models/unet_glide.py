"""GLIDE's U-Net: text to image, the upsampler, and the inpainting form of both, in OpenAI's layout of keys.

Letters: B N batch, C channels, H W height and width, L tokens or positions, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...authoring import Bound, Component, Fact, Kind
from ...errors import InputError, PortError
from ..kinds import SCALED, Condition, Image, Mask, Prediction, Sample, Timestep, Tokens
from .blocks import GroupNorm, LayerNorm, check_condition, check_tensor, sinusoid, timestep_rows, zeroed
from .text_glide import TextTransformer

GROUPS = 32  # of every GroupNorm
Count = Annotated[int, Bound(ge=1)]
Features = Annotated[Tensor, Kind("Features")]  # numbers that only the network itself can read


@dataclass(frozen=True)
class UNetGLIDEConfig:
    """The shape of a GLIDE network; the defaults are the published base model.

    image_size: height and width of the sample. low_res_size: of the image that an upsampler starts from; None: is none.
    inpaint: also sees a masked image and its mask. in_channels: of the sample. learn_variance: predicts a variance too.
    model_channels, channel_mult, num_res_blocks: width, its factor at each level, residual blocks a level.
    attention_sizes: heights of the feature maps that attend, on the grid that the network sees (after patches).
    num_head_channels: width of a head of image attention. text_context, text_width, text_layers, text_heads,
    vocab_size: of the text transformer. dropout: while training. patch_size: pixels a side folded into channels; 1 is
    the original. prediction_type: what the prediction's value is. aug_level: an upsampler is told how noisy its
    low-resolution image is.
    """

    image_size: Count = 64
    low_res_size: Count | None = None
    inpaint: bool = False
    in_channels: Count = 3
    learn_variance: bool = True
    model_channels: Count = 192
    channel_mult: tuple[Count, ...] = (1, 2, 3, 4)
    num_res_blocks: Count = 3
    attention_sizes: tuple[Count, ...] = (32, 16, 8)
    num_head_channels: Count = 64
    text_context: Count = 128
    text_width: Count = 512
    text_layers: Count = 16
    text_heads: Count = 8
    vocab_size: Count = 50257
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.1
    patch_size: Count = 1
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    aug_level: bool = False

    def __post_init__(self) -> None:
        if not self.channel_mult:
            raise InputError("channel_mult: expected one factor a level, at least one level")
        multiple = self.patch_size * 2 ** (len(self.channel_mult) - 1)
        for name, value, divisor in (
            ("model_channels", self.model_channels, GROUPS),
            ("model_channels", self.model_channels, self.num_head_channels),
            ("text_width", self.text_width, self.text_heads),
            ("image_size", self.image_size, multiple),
        ):
            if value % divisor:
                raise InputError(f"{name}: {value} is not a multiple of {divisor}, as this network needs")
        if self.aug_level and self.low_res_size is None:
            raise InputError("aug_level: only an upsampler has it", hint="set low_res_size")


class GLIDECondition(NamedTuple):
    """What a GLIDE network is told beside x_t and t; a row is a text, or an image and its text.

    keys_values: the text's keys and values for each attention layer, in the network's order, [N, 2, heads, L, D].
    embedding: added to the embedding of time, [N, 4 * model_channels]. hint: channels beside the sample, [N, C, H, W].
    """

    keys_values: list[Features]
    embedding: Features
    hint: Features | None


class ResBlock(nn.Module):
    """Residual block whose second norm is scaled and shifted by time; may halve or double the size of both branches."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        time_width: int,
        dropout: float,
        resize: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.in_layers = nn.Sequential(
            GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[1](self.in_layers[0](x))
        if self.resize == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resize == "up":
            h, x = F.interpolate(h, scale_factor=2.0), F.interpolate(x, scale_factor=2.0)  # nearest
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)  # B C 1 1
        h = self.out_layers[0](h) * (1 + scale) + shift
        out: Tensor = self.skip_connection(x) + self.out_layers[1:](h)
        return out


class AttentionBlock(nn.Module):
    """Every position attends to the text's keys and values, set before those of all positions, in one softmax.

    Rows of `qkv` are [head 0: q, k, v][head 1: ...]; those of `encoder_kv` [head 0: k, v][head 1: ...].
    """

    def __init__(self, channels: int, head_channels: int, text_width: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.encoder_kv = nn.Conv1d(text_width, 2 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def text_keys_values(self, text: Tensor) -> Tensor:
        """The keys and values of a text [N, L, D] -> [N, 2, heads, L, D of a head]."""
        rows = F.linear(text, self.encoder_kv.weight[:, :, 0], self.encoder_kv.bias)
        return rows.view(*text.shape[:2], self.heads, 2, -1).permute(0, 3, 2, 1, 4)

    def forward(self, x: Tensor, keys_values: Tensor) -> Tensor:
        b, c, height, width = x.shape
        flat = self.norm(x).flatten(2).transpose(1, 2)  # B HW C
        qkv = F.linear(flat, self.qkv.weight[:, :, 0], self.qkv.bias)
        q, k, v = qkv.view(b, height * width, self.heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)  # B heads HW D
        text_k, text_v = keys_values.unbind(1)  # B heads L D
        mixed = F.scaled_dot_product_attention(q, torch.cat([text_k, k], dim=2), torch.cat([text_v, v], dim=2))
        mixed = mixed.transpose(1, 2).reshape(b, height * width, c)
        out = F.linear(mixed, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + out.transpose(1, 2).reshape(b, c, height, width)


class Stage(nn.Sequential):
    """Layers in a row, each given what it takes: a residual block the embedding, attention the next keys and values."""

    def forward(self, x: Tensor, emb: Tensor, texts: Iterator[Tensor]) -> Tensor:  # type: ignore[override]
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, AttentionBlock):
                x = layer(x, next(texts))
            else:
                x = layer(x)
        return x


class UNetGLIDE(nn.Module, Component, version=2):
    """Text-conditioned U-Net of GLIDE (Nichol et al. 2021, arXiv:2112.10741, section 3.1 and appendix B).

    One class for four networks: text to image, the upsampler (`low_res_size`), and the inpainting form of each
    (`inpaint`). A network holds its own text transformer; `condition` runs it once, so denoising steps read none.
    """

    Config = UNetGLIDEConfig
    files = ("diffusion_pytorch_model",)
    published = ("UNetGLIDE",)
    attributes: ClassVar = {"sample_shape": "in_channels image_size image_size"}
    facts: ClassVar = {"space": "pixel", "prediction": "$prediction_type", "conditioned": "yes"}
    siblings: ClassVar = {"schedule": "scheduler_config.json:$beta_schedule $beta_start $beta_end $num_train_timesteps"}

    def __init__(self, config: UNetGLIDEConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_shape = [config.in_channels, config.image_size, config.image_size]
        self.hint_channels = (config.low_res_size is not None) * config.in_channels
        self.hint_channels += config.inpaint * (config.in_channels + 1)
        width, time_width, folds = config.model_channels, 4 * config.model_channels, config.patch_size**2

        self.positional_embedding = nn.Parameter(torch.empty(config.text_context, config.text_width).normal_(std=0.02))
        self.padding_embedding = nn.Parameter(torch.empty(config.text_context, config.text_width).normal_(std=0.02))
        self.token_embedding = nn.Embedding(config.vocab_size, config.text_width)
        self.transformer = TextTransformer(config.text_width, config.text_layers, config.text_heads)
        self.final_ln = LayerNorm(config.text_width)
        self.transformer_proj = nn.Linear(config.text_width, time_width)
        self.time_embed = nn.Sequential(nn.Linear(width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        if config.aug_level:
            self.aug_embed = nn.Sequential(nn.Linear(width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))

        def res(channels: int, out_channels: int, resize: Literal["down", "up"] | None = None) -> ResBlock:
            return ResBlock(channels, out_channels, time_width, config.dropout, resize)

        def attention(channels: int, size: int) -> list[nn.Module]:
            attends = size in config.attention_sizes
            return [AttentionBlock(channels, config.num_head_channels, config.text_width)] if attends else []

        levels, last = [width * mult for mult in config.channel_mult], len(config.channel_mult) - 1
        size, channels = config.image_size // config.patch_size, levels[0]
        first = nn.Conv2d((config.in_channels + self.hint_channels) * folds, channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([Stage(first)])
        skips = [channels]
        for level, out_channels in enumerate(levels):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(Stage(res(channels, out_channels), *attention(out_channels, size)))
                channels = out_channels
                skips.append(channels)
            if level < last:
                self.input_blocks.append(Stage(res(channels, channels, "down")))
                skips.append(channels)
                size //= 2
        middle = AttentionBlock(channels, config.num_head_channels, config.text_width)
        self.middle_block = Stage(res(channels, channels), middle, res(channels, channels))
        self.output_blocks = nn.ModuleList()
        for level, out_channels in reversed(list(enumerate(levels))):
            for block in range(config.num_res_blocks + 1):
                layers = [res(channels + skips.pop(), out_channels), *attention(out_channels, size)]
                channels = out_channels
                if level and block == config.num_res_blocks:
                    layers.append(res(channels, channels, "up"))
                    size *= 2
                self.output_blocks.append(Stage(*layers))
        out = config.in_channels * (2 if config.learn_variance else 1) * folds
        self.out = nn.Sequential(GroupNorm(GROUPS, channels), nn.SiLU(), zeroed(nn.Conv2d(channels, out, 3, padding=1)))
        self.attention_count = len(self._attention_blocks())

    def condition(
        self,
        tokens: Annotated[Tokens, "N text_context", Fact(vocabulary="byte-bpe")],
        low_res: Annotated[Image, "N in_channels low_res_size low_res_size", Fact(space="pixel")] | None = None,
        aug_level: Timestep | None = None,
        image: Annotated[Image, "N in_channels image_size image_size", Fact(space="pixel")] | None = None,
        mask: Annotated[Mask, "N 1 image_size image_size"] | None = None,
    ) -> Annotated[Condition, "N", Fact(model="@self")]:
        """All that stays the same while denoising: what the text says to each attention layer (section 3.1).

        tokens: padded ids; an empty text is all padding. low_res: for an upsampler, in [-1, 1], enlarged here.
        aug_level: where the config has it, the training index of the noise that low_res carries: a number, or [N].
        image, mask: for an inpainting network, the source in [-1, 1] and where it is repainted, 1 (the published
        networks were trained with 1 for what is kept, and are given that).
        Returns a GLIDECondition of N rows. Raises PortError where an input is missing, not taken here, or misshapen.
        """
        config, device = self.config, self.device
        ids, known = self._checked_tokens(tokens)
        rows = ids.shape[0]
        for port, value, taken in (
            ("low_res", low_res, config.low_res_size is not None),
            ("aug_level", aug_level, config.aug_level),
            ("image", image, config.inpaint),
            ("mask", mask, config.inpaint),
        ):
            if taken and value is None:
                raise PortError(port, "this network needs it", hint=f"wire {port}, or use another network's weights")
            if not taken and value is not None:
                raise PortError(port, "this network takes none", hint="leave it out, or use another network's weights")

        x = self.token_embedding(ids) + self.positional_embedding  # N L D
        x = torch.where(known[:, :, None], x, self.padding_embedding)
        x = self.final_ln(self.transformer(x))
        keys_values = [block.text_keys_values(x) for block in self._attention_blocks()]
        embedding = self.transformer_proj(x[:, -1])  # N 4*C
        if aug_level is not None:
            level = timestep_rows("aug_level", aug_level, rows, device)
            embedding = embedding + self.aug_embed(self._waves(level))

        for port, given in (("low_res", low_res), ("image", image), ("mask", mask)):
            if isinstance(given, Tensor) and given.ndim == 4 and given.shape[0] != rows:
                fix = "Expand the tokens to the rows of the images"
                raise PortError(port, f"has {given.shape[0]} rows, the tokens {rows}", hint=fix)
        hint: list[Tensor] = []
        if image is not None and mask is not None:
            check_tensor("image", image, (rows, *self.sample_shape), device)
            check_tensor("mask", mask, (rows, 1, *self.sample_shape[1:]), device)
            if not bool(((mask >= 0) & (mask <= 1)).all()):
                raise PortError("mask", "has values outside [0, 1]", hint="1 is repainted, 0 is kept")
            hint += [image * (1 - mask), 1 - mask]
        if low_res is not None:
            check_tensor("low_res", low_res, (rows, config.in_channels, *[config.low_res_size] * 2), device)
            hint.append(F.interpolate(low_res, self.sample_shape[1:], mode="bilinear", align_corners=False))
        beside = torch.cat([part.to(embedding.dtype) for part in hint], dim=1) if hint else None  # N C H W
        return GLIDECondition(keys_values, embedding, beside)

    def forward(
        self,
        sample: Annotated[Sample, "B in_channels image_size image_size", Fact(space="pixel"), SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")],
    ) -> Annotated[Prediction, "B in_channels image_size image_size"]:
        """Predicts epsilon (or what `prediction_type` says) and, where it is learned, the variance, from x_t and t.

        sample: x_t [B, C, H, W] of any floating-point dtype; the prediction has it too. timestep: index of the training
        schedule, not of the respaced one; a number, or [B]. condition: what this network's `condition` gave, B rows.
        Raises PortError where one of them has another shape, dtype or device, or the condition is another network's.
        """
        config = self.config
        check_tensor("sample", sample, (None, *self.sample_shape), self.device)
        told = self._checked_condition(condition, sample.shape[0])
        time = timestep_rows("timestep", timestep, sample.shape[0], self.device)
        emb = self.time_embed(self._waves(time)) + told.embedding  # B 4*C

        x = sample.to(emb.dtype)
        if told.hint is not None:
            x = torch.cat([x, told.hint], dim=1)
        x = F.pixel_unshuffle(x, config.patch_size) if config.patch_size > 1 else x
        texts, skips = iter(told.keys_values), []
        for stage in self.input_blocks:
            x = stage(x, emb, texts)
            skips.append(x)
        x = self.middle_block(x, emb, texts)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb, texts)
        x = self.out(x)
        x = F.pixel_shuffle(x, config.patch_size) if config.patch_size > 1 else x
        value, *variance = x.to(sample.dtype).split(config.in_channels, dim=1)
        return Prediction(value, *variance)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.token_embedding.weight.device

    def _waves(self, timestep: Tensor) -> Tensor:
        """Time [B] as waves [B, C], cosines first, in the dtype of the network."""
        waves = sinusoid(timestep, self.config.model_channels, cosine_first=True, frequency_shift=0)
        return waves.to(self.token_embedding.weight.dtype)

    def _attention_blocks(self) -> list[AttentionBlock]:
        """The attention layers, in the order in which `forward` comes to them."""
        return [module for module in self.modules() if isinstance(module, AttentionBlock)]

    def _checked_tokens(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The ids and the mask of tokens that fit the text transformer."""
        length, vocabulary = self.config.text_context, self.config.vocab_size
        ids, mask = tokens.ids, tokens.mask
        if ids.ndim != 2 or ids.shape[1] != length or mask.shape != ids.shape:
            raise PortError(
                "tokens",
                f"ids {list(ids.shape)} and mask {list(mask.shape)}; this network takes [N, {length}] for both",
                hint=f"use the tokenizer of this network, of length {length}",
            )
        if ids.dtype != torch.int64 or mask.dtype != torch.bool:
            raise PortError("tokens", f"ids are {ids.dtype} and mask {mask.dtype}; expected torch.int64 and torch.bool")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            raise PortError("tokens", f"ids run to {int(ids.max())}; this network knows 0 to {vocabulary - 1}")
        return ids.to(self.device), mask.to(self.device)

    def _checked_condition(self, condition: object, rows: int) -> GLIDECondition:
        """The condition, if it is of this network and has these rows."""
        if not isinstance(condition, GLIDECondition):
            raise PortError("condition", f"is a {type(condition).__name__}, not what this network's `condition` gives")
        channels = 0 if condition.hint is None else condition.hint.shape[1]
        found = (len(condition.keys_values), condition.embedding.shape[1], channels)
        if found != (self.attention_count, 4 * self.config.model_channels, self.hint_channels):
            raise PortError("condition", "is of another network", hint="wire what this network's `condition` gives")
        if condition.embedding.shape[0] != rows:
            raise PortError(
                "condition",
                f"has {condition.embedding.shape[0]} rows, the sample {rows}",
                hint="Expand the condition to the rows of the sample",
            )
        check_condition((*condition.keys_values, condition.embedding, condition.hint), self.padding_embedding)
        return condition
